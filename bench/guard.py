"""The guard: what it costs while nothing happens, and how fast it is when something does."""

import contextlib
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.guarding import Guard

from memreap.linux import cgroups
from memreap.linux.procfs import Procfs

IDLE_PROCESSES = 500
IDLE_S = 60.0
MANY = 10_000
RATE_MIB = 1000.0  # a GB a second, near enough
LIMIT_MIB = 1024
LINE_MIB = 900

# Fills up at a rate, a quarter of a MiB at a time, and notes when the cgroup was last seen within
# its line, and first over it: by the kernel's counter, on the same clock as the guard's.
HOG = """
import ctypes, mmap, os, struct, sys, time
cgroup, mib, rate, times = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
usage, line = os.open(sys.argv[5], os.O_RDONLY), int(sys.argv[6])
open(cgroup + "/cgroup.procs", "w").write("0")
memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
with open(times, "r+b") as file:
    table = mmap.mmap(file.fileno(), 0)
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
for done in range(mib * 4):
    ctypes.memset(at + (done << 18), 1, 1 << 18)
    if int(os.pread(usage, 32, 0)) > line:
        struct.pack_into("d", table, 8, time.monotonic())
        line = 1 << 62
    elif line < 1 << 62:
        struct.pack_into("d", table, 0, time.monotonic())
    while time.monotonic() - began < done / 4 / rate:
        pass
time.sleep(60)
"""


@contextlib.contextmanager
def arena(limit_mib: int = LIMIT_MIB) -> Iterator[Path]:
    """A memory cgroup of the bench's own."""
    name = f"memreap-bench-{os.getpid()}"
    with cgroups.temporary("memory", name, Procfs()) as directory:
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (directory / name).exists():
                (directory / name).write_text(str(limit_mib << 20))
        yield directory


@contextlib.contextmanager
def guarding(directory: Path, line_mib: int) -> Iterator[Guard]:
    """A guard on it, as installed: with compiled modules."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory(prefix="memreap-bench-") as folder:
        args = ["--cgroup", str(directory), "--limit", f"{line_mib}M", "--quiet"]
        one = Guard(Path(folder), args, env=env)
        try:
            yield one
        finally:
            one.stop()


@contextlib.contextmanager
def sleepers(directory: Path, number: int) -> Iterator[None]:
    """So many small processes in a cgroup."""
    code = (
        "import os, signal, sys\n"
        f"open('{directory}/cgroup.procs', 'w').write('0')\n"
        f"pids = [os.posix_spawn('/bin/sleep', ['sleep', '3600'], os.environ)"
        f" for _ in range({number})]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "for pid in pids: os.kill(pid, signal.SIGKILL)\n"
        "for pid in pids: os.waitpid(pid, 0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        nursery.stdout.readline()
        try:
            yield
        finally:
            nursery.stdin.close()
            nursery.wait()


def _everyone(one: Guard) -> dict[str, list[int]]:
    return {"memreap": [one.pid], **one.children()}


def _cpu_s(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def _wakes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


def _pss_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.partition("\nPss:")[2].split()[0]) * 1024


def idle(quick: bool) -> dict[str, float]:
    """Beside 500 sleeping processes: share of a CPU, wake-ups a second of the core, PSS."""
    look_s = 10.0 if quick else IDLE_S
    with (
        arena() as directory,
        sleepers(directory, IDLE_PROCESSES),
        guarding(directory, LINE_MIB) as one,
    ):
        time.sleep(5.0)
        crew = _everyone(one)
        pids = [pid for group in crew.values() for pid in group]
        before_s, wakes = sum(map(_cpu_s, pids)), _wakes(one.pid)
        time.sleep(look_s)
        cpu_s, wakes = sum(map(_cpu_s, pids)) - before_s, _wakes(one.pid) - wakes
        working = [one.pid, crew["memreap-scout"][0], crew["memreap-scribe"][0]]
        return {
            "share": cpu_s / look_s,
            "wakes_per_s": wakes / look_s,
            "pss_bytes": sum(map(_pss_bytes, working)),
            "pss_with_spares_bytes": sum(map(_pss_bytes, pids)),
        }


def one_crossing(directory: Path, one: Guard, number: int) -> tuple[float, float]:
    """(from the line being crossed to SIGKILL sent, the decision in the core), seconds."""
    usage = str(cgroups.usage_file(directory))
    figures = [str(LIMIT_MIB - 24), str(RATE_MIB)]
    with tempfile.NamedTemporaryFile() as times:
        os.truncate(times.name, mmap.PAGESIZE)
        line = [usage, str(LINE_MIB << 20)]
        with subprocess.Popen(
            [sys.executable, "-S", "-c", HOG, str(directory), *figures, times.name, *line],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as hog:
            assert hog.stdin is not None
            assert hog.stdout is not None
            hog.stdout.readline()
            hog.stdin.write(b"\n")
            hog.stdin.flush()
            try:
                killed = one.wait_for_turn("killed", number, 30)
            finally:
                hog.kill()
        with open(times.name, "rb") as file:
            within_s, over_s = struct.unpack_from("dd", file.read())
    # Killed before it could note that it was over: then it was within for so long at least.
    return killed["at_s"] - (over_s or within_s), killed["figures"]["deciding_s"]


def crossings(quick: bool) -> list[float]:
    """A hog at 1 GB/s, again and again: from the crossing to SIGKILL."""
    with arena() as directory, guarding(directory, LINE_MIB) as one:
        latencies = []
        for number in range(1, (3 if quick else 15) + 1):
            latencies.append(one_crossing(directory, one, number)[0])
            one.wait_for_turn("relieved", number)
            time.sleep(2.5)  # until its spares are made anew
        return latencies


def among_many(quick: bool) -> list[float]:
    """The decision in the core, with 10,000 processes in the domain."""
    number = 1000 if quick else MANY
    with arena(4096) as directory, sleepers(directory, number):
        used_mib = int(cgroups.usage_file(directory).read_text()) >> 20
        with guarding(directory, used_mib + 500) as one:
            times = []
            for turn in range(1, 4 if quick else 8):
                with subprocess.Popen(
                    [sys.executable, "-S", "-c", HOG_AT_ONCE, str(directory), "700"]
                ) as hog:
                    try:
                        killed = one.wait_for_turn("killed", turn, 60)
                    finally:
                        hog.kill()
                times.append(killed["figures"]["deciding_s"])
                one.wait_for_turn("relieved", turn)
            return times


HOG_AT_ONCE = """
import ctypes, mmap, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
memory = mmap.mmap(-1, int(sys.argv[2]) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, len(memory))
time.sleep(60)
"""


def under_way(quick: bool) -> dict[str, int]:
    """What incidents do to the core's memory: major faults, growth of what is resident."""
    with arena() as directory, guarding(directory, LINE_MIB) as one:
        before = _memory(one.pid)
        rounds = 2 if quick else 5
        for number in range(1, rounds + 1):
            one_crossing(directory, one, number)
            one.wait_for_turn("relieved", number)
        after = _memory(one.pid)
        return {name: after[name] - before[name] for name in before} | {"incidents": rounds}


def _memory(pid: int) -> dict[str, int]:
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    rss = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    return {"major_faults": int(stat[9]), "rss_bytes": rss}
