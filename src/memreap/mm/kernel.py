"""One kernel and one machine: its functions, and its shared variables.

1. A function that designs differ in is called through here (``k.exit_mmap``), and so replaced by a
   subclass; all others are called as they are.
2. This class is the kernel as it has been since 6.18. What it was before, and what was proposed,
   are its subclasses.
3. ``fixes`` are the commits that are in, where a commit is less than a function.
4. Nothing is scheduled here: a scenario makes the tasks.
"""

from collections.abc import Iterable
from typing import ClassVar

from memreap.check.model import Model
from memreap.check.operation import Steps, Var, choose
from memreap.mm import aio, fork, mm_slot, mmap, mmu_gather, oom_kill, page_alloc
from memreap.mm import exit as exit_
from memreap.mm.mm_struct import Flags, MmapLock, MmStruct, Page, SignalStruct, TaskStruct, Tree
from memreap.mm.mmu_notifier import mmu_notifier_invalidate_range, mmu_notifier_release

FIXES = frozenset(
    {
        "687cb0884a71",  # the reaper gathers ranges, not the whole mm
        "4d4bbd8526a8",  # the reaper respects secondary MMUs
        "6b31d5955cb2",  # no page of a reaped mm is faulted in as zeroes
        "9bcdeb51bd7d",  # an mm is queued once
        "e4a38402c36e",  # the reaper comes two seconds after the kill
        "f798a1d4f94d",  # what is freed cannot be found any more
        "64c37e134b12",  # the mm of a fork that failed is marked
        "59d4d36158ba",  # the whole victim is thawed, not one thread (2025)
    }
)


