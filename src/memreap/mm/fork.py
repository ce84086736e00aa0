"""References to an address space, and its end. kernel/fork.c.

``mm_users`` counts who uses the address space, ``mm_count`` who keeps the struct.
"""

from typing import TYPE_CHECKING

from memreap.check.operation import BLOCK, BOOL, Block, Memory, Steps, Var, operation
from memreap.mm.mm_struct import (
    MMF_OOM_SKIP,
    MMF_UNSTABLE,
    MmStruct,
    Page,
    TaskStruct,
    Tree,
)
from memreap.mm.mmap_lock import mmap_write_lock, mmap_write_unlock, set_bit

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel


@operation()
def mmdrop(s: Memory, mm: MmStruct) -> None:
    """Keep it no more."""
    mm.touch(s)
    s[mm.mm_count] -= 1


@operation(BOOL)
def mmget_not_zero(s: Memory, mm: MmStruct) -> bool:
    """Use the address space, if anybody still does."""
    mm.touch(s)
    if not s[mm.mm_users]:
        return False
    s[mm.mm_users] += 1
    return True


@operation(BOOL)
def get_task_mm(s: Memory, threads: tuple[TaskStruct, ...], mm: MmStruct) -> bool:
    """Use the address space of a process, if a thread still has it; under ``task_lock``."""
    if not any(s[thread.mm] for thread in threads):
        return False
    s[mm.mm_users] += 1
    return True


@operation(BOOL)
def mmget_on_mmlist(s: Memory, mm: MmStruct) -> bool:
    """Use one that is found on ``mmlist``, which it leaves as it is taken down."""
    if not s[mm.mm_users]:
        return False
    s[mm.mm_users] += 1
    return True


@operation(BOOL)
def mmput_testzero(s: Memory, mm: MmStruct) -> bool:
    """``atomic_dec_and_test(&mm->mm_users)``."""
    mm.touch(s)
    if s[mm.mm_users] <= 0:
        s.breaks("refcount", "mm_users falls below 0")
    s[mm.mm_users] -= 1
    return bool(s[mm.mm_users] == 0)


def mmput(k: "Kernel", mm: MmStruct, current: TaskStruct) -> Steps:
    """Use it no more; the last one out takes it down."""
    if (yield mmput_testzero(mm)):
        yield from __mmput(k, mm, current)


def __mmput(k: "Kernel", mm: MmStruct, current: TaskStruct) -> Steps:
    """Take it down."""
    yield from uprobe_clear_state(mm)
    if "aio" in mm.has:
        yield from k.exit_aio(mm, current)
    if "ksm" in mm.has:
        yield from k.mm_slot_exit(mm)  # ksm_exit
    if "khugepaged" in mm.has:
        yield from k.mm_slot_exit(mm)  # khugepaged_exit
    yield from k.exit_mmap(mm, current)
    yield from k.mmput_end(mm)
    yield mmdrop(mm)


def uprobe_clear_state(mm: MmStruct) -> Steps:
    """Touches nothing that anyone else here looks at."""
    del mm
    yield from ()


def mmput_end(k: "Kernel", mm: MmStruct) -> Steps:
    """What ``__mmput`` does after ``exit_mmap``: nothing that matters here, since 4.14."""
    del k, mm
    yield from ()


def mmput_async(k: "Kernel", mm: MmStruct) -> Steps:
    """As ``mmput``, but a kworker takes it down: who calls this must not wait in ``exit_aio``."""
    if (yield mmput_testzero(mm)):
        yield schedule_work(k.work, k.mms.index(mm))


@operation()
def schedule_work(s: Memory, work: Var, number: int) -> None:
    """Leave it to the kworker."""
    s[work] = number


@operation(lambda _, mms: range(mms))
def wait_for_work(s: Memory, work: Var, mms: int) -> int | Block:
    """Which of so many address spaces is to be taken down."""
    del mms
    return BLOCK if s[work] is None else s[work]


def mmput_async_fn(k: "Kernel", current: TaskStruct) -> Steps:
    """The kworker."""
    mm = k.mms[(yield wait_for_work(k.work, len(k.mms)))]
    yield from __mmput(k, mm, current)


@operation()
def dup_mmap_fails(s: Memory, mm: MmStruct) -> None:
    """``dup_mmap``: no memory in the middle of it. Some areas are copied, the rest is not."""
    s[mm.tree] = Tree.PARTIAL


def copy_mm(k: "Kernel", mm: MmStruct, current: TaskStruct) -> Steps:
    """``fork(2)`` of a child that does not come to be: ``dup_mm``, ``dup_mmap``, ``mmput``."""
    yield mmap_write_lock(mm)
    yield dup_mmap_fails(mm)
    if "64c37e134b12" in k.fixes:
        yield set_bit(MMF_OOM_SKIP | MMF_UNSTABLE, mm)
    yield mmap_write_unlock(mm)
    yield from k.mmput(mm, current)


@operation(BOOL)
def check_stable_address_space(s: Memory, mm: MmStruct) -> bool:
    """Whether nobody has torn holes into it (include/linux/oom.h; true is what 0 is there)."""
    return not s[mm.flags] & MMF_UNSTABLE


@operation()
def copy_from_user(s: Memory, mm: MmStruct, page: int, is_checked: bool) -> None:
    """Read a page on behalf of write(2); one that was reaped is faulted in anew, as zeroes.

    ``is_checked``: the fault handler refuses an address space that is not stable (6b31d5955cb2).
    """
    if s[mm.pages[page]] == Page.MAPPED or (is_checked and s[mm.flags] & MMF_UNSTABLE):
        return
    s.breaks("zeroes", f"page {page} was reaped: zeroes are written to the file as data")
