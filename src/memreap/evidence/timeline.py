"""What exit and reaper did to each other, made out of one trace. Pure.

1. Times are seconds from the SIGKILL, by the trace's own clock.
2. Who: ``exit`` is any thread of the victim's, ``reaper`` whoever called process_mrelease (numbered
   where they are several), ``oom_reaper`` the kernel's; everybody else is named by pid.
3. Who freed how much: a fall of ``rss_stat`` counts for him in whose context it was told. Two who
   free at the same instant may be told in the wrong order, by a batch of pages.
4. Where a trace lacks something, the timeline lacks it: nothing is made up.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from memreap.evidence.events import DEAD_STATES, MEMBERS
from memreap.evidence.trace import Trace
from memreap.linux.tracing import Event

EXIT, REAPER, OOM_REAPER = "exit", "reaper", "oom_reaper"
WAITED_S = 5e-6  # a lock that was got sooner was free
_LOCKED = {"asked": "mmap_lock_start_locking", "got": "mmap_lock_acquire_returned"}


@dataclass(frozen=True, slots=True)
class Hold:
    """One turn at the victim's mmap_lock. None: that was not seen."""

    who: str
    write: bool
    asked_s: float | None
    got_s: float | None
    released_s: float | None
    after: str = ""  # who let it go just before it was got, where it had to be waited for

    @property
    def waited_s(self) -> float:
        """How long it was asked for."""
        if self.asked_s is None or self.got_s is None:
            return 0.0
        return self.got_s - self.asked_s

    @property
    def had_to_wait(self) -> bool:
        """Whether it was not free; one that was never got was not."""
        return self.got_s is None or self.waited_s > WAITED_S


@dataclass(frozen=True, slots=True)
class Fall:
    """Pages that were taken from the mm, as they were told."""

    at_s: float
    who: str
    freed_bytes: int
    left_bytes: int  # of all members together


@dataclass(frozen=True, slots=True)
class Reap:
    """One call of process_mrelease. ``code``: its errno, 0 where all was taken; None: not back."""

    who: str
    entered_s: float
    returned_s: float | None = None
    code: int | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """One kill. None: it did not happen while it was traced, or is not traced here."""

    held_bytes: int  # before
    signalled_s: float | None  # 0.0, where the SIGKILL was seen
    delivered_s: float | None = None  # to the first thread
    exits_s: float | None = None  # the last thread begins to exit
    torn_down_s: float | None = None  # exit_mmap done
    gone_s: float | None = None  # the last thread is dead
    holds: tuple[Hold, ...] = ()
    falls: tuple[Fall, ...] = ()
    reaps: tuple[Reap, ...] = ()
    hangs_in: tuple[str, ...] = ()  # functions, innermost first, where it sleeps for good
    others: dict[str, int] = field(default_factory=dict)  # who else touched the mm: events

    @property
    def freed_bytes(self) -> dict[str, int]:
        """By whom."""
        freed: Counter[str] = Counter()
        for fall in self.falls:
            freed[fall.who] += fall.freed_bytes
        return dict(freed)

    @property
    def left_bytes(self) -> int:
        """At the end of the trace."""
        return self.falls[-1].left_bytes if self.falls else self.held_bytes


def timeline(trace: Trace) -> Timeline:
    """What happened."""
    return _Maker(trace).made()


