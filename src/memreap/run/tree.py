"""A process tree: who belongs to it.

Only membership lives here. Of a command that we started we are the child subreaper and inherit
every orphan, so whoever descends from us belongs to the tree for as long as it lives, whatever it
forks, execs or daemonises. Of a tree with another root, whoever was once seen in it stays in it;
only one whose parent was born and died between two looks is missed.

A look at a quiet machine is one read: /proc/loadavg tells the newest pid, and if that has not
changed nobody was born. Otherwise only pids given out since are looked at. Two things are not
seen so: a newborn that has its pid already and does not show in /proc yet, and pids that go once
around between two looks. Against the first, a range is looked at twice; against both, everything
is looked at now and then, as rarely as it is dear.
"""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator

from memreap.decide.events import Identity
from memreap.linux.kin import Kin, LastPid, kin
from memreap.linux.procfs import PAGE_SIZE_BYTES, Procfs
from memreap.linux.rss import Statm

FULL_LOOK_S = 1.0  # at most so often
FULL_LOOK_SHARE = 0.001  # and for at most this share of the time
RESERVED_FDS = 200  # for everything but the members' kept descriptors

GONE = (FileNotFoundError, ProcessLookupError)


class Member:
    """A process of the tree, and what was last read of it, in pages."""

    __slots__ = (
        "dying_bytes",
        "identity",
        "looked_s",
        "pid",
        "resident",
        "resident_then",
        "score_then",
        "shared",
        "shared_then",
        "shmem",
        "size",
        "statm",
        "swap",
    )

    def __init__(self, identity: Identity, statm: Statm) -> None:
        """Nothing is read yet."""
        self.identity = identity
        self.pid = identity.pid
        self.statm = statm
        self.size = self.resident = self.shared = 0
        # From /proc/PID/status, at looked_s, and what statm said at that time.
        self.shmem = self.swap = self.resident_then = self.shared_then = 0
        self.looked_s = -1.0
        # What it held when it was killed: from then on nothing of it is read but oom_score.
        self.dying_bytes: int | None = None
        self.score_then = 0

    @property
    def pages_at_most(self) -> int:
        """Anonymous, shmem and swap; files that it maps since the last look at it count too."""
        grown = max(0, self.shared - self.shared_then)
        return self.resident - self.shared + self.shmem + self.swap + grown


