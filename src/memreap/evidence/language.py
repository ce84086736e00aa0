"""Whether a sequence of events is one that a model allows: the subset construction.

1. A trace is accepted when some run of the model shows these letters, in this order, and none
   beside them. It may stop anywhere: that something has to happen is asked of no trace.
2. What is known after some letters is the set of states in which the model may then be, closed
   under silent steps. When it is empty, no run shows the last letter.
3. Sets and what follows from them are remembered: kills of one kind pass through the same ones.
4. Where the order of time will not do, any other will that the clocks allow: see ``order``.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from memreap.check.model import Model
from memreap.check.space import Component, Space
from memreap.evidence.alphabet import Letter, Observed, Seen
from memreap.evidence.order import Orders
from memreap.evidence.reading import Line

STATES_MAX = 200_000

States = frozenset[int]
NONE: States = frozenset()


class TooLargeError(Exception):
    """The model may be in too many states; one line for people."""


class _Part(NamedTuple):
    """A task, and where in it what may be seen, or happen without being seen."""

    component: Component
    shown: tuple[frozenset[Letter], ...]  # by place
    is_silent: tuple[bool, ...]
    is_prompt: tuple[bool, ...]

    def place(self, state: int) -> int:
        """Where it is."""
        return (state & self.component.low) >> self.component.shift


class Language:
    """All sequences of letters that a model allows."""

    def __init__(self, model: Model, hidden: frozenset[Seen] = frozenset()) -> None:
        """``hidden``: letters of these kinds are silent."""
        self.space = Space(model)
        self._hidden = hidden
        self._parts = [self._part(component) for component in self.space.components]
        self._by_who: dict[str, list[_Part]] = {}
        for part in self._parts:
            for who in {letter.who for shown in part.shown for letter in shown}:
                self._by_who.setdefault(who, []).append(part)
        self._silent: dict[int, tuple[bool, list[int]]] = {}
        self._after: dict[tuple[States, Letter], States] = {}
        self.first = self._closed([self.space.initial])

    def _part(self, component: Component) -> _Part:
        operations = component.automaton.operations
        seen = [one if isinstance(one, Observed) else None for one in operations]
        return _Part(
            component,
            tuple(self._shown(one) if one else frozenset() for one in seen),
            tuple(
                one is not None and (ahead is None or self._may_be_silent(ahead))
                for one, ahead in zip(operations, seen, strict=True)
            ),
            tuple(one is not None and one.is_prompt for one in seen),
        )

    def _shown(self, ahead: Observed) -> frozenset[Letter]:
        return frozenset(one for one in ahead.letters() if one.seen not in self._hidden)

    def _may_be_silent(self, ahead: Observed) -> bool:
        letters = [ahead.letter(result) for result in ahead.results]
        return any(one is None or one.seen in self._hidden for one in letters)

    def after(self, states: States, letter: Letter) -> States:
        """Where the model may be once this is seen."""
        known = self._after.get((states, letter))
        if known is None:
            reached = [to for state in states for to in self._show(state, letter)]
            known = self._after[states, letter] = self._closed(reached)
        return known

    def letters(self, states: States) -> set[Letter]:
        """What may be seen next."""
        shown = (part.shown[part.place(state)] for state in states for part in self._parts)
        letters: set[Letter] = set().union(*shown)
        return {one for one in letters if self.after(states, one)}

    def __len__(self) -> int:
        """How many states of the model were looked at."""
        return len(self._silent)

    def _show(self, state: int, letter: Letter) -> Iterator[int]:
        """Where a state goes as this is seen."""
        for part in self._by_who.get(letter.who, ()):
            place = part.place(state)
            if letter not in part.shown[place]:
                continue
            ahead = part.component.automaton.operations[place]
            assert isinstance(ahead, Observed)
            if letter in ahead.stays:
                yield state
            for move in self.space.moves_of(part.component, state):
                if ahead.letter(move.outcome.result) == letter:
                    yield move.after

    def _closed(self, states: Iterable[int]) -> States:
        """With all that silent steps lead to; without states that are left at once."""
        todo, met, closed = list(states), set(states), set()
        while todo:
            state = todo.pop()
            stays, silent = self._go_on(state)
            if stays:
                closed.add(state)
            for to in silent:
                if to not in met:
                    met.add(to)
                    todo.append(to)
        return frozenset(closed)

    def _go_on(self, state: int) -> tuple[bool, list[int]]:
        """Whether a state may be stayed in, and where silent steps lead."""
        known = self._silent.get(state)
        if known is None:
            if len(self._silent) >= STATES_MAX:
                raise TooLargeError(f"more than {STATES_MAX:,} states of the model")
            known = self._silent[state] = self._work_out(state)
        return known

    def _work_out(self, state: int) -> tuple[bool, list[int]]:
        silent: list[int] = []
        for part in self._parts:
            place = part.place(state)
            if not part.is_silent[place]:
                continue
            ahead = part.component.automaton.operations[place]
            steps = [
                move.after
                for move in self.space.moves_of(part.component, state)
                if not isinstance(ahead, Observed) or self._is_silent(ahead, move.outcome.result)
            ]
            if part.is_prompt[place] and steps:
                return False, steps
            silent += steps
        return True, silent

    def _is_silent(self, ahead: Observed, result: Any) -> bool:
        letter = ahead.letter(result)
        return letter is None or letter.seen in self._hidden


@dataclass(frozen=True, slots=True)
class Followed:
    """How far a trace is one of the model's.

    ``refused``: the first event that is not allowed, None where all are; ``states``: where the
    model may be before it, or at the end. ``swaps``: whether events had to change places.
    """

    refused: int | None
    states: States
    swaps: bool = False


def follow(language: Language, lines: Sequence[Line]) -> Followed:
    """In the order of time; where that is not allowed, in any order that the clocks allow."""
    states = language.first
    for number, line in enumerate(lines):
        after = language.after(states, line.letter)
        if not after:
            strict = Followed(number, states)
            loose = _follow_loosely(language, lines)
            return loose if loose.refused is None or loose.refused > number else strict
        states = after
    return Followed(None, states)


def _follow_loosely(language: Language, lines: Sequence[Line]) -> Followed:
    """Rule 4: every order that is possible, at once. What has happened is a count a CPU."""
    orders = Orders(lines)
    level: dict[tuple[int, ...], States] = {(0,) * len(orders.cpus): language.first}
    for _ in lines:
        following: dict[tuple[int, ...], States] = {}
        for counts, states in level.items():
            for number, then in orders.following(counts):
                after = language.after(states, lines[number].letter)
                if after:
                    following[then] = following.get(then, NONE) | after
        if not following:
            counts = max(level, key=orders.first)
            return Followed(orders.first(counts), level[counts], swaps=True)
        level = following
    return Followed(None, NONE.union(*level.values()), swaps=True)
