"""Locks. include/linux/mmap_lock.h, kernel/locking/; the bit operations of include/linux/bitops.h.

Every function is one atomic step. A writer that waits keeps no reader out here, nor makes a trylock
fail; in the kernel it does.
"""

from memreap.check.operation import BLOCK, BOOL, Block, Memory, Var, operation
from memreap.mm.mm_struct import Flags, MmapLock, MmStruct


@operation(BOOL)
def mmap_read_trylock(s: Memory, mm: MmStruct) -> bool:
    """``down_read_trylock(&mm->mmap_sem)`` before 5.8."""
    mm.touch(s)
    if s[mm.mmap_lock] < 0:
        return False
    s[mm.mmap_lock] = MmapLock(s[mm.mmap_lock] + 1)
    return True


@operation()
def mmap_read_lock(s: Memory, mm: MmStruct) -> Block | None:
    """Waits for a writer."""
    mm.touch(s)
    if s[mm.mmap_lock] < 0:
        return BLOCK
    s[mm.mmap_lock] = MmapLock(s[mm.mmap_lock] + 1)
    return None


@operation()
def mmap_read_unlock(s: Memory, mm: MmStruct) -> None:
    """The other end of it."""
    mm.touch(s)
    s[mm.mmap_lock] = MmapLock(s[mm.mmap_lock] - 1)


@operation()
def mmap_write_lock(s: Memory, mm: MmStruct) -> Block | None:
    """Waits for readers and writers: what the mail calls the ``down_write``."""
    mm.touch(s)
    if s[mm.mmap_lock] != 0:
        return BLOCK
    s[mm.mmap_lock] = MmapLock(-1)
    return None


@operation()
def mmap_write_unlock(s: Memory, mm: MmStruct) -> None:
    """The other end of it."""
    mm.touch(s)
    s[mm.mmap_lock] = MmapLock(0)


@operation()
def mutex_lock(s: Memory, mutex: Var) -> Block | None:
    """Waits."""
    if s[mutex]:
        return BLOCK
    s[mutex] = True
    return None


@operation(BOOL)
def mutex_trylock(s: Memory, mutex: Var) -> bool:
    """Does not."""
    if s[mutex]:
        return False
    s[mutex] = True
    return True


@operation()
def mutex_unlock(s: Memory, mutex: Var) -> None:
    """The other end of both."""
    s[mutex] = False


@operation()
def set_bit(s: Memory, bit: Flags, mm: MmStruct) -> None:
    """``set_bit(bit, &mm->flags)``."""
    mm.touch(s)
    s[mm.flags] |= bit


@operation(BOOL)
def test_bit(s: Memory, bit: Flags, mm: MmStruct) -> bool:
    """``test_bit(bit, &mm->flags)``."""
    mm.touch(s)
    return bool(s[mm.flags] & bit)


@operation(BOOL)
def test_and_set_bit(s: Memory, bit: Flags, mm: MmStruct) -> bool:
    """``test_and_set_bit(bit, &mm->flags)``: whether it was set already."""
    mm.touch(s)
    was = bool(s[mm.flags] & bit)
    s[mm.flags] |= bit
    return was
