"""A machine for the guard's core that is made of nothing but choices: time, processes, memory.

1. Time passes only in ``wait``: to the next thing that happens, or to where the core wants to wake.
2. Memory is a function of time: it grows at a rate, and is given back at a rate once its last
   user dies or somebody reaps it.
3. Descriptors are numbers of this machine's; each stands for something that is ready, or is not.
4. Nothing here knows the guard; what the guard does to a process is checked where it is done.
"""

import errno
import heapq
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count
from typing import Protocol

MIB = 1 << 20
BEGIN_S = 1000.0
FIRST_FD = 1000
TURN_S = 50e-6  # what one turn of the core's loop costs


class Fate(StrEnum):
    """What becomes of a process that is killed."""

    HEALTHY = "exits"
    HUNG = "hangs in the kernel, and can be reaped"
    STUCK = "hangs with its mmap_lock, and cannot"


class Readable(Protocol):
    """What a descriptor stands for."""

    def is_ready(self) -> bool:
        """Whether poll(2) would say so."""
        ...


@dataclass(slots=True, eq=False)
class Mm:
    """Memory: so much at a time, growing until it is full or somebody takes it back."""

    bytes: float
    since_s: float
    rate: float = 0.0  # bytes a second; below 0 while it is given back
    cap: float = 1e18
    users: set[int] = field(default_factory=set)  # living pids

    def at(self, now_s: float) -> float:
        """How much it is now."""
        held = self.bytes + self.rate * (now_s - self.since_s)
        if held > self.cap:  # compared by hand: nothing else is asked as often
            return self.cap
        return held if held > 0 else 0.0

    def turn(self, now_s: float, rate: float) -> None:
        """From now on it changes at another rate."""
        self.bytes, self.since_s, self.rate = self.at(now_s), now_s, rate


@dataclass(slots=True, eq=False)
class Process:
    """One, with what policy says of it and what will become of it."""

    pid: int
    start_ticks: int
    comm: str
    mm: Mm
    domains: frozenset[str]
    fate: Fate = Fate.HEALTHY
    protected: bool = False
    why: str = "protected by policy"  # where it is
    tier: int = 1  # decide.events.Tier: avoided 0, preferred 2
    oom_score_adj: int = 0
    ignores_term: bool = False
    tarpit: bool = False  # whoever reads it hangs
    exit_s: float = 0.03  # from SIGKILL until it is gone
    killed_s: float | None = None  # since when it is dying
    by_guard: bool = False  # whether it was the guard's SIGKILL
    refused: bool = False  # whether a kill of it was not permitted
    shunned: bool = False  # a scout hung on it: the next ones pass it over
    exited_s: float | None = None

    def is_ready(self) -> bool:
        """As a pidfd: it has exited."""
        return self.exited_s is not None

    @property
    def identity(self) -> tuple[int, int]:
        """Its pid, and when it began."""
        return self.pid, self.start_ticks


class Machine:
    """Time, processes, descriptors."""

    def __init__(self, descriptors: int = 1 << 16) -> None:
        """``descriptors``: so many at most."""
        self.now_s = BEGIN_S
        self.wall_offset_s = 1.7e9
        self.slept_s = 0.0
        self.descriptors = descriptors
        self.table: dict[int, Readable] = {}
        self.processes: dict[int, Process] = {}
        self.story: list[tuple[float, str]] = []
        self.on_exit: Callable[[Process], None] = lambda _: None
        self._fds = count(FIRST_FD)
        self._pids = count(100)
        self._ticks = count(1)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    # Time.

    def after(self, delay_s: float, happen: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._order), happen))

    def wait(self, until_s: float, stop: Callable[[], bool]) -> None:
        """Let time pass until then, or until ``stop`` says so after something has happened."""
        while not stop():
            if not self._events or self._events[0][0] > until_s:
                self.now_s = max(self.now_s, until_s)
                return
            at_s, _, happen = heapq.heappop(self._events)
            self.now_s = max(self.now_s, at_s)
            happen()

    def tell(self, line: str) -> None:
        """Remember it for the story."""
        self.story.append((self.now_s, line))

    # Descriptors.

    def open(self, what: Readable) -> int:
        """A new descriptor. Raises OSError when there are too many."""
        if len(self.table) >= self.descriptors:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        fd = next(self._fds)
        self.table[fd] = what
        return fd

    def close(self, fd: int) -> None:
        """Raises OSError for one that is not open: a bug of who closes it."""
        if self.table.pop(fd, None) is None:
            raise OSError(errno.EBADF, f"descriptor {fd} is not open")

    def is_ready(self, fd: int) -> bool:
        """Whether poll(2) would return it; of one that is not open it says POLLNVAL."""
        what = self.table.get(fd)
        return what is None or what.is_ready()

    def process(self, pidfd: int) -> Process:
        """Whom a pidfd holds. Raises OSError."""
        what = self.table.get(pidfd)
        if not isinstance(what, Process):
            raise OSError(errno.EBADF, "no pidfd")
        return what

    # Processes.

    def start(self, comm: str, mm: Mm, domains: frozenset[str], pid: int | None = None) -> Process:
        """A new process; ``pid``: one that was in use before."""
        number = next(self._pids) if pid is None else pid
        made = Process(number, next(self._ticks), comm, mm, domains)
        mm.users.add(number)
        self.processes[number] = made
        self.tell(f"{comm} ({number}) begins with {mm.at(self.now_s) / MIB:.0f} MiB")
        return made

    def kill(self, process: Process, *, by_guard: bool = True) -> None:
        """SIGKILL; or it goes by itself, having been asked to, or by another's hand."""
        if process.killed_s is not None or process.exited_s is not None:
            return
        process.killed_s, process.by_guard = self.now_s, by_guard
        how = "SIGKILL to" if by_guard else "by no SIGKILL of the guard's goes"
        self.tell(f"{how} {process.comm} ({process.pid})")
        mm = process.mm
        mm.users.discard(process.pid)
        if not mm.users:
            mm.turn(self.now_s, 0.0)  # who is dying takes no more
        if process.fate is Fate.HEALTHY:
            if not mm.users:
                mm.turn(self.now_s, -mm.at(self.now_s) / max(process.exit_s, 1e-6))
            self.after(process.exit_s, lambda: self.exit(process))

    def exit(self, process: Process) -> None:
        """It is gone, and its memory with it, if nobody else has that."""
        if process.exited_s is not None:
            return
        process.exited_s = self.now_s
        process.mm.users.discard(process.pid)
        if not process.mm.users:
            process.mm.cap = 0.0
        if self.processes.get(process.pid) is process:
            del self.processes[process.pid]
        self.tell(f"{process.comm} ({process.pid}) is gone")
        self.on_exit(process)

    def reap(self, process: Process) -> int:
        """process_mrelease: an errno."""
        if process.exited_s is not None:
            return errno.ESRCH
        if process.killed_s is None or process.mm.users:
            return errno.EINVAL
        if process.fate is Fate.STUCK:
            return errno.EAGAIN
        process.mm.cap = 0.0
        self.tell(f"{process.comm} ({process.pid}) is reaped")
        return 0

    def usage_bytes(self, domain: str) -> float:
        """What a domain holds: each mm once."""
        held, now_s, seen = 0.0, self.now_s, set()
        for process in self.processes.values():
            mm = process.mm
            if domain in process.domains and mm not in seen:
                seen.add(mm)
                held += mm.at(now_s)
        return held
