"""What is explored: variables, tasks, and what is asked of them.

Only values live here; nothing is explored. A model says which properties it speaks of; a property
of which nothing can be said in a model is not in it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from memreap.check.operation import Memory, Operation, Steps, Var

Predicate = Callable[[Memory], bool]


class Kind(StrEnum):
    """How a property is asked."""

    STEP = "step"  # no step says that it breaks it
    ALWAYS = "always"  # true of the memory in every state
    AT_END = "at end"  # true of the memory wherever nothing can happen any more
    NO_DEADLOCK = "no deadlock"  # where nothing can happen any more, only who may wait is waiting
    CAN = "can"  # from every state a state of which it is true can be reached
    EVENTUALLY = "eventually"  # true at some time, however the tasks are scheduled, if fairly


@dataclass(frozen=True, slots=True)
class Asked:
    """One property, and how it is asked. ``why`` says what is wrong where it does not hold."""

    prop: str
    kind: Kind
    holds: Predicate | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One thread of control.

    One that is ``fair`` and can go on again and again, goes on at some time. ``may_wait``: where
    nothing can happen any more, it may be waiting. ``waits_in``: it may so before operations of
    these names alone (a daemon that waits for work is no deadlock, one that waits for a lock is).
    """

    name: str
    function: Callable[..., Steps]
    args: tuple[Any, ...] = ()
    fair: bool = True
    may_wait: bool = False
    waits_in: tuple[str, ...] = ()

    def may_wait_before(self, operation: Operation) -> bool:
        """Whether it is no deadlock that it waits there for ever."""
        return self.may_wait or operation.name in self.waits_in


@dataclass(slots=True)
class Model:
    """Variables, tasks, properties."""

    name: str = ""
    variables: list[Var] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)

    def var(self, name: str, initial: Any) -> Var:
        """A new shared variable. Its values must be hashable."""
        made = Var(len(self.variables), name, initial)
        self.variables.append(made)
        return made

    def begin_with(self, var: Var, initial: Any) -> None:
        """Another first value for a variable."""
        self.variables[var].initial = initial

    def task(
        self,
        name: str,
        function: Callable[..., Steps],
        *args: Any,
        fair: bool = True,
        may_wait: bool = False,
        waits_in: tuple[str, ...] = (),
    ) -> Task:
        """A new task. Those with the same function and arguments are interchangeable."""
        made = Task(name, function, args, fair, may_wait, waits_in)
        self.tasks.append(made)
        return made

    def ask(
        self, prop: str, kind: Kind = Kind.STEP, holds: Predicate | None = None, why: str = ""
    ) -> None:
        """Ask for a property."""
        needs = kind not in {Kind.STEP, Kind.NO_DEADLOCK}
        assert needs == (holds is not None), f"{prop}: {kind} needs a predicate, or has one"
        self.asked.append(Asked(prop, kind, holds, why))

    @property
    def initial(self) -> tuple[Any, ...]:
        """Every variable's first value, in order."""
        return tuple(var.initial for var in self.variables)

    def kinds(self) -> dict[str, Kind]:
        """How each property is asked."""
        return {asked.prop: asked.kind for asked in self.asked}