class _Maker:
    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._tids = {trace.victim.pid, *trace.victim.tids}
        self._begin_ns = self._signalled() or (trace.events[0].at_ns if trace.events else 0)
        self._events = [event for event in trace.events if event.at_ns >= self._begin_ns]
        self._reapers = dict.fromkeys(
            event.pid for event in self._events if event.name == "sys_enter_process_mrelease"
        )
        self._kernels = {e.pid for e in self._events if e.name == "start_task_reaping"}
        self._mm = self._victims_mm()

    def made(self) -> Timeline:
        torn_down = (e for e in self._named("exit_mmap") if e.fields.get("mm") == self._mm)
        holds = tuple(self._holds())
        return Timeline(
            held_bytes=sum(self._trace.victim.rss_bytes.values()),
            signalled_s=0.0 if self._signalled() is not None else None,
            delivered_s=self._first("signal_deliver"),
            exits_s=self._last_exit(),
            torn_down_s=next((self._s(event) for event in torn_down), None),
            gone_s=self._gone_s(),
            holds=holds,
            falls=tuple(self._falls()),
            reaps=tuple(self._reaps()),
            hangs_in=self._hangs_in(),
            others=dict(Counter(h.who for h in holds if h.who.startswith("pid "))),
        )

    # Who and when.

    def _s(self, event: Event) -> float:
        return (event.at_ns - self._begin_ns) / 1e9

    def _who(self, pid: int) -> str:
        if pid in self._tids:
            return EXIT
        if pid in self._kernels:
            return OOM_REAPER
        if pid not in self._reapers:
            return f"pid {pid}"
        return REAPER if len(self._reapers) == 1 else f"{REAPER} {self._number(pid)}"

    def _number(self, pid: int) -> int:
        return 1 + list(self._reapers).index(pid)

    def _named(self, name: str) -> Iterator[Event]:
        return (event for event in self._events if event.name == name)

    def _of_exit(self, name: str) -> list[Event]:
        return [event for event in self._named(name) if event.pid in self._tids]

    def _first(self, name: str) -> float | None:
        return next((self._s(event) for event in self._of_exit(name)), None)

    def _signalled(self) -> int | None:
        pid = self._trace.victim.pid
        found = (
            event.at_ns
            for event in self._trace.events
            if event.name == "signal_generate" and event.fields.get("pid") == pid
        )
        return next(found, None)

    def _last_exit(self) -> float | None:
        exits = self._of_exit("sched_process_exit")
        last = [event for event in exits if event.fields.get("group_dead", 1)]
        return self._s(last[-1]) if last else None

    def _gone_s(self) -> float | None:
        """When the last thread was switched away from for good; all of them must have been."""
        gone = {
            event.fields["prev_pid"]: self._s(event)
            for event in self._named("sched_switch")
            if event.fields.get("prev_pid") in self._tids
            and event.fields.get("prev_state") in DEAD_STATES
        }
        return max(gone.values()) if set(gone) == self._tids else None

    def _hangs_in(self) -> tuple[str, ...]:
        if self._gone_s() is not None:
            return ()
        stacks = [event for event in self._of_exit("kernel_stack") if event.fields.get("stack")]
        if not stacks or any(event.at_ns > stacks[-1].at_ns for event in self._of_exit_moves()):
            return ()
        return tuple(_without_scheduler(stacks[-1].fields["stack"]))

    def _of_exit_moves(self) -> list[Event]:
        """What the victim did itself: after that, it does not sleep there any more."""
        names = ("rss_stat", "mmap_lock_released", "exit_mmap")
        return [event for name in names for event in self._of_exit(name)]

    # The lock.

    def _victims_mm(self) -> int | None:
        """By its teardown; or by what a reaper locks first; or by what the victim locks last."""
        for event in self._of_exit("exit_mmap"):
            return _mm(event)
        entered: set[int] = set()
        own: list[Event] = []
        for event in self._events:
            if event.name == "sys_enter_process_mrelease":
                entered.add(event.pid)
            elif event.name.startswith("mmap_lock_") and event.pid in entered:
                return _mm(event)
            elif event.name.startswith("mmap_lock_") and event.pid in self._tids:
                own.append(event)
        return _mm(own[-1]) if own else None

    def _holds(self) -> Iterator[Hold]:
        """Each turn at the lock, in the order of its asking."""
        waiting: dict[int, Event] = {}
        holding: dict[int, tuple[Event | None, Event]] = {}
        found: list[tuple[int, Hold]] = []
        for event in self._events:
            if not event.name.startswith("mmap_lock_") or _mm(event) != self._mm:
                continue
            if event.name == _LOCKED["asked"]:
                waiting[event.pid] = event
            elif event.name == _LOCKED["got"]:
                asked = waiting.pop(event.pid, None)
                if event.fields.get("success", 1):
                    holding[event.pid] = (asked, event)
            else:
                asked, got = holding.pop(event.pid, (None, None))
                found.append(self._hold(event.pid, asked, got, event))
        found += [self._hold(pid, asked, got, None) for pid, (asked, got) in holding.items()]
        found += [self._hold(pid, asked, None, None) for pid, asked in waiting.items()]
        for _, hold in sorted(found, key=lambda one: one[0]):
            yield hold

    def _hold(
        self, pid: int, asked: Event | None, got: Event | None, released: Event | None
    ) -> tuple[int, Hold]:
        known = [event for event in (asked, got, released) if event is not None]
        write = bool(known[0].fields.get("write"))
        asked_s, got_s, released_s = (
            None if event is None else self._s(event) for event in (asked, got, released)
        )
        after = ""
        if got is not None and asked is not None and got.at_ns - asked.at_ns > WAITED_S * 1e9:
            after = self._released_before(got)
        return known[0].at_ns, Hold(self._who(pid), write, asked_s, got_s, released_s, after)

    def _released_before(self, got: Event) -> str:
        before = [
            event
            for event in self._named("mmap_lock_released")
            if event.at_ns <= got.at_ns and event.pid != got.pid and _mm(event) == self._mm
        ]
        return self._who(before[-1].pid) if before else ""

    # The memory.

    def _ids(self) -> set[int]:
        """The mm's numbers in ``rss_stat``: of the victim's own, and of what reapers empty."""
        own = {e.fields["mm_id"] for e in self._of_exit("rss_stat")}
        return own | reaped_ids(self._events)

    def _falls(self) -> Iterator[Fall]:
        left = dict(self._trace.victim.rss_bytes)
        ids = self._ids()
        for event in self._named("rss_stat"):
            if event.fields["mm_id"] not in ids:
                continue
            member = _member(event.fields["member"])
            size = max(0, event.fields["size"])
            freed = left.get(member, size) - size
            left[member] = size
            if freed > 0:
                yield Fall(self._s(event), self._who(event.pid), freed, sum(left.values()))

    # The reaps.

    def _reaps(self) -> Iterable[Reap]:
        under_way: dict[int, Reap] = {}
        done: list[Reap] = []
        for event in self._events:
            if event.name == "sys_enter_process_mrelease":
                under_way[event.pid] = Reap(self._who(event.pid), self._s(event))
            elif event.name == "sys_exit_process_mrelease" and event.pid in under_way:
                reap, code = under_way.pop(event.pid), -int(event.fields["ret"])
                done.append(Reap(reap.who, reap.entered_s, self._s(event), code))
        return sorted([*done, *under_way.values()], key=lambda reap: reap.entered_s)


