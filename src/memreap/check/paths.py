"""How many interleavings there are, and in how many of them a task has to wait somewhere.

Only counting along the whole graph lives here: exact, in whole numbers, by one pass in topological
order. A model whose tasks can go round has no number of interleavings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from memreap.check.search import Exploration
from memreap.check.space import Space


class EndlessError(ValueError):
    """There are infinitely many interleavings."""


@dataclass(frozen=True, slots=True)
class Share:
    """How often something happens.

    ``chance``: its probability when, at each step, every step that is possible is equally likely.
    """

    interleavings: int
    of_them: int
    states: int
    of_states: int
    chance: float

    @property
    def share(self) -> float:
        """Of all interleavings."""
        return float(Fraction(self.of_them, self.interleavings))


def share(found: Exploration, happens: Callable[[Space, int], bool]) -> Share:
    """In how many interleavings a state occurs of which ``happens`` is true.

    Raises EndlessError.
    """
    space = found.space
    seen = {state: happens(space, state) for state in found.parents}
    ways = {space.initial: 1}
    quiet = {space.initial: int(not seen[space.initial])}
    odds = {space.initial: float(quiet[space.initial])}
    total, without, chance = 0, 0, 0.0
    for state in _topological(found):
        successors = space.successors(state)
        if not successors:
            total, without, chance = (
                total + ways[state],
                without + quiet[state],
                chance + odds[state],
            )
        for after in successors:
            ways[after] = ways.get(after, 0) + ways[state]
            passes = not seen[after]
            quiet[after] = quiet.get(after, 0) + quiet[state] * passes
            odds[after] = odds.get(after, 0.0) + odds[state] * passes / len(successors)
    return Share(total, total - without, len(seen), sum(seen.values()), 1.0 - chance)


def _topological(found: Exploration) -> list[int]:
    """States, each after all from which it can be reached (Kahn)."""
    space = found.space
    missing: dict[int, int] = {}
    for state in found.parents:
        for after in space.successors(state):
            missing[after] = missing.get(after, 0) + 1
    order = [space.initial] if space.initial not in missing else []
    for state in order:
        for after in space.successors(state):
            missing[after] -= 1
            if not missing[after]:
                order.append(after)
    if len(order) != found.states:
        raise EndlessError("a task can go round for ever: there is no number of interleavings")
    return order


def stands_at(task: str, operation: str) -> Callable[[Space, int], bool]:
    """Whether a task stands before an operation of that name."""

    def stands(space: Space, state: int) -> bool:
        return any(
            space.model.tasks[part.members[0]].name == task
            and (ahead := part.automaton.operations[part.at(state)[0]]) is not None
            and ahead.name == operation
            for part in space.components
        )

    return stands


def waits_at(task: str, operation: str) -> Callable[[Space, int], bool]:
    """Whether it stands there, and the operation cannot happen now."""
    stands = stands_at(task, operation)

    def waits(space: Space, state: int) -> bool:
        return stands(space, state) and not any(
            space.deltas(part, state)
            for part in space.components
            if space.model.tasks[part.members[0]].name == task
        )

    return waits
