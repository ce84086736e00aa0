"""The search, its ways, its counts of interleavings, its counterexamples, by small models."""

import itertools
import math

import pytest

from memreap.check import liveness, paths
from memreap.check.counterexample import counterexample
from memreap.check.model import Kind, Model
from memreap.check.operation import BLOCK, Block, Memory, Steps, Var, become, choose, operation
from memreap.check.search import explore


@operation()
def add(s: Memory, var: Var, more: int) -> None:
    s[var] += more


@operation(range(8))
def read(s: Memory, var: Var) -> int:
    return int(s[var])


@operation()
def write(s: Memory, var: Var, value: int) -> None:
    s[var] = value


@operation()
def take(s: Memory, lock: Var) -> Block | None:
    if s[lock]:
        return BLOCK
    s[lock] = True
    return None


@operation()
def step_on(s: Memory, mine: Var) -> None:
    if s[mine]:
        s.breaks("clear", "steps on it")


def adder(var: Var, times: int) -> Steps:
    for _ in range(times):
        yield add(var, 1)


def loses_updates(var: Var) -> Steps:
    value = yield read(var)
    yield write(var, value + 1)


def two(function: object, *args: object, ask: tuple[str, Kind, object] | None = None) -> Model:
    model = Model()
    var = model.var("x", 0)
    for name in ("a", "b"):
        model.task(name, function, var, *args)  # type: ignore[arg-type]
    if ask:
        prop, kind, holds = ask
        model.ask(prop, kind, lambda s: bool(holds(s[var])), "wrong")  # type: ignore[operator]
    return model


@pytest.mark.parametrize("times", [1, 2, 5])
def test_states_are_the_places_of_two_counters(times: int) -> None:
    assert explore(two(adder, times)).states == (times + 1) ** 2


@pytest.mark.parametrize("times", [1, 2, 5])
def test_with_symmetry_they_are_the_unordered_pairs(times: int) -> None:
    found = explore(two(adder, times), symmetry=True)
    assert found.states == (times + 1) * (times + 2) // 2


@pytest.mark.parametrize("times", [1, 2, 5])
def test_interleavings_are_counted_exactly(times: int) -> None:
    counted = paths.share(explore(two(adder, times)), lambda *_: False)
    assert counted.interleavings == math.comb(2 * times, times)
    assert counted.share == 0.0


def test_how_often_a_task_waits() -> None:
    """Two tasks and a lock: who comes second waits where it comes before the first is done."""

    def locked(lock: Var) -> Steps:
        yield take(lock)
        yield write(lock, False)

    model = Model()
    lock = model.var("lock", False)
    model.task("a", locked, lock)
    model.task("b", locked, lock)
    counted = paths.share(explore(model), paths.waits_at("a", "take"))
    # a takes, releases, then b does, or the other way round; in the other order a waits for b.
    assert (counted.interleavings, counted.of_them) == (2, 1)
    assert counted.chance == pytest.approx(0.5)
    everyone = paths.share(explore(model), paths.stands_at("a", "take"))
    assert everyone.share == 1.0


def test_what_goes_round_has_no_number_of_interleavings() -> None:
    def rounds(var: Var) -> Steps:
        yield write(var, 0)
        return become(rounds, var)

    with pytest.raises(paths.EndlessError):
        paths.share(explore(two(rounds)), lambda *_: False)


def test_a_lost_update_is_found_where_all_have_ended() -> None:
    found = explore(two(loses_updates, ask=("sum", Kind.AT_END, lambda x: x == 2)))
    told = counterexample(found, found.broken["sum"])
    assert [step.task for step in told.steps].count("a") == 2
    assert len(told.steps) == 4
    changes = [change.now for step in told.steps for change in step.changes]
    assert changes == ["1"], "the second write changes nothing: that is what is lost"
    assert sum(step.preempts for step in told.steps) == 1, "one preemption is enough to lose it"


