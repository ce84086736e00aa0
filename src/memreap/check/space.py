"""The states of a model, each packed into one integer, and the steps between them.

1. A state is every task's place, in the low bits, and the number of a memory above them.
2. Memories are numbered as they are met; equal ones have one number.
3. What a task can do depends on its place and the memory alone: it is worked out once for each
   pair of them, as the differences that it makes to a state, and looked up ever after.
4. With symmetry, tasks that do the same are one component: its place is the sorted tuple of
   theirs, so that states which differ only in who is who are one.
5. What breaks is reported at the first state in which it can; breadth first, that is a nearest.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import comb
from typing import Any

from memreap.check.automaton import Automaton, automaton
from memreap.check.model import Kind, Model, Task
from memreap.check.operation import Memory, Operation, Outcome

Report = Callable[[str, str, int, int], None]
"""Called with (property, why, state, the state after the step) for each thing that breaks."""


_Effect = tuple[Any, int, tuple[tuple[str, str], ...]]  # a result, the memory after it, what breaks


@dataclass(slots=True)
class Component:
    """One task, or several that are interchangeable."""

    members: tuple[int, ...]  # of the model's tasks
    automaton: Automaton
    shift: int
    width: int
    low: int = 0  # the bits of its place
    mask: int = 0  # the bits of its place and of the memory
    places: list[tuple[int, ...]] = field(default_factory=list)
    numbers: dict[tuple[int, ...], int] = field(default_factory=dict)
    deltas: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by state & mask

    def number(self, places: tuple[int, ...]) -> int:
        """The members' places as one number."""
        if len(self.members) == 1:
            return places[0]
        found = self.numbers.get(places)
        if found is None:
            found = self.numbers[places] = len(self.places)
            self.places.append(places)
        return found

    def moved(self, places: tuple[int, ...], member: int, to: int) -> int:
        """The number of the places after a member has gone to another."""
        if len(places) == 1:
            return to
        return self.number(tuple(sorted((*places[:member], to, *places[member + 1 :]))))

    def at(self, state: int) -> tuple[int, ...]:
        """Every member's place in a state."""
        number = (state & self.low) >> self.shift
        return (number,) if len(self.members) == 1 else self.places[number]


@dataclass(frozen=True, slots=True)
class Move:
    """One step out of a state."""

    component: Component
    member: int  # of the component's members
    outcome: Outcome
    after: int


