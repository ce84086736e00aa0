"""Whose address space a trace is about, and who has to do with it.

1. It is the one that a thread of the victim's locks once its SIGKILL was delivered, or takes down,
   or else the one that a reaper locks.
2. A call of process_mrelease that locks another one is about another victim.
3. The kernel hides an mm behind a number of its own in ``rss_stat``: the victim's is the one that
   most of what is unmapped by reapers, and by its dying threads, has; or what they faulted in last.
4. Its memory is somebody else's as soon as it is torn down, and was before it was made. What is
   done to it thereafter by who is neither the victim's nor inside process_mrelease is taken to be
   done to that other one.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property

from memreap.evidence.trace import Trace
from memreap.linux.tracing import Event

ENTER, EXIT = "sys_enter_process_mrelease", "sys_exit_process_mrelease"
START, ACQUIRED, RELEASED = (
    "mmap_lock_start_locking",
    "mmap_lock_acquire_returned",
    "mmap_lock_released",
)
LOCKS = (START, ACQUIRED, RELEASED)
BY_REAPER = ("start_task_reaping", "finish_task_reaping", "skip_task_reaping")
ESRCH, EAGAIN = -3, -11
RESULTS = {0, ESRCH, -4, EAGAIN, -22}  # all others are told before anybody's mm is looked for

Numbered = tuple[int, Event]


class Subject:
    """Each thing is looked for once, and all of a trace is looked through for it."""

    def __init__(self, trace: Trace) -> None:
        """Nothing is looked for yet."""
        self.events = trace.events
        self.pid = trace.victim.pid
        self.tids = dict.fromkeys((trace.victim.pid, *trace.victim.tids))
        self.sharers = set(trace.outcome.get("sharers") or ())

    @cached_property
    def mm(self) -> int | None:
        """Rule 1."""
        dying: set[int] = set()
        for event in self.events:
            if event.pid not in self.tids:
                continue
            if event.name == "signal_deliver":
                dying.add(event.pid)
            elif event.name in LOCKS and event.pid in dying:
                return int(event.fields["mm"])
        ends = (e for e in self.events if e.name == "exit_mmap" and e.pid in self.tids)
        if (end := next(ends, None)) is not None:
            return int(end.fields["mm"])
        called = (event for call in self.calls for _, event in call)
        reaped = (event for event in self.events if event.pid in self.reapers)
        own = (event for event in self.events if event.pid in self.tids)
        return _most_locked(called) or _most_locked(reaped) or _most_locked(own)

    @cached_property
    def born(self) -> int:
        """From which event on its memory is its own: another mm may have been there before."""
        born, by = 0, None
        for number, event in enumerate(self.events):
            if event.name == "signal_generate" and event.fields["pid"] == self.pid:
                break
            if event.fields.get("mm") != self.mm:
                continue
            if event.name == "exit_mmap":
                by = event.pid
            elif event.name == RELEASED and event.pid == by:
                born = number + 1
        else:
            return 0
        return born

    @property
    def _locks(self) -> Iterator[Numbered]:
        """Whatever is done to locks, this one's and others'."""
        for number, event in enumerate(self.events):
            if event.name in LOCKS and number >= self.born:
                yield number, event

    @cached_property
    def calls(self) -> list[list[Numbered]]:
        """Each call of process_mrelease: all that its caller did from entering to leaving it."""
        done: list[list[Numbered]] = []
        calls: dict[int, list[Numbered]] = {}
        for number, event in enumerate(self.events):
            if event.name == ENTER:
                calls[event.pid] = []
                done.append(calls[event.pid])
            if event.pid in calls:
                calls[event.pid].append((number, event))
            if event.name == EXIT:
                calls.pop(event.pid, None)
        return done

    @cached_property
    def foreign(self) -> set[int]:
        """Numbers of events inside of calls that are about somebody else: rule 2."""
        found: set[int] = set()
        for call in self.calls:
            locked = {event.fields["mm"] for _, event in call if event.name in LOCKS}
            results = {event.fields["ret"] for _, event in call if event.name == EXIT}
            if (locked and self.mm not in locked) or not results <= RESULTS:
                found |= {number for number, _ in call}
        return found

    @cached_property
    def inside(self) -> set[int]:
        """Numbers of events inside of calls that are about the victim."""
        return {number for call in self.calls for number, _ in call} - self.foreign

    @cached_property
    def reapers(self) -> set[int]:
        """oom_reaper; a timer wakes it, in anybody's context."""
        return {event.pid for event in self.events if event.name in BY_REAPER}

    @cached_property
    def _mm_id(self) -> int | None:
        """Rule 3."""
        reading: set[int] = set()
        dying: set[int] = set()
        found: Counter[int] = Counter()
        own = None
        for number, event in enumerate(self.events):
            if event.name in LOCKS and event.fields["mm"] == self.mm and not event.fields["write"]:
                if event.name == ACQUIRED and event.fields["success"]:
                    reading.add(event.pid)
                elif event.name == RELEASED:
                    reading.discard(event.pid)
            elif event.name == "signal_deliver" and event.pid in self.tids:
                dying.add(event.pid)
            elif event.name == "rss_stat" and event.fields["curr"]:
                own = event.fields["mm_id"] if event.pid in self.tids else own
            elif event.name == "rss_stat":
                reaps = number in self.inside or event.pid in self.reapers
                unmaps = event.pid in dying or (reaps and event.pid in reading)
                found.update([event.fields["mm_id"]] * unmaps)
        return found.most_common(1)[0][0] if found else own

    def is_its(self, event: Event) -> bool:
        """Whether an event of ``rss_stat`` is about it."""
        return self._mm_id is not None and event.fields["mm_id"] == self._mm_id

    @cached_property
    def delivered(self) -> set[int]:
        """To whom SIGKILL was delivered."""
        return {event.pid for event in self.events if event.name == "signal_deliver"}

    @cached_property
    def users(self) -> set[int]:
        """Who has the mm for its own: the victim's threads, and those of who shares it."""
        users = {*self.tids, *self.sharers}
        others = {e.pid for e in self.events if e.name in (ENTER, EXIT)} | self.reapers
        dying = {e.pid for e in self.events if e.name == "sched_process_exit"} | self.delivered
        for event in self.events[self.born : self.down[1].stop]:
            locks = event.name in LOCKS and event.fields["mm"] == self.mm and event.pid in dying
            faults = event.name == "rss_stat" and self.is_its(event) and event.fields["curr"]
            if (locks or faults) and event.pid not in others:
                users.add(event.pid)
        return users

    def is_child(self, pid: int) -> bool:
        """Whether a user is a process of its own, such as a child of vfork.

        It has an end of its own, or an mm of its own afterwards.
        """
        if pid in self.gone_on:
            return True
        if pid in self.tids or pid in self.delivered:
            return False
        ends = [e for e in self.events if e.name == "sched_process_exit" and e.pid == pid]
        return bool(ends) and bool(ends[0].fields.get("group_dead"))

    @cached_property
    def gone_on(self) -> dict[int, int]:
        """Who went on by execve, and its last event at the lock of this mm.

        It takes the lock of another one to write, and of this one no more.
        """
        last: dict[int, int] = {}
        gone: dict[int, int] = {}
        for number, event in self._locks:
            if event.fields["mm"] == self.mm and number < self.down[1].stop:
                last[event.pid] = number
                gone.pop(event.pid, None)
            elif event.pid in last and event.fields["write"]:
                gone[event.pid] = last[event.pid]
        return {pid: n for pid, n in gone.items() if pid in self.users and pid != self.pid}

    @cached_property
    def down(self) -> tuple[int, range]:
        """Who takes it down (-1: nobody), and the events from its walk to where it lets go.

        From there on rule 4 holds.
        """
        by, end = -1, len(self.events)
        walks: dict[int, int] = {}
        for number, event in enumerate(self.events):
            if event.fields.get("mm") != self.mm or number < self.born:
                continue
            if event.name == START and not event.fields["write"]:
                walks[event.pid] = number
            elif event.name == "exit_mmap" and by < 0:
                by = event.pid
            elif event.name == RELEASED and event.pid == by:
                end = number + 1
                break
        return by, range(walks.get(by, end), end)

    @cached_property
    def ends_late(self) -> bool:
        """Whether this kernel tells of sched_process_exit only after ``exit_mm``."""
        ends = [event for event in self.events if event.name == "sched_process_exit"]
        return bool(ends) and "group_dead" not in ends[0].fields


def _most_locked(events: Iterable[Event]) -> int | None:
    locked = Counter(int(event.fields["mm"]) for event in events if event.name in LOCKS)
    return locked.most_common(1)[0][0] if locked else None