def test_the_nearest_break_is_the_one_that_is_told() -> None:
    found = explore(two(adder, 4, ask=("small", Kind.ALWAYS, lambda x: x < 3)))
    assert found.steps(found.broken["small"]) == 3
    told = counterexample(found, found.broken["small"])
    assert [step.changes[0].now for step in told.steps] == ["1", "2", "3"]
    assert len({step.task for step in told.steps}) == 1, "one task is enough, so one is told of"


def test_what_is_wrong_from_the_beginning_takes_no_step() -> None:
    found = explore(two(adder, 1, ask=("never", Kind.ALWAYS, lambda x: x > 0)))
    assert found.steps(found.broken["never"]) == 0
    assert counterexample(found, found.broken["never"]).steps == ()


def test_a_step_says_what_it_breaks() -> None:
    def occupies(mine: Var) -> Steps:
        yield write(mine, 1)
        yield write(mine, 0)

    def walks(mine: Var) -> Steps:
        yield step_on(mine)

    model = Model()
    mine = model.var("mine", 0)
    model.task("occupies", occupies, mine)
    model.task("walks", walks, mine)
    model.ask("clear")
    found = explore(model)
    told = counterexample(found, found.broken["clear"])
    assert [(step.task, step.breaks) for step in told.steps] == [
        ("occupies", None),
        ("walks", "steps on it"),
    ]
    assert told.steps[-1].preempts


def test_who_waits_for_ever_is_named() -> None:
    def crosswise(first: Var, second: Var) -> Steps:
        yield take(first)
        yield take(second)
        yield write(second, False)
        yield write(first, False)

    model = Model()
    left, right = model.var("left", False), model.var("right", False)
    model.task("a", crosswise, left, right)
    model.task("b", crosswise, right, left)
    model.ask("deadlock", Kind.NO_DEADLOCK)
    found = explore(model)
    told = counterexample(found, found.broken["deadlock"])
    assert told.why == "for ever waiting: a, b"
    assert told.waiting == ("a waits in take(right)", "b waits in take(left)")


def test_who_acts_in_the_round_does_not_wait_for_good() -> None:
    """Two pass a lock to each other for ever, and a third waits for what never comes."""

    def turns(lock: Var) -> Steps:
        yield take(lock)
        yield write(lock, False)
        return become(turns, lock)

    def waits(lock: Var) -> Steps:
        yield take(lock)

    model = Model()
    lock, never, done = model.var("lock", False), model.var("never", True), model.var("done", 0)
    model.task("a", turns, lock)
    model.task("b", turns, lock)
    model.task("c", waits, never)
    model.ask("done", Kind.EVENTUALLY, lambda s: bool(s[done]), "never done")
    found = explore(model)
    liveness.ask(found)
    told = counterexample(found, found.broken["done"])
    assert {step.task for step in told.cycle} == {"a", "b"}
    assert told.waiting == ("c waits in take(never)",)


def test_who_may_wait_is_not_deadlocked() -> None:
    def waits(lock: Var) -> Steps:
        yield take(lock)

    model = Model()
    model.task("daemon", waits, model.var("lock", True), may_wait=True)
    model.ask("deadlock", Kind.NO_DEADLOCK)
    assert not explore(model).broken


def test_every_choice_is_followed() -> None:
    def dice(var: Var) -> Steps:
        yield write(var, (yield choose(6)))

    model = Model()
    var = model.var("x", -1)
    model.task("dice", dice, var)
    found = explore(model)
    assert {found.space.memory(state)[var] for state in found.dead_ends} == set(range(6))


def test_a_search_that_stops_early_says_so() -> None:
    found = explore(two(adder, 5), states_max=4)
    assert not found.complete
    assert 4 <= found.states < 36


def test_a_way_is_made_of_steps_that_are_there() -> None:
    found = explore(two(loses_updates, ask=("sum", Kind.AT_END, lambda x: x == 2)))
    states = found.path(found.broken["sum"])
    assert states[0] == found.space.initial
    assert all(b in found.space.successors(a) for a, b in itertools.pairwise(states))
