"""The address space, and the tasks that use it. include/linux/mm_types.h, include/linux/sched.h.

Only what is there lives here, as shared variables; what is done with it stands in the files that
are named as in the kernel. An address space has three areas of one page each. All but the last
stand for what a gather frees on the way, since its batches fill up; the last for the batch that
does not fill up, and is freed only by ``tlb_finish_mmu``. A victim of one page is smaller still.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from memreap.check.operation import Memory, Var


class Flags(IntFlag):
    """``mm->flags``. include/linux/sched/coredump.h, of the kernels that have them."""

    MMF_OOM_SKIP = 1  # nothing to be had here any more: the OOM killer passes it over
    MMF_UNSTABLE = 2  # the reaper was here: what reads as zeroes may be no data
    MMF_OOM_REAP_QUEUED = 4
    MMF_OOM_VICTIM = 8  # 4.15 to 5.19

    def __str__(self) -> str:
        """As C programmers write it."""
        return self.name or "0"


MMF_OOM_SKIP = Flags.MMF_OOM_SKIP
MMF_UNSTABLE = Flags.MMF_UNSTABLE
MMF_OOM_REAP_QUEUED = Flags.MMF_OOM_REAP_QUEUED
MMF_OOM_VICTIM = Flags.MMF_OOM_VICTIM


class Page(IntEnum):
    """Where a page of the victim is."""

    MAPPED = 0
    GATHERED = 1  # out of the page tables, in somebody's mmu_gather
    FREE = 2  # the allocator's again

    def __str__(self) -> str:
        """As a word."""
        return self.name.lower()


class Tree(IntEnum):
    """The areas (a list until 6.0, a maple tree since)."""

    LINKED = 0
    PARTIAL = 1  # as a dup_mmap that failed leaves it
    EMPTY = 2  # unlinked: who looks finds nothing
    FREED = 3  # the areas are freed, and can still be found: who walks there walks freed memory

    def __str__(self) -> str:
        """As a word."""
        return self.name.lower()


class MmapLock(int):
    """``mmap_lock``, ``mmap_sem`` before 5.8: so many readers, or -1 for a writer."""

    def __str__(self) -> str:
        """In words."""
        return {-1: "written", 0: "free", 1: "1 reader"}.get(int(self), f"{int(self)} readers")


@dataclass(frozen=True, eq=False, slots=True)
class MmStruct:
    """``struct mm_struct``: one address space. Compared by identity, as pointers are."""

    name: str
    mm_users: Var  # tasks that use it; the last one out takes it down
    mm_count: Var  # who keeps the struct; all users together count as one
    flags: Var
    mmap_lock: Var
    tree: Var
    pgtables: Var  # whether the page tables are there
    walkers: Var  # tasks inside a walk of tree and page tables
    pages: tuple[Var, ...]
    tlb: Var  # the pages that the CPU of a thread in user mode can still reach, as a bit each
    secondary: Var  # the same, for a secondary MMU (KVM, a device)
    aio: Var  # I/O in flight that exit_aio waits for
    vm_locked: Var  # VM_LOCKED on its areas
    munlocking: Var  # munlock has looked up a page table, and not used its lock yet
    slot: Var  # with ksmd or khugepaged: see mm_slot
    skip_shown: Var  # an OOM killer has seen MMF_OOM_SKIP, and acts on it
    has: frozenset[str]  # what this one has that most have not: aio, ksm, mlock, notifier, ...

    def __str__(self) -> str:
        """Its name."""
        return self.name

    def touch(self, s: Memory) -> None:
        """Whoever touches the struct had better keep it."""
        if s[self.mm_count] <= 0:
            s.breaks("refcount", f"{self.name} is used after its mm_count fell to 0")

    def all_free(self, s: Memory) -> bool:
        """Whether every page is the allocator's."""
        return all(s[page] == Page.FREE for page in self.pages)

    def none_free(self, s: Memory) -> bool:
        """Whether not one is."""
        return all(s[page] != Page.FREE for page in self.pages)

    def is_on_its_way(self, s: Memory) -> bool:
        """Whether its memory is about to come: it waits for nothing but time on a CPU.

        Not while only I/O in flight, or whoever holds ``mmap_lock`` for ever, could bring it.
        """
        if self.all_free(s):
            return False
        someone_is_at_it = s[self.mmap_lock] > 0 or s[self.walkers] > 0
        gathered = any(s[page] == Page.GATHERED for page in self.pages)
        waits = s[self.aio] > 0 or bool(self.has & {"stuck lock", "hung thread"})
        return someone_is_at_it or gathered or not waits


@dataclass(frozen=True, eq=False, slots=True)
class SignalStruct:
    """``struct signal_struct``: what the threads of a process have in common."""

    comm: str
    sigkill: Var  # SIGKILL is pending: SIGNAL_GROUP_EXIT
    oom_mm: Var  # not NULL: tsk_is_oom_victim()
    stepped: Var  # took a step since the last tick of the clock, where there is one
    live: Var  # threads that are on the kernel's list of tasks

    def __str__(self) -> str:
        """Its name."""
        return self.comm


@dataclass(frozen=True, eq=False, slots=True)
class TaskStruct:
    """``struct task_struct``. A task of the kernel's own has no mm to begin with."""

    comm: str
    signal: SignalStruct
    mm: Var  # whether task->mm is set
    frozen: Var
    address_space: MmStruct
    is_running: bool = False  # in user mode, on a CPU whose TLB knows its pages

    def __str__(self) -> str:
        """Its name."""
        return self.comm
