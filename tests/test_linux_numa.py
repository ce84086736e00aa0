"""Nodes: what each has left, and who is tied to which."""

import ctypes
import mmap
import os
from pathlib import Path

import pytest

from memreap.linux.numa import (
    Node,
    NodeMemory,
    NumaMaps,
    allowed_nodes,
    nodes,
    numa_maps,
    parse_list,
    parse_numa_maps,
)
from memreap.linux.procfs import Procfs

KIB, MIB = 1 << 10, 1 << 20
MEMINFO = """
Node 1 MemTotal:        8388608 kB
Node 1 MemFree:         1048576 kB
Node 1 MemUsed:         7340032 kB
Node 1 SwapCached:            0 kB
Node 1 Active:           500000 kB
Node 1 Active(anon):     400000 kB
Node 1 Inactive(anon):     9999 kB
Node 1 Active(file):     100000 kB
Node 1 Inactive(file):    50000 kB
Node 1 Slab:              80000 kB
Node 1 SReclaimable:      60000 kB
Node 1 HugePages_Total:     0
"""
NUMA_MAPS = rb"""00400000 default file=/bin/bind:3\040N7\0759 mapped=10 N0=10 kernelpagesize_kB=4
7f0000000000 bind:1 anon=20 dirty=20 N0=5 N1=15 kernelpagesize_kB=4
7f1000000000 bind=static:2-3 file=/anon_hugepage\040(deleted) huge dirty=2 N2=2 kernelpagesize_kB=2048
7f2000000000 weighted interleave:4-5 anon=1 N4=1 kernelpagesize_kB=4
7f3000000000 prefer (many):6 anon=1 dirty=1 active=0 N6=1 kernelpagesize_kB=4
7ffd00000000 bind:8 stack
"""  # noqa: E501


@pytest.mark.parametrize(
    ("raw", "expected"),
    [(b"", set()), (b"\n", set()), (b"0\n", {0}), (b"0-2,5", {0, 1, 2, 5}), (b"1,3\n", {1, 3})],
)
def test_a_list_of_numbers(raw: bytes, expected: set[int]) -> None:
    assert parse_list(raw) == expected


def test_nodes_are_those_with_memory(tmp_path: Path) -> None:
    assert nodes(str(tmp_path)) == []
    place = tmp_path / "devices/system/node"
    place.mkdir(parents=True)
    (place / "online").write_text("0-3\n")
    assert nodes(str(tmp_path)) == [0, 1, 2, 3]
    (place / "has_memory").write_text("0,2\n")
    assert nodes(str(tmp_path)) == [0, 2]


# Node 1: a zone that is kept back whole, and one with its high watermark and a protection.
ZONEINFO = """\
Node 0, zone      DMA
  pages free     3840
        high     50
        managed  3840
        protection: (0, 3019, 7243)
Node 1, zone    DMA32
  pages free     300
        boost    0
        high     200
        managed  300
        protection: (0, 0, 400)
              high:     4392
Node 1, zone   Normal
  pages free     100000
        min      250
        low      400
        high     500
        spanned  2097152
        managed  2000000
        cma      0
        protection: (0, 0, 2000)
"""


def test_what_a_node_has_left(tmp_path: Path, nothing_left: None) -> None:
    place = tmp_path / "devices/system/node/node1"
    place.mkdir(parents=True)
    (place / "meminfo").write_text(MEMINFO)
    (tmp_path / "zoneinfo").write_text(ZONEINFO)
    node = Node(1, str(tmp_path), str(tmp_path))
    available = 1048576 + 100000 + 50000 + 30000 - (300 + 500 + 2000) * 4
    assert node.read() == NodeMemory(8388608 * KIB, available * KIB)
    node.close()
    with pytest.raises(FileNotFoundError):
        Node(2, str(tmp_path))


def test_this_machines_nodes() -> None:
    if not nodes():
        pytest.skip("the kernel knows no NUMA")
    for number in nodes():
        node = Node(number)
        now = node.read()
        assert 0 < now.available_bytes <= now.total_bytes
        node.close()


def test_pages_policies_and_hostile_names() -> None:
    expected = {
        0: 15 * 4 * KIB,
        1: 15 * 4 * KIB,
        2: 2 * 2 * MIB,
        4: 4 * KIB,
        6: 4 * KIB,
    }
    assert parse_numa_maps(NUMA_MAPS) == NumaMaps(expected, frozenset({1, 2, 3, 8}))
    assert parse_numa_maps(b"") == NumaMaps({}, frozenset())


def test_a_process_of_our_own() -> None:
    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("the kernel knows no NUMA")
    before = sum(numa_maps(os.getpid(), Procfs()).bytes_by_node.values())
    memory = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, len(memory))
    after = numa_maps(os.getpid(), Procfs())
    assert sum(after.bytes_by_node.values()) - before > 15 * MIB
    assert set(after.bytes_by_node) <= allowed_nodes(os.getpid(), Procfs())


def test_who_does_not_say_is_allowed_nothing(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/status").write_text("Name:\tx\nMems_allowed:\t00000005\n")
    assert allowed_nodes(7, Procfs(str(tmp_path))) == frozenset()
    (tmp_path / "7/status").write_text("Name:\tx\nMems_allowed_list:\t0,2\n")
    assert allowed_nodes(7, Procfs(str(tmp_path))) == {0, 2}
