"""A design of one's own: what if exit_mmap set MMF_OOM_SKIP last, once all is freed?"""

from memreap.check.model import Kind
from memreap.mm.kernel import Kernel
from memreap.mm.memory import free_pgtables, unmap_vmas
from memreap.mm.mm_struct import MMF_OOM_SKIP
from memreap.mm.mmap import remove_vmas
from memreap.mm.mmap_lock import mmap_write_lock, mmap_write_unlock, set_bit
from memreap.mm.mmu_gather import tlb_finish_mmu, tlb_gather_mmu_fullmm
from memreap.mm.properties import Property


class SkipLast(Kernel):
    """exit_mmap does all under the lock for writing, and sets MMF_OOM_SKIP after the last flush."""

    name, who, when = "skip-last", "you", "today"

    def exit_mmap(self, mm, current):
        yield from self.mmu_notifier_release(mm)
        yield mmap_write_lock(mm)
        tlb = tlb_gather_mmu_fullmm(mm)
        yield from unmap_vmas(self, tlb, mm)
        yield free_pgtables(mm)
        yield tlb_finish_mmu(mm, tlb)
        yield remove_vmas(mm, True)
        yield set_bit(MMF_OOM_SKIP, mm)
        yield mmap_write_unlock(mm)


one_walker = Property(
    name="one-walker",
    short="one walker",
    says="Reaper and exit path never walk at the same time.",
    kind=Kind.ALWAYS,
    holds=lambda s, k: all(s[mm.walkers] <= 1 for mm in k.mms),
)
