"""One process, as the scout reads it, and what policy says of it.

Only the reading of one process lives here. What rarely changes (command line, judgement) is kept
until the process is another one, or has called exec. Each read may hang; a mark in shared memory
tells the core on whom, so that the next scout passes it over.
"""

import contextlib
import mmap
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from memreap.decide.badness import OOM_SCORE_ADJ_MIN
from memreap.decide.events import Identity
from memreap.decide.policy import Judgement, Policy, Subject, judge
from memreap.guard.look import COMMAND_MAX
from memreap.linux import cgroups
from memreap.linux.procfs import CLOCK_TICKS_PER_S, PAGE_SIZE_BYTES, Memory, Procfs, Stat, text
from memreap.reap import facts as facts_
from memreap.reap.facts import Facts

GONE = (FileNotFoundError, ProcessLookupError)
KEPT_S = 2.0
WORKERS = "memreap-"  # how go_by() names them
YOUNG_S = 10.0
YOUNG_LINES_MAX = 4  # each of them may hang
_MARK = struct.Struct("qq")


class Mark:
    """Whom the scout reads right now, and whether it reads what waits for its mmap_lock."""

    def __init__(self) -> None:
        """Shared with every process forked from here on."""
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def set(self, pid: int, *, waits: bool = False) -> None:
        """Note it before the read; 0 for nobody."""
        _MARK.pack_into(self._memory, 0, pid, waits)

    def get(self) -> tuple[int, bool]:
        """(pid or 0, whether a file that waits for mmap_lock is being read)."""
        pid, waits = _MARK.unpack_from(self._memory, 0)
        return pid, bool(waits)


@dataclass(frozen=True, slots=True)
class Read:
    """All that a candidate is made of."""

    identity: Identity
    stat: Stat
    memory: Memory
    oom_score_adj: int
    cgroup: str
    command: str
    unit: str
    user: str
    judgement: Judgement

    @property
    def pages(self) -> int:
        """What oom_badness counts, but for oom_score_adj."""
        held = self.memory.rss_bytes + self.memory.swap_bytes + self.memory.page_table_bytes
        return held // PAGE_SIZE_BYTES

    @property
    def may_die(self) -> bool:
        """Whether it makes sense to hold it by a pidfd."""
        return not self.judgement.barred and self.oom_score_adj != OOM_SCORE_ADJ_MIN


class Kept(NamedTuple):
    """What need not be found out at every look."""

    program: tuple[str, int]  # another one after exec: then its command line is read again
    who: tuple[str, int, int, int]  # cgroup, uid, session, process group
    command: str | None
    is_read: bool  # whether the command line was asked for
    judgement: Judgement
    until_s: float  # xattrs, memory.oom.group and links may change without a sign


