"""How many runs of a model differ in more than the order of steps that do not touch each other.

Those classes of runs are Mazurkiewicz traces. A depth-first search with sleep sets passes through
each exactly once; all that follows from a state and a sleep set is counted once, so that the
number is found without listing the traces. Nothing is shared with the explorers but automata and
footprints; it is meant to be too simple to be wrong.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from memreap.check.attempts import Attempt, Attempts, CyclicModelError, State
from memreap.check.automaton import Automaton
from memreap.check.footprint import NOTHING, Footprint
from memreap.check.model import Model
from memreap.check.operation import Operation

Limits = Callable[[Operation], Footprint]
"""What an operation may touch at most, in whatever memory."""


@dataclass(frozen=True, slots=True)
class Count:
    """``complete`` and ``deadlocked`` are numbers of traces; ``blocked`` only tells of the search.

    A trace is complete when nobody waits at its end but who may. Blocked are the runs that were
    left because whatever could have come next had been seen.
    """

    complete: int = 0
    deadlocked: int = 0
    blocked: int = 0

    def __add__(self, other: "Count") -> "Count":
        """Of both."""
        return Count(
            self.complete + other.complete,
            self.deadlocked + other.deadlocked,
            self.blocked + other.blocked,
        )


def count(model: Model, limits: Limits | None = None) -> Count:
    """Count the traces of a model without cycles. Raises CyclicModelError.

    Where ``limits`` are known, and they are believed, tasks that have nothing to do with each
    other yet are not interleaved. That makes wide models countable, and changes no number but
    ``blocked``.
    """
    return _Oracle(model, limits).count()


_Key = tuple[State, int]  # the sleep set is a bit a task


class _Oracle:
    def __init__(self, model: Model, limits: Limits | None) -> None:
        self.attempts = Attempts(model)
        self.known: dict[_Key, Count] = {}
        self.ahead = limits and [_ahead(does, limits) for does in self.attempts.automata]

    def count(self) -> Count:
        """Depth first, with a stack of our own: a run may be longer than Python's."""
        first = (self.attempts.initial, 0)
        stack = [first]
        following: dict[_Key, list[_Key]] = {}  # of those on the way to where we are
        passed: set[State] = set()
        while stack:
            key = stack[-1]
            if key in self.known:
                stack.pop()
            elif key in following:
                self.known[key] = sum((self.known[to] for to in following.pop(key)), Count())
                passed.remove(key[0])
            else:
                found = self._following(key)
                if isinstance(found, Count):
                    self.known[key] = found
                    continue
                passed.add(key[0])
                if any(to in passed for to, _ in found):
                    raise CyclicModelError
                following[key] = found
                stack += found
        return self.known[first]

    def _following(self, key: _Key) -> list[_Key] | Count:
        """What is to be counted instead of a state and a sleep set; its count, if that is known."""
        state, sleep = key
        tried = self.attempts.all_at(state)
        able = sum(1 << task for task, attempt in enumerate(tried) if attempt and attempt.steps)
        if not able:
            stuck = self.attempts.stuck(state)
            return Count(deadlocked=1) if stuck else Count(complete=1)
        found: list[_Key] = []
        for task in _tasks(self._enough(state, tried, able, sleep) & ~sleep):
            mine = tried[task]
            assert mine is not None
            still = _undisturbed(sleep, mine, tried)
            found += [(state.after(task, step), still) for step in mine.steps]
            sleep |= 1 << task
        return found or Count(blocked=1)

    def _enough(self, state: State, tried: list[Attempt | None], able: int, sleep: int) -> int:
        """Tasks with one of which everything that may follow can begin."""
        if not self.ahead:
            return able
        places = enumerate(state.places)
        ahead = [self.ahead[task][place] for task, place in places]
        groups = (_group(task, tried, ahead) & able for task in _tasks(able))
        return min(groups, key=lambda group: (group & ~sleep).bit_count())


def _group(task: int, tried: list[Attempt | None], ahead: list[Footprint]) -> int:
    """A task and others, none of whose next steps the rest may ever conflict with: bits."""
    group, todo = 1 << task, [task]
    while todo:
        mine = tried[todo.pop()]
        assert mine is not None
        for other, its in enumerate(ahead):
            if not group >> other & 1 and its.conflicts(mine.footprint):
                group |= 1 << other
                todo.append(other)
    return group


def _ahead(does: Automaton, limits: Limits) -> list[Footprint]:
    """What a task may touch from each of its places on."""
    ahead = [limits(operation) if operation else NOTHING for operation in does.operations]
    while True:
        further = [
            mine.union(*(ahead[to] for to in edges.values()))
            for mine, edges in zip(ahead, does.edges, strict=True)
        ]
        if further == ahead:
            return ahead
        ahead = further


def _tasks(bits: int) -> Iterator[int]:
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


def _undisturbed(sleep: int, mine: Attempt, tried: list[Attempt | None]) -> int:
    """Those of the sleeping tasks that a step does not wake, as nothing they do conflicts."""
    still = 0
    for task in _tasks(sleep):
        attempt = tried[task]
        if attempt and not attempt.footprint.conflicts(mine.footprint):
            still |= 1 << task
    return still
