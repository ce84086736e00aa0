"""Helpers for scripts in the guest: records, cgroups, hogs, swap, modules, NUMA nodes.

Everything here takes the guest to be its own: root, cgroup v2 at /sys/fs/cgroup, nobody else.
"""

import contextlib
import ctypes
import json
import mmap
import os
import random
import re
import signal
import subprocess
import sys
import termios
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

MODULES = Path("/memreap/modules")
CGROUPS = Path("/sys/fs/cgroup")
SWAP_DISK = "/dev/vda"  # where no other disk is
PAGE = mmap.PAGESIZE
_FRAMES_FD = int(os.environ.get("FRAMES_FD", "3"))
_SYS_FINIT_MODULE, _SYS_SET_MEMPOLICY = 313, 238
_MPOL_BIND = 2
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_MAP_NORESERVE = 0x4000
_CHUNK = 1 << 20
_libc = ctypes.CDLL(None, use_errno=True)


def report(**record: object) -> None:
    """Send one record to the host; it has it, whatever becomes of the guest, when this returns."""
    os.write(_FRAMES_FD, json.dumps({"record": record}).encode() + b"\n")
    termios.tcdrain(_FRAMES_FD)


def memreap(*args: object, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "memreap", *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


# Modules and swap.


def load(name: str, parameters: str = "") -> None:
    """Load a kernel module and what it needs; one that is built in, or loaded, is fine."""
    if not MODULES.is_dir():  # a whole system, with modules of its own
        subprocess.run(["modprobe", name, *parameters.split()], check=True)
        return
    orders = json.loads((MODULES / "orders.json").read_bytes())
    if name not in orders:
        raise FileNotFoundError(f"this guest's kernel has no module {name}")
    for each in orders[name]:
        with open(MODULES / f"{each}.ko", "rb") as file, contextlib.suppress(FileExistsError):
            raw = parameters.encode() if each == name else b""
            _check(_libc.syscall(_SYS_FINIT_MODULE, file.fileno(), raw, 0), f"insmod {each}")


def swap_on(spec: str | None, disk: str = SWAP_DISK) -> None:
    """What the guest's option says: None, ``zram:BYTES`` or ``disk``."""
    if spec is None:
        return
    kind, _, size = spec.partition(":")
    if kind == "zram":
        swap_on_zram(int(size))
    else:
        load("virtio_pci")
        load("virtio_blk")
        swap_on_device(disk)


def swap_on_zram(size_bytes: int, algorithm: str | None = None) -> str:
    """Swap on a new zram device; the device. The algorithm is the kernel's default, or this one."""
    load("zram", "num_devices=0")
    number = int(Path("/sys/class/zram-control/hot_add").read_text())
    about = Path(f"/sys/block/zram{number}")
    if algorithm is None:
        algorithm = (about / "comp_algorithm").read_text().partition("[")[2].partition("]")[0]
    with contextlib.suppress(FileNotFoundError):  # newer kernels have them within zram
        load(algorithm)
    (about / "comp_algorithm").write_text(algorithm)
    (about / "disksize").write_text(str(size_bytes))
    swap_on_device(f"/dev/zram{number}")
    return f"/dev/zram{number}"


def swap_on_device(device: str) -> None:
    """Write a swap header on a block device, and use it."""
    with open(device, "r+b", buffering=0) as disk:
        pages = disk.seek(0, os.SEEK_END) // PAGE
        header = bytearray(PAGE)
        header[1024:1036] = b"".join(n.to_bytes(4, "little") for n in (1, pages - 1, 0))
        header[-10:] = b"SWAPSPACE2"
        disk.seek(0)
        disk.write(header)
        os.fsync(disk.fileno())
    _check(_libc.swapon(device.encode(), 0), f"swapon {device}")


def swap_off(device: str) -> None:
    """Take it away again; reads everything back."""
    _check(_libc.swapoff(device.encode()), f"swapoff {device}")


def swaps() -> list[dict[str, str]]:
    """/proc/swaps, a row each."""
    head, *rows = (line.split() for line in Path("/proc/swaps").read_text().splitlines())
    return [dict(zip(head, row, strict=True)) for row in rows]


# Control groups.


@dataclass(frozen=True)
class Cgroup:
    """A v2 control group."""

    path: Path

    @property
    def usage_bytes(self) -> int:
        """memory.current."""
        return int(self.read("memory.current"))

    def read(self, name: str) -> str:
        """One of its files."""
        return (self.path / name).read_text()

    def write(self, name: str, value: object) -> None:
        """Set one of its files."""
        (self.path / name).write_text(str(value))

    def table(self, name: str) -> dict[str, int]:
        """A file of names and numbers, such as memory.events."""
        return {key: int(value) for key, value in map(str.split, self.read(name).splitlines())}

    def add(self, pid: int) -> None:
        """Move a process here."""
        self.write("cgroup.procs", pid)


@contextlib.contextmanager
def cgroup(name: str, **files: object) -> Iterator[Cgroup]:
    """A group for a time: ``memory_max=...`` sets memory.max; its members die at the end."""
    made = Cgroup(CGROUPS / name)
    made.path.mkdir()
    try:
        for file, value in files.items():
            made.write(file.replace("_", "."), value)
        yield made
    finally:
        made.write("cgroup.kill", 1)
        deadline_s = time.monotonic() + 10
        while True:
            try:
                made.path.rmdir()
                break
            except OSError:  # EBUSY: a member is not gone yet
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.01)


