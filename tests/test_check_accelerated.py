"""The compiled search finds what the plain one finds, state for state and in the same order."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from random import Random
from types import ModuleType
from typing import Any

import pytest

from memreap.check import accelerated
from memreap.check.model import Kind, Model
from memreap.check.operation import (
    BLOCK,
    BOOL,
    AnyOf,
    Memory,
    Operation,
    Steps,
    UndeclaredResultError,
    Var,
    become,
    choose,
    operation,
)
from memreap.check.search import NOBODY, Exploration, explore

VALUES = 3


@pytest.fixture
def arrays() -> ModuleType:
    if (why := accelerated.unavailable()) is not None:
        pytest.skip(why)
    from memreap.check import arrays as module

    return module


@operation()
def write(s: Memory, x: Var, value: int) -> None:
    s[x] = value


@operation()
def add(s: Memory, x: Var, y: Var) -> None:
    s[x] = (s[x] + s[y] + 1) % VALUES


@operation()
def lock(s: Memory, x: Var, _: int) -> Any:
    if s[x] == 0:
        return BLOCK
    s[x] = 0
    return None


@operation()
def wait(s: Memory, x: Var, value: int) -> Any:
    return None if s[x] == value else BLOCK


@operation(BOOL)
def trylock(s: Memory, x: Var, value: int) -> bool:
    if s[x] != value:
        return False
    s[x] = (value + 1) % VALUES
    return True


@operation(BOOL)
def toss(s: Memory, x: Var, value: int) -> Any:
    """Open, closed or blocked, as it comes."""
    if s[x] == value:
        return AnyOf(BOOL)
    return BLOCK if s[x] == 0 else True


@operation()
def claim(s: Memory, x: Var, value: int) -> None:
    if s[x] == value:
        s.breaks("step", f"{x} is {value}")


MAKES: tuple[Callable[..., Operation], ...] = (write, lock, wait, trylock, toss, claim)

Line = tuple[Operation, int]


def run(lines: tuple[Line, ...], again: tuple[Operation, ...]) -> Steps:
    """A false result, or an odd one, skips lines; with ``again`` it may begin afresh."""
    at = 0
    while at < len(lines):
        does, skip = lines[at]
        result = yield does
        at += 1 + (skip if result is False or result == 1 else 0)
    for does in again:
        if (yield does):
            return become(run, lines, again)
    return None


def some_operation(random: Random, variables: list[Var]) -> Operation:
    x, value = random.choice(variables), random.randrange(VALUES)
    pick = random.randrange(len(MAKES) + 2)
    if pick < len(MAKES):
        return MAKES[pick](x, value)
    return add(x, random.choice(variables)) if pick == len(MAKES) else choose(VALUES)


def some_program(random: Random, variables: list[Var]) -> tuple[Any, ...]:
    lines = tuple(
        (some_operation(random, variables), random.randrange(3))
        for _ in range(random.randint(0, 5))
    )
    value = random.randrange(VALUES)
    again = (trylock(random.choice(variables), value),) if random.random() < 0.3 else ()
    return lines, again


def random_model(seed: int) -> Model:
    """Up to five tasks, some of them alike; something of every kind is asked."""
    random = Random(seed)
    model = Model()
    variables = [model.var(name, random.randrange(VALUES)) for name in "wxyz"[: seed % 4 + 1]]
    programs = [some_program(random, variables) for _ in range(random.randint(1, 4))]
    for number in range(random.randint(1, 5)):
        waits = random.random() < 0.2
        model.task(f"t{number}", run, *random.choice(programs), may_wait=waits)
    x, y, value = random.choice(variables), random.choice(variables), random.randrange(VALUES)
    model.ask("step")
    model.ask("no deadlock", Kind.NO_DEADLOCK)
    model.ask("always", Kind.ALWAYS, lambda s: s[x] != value or s[y] == value, "not so")
    model.ask("at end", Kind.AT_END, lambda s: s[y] != value, "not so")
    return model


def agree(model: Model, *, symmetry: bool = False, states_max: int | None = None) -> Exploration:
    """Search twice and compare everything. What the compiled one found."""
    told: tuple[list[int], list[int]] = ([], [])
    plain = explore(model, symmetry=symmetry, states_max=states_max, progress=told[0].append)
    fast = accelerated.explore(
        model, symmetry=symmetry, states_max=states_max, progress=told[1].append
    )
    assert fast.space.memories == plain.space.memories
    assert [part.places for part in fast.space.components] == [
        part.places for part in plain.space.components
    ]
    assert [part.deltas for part in fast.space.components] == [
        part.deltas for part in plain.space.components
    ]
    assert list(fast.parents) == list(plain.parents)
    assert [fast.parents[state] for state in plain.parents] == list(plain.parents.values())
    assert (fast.states, fast.transitions) == (plain.states, plain.transitions)
    assert fast.dead_ends == plain.dead_ends
    assert fast.complete == plain.complete
    assert told[1] == told[0]
    assert list(fast.broken.items()) == list(plain.broken.items())
    for broken in fast.broken.values():
        assert fast.steps(broken) == plain.steps(broken)
        leads(fast, fast.path(broken))
    return fast


def leads(found: Exploration, way: list[int]) -> None:
    """Each state of a way follows from the one before it."""
    assert way[0] == found.space.initial
    for before, after in pairwise(way):
        assert after in found.space.successors(before) or before == found.space.initial == after


SEEDS = range(150)


@pytest.mark.parametrize("symmetry", BOOL)
def test_random_models(arrays: ModuleType, symmetry: bool) -> None:
    broken: set[str] = set()
    states = 0
    for seed in SEEDS:
        found = agree(random_model(seed), symmetry=symmetry)
        broken |= found.broken.keys()
        states += found.states
    assert broken == {"step", "always", "at end", "no deadlock"}
    assert states > 10_000


def test_random_models_up_to_some_states(arrays: ModuleType) -> None:
    complete = []
    for seed in SEEDS:
        random = Random(seed)
        most = random.choice((0, 1, 2, 10, 100))
        found = agree(random_model(seed), symmetry=random.random() < 0.5, states_max=most)
        complete.append(found.complete)
    assert len(set(complete)) == 2


@pytest.mark.parametrize("row_max", [0, 12])
def test_without_a_cell_for_every_place(
    arrays: ModuleType, monkeypatch: pytest.MonkeyPatch, row_max: int
) -> None:
    """None has columns, or the small ones have."""
    monkeypatch.setattr(arrays, "ROW_MAX", row_max)
    for seed in SEEDS:
        agree(random_model(seed), symmetry=seed % 2 == 0)


def test_a_state_at_a_time_and_no_room(arrays: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array must grow, and in the middle of a level."""
    monkeypatch.setattr(arrays, "CHUNK_STEPS", 1)
    monkeypatch.setattr(arrays, "SLOTS_MIN", 2)
    for seed in SEEDS:
        agree(random_model(seed))


