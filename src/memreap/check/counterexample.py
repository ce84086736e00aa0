"""One run, told step by step: who did what, what it changed, where it was interrupted.

Only values and how they are made from a search live here; how they look is for others. A run that
was found is a shortest one; of those that do the same in another order, one with few changes of
task is told, since it is read more easily.
"""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memreap.check.search import Broken, Exploration
from memreap.check.space import Move, Space


@dataclass(frozen=True, slots=True)
class Change:
    """A variable, what it is after a step, and what it was before."""

    variable: str
    now: str
    was: str


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of one task. ``preempts``: the task of the step before could have gone on."""

    task: str
    operation: str
    result: str | None
    changes: tuple[Change, ...]
    preempts: bool
    breaks: str | None  # why, when this is the step that breaks the property


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A run that breaks a property. After the steps, ``cycle`` goes round for ever, if there."""

    prop: str
    why: str
    tasks: tuple[str, ...]
    steps: tuple[Step, ...]
    cycle: tuple[Step, ...] = ()
    waiting: tuple[str, ...] = ()  # tasks that have not ended, and what each stands before

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def counterexample(found: Exploration, broken: Broken) -> Counterexample:
    """How a property is broken. The search must have been one without symmetry."""
    space = found.space
    moves = _moves(space, found.path(broken), broken.prop)
    if not broken.cycle:
        moves = _calmed(space, moves, broken)
    round_ = _moves(space, [broken.state, *broken.cycle], None) if broken.cycle else []
    steps = _told(space, moves, broken, space.initial)
    return Counterexample(
        broken.prop,
        broken.why,
        tuple(task.name for task in space.model.tasks),
        steps,
        _told(space, round_, None, broken.state),
        () if broken.before is not None else _waiting(space, broken.state, round_),
    )


def _moves(space: Space, states: Sequence[int], prop: str | None) -> list[Move]:
    """The step between each two states; where several are, the one that breaks the property."""
    return [
        max(
            (move for move in space.moves(here) if move.after == there),
            key=lambda move: any(name == prop for name, _ in move.outcome.broken),
        )
        for here, there in itertools.pairwise(states)
    ]


def _calmed(space: Space, moves: list[Move], broken: Broken) -> list[Move]:
    """The same steps in an order with fewer changes of task, the last one in its place."""
    keep = len(moves) - (1 if broken.before is not None else 0)
    changed = True
    while changed:
        changed = False
        for late in range(1, keep):
            for early in range(late):
                order = [*moves[:early], moves[late], *moves[early:late], *moves[late + 1 :]]
                if _switches(order) >= _switches(moves):
                    continue
                replayed = _replay(space, order, broken)
                if replayed:
                    moves, changed = replayed, True
    return moves


def _switches(moves: list[Move]) -> int:
    return sum(a.component is not b.component for a, b in itertools.pairwise(moves))


def _replay(space: Space, order: list[Move], broken: Broken) -> list[Move] | None:
    """The steps in another order, if that is possible, and comes to the same."""
    state, moves = space.initial, []
    for wanted in order:
        for move in space.moves_of(wanted.component, state):
            if move.outcome.result == wanted.outcome.result:
                moves.append(move)
                state = move.after
                break
        else:
            return None
    if state != broken.state:
        return None
    if {p for p, _ in moves[-1].outcome.broken} != {p for p, _ in order[-1].outcome.broken}:
        return None
    return moves


def _told(space: Space, moves: list[Move], broken: Broken | None, state: int) -> tuple[Step, ...]:
    steps: list[Step] = []
    last: Move | None = None
    for move in moves:
        number = move.component.members[0]
        ahead = move.component.automaton.operations[move.component.at(state)[0]]
        assert ahead is not None, "a task that has ended takes no step"
        before, after = space.memory(state), move.outcome.after
        was_able = last is not None and bool(space.deltas(last.component, state))
        is_last = move is moves[-1] and broken is not None
        steps.append(
            Step(
                space.model.tasks[number].name,
                str(ahead),
                None if move.outcome.result is None else shown(move.outcome.result),
                tuple(
                    Change(var.name, shown(after[var]), shown(before[var]))
                    for var in space.model.variables
                    if after[var] != before[var]
                ),
                was_able and last is not None and last.component is not move.component,
                _why(move, broken) if is_last and broken else None,
            )
        )
        state, last = move.after, move
    return tuple(steps)


def _why(move: Move, broken: Broken) -> str | None:
    if broken.before is None:
        return None
    said = [why for prop, why in move.outcome.broken if prop == broken.prop]
    return said[0] if said else broken.why


def _waiting(space: Space, state: int, round_: list[Move]) -> tuple[str, ...]:
    """Who is blocked, and goes no step in the round that follows, if any."""
    lines = []
    turning = [move.component for move in round_]
    for part in space.components:
        if part in turning:
            continue
        ahead = part.automaton.operations[part.at(state)[0]]
        if ahead is not None and not space.deltas(part, state):
            lines.append(f"{space.model.tasks[part.members[0]].name} waits in {ahead}")
    return tuple(lines)


def shown(value: Any) -> str:
    """A value as C programmers read it."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple):
        return ", ".join(map(shown, value)) or "empty"
    return str(value)