# Hogs.


@dataclass
class Hog:
    """A child that takes memory and keeps it."""

    pid: int
    _full: int
    _ended: bool = field(default=False)

    def wait_full(self, timeout_s: float = 60) -> bool:
        """Whether it holds all that it was to take; false if it died before."""
        os.set_blocking(self._full, False)
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            try:
                return os.read(self._full, 1) == b"!"
            except BlockingIOError:
                time.sleep(0.005)
        raise TimeoutError(f"hog {self.pid} is not full after {timeout_s} s")

    def wait(self, timeout_s: float = 60) -> int:
        """Its exit code, -9 where it was killed."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended = True
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"hog {self.pid} has not ended after {timeout_s} s")
            time.sleep(0.005)

    def kill(self) -> None:
        """SIGKILL, and take leave."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


@contextlib.contextmanager
def hog(
    size_bytes: int,
    *,
    rate_bytes_per_s: float | None = None,
    node: int | None = None,
    group: Cgroup | None = None,
    name: str = "hog",
    compressible: bool = True,
    oom_score_adj: int = 0,
) -> Iterator[Hog]:
    """A child that takes so much private memory in 4 KiB pages; killed at the end.

    ``rate_bytes_per_s``: no faster than this. ``node``: bound to this NUMA node. ``group``: it
    joins before it takes anything. ``compressible``: whether zram and zswap gain by it.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _libc.prctl(_PR_SET_NAME, name.encode())
            Path("/proc/self/oom_score_adj").write_text(str(oom_score_adj))
            if group is not None:
                group.add(os.getpid())
            if node is not None:
                bind_to_node(node)
            _fill(size_bytes, rate_bytes_per_s, compressible)
            os.write(write, b"!")
            while True:
                signal.pause()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    made = Hog(pid, read)
    try:
        yield made
    finally:
        made.kill()
        os.close(read)


def _fill(size_bytes: int, rate_bytes_per_s: float | None, compressible: bool) -> None:
    # Unreserved: otherwise more than the machine has is refused at once.
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    memory = mmap.mmap(-1, size_bytes, flags=flags)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    content = b"\1" * _CHUNK if compressible else random.Random(1).randbytes(_CHUNK)
    begin_s = time.monotonic()
    for at in range(0, size_bytes, _CHUNK):
        if rate_bytes_per_s is not None:
            time.sleep(max(0.0, begin_s + at / rate_bytes_per_s - time.monotonic()))
        memory[at : at + _CHUNK] = content[: size_bytes - at]
    globals()["_kept"] = memory  # a mapping that nobody names is unmapped


# NUMA nodes.


def bind_to_node(node: int) -> None:
    """From now on this process's new memory comes from one node only."""
    mask = ctypes.c_ulong(1 << node)
    result = _libc.syscall(_SYS_SET_MEMPOLICY, _MPOL_BIND, ctypes.byref(mask), 64)
    _check(result, f"set_mempolicy to node {node}")


def nodes() -> list[int]:
    """The NUMA nodes that are there."""
    return sorted(int(p.name[4:]) for p in Path("/sys/devices/system/node").glob("node[0-9]*"))


def node_meminfo_bytes(node: int) -> dict[str, int]:
    """A node's meminfo: MemTotal, MemFree, ..."""
    raw = Path(f"/sys/devices/system/node/node{node}/meminfo").read_text()
    return {name: int(kb) << 10 for name, kb in re.findall(r"Node \d+ (\S+):\s+(\d+) kB", raw)}


def anonymous_bytes_by_node(pid: int) -> dict[int, int]:
    """Where a process's anonymous memory lies."""
    found: dict[int, int] = {}
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        if " anon=" in line:
            for node, pages in re.findall(r"\bN(\d+)=(\d+)", line):
                found[int(node)] = found.get(int(node), 0) + int(pages) * PAGE
    return found


# The kernel's own words.


def kernel_log() -> list[str]:
    """Every message since boot, without its time."""
    lines: list[str] = []
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                record = os.read(fd, 8192).decode(errors="replace")
            except BlockingIOError:
                return lines
            except BrokenPipeError:  # overwritten before it was read
                continue
            lines.append(record.partition(";")[2].splitlines()[0])
    finally:
        os.close(fd)


def sysrq(key: Literal["c", "f", "m", "t", "w"]) -> None:
    """Ask the kernel: c crash, f OOM kill, m memory, t tasks, w blocked tasks."""
    Path("/proc/sys/kernel/sysrq").write_text("1")
    Path("/proc/sysrq-trigger").write_text(key)
