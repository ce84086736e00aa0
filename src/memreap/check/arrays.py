"""The arrays of the accelerated search: the states found, and what is known of their steps.

Only what fills the arrays, makes room in them and reads them lives here; the loops over them are
in :mod:`memreap.check.compiled`. To import it loads numpy and numba.
"""

from collections.abc import Iterator, Mapping
from math import comb
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from memreap.check import compiled
from memreap.check.compiled import END, NO_COLUMNS, UNKNOWN, Cells, Halves, Words
from memreap.check.search import NOBODY
from memreap.check.space import Component, Space

WORD: Final = (1 << 64) - 1
MEMORIES_MAX: Final = (1 << 31) - 1  # a memory's number + 1 stands in 31 bits
STATES_MAX: Final = 1 << 32  # a state's number stands in 32 bits
SLOTS_MIN: Final = 1 << 17
LOAD_MAX: Final = 0.7  # of a table; at 0.8 a search for what is not there takes twice as long
ROW_MAX: Final = 512  # cells a memory, so 2 KiB: about what Python's own memo of it takes
CHUNK_STEPS: Final = 1 << 16  # taken at the most between two looks around, some 10 ms

Array = TypeVar("Array", bound=npt.NDArray[Any])


def room(array: Array, count: int, more: int, fill: int | None = None) -> Array:
    """The array, or one at least twice as long that begins with its first ``count``.

    What lies beyond costs no memory until it is touched.
    """
    if count + more <= len(array):
        return array
    longer = np.empty(max(2 * len(array), count + more), array.dtype)
    longer[:count] = array[:count]
    if fill is not None:
        longer[count:] = fill
    return longer  # type: ignore[return-value]


class Table:
    """Pairs of a number of 64 bits and a memory, in the order in which they came."""

    def __init__(self) -> None:
        """An empty one."""
        self.slots: Words = np.zeros(SLOTS_MIN, np.int64)
        self.wides: Words = np.empty(SLOTS_MIN, np.int64)
        self.memories: Halves = np.empty(SLOTS_MIN, np.uint32)

    def make_room(self, count: int, more: int) -> None:
        """Let ``more`` be entered after the first ``count``."""
        self.wides = room(self.wides, count, more)
        self.memories = room(self.memories, count, more)
        size = len(self.slots)
        while count + more > LOAD_MAX * size:
            size *= 2
        if size > len(self.slots):
            del self.slots  # before the next is there: this is the most that a search ever needs
            self.slots = np.zeros(size, np.int64)
            compiled.enter(self.slots, self.wides, self.memories, count)


class States(Mapping[int, int]):
    """Every state found, in order; a mapping of each to the one it was first reached from."""

    def __init__(self, first: int, bits: int) -> None:
        """``bits``: of the places."""
        self.bits, self.low = bits, (1 << bits) - 1
        self.table = Table()
        self.table.wides[0], self.table.memories[0] = _signed(first & self.low), first >> bits
        compiled.enter(self.table.slots, self.table.wides, self.table.memories, 1)
        self.parents: Halves = np.zeros(SLOTS_MIN, np.uint32)
        self.counts: Words = np.array([1, 0, 0])  # states, transitions, dead ends in the chunk

    def make_room(self, more: int) -> None:
        """Let ``more`` be found."""
        count = len(self)
        assert count + more <= STATES_MAX, "more states than 32 bits can number"
        self.table.make_room(count, more)
        self.parents = room(self.parents, count, more)

    def states(self, begin: int, end: int) -> list[int]:
        """As a plain search numbers them."""
        wides, memories = self.table.wides[begin:end], self.table.memories[begin:end]
        return self.together(wides, memories)

    def together(self, wides: Words, memories: Halves) -> list[int]:
        """Places and memories as states."""
        bits, low = self.bits, self.low
        pairs = zip(wides.tolist(), memories.tolist(), strict=True)
        return [memory << bits | wide & low for wide, memory in pairs]

    def __getitem__(self, state: int) -> int:
        """The state from which it was first reached."""
        memory, table = state >> self.bits, self.table
        if not 0 <= memory < MEMORIES_MAX:
            raise KeyError(state)
        at = compiled.seek(table.slots, table.wides, _signed(state & self.low), memory)
        slot = int(table.slots[at])
        if slot == 0:
            raise KeyError(state)
        number = slot & compiled.LOW
        parent = int(self.parents[number])
        return self.states(parent, parent + 1)[0] if number else NOBODY

    def __len__(self) -> int:
        """How many there are."""
        return int(self.counts[0])

    def __iter__(self) -> Iterator[int]:
        """The states, nearest first."""
        for begin in range(0, len(self), CHUNK_STEPS):
            yield from self.states(begin, min(begin + CHUNK_STEPS, len(self)))


