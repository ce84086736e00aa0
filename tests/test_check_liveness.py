"""What must come at some time: dead ends, rings, fairness, told by small models."""

import pytest

from memreap.check import liveness
from memreap.check.liveness import NeedsEveryTaskError
from memreap.check.model import Kind, Model
from memreap.check.operation import BLOCK, BOOL, Block, Memory, Steps, Var, become, operation
from memreap.check.search import Exploration, explore


@operation()
def put(s: Memory, var: Var, value: int) -> None:
    s[var] = value


@operation(BOOL)
def is_(s: Memory, var: Var, value: int) -> bool:
    return bool(s[var] == value)


@operation()
def wait_for(s: Memory, var: Var, value: int) -> Block | None:
    return None if s[var] == value else BLOCK


@operation(BOOL)
def trylock(s: Memory, lock: Var) -> bool:
    if s[lock]:
        return False
    s[lock] = 1
    return True


@operation()
def take(s: Memory, lock: Var) -> Block | None:
    if s[lock]:
        return BLOCK
    s[lock] = 1
    return None


def ask(model: Model, var: Var, value: int, kind: Kind = Kind.EVENTUALLY) -> Exploration:
    model.ask("done", kind, lambda s: bool(s[var] == value), "never done")
    found = explore(model)
    liveness.ask(found)
    return found


def setter(var: Var, value: int) -> Steps:
    yield put(var, value)


def spin_until(var: Var, value: int) -> Steps:
    if not (yield is_(var, value)):
        return become(spin_until, var, value)
    return None


def holder(lock: Var) -> Steps:
    """Takes the lock and lets it go, again and again."""
    yield take(lock)
    yield put(lock, 0)
    return become(holder, lock)


def test_a_task_that_can_always_go_on_does() -> None:
    model = Model()
    x = model.var("x", 0)
    model.task("spins", spin_until, x, 1)
    model.task("sets", setter, x, 1)
    assert "done" not in ask(model, x, 1).broken


def test_a_task_that_need_not_go_on_may_not() -> None:
    model = Model()
    x = model.var("x", 0)
    model.task("spins", spin_until, x, 1)
    model.task("sets", setter, x, 1, fair=False)
    broken = ask(model, x, 1).broken["done"]
    assert broken.cycle, "the spinning goes round for ever"


def test_where_only_the_unfair_could_go_on_all_may_stop() -> None:
    model = Model()
    x = model.var("x", 0)
    model.task("sets", setter, x, 1, fair=False)
    broken = ask(model, x, 1).broken["done"]
    assert not broken.cycle
    assert broken.via == (explore(model).space.initial,)


def test_a_dead_end_elsewhere_is_never() -> None:
    model = Model()
    x = model.var("x", 0)
    model.task("sets", setter, x, 2)
    assert "done" in ask(model, x, 1).broken


def locked_setter(lock: Var, var: Var) -> Steps:
    yield take(lock)
    yield put(var, 1)
    yield put(lock, 0)


def test_a_lock_that_is_free_again_and_again_is_got() -> None:
    """Strong fairness: under weak fairness alone, the holder could always be first."""
    model = Model()
    lock, x = model.var("lock", 0), model.var("x", 0)
    model.task("holder", holder, lock)
    model.task("sets", locked_setter, lock, x)
    assert "done" not in ask(model, x, 1).broken


def try_and_set(lock: Var, var: Var) -> Steps:
    if not (yield trylock(lock)):
        return become(try_and_set, lock, var)
    yield put(var, 1)
    return None


def test_a_trylock_may_always_come_at_the_wrong_time() -> None:
    """It can go on, and does: it fails. No fairness helps who never waits."""
    model = Model()
    lock, x = model.var("lock", 0), model.var("x", 0)
    model.task("holder", holder, lock)
    model.task("tries", try_and_set, lock, x)
    found = ask(model, x, 1)
    broken = found.broken["done"]
    assert broken.cycle
    assert broken.cycle[-1] == broken.state, "it comes back to where it began"
    pairs = zip((broken.state, *broken.cycle), broken.cycle, strict=False)
    assert all(after in found.space.successors(here) for here, after in pairs)


def coin(var: Var) -> Steps:
    """Goes from 0 to 1 and back for ever, unless 2 is set meanwhile."""
    if not (yield is_(var, 2)):
        yield put(var, 1)
        yield put(var, 0)
        return become(coin, var)
    return None


def test_the_way_back_is_told_of_every_state() -> None:
    model = Model()
    x = model.var("x", 0)
    model.task("trap", setter, x, 3)
    assert "done" in ask(model, x, 0, Kind.CAN).broken
    model = Model()
    x = model.var("x", 0)
    model.task("coin", coin, x)
    assert "done" not in ask(model, x, 0, Kind.CAN).broken


def test_that_it_can_come_is_less_than_that_it_comes() -> None:
    def build(kind: Kind) -> Exploration:
        model = Model()
        lock, x = model.var("lock", 0), model.var("x", 0)
        model.task("holder", holder, lock)
        model.task("tries", try_and_set, lock, x)
        return ask(model, x, 1, kind)

    assert "done" in build(Kind.EVENTUALLY).broken
    assert "done" not in build(Kind.CAN).broken


def test_of_what_has_come_nothing_is_asked_any_more() -> None:
    """Once there, it may leave again: the coin is at 1 at some time, and that is enough."""
    model = Model()
    x = model.var("x", 0)
    model.task("coin", coin, x)
    assert "done" not in ask(model, x, 1).broken


def test_it_needs_every_task_and_every_state() -> None:
    model = Model()
    x = model.var("x", 0)
    model.task("one", setter, x, 1)
    model.task("two", setter, x, 1)
    model.ask("done", Kind.EVENTUALLY, lambda s: bool(s[x] == 1))
    with pytest.raises(NeedsEveryTaskError):
        liveness.ask(explore(model, symmetry=True))
    with pytest.raises(NeedsEveryTaskError):
        liveness.ask(explore(model, states_max=1))
