"""July to October 2017: what was proposed in the thread, and what was merged into 4.14.

Each is the kernel before it, and one or two functions.
"""

from memreap.check.operation import BOOL, Memory, Steps, become, operation
from memreap.mm.designs.pre_4_14 import Pre414
from memreap.mm.fork import mmget_not_zero
from memreap.mm.memory import free_pgtables, unmap_vmas
from memreap.mm.mm_struct import MMF_OOM_SKIP, MmStruct, TaskStruct, Tree
from memreap.mm.mmap import remove_vmas
from memreap.mm.mmap_lock import (
    mmap_read_trylock,
    mmap_read_unlock,
    mmap_write_lock,
    mmap_write_unlock,
    set_bit,
    test_and_set_bit,
    test_bit,
)
from memreap.mm.mmu_gather import tlb_finish_mmu, tlb_gather_mmu_fullmm
from memreap.mm.oom_kill import schedule_timeout_idle


class GateRetry(Pre414):
    """No concurrency: where ``mmget_not_zero`` fails the reaper tries again until SKIP is set.

    The mail, read strictly: return false where mmget_not_zero fails and the bit is not set yet,
    and wait until it is, however long.
    """

    name = "gate-retry"
    who = "Andrea Arcangeli"
    when = "25 July 2017, in the mail, without an end to the tries"

    def nobody_uses_it(self, mm: MmStruct) -> Steps:
        """Done only once the exit path says so."""
        return (yield test_bit(MMF_OOM_SKIP, mm))

    def oom_reap_task(self, tsk: TaskStruct) -> Steps:
        """Without an end."""
        if not (yield from self.oom_reap_task_mm(tsk.address_space)):
            return become(self.oom_reap_task, tsk)
        yield set_bit(MMF_OOM_SKIP, tsk.address_space)
        return become(self.oom_reaper)


class GateRetryBounded(GateRetry):
    """The same as the kernel of that time would have run it: ten tries, then the next victim."""

    name = "gate-retry-1s"
    who = "Andrea Arcangeli"
    when = "25 July 2017, in the mail, read to the letter"

    oom_reap_task = Pre414.oom_reap_task


@operation(BOOL)
def mmap_is_set(s: Memory, mm: MmStruct) -> bool:
    """``mm->mmap != NULL``."""
    return bool(s[mm.tree] != Tree.EMPTY)


