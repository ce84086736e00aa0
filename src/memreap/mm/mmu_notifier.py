"""Secondary MMUs, told before pages are freed. mm/mmu_notifier.c."""

from memreap.check.operation import Memory, operation
from memreap.mm.mm_struct import MmStruct


@operation()
def mmu_notifier_release(s: Memory, mm: MmStruct) -> None:
    """An address space ends: the secondary MMU drops all of it."""
    s[mm.secondary] = 0


@operation()
def mmu_notifier_invalidate_range(s: Memory, mm: MmStruct, page: int) -> None:
    """``..._start_nonblock`` to ``..._end``: the secondary MMU drops a page, and maps none anew."""
    s[mm.secondary] &= ~(1 << page)
