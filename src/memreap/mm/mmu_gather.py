"""Pages on their way from the page tables to the allocator. mm/mmu_gather.c.

A gather lives on its task's stack: which pages it holds is part of where the task is.
"""

from typing import Literal

from memreap.check.operation import Memory, Operation, operation
from memreap.mm.mm_struct import MmStruct, Page

Kind = Literal["range", "fullmm"]


class MmuGather:
    """``struct mmu_gather``.

    With ``fullmm`` arm64 does not flush TLBs before pages are freed, since nobody can be running
    in an address space that ends.
    """

    def __init__(self, *, fullmm: bool) -> None:
        """Empty."""
        self.kind: Kind = "fullmm" if fullmm else "range"
        self.pages: list[int] = []

    def add(self, page: int) -> None:
        """One more."""
        self.pages.append(page)

    def take(self) -> tuple[int, ...]:
        """All of them, out of it."""
        pages, self.pages = tuple(self.pages), []
        return pages


def tlb_gather_mmu(mm: MmStruct) -> MmuGather:
    """For a part of an address space."""
    del mm
    return MmuGather(fullmm=False)


def tlb_gather_mmu_fullmm(mm: MmStruct) -> MmuGather:
    """For all of one; before 5.12 ``tlb_gather_mmu(&tlb, mm, 0, -1)``."""
    del mm
    return MmuGather(fullmm=True)


@operation()
def tlb_flush_mmu(s: Memory, mm: MmStruct, pages: tuple[int, ...], kind: Kind) -> None:
    """Flush the TLBs (as arm64 does: not with ``fullmm``), and free the pages."""
    if kind == "range":
        s[mm.tlb] &= ~sum(1 << page for page in pages)
    for page in pages:
        if s[mm.pages[page]] == Page.FREE:
            s.breaks("double-free", f"page {page} is freed a second time")
        s[mm.pages[page]] = Page.FREE
        if s[mm.tlb] >> page & 1:
            s.breaks("stale-tlb", f"page {page} is freed while a running thread can reach it")
        if s[mm.secondary] >> page & 1:
            s.breaks("secondary-mmu", f"page {page} is freed while a secondary MMU maps it")
        if s[mm.skip_shown]:
            s.breaks("freed-after-skip", f"page {page} is freed after the killer saw MMF_OOM_SKIP")


def tlb_finish_mmu(mm: MmStruct, tlb: MmuGather) -> Operation:
    """Free what is left in the gather, if anything."""
    return tlb_flush_mmu(mm, tlb.take(), tlb.kind)