class AlwaysLock(Pre414):
    """``exit_mmap`` takes the lock for writing, always, before page tables and areas go.

    The reaper takes no reference and no ``oom_lock``; a tree that is gone (``mm->mmap == NULL``)
    tells it to leave. Kirill Shutemov measured about 4 % for 100,000 times /bin/true.
    """

    name = "always-lock"
    who = "Michal Hocko"
    when = "24 July 2017, the patch that the mail answers"

    uses_kworker = False

    def exit_mmap(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """Unmap without the lock, tear down with it."""
        del current
        yield from self.mmu_notifier_release(mm)
        yield from self.munlock(mm)
        tlb = tlb_gather_mmu_fullmm(mm)
        yield from unmap_vmas(self, tlb, mm)
        yield mmap_write_lock(mm)
        yield free_pgtables(mm)
        yield tlb_finish_mmu(mm, tlb)
        yield remove_vmas(mm, True)
        yield mmap_write_unlock(mm)

    def oom_reap_task_mm(self, mm: MmStruct) -> Steps:
        """Whoever uses it: ``mmap_sem`` is what counts."""
        if not (yield mmap_read_trylock(mm)):
            return False
        done = True
        if (yield mmap_is_set(mm)):
            done = yield from self.oom_reap_vmas(mm)
        yield mmap_read_unlock(mm)
        return done


class TestAndSet(Pre414):
    """``test_and_set_bit(MMF_OOM_SKIP)`` on both sides: only who comes second has to wait.

    The trick of ``ksm_exit``: the write lock is taken, and let go again, only when the reaper is
    inside. Where nobody uses the mm any more, the reaper works without a reference.
    """

    name = "test-and-set"
    who = "Andrea Arcangeli"
    when = "25 July 2017, the patch in the mail"

    def after_unmap_vmas(self, mm: MmStruct) -> Steps:
        """The bit was set already: the reaper is, or was, here. Wait until it is not."""
        if (yield test_and_set_bit(MMF_OOM_SKIP, mm)):
            yield mmap_write_lock(mm)
            yield mmap_write_unlock(mm)

    def mmput_end(self, mm: MmStruct) -> Steps:
        """It is set already."""
        del mm
        yield from ()

    def oom_reap_task_mm_locked(self, mm: MmStruct) -> Steps:
        """With a reference, or, where there is none to be had, as the first to set the bit."""
        if not (yield mmap_read_trylock(mm)):
            return False
        done = True
        is_used = yield mmget_not_zero(mm)
        if is_used or not (yield test_and_set_bit(MMF_OOM_SKIP, mm)):
            done = yield from self.oom_reap_vmas(mm)
        yield mmap_read_unlock(mm)
        if is_used:
            yield from self.mmput_async(mm)
        return done


class TestAndSetUnlocked(TestAndSet):
    """The same, and the reaper does not hold ``oom_lock``: what Hocko's objection would need.

    The bit that arbitrates is also the bit that opens the gate.
    """

    name = "test-and-set-unlocked"
    who = "what Michal Hocko's objection speaks of"
    when = "26 July 2017"

    def oom_reap_task_mm(self, mm: MmStruct) -> Steps:
        """No ``oom_lock``."""
        return (yield from self.oom_reap_task_mm_locked(mm))


@operation(BOOL)
def tsk_is_oom_victim(s: Memory, current: TaskStruct) -> bool:
    """Whether the OOM killer chose this task: not whether it chose this mm."""
    return bool(s[current.signal.oom_mm])


class Merged414(Pre414):
    """``set_bit(MMF_OOM_SKIP)`` after unmapping; victims then take and leave the lock.

    The reaper looks for the bit under the lock, and takes no reference.
    """

    name = "merged-4.14"
    who = "Andrea Arcangeli, Michal Hocko"
    when = "212925802454, September 2017"

    fixes = frozenset({"4d4bbd8526a8", "6b31d5955cb2"})
    uses_kworker = False
    # A second's sleep, with oom_lock held: time enough for who exits, unless its exit wants that.
    waits_where_it_leaves_alone = True

    def exit_mmap(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """As before; whoever is a victim waits for the reaper."""
        yield from self.mmu_notifier_release(mm)
        yield from self.munlock(mm)
        tlb = tlb_gather_mmu_fullmm(mm)
        yield from unmap_vmas(self, tlb, mm)
        yield from self.skip_and_wait(mm, current)
        yield free_pgtables(mm)
        yield tlb_finish_mmu(mm, tlb)
        yield remove_vmas(mm, False)

    def skip_and_wait(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """Set the bit; whoever is a victim waits for the reaper."""
        yield set_bit(MMF_OOM_SKIP, mm)
        if (yield from self.is_victim(mm, current)):
            yield mmap_write_lock(mm)
            yield mmap_write_unlock(mm)

    def is_victim(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """Is it this task?"""
        del mm
        return (yield tsk_is_oom_victim(current))

    def mmput_end(self, mm: MmStruct) -> Steps:
        """It is set already."""
        del mm
        yield from ()

    def oom_reap_task_mm_locked(self, mm: MmStruct) -> Steps:
        """Reap under the lock, unless the exit path is past it."""
        if not (yield mmap_read_trylock(mm)):
            return False
        if self.leaves_alone(mm):
            yield mmap_read_unlock(mm)
            yield schedule_timeout_idle(mm, self.is_patient and self.waits_where_it_leaves_alone)
            return True
        done = True
        if not (yield test_bit(MMF_OOM_SKIP, mm)):
            done = yield from self.oom_reap_vmas(mm)
        yield mmap_read_unlock(mm)
        return done

    def leaves_alone(self, mm: MmStruct) -> bool:
        """Whether a secondary MMU maps it, which the reaper cannot tell of what it does."""
        return (
            "notifier" in mm.has and "4d4bbd8526a8" in self.fixes and not self.tells_secondary_mmus
        )