def turns(tasks: int, steps: int) -> Model:
    """Each waits for its turn, so there are many places and few states."""
    model = Model()
    turn, done = model.var("turn", 0), model.var("done", 0)

    def task(mine: int) -> Steps:
        yield wait(turn, mine)
        for step in range(steps):
            yield write(done, step)
        yield write(turn, mine + 1)

    for mine in range(tasks):
        model.task(f"t{mine}", task, mine)
    model.ask("last", Kind.ALWAYS, lambda s: s[turn] < tasks, "had their turn")
    return model


@pytest.mark.parametrize("tasks", [15, 16])
def test_places_and_memory_in_more_than_64_bits(arrays: ModuleType, tasks: int) -> None:
    found = agree(turns(tasks, 9))
    assert found.space.bits == 4 * tasks
    assert max(found.parents).bit_length() > 64
    assert isinstance(found.parents, arrays.States)
    assert len(found.path(found.broken["last"])) == found.states


def test_places_in_more_than_64_bits_are_left_to_the_plain_search(arrays: ModuleType) -> None:
    found = agree(turns(17, 9))
    assert isinstance(found.parents, dict)


def counters(limit: int) -> Model:
    @operation(BOOL)
    def count(s: Memory, x: Var) -> bool:
        s[x] += 1
        return bool(s[x] < limit)

    def task(x: Var) -> Steps:
        if (yield count(x)):
            return become(task, x)
        return None

    model = Model()
    for name in "xy":
        model.task(name, task, model.var(name, 0))
    return model


