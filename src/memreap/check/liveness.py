"""What must come at some time: asked of the whole graph that a search has found.

1. ``CAN``: from every state there is a way to one that is as it should be.
2. ``EVENTUALLY``: every fair run comes to one. It is broken by a run that stays away for ever: one
   that stops where no fair task can go on, or one that goes round.
3. Going round is fair when each fair task that can take a step somewhere in it takes one in it
   (strong fairness, as locks give it that hand over to who waits longest). That is asked of
   strongly connected components; from one that is not fair to a task, the states in which that
   task could go on are taken away, and what is left is asked again.
4. The graph has every task by its name: a search with symmetry cannot be asked.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from memreap.check.model import Asked, Kind
from memreap.check.operation import Memory
from memreap.check.search import NOBODY, Broken, Exploration
from memreap.check.space import Component, Space

Goal = Callable[[int], bool]
Edge = tuple[Component, int]


class NeedsEveryTaskError(ValueError):
    """Liveness was asked of a search that took tasks for one another, or did not see everything."""


def ask(found: Exploration) -> None:
    """Note in ``found`` which of the model's liveness properties are broken.

    Raises NeedsEveryTaskError.
    """
    asked = [one for one in found.space.model.asked if one.kind in {Kind.CAN, Kind.EVENTUALLY}]
    if not asked:
        return
    if any(len(part.members) > 1 for part in found.space.components) or not found.complete:
        raise NeedsEveryTaskError("liveness needs a complete search without symmetry")
    for one in asked:
        ask_one = _can if one.kind is Kind.CAN else _eventually
        broken = ask_one(found, one, _goal(found.space, one))
        if broken and one.prop not in found.broken:
            found.broken[one.prop] = broken


def _goal(space: Space, asked: Asked) -> Goal:
    """The predicate, evaluated once for each memory."""
    known: dict[int, bool] = {}
    bits, holds = space.bits, asked.holds
    assert holds is not None

    def reached(state: int) -> bool:
        number = state >> bits
        found = known.get(number)
        if found is None:
            found = known[number] = holds(Memory(space.memories[number]))
        return found

    return reached


def _can(found: Exploration, asked: Asked, reached: Goal) -> Broken | None:
    before: dict[int, list[int]] = {}
    for state in found.parents:
        for after in found.space.successors(state):
            before.setdefault(after, []).append(state)
    can = {state for state in found.parents if reached(state)}
    todo = deque(can)
    while todo:
        for state in before.get(todo.popleft(), ()):
            if state not in can:
                can.add(state)
                todo.append(state)
    # States stand in the order in which they were found: the first is a nearest.
    for state in found.parents:
        if state not in can:
            return Broken(asked.prop, asked.why, state)
    return None


def _eventually(found: Exploration, asked: Asked, reached: Goal) -> Broken | None:
    region = _region(found, reached)
    space = found.space
    fair = [part for part in space.components if space.model.tasks[part.members[0]].fair]
    for state in region:
        if not any(space.deltas(part, state) for part in fair):
            return Broken(asked.prop, asked.why, state, via=_via(region, state))
    order = {state: number for number, state in enumerate(region)}
    ring = min(
        _fair_rings(space, region, fair),
        key=lambda ring: min(map(order.__getitem__, ring)),
        default=None,
    )
    if ring is None:
        return None
    start = min(ring, key=order.__getitem__)
    cycle = _tour(space, ring, fair, start)
    return Broken(asked.prop, asked.why, start, via=_via(region, start), cycle=tuple(cycle))


def _fair_rings(
    space: Space, states: Collection[int], fair: list[Component]
) -> Iterator[Collection[int]]:
    for ring in _Tarjan(space, states).rings():
        starved = [part for part in fair if _is_starved(space, ring, part)]
        if not starved:
            yield ring
            continue
        rest = {s for s in ring if not any(space.deltas(part, s) for part in starved)}
        yield from _fair_rings(space, rest, fair)


def _is_starved(space: Space, ring: Collection[int], part: Component) -> bool:
    """Whether a task could take a step somewhere in a ring, and takes none that stays in it."""
    able = [state for state in ring if space.deltas(part, state)]
    return bool(able) and _step_within(space, ring, part) is None


def _region(found: Exploration, reached: Goal) -> dict[int, int]:
    """States that a run can come to without having been where it should come; with parents."""
    first = found.space.initial
    if reached(first):
        return {}
    region = {first: NOBODY}
    todo = deque([first])
    while todo:
        state = todo.popleft()
        for after in found.space.successors(state):
            if after not in region and not reached(after):
                region[after] = state
                todo.append(after)
    return region


def _via(region: dict[int, int], state: int) -> tuple[int, ...]:
    states = [state]
    while (state := region[state]) != NOBODY:
        states.append(state)
    return tuple(states[::-1])


def _edges(space: Space, state: int, within: Collection[int]) -> Iterator[Edge]:
    for part in space.components:
        for delta in space.deltas(part, state):
            if state + delta in within:
                yield part, state + delta


@dataclass(slots=True)
class _Visit:
    state: int
    index: int
    onward: Iterator[Edge]


@dataclass(slots=True)
class _Tarjan:
    """Strongly connected components, without recursion."""

    space: Space
    region: Collection[int]
    low: dict[int, int] = field(default_factory=dict)
    stack: list[int] = field(default_factory=list)
    waiting: set[int] = field(default_factory=set)

    def rings(self) -> Iterator[set[int]]:
        """Those that one can go round in."""
        for root in self.region:
            if root not in self.low:
                for ring in self._from(root):
                    if len(ring) > 1 or _turns_on_itself(self.space, next(iter(ring))):
                        yield ring

    def _from(self, root: int) -> Iterator[set[int]]:
        low = self.low
        visits = [self._enter(root)]
        while visits:
            visit = visits[-1]
            for _, after in visit.onward:
                if after not in low:
                    visits.append(self._enter(after))
                    break
                if after in self.waiting:
                    low[visit.state] = min(low[visit.state], low[after])
            else:
                visits.pop()
                if visits:
                    above = visits[-1].state
                    low[above] = min(low[above], low[visit.state])
                if low[visit.state] == visit.index:
                    yield self._close(visit.state)

    def _enter(self, state: int) -> _Visit:
        index = self.low[state] = len(self.low)
        self.stack.append(state)
        self.waiting.add(state)
        return _Visit(state, index, _edges(self.space, state, self.region))

    def _close(self, state: int) -> set[int]:
        ring = set()
        while state not in ring:
            ring.add(self.stack.pop())
        self.waiting -= ring
        return ring


def _turns_on_itself(space: Space, state: int) -> bool:
    return any(0 in space.deltas(part, state) for part in space.components)


def _step_within(space: Space, ring: Collection[int], part: Component) -> tuple[int, int] | None:
    """A step of a task that stays in a ring."""
    for state in ring:
        for delta in space.deltas(part, state):
            if state + delta in ring:
                return state, state + delta
    return None


def _tour(space: Space, ring: Collection[int], fair: list[Component], start: int) -> list[int]:
    """A way round from ``start`` back to it that is fair to everyone; ``start`` comes last."""
    states: list[int] = []
    here = start
    for part in fair:
        step = _step_within(space, ring, part)
        if step is not None:
            states += [*_within(space, ring, here, step[0]), step[1]]
            here = step[1]
    return states + _within(space, ring, here, start)


def _within(space: Space, ring: Collection[int], here: int, there: int) -> list[int]:
    """A shortest way inside a ring, without its beginning."""
    parents = {here: NOBODY}
    todo = deque([here])
    while there not in parents:
        state = todo.popleft()
        for _, after in _edges(space, state, ring):
            if after not in parents:
                parents[after] = state
                todo.append(after)
    return list(_via(parents, there))[1:]
