"""What many trials say: medians, rates, their intervals, and the frontier. Pure functions."""

from dataclasses import replace
from math import exp, inf
from random import Random
from statistics import median as median_of

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memreap.simulate import frontier
from memreap.simulate.frontier import Time, median, rate, rows, share
from memreap.simulate.strategies import CLAIRVOYANT
from memreap.simulate.trial import Job, NodeResult, Result, run
from memreap.simulate.world import HORIZON_S

times = st.floats(0.001, 60.0)
points = st.lists(
    st.none() | st.tuples(times, st.integers(0, 20).map(lambda n: n / 4)), min_size=1, max_size=20
)


def result(relief_s: float | None, needless: int = 0, **changes: object) -> Result:
    made = Result(
        scenario="made",
        strategy="kernel",
        seed=0,
        relief_s=relief_s,
        needless=needless,
        needless_strict=0,
        needless_lenient=0,
        kills=needless + 1,
        stalled_s=1.0 if relief_s != 0 else 0.0,
        events=1,
        trace="",
        victims=("hog",),
        nodes=(NodeResult("node0", relief_s, 1.0, needless + 1, needless),),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


# The median.


@given(st.lists(times, min_size=1, max_size=60))
def test_the_median_is_the_median_and_lies_in_its_interval(values: list[float]) -> None:
    told = median(values)
    assert told.median_s == pytest.approx(median_of(values))
    if len(values) < 6:
        assert told.low_s is told.high_s is None
        return
    assert told.low_s is not None
    assert told.high_s is not None
    assert told.median_s is not None
    assert min(values) <= told.low_s <= told.median_s <= told.high_s <= max(values)


@given(st.lists(times | st.just(inf), min_size=1, max_size=40), st.randoms())
def test_the_order_does_not_matter(values: list[float], source: Random) -> None:
    shuffled = values[:]
    source.shuffle(shuffled)
    assert median(shuffled) == median(values)


def test_relief_that_never_came_is_later_than_any() -> None:
    assert median([1.0, 2.0, inf]) == Time(2.0, None, None)
    assert median([1.0, inf, inf]) == Time(None, None, None)
    assert median([1.0, inf]).median_s is None
    many = median([1.0] * 8 + [inf] * 6)
    assert (many.median_s, many.low_s, many.high_s) == (1.0, 1.0, None)


@pytest.mark.parametrize(("count", "left_out"), [(6, 0), (10, 1), (20, 5), (100, 39), (2000, 955)])
def test_the_ranks_are_those_of_the_tables(count: int, left_out: int) -> None:
    """Conover, Practical Nonparametric Statistics, table A3: for 100, the 40th and the 61st."""
    told = median([float(n) for n in range(count)])
    assert (told.low_s, told.high_s) == (left_out, count - 1 - left_out)


# Rates.


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80))
def test_a_rate_lies_in_its_interval(counts: list[int]) -> None:
    told = rate(counts)
    assert told is not None
    assert told.mean == pytest.approx(sum(counts) / len(counts))
    assert 0 <= told.low <= told.mean * (1 + 1e-9)
    assert told.high > told.mean


@given(st.lists(st.integers(0, 9), min_size=2, max_size=20))
def test_more_incidents_tell_more(counts: list[int]) -> None:
    few, many = rate(counts), rate(counts * 10)
    assert few is not None
    assert many is not None
    assert many.high - many.low < few.high - few.low


def test_none_of_a_hundred_is_not_never() -> None:
    told = rate([0] * 100)
    assert told is not None
    assert (told.mean, told.low) == (0, 0)
    assert 0.03 < told.high < 0.05  # the rule of three: 3.7 of 100


def poisson(source: Random, mean: float) -> int:
    count, left = 0, source.random()
    term = exp(-mean)
    while left > term:
        left -= term
        count += 1
        term *= mean / count
    return count


@pytest.mark.parametrize("mean", [0.02, 0.2, 1.0, 4.0])
@pytest.mark.parametrize("times_each", [1, 3])
def test_the_interval_of_a_rate_covers_the_truth(mean: float, times_each: int) -> None:
    """Poisson's counts, and counts that come in threes: 95 % or not much less."""
    source = Random(1)
    covered = 0
    for _ in range(500):
        told = rate([times_each * poisson(source, mean) for _ in range(100)])
        assert told is not None
        covered += told.low <= times_each * mean <= told.high
    least = 0.80 if times_each > 1 and mean < 0.1 else 0.92  # two events of three in a hundred
    assert covered / 500 >= least


@given(st.integers(0, 200), st.integers(1, 200))
def test_a_share_is_a_share(part: int, whole: int) -> None:
    told = share(min(part, whole), whole)
    assert told is not None
    assert 0 <= told.low <= told.mean <= told.high <= 1
    assert told.low < told.high


