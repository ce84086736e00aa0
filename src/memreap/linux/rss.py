"""How much memory a process uses, in the cheapest way that is right. See fs/proc/task_mmu.c.

Only repeated readings of one process's memory live here. They differ in price and in risk:
- ``statm``, on a kept descriptor: 2 us, pins the mm for an instant; cannot tell shmem from files.
- ``smaps_rollup``: walks every page table under mmap_lock and may hang for ever; the only one that
  shares out what several processes map.
"""

import errno
import os
import re

from memreap.linux.procfs import Procfs

NO_MM = b"0 0 0 "
_PSS = re.compile(rb"^(Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB$", re.MULTILINE)


class Statm:
    """/proc/PID/statm of one process, opened once where the descriptors suffice.

    Where the first thread has ended before the others, it is another one's.
    """

    __slots__ = ("_fd", "_keep", "_pid", "_procfs", "_raw", "tid")

    def __init__(self, pid: int, procfs: Procfs, *, keep: bool = True) -> None:
        """Open it, or at every read if it is not to be kept. Raises as Procfs does."""
        self._pid, self._procfs, self._keep = pid, procfs, keep
        self.tid = pid  # whose it is; each thread's is that of the mm
        self._fd = -1
        self._raw = b""
        self._open()

    def _open(self) -> None:
        try:
            if self._keep:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise

    @property
    def _path(self) -> str:
        part = "" if self.tid == self._pid else f"/task/{self.tid}"
        return f"{self._procfs.root}/{self._pid}{part}/statm"

    def read(self) -> tuple[int, int, int]:
        """(mapped, resident, resident file and shmem) in pages; all 0 once the mm is gone.

        Pins the mm for an instant. Raises as Procfs does.
        """
        try:
            raw = self._read()
        except (FileNotFoundError, ProcessLookupError):
            if self.tid == self._pid:
                raise
            raw = NO_MM  # that thread has ended; the process may go on
        if raw.startswith(NO_MM):
            raw = self._of_another(raw)
        self._raw = raw
        size, resident, shared = raw.split(b" ", 3)[:3]
        return int(size), int(resident), int(shared)

    def _read(self) -> bytes:
        if self._fd >= 0:
            return os.pread(self._fd, 128, 0)
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 128)
        finally:
            os.close(fd)

    def _of_another(self, raw: bytes) -> bytes:
        """Another thread's, from now on; the same where none has the mm. Raises as Procfs does."""
        tid = self._procfs.seat(self._procfs.stat(self._pid))
        if tid == self.tid:
            return raw
        self.close()
        self.tid = tid
        try:
            self._open()
            return self._read()
        except (FileNotFoundError, ProcessLookupError):
            if tid == self._pid:
                raise
            return raw  # that one has ended as well: the next read looks again

    @property
    def last(self) -> tuple[int, bytes]:
        """(the kept descriptor or -1, what was read of it last): to be compared with a new read."""
        return self._fd, self._raw

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def pss_bytes(pid: int, procfs: Procfs) -> int | None:
    """Its proportional share of anonymous, shmem and swapped memory. **Waits for mmap_lock.**

    None where the kernel does not tell kinds of memory apart (before 5.4).
    """
    fd = os.open(f"{procfs.root}/{pid}/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.read(fd, 8192)
    finally:
        os.close(fd)
    found = {match[1]: int(match[2]) * 1024 for match in _PSS.finditer(raw)}
    return sum(found.values()) if b"Pss_Anon" in found else None
