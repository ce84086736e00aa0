"""What is said to be left is never more than what is left, by the kernel's own arithmetic."""

from dataclasses import replace

from hypothesis import assume, example, given
from hypothesis import strategies as st

from memreap.linux.procfs import Memory
from memreap.reap.facts import Facts
from memreap.reap.release import Evidence, left_bytes, reaped_bytes, releasable_bytes, witnessed

PAGE = 4096
GIB_PAGES = (1 << 30) // PAGE
PAGES = st.integers(0, 64 * GIB_PAGES)
MEMORY = st.builds(
    lambda anon, file, shmem, swap, tables: Memory(
        anon * PAGE, file * PAGE, shmem * PAGE, swap * PAGE, tables * PAGE
    ),
    PAGES,
    PAGES,
    PAGES,
    PAGES,
    st.integers(0, GIB_PAGES),
)
ADJ = st.integers(-999, 1000)
TOTAL_PAGES = st.integers(GIB_PAGES // 4, 1024 * GIB_PAGES)


def divide(dividend: int, divisor: int) -> int:
    """As C does: towards zero."""
    return abs(dividend) // divisor * (1 if dividend >= 0 else -1)


def oom_score(memory: Memory, adj: int, total_pages: int) -> int:
    """oom_badness() and proc_oom_score(): mm/oom_kill.c, fs/proc/base.c."""
    badness = (memory.rss_bytes + memory.swap_bytes) // PAGE + memory.page_table_bytes // PAGE
    badness += adj * (total_pages // 1000)
    return divide((1000 + divide(badness * 1000, total_pages)) * 2, 3)


def facts(memory: Memory, adj: int) -> Facts:
    return Facts(100, 5, "x", "S", 1, False, (100,), "S", 0, adj, memory, None)


def part(whole: int, share: float) -> int:
    return int(whole // PAGE * share) * PAGE


SHARE = st.floats(0, 1)


@given(MEMORY, ADJ, TOTAL_PAGES, st.tuples(SHARE, SHARE, SHARE, SHARE, SHARE))
@example(Memory(swap_bytes=PAGE), -428, 65536, (0.0, 0.0, 0.0, 0.0, 0.0))
def test_never_more_than_is_there(
    before: Memory, adj: int, total_pages: int, shares: tuple[float, ...]
) -> None:
    anon, file, shmem, swap, tables = shares
    after = Memory(
        part(before.rss_anon_bytes, anon),
        part(before.rss_file_bytes, file),
        part(before.rss_shmem_bytes, shmem),
        part(before.swap_bytes, swap),
        part(before.page_table_bytes, tables),
    )
    score = oom_score(after, adj, total_pages)
    left = left_bytes(facts(before, adj), score, total_pages * PAGE)
    assert 0 <= left <= releasable_bytes(after)


@given(MEMORY, ADJ, TOTAL_PAGES)
def test_what_is_left_whole_is_seen_but_for_what_the_score_cannot_show(
    memory: Memory, adj: int, total_pages: int
) -> None:
    score = oom_score(memory, adj, total_pages)
    assume(score > 0)
    left = left_bytes(facts(memory, adj), score, total_pages * PAGE)
    step_bytes = total_pages * PAGE * 3 / 2000
    assert left >= releasable_bytes(memory) - 4 * step_bytes


@given(MEMORY, ADJ, TOTAL_PAGES, st.sampled_from([None, 0]))
def test_a_score_that_says_nothing_leaves_nothing(
    memory: Memory, adj: int, total_pages: int, score: int | None
) -> None:
    known = facts(memory, adj)
    assert left_bytes(known, score, total_pages * PAGE) == 0
    evidence = Evidence(0, 1, 1.0, score, None)
    assert reaped_bytes(known, evidence, total_pages * PAGE) == releasable_bytes(memory)


@given(MEMORY, ADJ, TOTAL_PAGES, st.integers(0, 3000))
def test_released_and_left_are_the_whole(
    memory: Memory, adj: int, total_pages: int, score: int
) -> None:
    known, total_bytes = facts(memory, adj), total_pages * PAGE
    left = left_bytes(known, score, total_bytes)
    released = reaped_bytes(known, Evidence(0, 1, 1.0, score, None), total_bytes)
    assert released + left == releasable_bytes(memory)
    assert min(released, left) >= 0


@given(MEMORY, st.integers(-(1 << 40), 1 << 40))
def test_witnessed_by_nearly_all_of_it(memory: Memory, fell_bytes: int) -> None:
    whole = releasable_bytes(memory)
    assert witnessed(memory, None) is False
    assert witnessed(memory, whole)
    assert witnessed(memory, fell_bytes) is (fell_bytes >= 0.95 * whole)
    more_shared = replace(memory, rss_shmem_bytes=1 << 50)
    assert witnessed(more_shared, fell_bytes) is witnessed(memory, fell_bytes)


def test_only_a_zero_is_a_reap() -> None:
    assert [Evidence(code, 1, 1.0, None, None).reaped for code in (0, 3, 22)] == [
        True,
        False,
        False,
    ]
