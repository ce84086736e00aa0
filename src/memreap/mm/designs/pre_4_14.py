"""4.9 to 4.12: the reaper takes a reference, and calls a victim done that it gets none of."""

from memreap.check.operation import Steps
from memreap.mm.fork import mmget_not_zero
from memreap.mm.kernel import Kernel
from memreap.mm.memory import free_pgtables, unmap_vmas
from memreap.mm.mlock import can_madv_dontneed_vma, munlock_vma_pages_all
from memreap.mm.mm_struct import MMF_OOM_REAP_QUEUED, MMF_OOM_SKIP, MmStruct, TaskStruct
from memreap.mm.mmap import remove_vmas
from memreap.mm.mmap_lock import (
    mmap_read_trylock,
    mmap_read_unlock,
    mutex_lock,
    mutex_unlock,
    set_bit,
    test_and_set_bit,
)
from memreap.mm.mmu_gather import tlb_finish_mmu, tlb_gather_mmu_fullmm
from memreap.mm.oom_kill import enqueue, task_is_queued


class Pre414(Kernel):
    """The reaper needs ``mm_users``; where the last user is gone it gives up, and says *done*.

    So MMF_OOM_SKIP is set while the exit path has not freed anything yet.
    """

    name = "pre-4.14"
    who = "Michal Hocko (the reaper)"
    when = "4.9 to 4.12, December 2016 to 2017"

    fixes = frozenset()
    has_mrelease = False
    has_partial_trees = False
    has_reaper_delay = False
    uses_kworker = True
    tells_secondary_mmus = False

    def exit_mmap(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """Without any lock: nobody else can be here, since whoever walks has ``mm_users``."""
        del current
        yield from self.mmu_notifier_release(mm)
        yield from self.munlock(mm)
        tlb = tlb_gather_mmu_fullmm(mm)
        yield from unmap_vmas(self, tlb, mm)
        yield from self.after_unmap_vmas(mm)
        yield free_pgtables(mm)
        yield tlb_finish_mmu(mm, tlb)
        yield remove_vmas(mm, False)

    def munlock(self, mm: MmStruct) -> Steps:
        """Where something is locked."""
        if "mlock" in mm.has:
            yield from munlock_vma_pages_all(mm)

    def after_unmap_vmas(self, mm: MmStruct) -> Steps:
        """Between unmapping and the page tables: nothing yet. This is what the mail is about."""
        del mm
        yield from ()

    def mmput_end(self, mm: MmStruct) -> Steps:
        """All is freed: now the killer may pass it over."""
        yield set_bit(MMF_OOM_SKIP, mm)

    def oom_reap_task_mm(self, mm: MmStruct) -> Steps:
        """With ``oom_lock``, so that nobody is killed while memory comes back."""
        yield mutex_lock(self.oom_lock)
        done = yield from self.oom_reap_task_mm_locked(mm)
        yield mutex_unlock(self.oom_lock)
        return done

    def oom_reap_task_mm_locked(self, mm: MmStruct) -> Steps:
        """Reap with a reference. False: the lock is taken, try again."""
        if not (yield mmap_read_trylock(mm)):
            return False
        is_used = yield mmget_not_zero(mm)
        if not is_used:
            done = yield from self.nobody_uses_it(mm)
            yield mmap_read_unlock(mm)
            return done
        done = yield from self.oom_reap_vmas(mm)
        yield mmap_read_unlock(mm)
        yield from self.mmput_async(mm)
        return done

    def nobody_uses_it(self, mm: MmStruct) -> Steps:
        """``mmget_not_zero`` failed: *done*, says this kernel."""
        del mm
        yield from ()
        return True

    def may_reap(self, mm: MmStruct) -> Steps:
        """Not a locked one."""
        return (yield can_madv_dontneed_vma(mm)) if "mlock" in mm.has else True

    def areas_to_reap(self, mm: MmStruct) -> range:
        """From the first to the last, as ``exit_mmap`` does; until 6.17."""
        return range(len(mm.pages))

    def queue_oom_reaper(self, tsk: TaskStruct) -> Steps:
        """At once: the timer came with 5.18, and the bit for *queued* with 5.0."""
        if "9bcdeb51bd7d" in self.fixes:
            is_queued = yield test_and_set_bit(MMF_OOM_REAP_QUEUED, tsk.address_space)
        else:
            is_queued = yield task_is_queued(tsk, self.oom_reaper_list)
        if not is_queued:
            yield enqueue(tsk, self.oom_reaper_list)
