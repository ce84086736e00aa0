"""Victims of the kernel's OOM killer, followed from the mark to the end. Pure: events in.

See mm/oom_kill.c: ``mark_oom_victim``, ``queue_oom_reaper``, ``wake_oom_reaper``,
``oom_reap_task_mm``. Events must come in the order of time.

1. What was not seen is None, or left out: nothing is made up.
2. A process that is marked again before it is gone is one victim.
3. Whose mm an event is about is told by who is at it: a victim's thread at its exit, or the reaper
   between the start and the finish of a reaping.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from memreap.evidence.events import DEAD_STATES, MEMBERS
from memreap.evidence.oom_rss import Memory
from memreap.evidence.oom_scope import Scope
from memreap.evidence.timeline import EXIT, OOM_REAPER
from memreap.linux.tracing import Event

RETRIES_MAX = 10  # MAX_OOM_REAP_RETRIES, 100 ms apart
DELAY_NS = 2_000_000_000  # OOM_REAPER_DELAY
GRACE_NS = 1_000_000_000  # after the last that can be expected to be told of
PATIENCE_NS = 10_000_000_000  # after the mark: nothing more is expected
# Fields of mark_victim, in KiB; since Linux 6.9. Before, it has a pid and nothing else.
HELD = {"file_rss": "MM_FILEPAGES", "anon_rss": "MM_ANONPAGES", "shmem_rss": "MM_SHMEMPAGES"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of the reaper's.

    ``how``: "reaping", "reaped"; "locked": somebody had mmap_lock for writing; "skipped":
    MMF_OOM_SKIP was set, as exit_mmap does once it has unmapped all; "refused": one of these two.
    """

    at_ns: int
    how: str
    until_ns: int | None = None


@dataclass(slots=True)
class Followed:
    """One victim. None: it has not happened, or this kernel does not tell."""

    pid: int
    tid: int  # the thread that the kernel named
    marked_ns: int
    marked_by: int  # the process that wanted memory
    comm: str | None = None
    uid: int | None = None
    oom_score_adj: int | None = None
    held_bytes: dict[str, int] = field(default_factory=dict)  # when it was marked, by member
    before: tuple[int, ...] = ()  # victims that had neither been reaped nor torn down
    marks: int = 1
    exits_ns: int | None = None  # the last thread begins to exit; since Linux 6.16
    woken_ns: int | None = None  # the reaper
    attempts: list[Attempt] = field(default_factory=list)
    torn_down_ns: int | None = None  # exit_mmap done
    gone_ns: int | None = None  # the last thread is dead
    freed_bytes: dict[str, int] = field(default_factory=dict)  # by whom

    @property
    def reaper(self) -> str:
        """What became of it: how it last tried, or "gave up", "due", "not due", "not needed"."""
        if self.attempts:
            how = self.attempts[-1].how
            spent = how in ("locked", "refused") and len(self.attempts) >= RETRIES_MAX
            return "gave up" if spent else how
        if self.woken_ns is not None:
            return "due"
        ended = self.torn_down_ns is not None or self.gone_ns is not None
        return "not needed" if ended else "not due"

    @property
    def outcome(self) -> str:
        """As in ``memreap kill``: exited, reaped (though its mm is still there), or stuck."""
        if self.torn_down_ns is not None or self.reaper == "not needed":
            return "exited"
        return "reaped" if any(one.how == "reaped" for one in self.attempts) else "stuck"

    def is_settled(self, now_ns: int) -> bool:
        """Whether its story can be told: it has ended, or nothing more is likely to come soon."""
        if self.gone_ns is not None and self.torn_down_ns is not None:
            return True
        steps_ns = [self.torn_down_ns, *(one.until_ns for one in self.attempts[-1:])]
        if self.gone_ns is not None and self.reaper == "not needed":
            steps_ns += [self.gone_ns, self.marked_ns + DELAY_NS]
        last_ns = max((at_ns for at_ns in steps_ns if at_ns is not None), default=None)
        if last_ns is not None and now_ns - last_ns > GRACE_NS:
            return True
        return now_ns - self.marked_ns > PATIENCE_NS