@pytest.mark.parametrize("row_max", [512, 0])
def test_more_than_65536_memories(
    arrays: ModuleType, monkeypatch: pytest.MonkeyPatch, row_max: int
) -> None:
    """So many are not known in advance, too, that what is known of them must grow."""
    monkeypatch.setattr(arrays, "ROW_MAX", row_max)
    found = agree(counters(270))
    assert len(found.space.memories) == found.states == 271**2 > 1 << 16


def apart(tasks: int, steps: int) -> Model:
    """Tasks that have nothing to do with each other."""
    model = Model()
    x = model.var("x", 0)

    def task(mine: int) -> Steps:
        del mine
        for _ in range(steps):
            yield write(x, 0)

    for mine in range(tasks):
        model.task(f"t{mine}", task, mine)
    return model


def test_a_table_that_must_grow_twice(arrays: ModuleType) -> None:
    found = agree(apart(6, 7))
    states = found.parents
    assert isinstance(states, arrays.States)
    assert found.states == 8**6
    assert len(states.table.slots) == 4 * arrays.SLOTS_MIN
    entry = states.table.wides.itemsize + states.table.memories.itemsize + states.parents.itemsize
    assert entry + states.table.slots.nbytes / found.states <= 40


def test_a_state_costs_40_bytes_at_the_most(arrays: ModuleType) -> None:
    """Just after the table has doubled, it is half as full as it may be."""
    assert 8 + 4 + 4 + 2 * 8 / arrays.LOAD_MAX < 40


def test_nothing_to_do(arrays: ModuleType) -> None:
    assert agree(Model()).states == 1
    model = Model()
    model.task("ends at once", run, (), ())
    assert agree(model).dead_ends == [0]


def test_what_is_no_state_has_no_parent(arrays: ModuleType) -> None:
    found = accelerated.explore(apart(2, 2))
    assert found.parents[found.space.initial] == NOBODY
    for state in (-1, 1 << 20, 1 << 40, 1 << 100, -(1 << 100)):
        assert state not in found.parents
        with pytest.raises(KeyError):
            found.parents[state]


def test_an_error_in_an_operation_is_told(arrays: ModuleType) -> None:
    @operation((True,))
    def lies(s: Memory) -> bool:
        return False

    model = Model()
    model.task("t", run, ((lies(), 0),), ())
    with pytest.raises(UndeclaredResultError):
        accelerated.explore(model)


def test_many_steps_out_of_one_state(arrays: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than there was room for, had no one looked first."""
    monkeypatch.setattr(arrays, "CHUNK_STEPS", 1)
    monkeypatch.setattr(arrays, "SLOTS_MIN", 4)
    model = Model()
    x, y = model.var("x", 0), model.var("y", 0)

    @operation(range(500))
    def any_of(s: Memory, z: Var) -> AnyOf:
        s[z] = 1
        return AnyOf(tuple(range(500)))

    def task(z: Var) -> Steps:
        yield write(z, (yield any_of(z)) % 7)

    model.task("t", task, x)
    model.task("u", task, y)
    assert agree(model).transitions > 1000


def test_nowhere_to_keep_what_was_compiled(
    arrays: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba

    njit = numba.njit
    asked = []

    def no_directory(*args: Any, **options: Any) -> Any:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(numba, "njit", no_directory)
    double = arrays.compiled.compiled("int64(int64)")(lambda number: 2 * number)
    assert double(21) == 42
    assert asked == [{"cache": True}, {}]


def test_without_numba() -> None:
    """It says so in a line, with what to do; the plain search does not care."""
    code = """
import sys
sys.modules["numba"] = None
from memreap.check import accelerated, search
from memreap.check.model import Model
assert search.explore(Model()).states == 1
try:
    accelerated.explore(Model())
except accelerated.UnavailableError as error:
    assert str(error) == accelerated.unavailable()
    print(error)
"""
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert told.count("\n") == 1
    assert "pip install 'memreap[fast]'" in told


def test_to_import_it_loads_nothing() -> None:
    code = """
import sys
import memreap.check.accelerated
assert not {"numba", "numpy"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
