"""How much memory the machine has left, fit for being asked 1000 times a second.

See fs/proc/meminfo.c, si_mem_available() in mm/show_mem.c, mm/swapfile.c,
Documentation/admin-guide/blockdev/zram.rst. Only the machine's own sums live here:
- *available* is MemAvailable, which leaves tmpfs and shmem out (they can only be swapped), and
  what the ARC of ZFS can give back, which the kernel takes for used.
- *swap on zram* lies in RAM. What a page saves there is 1 - r, r being the share that stays of
  it after compression; so much of it counts, in the total as in what is free.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from memreap.linux.procfs import Procfs

SLOW_S = 1.0  # how old swaps, compression and ARC may be
# Before there is enough to measure: half stays. Lz4 and lzo mostly do better, but a guard that
# counts on memory that is not there kills too late, and 64 MiB later the true figure is known.
ASSUMED_RATIO = 1 / 2
MEASURABLE_BYTES = 64 << 20

_ZRAM_SWAP = re.compile(rb"^/dev/(zram\d+)\s+partition\s+(\d+)\s+(\d+)", re.MULTILINE)
_ARC_SIZE = re.compile(rb"^size\s+\d+\s+(\d+)$", re.MULTILINE)
_ARC_C_MIN = re.compile(rb"^c_min\s+\d+\s+(\d+)$", re.MULTILINE)


class System(NamedTuple):
    """The machine's memory. See the module's first lines for what counts."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    tmpfs_bytes: int
    zram_bytes: int  # RAM that compressed pages take
    arc_bytes: int  # what the ARC can give back; within available_bytes


class Zram(NamedTuple):
    """All swap on zram together, and the share that stays of a page there."""

    total_bytes: int = 0
    free_bytes: int = 0
    unreachable_bytes: int = 0  # free, but mem_limit will be met before
    used_ram_bytes: int = 0
    ratio: float = ASSUMED_RATIO


class Meminfo:
    """/proc/meminfo on a kept descriptor, with what the kernel does not count.

    The slow-changing parts are read again when they are ``SLOW_S`` old, by ``clock``.
    """

    def __init__(
        self,
        procfs: Procfs,
        sys_root: str = "/sys",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open what there is. Raises OSError where there is no /proc/meminfo."""
        self._fd = os.open(f"{procfs.root}/meminfo", os.O_RDONLY | os.O_CLOEXEC)
        self._sys_root = sys_root
        self._clock = clock
        self._swaps = _Kept(f"{procfs.root}/swaps")
        self._arcstats = _Kept(f"{procfs.root}/spl/kstat/zfs/arcstats")
        self._mm_stats: dict[bytes, _Kept] = {}
        self._slow_at_s: float | None = None
        self._zram = Zram()
        self._swap_free_then_bytes = 0
        self._arc_bytes = 0

    def read(self) -> System:
        """The machine's memory now."""
        raw = os.pread(self._fd, 8192, 0)
        total = bytes_of(raw, b"MemTotal:")
        available = bytes_of(raw, b"\nMemAvailable:")
        swap_total = bytes_of(raw, b"\nSwapTotal:")
        swap_free = bytes_of(raw, b"\nSwapFree:")
        now_s = self._clock()
        if self._slow_at_s is None or not 0 <= now_s - self._slow_at_s < SLOW_S:
            self._slow_at_s = now_s
            self._arc_bytes = self._read_arc() if self._arcstats.there else 0
            self._zram = self._read_zram() if swap_total else Zram()
            self._swap_free_then_bytes = swap_free
        zram = self._zram
        if zram.total_bytes:
            # What was swapped since is taken to be in zram: who has both gives it precedence.
            free = zram.free_bytes + swap_free - self._swap_free_then_bytes
            swap_free -= _not_saved(min(max(free, 0), zram.total_bytes), zram)
            swap_total -= _not_saved(zram.total_bytes, zram)
        return System(
            total,
            min(available + self._arc_bytes, total),
            swap_total,
            max(0, swap_free),
            bytes_of(raw, b"\nShmem:"),
            zram.used_ram_bytes,
            self._arc_bytes,
        )

    def _read_arc(self) -> int:
        raw = self._arcstats.read()
        size, least = _ARC_SIZE.search(raw), _ARC_C_MIN.search(raw)
        return max(0, int(size[1]) - int(least[1])) if size and least else 0

    def _read_zram(self) -> Zram:
        total = free = used_ram = stored = 0
        bounded: list[tuple[int, int]] = []  # (bytes free, bytes of RAM left to take)
        for name, size_kib, used_kib in _ZRAM_SWAP.findall(self._swaps.read()):
            original, used, limit = self._mm_stat(name)
            empty = (int(size_kib) - int(used_kib)) * 1024
            total, free = total + int(size_kib) * 1024, free + empty
            used_ram, stored = used_ram + used, stored + original
            if limit:
                bounded.append((empty, max(0, limit - used)))
        ratio = min(1.0, used_ram / stored) if stored >= MEASURABLE_BYTES else ASSUMED_RATIO
        unreachable = sum(max(0, int(empty - ram / (ratio or 1))) for empty, ram in bounded)
        return Zram(total, free, unreachable, used_ram, ratio)

    def _mm_stat(self, name: bytes) -> tuple[int, int, int]:
        """(bytes stored, bytes of RAM for them, most bytes of RAM or 0) of a zram device."""
        kept = self._mm_stats.get(name)
        if kept is None:
            kept = _Kept(f"{self._sys_root}/block/{name.decode('ascii')}/mm_stat")
            self._mm_stats[name] = kept
        field = kept.read().split()
        return (int(field[0]), int(field[2]), int(field[3])) if len(field) > 3 else (0, 0, 0)

    def close(self) -> None:
        """Let go of the descriptors."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for kept in (self._swaps, self._arcstats, *self._mm_stats.values()):
            kept.close()


class _Kept:
    """A small file that may not be there, or go: then it is empty."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._open()

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def there(self) -> bool:
        return self._fd >= 0

    def read(self) -> bytes:
        """All of it: the kernel gives a list piecemeal, a page at a time."""
        if self._fd < 0:
            self._open()  # a device that was set up again
        raw = b""
        try:
            while self._fd >= 0 and (more := os.pread(self._fd, 16384, len(raw))):
                raw += more
        except OSError:
            self.close()
            return b""
        return raw

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _not_saved(swap_bytes: int, zram: Zram) -> int:
    """What of so much swap on zram is no memory: what it cannot take, what stays of the rest."""
    reachable = max(0, swap_bytes - zram.unreachable_bytes)
    return swap_bytes - reachable + int(zram.ratio * reachable)


def bytes_of(raw: bytes, name: bytes) -> int:
    """The value behind a name (with what stands before it) in a meminfo; 0 if not there."""
    at = raw.find(name)
    if at < 0:
        return 0
    at += len(name)
    return int(raw[at : raw.index(b"k", at)]) * 1024
