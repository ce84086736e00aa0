"""How long may be slept, and how long may be waited."""

from hypothesis import given
from hypothesis import strategies as st

from memreap.decide import pace
from memreap.decide.pace import interval_s
from memreap.decide.patience import STEP_BYTES, Patience

BYTES = st.integers(0, 1 << 42)
MB = 1_000_000


@given(BYTES, BYTES, st.floats(-1e12, 1e12))
def test_bounds(usage: int, limit: int, growth: float) -> None:
    assert pace.FLOOR_S <= interval_s(usage, limit, growth) <= pace.CEILING_S


@given(BYTES, BYTES, st.floats(-1e12, 1e12))
def test_the_fastest_hog_is_seen_before_twice_the_budget(
    usage: int, limit: int, growth: float
) -> None:
    interval = interval_s(usage, limit, growth)
    reached = usage + (interval + pace.REACTION_S) * pace.FASTEST_BYTES_PER_S
    # Below some 130 MB the floor and our own reaction are longer than a hog needs.
    assert reached <= 2 * limit + 1 or interval == pace.FLOOR_S


@given(BYTES, BYTES, st.floats(0, 1e12), st.floats(0, 1e12))
def test_more_growth_is_never_looked_at_later(usage: int, limit: int, a: float, b: float) -> None:
    slow, fast = sorted((a, b))
    assert interval_s(usage, limit, fast) <= interval_s(usage, limit, slow)


@given(BYTES, BYTES, BYTES)
def test_more_headroom_is_looked_at_less_often(a: int, b: int, limit: int) -> None:
    low, high = sorted((a, b))
    assert interval_s(high, limit) <= interval_s(low, limit)


def test_a_quiet_tree_is_looked_at_rarely() -> None:
    assert 1 / interval_s(5 * MB, 300 * MB) < 20
    assert 1 / interval_s(5 * MB, 1000 * MB) < 5
    assert interval_s(5 * MB, 32_000 * MB) == 1.0


@given(st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 50 * STEP_BYTES)), max_size=50))
def test_patience_ends_unless_new_lows_are_reached(steps: list[tuple[float, int]]) -> None:
    now_s, lows, patience = 0.0, 0, Patience(0.0, 50 * STEP_BYTES)
    for wait_s, usage in steps:
        now_s += wait_s
        after = patience.observe(now_s, usage, None)
        lows += after != patience
        assert after.usage_bytes <= patience.usage_bytes
        patience = after
    assert lows <= 50


def test_either_figure_is_progress() -> None:
    patience = Patience(0.0, 100 * STEP_BYTES)
    patience = patience.observe(1.0, 200 * STEP_BYTES, 40 * STEP_BYTES)
    assert patience == Patience(0.0, 100 * STEP_BYTES, 40 * STEP_BYTES)
    patience = patience.observe(2.0, 300 * STEP_BYTES, 30 * STEP_BYTES)
    assert patience == Patience(2.0, 100 * STEP_BYTES, 30 * STEP_BYTES)
    assert patience.observe(3.0, 300 * STEP_BYTES, 30 * STEP_BYTES - 1) == patience
    assert patience.ends_s(2.0) == 4.0
