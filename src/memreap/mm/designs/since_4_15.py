"""4.15 to 5.18: how what was merged was mended, step by step, until today's kernel."""

from memreap.check.operation import Steps
from memreap.mm.designs.of_2017 import Merged414
from memreap.mm.fork import mmdrop
from memreap.mm.kernel import FIXES, Kernel
from memreap.mm.memory import free_pgtables, unmap_vmas
from memreap.mm.mm_struct import MMF_OOM_SKIP, MMF_OOM_VICTIM, MmStruct, TaskStruct
from memreap.mm.mmap import remove_vmas
from memreap.mm.mmap_lock import (
    mmap_read_lock,
    mmap_read_unlock,
    mmap_write_lock,
    mmap_write_unlock,
    mutex_lock,
    mutex_unlock,
    set_bit,
    test_bit,
)
from memreap.mm.mmu_gather import tlb_finish_mmu, tlb_gather_mmu_fullmm
from memreap.mm.oom_kill import find_lock_task_mm, process_mrelease


class V415(Merged414):
    """Asks whether the mm is a victim's (MMF_OOM_VICTIM), whoever drops the last reference.

    The reaper gathers ranges, so that arm64 flushes.
    """

    name = "4.15"
    who = "Michal Hocko; Wang Nan, Andrea Arcangeli"
    when = "687cb0884a71 and 4837fe37adff, November and December 2017"

    fixes = Merged414.fixes | {"687cb0884a71"}
    marks_the_mm = True

    def skip_and_wait(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """Of a victim alone."""
        if (yield from self.is_victim(mm, current)):
            yield set_bit(MMF_OOM_SKIP, mm)
            yield mmap_write_lock(mm)
            yield mmap_write_unlock(mm)

    def is_victim(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """Is it this mm?"""
        del current
        return (yield test_bit(MMF_OOM_VICTIM, mm))


class V417(V415):
    """A victim's exit reaps itself first, under ``oom_lock``, and only then munlocks.

    CVE-2018-1000200: munlock cleared VM_LOCKED, and the reaper came in between.
    """

    name = "4.17"
    who = "David Rientjes"
    when = "27ae357fa82b, May 2018"

    waits_where_it_leaves_alone = False

    def exit_mmap(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """Reap, set the bit, wait; then all as ever."""
        yield from self.mmu_notifier_release(mm)
        if (yield from self.is_victim(mm, current)):
            yield from self.reap_oneself(mm)
            yield set_bit(MMF_OOM_SKIP, mm)
            yield mmap_write_lock(mm)
            yield mmap_write_unlock(mm)
        yield from self.munlock(mm)
        tlb = tlb_gather_mmu_fullmm(mm)
        yield from unmap_vmas(self, tlb, mm)
        yield free_pgtables(mm)
        yield tlb_finish_mmu(mm, tlb)
        yield remove_vmas(mm, False)

    def reap_oneself(self, mm: MmStruct) -> Steps:
        """``__oom_reap_task_mm`` on one's own, so that nobody is killed meanwhile."""
        yield mutex_lock(self.oom_lock)
        yield from self.oom_reap_vmas(mm)
        yield mutex_unlock(self.oom_lock)


class V419(V417):
    """``oom_lock`` is dropped from both, and secondary MMUs are told without waiting."""

    name = "4.19"
    who = "Michal Hocko; Tetsuo Handa"
    when = "af5679fbc669 and 93065ac753e4, August 2018"

    tells_secondary_mmus = True

    def reap_oneself(self, mm: MmStruct) -> Steps:
        """No ``oom_lock``."""
        yield from self.oom_reap_vmas(mm)

    def oom_reap_task_mm(self, mm: MmStruct) -> Steps:
        """Nor here."""
        return (yield from self.oom_reap_task_mm_locked(mm))


class V515First(V419):
    """``process_mrelease(2)`` as it was first merged: nothing makes ``exit_mmap`` wait for it.

    Who is killed by hand is no OOM victim, has no MMF_OOM_VICTIM, and takes no lock.
    """

    name = "5.15-rc"
    who = "Suren Baghdasaryan"
    when = "884a7e5964e0, September 2021; no kernel was released with it"

    fixes = V419.fixes | {"9bcdeb51bd7d"}  # in 5.0
    has_mrelease = True

    def process_mrelease(self, task: TaskStruct, current: TaskStruct) -> Steps:
        """With ``mm_count`` alone, and without another look at the bit."""
        del current
        mm = task.address_space
        found = yield find_lock_task_mm(task, self.threads_of(task), "count")
        if found == "nobody":
            return
        if found == "reap":
            yield mmap_read_lock(mm)
            yield from self.oom_reap_vmas(mm)
            yield mmap_read_unlock(mm)
        yield mmdrop(mm)


class V515(V515First):
    """``process_mrelease`` holds ``mm_users``: safe, and the caller may be the last one out.

    Then it is the caller who waits in ``exit_aio``.
    """

    name = "5.15"
    who = "Suren Baghdasaryan"
    when = "337546e83fc7, October 2021; 5.15 and 5.16"

    def process_mrelease(self, task: TaskStruct, current: TaskStruct) -> Steps:
        """With a reference that keeps ``exit_mmap`` from running."""
        mm = task.address_space
        found = yield find_lock_task_mm(task, self.threads_of(task), "users")
        if found == "nobody":
            return
        if found == "reap":
            yield mmap_read_lock(mm)
            yield from self.oom_reap_vmas(mm)
            yield mmap_read_unlock(mm)
        yield from self.mmput(mm, current)


class V518(V515First):
    """``exit_mmap`` takes the lock for writing, always: what was refused in 2017.

    ``process_mrelease`` is back to ``mm_count``, and looks at the bit under the lock. The reaper
    waits two seconds, for the list of robust futexes to be read.
    """

    name = "5.18"
    who = "Suren Baghdasaryan; Nico Pache (the delay)"
    when = "64591e8605d6, ba535c1caf3e, f798a1d4f94d in 5.17, e4a38402c36e in 5.18; 2022"

    fixes = FIXES - {"64c37e134b12", "59d4d36158ba"}
    has_reaper_delay = True

    may_reap = Kernel.may_reap
    queue_oom_reaper = Kernel.queue_oom_reaper
    process_mrelease = process_mrelease

    def exit_mmap(self, mm: MmStruct, current: TaskStruct) -> Steps:
        """A victim reaps itself; everyone tears down under the lock."""
        yield from self.mmu_notifier_release(mm)
        if (yield from self.is_victim(mm, current)):
            yield from self.reap_oneself(mm)
            yield set_bit(MMF_OOM_SKIP, mm)
        yield mmap_write_lock(mm)
        tlb = tlb_gather_mmu_fullmm(mm)
        yield from unmap_vmas(self, tlb, mm)
        yield free_pgtables(mm)
        yield tlb_finish_mmu(mm, tlb)
        yield remove_vmas(mm, "f798a1d4f94d" in self.fixes)
        yield mmap_write_unlock(mm)


class V60(Kernel):
    """``exit_mmap`` as today. The reaper begins at the first area, as the exit path does."""

    name = "6.0"
    who = "Suren Baghdasaryan"
    when = "August 2022, to 6.17"

    fixes = FIXES - {"64c37e134b12", "59d4d36158ba"}
    has_partial_trees = False  # of 6.0 to 6.7

    areas_to_reap = V518.areas_to_reap