def reaped_ids(events: Iterable[Event]) -> set[int]:
    """The mms, as ``rss_stat`` numbers them, from which somebody takes pages who reaps."""
    reaping: set[int] = set()
    found: set[int] = set()
    for event in events:
        if event.name in ("sys_enter_process_mrelease", "start_task_reaping"):
            reaping.add(event.pid)
        elif event.name in ("sys_exit_process_mrelease", "finish_task_reaping"):
            reaping.discard(event.pid)
        elif event.name == "rss_stat" and event.pid in reaping and not event.fields["curr"]:
            found.add(event.fields["mm_id"])
    return found


def _without_scheduler(stack: Sequence[str]) -> list[str]:
    """From what it waits in to what it wants: not how one falls asleep, nor how a signal comes."""
    asleep = [at for at, name in enumerate(stack) if name.startswith(("schedule", "__schedule"))]
    rest = list(stack[asleep[-1] + 1 :] if asleep else stack)
    return rest[: rest.index("do_exit") + 1] if "do_exit" in rest else rest


def _mm(event: Event) -> int | None:
    mm = event.fields.get("mm")
    return int(mm) if mm is not None else None


def _member(raw: int | str) -> str:
    return MEMBERS[raw] if isinstance(raw, int) and 0 <= raw < len(MEMBERS) else str(raw)
