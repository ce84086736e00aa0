"""What /proc says of a process. See proc_pid_stat(5) and fs/proc/.

Only readers and parsers of /proc live here. Everything in /proc/PID is written by strangers:
names hold spaces, brackets, newlines and bytes that are no text, and are carried as they are.

What a read may cost differs, and each reader says it:
- *pins nothing*: ``oom_score``, ``cgroup``, directory listings. Safe on a dying process.
- *pins for an instant*: ``stat``, ``status``, ``statm`` take ``mm_users`` and drop it. Whoever
  drops the last one runs the victim's exit, and may hang in it.
- *waits for mmap_lock*: ``cmdline``. May hang for ever: only where hanging does no harm.
"""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

PAGE_SIZE_BYTES = os.sysconf("SC_PAGE_SIZE")
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
THREADS_TRIED = 16  # for one that has the mm: the others have seldom ended as well
PF_EXITING, PF_KTHREAD = 0x00000004, 0x00200000  # include/linux/sched.h

_KB = re.compile(rb"^(\w+):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stat:
    """Some fields of /proc/PID/stat; ``start_ticks`` (since boot) makes a pid an identity."""

    pid: int
    comm: str
    state: str
    ppid: int
    flags: int
    num_threads: int
    start_ticks: int
    pgrp: int = 0
    session: int = 0
    arg_start: int = 0  # made anew, at a random place, by exec; 0 where it is not shown to us

    @property
    def is_kernel_thread(self) -> bool:
        """A task of the kernel's own: no mm, never a victim."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_leaderless(self) -> bool:
        """Its first thread, of which /proc/PID tells, has ended, and others have not."""
        return self.state in "ZX" and self.num_threads > 1

    @property
    def is_exiting(self) -> bool:
        """In do_exit, and not yet at its end: it may still hold memory that nothing shows.

        So is the first thread of one that is leaderless, whatever the others do.
        """
        return bool(self.flags & PF_EXITING) and (self.state not in "ZX" or self.is_leaderless)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process's mm holds, in bytes, from /proc/PID/status."""

    rss_anon_bytes: int = 0
    rss_file_bytes: int = 0
    rss_shmem_bytes: int = 0
    swap_bytes: int = 0
    page_table_bytes: int = 0
    hugetlb_bytes: int = 0
    uid: int = 0

    @property
    def rss_bytes(self) -> int:
        """Resident: anonymous, file and shared pages together."""
        return self.rss_anon_bytes + self.rss_file_bytes + self.rss_shmem_bytes


def text(raw: bytes) -> str:
    """Bytes of a stranger as str, losslessly (surrogateescape); unfit for a terminal as it is."""
    return os.fsdecode(raw)


def printable(name: str) -> str:
    """A stranger's string, made harmless for terminals, logs and tables."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)


def parse_stat(raw: bytes) -> Stat:
    """Parse /proc/PID/stat. comm stands in brackets and may hold brackets: the last one counts."""
    head, _, tail = raw.rpartition(b")")
    pid, _, comm = head.partition(b" (")
    field = tail.split()
    return Stat(
        pid=int(pid),
        comm=text(comm),
        state=field[0].decode("ascii"),
        ppid=int(field[1]),
        flags=int(field[6]),
        num_threads=int(field[17]),
        start_ticks=int(field[19]),
        pgrp=int(field[2]),
        session=int(field[3]),
        arg_start=int(field[45]) if len(field) > 45 else 0,
    )


def parse_memory(raw: bytes) -> Memory:
    """Parse the memory lines of /proc/PID/status; a process without an mm has none: all 0."""
    # By hand, for no other file is read as often. Name: comes first and is a stranger's; the kernel
    # escapes its newlines, so no line of it passes for another.
    at = raw.find(b"\nUid:")
    uid = raw[at + 5 : raw.find(b"\n", at + 1)].split()[1] if at >= 0 else 0
    return Memory(
        rss_anon_bytes=_kib(raw, b"\nRssAnon:") << 10,
        rss_file_bytes=_kib(raw, b"\nRssFile:") << 10,
        rss_shmem_bytes=_kib(raw, b"\nRssShmem:") << 10,
        swap_bytes=_kib(raw, b"\nVmSwap:") << 10,
        page_table_bytes=_kib(raw, b"\nVmPTE:") << 10,
        hugetlb_bytes=_kib(raw, b"\nHugetlbPages:") << 10,
        uid=int(uid),
    )


def _is_leaderless(raw: bytes) -> bool:
    """The same as Stat's, of /proc/PID/status."""
    return b"\nState:\tZ" in raw and b"\nThreads:\t1\n" not in raw


def _kib(raw: bytes, key: bytes) -> int:
    at = raw.find(key)
    return int(raw[at + len(key) : raw.find(b" kB", at)]) if at >= 0 else 0


class Procfs:
    """A mounted /proc; another root serves tests and other mounts.

    Every reader raises FileNotFoundError or ProcessLookupError for a process that is gone.
    """

    def __init__(self, root: str = "/proc") -> None:
        """``root``: where procfs is mounted."""
        self.root = root

    def _read(self, path: str, limit: int = 65536) -> bytes:
        fd = os.open(f"{self.root}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, limit)
        finally:
            os.close(fd)

    def pids(self) -> list[int]:
        """Every process here, in ascending order. Pins nothing."""
        return sorted(int(name) for name in os.listdir(self.root) if name.isdigit())

    def threads(self, pid: int) -> list[int]:
        """Every thread of a process. Pins nothing."""
        return sorted(int(name) for name in os.listdir(f"{self.root}/{pid}/task"))

    def living_thread(self, pid: int) -> int | None:
        """One that has the mm, besides the first one. Pins it for an instant.

        /proc/PID is the first thread's, and shows no mm once that has ended: main() may have left
        by pthread_exit(3), and of those who are killed it is seldom the last one out.
        """
        others = [tid for tid in self.threads(pid) if tid != pid]
        return next((tid for tid in others[:THREADS_TRIED] if self.has_mm(pid, tid)), None)

    def seat(self, stat: Stat) -> int:
        """The thread that /proc/PID/task is to be asked for: the first one, or who has the mm."""
        return (stat.is_leaderless and self.living_thread(stat.pid)) or stat.pid

    def children(self, pid: int) -> list[int]:
        """Every child, of all its threads. Pins nothing. Needs CONFIG_PROC_CHILDREN."""
        threads = self.threads(pid)
        return [
            int(child)
            for tid in threads
            for child in self._read(f"{pid}/task/{tid}/children").split()
        ]

    def has_mm(self, pid: int, tid: int) -> bool:
        """Whether a thread has an mm, as the dead have none. Pins it for an instant."""
        try:
            return not self._read(f"{pid}/task/{tid}/statm").startswith(b"0 ")
        except OSError:
            return False

    def stat(self, pid: int) -> Stat:
        """Name, state, parent, start. Pins the mm for an instant."""
        return parse_stat(self._read(f"{pid}/stat"))

    def thread_state(self, pid: int, tid: int) -> str:
        """One thread's state letter. Pins the mm for an instant."""
        _, _, tail = self._read(f"{pid}/task/{tid}/stat").rpartition(b")")
        return tail.split(None, 1)[0].decode("ascii")

    def memory(self, pid: int) -> Memory:
        """What the mm holds, whoever of its threads is left. Pins the mm for an instant."""
        raw = self._read(f"{pid}/status")
        if b"\nVmRSS:" not in raw and _is_leaderless(raw):
            tid = self.living_thread(pid)
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended, too
                raw = raw if tid is None else self._read(f"{pid}/task/{tid}/status")
        return parse_memory(raw)

    def resident_pages(self, pid: int) -> int:
        """The second field of the first thread's statm. Pins the mm for an instant."""
        return int(self._read(f"{pid}/statm", 128).split(b" ", 2)[1])

    def oom_score(self, pid: int) -> int:
        """The kernel's badness, 0 to 2000 and more. Pins nothing: the one safe look at the dying.

        ``(1000 + badness_pages * 1000 / totalpages) * 2 / 3``; 0: no mm, adj -1000,
        MMF_OOM_SKIP set, or in vfork. fs/proc/base.c
        """
        return int(self._read(f"{pid}/oom_score"))

    def oom_score_adj(self, pid: int) -> int:
        """-1000 (never) to 1000 (first). Pins nothing."""
        return int(self._read(f"{pid}/oom_score_adj"))

    def comm(self, pid: int) -> str:
        """The name, 15 bytes at most. Pins nothing."""
        return text(self._read(f"{pid}/comm").removesuffix(b"\n"))

    def owner(self, pid: int) -> int:
        """Its effective uid; root's where it is not dumpable. Pins nothing."""
        return Path(self.root, str(pid)).stat().st_uid

    def cmdline(self, pid: int) -> str:
        """Arguments, joined by spaces; empty for a kernel thread. **Waits for mmap_lock.**"""
        raw = self._read(f"{pid}/cmdline", 1 << 20)
        if not raw and (tid := self.living_thread(pid)) is not None:
            raw = self._read(f"{pid}/task/{tid}/cmdline", 1 << 20)
        return text(raw.rstrip(b"\0").replace(b"\0", b" "))

    def cgroups(self, pid: int, tid: int | None = None) -> list[tuple[str, str]]:
        """(controllers, path) a hierarchy; controllers is "" for v2. Pins nothing. cgroups(7)

        ``tid``: of this thread, where the first one has ended.
        """
        part = "" if tid in (None, pid) else f"/task/{tid}"
        lines = text(self._read(f"{pid}{part}/cgroup")).split("\n")
        fields = [line.split(":", 2) for line in lines if line.count(":") >= 2]
        return [(controllers, path) for _, controllers, path in fields]

    def meminfo(self) -> dict[str, int]:
        """/proc/meminfo in bytes, by the kernel's names."""
        raw = self._read("meminfo")
        return {m[1].decode(): int(m[2]) * 1024 for m in _KB.finditer(raw)}

    def aio_nr(self) -> int:
        """How many AIO requests all io_setup(2) contexts of the machine may have in flight."""
        return int(self._read("sys/fs/aio-nr"))
