"""2018: two proposals that keep MMF_OOM_SKIP until the memory is back. Neither was merged."""

from memreap.check.operation import Memory, Steps, Var, become, operation
from memreap.mm.designs.of_2017 import mmap_is_set
from memreap.mm.designs.since_4_15 import V417, V419
from memreap.mm.memory import free_pgtables, unmap_vmas
from memreap.mm.mm_struct import (
    MMF_OOM_SKIP,
    MMF_OOM_VICTIM,
    MMF_UNSTABLE,
    MmStruct,
    Page,
    TaskStruct,
)
from memreap.mm.mmap import remove_vmas, unlink_vmas
from memreap.mm.mmap_lock import (
    mmap_read_trylock,
    mmap_read_unlock,
    mmap_write_lock,
    mmap_write_unlock,
    set_bit,
    test_bit,
)
from memreap.mm.mmu_gather import tlb_finish_mmu, tlb_gather_mmu_fullmm
from memreap.mm.oom_kill import schedule_timeout_idle


@operation((False, True))
def oom_free_timeout(s: Memory, mm: MmStruct) -> bool:
    """Whether a second is over. It is long enough for all that comes by itself."""
    return not mm.is_on_its_way(s)


@operation()
def enqueue_last(s: Memory, tsk: TaskStruct, oom_reaper_list: Var) -> None:
    """Put a victim last on the reaper's list."""
    s[oom_reaper_list] = (*s[oom_reaper_list], tsk.comm)


class Rientjes2018(V417):
    """MMF_OOM_SKIP once all is freed, or a second after the kill; MMF_UNSTABLE arbitrates.

    Refused as papering over: the timeout decides when the killer goes on.
    """

    name = "rientjes-2018"
    who = "David Rientjes"
    when = "June 2018, third version"

    fixes = V417.fixes | {"9bcdeb51bd7d"}  # its own way: cmpxchg on oom_free_expire

    def exit_mmap(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """Reap oneself, say so by MMF_UNSTABLE, wait for the reaper; then all as ever."""
        yield from self.mmu_notifier_release(mm)
        if (yield from self.is_victim(mm, current)):
            yield from self.reap_oneself(mm)
            yield set_bit(MMF_UNSTABLE, mm)
            yield mmap_write_lock(mm)
            yield mmap_write_unlock(mm)
        yield from self.munlock(mm)
        tlb = tlb_gather_mmu_fullmm(mm)
        yield from unmap_vmas(self, tlb, mm)
        yield free_pgtables(mm)
        yield tlb_finish_mmu(mm, tlb)
        yield remove_vmas(mm, False)

    def mmput_end(self, mm: MmStruct) -> Steps:
        """All is freed: now the killer may pass it over."""
        yield set_bit(MMF_OOM_SKIP, mm)

    def oom_reap_task_mm_locked(self, mm: MmStruct) -> Steps:
        """Reap, unless somebody has begun to."""
        if not (yield mmap_read_trylock(mm)):
            return False
        if not self.leaves_alone(mm) and not (yield test_bit(MMF_UNSTABLE, mm)):
            yield from self.oom_reap_vmas(mm)
        yield mmap_read_unlock(mm)
        return True

    def oom_reap_task(self, tsk: TaskStruct) -> Steps:
        """One try, and last on the list again, until the bit is set or the time is up."""
        mm = tsk.address_space
        if (yield test_bit(MMF_OOM_SKIP, mm)):
            return become(self.oom_reaper)
        if not (yield test_bit(MMF_UNSTABLE, mm)):
            yield from self.oom_reap_task_mm(mm)
        if (yield oom_free_timeout(mm)):
            yield set_bit(MMF_OOM_SKIP, mm)
            return become(self.oom_reaper)
        yield enqueue_last(tsk, self.oom_reaper_list)
        return become(self.oom_reaper)


@operation((False, True))
def little_is_left(s: Memory, mm: MmStruct) -> bool:
    """Whether hardly a page is mapped any more."""
    return all(s[page] != Page.MAPPED for page in mm.pages)


class Handover2018(V419):
    """The exit path takes over: areas are unlinked under the lock for writing.

    ``mm->mmap == NULL`` then means *guaranteed to finish*, and from there on only the exit path
    sets MMF_OOM_SKIP, when all is freed.
    """

    name = "handover-2018"
    who = "Michal Hocko"
    when = "RFC, second version, October 2018"

    def exit_mmap(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """Unmap beside the reaper; then tell it to leave."""
        yield from self.mmu_notifier_release(mm)
        is_victim = yield from self.is_victim(mm, current)
        if is_victim and "mlock" in mm.has:
            yield mmap_write_lock(mm)
        yield from self.munlock(mm)
        if is_victim and "mlock" in mm.has:
            yield mmap_write_unlock(mm)
        tlb = tlb_gather_mmu_fullmm(mm)
        yield from unmap_vmas(self, tlb, mm)
        if is_victim:
            yield mmap_write_lock(mm)
            yield unlink_vmas(mm)
            yield mmap_write_unlock(mm)
        yield free_pgtables(mm)
        yield tlb_finish_mmu(mm, tlb)
        yield remove_vmas(mm, False)

    def mmput_end(self, mm: MmStruct) -> Steps:
        """All of a victim is freed: now the killer may pass it over."""
        if (yield test_bit(MMF_OOM_VICTIM, mm)):
            yield set_bit(MMF_OOM_SKIP, mm)

    def oom_reap_task_mm(self, mm: MmStruct) -> Steps:
        """Reap, unless the exit path has taken over; again, while much is left."""
        if not (yield mmap_read_trylock(mm)):
            return False
        done = True
        if (yield mmap_is_set(mm)):
            yield from self.oom_reap_vmas(mm)
            done = yield little_is_left(mm)
        yield mmap_read_unlock(mm)
        return done

    def oom_reap_task(self, tsk: TaskStruct) -> Steps:
        """Set the bit only while the exit path has not taken over."""
        mm = tsk.address_space
        for _ in range(self.reap_retries):
            if (yield from self.oom_reap_task_mm(mm)):
                break
            yield schedule_timeout_idle(mm, self.is_patient)
        if (yield mmap_is_set(mm)):
            yield set_bit(MMF_OOM_SKIP, mm)
        return become(self.oom_reaper)
