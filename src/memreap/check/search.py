"""Every state of a model, breadth first: what holds, what breaks, and a shortest way to it.

Only the search lives here. It asks what can be told of a state or a step by itself; what needs
the whole graph (:mod:`memreap.check.liveness`) comes afterwards.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from memreap.check.model import Kind, Model
from memreap.check.operation import Memory
from memreap.check.space import Space

Progress = Callable[[int], None]
"""Called with the number of states found so far, a level at a time."""

NOBODY = -1  # the parent of the first state


@dataclass(frozen=True, slots=True)
class Broken:
    """Where a property does not hold.

    ``state``: the last one of a shortest way to it. ``before``: the one that precedes it, where
    the last step itself is what breaks it. ``via``: every state on the way, where a shortest way
    will not do. ``cycle``: the states that are then passed for ever.
    """

    prop: str
    why: str
    state: int
    before: int | None = None
    via: tuple[int, ...] = ()
    cycle: tuple[int, ...] = ()


@dataclass(slots=True)
class Exploration:
    """What was found."""

    space: Space
    parents: Mapping[int, int]  # of each state, the one it was first reached from
    transitions: int = 0
    dead_ends: list[int] = field(default_factory=list)  # nothing can happen any more
    broken: dict[str, Broken] = field(default_factory=dict)  # by property, the nearest
    complete: bool = True  # every state was seen

    @property
    def states(self) -> int:
        """How many there are."""
        return len(self.parents)

    def path(self, broken: Broken) -> list[int]:
        """Every state from the first one to where a property is broken, the last step's too."""
        if broken.via:
            return list(broken.via)
        states = way(self, broken.state if broken.before is None else broken.before)
        if broken.before is not None and broken.before != broken.state:
            states.append(broken.state)
        return states

    def steps(self, broken: Broken) -> int:
        """How many steps it takes to break it; of what goes on for ever, to its beginning."""
        return len(self.path(broken)) - 1


def explore(
    model: Model,
    *,
    symmetry: bool = False,
    states_max: int | None = None,
    progress: Progress | None = None,
) -> Exploration:
    """Search all of a model, or its first ``states_max`` states and the rest of their level.

    With ``symmetry`` the counts are of states up to a renaming of tasks that do the same.
    """
    space = Space(model, symmetry=symmetry)
    parents = {space.initial: NOBODY}
    found = Exploration(space, parents)
    begin(found)
    frontier = [space.initial]
    while frontier:
        if states_max is not None and len(parents) >= states_max:
            found.complete = False
            break
        frontier = _level(found, parents, frontier)
        if progress:
            progress(len(parents))
    at_dead_ends(found)
    return found


def begin(found: Exploration) -> None:
    """Note what breaks, from now on; look at the first memory."""

    def report(prop: str, why: str, before: int, state: int) -> None:
        if prop not in found.broken:
            found.broken[prop] = Broken(prop, why, state, before)

    found.space.report = report
    found.space.look(found.space.initial, found.space.initial)


def _level(found: Exploration, parents: dict[int, int], frontier: list[int]) -> list[int]:
    """The states that are one step further. This loop is the cost of a search."""
    space, dead_ends = found.space, found.dead_ends
    parts = [(part.mask, part.deltas.get, part) for part in space.components]
    work_out = space.deltas
    following: list[int] = []
    append = following.append
    transitions = 0
    for state in frontier:
        before = transitions
        for mask, lookup, part in parts:
            deltas = lookup(state & mask)
            if deltas is None:
                deltas = work_out(part, state)
            for delta in deltas:
                transitions += 1
                after = state + delta
                if after not in parents:
                    parents[after] = state
                    append(after)
        if before == transitions:
            dead_ends.append(state)
    found.transitions += transitions
    return following


def at_dead_ends(found: Exploration) -> None:
    """What is asked of states in which nothing can happen any more; the nearest come first."""
    space, model = found.space, found.space.model
    at_end = [asked for asked in model.asked if asked.kind is Kind.AT_END]
    no_deadlock = [asked for asked in model.asked if asked.kind is Kind.NO_DEADLOCK]
    for state in found.dead_ends:
        for asked in at_end:
            assert asked.holds is not None
            if asked.prop not in found.broken and not asked.holds(Memory(space.memory(state))):
                found.broken[asked.prop] = Broken(asked.prop, asked.why, state)
        if not no_deadlock:
            continue
        stuck = space.stuck(state)
        for asked in no_deadlock if stuck else ():
            names = ", ".join(task.name for task in stuck)
            found.broken.setdefault(
                asked.prop, Broken(asked.prop, f"for ever waiting: {names}", state)
            )


def way(found: Exploration, state: int) -> list[int]:
    """A shortest way from the first state: every state on it, both ends included."""
    states = [state]
    while (state := found.parents[state]) != NOBODY:
        states.append(state)
    return states[::-1]
