"""The OOM killer, its reaper, and ``process_mrelease``. mm/oom_kill.c, in its order.

As in 6.0 and later.
"""

from typing import TYPE_CHECKING, Literal

from memreap.check.operation import BLOCK, BOOL, Block, Memory, Steps, Var, become, operation
from memreap.mm.fork import mmdrop
from memreap.mm.memory import unmap_page_range, vma_first, vma_last
from memreap.mm.mm_struct import (
    MMF_OOM_REAP_QUEUED,
    MMF_OOM_SKIP,
    MMF_OOM_VICTIM,
    MMF_UNSTABLE,
    MmStruct,
    SignalStruct,
    TaskStruct,
)
from memreap.mm.mmap_lock import (
    mmap_read_lock,
    mmap_read_trylock,
    mmap_read_unlock,
    set_bit,
    test_and_set_bit,
    test_bit,
)
from memreap.mm.mmu_gather import tlb_finish_mmu

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel

Evaluation = Literal["select", "abort", "next"]


@operation(("select", "abort", "next"))
def oom_evaluate_task(s: Memory, task: TaskStruct) -> Evaluation:
    """The gate: an earlier victim that may still bring memory ends the search for another.

    With ``MMF_OOM_SKIP`` it is passed over, as one whose mm is gone. One that has left the list of
    tasks is not seen at all, whatever became of its memory.
    """
    mm = task.address_space
    if not s[task.signal.live]:
        return "next"
    if s[task.signal.oom_mm]:
        if not s[mm.flags] & MMF_OOM_SKIP:
            return "abort"
        s[mm.skip_shown] = True
        return "next"
    return "select" if s[task.mm] else "next"


def oom_badness_of_next(k: "Kernel", victim: TaskStruct) -> Steps:
    """Kill the task that comes after the victim: from here on it is asked what that was for."""
    yield kill_next(victim.address_space, k.killed_next)
    return True


@operation(name="oom_kill_process_next")
def kill_next(s: Memory, mm: MmStruct, killed_next: Var) -> None:
    """A second victim dies. Was the memory of the first one coming?"""
    s[killed_next] = True
    if mm.all_free(s):
        s.breaks("kill-after-relief", "a second victim dies, and all memory of the first is back")
    if not mm.is_on_its_way(s):
        return
    s.breaks("needless-kill", "a second victim dies while memory of the first is on its way")
    if mm.none_free(s):
        s.breaks("needless-kill-at-once", "a second victim dies before a page of the first is back")


# The reaper.


def oom_reap_vmas(k: "Kernel", mm: MmStruct) -> Steps:
    """``__oom_reap_task_mm``: empty every area, each with a gather of its own; whether all were."""
    yield set_bit(MMF_UNSTABLE, mm)
    if not (yield vma_first(mm)):
        return True
    done = True
    for area in k.areas_to_reap(mm):
        if not (yield from k.may_reap(mm)):
            continue
        tlb = k.gather_for_reaping(mm)
        if not (yield from k.invalidate_range(mm, area)):
            done = False
            continue
        yield from unmap_page_range(k, tlb, mm, area)
        if tlb.pages:
            yield tlb_finish_mmu(mm, tlb)
    yield vma_last(mm)
    return done


def oom_reap_task_mm(k: "Kernel", mm: MmStruct) -> Steps:
    """Reap, unless the lock is taken (false: try again) or the exit path has done it."""
    if not (yield mmap_read_trylock(mm)):
        return False
    done = True
    if not (yield test_bit(MMF_OOM_SKIP, mm)):
        done = yield from k.oom_reap_vmas(mm)
    yield mmap_read_unlock(mm)
    return done


def oom_reap_task(k: "Kernel", tsk: TaskStruct) -> Steps:
    """Try a few times, a tenth of a second apart; then hide the victim, come what may."""
    mm = tsk.address_space
    for _ in range(k.reap_retries):
        if (yield from k.oom_reap_task_mm(mm)):
            break
        yield schedule_timeout_idle(mm, k.is_patient)
    yield set_bit(MMF_OOM_SKIP, mm)
    return become(k.oom_reaper)


