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

_PSS = re.compile(rb"^(Pss_Anon|Pss_Shmem|SwapPss):\s+(\d+) kB$", re.MULTILINE)


class Statm:
    """/proc/PID/statm of one process, opened once where the descriptors suffice."""

    __slots__ = ("_fd", "_path", "_raw")

    def __init__(self, pid: int, procfs: Procfs, *, keep: bool = True) -> None:
        """Open it, or at every read if it is not to be kept. Raises as Procfs does."""
        self._path = f"{procfs.root}/{pid}/statm"
        self._fd = -1
        self._raw = b""
        try:
            if keep:
                self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise

    def read(self) -> tuple[int, int, int]:
        """(mapped, resident, resident file and shmem) in pages; all 0 once the mm is gone.

        Pins the mm for an instant. Raises as Procfs does.
        """
        if self._fd >= 0:
            raw = os.pread(self._fd, 128, 0)
        else:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                raw = os.read(fd, 128)
            finally:
                os.close(fd)
        self._raw = raw
        size, resident, shared = raw.split(b" ", 3)[:3]
        return int(size), int(resident), int(shared)

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
