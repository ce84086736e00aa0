"""The engines against each other, on random programs that block, fail, toss coins and deadlock.

Breadth-first search and DPOR share the tasks' automata; the naive enumeration shares nothing with
either but the operations. MEMREAP_CHECK_PROGRAMS says how many programs (3,000).
"""

import os
from dataclasses import dataclass
from math import factorial, prod
from random import Random
from typing import Any

import pytest
from tests import check_random as rnd
from tests.check_random import Instruction, random_model

from memreap.check import dpor, oracle
from memreap.check.attempts import CyclicModelError
from memreap.check.dpor import ALL, Mend, Run
from memreap.check.model import Kind, Model
from memreap.check.operation import BOOL, Memory, Steps, Var, become, choose, operation
from memreap.check.search import Exploration, explore
from memreap.check.space import Space

PROGRAMS = int(os.environ.get("MEMREAP_CHECK_PROGRAMS", "3000"))
BLOCKS = 6
End = tuple[tuple[Any, ...], tuple[int, ...]]  # the memory, and who is left waiting


def ends(found: Exploration) -> set[End]:
    return {(found.space.memory(state), waiting(found.space, state)) for state in found.dead_ends}


def waiting(space: Space, state: int) -> tuple[int, ...]:
    """Without symmetry: the tasks that have not ended."""
    return tuple(
        component.members[0]
        for component in space.components
        if component.automaton.operations[component.at(state)[0]]
    )


@dataclass
class Told:
    """What DPOR says of a model, and every run that it made."""

    found: dpor.Found
    runs: list[Run]

    @property
    def ends(self) -> set[End]:
        return {(run.memory, run.waiting) for run in self.runs}


def by_dpor(model: Model, mend: Mend = ALL) -> Told:
    told: list[Run] = []
    return Told(dpor.runs(model, each=told.append, _mend=mend), told)


def disagreement(model: Model, mend: Mend = ALL) -> str:
    """What the search, DPOR and the oracle do not say alike, if anything."""
    searched, told, counted = explore(model), by_dpor(model, mend), oracle.count(model)
    asked_always = any(asked.kind is Kind.ALWAYS for asked in model.asked)
    found = told.found
    if told.ends != ends(searched):
        return "ends"
    if set(found.broken) != set(searched.broken):
        return "broken"
    if not asked_always and (found.complete, found.deadlocked) != (
        counted.complete,
        counted.deadlocked,
    ):
        return "traces"
    return ""