@operation()
def schedule_timeout_idle(s: Memory, mm: MmStruct, is_patient: bool) -> Block | None:
    """Sleep a tenth of a second, that is: for any time.

    ``is_patient``: all attempts together last long enough for whatever comes by itself. How long
    that is is no question for a model without a clock; what follows when it is not, is one.
    """
    return BLOCK if is_patient and mm.is_on_its_way(s) else None


def oom_reaper(k: "Kernel") -> Steps:
    """The kernel thread: one for all, one victim after another, last in first out."""
    comm = yield dequeue(k.oom_reaper_list, tuple(tsk.comm for tsk in k.tasks))
    return become(k.oom_reap_task, k.task(comm))


@operation(lambda _, comms: comms)
def dequeue(s: Memory, oom_reaper_list: Var, comms: tuple[str, ...]) -> str | Block:
    """Wait for a victim, one of these, and take the first off the list."""
    del comms
    if not s[oom_reaper_list]:
        return BLOCK
    first, *rest = s[oom_reaper_list]
    s[oom_reaper_list] = tuple(rest)
    return str(first)


@operation()
def enqueue(s: Memory, tsk: TaskStruct, oom_reaper_list: Var) -> None:
    """Put a victim first on the list."""
    if tsk.comm in s[oom_reaper_list]:
        s.breaks("queued-once", "a task that is on the reaper's list is put on it a second time")
        return
    s[oom_reaper_list] = (tsk.comm, *s[oom_reaper_list])


@operation(BOOL)
def task_is_queued(s: Memory, tsk: TaskStruct, oom_reaper_list: Var) -> bool:
    """``tsk == oom_reaper_list || tsk->oom_reaper_list``, before 5.0.

    The last one of several is neither.
    """
    queue = s[oom_reaper_list]
    return tsk.comm in queue and (queue[0] == tsk.comm or queue[-1] != tsk.comm)


@operation(BOOL)
def timer_expires(s: Memory, timer: Var, clock: Var, ticks: int) -> bool | Block:
    """Two seconds after the kill: at any later time, or after some ticks where there is a clock."""
    if not s[timer] or s[clock] < ticks:
        return BLOCK
    s[timer] = False
    return True


def wake_oom_reaper(k: "Kernel", tsk: TaskStruct) -> Steps:
    """The timer: hand the victim to the reaper, unless it has ended by itself."""
    yield timer_expires(k.timers[tsk.comm], k.clock, k.delay_ticks)
    if not (yield test_bit(MMF_OOM_SKIP, tsk.address_space)):
        yield enqueue(tsk, k.oom_reaper_list)


@operation()
def add_timer(s: Memory, timer: Var) -> None:
    """Begin to wait."""
    s[timer] = True


def queue_oom_reaper(k: "Kernel", tsk: TaskStruct) -> Steps:
    """Let the reaper have a victim, after a time, and once (since 5.0)."""
    if (yield test_and_set_bit(MMF_OOM_REAP_QUEUED, tsk.address_space)):
        return
    if "e4a38402c36e" in k.fixes:
        yield add_timer(k.timers[tsk.comm])
    else:
        yield enqueue(tsk, k.oom_reaper_list)


# The killer.


def _mark(s: Memory, tsk: TaskStruct, marks_mm: bool, thawed: tuple[TaskStruct, ...]) -> None:
    if not s[tsk.signal.oom_mm]:
        s[tsk.signal.oom_mm] = True
        s[tsk.address_space.mm_count] += 1
    if marks_mm:
        s[tsk.address_space.flags] |= MMF_OOM_VICTIM
    for thread in thawed:
        s[thread.frozen] = False


@operation()
def mark_oom_victim(
    s: Memory, tsk: TaskStruct, marks_mm: bool, thawed: tuple[TaskStruct, ...]
) -> None:
    """Remember the mm of the victim, and thaw it. ``marks_mm``: MMF_OOM_VICTIM, 4.15 to 5.19."""
    _mark(s, tsk, marks_mm, thawed)


