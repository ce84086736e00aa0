"""Page tables: walked, emptied, freed. mm/memory.c.

A walk begins and ends with a step of its own, so that others can be caught in the middle of it.
"""

from typing import TYPE_CHECKING

from memreap.check.operation import BOOL, Memory, Steps, operation
from memreap.mm.mm_struct import MmStruct, Page, Tree
from memreap.mm.mmu_gather import MmuGather, tlb_flush_mmu

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel


@operation(BOOL)
def vma_first(s: Memory, mm: MmStruct, is_exit: bool = False) -> bool:
    """Find the first area (``mm->mmap``, ``vma_next``); false when there is none.

    ``is_exit``: ``exit_mmap`` knows how to deal with a tree that was never finished.
    """
    mm.touch(s)
    if s[mm.tree] == Tree.EMPTY:
        return False
    if s[mm.tree] == Tree.FREED:
        s.breaks("torn-tree", "walks areas that were freed")
        return False
    if s[mm.tree] == Tree.PARTIAL and not is_exit:
        s.breaks("partial-tree", "walks a tree that was never finished")
    s[mm.walkers] += 1
    return True


@operation()
def vma_last(s: Memory, mm: MmStruct) -> None:
    """Past the last area."""
    s[mm.walkers] -= 1


@operation(BOOL)
def zap_pte_range(s: Memory, mm: MmStruct, area: int) -> bool:
    """Take a page out of its page table, under the table's lock; whether one was there."""
    if s[mm.tree] == Tree.FREED:
        s.breaks("torn-tree", "uses an area that was freed")
    if not s[mm.pgtables]:
        s.breaks("pgtables-in-use", "takes the lock of a page table that was freed")
        return False
    if s[mm.munlocking]:
        s.breaks("munlock", "takes the page table away while munlock uses its lock")
    if s[mm.pages[area]] != Page.MAPPED:
        return False
    s[mm.pages[area]] = Page.GATHERED
    return True


def unmap_page_range(k: "Kernel", tlb: MmuGather, mm: MmStruct, area: int) -> Steps:
    """Empty one area, into a gather."""
    if k.takes_pte_locks:
        is_mapped = yield zap_pte_range(mm, area)
    else:
        is_mapped = yield pte_read(mm, area)
        if is_mapped:
            yield pte_clear(mm, area)
    if is_mapped:
        tlb.add(area)


@operation(BOOL)
def pte_read(s: Memory, mm: MmStruct, area: int) -> bool:
    """Half of ``zap_pte_range``, for a kernel without page table locks."""
    return bool(s[mm.pages[area]] == Page.MAPPED)


@operation()
def pte_clear(s: Memory, mm: MmStruct, area: int) -> None:
    """The other half; somebody else may have been here meanwhile."""
    if s[mm.pages[area]] == Page.FREE:
        return
    s[mm.pages[area]] = Page.GATHERED


def unmap_vmas(k: "Kernel", tlb: MmuGather, mm: MmStruct) -> Steps:
    """Empty all areas, from the first to the last. The gather is flushed when it fills up."""
    if not (yield vma_first(mm, True)):
        return
    for area in range(len(mm.pages)):
        yield from unmap_page_range(k, tlb, mm, area)
        if tlb.pages and area < len(mm.pages) - 1:
            yield tlb_flush_mmu(mm, tlb.take(), tlb.kind)
    yield vma_last(mm)


@operation()
def free_pgtables(s: Memory, mm: MmStruct) -> None:
    """Free the page tables. Nobody may be inside a walk of them."""
    if s[mm.walkers]:
        s.breaks("pgtables-in-use", "frees page tables that somebody walks")
    s[mm.pgtables] = False
