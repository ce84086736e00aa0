"""How a task ends. kernel/exit.c; ``exit_mm_release`` of kernel/fork.c, kernel/futex/core.c."""

from typing import TYPE_CHECKING

from memreap.check.operation import BLOCK, Block, Memory, Steps, operation
from memreap.mm.mm_struct import Page, TaskStruct

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel

ROBUST_LIST = 0  # the page that a thread keeps its list of robust futexes in


@operation()
def get_signal(s: Memory, tsk: TaskStruct) -> Block | None:
    """Come to know that one was killed, which a frozen task does not."""
    if not s[tsk.signal.sigkill] or s[tsk.frozen]:
        return BLOCK
    s[tsk.signal.stepped] = True
    return None


@operation()
def futex_cleanup(s: Memory, tsk: TaskStruct) -> None:
    """Read the list of robust futexes in user memory, and wake who waits for them."""
    s[tsk.signal.stepped] = True
    if s[tsk.address_space.pages[ROBUST_LIST]] != Page.MAPPED:
        s.breaks(
            "robust-list", "the robust list was reaped: the walk of it stops, and its waiters hang"
        )


@operation()
def clear_current_mm(s: Memory, tsk: TaskStruct) -> Block | None:
    """``current->mm = NULL``, under ``mmap_lock`` for reading and the task's lock.

    Nothing else happens while it holds them, and readers do not mind each other: one step.
    The CPU runs on lazily, and reaches no user memory any more: its TLB entries are no danger.
    """
    mm = tsk.address_space
    if s[mm.mmap_lock] < 0:
        return BLOCK
    s[tsk.mm] = False
    if tsk.is_running:
        s[mm.tlb] = 0
    return None


def exit_mm(k: "Kernel", tsk: TaskStruct) -> Steps:
    """Let go of the address space."""
    if "robust list" in tsk.address_space.has:
        yield from k.exit_mm_release(tsk)
    yield clear_current_mm(tsk)
    yield from k.mmput(tsk.address_space, tsk)


def exit_mm_release(k: "Kernel", tsk: TaskStruct) -> Steps:
    """``futex_exit_release``."""
    del k
    yield futex_cleanup(tsk)


@operation()
def release_task(s: Memory, tsk: TaskStruct) -> None:
    """Leave the list of tasks: whoever looks for victims there does not find this one any more."""
    s[tsk.signal.live] -= 1


def do_exit(k: "Kernel", tsk: TaskStruct) -> Steps:
    """A thread, from its SIGKILL on."""
    yield get_signal(tsk)
    yield from exit_with_a_signal(k, tsk)


def exit_with_a_signal(k: "Kernel", tsk: TaskStruct) -> Steps:
    """The rest of it."""
    yield from k.exit_mm(tsk)
    yield release_task(tsk)
