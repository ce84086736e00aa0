"""A task as a finite automaton: what it does at each place, and where each result leads it.

1. A place is known by the function that the task last began as, and all results since.
2. Every result that an operation declares is followed, whether or not it can come about.
3. Places from which the task goes on alike are one (partition refinement, after Moore).
4. Place 0 is where it begins; an operation of None is the end.

Generators can neither be copied nor compared, so each new place costs one run from the last
beginning. Thereafter no task's code runs any more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memreap.check.operation import Become, Operation, Steps

PLACES_MAX = 200_000
HISTORY_MAX = 1_000  # results since the last beginning: each place replays all of its own

_Key = tuple[Callable[..., Steps], tuple[Any, ...], tuple[Any, ...]]


class EndlessTaskError(ValueError):
    """A task that has no end, and does not begin afresh."""


class NotAnOperationError(TypeError):
    """A task yielded something else."""


@dataclass(frozen=True, slots=True)
class Automaton:
    """``operations[place]``, None at the end; ``edges[place][result]`` is the next place."""

    operations: tuple[Operation | None, ...]
    edges: tuple[dict[Any, int], ...]
    runs: int  # of generators, to learn it

    def __len__(self) -> int:
        """How many places it has."""
        return len(self.operations)


def automaton(function: Callable[..., Steps], args: tuple[Any, ...]) -> Automaton:
    """The smallest automaton of a task. Raises EndlessTaskError."""
    return _reduced(*_unfold(function, args))


def _unfold(
    function: Callable[..., Steps], args: tuple[Any, ...]
) -> tuple[list[Operation | None], list[dict[Any, int]], int]:
    places: dict[_Key, int] = {}
    keys: list[_Key] = []
    operations: list[Operation | None] = []
    edges: list[dict[Any, int]] = []
    runs = 0

    def place(key: _Key) -> int:
        if key not in places:
            places[key] = len(keys)
            keys.append(key)
        return places[key]

    place((function, args, ()))
    while len(operations) < len(keys):
        root, root_args, results = keys[len(operations)]
        reached = _run(root, root_args, results)
        runs += 1
        learnt = runs
        while isinstance(reached, Become):
            root, root_args, results = reached.function, reached.args, ()
            reached = _run(root, root_args, results)
            runs += 1
            if runs - learnt > HISTORY_MAX:  # and has not taken a step
                raise _endless(root)
        operations.append(reached)
        edges.append(
            {result: place((root, root_args, (*results, result))) for result in reached.results}
            if reached
            else {}
        )
        if len(keys) > PLACES_MAX or len(results) > HISTORY_MAX:
            raise _endless(root)
    return operations, edges, runs


def _endless(function: Callable[..., Steps]) -> EndlessTaskError:
    return EndlessTaskError(
        f"{getattr(function, '__name__', function)} has no end, or a very late one:"
        " end a loop that may go round for ever with 'return become(...)'"
    )


def _run(
    function: Callable[..., Steps], args: tuple[Any, ...], results: tuple[Any, ...]
) -> Operation | Become | None:
    """The operation that a task yields after these results, or what it becomes, or None."""
    steps = function(*args)
    try:
        reached = next(steps)
        for result in results:
            reached = steps.send(result)
    except StopIteration as stop:
        return stop.value if isinstance(stop.value, Become) else None
    if not isinstance(reached, Operation):
        name = getattr(function, "__name__", function)
        raise NotAnOperationError(f"{name} yields {reached!r}, which is no operation")
    steps.close()
    return reached


def _reduced(
    operations: list[Operation | None], edges: list[dict[Any, int]], runs: int
) -> Automaton:
    """One place for all from which it goes on alike."""
    classes = _numbered(operations)
    while True:
        finer = _numbered(
            [
                (mine, tuple((result, classes[to]) for result, to in out.items()))
                for mine, out in zip(classes, edges, strict=True)
            ]
        )
        if max(finer) == max(classes):
            break
        classes = finer
    first = {mine: place for place, mine in reversed(list(enumerate(classes)))}
    order = _from_the_beginning(classes, edges, first)
    return Automaton(
        tuple(operations[first[mine]] for mine in order),
        tuple(
            {result: order[classes[to]] for result, to in edges[first[mine]].items()}
            for mine in order
        ),
        runs,
    )


def _from_the_beginning(
    classes: list[int], edges: list[dict[Any, int]], first: dict[int, int]
) -> dict[int, int]:
    """New numbers, in the order in which the places can be reached."""
    order = {classes[0]: 0}
    todo = [classes[0]]
    for mine in todo:
        for to in edges[first[mine]].values():
            if classes[to] not in order:
                order[classes[to]] = len(order)
                todo.append(classes[to])
    return order


def _numbered(values: list[Any]) -> list[int]:
    """Equal values, equal numbers, counted from 0."""
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]
