"""The end of an address space. mm/mmap.c.

``exit_mmap`` is the one of 6.0 and later; those that it was before stand among the designs.
"""

from typing import TYPE_CHECKING

from memreap.check.operation import Memory, Steps, operation
from memreap.mm.memory import free_pgtables, unmap_vmas
from memreap.mm.mm_struct import MMF_OOM_SKIP, MmStruct, TaskStruct, Tree
from memreap.mm.mmap_lock import (
    mmap_read_lock,
    mmap_read_unlock,
    mmap_write_lock,
    mmap_write_unlock,
    set_bit,
)
from memreap.mm.mmu_gather import tlb_finish_mmu, tlb_gather_mmu_fullmm

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel


def exit_mmap(k: "Kernel", mm: MmStruct, current: TaskStruct) -> Steps:
    """Unmap and free everything. Called once nobody uses it any more."""
    del current
    yield from k.mmu_notifier_release(mm)
    yield mmap_read_lock(mm)
    tlb = tlb_gather_mmu_fullmm(mm)
    yield from unmap_vmas(k, tlb, mm)
    yield mmap_read_unlock(mm)
    yield set_bit(MMF_OOM_SKIP, mm)
    yield mmap_write_lock(mm)
    yield free_pgtables(mm)
    yield tlb_finish_mmu(mm, tlb)
    yield remove_vmas(mm, True)
    yield mmap_write_unlock(mm)


@operation()
def remove_vmas(s: Memory, mm: MmStruct, unlinks: bool) -> None:
    """``remove_vma`` for each. ``unlinks``: and whoever looks for one finds none any more."""
    if s[mm.walkers]:
        s.breaks("torn-tree", "frees areas that somebody walks")
    if s[mm.tree] != Tree.EMPTY:
        s[mm.tree] = Tree.EMPTY if unlinks else Tree.FREED


@operation()
def unlink_vmas(s: Memory, mm: MmStruct) -> None:
    """``mm->mmap = NULL``: whoever looks for an area finds none any more."""
    s[mm.tree] = Tree.EMPTY
