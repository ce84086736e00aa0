"""What an operation reads and writes, found by trying it on a memory that watches.

1. A footprint belongs to one operation in one memory: a lock that was not got is only read.
2. An operation that blocks has read what it looked at, and written nothing.
3. Two steps whose footprints do not conflict can change places: each still does what it did.
4. Variables are bits, so that two footprints are compared by two ands.
"""

from collections.abc import Iterator
from dataclasses import replace
from operator import index
from typing import Any, Final, NamedTuple, NoReturn, SupportsIndex

from memreap.check.model import Predicate
from memreap.check.operation import Memory, Operation, Outcome


class Footprint(NamedTuple):
    """The variables that a step reads and writes, a bit each."""

    reads: int
    writes: int

    def conflicts(self, other: "Footprint") -> bool:
        """One of the two writes what the other one touches."""
        return bool(
            self.writes & (other.reads | other.writes) or other.writes & (self.reads | self.writes)
        )

    def union(self, *others: "Footprint") -> "Footprint":
        """What any of them touches."""
        reads, writes = self
        for other in others:
            reads |= other.reads
            writes |= other.writes
        return Footprint(reads, writes)


NOTHING: Final = Footprint(0, 0)


class Watched(Memory):
    """A memory that notes which of its variables are looked at and changed.

    To look at it as a whole is to read all of it. Its length is no variable, and cannot change.
    """

    __slots__ = ("reads", "writes")
    __hash__ = None  # type: ignore[assignment]  # as of any list

    def __init__(self, values: tuple[Any, ...]) -> None:
        """``values``: of all variables, in order."""
        super().__init__(values)
        self.reads = 0
        self.writes = 0

    def footprint(self) -> Footprint:
        """What was touched so far."""
        return Footprint(self.reads, self.writes)

    def values(self) -> tuple[Any, ...]:
        """All variables, without being seen to look."""
        return tuple(list.__iter__(self))

    def _bits(self, key: SupportsIndex | slice) -> int:
        if isinstance(key, slice):
            return sum(1 << i for i in range(*key.indices(len(self))))
        place = index(key)
        return 1 << (place + len(self) if place < 0 else place)

    def _all(self) -> None:
        self.reads |= (1 << len(self)) - 1

    def __getitem__(self, key: Any) -> Any:
        """Reads."""
        value = super().__getitem__(key)
        self.reads |= self._bits(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        """Writes. A value that is the same is written all the same."""
        before = len(self)
        bits = self._bits(key) if isinstance(key, slice) or -before <= index(key) < before else 0
        super().__setitem__(key, value)
        assert len(self) == before, "a slice of the memory is replaced by one as long"
        self.writes |= bits

    def __iter__(self) -> Iterator[Any]:
        """Reads each variable as it comes to it."""
        return (self[i] for i in range(len(self)))

    def __reversed__(self) -> Iterator[Any]:
        """Reads each variable as it comes to it."""
        return (self[i] for i in reversed(range(len(self))))


def _reading_all(name: str) -> Any:
    plain = getattr(list, name)

    def method(self: Watched, *args: Any) -> Any:
        self._all()
        for other in args:
            if isinstance(other, Watched):
                other._all()
        return plain(self, *args)

    method.__name__ = name
    method.__doc__ = "Reads all variables."
    return method


def _refused(name: str) -> Any:
    def method(*_: Any, **__: Any) -> NoReturn:
        raise TypeError(f"{name}: an operation writes variables one by one, s[var] = value")

    method.__name__ = name
    method.__doc__ = "Not for a memory."
    return method


# C code goes round __getitem__ in these, as nothing can in the rest.
for _name in (
    *("__contains__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__repr__"),
    *("__add__", "__mul__", "__rmul__", "index", "count", "copy"),
):
    setattr(Watched, _name, _reading_all(_name))
setattr(Watched, "__radd__", lambda self, other: other + self.copy())  # noqa: B010
for _name in (
    *("append", "extend", "insert", "pop", "remove", "clear", "sort", "reverse"),
    *("__delitem__", "__iadd__", "__imul__"),
):
    setattr(Watched, _name, _refused(_name))


def watch(operation: Operation, shared: tuple[Any, ...]) -> tuple[list[Outcome], Footprint]:
    """What comes of an operation, nothing when it blocks, and what it touched to find that out."""
    touched = NOTHING

    def watched(s: Memory, *args: Any) -> Any:
        nonlocal touched
        seen = Watched(shared)
        result = operation.function(seen, *args)
        touched = seen.footprint()
        s[:] = seen.values()
        s.broken = seen.broken
        return result

    outcomes = list(replace(operation, function=watched).outcomes(shared))
    return outcomes, touched if outcomes else Footprint(touched.reads, 0)


def read_by(predicate: Predicate, memory: tuple[Any, ...]) -> tuple[bool, int]:
    """Whether a predicate is true of a memory, and the variables that it looked at, as bits."""
    seen = Watched(memory)
    return predicate(seen), seen.reads
