"""A task's automaton does what the task does, with no place too many, and is learnt in the end."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memreap.check import automaton as module
from memreap.check.automaton import Automaton, EndlessTaskError, automaton
from memreap.check.model import Model
from memreap.check.operation import (
    BOOL,
    Become,
    Memory,
    Operation,
    Steps,
    UndeclaredResultError,
    become,
    choose,
    operation,
)
from memreap.check.search import explore


@operation()
def act(s: Memory, number: int) -> None:
    del s, number


@operation(BOOL)
def ask(s: Memory, number: int) -> bool:
    del s
    return number > 0


@operation((0, 1, 2))
def pick(s: Memory) -> int:
    del s
    return 0


# A program is a list of statements:
#   ("act", n)                    an operation without a result
#   ("if", n, [...], [...])       on the result of one
#   ("pick", [...], [...], [...]) likewise, of three
#   ("for", [n, ...], [...])      an iterator that no local variable shows
#   ("count", [...])              the number of results so far matters, and is a local
#   ("again",)                    from the beginning
#   ("stop",)
Statement = tuple[Any, ...]
NUMBERS = st.integers(0, 2)


def bodies(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Statement]]:
    return st.lists(inner, max_size=3)


STATEMENTS = st.recursive(
    st.one_of(st.tuples(st.just("act"), NUMBERS), st.just(("again",)), st.just(("stop",))),
    lambda inner: st.one_of(
        st.tuples(st.just("if"), NUMBERS, bodies(inner), bodies(inner)),
        st.tuples(st.just("pick"), bodies(inner), bodies(inner), bodies(inner)),
        st.tuples(st.just("for"), st.lists(NUMBERS, max_size=2), bodies(inner)),
        st.tuples(st.just("count"), bodies(inner)),
    ),
    max_leaves=6,
)
PROGRAMS = bodies(STATEMENTS).filter(lambda program: _places(program) < 500)


def _places(program: list[Statement]) -> int:
    """How many histories it may have, about: those that are endless or vast are no fun."""
    total = 1
    for kind, *rest in program:
        if kind == "act":
            total += 1
        elif kind == "for":
            total *= 1 + max(1, len(rest[0])) * _places(rest[1]) ** max(1, len(rest[0]))
        elif kind in {"if", "pick", "count"}:
            total *= 1 + sum(_places(body) for body in rest if isinstance(body, list))
    return total


class Again(Exception):  # noqa: N818
    """From the beginning."""


def execute(program: list[Statement], counter: list[int]) -> Steps:
    for kind, *rest in program:
        if kind == "act":
            yield act(rest[0])
        elif kind == "if":
            yes = yield ask(rest[0])
            counter[0] += 1
            yield from execute(rest[1 if yes else 2], counter)
        elif kind == "pick":
            which = yield pick()
            counter[0] += 1
            yield from execute(rest[which], counter)
        elif kind == "for":
            for number in rest[0]:
                yield act(number)
                yield from execute(rest[1], counter)
        elif kind == "count":
            yield act(counter[0] % 2)
            yield from execute(rest[0], counter)
        elif kind == "again":
            raise Again
        else:
            return


def frozen(program: Any) -> Any:
    return tuple(map(frozen, program)) if isinstance(program, list | tuple) else program


def task(program: Any) -> Steps:
    yield act(0)  # else one that only begins again never takes a step
    try:
        yield from execute(program, [0])
    except Again:
        return become(task, program)
    return None


def words(learnt: Automaton, depth: int) -> Iterator[tuple[tuple[Any, ...], Operation | None]]:
    """Every history of results so long, and the operation at its end."""
    todo: list[tuple[tuple[Any, ...], int]] = [((), 0)]
    for results, place in todo:
        does = learnt.operations[place]
        yield results, does
        if does and len(results) < depth:
            todo += [((*results, result), learnt.edges[place][result]) for result in does.results]


def by_running(program: Any, results: tuple[Any, ...]) -> Operation | None:
    """The operation that the task's own code comes to, however often it begins afresh."""
    steps = task(program)
    left = list(results)
    try:
        reached = next(steps)
    except StopIteration:
        return None
    while left:
        try:
            reached = steps.send(left.pop(0))
        except StopIteration as stop:
            if not isinstance(stop.value, Become):
                assert not left
                return None
            steps = stop.value.function(*stop.value.args)
            reached = next(steps)
    return reached


@settings(max_examples=300, deadline=None)
@given(PROGRAMS)
def test_it_does_what_the_task_does(program: list[Statement]) -> None:
    known = frozen(program)
    for results, does in words(automaton(task, (known,)), 6):
        assert by_running(known, results) == does


