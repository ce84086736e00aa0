"""What each task can do at each place in each memory: tried once, and remembered.

The ground on which ``dpor`` and ``oracle`` stand. Nothing is explored here.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from memreap.check.automaton import Automaton, automaton
from memreap.check.footprint import Footprint, watch
from memreap.check.model import Model


class CyclicModelError(ValueError):
    """A model that can come back to a state: its runs have no end."""

    def __init__(self) -> None:
        """Where, nobody would recognise."""
        super().__init__("the model can come back to a state: it has runs without an end")


class Step(NamedTuple):
    """One result of an attempt, and where it leads."""

    result: Any
    place: int
    memory: int
    broken: tuple[tuple[str, str], ...]


class Attempt(NamedTuple):
    """What a task can do in a memory; ``steps`` is empty when it is blocked."""

    steps: tuple[Step, ...]
    footprint: Footprint


@dataclass(frozen=True, slots=True)
class State:
    """The number of the memory, and every task's place."""

    memory: int
    places: tuple[int, ...]

    def after(self, task: int, step: Step) -> "State":
        """The state that a task's step leads to."""
        places = (*self.places[:task], step.place, *self.places[task + 1 :])
        return State(step.memory, places)


class Attempts:
    """What the tasks of a model can do: worked out once for each place and memory."""

    def __init__(self, model: Model) -> None:
        """Learn the tasks. Raises EndlessTaskError."""
        self.model = model
        learnt: dict[Any, Automaton] = {}
        for task in model.tasks:
            does = (task.function, task.args)
            if does not in learnt:
                learnt[does] = automaton(*does)
        self.automata = [learnt[task.function, task.args] for task in model.tasks]
        self.memories: list[tuple[Any, ...]] = []
        self._numbers: dict[tuple[Any, ...], int] = {}
        # Tasks that do the same have one dictionary.
        known: dict[int, dict[tuple[int, int], Attempt | None]] = {}
        self._known = [known.setdefault(id(does), {}) for does in self.automata]
        self.initial = State(self._number(model.initial), (0,) * len(model.tasks))

    def _number(self, memory: tuple[Any, ...]) -> int:
        found = self._numbers.setdefault(memory, len(self.memories))
        if found == len(self.memories):
            self.memories.append(memory)
        return found

    def at(self, task: int, place: int, memory: int) -> Attempt | None:
        """What a task can do; None when it has ended."""
        known = self._known[task]
        key = (place, memory)
        if key not in known:
            known[key] = self._work_out(self.automata[task], place, memory)
        return known[key]

    def _work_out(self, does: Automaton, place: int, memory: int) -> Attempt | None:
        operation = does.operations[place]
        if operation is None:
            return None
        outcomes, touched = watch(operation, self.memories[memory])
        edges = does.edges[place]
        steps = [
            Step(one.result, edges[one.result], self._number(one.after), one.broken)
            for one in outcomes
        ]
        return Attempt(tuple(steps), touched)

    def stuck(self, state: State) -> list[str]:
        """Of a state in which nothing can happen: who waits there, and must not."""
        return [
            task.name
            for task, does, place in zip(self.model.tasks, self.automata, state.places, strict=True)
            if (operation := does.operations[place]) and not task.may_wait_before(operation)
        ]

    def all_at(self, state: State) -> list[Attempt | None]:
        """What each task can do in a state."""
        return [self.at(task, place, state.memory) for task, place in enumerate(state.places)]
