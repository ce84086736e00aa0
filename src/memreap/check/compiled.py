"""The inner loops of the accelerated search, compiled by numba when this file is imported.

Only loops over arrays live here.

1. A pair is two numbers, ``wide`` (64 bits, signed, wrapping) and ``memory``. The nth pair stands
   at ``wides[n]`` and ``memories[n]``; ``slots`` is an open-addressing table of them: the memory
   + 1 above 32 bits, n below, 0 where a slot is empty.
2. A state is a pair: its tasks' places, and its memory.
3. What a component does at a place is looked up in ``cells``, which has a row for each memory, if
   the component has columns there; otherwise in a second table of pairs, of places and memories.
4. What is looked up is the first of its steps. A step has what it adds to the places, and the
   memory afterwards; the last one is followed by END.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.int64]
Halves = npt.NDArray[np.uint32]
Cells = npt.NDArray[np.int32]
Whole = int | np.int64

LOW: Final = 0xFFFFFFFF
END: Final = 0xFFFFFFFF
UNKNOWN: Final = -1
WANTED: Final = -2  # unknown, and already asked for
NO_COLUMNS: Final = -1
PRIMES: Final = (-7046029254386353131, -4417276706812531889)  # odd at least, and look random

Function = TypeVar("Function", bound=Callable[..., Any])

_WORDS, _HALVES, _CELLS, _ROWS = "int64[::1]", "uint32[::1]", "int32[::1]", "int64[:, ::1]"


def compiled(signature: str) -> Callable[[Function], Function]:
    """Compile a function, and keep the outcome on disk where there is a place for it."""

    def decorate(function: Function) -> Function:
        made: Any
        try:
            made = numba.njit(signature, cache=True)(function)
        except (OSError, RuntimeError):  # no directory can be written to, or the disk is full
            made = numba.njit(signature)(function)
        return cast(Function, made)

    return decorate


@compiled(f"int64({_WORDS}, {_WORDS}, int64, int64)")
def seek(slots: Words, wides: Words, wide: Whole, memory: Whole) -> Whole:
    """The slot in which a pair is, or the empty one in which it belongs."""
    mask = slots.size - 1
    mixed = (wide ^ (memory * PRIMES[1])) * PRIMES[0]
    mixed ^= mixed >> 32
    at = ((mixed * PRIMES[0]) >> 24) & mask
    while True:
        slot = slots[at]
        if slot == 0 or (slot >> 32 == memory + 1 and wides[slot & LOW] == wide):
            return at
        at = (at + 1) & mask


@compiled(f"void({_WORDS}, {_WORDS}, {_HALVES}, int64)")
def enter(slots: Words, wides: Words, memories: Halves, count: int) -> None:
    """Enter the first ``count`` pairs in an empty table."""
    for n in range(count):
        memory = np.int64(memories[n])
        slots[seek(slots, wides, wides[n], memory)] = (memory + 1) << 32 | n


@compiled(f"int64(int64, int64, int64, {_ROWS}, int64, {_WORDS}, {_WORDS})")
def cell(  # noqa: PLR0917
    part: int, wide: Whole, memory: Whole, parts: Words, row: int, slots: Words, wides: Words
) -> Whole:
    """Where to look up what a component does: a cell, or -1 - a slot."""
    place: Whole = (wide >> parts[part, 0]) & parts[part, 1]
    if parts[part, 2] != NO_COLUMNS:
        at: Whole = memory * row + parts[part, 2] + place
        return at
    return -1 - seek(slots, wides, place * parts.shape[0] + part, memory)


@compiled(
    f"int64(int64, int64, {_WORDS}, {_HALVES}, {_ROWS}, int64, {_CELLS},"
    f" {_WORDS}, {_WORDS}, {_HALVES}, int64, {_ROWS})"
)
def unknown(  # noqa: PLR0917
    begin: int,
    end: int,
    state_wides: Words,
    state_memories: Halves,
    parts: Words,
    row: int,
    cells: Cells,
    slots: Words,
    wides: Words,
    memories: Halves,
    pairs: int,
    wanted: Words,
) -> int:
    """What is not known yet of these states, in the order in which a plain search would ask.

    Fills ``wanted`` with (state, component, cell or -1 - pair), and says how many there are.
    """
    count = 0
    for state in range(begin, end):
        wide, memory = state_wides[state], np.int64(state_memories[state])
        for part in range(parts.shape[0]):
            at = cell(part, wide, memory, parts, row, slots, wides)
            if at >= 0:
                if cells[at] != UNKNOWN:
                    continue
                cells[at] = WANTED
            else:
                if slots[-1 - at] != 0:
                    continue
                slots[-1 - at] = (memory + 1) << 32 | pairs
                wides[pairs] = ((wide >> parts[part, 0]) & parts[part, 1]) * parts.shape[0] + part
                memories[pairs] = memory
                at = -1 - pairs
                pairs += 1
            wanted[count, 0], wanted[count, 1], wanted[count, 2] = state, part, at
            count += 1
    return count


@compiled(
    f"void(int64, int64, {_WORDS}, {_WORDS}, {_WORDS}, {_HALVES}, {_HALVES}, {_HALVES},"
    f" {_ROWS}, int64, {_CELLS}, {_WORDS}, {_WORDS}, {_CELLS}, {_WORDS}, {_HALVES})"
)
def advance(  # noqa: PLR0917
    begin: int,
    end: int,
    counts: Words,
    slots: Words,
    wides: Words,
    memories: Halves,
    parents: Halves,
    dead_ends: Halves,
    parts: Words,
    row: int,
    cells: Cells,
    pair_slots: Words,
    pair_wides: Words,
    pair_firsts: Cells,
    step_wides: Words,
    step_memories: Halves,
) -> None:
    """Every step out of these states. There must be room for all that it may find.

    ``counts``: states, transitions, dead ends.
    """
    states, transitions, dead = counts[0], counts[1], 0
    for state in range(begin, end):
        wide, memory = wides[state], np.int64(memories[state])
        before = transitions
        for part in range(parts.shape[0]):
            at = cell(part, wide, memory, parts, row, pair_slots, pair_wides)
            step = np.int64(cells[at] if at >= 0 else pair_firsts[pair_slots[-1 - at] & LOW])
            while step_memories[step] != END:
                wide_after = wide + step_wides[step]
                memory_after = np.int64(step_memories[step])
                slot = seek(slots, wides, wide_after, memory_after)
                if slots[slot] == 0:
                    slots[slot] = (memory_after + 1) << 32 | states
                    wides[states] = wide_after
                    memories[states] = memory_after
                    parents[states] = state
                    states += 1
                transitions += 1
                step += 1
        if before == transitions:
            dead_ends[dead] = state
            dead += 1
    counts[0], counts[1], counts[2] = states, transitions, dead