def test_of_nothing_there_is_nothing() -> None:
    assert (rate([]), share(0, 0), median([])) == (None, None, Time(None, None, None))


# The frontier.


@given(points)
def test_the_frontier_is_unbeaten_and_beats_the_rest(
    given_: list[tuple[float, float] | None],
) -> None:
    best = frontier.frontier(given_)
    there = [number for number, one in enumerate(given_) if one is not None]
    assert best <= set(there)
    assert bool(best) == bool(there)
    for number in there:
        beaten = any(beats(given_[other], given_[number]) for other in there)
        assert beaten != (number in best)


def beats(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    assert one is not None
    assert other is not None
    sooner, as_soon = (one[0] < other[0] * 0.99, one[0] <= other[0] * 1.01)
    fewer, as_few = (one[1] < other[1] * 0.99, one[1] <= other[1] * 1.01)
    return (as_soon and fewer) or (sooner and as_few)


@given(points, st.randoms())
def test_the_frontier_hangs_on_no_order(
    given_: list[tuple[float, float] | None], source: Random
) -> None:
    order = list(range(len(given_)))
    source.shuffle(order)
    shuffled = frontier.frontier([given_[number] for number in order])
    assert {order[number] for number in shuffled} == frontier.frontier(given_)


def test_sooner_by_less_than_a_hundredth_is_not_sooner() -> None:
    assert frontier.frontier([(1.0, 0.0), (1.005, 0.0), (1.02, 0.0)]) == {0, 1}
    assert frontier.frontier([(1.0, 0.5), (1.005, 0.0)]) == {1}
    assert frontier.frontier([(1.0, 0.500), (1.0, 0.499)]) == {0, 1}


# Rows.


def test_trials_without_an_incident_are_left_out_and_counted() -> None:
    told = rows([result(0.0), result(2.0, 1), result(4.0, 2)])
    assert [(one.trials, one.incidents, one.relief.median_s) for one in told] == [(3, 2, 3.0)]
    assert told[0].needless is not None
    assert told[0].needless.mean == 1.5


def test_a_row_of_nothing_but_quiet_trials_is_on_no_frontier() -> None:
    (told,) = rows([result(0.0)])
    assert (told.incidents, told.needless, told.relief_mean_s, told.on_frontier) == (
        0,
        None,
        None,
        False,
    )


def test_no_relief_counts_as_the_horizon_in_the_mean() -> None:
    (told,) = rows([result(None), result(2.0)])
    assert told.relief_mean_s == (HORIZON_S + 2.0) / 2
    assert told.unrelieved is not None
    assert told.unrelieved.mean == 0.5


def test_the_bound_is_on_no_frontier_and_beats_nobody() -> None:
    told = rows([result(0.1, strategy=CLAIRVOYANT), result(5.0, 3)])
    assert [one.on_frontier for one in told] == [False, True]


def test_who_brings_no_relief_is_on_no_frontier() -> None:
    told = rows([result(None, 0, strategy="gate-retry"), result(5.0, 3)])
    assert [one.on_frontier for one in told] == [False, True]


@settings(max_examples=30)
@given(st.permutations(range(8)))
def test_rows_hang_on_no_order_of_seeds(order: list[int]) -> None:
    made = [result(0.5 * n or None, n % 3, seed=n) for n in range(8)]
    assert rows([made[n] for n in order])[0] == rows(made)[0]


def test_together_each_incident_counts_alike() -> None:
    made = [result(0.1, 1), result(None, 0, scenario="other"), result(0.0, scenario="quiet")]
    made += [result(1.0, 0, strategy="guard-2"), result(1.0, 1, strategy="guard-2", scenario="x")]
    kernel, guard = frontier.together(made)
    assert (kernel.scenario, kernel.trials, kernel.incidents) == ("4 scenarios together", 3, 2)
    assert kernel.relief_mean_s == (0.1 + HORIZON_S) / 2
    assert guard.relief_mean_s == 1.0
    assert [kernel.on_frontier, guard.on_frontier] == [False, True]


def test_nodes_are_told_where_there_are_several() -> None:
    made = [run(Job("two-nodes", "guard-2", seed)) for seed in range(6)]
    (told,) = rows(made)
    assert [one.node for one in told.nodes] == ["node0", "node1", frontier.FIRST]
    first = told.nodes[-1].relief.median_s
    assert first is not None
    assert told.relief.median_s is not None
    assert first < told.relief.median_s
    assert all(one.incidents for one in told.nodes)
    assert rows([run(Job("two-hogs", "guard-2", 0))])[0].nodes == ()
