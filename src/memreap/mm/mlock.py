"""Locked areas. mm/mlock.c, until 5.17: since then a page is munlocked as it is unmapped."""

from memreap.check.operation import BOOL, Memory, Steps, operation
from memreap.mm.mm_struct import MmStruct


@operation(BOOL)
def can_madv_dontneed_vma(s: Memory, mm: MmStruct) -> bool:
    """Whether the reaper may empty it: not while it is locked."""
    return not s[mm.vm_locked]


@operation()
def clear_vm_locked(s: Memory, mm: MmStruct) -> None:
    """``vma->vm_flags &= VM_LOCKED_CLEAR_MASK``."""
    s[mm.vm_locked] = False


@operation(BOOL)
def follow_page_mask(s: Memory, mm: MmStruct) -> bool:
    """Find a page's table, and its lock; they are used a moment later."""
    s[mm.munlocking] = True
    return True


@operation()
def munlock_vma_page(s: Memory, mm: MmStruct) -> None:
    """Use the lock."""
    s[mm.munlocking] = False


def munlock_vma_pages_all(mm: MmStruct) -> Steps:
    """Unlock every page, without ``mmap_lock``."""
    yield clear_vm_locked(mm)
    yield follow_page_mask(mm)
    yield munlock_vma_page(mm)