class Tree:
    """Everyone who descends from this process, but its own helpers; or another and its own."""

    def __init__(self, procfs: Procfs, root: int | None = None) -> None:
        """Nobody yet: to be made before the command is started. ``root``: another's tree."""
        self.procfs = procfs
        self._root = root
        self.root_start_ticks: int | None = None  # as it was first seen
        self.members: dict[int, Member] = {}
        self.doomed: set[int] = set()  # who is dying already, whenever it is found
        self._self = kin(os.getpid(), procfs)
        self._last_pid = LastPid(procfs)
        self._seen_to = self._seen_from = self._last_pid.read()
        self._full_look_due_s = 0.0
        self._full_look_owed = True
        self._kept_max = 0

    def raise_descriptor_limit(self) -> None:
        """Take as many descriptors as we may. After the command's start: it inherits the limit."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._kept_max = hard - RESERVED_FDS

    def close(self) -> None:
        """Let go of every descriptor."""
        for pid in list(self.members):
            self.remove(pid)
        self._last_pid.close()

    def __iter__(self) -> Iterator[Member]:
        """Everyone, in the order in which they were found: parents before children."""
        return iter(list(self.members.values()))

    def add(self, found: Kin) -> None:
        """Count a process in; nothing happens if it is gone already."""
        with contextlib.suppress(*GONE, PermissionError):
            statm = Statm(found.pid, self.procfs, keep=len(self.members) < self._kept_max)
            member = Member(Identity(found.pid, found.start_ticks), statm)
            self.members[found.pid] = member
            if found.pid in self.doomed:
                self._let_die(member)

    def _let_die(self, member: Member) -> None:
        """Read nothing of it from the beginning; what it holds, oom_score tells."""
        member.dying_bytes = 0
        score, adj = self.procfs.oom_score(member.pid), self.procfs.oom_score_adj(member.pid)
        meminfo = self.procfs.meminfo()
        total_bytes = meminfo["MemTotal"] + meminfo.get("SwapTotal", 0)
        held_bytes = (score * 3 / 2 - 1000 - adj) / 1000 * total_bytes if score else 0
        member.dying_bytes, member.score_then = max(0, int(held_bytes)), score

    def readmit(self, identity: Identity) -> None:
        """Count in one who is known to belong to it, if it still is who it was."""
        with contextlib.suppress(*GONE, PermissionError):
            found = kin(identity.pid, self.procfs)
            if found.start_ticks == identity.start_ticks:
                self.add(found)

    def remove(self, pid: int) -> None:
        """Count a process out: it is gone."""
        self.members.pop(pid).statm.close()

    def doom(self, pid: int, *, shares_mm: bool = False) -> None:
        """Read no more of it: it is about to be killed, or was. Its mm is counted once."""
        member = self.members.get(pid)
        if member is None or member.dying_bytes is not None:
            return
        member.dying_bytes = 0 if shares_mm else member.pages_at_most * PAGE_SIZE_BYTES
        with contextlib.suppress(*GONE):
            member.score_then = self.procfs.oom_score(pid)

    def spare(self, pid: int) -> None:
        """It was not killed after all: read it again."""
        if pid in self.members:
            self.members[pid].dying_bytes = None

    def settle(self, pid: int) -> None:
        """Its memory is back, though it may still be there: a zombie, until its parent wakes up."""
        member = self.members.get(pid)
        if member is not None and member.dying_bytes is not None:  # else another one of its number
            member.dying_bytes = 0

    def bury(self, spared: int) -> None:
        """Wait for orphans that have ended, as init would; ``spared`` is somebody else's."""
        for pid in [pid for pid in self.members if pid != spared]:
            # ECHILD: somebody else's child.
            with contextlib.suppress(ChildProcessError):
                if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG):
                    self.remove(pid)

    def alive(self) -> int:
        """How many have an mm and are not dying; read anew, those that are gone counted out."""
        count = 0
        for member in self:
            try:
                count += member.dying_bytes is None and member.statm.read()[1] > 0
            except GONE:
                self.remove(member.pid)
        return count

    def refresh(self, now_s: float) -> None:
        """Find who was born since. The dead are found by whoever reads them."""
        newest = self._last_pid.read()
        if self._full_look_owed and now_s >= self._full_look_due_s:
            started_s = time.monotonic()
            self._adopt(self.procfs.pids())
            cost_s = time.monotonic() - started_s
            self._full_look_due_s = now_s + max(FULL_LOOK_S, cost_s / FULL_LOOK_SHARE)
            self._full_look_owed = newest != self._seen_to
        elif newest != self._seen_from:
            self._full_look_owed = True
            self._adopt([pid for pid in self.procfs.pids() if self._is_new(pid, newest)])
        self._seen_from, self._seen_to = self._seen_to, newest

    def stillness(self) -> Callable[[], bool] | None:
        """A look that tells whether all is as it was last read; None where that takes more.

        It is made once and called often, with cold caches: two reads, and next to no Python.
        """
        # One that dies is not looked at: of it, nothing is read but oom_score.
        dying = any(member.dying_bytes is not None for member in self.members.values())
        kept = [member.statm.last for member in self.members.values()]
        if dying or self._full_look_owed or self._seen_from != self._seen_to:
            return None
        if any(fd < 0 for fd, _ in kept):
            return None
        pread, (newest_fd, tail) = os.pread, self._last_pid.last

        def is_still() -> bool:
            if not pread(newest_fd, 128, 0).endswith(tail):
                return False
            try:
                for fd, raw in kept:
                    if pread(fd, 128, 0) != raw:
                        return False
            except OSError:
                return False
            return True

        return is_still

    def _is_new(self, pid: int, newest: int) -> bool:
        since = self._seen_from
        if since <= newest:
            return since < pid <= newest
        return pid > since or pid <= newest  # pids have gone around

    def _adopt(self, pids: list[int]) -> None:
        """Count in who descends from us. Children may be listed before their parents."""
        unknown = [pid for pid in pids if pid not in self.members and pid != self._self.pid]
        moved = True
        # Again after every finding, and after every death: an orphan's parent has changed.
        while moved and unknown:
            moved, rest = False, []
            for pid in unknown:
                try:
                    found = kin(pid, self.procfs)
                except (*GONE, PermissionError):
                    moved = True
                    continue
                if self._belongs(found):
                    self.add(found)
                    moved = True
                else:
                    rest.append(pid)
            unknown = rest

    def _is_root(self, found: Kin) -> bool:
        """Whether it is the root, and not a later process of that number."""
        if found.pid != self._root:
            return False
        if self.root_start_ticks is None:
            self.root_start_ticks = found.start_ticks
        return found.start_ticks == self.root_start_ticks

    def _belongs(self, found: Kin) -> bool:
        if self._root is not None:
            return self._is_root(found) or found.ppid in self.members
        if found.ppid == self._self.pid:
            # Our own helpers are forks of ours that never exec.
            return found.birthmark != self._self.birthmark
        return found.ppid in self.members
