"""Daemons that scan address spaces, and how an ending one parts from them. mm/ksm.c,
mm/khugepaged.c, mm/mm_slot.h: ksmd and khugepaged do it alike.

The slot of an address space is 0: unknown to the daemon, 1: on its list, 2: under its cursor.
"""

from typing import TYPE_CHECKING, Literal

from memreap.check.operation import BOOL, Memory, Steps, operation
from memreap.mm.fork import mmdrop
from memreap.mm.memory import vma_first, vma_last
from memreap.mm.mm_struct import MmapLock, MmStruct
from memreap.mm.mmap_lock import (
    mmap_read_lock,
    mmap_read_trylock,
    mmap_read_unlock,
    mmap_write_lock,
    mmap_write_unlock,
)

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel

UNKNOWN, LISTED, AT_CURSOR = range(3)
Parting = Literal["unknown", "easy", "at the cursor"]


@operation(("unknown", "easy", "at the cursor"))
def mm_slot_lookup(s: Memory, mm: MmStruct) -> Parting:
    """Under ``ksm_mmlist_lock``: take the slot off the list, unless the cursor is on it."""
    if s[mm.slot] == LISTED:
        s[mm.slot] = UNKNOWN
        return "easy"
    return "at the cursor" if s[mm.slot] == AT_CURSOR else "unknown"


def mm_slot_exit(k: "Kernel", mm: MmStruct) -> Steps:
    """``__ksm_exit``, ``__khugepaged_exit``: wait for the daemon only where it is right here."""
    found = yield mm_slot_lookup(mm)
    if found == "easy":
        yield mmdrop(mm)
    elif found == "at the cursor" and k.ksm_exit_waits:
        yield mmap_write_lock(mm)
        yield mmap_write_unlock(mm)


@operation(BOOL)
def move_cursor(s: Memory, mm: MmStruct) -> bool:
    """Bring the cursor here, if the slot is on the list."""
    if s[mm.slot] != LISTED:
        return False
    s[mm.slot] = AT_CURSOR
    return True


@operation(BOOL)
def ksm_test_exit(s: Memory, mm: MmStruct) -> bool:
    """``mm_users == 0``: ``hpage_collapse_test_exit`` is the same."""
    mm.touch(s)
    return bool(s[mm.mm_users] == 0)


@operation()
def remove_slot(s: Memory, mm: MmStruct) -> None:
    """Forget the address space. Its reference is the daemon's to drop."""
    s[mm.slot] = UNKNOWN


@operation()
def leave_slot(s: Memory, mm: MmStruct) -> None:
    """Move the cursor on and unlock, both under ``ksm_mmlist_lock``: thereafter it may be gone."""
    mm.touch(s)
    s[mm.slot] = LISTED
    s[mm.mmap_lock] = MmapLock(s[mm.mmap_lock] - 1)


def ksmd(mm: MmStruct) -> Steps:
    """``scan_get_next_rmap_item``: one round, which waits for the lock."""
    if not (yield move_cursor(mm)):
        return
    yield mmap_read_lock(mm)
    yield from _scan(mm)


def khugepaged(mm: MmStruct) -> Steps:
    """``khugepaged_scan_mm_slot``: one round, which does not wait for the lock."""
    if not (yield move_cursor(mm)):
        return
    if not (yield mmap_read_trylock(mm)):
        yield from _collect(mm)
        return
    yield from _scan(mm)


def _scan(mm: MmStruct) -> Steps:
    """Look around, unless the address space is ending; with the lock."""
    if (yield ksm_test_exit(mm)):
        yield remove_slot(mm)
        yield mmap_read_unlock(mm)
        yield mmdrop(mm)
        return
    if (yield vma_first(mm)):
        yield follow_page(mm)
        yield vma_last(mm)
    yield leave_slot(mm)


def _collect(mm: MmStruct) -> Steps:
    """``collect_mm_slot``, without the lock: forget it if it is ending, else move on."""
    if (yield forget_or_move_on(mm)):
        yield mmdrop(mm)


@operation(BOOL)
def forget_or_move_on(s: Memory, mm: MmStruct) -> bool:
    """Under ``khugepaged_mm_lock``; whether its reference is now to be dropped."""
    mm.touch(s)
    is_ending = s[mm.mm_users] == 0
    s[mm.slot] = UNKNOWN if is_ending else LISTED
    return bool(is_ending)


@operation()
def follow_page(s: Memory, mm: MmStruct) -> None:
    """Look at a page in its page table."""
    if not s[mm.pgtables]:
        s.breaks("pgtables-in-use", "looks into a page table that was freed")
