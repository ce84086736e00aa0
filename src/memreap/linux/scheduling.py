"""CPU for those who need it now. See sched(7), sched_setscheduler(2).

Only how a task gets, shows and gives back its scheduling lives here.

Priorities (SCHED_FIFO, 1 to 99) are one ladder, so that who waits for whom is decided once:
the watcher above the reaper above the scout above the victim above the second hand. The second
hand thus runs beside the victim where there are CPUs for both, and instead of it where the victim
hangs.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

WATCHER_PRIORITY = 12
REAPER_PRIORITY = 10
SCOUT_PRIORITY = 8
VICTIM_PRIORITY = 5
SECOND_HAND_PRIORITY = 3
NICE_BEST = -20


@dataclass(frozen=True, slots=True)
class Scheduling:
    """How one task was scheduled, so that it can be again."""

    tid: int
    policy: int
    priority: int
    nice: int


def current(tid: int = 0) -> Scheduling:
    """How a task (0: the calling thread) is scheduled now. Raises ProcessLookupError."""
    return Scheduling(
        tid=tid,
        policy=os.sched_getscheduler(tid),
        priority=os.sched_getparam(tid).sched_priority,
        nice=os.getpriority(os.PRIO_PROCESS, tid),
    )


def realtime(tid: int, priority: int) -> bool:
    """Give a task SCHED_FIFO, not inherited by its children; False where not permitted.

    Raises ProcessLookupError.
    """
    policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
    try:
        os.sched_setscheduler(tid, policy, os.sched_param(priority))
    except PermissionError:  # no CAP_SYS_NICE, or no real-time budget in its CPU cgroup
        return False
    return True


def hurry(tid: int, priority: int) -> str:
    """Give a task the best that is permitted: "fifo", "nice" or "none".

    Raises ProcessLookupError.
    """
    if realtime(tid, priority):
        return "fifo"
    try:
        # SCHED_IDLE keeps its tiny weight whatever the nice value: leave it first.
        if os.sched_getscheduler(tid) & ~os.SCHED_RESET_ON_FORK == os.SCHED_IDLE:
            os.sched_setscheduler(tid, os.SCHED_OTHER, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, tid, NICE_BEST)
    except PermissionError:
        return "none"
    return "nice"


def restore(was: Scheduling) -> None:
    """Schedule a task as it was; a task that is gone, or may not be touched, is left."""
    with contextlib.suppress(OSError):
        param = os.sched_param(was.priority)
        try:
            os.sched_setscheduler(was.tid, was.policy, param)
        except PermissionError:  # only the flag may not be taken back without privilege
            os.sched_setscheduler(was.tid, was.policy | os.SCHED_RESET_ON_FORK, param)
        os.setpriority(os.PRIO_PROCESS, was.tid, was.nice)


@contextlib.contextmanager
def watching() -> Iterator[bool]:
    """Run the calling thread above everyone it started, where permitted; then as before."""
    was = current()
    permitted = realtime(0, WATCHER_PRIORITY)
    try:
        yield permitted
    finally:
        if permitted:
            restore(was)


def realtime_permitted() -> bool:
    """Whether this process may give itself SCHED_FIFO."""
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO:
        return True
    with watching() as permitted:
        return permitted