class Space:
    """A model, ready to be explored."""

    def __init__(self, model: Model, *, symmetry: bool = False) -> None:
        """``symmetry``: take tasks with the same function and arguments for one another."""
        self.model = model
        self.memories: list[tuple[Any, ...]] = []
        self.numbers: dict[tuple[Any, ...], int] = {}
        self.components: list[Component] = []
        self.bits = 0
        self.report: Report = lambda *_: None
        self._operations: dict[int, dict[int, list[_Effect]]] = {}  # by identity: cheap to look up
        self._alike: dict[Operation, dict[int, list[_Effect]]] = {}
        self._always = [asked for asked in model.asked if asked.kind is Kind.ALWAYS]
        learnt: dict[Any, Automaton] = {}
        for members in _groups(model.tasks, symmetry):
            task = model.tasks[members[0]]
            does = (task.function, task.args)
            if does not in learnt:
                learnt[does] = automaton(*does)
            self._add(members, learnt[does])
        for component in self.components:
            component.low = ((1 << component.width) - 1) << component.shift
            component.mask = component.low | (-1 << self.bits)
        self.initial = self._pack()

    def _add(self, members: tuple[int, ...], learnt: Automaton) -> None:
        count = comb(len(learnt) + len(members) - 1, len(members))
        width = max(1, (count - 1).bit_length())
        self.components.append(Component(members, learnt, self.bits, width))
        self.bits += width

    def _pack(self) -> int:
        state = self.memory_number(self.model.initial) << self.bits
        for component in self.components:
            state |= component.number((0,) * len(component.members)) << component.shift
        return state

    def memory_number(self, memory: tuple[Any, ...]) -> int:
        """The number of a memory."""
        found = self.numbers.get(memory)
        if found is None:
            found = self.numbers[memory] = len(self.memories)
            self.memories.append(memory)
        return found

    def memory(self, state: int) -> tuple[Any, ...]:
        """The memory of a state."""
        return self.memories[state >> self.bits]

    def deltas(self, component: Component, state: int) -> tuple[int, ...]:
        """What a component can add to a state: one number a step, none where it is blocked."""
        key = state & component.mask
        known = component.deltas.get(key)
        if known is None:
            known = self._work_out(component, state)
            component.deltas[key] = known
        return known

    def _work_out(self, component: Component, state: int) -> tuple[int, ...]:
        """As :meth:`moves_of` tells it, without the telling: this is what a small search costs."""
        memory, places, known = state >> self.bits, component.at(state), component.automaton
        number = (state & component.low) >> component.shift
        before = len(self.memories)
        deltas = []
        for member, place in enumerate(places):
            operation = known.operations[place]
            if operation is None or place in places[:member]:
                continue
            for result, after, broken in self._effects(operation, memory):
                moved = component.moved(places, member, known.edges[place][result])
                delta = (after - memory << self.bits) + (moved - number << component.shift)
                deltas.append(delta)
                for prop, why in broken:
                    self.report(prop, why, state, state + delta)
                if after >= before:
                    before = after + 1
                    self.look(state, state + delta)
        return tuple(deltas)

    def _effects(self, operation: Operation, memory: int) -> list[_Effect]:
        """An operation's outcomes; many tasks do the same to the same memory."""
        mine = self._operations.get(id(operation))
        if mine is None:
            mine = self._operations[id(operation)] = self._alike.setdefault(operation, {})
        known = mine.get(memory)
        if known is None:
            known = mine[memory] = [
                (outcome.result, self.memory_number(outcome.after), outcome.broken)
                for outcome in operation.outcomes(self.memories[memory])
            ]
        return known

    def look(self, before: int, state: int) -> None:
        """Whether what must always be true is true of a memory, seen here for the first time."""
        for asked in self._always:
            assert asked.holds is not None
            if not asked.holds(Memory(self.memory(state))):
                self.report(asked.prop, asked.why, before, state)

    def moves_of(self, component: Component, state: int) -> Iterator[Move]:
        """Every step of a component, in full; members in the same place are taken for one."""
        places, memory = component.at(state), self.memory(state)
        known = component.automaton
        seen = set()
        for member, place in enumerate(places):
            operation = known.operations[place]
            if operation is None or place in seen:
                continue
            seen.add(place)
            for outcome in operation.outcomes(memory):
                to = known.edges[place][outcome.result]
                moved = (*places[:member], to, *places[member + 1 :])
                if len(places) > 1:
                    moved = tuple(sorted(moved))
                after = self.memory_number(outcome.after) << self.bits
                after |= state & ((1 << self.bits) - 1) & ~component.low
                after |= component.number(moved) << component.shift
                yield Move(component, member, outcome, after)

    def moves(self, state: int) -> Iterator[Move]:
        """Every step out of a state, in full."""
        for component in self.components:
            yield from self.moves_of(component, state)

    def successors(self, state: int) -> list[int]:
        """Where one step leads; a state again where a step changes nothing."""
        return [state + delta for part in self.components for delta in self.deltas(part, state)]

    def stuck(self, state: int) -> list[Task]:
        """Of a state in which nothing can happen: who waits there, and must not."""
        return [
            self.model.tasks[number]
            for component in self.components
            for number, place in zip(component.members, component.at(state), strict=True)
            if (operation := component.automaton.operations[place]) is not None
            and not self.model.tasks[number].may_wait_before(operation)
        ]


def _groups(tasks: list[Task], symmetry: bool) -> list[tuple[int, ...]]:
    if not symmetry:
        return [(number,) for number in range(len(tasks))]

    def alike(number: int) -> int:
        task = tasks[number]
        same = replace(task, name="")
        return next(i for i, other in enumerate(tasks) if replace(other, name="") == same)

    ordered = sorted(range(len(tasks)), key=lambda number: (alike(number), number))
    return [tuple(group) for _, group in groupby(ordered, key=alike)]
