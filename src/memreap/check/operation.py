"""What a task yields: one atomic step on the shared variables.

Only variables, operations and the memory that they work on live here. A task is a generator of
operations; an operation sees the shared variables and nothing else, so that its effect is a
function of them and can be remembered.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec

P = ParamSpec("P")

BOOL: Final = (False, True)


class Block:
    """The type of :data:`BLOCK`."""

    def __repr__(self) -> str:
        """As it is written."""
        return "BLOCK"


BLOCK: Final = Block()
"""An operation returns it when it cannot happen now; the task waits, and nothing has changed."""


class Var(int):
    """A shared variable: its index in the memory, with a name and the value it begins with."""

    name: str
    initial: Any

    def __new__(cls, index: int, name: str, initial: Any) -> "Var":
        """``index``: its place among the model's variables."""
        var = super().__new__(cls, index)
        var.name, var.initial = name, initial
        return var

    def __repr__(self) -> str:
        """Its name."""
        return self.name


class Memory(list[Any]):
    """The shared variables as one step sees them: ``s[var]``, read and written in place."""

    __slots__ = ("broken",)

    def __init__(self, values: Iterable[Any] = ()) -> None:
        """``values``: of all variables, in order."""
        super().__init__(values)
        self.broken: tuple[tuple[str, str], ...] = ()

    def breaks(self, prop: str, why: str) -> None:
        """This step breaks a property. It is noted, and the exploration goes on all the same."""
        self.broken += ((prop, why),)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """What an operation returns when its result is open: each of these is explored."""

    results: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Operation:
    """A function on the memory, and its arguments. Equal ones do the same."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    results: tuple[Any, ...]
    name: str

    def __str__(self) -> str:
        """As it would be called. What is said by yes or no is left out: it says nothing here."""
        shown = [_shown(arg) for arg in self.args if not isinstance(arg, bool)]
        return f"{self.name}({', '.join(shown)})"

    def outcomes(self, shared: tuple[Any, ...]) -> "Sequence[Outcome]":
        """What comes of it; nothing when it blocks. Raises UndeclaredResultError."""
        s = Memory(shared)
        result = self.function(s, *self.args)
        if result is BLOCK:
            return ()
        after = tuple(s)
        results = result.results if isinstance(result, AnyOf) else (result,)
        for one in results:
            if one not in self.results:
                declared = ", ".join(map(repr, self.results))
                raise UndeclaredResultError(
                    f"{self} gave {one!r}, which is none of the results it declares: {declared}"
                )
        return [Outcome(one, after, s.broken) for one in results]


class Outcome(NamedTuple):
    """A result, the memory afterwards, and the properties that the step breaks, with why."""

    result: Any
    after: tuple[Any, ...]
    broken: tuple[tuple[str, str], ...]


class UndeclaredResultError(ValueError):
    """An operation returned what it had not declared."""


def _shown(arg: Any) -> str:
    if isinstance(arg, tuple):
        return "{" + ", ".join(_shown(one) for one in arg) + "}"
    return str(arg) if type(arg) is not int else repr(arg)


Steps = Generator[Operation, Any, Any]
"""A task, or a part of one: yields operations, is sent each one's result."""


@dataclass(frozen=True, slots=True)
class Become:
    """What a task returns to go on as another, or as itself from the beginning."""

    function: Callable[..., Steps]
    args: tuple[Any, ...]


def become(function: Callable[P, Steps], *args: P.args, **kwargs: P.kwargs) -> Become:
    """``return become(reaper, k)``: how a loop that may go round for ever is written.

    A task's place is known by all the results it was sent; to begin afresh forgets them.
    """
    assert not kwargs, "a task's arguments are given by position"
    return Become(function, args)


def operation(
    results: Iterable[Any] | Callable[..., Iterable[Any]] = (None,), name: str | None = None
) -> Callable[[Callable[Concatenate[Memory, P], Any]], Callable[P, Operation]]:
    """Make a function on the memory one that makes operations.

    ``results``: everything that it may ever return, or a function of its arguments that says so.
    Each is followed before the exploration begins, so that places from which a task goes on alike
    are known to be one.
    """
    fixed = None if callable(results) else tuple(results)

    def decorate(function: Callable[Concatenate[Memory, P], Any]) -> Callable[P, Operation]:
        label = name or getattr(function, "__name__", "operation").strip("_")

        def make(*args: P.args, **kwargs: P.kwargs) -> Operation:
            assert not kwargs, f"{label}: arguments are given by position, and so compare"
            domain = tuple(results(*args)) if callable(results) else fixed
            assert domain is not None
            return Operation(function, args, domain, label)

        make.__name__ = label
        make.__doc__ = function.__doc__
        return make

    return decorate


def choose(options: int, what: str = "choose") -> Operation:
    """A number below ``options``; every one is explored."""
    return Operation(_choose, (options,), tuple(range(options)), what)


def _choose(s: Memory, options: int) -> AnyOf:
    del s
    return AnyOf(tuple(range(options)))
