"""What each did in a kill: the events of a trace that count, by the pid of whoever did it.

A thread leaves by the last stretch that it spends under the lock, if it leaves at all. All do where
the address space is taken down, or process_mrelease finds nobody any more. Where neither is seen
nobody is taken to have left: that allows no less.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from memreap.evidence.alphabet import Seen
from memreap.evidence.subject import (
    ACQUIRED,
    ENTER,
    ESRCH,
    EXIT,
    LOCKS,
    RELEASED,
    RESULTS,
    START,
    Subject,
)
from memreap.linux.tracing import Event

# By (event, to write, got it).
LOCK_SEEN = {
    (START, False, True): Seen.STARTS_READ,
    (START, True, True): Seen.STARTS_WRITE,
    (ACQUIRED, False, True): Seen.READS,
    (ACQUIRED, False, False): Seen.READ_FAILS,
    (ACQUIRED, True, True): Seen.WRITES,
    (ACQUIRED, True, False): Seen.WRITE_FAILS,
    (RELEASED, False, True): Seen.READ_ENDS,
    (RELEASED, True, True): Seen.WRITE_ENDS,
}
LOCKS_SEEN = {*LOCK_SEEN.values(), Seen.LEAVES}
# What is told of a task by whoever it is: its pid is a field.
TOLD = {
    "sched_process_exit": Seen.ENDS,
    "sched_process_free": Seen.FREED,
    "signal_generate": Seen.SIGNALLED,
}
OOM = {
    "wake_reaper": Seen.WAKES_REAPER,
    "skip_task_reaping": Seen.SKIPS,
    "start_task_reaping": Seen.REAPS,
    "finish_task_reaping": Seen.REAPED,
}
IGNORED = 1  # TRACE_SIGNAL_IGNORED: to a process that is gone


class Act(NamedTuple):
    """An event that counts. ``number``: of the trace's events; ``pid``: of whom it tells."""

    number: int
    event: Event
    pid: int
    seen: Seen
    result: int | None = None


def acts(subject: Subject) -> list[Act]:
    """All of them, in the order of the trace."""
    found = [
        act for number, event in enumerate(subject.events) for act in _of(subject, number, event)
    ]
    return _leaving(subject, found)


def _of(subject: Subject, number: int, event: Event) -> Iterator[Act]:
    """What an event tells; one that does not count, nothing."""
    if number in subject.foreign:
        return
    if event.name in TOLD or event.name in OOM:
        yield from _of_somebody(subject, number, event)
    elif event.name == "signal_deliver":
        if event.pid in subject.users and number <= subject.gone_on.get(event.pid, number):
            yield Act(number, event, event.pid, Seen.DELIVERED)
    elif event.name == ENTER:
        yield Act(number, event, event.pid, Seen.ENTERS)
    elif event.name == EXIT:
        if event.fields["ret"] in RESULTS:
            yield Act(number, event, event.pid, Seen.RETURNS, event.fields["ret"])
    elif (seen := _of_mm(subject, number, event)) is not None:
        yield Act(number, event, event.pid, seen)


def _of_somebody(subject: Subject, number: int, event: Event) -> Iterator[Act]:
    about = event.fields["pid"]
    if about not in subject.users or number > subject.gone_on.get(about, number):
        return
    if event.name in OOM:
        yield from (Act(number, event, pid, OOM[event.name]) for pid in subject.reapers)
    elif event.fields.get("result") != IGNORED:
        yield Act(number, event, about, TOLD[event.name])


def _of_mm(subject: Subject, number: int, event: Event) -> Seen | None:
    own = event.pid in subject.users or event.pid in subject.reapers or number in subject.inside
    by, down = subject.down
    if number < subject.born or (number >= down.stop and not own):
        return None
    own |= event.pid == by and number in down
    if event.name == "rss_stat" and subject.is_its(event):
        return Seen.TOUCHES if event.fields["curr"] or not own else Seen.FALLS
    if event.fields.get("mm") != subject.mm:
        return None
    if event.name in LOCKS:
        got = bool(event.fields.get("success", True))
        return LOCK_SEEN[event.name, bool(event.fields["write"]), got]
    return Seen.TORN_DOWN if event.name == "exit_mmap" else None


def _leaving(subject: Subject, found: list[Act]) -> list[Act]:
    """Each thread's last stretch, but that of who takes it down: that one has another to come."""
    last = last_one(subject, found)
    freed = {act.pid for act in found if act.seen is Seen.FREED}
    all_leave = _all_leave(subject, found)
    leaving = {
        act.pid: at
        for at, act in enumerate(found)
        if act.seen is Seen.STARTS_READ and act.pid in subject.users and act.pid != last
        if all_leave or act.pid in freed or subject.is_child(act.pid)
    }
    for at in leaving.values():
        found[at] = found[at]._replace(seen=Seen.LEAVES)
    return found


def _all_leave(subject: Subject, found: list[Act]) -> bool:
    dead: set[int] = set()
    for act in found:
        if act.seen in (Seen.DELIVERED, Seen.ENDS):
            dead.add(act.pid)
        unmaps = act.seen is Seen.FALLS and act.pid in subject.users
        locks = act.seen is Seen.STARTS_WRITE and act.pid in dead
        if act.seen is Seen.TORN_DOWN or unmaps or locks or act.result == ESRCH:
            return True
    return False


def last_one(subject: Subject, found: list[Act]) -> int:
    """Who takes the address space down: the last one to lock it, of those who use it."""
    downs = [act.pid for act in found if act.seen is Seen.TORN_DOWN]
    return downs[0] if downs else next(lookers(subject, reversed(found)), -1)


def lookers(subject: Subject, found: Iterable[Act]) -> Iterator[int]:
    """Whose locks are no reaper's."""
    for act in found:
        is_a_reaper = act.number in subject.inside or act.pid in subject.reapers
        if act.seen in LOCKS_SEEN and not is_a_reaper:
            yield act.pid