class Kernel:
    """Linux 6.18 to 7.2.

    ``exit_mmap`` unmaps under the lock for reading, sets MMF_OOM_SKIP, and takes the lock for
    writing, always, before page tables and areas go. The reaper comes after two seconds, and from
    the other end.
    """

    name: ClassVar[str] = "current"
    who: ClassVar[str] = "Suren Baghdasaryan; zhongjinji (the other end, the thaw)"
    when: ClassVar[str] = "6.18, November 2025, to this day"

    fixes: ClassVar[frozenset[str]] = FIXES
    reapers: ClassVar[tuple[str, ...]] = ("oom_reaper", "mrelease")
    # MAX_OOM_REAP_RETRIES is 10. What the reaper does when it gives up comes after the last of
    # them, however many there are; two are enough to tell the last from the others.
    reap_retries: ClassVar[int] = 2
    has_mrelease: ClassVar[bool] = True
    has_partial_trees: ClassVar[bool] = True  # dup_mmap as it is since 6.8
    has_reaper_delay: ClassVar[bool] = True
    marks_the_mm: ClassVar[bool] = False  # MMF_OOM_VICTIM
    uses_kworker: ClassVar[bool] = False  # mmput_async
    takes_pte_locks: ClassVar[bool] = True
    ksm_exit_waits: ClassVar[bool] = True
    tells_secondary_mmus: ClassVar[bool] = True

    alloc_pages_slowpath = page_alloc.alloc_pages_slowpath
    alloc_pages_may_oom = page_alloc.alloc_pages_may_oom
    alloc_page_for_io = page_alloc.alloc_page_for_io
    out_of_memory = oom_kill.out_of_memory
    oom_badness_of_next = oom_kill.oom_badness_of_next
    oom_kill_process = oom_kill.oom_kill_process
    queue_oom_reaper = oom_kill.queue_oom_reaper
    wake_oom_reaper = oom_kill.wake_oom_reaper
    oom_reaper = oom_kill.oom_reaper
    oom_reap_task = oom_kill.oom_reap_task
    oom_reap_task_mm = oom_kill.oom_reap_task_mm
    oom_reap_vmas = oom_kill.oom_reap_vmas
    process_mrelease = oom_kill.process_mrelease
    do_exit = exit_.do_exit
    exit_mm = exit_.exit_mm
    exit_mm_release = exit_.exit_mm_release
    mmput = fork.mmput
    mmput_async = fork.mmput_async
    mmput_end = fork.mmput_end
    exit_aio = aio.exit_aio
    mm_slot_exit = mm_slot.mm_slot_exit
    exit_mmap = mmap.exit_mmap

    def __init__(self, model: Model, has: Iterable[frozenset[str]], pages: int = 3) -> None:
        """``has``: for each victim, what its address space has; ``pages``: how many each."""
        self.model = model
        self.pages = pages
        self.mms = tuple(self._mm(number, features) for number, features in enumerate(has))
        self.processes: tuple[SignalStruct, ...] = ()  # one for each victim
        self.tasks: list[TaskStruct] = []
        self.timers: dict[str, Var] = {}
        self.oom_lock = model.var("oom_lock", False)
        self.oom_reaper_list = model.var("oom_reaper_list", ())
        self.killed_next = model.var("killed_next", False)
        self.work = model.var("work", None)
        self.clock = model.var("clock", 0)
        self.held = model.var("held", True)  # by ptrace, in its exit stop
        self.reap_done = model.var("reap_done", False)  # of one who is held
        self.delay_ticks = 0
        self.is_patient = True  # timeouts are long enough for whatever comes by itself
        self.nobody = self.signal("kernel")  # the signals of tasks that are no victims

    def _mm(self, number: int, has: frozenset[str]) -> MmStruct:
        name = f"mm{number}" if number else "mm"
        everything = (1 << self.pages) - 1

        def var(what: str, initial: object) -> Var:
            return self.model.var(f"{name}->{what}", initial)

        return MmStruct(
            name=name,
            mm_users=var("mm_users", 0),
            mm_count=var("mm_count", 2 if has & {"ksm", "khugepaged"} else 1),
            flags=var("flags", Flags(0)),
            mmap_lock=var("mmap_lock", MmapLock(-1 if "locked" in has else 0)),
            tree=var("tree", Tree.LINKED),
            pgtables=var("pgtables", True),
            walkers=var("walkers", 0),
            pages=tuple(var(f"page{page}", Page.MAPPED) for page in range(self.pages)),
            tlb=var("tlb", 0),
            secondary=var("secondary", everything if "notifier" in has else 0),
            aio=var("aio", 1 if "aio" in has else 0),
            vm_locked=var("vm_locked", "mlock" in has),
            munlocking=var("munlocking", False),
            slot=var("slot", 1 if has & {"ksm", "khugepaged"} else 0),
            skip_shown=var("skip_shown", False),
            has=has,
        )

    def signal(self, comm: str) -> SignalStruct:
        """A process."""

        def var(what: str, initial: object) -> Var:
            return self.model.var(f"{comm}->{what}", initial)

        return SignalStruct(
            comm, var("sigkill", False), var("oom_mm", False), var("stepped", False), var("live", 0)
        )

    def thread(
        self, comm: str, mm: MmStruct, signal: SignalStruct, *, running: bool = False
    ) -> TaskStruct:
        """A thread of a victim. It uses the address space."""
        self.model.begin_with(mm.mm_users, mm.mm_users.initial + 1)
        self.model.begin_with(signal.live, signal.live.initial + 1)
        if running:
            self.model.begin_with(mm.tlb, (1 << self.pages) - 1)
        made = TaskStruct(
            comm,
            signal,
            self.model.var(f"{comm}->mm", True),
            self.model.var(f"{comm}->frozen", "frozen" in mm.has),
            mm,
            running,
        )
        self.tasks.append(made)
        self.timers[comm] = self.model.var(f"{comm}->oom_reaper_timer", False)
        return made

    def has_killed(self, tsk: TaskStruct) -> None:
        """Begin after the kill: the victim is marked, and on the reaper's list."""
        mm, begin_with = tsk.address_space, self.model.begin_with
        begin_with(tsk.signal.sigkill, True)
        begin_with(tsk.signal.oom_mm, True)
        begin_with(mm.mm_count, mm.mm_count.initial + 1)
        begin_with(mm.flags, Flags.MMF_OOM_VICTIM if self.marks_the_mm else Flags(0))
        begin_with(self.oom_reaper_list, (*self.oom_reaper_list.initial, tsk.comm))

    def task(self, comm: str) -> TaskStruct:
        """A victim's thread by its name."""
        return next(tsk for tsk in self.tasks if tsk.comm == comm)

    def kernel_task(self, comm: str, mm: MmStruct) -> TaskStruct:
        """A task that is no victim, though it may use the address space for a while."""
        no = self.model.var(f"{comm}->mm", False)
        return TaskStruct(comm, self.nobody, no, no, mm)

    def threads_of(self, tsk: TaskStruct) -> tuple[TaskStruct, ...]:
        """All threads of its process."""
        return tuple(task for task in self.tasks if task.signal is tsk.signal)

    # What differs by less than a function of the kernel's.

    def mmu_notifier_release(self, mm: MmStruct) -> Steps:
        """Where there is a secondary MMU."""
        if "notifier" in mm.has:
            yield mmu_notifier_release(mm)

    def invalidate_range(self, mm: MmStruct, page: int) -> Steps:
        """Tell the secondary MMU, where there is one, before a page is reaped; false: busy."""
        if "notifier" not in mm.has or not self.tells_secondary_mmus:
            return True
        if (yield choose(2, "mmu_notifier_invalidate_range_start_nonblock")):
            return False
        yield mmu_notifier_invalidate_range(mm, page)
        return True

    def may_reap(self, mm: MmStruct) -> Steps:
        """Whether the reaper may empty an area: any private one, since 5.18."""
        del mm
        yield from ()
        return True

    def areas_to_reap(self, mm: MmStruct) -> range:
        """From the last to the first, as ``exit_mmap`` goes from the first to the last."""
        return range(len(mm.pages) - 1, -1, -1)

    def gather_for_reaping(self, mm: MmStruct) -> mmu_gather.MmuGather:
        """What the reaper puts pages into."""
        if "687cb0884a71" in self.fixes:
            return mmu_gather.tlb_gather_mmu(mm)
        return mmu_gather.tlb_gather_mmu_fullmm(mm)


def without(kernel: type[Kernel], *fixes: str) -> type[Kernel]:
    """The same kernel without some commits."""
    assert set(fixes) <= kernel.fixes, f"{kernel.name} has none of {fixes} to begin with"
    return type(
        kernel.__name__,
        (kernel,),
        {"fixes": kernel.fixes - set(fixes), "name": f"{kernel.name} without {', '.join(fixes)}"},
    )