class Follower:
    """Takes events, and has victims."""

    def __init__(self, scope: Scope, *, exits_first: bool = True) -> None:
        """``exits_first``: a thread tells of its exit before it lets go of its mm (Linux 6.16)."""
        self._scope, self._exits_first = scope, exits_first
        self.seen = 0  # victims, ever
        self._victims: dict[int, Followed] = {}  # by process
        self._marked: dict[int, Followed] = {}  # the same, by the thread that the kernel names
        self._alive: dict[int, set[int]] = {}  # their threads
        self._told: set[int] = set()  # of them
        self._reaper: int | None = None
        self._reaping: Followed | None = None
        self._locked: Event | None = None  # the reaper's last try
        self._mms: dict[int, Followed] = {}  # that the reaper had the lock of
        self._memory = Memory()
        self._handlers: dict[str, Callable[[Event], None]] = {
            "mark_victim": self._mark,
            "wake_reaper": self._wake,
            "mmap_lock_acquire_returned": self._lock,
            "start_task_reaping": self._start,
            "finish_task_reaping": self._finish,
            "skip_task_reaping": self._skip,
            "rss_stat": self._take_pages,
            "exit_mmap": self._tear_down,
            "sched_process_exit": self._exit,
            "sched_switch": self._switch,
            "sched_process_free": self._free,
        }

    def take(self, event: Event) -> None:
        """The next event."""
        handler = self._handlers.get(event.name)
        if handler is not None and (self._victims or event.name == "mark_victim"):
            handler(event)
        self._scope.take(event)

    @property
    def victims(self) -> list[Followed]:
        """All that are not over, as things stand, in the order of their marks."""
        for victim in self._victims.values():
            victim.freed_bytes = self._freed(victim)
        return list(self._victims.values())

    def settled(self, now_ns: int) -> Iterator[tuple[Followed, bool]]:
        """Those to tell of now; True: once more, as it was not gone when it was told of."""
        for victim in self.victims:
            again, settled = victim.pid in self._told, victim.is_settled(now_ns)
            is_over = settled and victim.gone_ns is not None
            if is_over:
                self._forget(victim)
            if is_over or (settled and not again):
                self._told.add(victim.pid)
                yield victim, again
            if is_over:
                self._told.discard(victim.pid)

    def untold(self) -> list[Followed]:
        """Those that were not told of, as things stand."""
        return [victim for victim in self.victims if victim.pid not in self._told]

    def is_busy(self, now_ns: int) -> bool:
        """Whether there is a victim of which more is to be seen soon."""
        return any(not victim.is_settled(now_ns) for victim in self._victims.values())

    # The killer and the reaper.

    def _mark(self, event: Event) -> None:
        tid, fields = event.fields["pid"], event.fields
        pid = self._scope.process(tid)
        if not self._scope.covers(pid):
            return
        if (known := self._victims.get(pid)) is not None:
            known.marks += 1
            self._marked[tid] = known
            return
        victim = Followed(
            pid,
            tid,
            event.at_ns,
            self._scope.process(event.pid),
            fields.get("comm"),
            fields.get("uid"),
            fields.get("oom_score_adj"),
            {member: fields[name] << 10 for name, member in HELD.items() if name in fields},
            tuple(one.pid for one in self._victims.values() if one.outcome == "stuck"),
        )
        self.seen += 1
        self._victims[pid] = self._marked[tid] = victim
        self._alive[pid] = self._scope.threads(pid)
        self._memory.forget_strangers()

    def _wake(self, event: Event) -> None:
        if (victim := self._marked.get(event.fields["pid"])) is not None:
            victim.woken_ns = event.at_ns

    def _lock(self, event: Event) -> None:
        if self._reaper in (None, event.pid):  # anybody may be called oom_reaper
            self._locked = event

    def _start(self, event: Event) -> None:
        self._reaper = event.pid
        self._reaping = self._marked.get(event.fields["pid"])
        locked = self._lock_of(event)
        if self._reaping is not None:
            self._reaping.attempts.append(Attempt(event.at_ns, "reaping"))
            if locked is not None:
                self._mms[locked.fields["mm"]] = self._reaping

    def _finish(self, event: Event) -> None:
        if (victim := self._reaping) is not None:
            victim.attempts[-1] = Attempt(victim.attempts[-1].at_ns, "reaped", event.at_ns)
        self._reaping = None

    def _skip(self, event: Event) -> None:
        self._reaper = event.pid
        locked = self._lock_of(event)
        if (victim := self._marked.get(event.fields["pid"])) is not None:
            how = "refused"
            if locked is not None:
                how = "skipped" if locked.fields["success"] else "locked"
            victim.attempts.append(Attempt(event.at_ns, how, event.at_ns))

    def _lock_of(self, event: Event) -> Event | None:
        """The try for mmap_lock that comes right before."""
        locked, self._locked = self._locked, None
        return locked if locked is not None and locked.pid == event.pid else None

    # The memory.

    def _take_pages(self, event: Event) -> None:
        fields, tid = event.fields, event.pid
        if fields["curr"] or not 0 <= fields["member"] < len(MEMBERS):
            return
        member = MEMBERS[fields["member"]]
        if member not in HELD.values():  # swap is no memory
            return
        size, who = max(0, fields["size"]), self._scope.process(tid)
        self._memory.take(fields["mm_id"], member, size, tid=tid, who=who)
        owner = self._reaping if tid == self._reaper else self._exits(tid)
        if owner is not None:
            self._memory.own(fields["mm_id"], owner.pid)

    def _exits(self, tid: int) -> Followed | None:
        """The victim that exits in this thread: what that does to an mm, it does to its own."""
        if self._exits_first and not self._scope.is_exiting(tid):
            return None
        return self._victims.get(self._scope.process(tid))

    def _tear_down(self, event: Event) -> None:
        tid = event.pid
        victim = self._mms.pop(event.fields["mm"], None) or self._exits(tid)
        if victim is None:  # the last one out may be a stranger
            victim = self._victims.get(self._memory.owner(tid) or 0)
        who = self._scope.process(tid)
        if victim is None:
            self._memory.close(tid, who, None, {})
        else:
            victim.torn_down_ns = event.at_ns
            self._memory.close(tid, who, victim.pid, victim.held_bytes)

    def _freed(self, victim: Followed) -> dict[str, int]:
        names = {victim.pid: EXIT, self._reaper: OOM_REAPER}
        freed = self._memory.freed_by(victim.pid, victim.held_bytes)
        return {names.get(who, f"pid {who}"): size for who, size in freed.most_common()}

    # The end.

    def _exit(self, event: Event) -> None:
        victim = self._victims.get(self._scope.process(event.pid))
        if victim is None:
            return
        if victim.comm is None:
            victim.comm = event.fields.get("comm")
        if self._exits_first and event.fields.get("group_dead"):
            victim.exits_ns = event.at_ns

    def _switch(self, event: Event) -> None:
        if event.fields["prev_state"] in DEAD_STATES:
            self._dead(event.fields["prev_pid"], event.at_ns)

    def _free(self, event: Event) -> None:
        if self._scope.is_freed(event.fields["pid"]):
            self._dead(event.fields["pid"], event.at_ns)

    def _dead(self, tid: int, at_ns: int) -> None:
        for pid, alive in self._alive.items():
            if tid in alive:
                alive.discard(tid)
                if not alive:
                    self._victims[pid].gone_ns = at_ns

    def _forget(self, victim: Followed) -> None:
        pid = victim.pid
        del self._victims[pid], self._alive[pid]
        self._marked = {tid: one for tid, one in self._marked.items() if one is not victim}
        self._mms = {mm: one for mm, one in self._mms.items() if one is not victim}
        self._memory.forget(pid)
