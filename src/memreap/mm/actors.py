"""Tasks that are in no file of the kernel: what user space, devices and time do.

Only tasks of one scenario or two live here.
"""

from typing import TYPE_CHECKING

from memreap.check.operation import BLOCK, Block, Memory, Steps, Var, operation
from memreap.mm.exit import exit_with_a_signal, get_signal
from memreap.mm.fork import check_stable_address_space, copy_from_user, get_task_mm, mmget_on_mmlist
from memreap.mm.memory import vma_first, vma_last
from memreap.mm.mm_struct import MmapLock, MmStruct, SignalStruct, TaskStruct
from memreap.mm.mmap_lock import mmap_read_lock, mmap_read_unlock, mutex_lock, mutex_unlock
from memreap.mm.oom_kill import kill_and_release, mark_oom_victim, thawed

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel


def use_for_a_while(k: "Kernel", task: TaskStruct, current: TaskStruct) -> Steps:
    """A third holder of ``mm_users``, such as a reader of /proc."""
    mm = task.address_space
    if (yield get_task_mm(k.threads_of(task), mm)):
        yield from k.mmput(mm, current)


def swapoff(k: "Kernel", mm: MmStruct, current: TaskStruct) -> Steps:
    """One that walks the areas too (``unuse_mm``, uprobes' ``build_map_info``)."""
    if not (yield mmget_on_mmlist(mm)):
        return
    yield mmap_read_lock(mm)
    is_stable = True
    if "64c37e134b12" in k.fixes:
        is_stable = yield check_stable_address_space(mm)
    if is_stable and (yield vma_first(mm)):
        yield vma_last(mm)
    yield mmap_read_unlock(mm)
    yield from k.mmput(mm, current)


def write_file(k: "Kernel", tsk: TaskStruct) -> Steps:
    """A thread in the middle of write(2), which has not noticed that it was killed."""
    mm = tsk.address_space
    yield copy_from_user(mm, len(mm.pages) - 1, "6b31d5955cb2" in k.fixes)
    yield from k.do_exit(tsk)


def die_allocating(k: "Kernel", tsk: TaskStruct, times: int) -> Steps:
    """A thread that was killed while it allocates: ``out_of_memory`` chooses ``current``."""
    yield get_signal(tsk)
    for _ in range(times):
        yield mutex_lock(k.oom_lock)
        yield mark_oom_victim(tsk, k.marks_the_mm, thawed(k, tsk))
        yield from k.queue_oom_reaper(tsk)
        yield mutex_unlock(k.oom_lock)
    yield from exit_with_a_signal(k, tsk)


@operation(())
def wait_for_ever(s: Memory) -> Block:
    """Inside the kernel, and never back."""
    del s
    return BLOCK


def stay_for_ever() -> Steps:
    """A thread that hangs."""
    yield wait_for_ever()


@operation()
def give_up_the_lock(s: Memory, mm: MmStruct) -> None:
    """``mmap_write_unlock``, by who had it from the beginning."""
    s[mm.mmap_lock] = MmapLock(0)


def let_go_of_the_lock(k: "Kernel", tsk: TaskStruct) -> Steps:
    """A thread that has ``mmap_lock`` for writing (mmap, fork), lets it go, and dies."""
    yield give_up_the_lock(tsk.address_space)
    yield from k.do_exit(tsk)


# memreap's own hold: a ptrace exit stop, before exit_mm, until the reap has the mm.


@operation()
def ptrace_exit_stop(s: Memory, held: Var) -> Block | None:
    """``PTRACE_EVENT_EXIT``: stay until the tracer lets go."""
    return BLOCK if s[held] else None


@operation()
def ptrace_detach(s: Memory, held: Var) -> None:
    """Let go."""
    s[held] = False


def hold_until_reaped(k: "Kernel", tsk: TaskStruct) -> Steps:
    """A victim that memreap holds."""
    yield get_signal(tsk)
    yield ptrace_exit_stop(k.held)
    yield from exit_with_a_signal(k, tsk)


@operation()
def wait_for_reap(s: Memory, mm: MmStruct, done: Var) -> Block | None:
    """Until process_mrelease has the mm in hand, or is through."""
    return None if s[mm.mm_count] > 1 or s[mm.mm_users] > 1 or s[done] else BLOCK


def tracer(k: "Kernel", task: TaskStruct) -> Steps:
    """memreap's thread that holds: it lets go as soon as the reap is under way."""
    yield wait_for_reap(task.address_space, k.reap_done)
    yield ptrace_detach(k.held)


@operation()
def note_that_it_is_done(s: Memory, done: Var) -> None:
    """process_mrelease has returned."""
    s[done] = True


def kill_held(k: "Kernel", task: TaskStruct, current: TaskStruct) -> Steps:
    """memreap's reaper: SIGKILL and reap, beside the thread that holds."""
    yield from kill_and_release(k, task, current)
    yield note_that_it_is_done(k.reap_done)


# Time, where a rule is of time.


@operation()
def tick(s: Memory, clock: Var, signal: SignalStruct, last: int) -> Block | None:
    """A second after the kill. A victim that can run takes a step in each."""
    if not s[signal.stepped] or s[clock] >= last:
        return BLOCK
    s[clock] += 1
    s[signal.stepped] = False
    return None


def clock(k: "Kernel", signal: SignalStruct) -> Steps:
    """Ticks until the delay is over."""
    for _ in range(k.delay_ticks):
        yield tick(k.clock, signal, k.delay_ticks)
