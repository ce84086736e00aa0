"""NUMA nodes: what each has left, and which of them a process is tied to.

See numa(7), drivers/base/node.c, calculate_totalreserve_pages() in mm/page_alloc.c,
show_numa_map() in fs/proc/task_mmu.c. Only readers live here.
"""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from typing import NamedTuple

from memreap.linux.meminfo import bytes_of
from memreap.linux.procfs import PAGE_SIZE_BYTES, Procfs

_NODE = re.compile(rb" N(\d+)=(\d+)")
# "bind:0-1", with flags "bind=static:0", "bind=relative|balancing:0".
_BIND = re.compile(rb"^[0-9a-f]+ bind[^: \n]*:([\d,-]+)", re.MULTILINE)
_PAGE_SIZE = re.compile(rb" kernelpagesize_kB=(\d+)")
_ZONE = re.compile(
    rb"^Node (\d+), zone .*?^ +high +(\d+)$.*?^ +managed +(\d+)$.*?^ +protection: \(([\d, ]*)\)$",
    re.MULTILINE | re.DOTALL,
)
RESERVE_AGE_MAX_S = 60.0  # vm.min_free_kbytes, and khugepaged, may set other watermarks
_ALLOWED = re.compile(rb"^Mems_allowed_list:\s*([\d,-]*)$", re.MULTILINE)


class NodeMemory(NamedTuple):
    """One node's memory."""

    total_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class NumaMaps:
    """Where a process's memory lies, and the nodes that its MPOL_BIND policies name."""

    bytes_by_node: dict[int, int]
    bound: frozenset[int]


def parse_list(raw: bytes) -> frozenset[int]:
    """Parse the kernel's list format, as "0-2,4". bitmap_parselist()"""
    numbers: set[int] = set()
    for part in raw.strip().split(b","):
        if part:
            first, _, last = part.partition(b"-")
            numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def nodes(sys_root: str = "/sys") -> list[int]:
    """Every node that has memory, in ascending order; none where the kernel knows no NUMA."""
    for name in ("has_memory", "online"):
        try:
            raw = _read(f"{sys_root}/devices/system/node/{name}")
        except OSError:
            continue
        return sorted(parse_list(raw))
    return []


def reserve_bytes(number: int, zoneinfo: bytes) -> int:
    """What nobody gets of a node: its zones' high watermarks, and what lower zones keep back."""
    pages = 0
    for node, high, managed, protection in _ZONE.findall(zoneinfo):
        if int(node) == number:
            kept = max(map(int, protection.split(b", ")), default=0)
            pages += min(int(managed), int(high) + kept)
    return pages * PAGE_SIZE_BYTES


class Node:
    """One node's meminfo, on a kept descriptor."""

    def __init__(self, number: int, sys_root: str = "/sys", proc_root: str = "/proc") -> None:
        """Open it. Raises OSError where there is no such node."""
        self.number = number
        self._zoneinfo = f"{proc_root}/zoneinfo"
        self._reserve_s, self._reserve_bytes = -RESERVE_AGE_MAX_S, 0
        path = f"{sys_root}/devices/system/node/node{number}/meminfo"
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> NodeMemory:
        """Its memory now: free, files, and half of the slab that can be reclaimed.

        As in MemAvailable, less what the kernel reserves: on a small node it kills long before
        nothing is free.
        """
        self._renew_reserve(time.monotonic())
        raw = os.pread(self._fd, 8192, 0)
        there = (
            bytes_of(raw, b" MemFree:")
            + bytes_of(raw, b" Active(file):")
            + bytes_of(raw, b" Inactive(file):")
            + bytes_of(raw, b" SReclaimable:") // 2
        )
        return NodeMemory(bytes_of(raw, b" MemTotal:"), max(0, there - self._reserve_bytes))

    def _renew_reserve(self, now_s: float) -> None:
        if now_s - self._reserve_s >= RESERVE_AGE_MAX_S:
            self._reserve_s = now_s
            with contextlib.suppress(OSError):
                self._reserve_bytes = reserve_bytes(self.number, _read(self._zoneinfo))

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def parse_numa_maps(raw: bytes) -> NumaMaps:
    """Parse /proc/PID/numa_maps; a file's name cannot pose as a field, " " and "=" are escaped."""
    by_node: dict[int, int] = {}
    bound: set[int] = set()
    for match in _BIND.finditer(raw):
        bound |= parse_list(match[1])
    for line in raw.split(b"\n"):
        found = _NODE.findall(line)
        if not found:
            continue
        # Huge pages of hugetlb count as one each; transparent ones as the small pages they hold.
        size = _PAGE_SIZE.search(line)
        page_bytes = int(size[1]) * 1024 if size else PAGE_SIZE_BYTES
        for node, pages in found:
            by_node[int(node)] = by_node.get(int(node), 0) + int(pages) * page_bytes
    return NumaMaps(by_node, frozenset(bound))


def numa_maps(pid: int, procfs: Procfs) -> NumaMaps:
    """Where a process's memory lies. **Waits for mmap_lock**, walks all of its page tables."""
    raw = _read(f"{procfs.root}/{pid}/numa_maps")
    if not raw and (tid := procfs.living_thread(pid)) is not None:
        raw = _read(f"{procfs.root}/{pid}/task/{tid}/numa_maps")
    return parse_numa_maps(raw)


def allowed_nodes(pid: int, procfs: Procfs) -> frozenset[int]:
    """The nodes its cpuset lets it have memory on. Pins the mm for an instant."""
    match = _ALLOWED.search(_read(f"{procfs.root}/{pid}/status"))
    return parse_list(match[1]) if match else frozenset()


def _read(path: str) -> bytes:
    """All of a file: lists come piecemeal, a page at a time."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, 1 << 20):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)