def seeds(block: int, of: int) -> range:
    return range(block * of // BLOCKS, (block + 1) * of // BLOCKS)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_search_and_dpor_and_oracle_agree(block: int) -> None:
    for seed in seeds(block, PROGRAMS):
        model = random_model(Random(seed))
        assert not disagreement(model), f"seed {seed}"


@pytest.mark.parametrize("block", range(BLOCKS))
def test_always_is_broken_where_the_search_breaks_it(block: int) -> None:
    broken = 0
    for seed in seeds(block, PROGRAMS // 4):
        model = random_model(Random(seed), always=True)
        assert not disagreement(model), f"seed {seed}"
        broken += "always" in explore(model).broken
    assert broken >= PROGRAMS // 4 // BLOCKS // 8


def replayed(model: Model, fault: dpor.Fault) -> tuple[tuple[Any, ...], set[str], set[int]]:
    """The memory after a schedule, what its last step breaks, who can go on then."""
    memory = model.initial
    events: list[rnd.Event] = []
    broken: set[str] = set()
    for task, result in zip(fault.schedule, fault.results, strict=True):
        pending = rnd.pending(model, events, task)
        assert pending
        outcome = next(one for one in pending.outcomes(memory) if one.result == result)
        memory, broken = outcome.after, {prop for prop, _ in outcome.broken}
        events.append((task, result))
    able = set()
    for task in range(len(model.tasks)):
        pending = rnd.pending(model, events, task)
        if pending and pending.outcomes(memory):
            able.add(task)
    return memory, broken, able


def test_a_fault_comes_with_a_schedule_that_leads_there() -> None:
    seen = set()
    for seed in range(150):
        model = random_model(Random(seed), always=True)
        holds = {asked.prop: asked.holds for asked in model.asked}
        for prop, fault in dpor.runs(model).broken.items():
            memory, broken, able = replayed(model, fault)
            seen.add(prop)
            if prop == "step":
                assert "step" in broken
            else:
                predicate = holds[prop]
                assert predicate is None or not predicate(Memory(memory))
                assert prop == "always" or not able
    assert seen == {"step", "always", "at end", "no deadlock"}


def interleavings(model: Model) -> int:
    """At most so many: a program does each of its instructions once, if at all."""
    lengths = [len(task.args[0]) for task in model.tasks]
    return factorial(sum(lengths)) // prod(map(factorial, lengths))


@pytest.mark.parametrize("block", range(BLOCKS))
def test_each_trace_is_run_once_and_none_is_missed(block: int) -> None:
    for seed in seeds(block, PROGRAMS // 3):
        model = random_model(Random(seed))
        if interleavings(model) > 100:
            continue
        naive = list(rnd.naive_runs(model))
        traces = {rnd.trace(model, events): end for events, end in naive}
        counted, told = oracle.count(model), by_dpor(model)
        assert counted.complete + counted.deadlocked == len(traces), f"seed {seed}"
        mine = [rnd.trace(model, tuple(zip(r.schedule, r.results, strict=True))) for r in told.runs]
        assert len(mine) == len(set(mine)), f"seed {seed}"
        assert set(mine) == set(traces), f"seed {seed}"
        assert {(end.memory, end.waiting) for _, end in naive} == told.ends, f"seed {seed}"


@pytest.mark.parametrize("left_out", Mend)
def test_these_programs_find_each_fault_of_the_published_algorithm(left_out: Mend) -> None:
    """A test that cannot fail is worth nothing: leave out one mend, and it fails."""
    tried = (random_model(Random(seed)) for seed in range(PROGRAMS))
    assert any(disagreement(model, ALL & ~left_out) for model in tried)


def test_the_published_algorithm_is_wrong_as_soon_as_tasks_block() -> None:
    wrong = sum(bool(disagreement(random_model(Random(seed)), Mend(0))) for seed in range(200))
    assert wrong > 30


Names = tuple[tuple[tuple[int, ...], ...], tuple[Any, ...]]


def renamed(space: Space, groups: list[tuple[int, ...]], state: int) -> Names:
    """A state, but for who is who among tasks that do the same."""
    places = {
        task: place
        for component in space.components
        for task, place in zip(component.members, component.at(state), strict=True)
    }
    alike = tuple(tuple(sorted(places[task] for task in group)) for group in groups)
    return alike, space.memory(state)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_symmetry_takes_an_orbit_for_a_state(block: int) -> None:
    fewer = 0
    for seed in seeds(block, PROGRAMS // 6):
        model = random_model(Random(seed), always=True, alike=True)
        plain, folded = explore(model), explore(model, symmetry=True)
        groups = [component.members for component in folded.space.components]
        orbits = {renamed(plain.space, groups, state) for state in plain.parents}
        assert folded.states == len(orbits), f"seed {seed}"
        assert {renamed(folded.space, groups, state) for state in folded.parents} == orbits
        dead = {renamed(plain.space, groups, state) for state in plain.dead_ends}
        assert {renamed(folded.space, groups, state) for state in folded.dead_ends} == dead
        assert len(folded.dead_ends) == len(dead)
        assert set(plain.broken) == set(folded.broken), f"seed {seed}"
        fewer += folded.states < plain.states
    assert fewer > PROGRAMS // 6 // BLOCKS // 2


Brief = tuple[Any, ...]  # an operation and what it is given, variables by name


def model_of(variables: dict[str, int], *programs: tuple[Brief, ...]) -> Model:
    model = Model()
    made = {name: model.var(name, initial) for name, initial in variables.items()}
    for number, program in enumerate(programs):
        instructions = tuple(
            Instruction(make, tuple(made.get(arg, arg) for arg in args), 0)
            for make, *args in program
        )
        model.task(f"t{number}", rnd.task, instructions)
    return model


LOST: dict[str, tuple[Mend, dict[str, int], tuple[tuple[Brief, ...], ...]]] = {
    "the release cannot be turned round with the lock, the lock before it can": (
        Mend.PASS_OVER,
        {"x": 0},
        (((rnd.lock, "x"), (rnd.write, "x", 0)), ((rnd.lock, "x"),)),
    ),
    "who is never let in might have been the first": (
        Mend.AT_THE_END,
        {"x": 0},
        (((rnd.lock, "x"),), ((rnd.lock, "x"),)),
    ),
    "what it might have taken came later": (
        Mend.ELSEWHERE,
        {"y": 2, "z": 0},
        (
            ((rnd.write, "y", 1),),
            ((rnd.take_either, "y", "z", 1),),
            ((rnd.trylock, "z"),),
        ),
    ),
    "nothing blocks, but without the write it looks further": (
        Mend.ELSEWHERE,
        {"x": 0, "y": 1},
        (
            ((rnd.wait_either, "y", "x", 0),),
            ((rnd.write, "y", 0),),
            ((rnd.wait_not, "y", 2), (rnd.copy, "x", "x")),
        ),
    ),
}


@pytest.mark.parametrize("story", LOST)
def test_what_was_lost(story: str) -> None:
    mend, variables, programs = LOST[story]
    model = model_of(variables, *programs)
    assert disagreement(model, ALL & ~mend)
    assert not disagreement(model)


@operation(BOOL)
def is_set(s: Memory, x: Var) -> bool:
    return bool(s[x])


def spin(x: Var) -> Steps:
    done = yield is_set(x)
    return None if done else become(spin, x)


@operation(BOOL)
def reaches(s: Memory, x: Var, value: int) -> bool:
    s[x] += 1
    return bool(s[x] == value)


def count_up(x: Var, value: int) -> Steps:
    done = yield reaches(x, value)
    return None if done else become(count_up, x, value)


def test_a_model_that_goes_round_is_refused() -> None:
    model = Model()
    model.task("spin", spin, model.var("x", 0))
    with pytest.raises(CyclicModelError):
        dpor.runs(model)
    with pytest.raises(CyclicModelError):
        oracle.count(model)


def test_a_run_has_a_bound_and_may_be_longer_than_the_stack() -> None:
    model = Model()
    model.task("count", count_up, model.var("x", 0), 1200)
    with pytest.raises(dpor.TooDeepError, match="1199"):
        dpor.runs(model, depth_max=1199)
    assert dpor.runs(model, depth_max=1200).complete == 1
    assert oracle.count(model) == oracle.Count(complete=1)


def tosses(count: int) -> Steps:
    for _ in range(count):
        yield choose(3)


def test_every_result_that_is_open_is_a_run() -> None:
    model = Model()
    model.task("a", tosses, 2)
    model.task("b", tosses, 1)
    told = by_dpor(model)
    assert told.found.complete == len({run.results for run in told.runs}) == 27
    assert oracle.count(model).complete == 27


def test_who_may_wait_is_no_deadlock() -> None:
    model = Model()
    x = model.var("x", 0)
    model.ask("stuck", Kind.NO_DEADLOCK)
    program = (Instruction(rnd.wait, (x, 1), 0),)
    model.task("daemon", rnd.task, program, may_wait=True)
    model.task("worker", rnd.task, program, waits_in=("wait",))
    found = dpor.runs(model)
    assert (found.complete, found.deadlocked, found.broken) == (1, 0, {})
    model.task("user", rnd.task, program)
    found = dpor.runs(model)
    assert (found.complete, found.deadlocked) == (0, 1)
    assert found.broken["stuck"].why == "for ever waiting: user"
    assert oracle.count(model) == oracle.Count(deadlocked=1)


def test_what_needs_the_graph_is_left_open() -> None:
    model = Model()
    x = model.var("x", 0)
    model.ask("can", Kind.CAN, lambda s: bool(s[x]))
    model.ask("will", Kind.EVENTUALLY, lambda s: bool(s[x]))
    found = dpor.runs(model)
    assert found.left_open == ("can", "will")
    assert not found.broken


def test_a_state_between_two_independent_steps_is_not_overlooked() -> None:
    """One run has it only one way round: x = 1 while y = 0 must be found all the same."""
    model = Model()
    x, y = model.var("x", 0), model.var("y", 0)
    model.task("b", rnd.task, (Instruction(rnd.write, (y, 1), 0),))
    model.task("a", rnd.task, (Instruction(rnd.write, (x, 1), 0),))
    assert dpor.runs(model).complete == 1
    model.ask("both or neither", Kind.ALWAYS, lambda s: not (s[x] == 1 and s[y] == 0))
    found = dpor.runs(model)
    assert found.complete == 2
    assert found.broken["both or neither"].schedule == (1,)