@operation(BOOL)
def send_sigkill_and_mark(
    s: Memory, threads: tuple[TaskStruct, ...], marks_mm: bool, thawed: tuple[TaskStruct, ...]
) -> bool:
    """``find_lock_task_mm``, ``do_send_sig_info``, ``mark_oom_victim``: all under ``task_lock``.

    Whoever clears ``tsk->mm`` takes that lock too, so an exit that has begun is never marked
    afterwards. False: no thread has an mm any more.
    """
    alive = [thread for thread in threads if s[thread.mm]]
    if not alive:
        return False
    s[alive[0].signal.sigkill] = True
    _mark(s, alive[0], marks_mm, thawed)
    return True


@operation()
def do_send_sig_info(s: Memory, signal: SignalStruct) -> None:
    """SIGKILL, to the whole process."""
    s[signal.sigkill] = True


def thawed(k: "Kernel", tsk: TaskStruct) -> tuple[TaskStruct, ...]:
    """Whom ``mark_oom_victim`` takes out of the freezer: one thread, or since 2025 all."""
    return k.threads_of(tsk) if "59d4d36158ba" in k.fixes else (tsk,)


def oom_kill_process(k: "Kernel", victim: TaskStruct) -> Steps:
    """``__oom_kill_process``: kill the victim, and let the reaper have it."""
    threads = k.threads_of(victim)
    if (yield send_sigkill_and_mark(threads, k.marks_the_mm, thawed(k, victim))):
        yield from k.queue_oom_reaper(victim)


def out_of_memory(k: "Kernel", victim: TaskStruct) -> Steps:
    """Choose and kill; true once a second victim was killed, where the model ends."""
    found = yield oom_evaluate_task(victim)
    if found == "next":
        return (yield from k.oom_badness_of_next(victim))
    if found == "select":
        yield from k.oom_kill_process(victim)
    return False


# From user space.


Found = Literal["nobody", "not dying", "reap"]


def _task_will_free_mem(s: Memory, task: TaskStruct) -> bool:
    """Whether it is dying, and has not been drained yet."""
    return bool(s[task.signal.sigkill] and not s[task.address_space.flags] & MMF_OOM_SKIP)


@operation(("nobody", "not dying", "reap"))
def find_lock_task_mm(
    s: Memory, task: TaskStruct, threads: tuple[TaskStruct, ...], count: Literal["count", "users"]
) -> Found:
    """Find a thread that has an mm, and keep that; under ``task_lock``, as all that follows.

    ``count``: keep the struct (``mmgrab``), or use the address space (``mmget``, 5.16 alone).
    "nobody": no thread has one any more, ESRCH. "reap": ``task_will_free_mem``.
    """
    if not any(s[thread.mm] for thread in threads):
        return "nobody"
    mm = task.address_space
    mm.touch(s)
    s[mm.mm_count if count == "count" else mm.mm_users] += 1
    return "reap" if _task_will_free_mem(s, task) else "not dying"


def process_mrelease(k: "Kernel", task: TaskStruct, current: TaskStruct) -> Steps:
    """Reap a process that is dying, in the caller's own time."""
    del current
    mm = task.address_space
    found = yield find_lock_task_mm(task, k.threads_of(task), "count")
    if found == "nobody":
        return
    if found == "reap":
        yield mmap_read_lock(mm)
        if not (yield test_bit(MMF_OOM_SKIP, mm)):
            yield from k.oom_reap_vmas(mm)
        yield mmap_read_unlock(mm)
    yield mmdrop(mm)


def kill_and_release(k: "Kernel", task: TaskStruct, current: TaskStruct) -> Steps:
    """What memreap, or another daemon, does: SIGKILL and ``process_mrelease``, back to back."""
    yield do_send_sig_info(task.signal)
    yield from k.process_mrelease(task, current)
