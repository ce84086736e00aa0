"""What ``exit_mmap``'s write lock costs: from what happened, in the order of time, to figures.

1. Pure: what happens comes as bare tuples, for there are a hundred of them an exit.
2. An exit counts when it was seen whole, from its beginning to its death, and tore its own mm
   down. Whatever else ends an mm, or was seen in part, is counted apart.
3. exit_mmap's lock is the one under which ``exit_mmap`` is traced: khugepaged_exit and ksm_exit
   may take the same lock before it.

See do_exit in kernel/exit.c, exit_mmap in mm/mmap.c, include/linux/mmap_lock.h.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from memreap.evidence.spread import Spread

Happening = tuple[int, int, int, int]  # at_ns, what, pid of the thread, mm (0 where none is told)

# What happens. An odd number is the even one before it, with its flag set.
WANTS_READ, WANTS_WRITE = 0, 1  # mmap_lock_start_locking, write
FAILED, GOT = 2, 3  # mmap_lock_acquire_returned, success; GOT is for writing
RELEASED_READ, RELEASED = 4, 5  # mmap_lock_released, write
THREAD_EXITS, EXITS = 6, 7  # sched_process_exit, group_dead: of the last thread
TORN = 8  # exit_mmap
EXECED = 10  # sched_process_exec
DEAD = 12  # sched_switch away from a zombie, or from one that nobody waits for

WAITED_NS = 5_000  # longer than this is waiting; an uncontended lock takes 0.1 us


@dataclass(slots=True)
class _Lock:
    """A lock for writing, from when it is wanted."""

    mm: int
    wanted_ns: int
    met: bool  # somebody else was at this mm's lock when it was wanted
    began_ns: int = 0  # before 6.16: when the exit came to exit_mm, if this is its exit_mmap
    got_ns: int = 0
    released_ns: int = 0
    disputed: bool = False  # somebody else wanted it since then


@dataclass(slots=True)
class _Task:
    """A thread that exits; before 6.16, when it is told too late, any that takes locks."""

    began_ns: int = 0  # 0: it does not exit, as far as is known
    is_last: bool = False
    mm: int = 0  # that it let go of
    read_ns: tuple[int, int] = (0, 0)  # when it last wanted a lock for reading, and before that
    read_mm: int = 0
    lock: _Lock | None = None
    teardown: _Lock | None = None


@dataclass(slots=True)
class _Unplaced:
    """An mm torn down by a thread that does not exit, as far as is known: its next deed tells."""

    was_left: bool  # by somebody who exited
    lock: _Lock | None


@dataclass(slots=True)
class Exits:
    """What was found. ``wait``, ``held``, ``whole`` in ns; ``share`` in millionths."""

    late: bool = False  # sched_process_exit comes after exit_mm: wholes begin at exit_mm
    wait: Spread = field(default_factory=Spread)
    waited: Spread = field(default_factory=Spread)  # of those that had to
    held: Spread = field(default_factory=Spread)
    whole: Spread = field(default_factory=Spread)
    share: Spread = field(default_factory=Spread)  # waiting and holding, of the exit
    met: int = 0  # waited, and somebody else was seen at the lock
    disputed: int = 0  # somebody else wanted it while it was wanted or held
    unnecessary: int = 0  # neither waited nor disputed
    left: int = 0  # processes that died while others used their mm; not known if ``late``
    torn_by_others: int = 0  # mms of the dead that somebody else tore down
    torn_at_exec: int = 0
    torn_otherwise: int = 0  # by forks and execs that failed, mostly
    half_seen: int = 0  # under way when tracing began or ended, or events of theirs were lost

    @property
    def count(self) -> int:
        """Exits that were seen whole and tore their mm down."""
        return self.whole.count

    def of_exits(self, many: int) -> float | None:
        """A share of the exits; None of none."""
        return many / self.count if self.count else None

    def of_time(self, part_ns: int) -> float | None:
        """A share of all their time; None of none."""
        return part_ns / self.whole.total if self.whole.total else None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        middle = self.share.median
        return {
            "exits": self.count,
            "exits_from": "exit_mm" if self.late else "sched_process_exit",
            "waited": self.waited.count,
            "waited_share": self.of_exits(self.waited.count),
            "waited_and_somebody_seen": self.met,
            "disputed": self.disputed,
            "unnecessary": self.unnecessary,
            "unnecessary_share": self.of_exits(self.unnecessary),
            "wait": self.wait.as_dict("ns"),
            "waited_for": self.waited.as_dict("ns"),
            "held": self.held.as_dict("ns"),
            "whole": self.whole.as_dict("ns"),
            "waiting_of_exit": self.of_time(self.wait.total),
            "holding_of_exit": self.of_time(self.held.total),
            "share_of_exit": self.of_time(self.wait.total + self.held.total),
            "share_of_exit_median": None if middle is None else middle / 1e6,
            "left": None if self.late else self.left,
            "torn_by_others": self.torn_by_others,
            "torn_at_exec": self.torn_at_exec,
            "torn_otherwise": self.torn_otherwise,
            "half_seen": self.half_seen,
        }


class Counting:
    """Takes what happens, in the order of time; ``exits`` is what was found so far."""

    def __init__(self, *, late: bool = False) -> None:
        """``late``: this kernel traces an exit after its exit_mm, as before 6.16."""
        self.exits = Exits(late=late)
        self._late = late
        self._tasks: dict[int, _Task] = {}
        self._unplaced: dict[int, _Unplaced] = {}
        self._closing: dict[int, tuple[int, _Lock]] = {}  # by mm: who locks it for writing
        self._left: set[int] = set()  # mms whose process exits, or has exited
        self._home: dict[int, int] = {}  # by pid: the mm whose lock it last wanted
        self._there: dict[int, set[int]] = {}  # the same by mm: who is at home there
        self._handlers = {
            WANTS_READ: self._wants_read,
            WANTS_WRITE: self._wants_write,
            FAILED: self._failed,
            GOT: self._got,
            RELEASED: self._released,
            THREAD_EXITS: self._thread_exits,
            EXITS: self._exits,
            TORN: self._torn,
            EXECED: self._execed,
            DEAD: self._dead,
        }

    def feed(self, happenings: Iterable[Happening]) -> None:
        """All these happened."""
        handlers = self._handlers
        for at_ns, what, pid, mm in happenings:
            handlers[what](at_ns, pid, mm)

    def finish(self) -> Exits:
        """Nothing more happens."""
        for pid in list(self._unplaced):
            self._place_elsewhere(pid)
        self.exits.half_seen += sum(bool(task.teardown) for task in self._tasks.values())
        self._tasks.clear()
        return self.exits

    def _wants_read(self, at_ns: int, pid: int, mm: int) -> None:
        task = self._wants(pid, mm)
        if task is None:
            return
        task.read_ns, task.read_mm = (at_ns, task.read_ns[0]), mm
        if task.began_ns and not task.mm:  # exit_mm's, right before it lets go
            self._lets_go(task, mm)

    def _wants_write(self, at_ns: int, pid: int, mm: int) -> None:
        task = self._wants(pid, mm)
        if task is None:
            return
        lock = _Lock(mm, at_ns, any(one != pid for one in self._there.get(mm, ())))
        if task.read_mm == mm:
            lock.began_ns = task.read_ns[1]  # the later one was exit_mmap's own
        task.lock = lock
        self._closing[mm] = pid, lock

    def _wants(self, pid: int, mm: int) -> _Task | None:
        """Somebody wants a lock: who, if that matters."""
        if mm in self._closing:
            self._dispute(pid, mm)
        task = self._tasks.get(pid)
        if (task is None or not task.began_ns) and self._home.get(pid) != mm:
            self._move(pid, mm)
        if task is None and self._late:
            task = self._tasks[pid] = _Task()
        return task

    def _move(self, pid: int, mm: int) -> None:
        self._leave_home(pid)
        self._home[pid] = mm
        self._there.setdefault(mm, set()).add(pid)

    def _leave_home(self, pid: int) -> None:
        mm = self._home.pop(pid, 0)
        if there := self._there.get(mm):
            there.discard(pid)
            if not there:
                del self._there[mm]

    def _is_gone(self, mm: int) -> bool:
        """Its address may be another's from now on; whether somebody had exited from it."""
        for pid in self._there.pop(mm, ()):
            del self._home[pid]
        was_left = mm in self._left
        self._left.discard(mm)
        return was_left

    def _dispute(self, pid: int, mm: int) -> None:
        owner, lock = self._closing[mm]
        if owner != pid:
            lock.disputed = True

    def _lets_go(self, task: _Task, mm: int) -> None:
        task.mm = mm
        if task.is_last:
            self._left.add(mm)

    def _failed(self, at_ns: int, pid: int, mm: int) -> None:
        del at_ns
        if mm in self._closing:
            self._dispute(pid, mm)

    def _got(self, at_ns: int, pid: int, mm: int) -> None:
        lock = self._lock_of(pid, mm)
        if lock and not lock.got_ns:
            lock.got_ns = at_ns

    def _released(self, at_ns: int, pid: int, mm: int) -> None:
        lock = self._lock_of(pid, mm)
        if lock is None:
            return
        lock.released_ns = at_ns
        self._tasks[pid].lock = None
        if self._closing.get(mm, (0, None))[1] is lock:
            del self._closing[mm]

    def _lock_of(self, pid: int, mm: int) -> _Lock | None:
        task = self._tasks.get(pid)
        return task.lock if task and task.lock and task.lock.mm == mm else None

    def _thread_exits(self, at_ns: int, pid: int, mm: int) -> None:
        del mm
        self._begin(at_ns, pid, is_last=False)

    def _exits(self, at_ns: int, pid: int, mm: int) -> None:
        del mm
        self._begin(at_ns, pid, is_last=True)

    def _begin(self, at_ns: int, pid: int, *, is_last: bool) -> None:
        self._leave_home(pid)  # nobody waits for one who leaves by exit_mm
        if not self._late:
            self._place_elsewhere(pid)
            self._tasks[pid] = _Task(at_ns, is_last)
            return
        # It is past its exit_mm: what it tore down last was its own.
        task = self._tasks.setdefault(pid, _Task())
        unplaced = self._unplaced.pop(pid, None)
        task.began_ns, task.is_last = at_ns, is_last
        if unplaced:
            self._keep(task, unplaced.lock)
            if unplaced.lock and unplaced.lock.began_ns:
                task.began_ns = unplaced.lock.began_ns
        elif task.read_mm:
            self._lets_go(task, task.read_mm)

    def _keep(self, task: _Task, lock: _Lock | None) -> None:
        task.teardown = lock
        if lock is None:
            self.exits.half_seen += 1

    def _torn(self, at_ns: int, pid: int, mm: int) -> None:
        del at_ns
        was_left = self._is_gone(mm)
        task, lock = self._tasks.get(pid), self._lock_of(pid, mm)
        if task and task.began_ns and task.mm in (0, mm):
            self._keep(task, lock)
            return
        self._place_elsewhere(pid)
        self._unplaced[pid] = _Unplaced(was_left, lock)

    def _place_elsewhere(self, pid: int) -> None:
        """What it tore down was nothing of its own: neither at an exit nor at an exec."""
        unplaced = self._unplaced.pop(pid, None)
        if unplaced and unplaced.was_left:
            self.exits.torn_by_others += 1
        elif unplaced:
            self.exits.torn_otherwise += 1

    def _execed(self, at_ns: int, pid: int, mm: int) -> None:
        del at_ns, mm
        if self._unplaced.pop(pid, None):
            self.exits.torn_at_exec += 1

    def _dead(self, at_ns: int, pid: int, mm: int) -> None:
        del mm
        self._leave_home(pid)
        task = self._tasks.pop(pid, None)
        if task is None or not task.began_ns:  # it began before tracing did
            self.exits.half_seen += bool(self._unplaced.pop(pid, None))
            return
        self._place_elsewhere(pid)
        if task.lock:  # its release was lost
            self._closing.pop(task.lock.mm, None)
        if task.teardown:
            self._count(task.began_ns, task.teardown, at_ns)
        elif task.is_last and task.mm in self._left and not self._late:
            self.exits.left += 1

    def _count(self, began_ns: int, lock: _Lock, dead_ns: int) -> None:
        found = self.exits
        wait_ns, held_ns = lock.got_ns - lock.wanted_ns, lock.released_ns - lock.got_ns
        whole_ns = dead_ns - began_ns
        is_whole = lock.got_ns and lock.released_ns and min(wait_ns, held_ns) >= 0
        if not is_whole or wait_ns + held_ns > whole_ns:
            found.half_seen += 1
            return
        found.wait.add(wait_ns)
        found.held.add(held_ns)
        found.whole.add(whole_ns)
        found.share.add(1_000_000 * (wait_ns + held_ns) // max(1, whole_ns))
        if wait_ns > WAITED_NS:
            found.waited.add(wait_ns)
            found.met += lock.met or lock.disputed
        found.disputed += lock.disputed
        found.unnecessary += wait_ns <= WAITED_NS and not lock.disputed