class Reader:
    """Reads processes, and remembers what does not change."""

    def __init__(self, procfs: Procfs, policy: Policy, mark: Mark, core_pid: int) -> None:
        """``core_pid``: whose children, and who itself, are memreap's own."""
        self.procfs, self.mark = procfs, mark
        self.avoided: set[int] = set()  # their reads hang
        self.muted: set[int] = set()  # the read of their command line hangs
        # How many command lines of young ones may be read in this look. One that forks while there
        # is no memory has its mmap_lock for long, and so has every other one of a fork bomb.
        self.lines_left = YOUNG_LINES_MAX
        self._policy, self._core_pid = policy, core_pid
        self._ancestors = _ancestors(core_pid, procfs)
        self._users = _users()
        self._kept: dict[Identity, Kept] = {}
        self._kernel_threads: set[int] = set()  # told from those who have lost their first thread
        self._all_mounts = cgroups.mounts(procfs)
        self._mounts = [
            (os.fspath(root), kind == "cgroup2")
            for root, kind, options in self._all_mounts
            if kind == "cgroup2" or "memory" in options
        ]

    def weight(self, pid: int, totalpages: int, swapping: bool) -> int | None:
        """Badness in pages, as cheaply as can be: to tell who deserves a closer look."""
        self.mark.set(pid)
        try:
            if swapping:
                memory = self.procfs.memory(pid)
                held = memory.rss_bytes + memory.swap_bytes + memory.page_table_bytes
                pages = held // PAGE_SIZE_BYTES
            else:
                pages = self.procfs.resident_pages(pid) or self._pages_of_the_rest(pid)
            if pages == 0:
                return None
            return pages + self.procfs.oom_score_adj(pid) * (totalpages // 1000)
        except (*GONE, PermissionError, ValueError, IndexError):
            return None
        finally:
            self.mark.set(0)

    def _pages_of_the_rest(self, pid: int) -> int:
        """What a process holds whose first thread has ended; 0 for all that have no mm."""
        if pid in self._kernel_threads:
            return 0
        stat = self.procfs.stat(pid)
        if stat.is_kernel_thread:
            self._kernel_threads.add(pid)
        return self.procfs.memory(pid).rss_bytes // PAGE_SIZE_BYTES if stat.is_leaderless else 0

    def read(self, pid: int) -> Read | None:
        """Everything of one process; None where it is gone, has no mm, or may not be read."""
        self.mark.set(pid)
        try:
            stat = self.procfs.stat(pid)
            memory = self.procfs.memory(pid)
            if stat.is_kernel_thread or memory == Memory(uid=memory.uid):
                return None
            adj = self.procfs.oom_score_adj(pid)
            cgroup = self._cgroup(stat)
            return self._judged(stat, memory, adj, cgroup)
        except (*GONE, PermissionError, ValueError, IndexError):
            return None
        finally:
            self.mark.set(0)

    def exiting(self, pid: int) -> Stat | None:
        """One whose mm is gone from /proc though it is still on its way out; None for any other.

        None for our own as well: they hold little, and a worker that cannot work goes at once.
        """
        self.mark.set(pid)
        try:
            stat = self.procfs.stat(pid)
            if not stat.is_exiting or stat.is_kernel_thread or self._is_ours(stat):
                return None
            return stat
        except (*GONE, PermissionError, ValueError, IndexError):
            return None
        finally:
            self.mark.set(0)

    def facts(self, read: Read) -> Facts | None:
        """What a reaper needs of one who was just read; None where it is gone."""
        self.mark.set(read.identity.pid)
        try:
            return facts_.complete(
                read.stat, read.memory, read.oom_score_adj, self.procfs, self._all_mounts
            )
        except (*GONE, PermissionError):
            return None
        finally:
            self.mark.set(0)  # else a scout that is lost at rest would accuse the last it read

    def forget(self, alive: set[int]) -> None:
        """Drop what was kept of those who are gone."""
        for identity in [i for i in self._kept if i.pid not in alive]:
            del self._kept[identity]
        self._kernel_threads &= alive
        self.avoided &= alive
        self.muted &= alive

    def _judged(self, stat: Stat, memory: Memory, adj: int, cgroup: str) -> Read:
        identity = Identity(stat.pid, stat.start_ticks)
        unit, user = cgroups.unit_of(cgroup), self._users.get(memory.uid, "")
        kept = self._kept.get(identity)
        program = (stat.comm, stat.arg_start)
        who = (cgroup, memory.uid, stat.session, stat.pgrp)
        now_s = time.monotonic()
        if kept is None or kept.program != program:
            kept, command, is_read = None, None, False
        else:
            command, is_read = kept.command, kept.is_read
        if not is_read and self._may_read_line(stat):
            kept, command, is_read = None, self._command(stat.pid), True
        if kept is None or kept.who != who or now_s >= kept.until_s:
            subject = self._subject(stat, memory.uid, cgroup, command)
            judgement = self._own(stat) or judge(self._policy, subject)
            kept = Kept(program, who, command, is_read, judgement, now_s + KEPT_S)
            self._kept[identity] = kept
        shown = (kept.command or "")[:COMMAND_MAX]
        return Read(identity, stat, memory, adj, cgroup, shown, unit, user, kept.judgement)

    def _may_read_line(self, stat: Stat) -> bool:
        if self._policy.needs_commands or not is_young(stat):
            return True
        self.lines_left -= 1
        return self.lines_left >= 0

    def _own(self, stat: Stat) -> Judgement | None:
        """What nobody's policy has to say: that we do not saw off our own branch."""
        if self._is_ours(stat):
            return Judgement(barred="memreap itself")
        if stat.pid in self._ancestors:
            return Judgement(barred="an ancestor of memreap: it would go too")
        return None

    def _is_ours(self, stat: Stat) -> bool:
        """The core, its workers and theirs. What the scribe runs for others has another name."""
        if self._core_pid in (stat.pid, stat.ppid):
            return True
        if not stat.comm.startswith(WORKERS):
            return False
        try:
            return self.procfs.stat(stat.ppid).ppid == self._core_pid
        except GONE:
            return False

    def _subject(self, stat: Stat, uid: int, cgroup: str, command: str | None) -> Subject:
        directory = self.directory(cgroup)
        group = None
        if directory and self._policy.oom_group:
            group = cgroups.oom_group(Path(directory))
        preference = ""
        if directory and self._policy.oomd_preference:
            preference = cgroups.preference(Path(directory))
        return Subject(
            name=stat.comm,
            exe=self._exe(stat),
            command=command,
            cgroup=cgroup,
            uid=uid,
            user=self._users.get(uid, ""),
            unit=cgroups.unit_of(cgroup),
            oomd_preference=preference,
            oom_group=os.fspath(group) if group else "",
            session=stat.session,
            process_group=stat.pgrp,
        )

    def _command(self, pid: int) -> str | None:
        """The command line, None where it cannot be read. Waits for mmap_lock."""
        if pid in self.muted:
            return None
        self.mark.set(pid, waits=True)
        try:
            return self.procfs.cmdline(pid)
        except PermissionError:
            return None
        finally:
            self.mark.set(pid)

    def _exe(self, stat: Stat) -> str:
        """The program's path; pins nothing but what tells a living thread from a dead one."""
        with contextlib.suppress(OSError):
            tid = self.procfs.seat(stat)
            return os.fspath(Path(f"{self.procfs.root}/{stat.pid}/task/{tid}/exe").readlink())
        return ""

    def _cgroup(self, stat: Stat) -> str:
        """Its path where memory is accounted: v2, or v1's memory hierarchy."""
        # v1 names the root for a thread that exits, be it the first one or the last.
        paths = self.procfs.cgroups(stat.pid, self.procfs.seat(stat))
        v1 = [path for controllers, path in paths if "memory" in controllers.split(",")]
        v2 = [path for controllers, path in paths if controllers == ""]
        return (v1 or v2 or ["/"])[0]

    @property
    def memory_root(self) -> Path | None:
        """Where the memory controller is mounted, v2 first; None where it is not."""
        mounts = sorted(self._all_mounts, key=lambda m: m[1] != "cgroup2")
        counting = (root for root, _, options in mounts if cgroups.counts_memory(root, options))
        return next(counting, None)

    def directory(self, cgroup: str) -> str:
        """Where that path is mounted, the v2 hierarchy first; empty where it is not."""
        for root, _ in sorted(self._mounts, key=lambda m: not m[1]):
            directory = root + cgroup
            if cgroup != "/" and Path(directory).is_dir():
                return directory
        return ""


def is_young(stat: Stat) -> bool:
    """Whether it was started just now."""
    boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot_s - stat.start_ticks / CLOCK_TICKS_PER_S <= YOUNG_S


def _ancestors(pid: int, procfs: Procfs) -> frozenset[int]:
    line = set()
    with contextlib.suppress(OSError):
        while (pid := procfs.stat(pid).ppid) > 0:
            line.add(pid)
    return frozenset(line)


def _users() -> dict[int, str]:
    """Names by number, from /etc/passwd alone: asking a directory service may wait for ever."""
    names: dict[int, str] = {}
    with contextlib.suppress(OSError), open("/etc/passwd", "rb") as file:
        for line in file:
            fields = text(line).split(":")
            if len(fields) > 2 and fields[2].isdigit():
                names.setdefault(int(fields[2]), fields[0])
    return names
