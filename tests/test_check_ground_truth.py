"""Numbers of runs that others published, found again by both ways of counting that we have.

The counts are those of complete executions under sequential consistency. An execution of theirs
is a Mazurkiewicz trace of ours: who reads from whom, and the order of writes to each variable.
fib_bench is published for 5 alone; from 1 to 4 our two engines vouch for each other.

DPOR runs every trace exactly once, in all of these programs. That it also gives up no run half
way (``blocked``) is true of all but lastzero, whose reader looks at what it had not looked at.
"""

import os
from collections.abc import Callable

import pytest
from tests import check_programs as programs
from tests.check_programs import indexer, indexer_of, lastzero, limits

from memreap.check import dpor, oracle
from memreap.check.model import Model
from memreap.check.search import explore

ALL = "MEMREAP_CHECK_ALL" in os.environ  # half a minute more

TRACES: dict[Callable[[int], Model], dict[int, int]] = {
    programs.readers: {2: 4, 8: 256, 13: 8192},
    programs.lastzero: {5: 64, 10: 3328},
    programs.ainc: {2: 2, 3: 6, 4: 24, 5: 120, 6: 720, 7: 5040},
    programs.binc: {2: 4, 3: 36, 4: 576},
    programs.cinc: {2: 8, 3: 216, 4: 13824},
    programs.rw: {2: 4, 3: 36, 4: 576},
    programs.casrot: {2: 2, 3: 5, 4: 14, 5: 43, 6: 144, 7: 523, 8: 2048, 9: 8597},
    programs.casw: {2: 6, 3: 66, 4: 1200, 5: 32880},
    programs.wcas: {2: 5, 3: 13, 4: 33, 5: 81, 6: 193, 7: 449, 8: 1025, 9: 2305},
    programs.fib_bench: {1: 11, 2: 140, 3: 1698},
}
EACH = [(program, n) for program, counts in TRACES.items() for n in counts]
IDS = [f"{program.__name__}({n})" for program, n in EACH]


@pytest.mark.parametrize(("program", "n"), EACH, ids=IDS)
def test_the_oracle_counts_what_was_published(program: Callable[[int], Model], n: int) -> None:
    counted = oracle.count(program(n), limits)
    assert (counted.complete, counted.deadlocked) == (TRACES[program][n], 0)


@pytest.mark.parametrize(("program", "n"), EACH, ids=IDS)
def test_dpor_runs_each_of_them_once(program: Callable[[int], Model], n: int) -> None:
    found = dpor.runs(program(n))
    assert (found.complete, found.deadlocked) == (TRACES[program][n], 0)
    assert (found.blocked > 0) == (program is lastzero)


SMALL = [(program, n) for program, n in EACH if TRACES[program][n] <= 300]


@pytest.mark.parametrize(
    ("program", "n"), SMALL, ids=[f"{program.__name__}({n})" for program, n in SMALL]
)
def test_limits_change_no_count(program: Callable[[int], Model], n: int) -> None:
    plain, limited = oracle.count(program(n)), oracle.count(program(n), limits)
    assert plain.complete == limited.complete == TRACES[program][n]


def test_indexer() -> None:
    """Too wide for the oracle as a whole: only the threads that collide count."""
    assert dpor.runs(indexer(11)).complete == 1
    assert dpor.runs(indexer(12)).complete == 8
    assert oracle.count(indexer_of((0, 11))).complete == 8
    pairs = [(tid, tid + 11) for tid in range(4)]
    assert [oracle.count(indexer_of(pair)).complete for pair in pairs] == [8, 8, 8, 8]
    assert dpor.runs(indexer_of([0, 1, 11, 12])).complete == 8 * 8
    assert oracle.count(indexer_of([0, 1, 11, 12])).complete == 8 * 8


@pytest.mark.skipif(not ALL, reason="MEMREAP_CHECK_ALL is not set")
def test_the_larger_ones() -> None:
    assert dpor.runs(indexer(15)).complete == 4096
    assert dpor.runs(programs.fib_bench(4)).complete == 19605
    assert oracle.count(programs.fib_bench(4), limits).complete == 19605
    assert oracle.count(programs.fib_bench(5), limits).complete == 218243


def test_the_search_ends_where_dpor_ends() -> None:
    for program, n in SMALL:
        model = program(n)
        memories: set[tuple[object, ...]] = set()
        dpor.runs(model, each=lambda run, seen=memories: seen.add(run.memory))  # type: ignore[misc]
        found = explore(model)
        assert {found.space.memory(state) for state in found.dead_ends} == memories
