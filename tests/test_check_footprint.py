"""Whichever way an operation looks at the memory, it is seen to look."""

from collections.abc import Callable
from operator import add, eq, le
from typing import Any

import pytest

from memreap.check.footprint import Footprint, Watched, read_by, watch
from memreap.check.operation import BLOCK, AnyOf, Memory, Operation, UndeclaredResultError, Var

VALUES = (5, 6, 7)
ALL = 0b111
X, Y, Z = (Var(i, name, 0) for i, name in enumerate("xyz"))


def unpack(s: Memory) -> Any:
    a, _, _ = s
    return a


def extend(s: Memory) -> Any:
    grown: list[Any] = []
    grown.extend(s)
    return grown


def match(s: Memory) -> Any:
    match s:
        case [5, *_]:
            return True
    return False


LOOKS: dict[str, tuple[Callable[[Memory], Any], int]] = {
    "index": (lambda s: s[Y], 0b010),
    "from the end": (lambda s: s[-1], 0b100),
    "slice": (lambda s: s[0:2], 0b011),
    "slice backwards": (lambda s: s[::-2], 0b101),
    "length": (len, 0), "truth": (bool, 0),
    "as far as it goes": (lambda s: next(value for value in s if value == 6), 0b011),
    "reversed": (lambda s: next(iter(reversed(s))), 0b100),
    "in": (lambda s: 5 in s, ALL),
    "equal": (lambda s: s == [5, 6, 7], ALL),
    "equal from the left": (lambda s: eq([5, 6, 7], s), ALL),
    "equal to a tuple": (lambda s: eq((5, 6, 7), s), ALL),
    "unequal": (lambda s: s != [1], ALL),
    "less": (lambda s: s < [9], ALL),
    "less from the left": (lambda s: le([1], s), ALL),
    "list": (list, ALL), "tuple": (tuple, ALL), "sorted": (sorted, ALL), "sum": (sum, ALL),
    "star": (lambda s: [*s], ALL),
    "arguments": (lambda s: max(*s), ALL),
    "unpacked": (unpack, ALL),
    "matched": (match, 0b001),
    "copy": (lambda s: s.copy(), ALL),
    "count": (lambda s: s.count(5), ALL),
    "where": (lambda s: s.index(6), ALL),
    "plus": (lambda s: add(s, [1]), ALL),
    "plus from the left": (lambda s: add([1], s), ALL),
    "times": (lambda s: s * 2, ALL), "times from the left": (lambda s: 2 * s, ALL),
    "text": (repr, ALL),
    "extend": (extend, ALL),
}  # fmt: skip


@pytest.mark.parametrize("way", LOOKS)
def test_it_is_seen_to_look(way: str) -> None:
    look, reads = LOOKS[way]
    seen = Watched(VALUES)
    assert look(seen) == look(Memory(VALUES))
    assert seen.footprint() == Footprint(reads, 0)


def test_it_is_seen_to_write() -> None:
    seen = Watched(VALUES)
    seen[Z] = 7
    seen[-2] = 1
    assert seen.footprint() == Footprint(0, 0b110)
    seen[0:2] = [3, 4]
    assert seen.footprint() == Footprint(0, ALL)
    seen[Y] += 1
    assert seen.footprint() == Footprint(0b010, ALL)
    assert seen.values() == (3, 5, 7)
    assert seen.footprint() == Footprint(0b010, ALL)


CHANGES: dict[str, Callable[[Memory], Any]] = {
    "append": lambda s: s.append(1),
    "extend": lambda s: s.extend([1]),
    "insert": lambda s: s.insert(0, 1),
    "pop": lambda s: s.pop(),
    "remove": lambda s: s.remove(5),
    "clear": lambda s: s.clear(),
    "sort": lambda s: s.sort(),
    "reverse": lambda s: s.reverse(),
    "delete": lambda s: s.__delitem__(0),
    "add in place": lambda s: s.__iadd__([1]),
    "multiply in place": lambda s: s.__imul__(2),
}


@pytest.mark.parametrize("way", CHANGES)
def test_it_has_the_variables_that_it_has(way: str) -> None:
    seen = Watched(VALUES)
    with pytest.raises(TypeError, match="one by one"):
        CHANGES[way](seen)
    assert seen.values() == VALUES


def test_a_slice_of_another_length_is_refused() -> None:
    with pytest.raises(AssertionError):
        Watched(VALUES)[0:2] = [1]


def test_a_variable_that_is_not_there() -> None:
    seen = Watched(VALUES)
    with pytest.raises(IndexError):
        seen[3]
    with pytest.raises(IndexError):
        seen[3] = 1
    assert seen.footprint() == Footprint(0, 0)


def trylock(s: Memory) -> bool:
    if s[X]:
        return False
    s[X] = 1
    return True


def half(s: Memory) -> Any:
    """Has written when it finds that it must wait: so it has not."""
    s[X] = 1
    return BLOCK if s[Y] else None


def toss(s: Memory) -> Any:
    s[Z] = 0
    s.breaks("p", "why")
    return AnyOf((True, False))


def test_the_footprint_depends_on_what_comes_of_it() -> None:
    operation = Operation(trylock, (), (True, False), "trylock")
    outcomes, footprint = watch(operation, (0, 0, 0))
    assert [one.after for one in outcomes] == [(1, 0, 0)]
    assert footprint == Footprint(0b001, 0b001)
    outcomes, footprint = watch(operation, (1, 0, 0))
    assert [one.after for one in outcomes] == [(1, 0, 0)]
    assert footprint == Footprint(0b001, 0)


def test_what_blocks_has_only_looked() -> None:
    operation = Operation(half, (), (None,), "half")
    assert watch(operation, (0, 1, 0)) == ([], Footprint(0b010, 0))
    assert watch(operation, (0, 0, 0))[1] == Footprint(0b010, 0b001)


def test_all_results_and_what_it_breaks() -> None:
    operation = Operation(toss, (), (True, False), "toss")
    outcomes, footprint = watch(operation, VALUES)
    assert outcomes == operation.outcomes(VALUES)
    assert [one.result for one in outcomes] == [True, False]
    assert outcomes[0].broken == (("p", "why"),)
    assert footprint == Footprint(0, 0b100)


def test_a_result_that_was_not_declared() -> None:
    with pytest.raises(UndeclaredResultError, match="trylock"):
        watch(Operation(trylock, (), (True,), "trylock"), (1, 0, 0))


def test_conflicts() -> None:
    reads, writes, elsewhere = Footprint(1, 0), Footprint(0, 1), Footprint(2, 2)
    assert not reads.conflicts(reads)
    assert reads.conflicts(writes)
    assert writes.conflicts(reads)
    assert writes.conflicts(writes)
    assert not writes.conflicts(elsewhere)


def test_a_predicate_is_seen_to_look() -> None:
    assert read_by(lambda s: bool(s[X] == 0 or s[Y]), (0, 1, 0)) == (True, 0b001)
    assert read_by(lambda s: bool(s[X] == 0 or s[Y]), (1, 0, 0)) == (False, 0b011)