def alike(learnt: Automaton) -> set[tuple[int, int]]:
    """Pairs of places from which nobody can tell where he is: the greatest bisimulation."""
    places = range(len(learnt))
    pairs = {
        (a, b)
        for a in places
        for b in places
        if a < b and learnt.operations[a] == learnt.operations[b]
    }
    while True:
        left = {
            (a, b)
            for a, b in pairs
            if all(
                to == learnt.edges[b][result]
                or tuple(sorted((to, learnt.edges[b][result]))) in pairs
                for result, to in learnt.edges[a].items()
            )
        }
        if left == pairs:
            return pairs
        pairs = left


@settings(max_examples=300, deadline=None)
@given(PROGRAMS)
def test_no_two_places_are_alike_and_each_can_be_reached(program: list[Statement]) -> None:
    learnt = automaton(task, (frozen(program),))
    assert not alike(learnt)
    reached = [0]
    for place in reached:
        reached += dict.fromkeys(to for to in learnt.edges[place].values() if to not in reached)
    assert reached == list(range(len(learnt))), "in the order in which they can be reached"
    for does, edges in zip(learnt.operations, learnt.edges, strict=True):
        assert tuple(edges) == (does.results if does else ())


def test_a_loop_over_a_list_is_at_its_own_place_each_time_round() -> None:
    """All local variables are the same, and where the iterator stands no frame shows."""

    def twice() -> Steps:
        for _ in [1, 1]:
            yield act(1)
        yield act(2)

    learnt = automaton(twice, ())
    assert [str(does) for does in learnt.operations] == ["act(1)", "act(1)", "act(2)", "None"]


def test_ways_that_come_together_are_one() -> None:
    def either() -> Steps:
        yield ask(1)
        yield act(1)
        yield ask(2)
        yield act(2)

    assert len(automaton(either, ())) == 5


def lap(left: int) -> Steps:
    yield act(left)
    done = yield ask(left)
    return None if done else become(lap, (left + 1) % 3)


def test_a_loop_that_begins_afresh_has_an_end() -> None:
    learnt = automaton(lap, (0,))
    assert len(learnt) == 3 * 2 + 1
    assert learnt.runs < 30


def hand_over(times: int) -> Steps:
    """Becomes another before it has done anything."""
    if times:
        return become(hand_over, times - 1)
    yield act(7)
    return None


def test_to_become_another_is_no_step() -> None:
    learnt = automaton(hand_over, (5,))
    assert [str(does) for does in learnt.operations] == ["act(7)", "None"]


def test_the_same_places_by_other_ways_are_one_place() -> None:
    def begin() -> Steps:
        left = yield ask(1)
        return become(hand_over, 1 if left else 2)

    assert len(automaton(begin, ())) == 3


def for_ever_one_way() -> Steps:
    while True:
        yield act(1)


def for_ever_two_ways() -> Steps:
    while True:
        yield ask(1)


def for_ever_counting(n: int) -> Steps:
    yield act(1)
    return become(for_ever_counting, n + 1)


def for_ever_nothing() -> Steps:
    return become(for_ever_nothing)
    yield act(1)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (for_ever_one_way, ()),
        (for_ever_two_ways, ()),
        (for_ever_counting, (0,)),
        (for_ever_nothing, ()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_task_without_an_end_is_refused_soon(function: Any, args: tuple[Any, ...]) -> None:
    begun = time.monotonic()
    with pytest.raises(EndlessTaskError, match=function.__name__):
        automaton(function, args)
    assert time.monotonic() - begun < 10


def test_a_task_that_yields_nothing_that_can_be_done() -> None:
    def wrong() -> Any:
        yield "act"

    with pytest.raises(module.NotAnOperationError, match="wrong"):
        automaton(wrong, ())


def test_a_result_that_was_not_declared() -> None:
    @operation((0,))
    def undeclared(s: Memory) -> int:
        del s
        return 1

    def does() -> Steps:
        yield undeclared()

    model = Model()
    model.task("does", does)
    with pytest.raises(UndeclaredResultError, match=r"undeclared\(\) gave 1"):
        explore(model)


def test_a_task_that_does_nothing() -> None:
    def nothing() -> Steps:
        return
        yield act(1)

    assert automaton(nothing, ()) == Automaton((None,), ({},), 1)


def test_what_was_chosen_can_be_told_apart() -> None:
    def chooses() -> Steps:
        number = yield choose(3)
        yield act(number)

    assert len(automaton(chooses, ())) == 1 + 3 + 1