class Known:
    """What each component does at a place and a memory, as far as anyone asked."""

    def __init__(self, space: Space) -> None:
        """Nothing, so far."""
        self.space = space
        sizes = [_places(component) for component in space.components]
        columns = _columns(sizes)
        self.row = sum(
            size for size, column in zip(sizes, columns, strict=True) if column != NO_COLUMNS
        )
        self.parts: Words = np.array(
            [
                (component.shift, (1 << component.width) - 1, column)
                for component, column in zip(space.components, columns, strict=True)
            ],
            np.int64,
        ).reshape(-1, 3)
        self.cells: Cells = np.full(self.row * len(space.memories), UNKNOWN, np.int32)
        self.pairs = Table()
        self.count = 0  # of pairs
        self.pair_firsts: Cells = np.empty(SLOTS_MIN, np.int32)
        self.adds: Words = np.zeros(SLOTS_MIN, np.int64)
        self.afters: Halves = np.full(SLOTS_MIN, END, np.uint32)
        self.steps = 1  # the first is an END: what there is to do where a component is blocked
        self.most = 1  # steps of a component out of a state

    @property
    def fan(self) -> int:
        """How many steps out of one state there may be."""
        return self.most * len(self.space.components)

    def learn(self, states: States, begin: int, end: int) -> None:
        """Whatever is needed to go on from these states."""
        wanted: Words = np.empty(((end - begin) * len(self.parts), 3), np.int64)
        self.pairs.make_room(self.count, len(wanted))
        self.pair_firsts = room(self.pair_firsts, self.count, len(wanted))
        count = compiled.unknown(
            begin,
            end,
            states.table.wides,
            states.table.memories,
            self.parts,
            self.row,
            self.cells,
            self.pairs.slots,
            self.pairs.wides,
            self.pairs.memories,
            self.count,
            wanted,
        )
        if count:
            self._fill(states, wanted[:count])

    def _fill(self, states: States, wanted: Words) -> None:
        numbers, cells = wanted[:, 0], wanted[:, 2]
        asked = states.together(states.table.wides[numbers], states.table.memories[numbers])
        firsts = self._work_out(list(zip(asked, wanted[:, 1].tolist(), strict=True)))
        in_row = cells >= 0
        self.cells[cells[in_row]] = firsts[in_row]
        self.pair_firsts[-1 - cells[~in_row]] = firsts[~in_row]
        self.count += len(cells) - int(in_row.sum())
        used, memories = len(self.cells), len(self.space.memories)
        assert memories <= MEMORIES_MAX, "more memories than 31 bits can number"
        self.cells = room(self.cells, used, max(0, self.row * memories - used), UNKNOWN)

    def _work_out(self, asked: list[tuple[int, int]]) -> Cells:
        """Let Python say what is done; the first step of each that was asked."""
        space, bits, low = self.space, self.space.bits, (1 << self.space.bits) - 1
        firsts: list[int] = []
        adds: list[int] = []
        afters: list[int] = []
        for state, part in asked:
            deltas = space.deltas(space.components[part], state)
            firsts.append(self.steps + len(adds) if deltas else 0)
            if not deltas:
                continue
            self.most = max(self.most, len(deltas))
            places = state & low
            for delta in deltas:
                after = state + delta
                adds.append((after & low) - places & WORD)
                afters.append(after >> bits)
            adds.append(0)
            afters.append(END)
        count, more = self.steps, len(adds)
        self.adds, self.afters = room(self.adds, count, more), room(self.afters, count, more)
        self.adds[count : count + more] = np.array(adds, np.uint64).view(np.int64)
        self.afters[count : count + more] = afters
        self.steps += more
        return np.array(firsts, np.int32)

    def advance(self, states: States, begin: int, end: int) -> list[int]:
        """Take every step out of these states. Those out of which there is none."""
        states.make_room((end - begin) * self.fan)
        dead_ends: Halves = np.empty(end - begin, np.uint32)
        compiled.advance(
            begin,
            end,
            states.counts,
            states.table.slots,
            states.table.wides,
            states.table.memories,
            states.parents,
            dead_ends,
            self.parts,
            self.row,
            self.cells,
            self.pairs.slots,
            self.pairs.wides,
            self.pair_firsts,
            self.adds,
            self.afters,
        )
        dead = dead_ends[: int(states.counts[2])]
        return states.together(states.table.wides[dead], states.table.memories[dead])


def _signed(wide: int) -> int:
    return wide - (WORD + 1) if wide >> 63 else wide


def _places(component: Component) -> int:
    """How many numbers its place may have, at the most."""
    members = len(component.members)
    return comb(len(component.automaton) + members - 1, members)


def _columns(sizes: list[int]) -> list[int]:
    """Where each component's cells begin in a row; the smallest ones first, while there is room."""
    columns = [NO_COLUMNS] * len(sizes)
    used = 0
    for part in sorted(range(len(sizes)), key=lambda part: sizes[part]):
        if used + sizes[part] > ROW_MAX:
            break
        columns[part] = used
        used += sizes[part]
    return columns
