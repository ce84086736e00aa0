"""memreap, earlyoom 1.9 and kill(1), each alone with the victim in a PID namespace.

All three run as commands, and one meter serves all: from the SIGKILL that the kernel's tracepoint
saw until the victim's memory cgroup is empty. earlyoom comes from Debian sid, fetched by the
machine's own apt and unpacked into the user's cache, with the libc it was built against.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vmtest.apt import Apt
from vmtest.cache import NotReadyError

from bench.row import Row
from bench.tracer import Tracer, tracer
from memreap.demo.measure import RELEASED_SHARE
from memreap.linux import cgroups, scheduling
from memreap.linux.procfs import Procfs

MIB = 1 << 20
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "memreap-bench"
NEIGHBOURS = 3 * (os.cpu_count() or 1)
LIMIT_S = 5.0
LOOK_S = 0.0005
RUNS = 11
ALONE_RUNS = 3


@dataclass(frozen=True, slots=True)
class Case:
    """One victim for all killers."""

    name: str
    target: float  # the most that memreap may take of earlyoom's time
    order: dict[str, object] = field(default_factory=dict)


CASES = (
    Case("512 MiB, sleeping, idle machine", 1.0, {"kind": "sleeping"}),
    Case("512 MiB, hung AIO, idle machine", 1.0, {"kind": "hung-aio"}),
    Case("512 MiB, busy, beside busy neighbours", 0.5, {"kind": "busy", "neighbours": NEIGHBOURS}),
    Case("512 MiB, SCHED_IDLE, the same", 0.5, {"kind": "idle", "neighbours": NEIGHBOURS}),
    Case("512 MiB, hung AIO, the same", 0.5, {"kind": "hung-aio", "neighbours": NEIGHBOURS}),
)


def rows(quick: bool) -> Iterator[Row]:
    """memreap against earlyoom, and kill(1) beside it in the note."""
    earlyoom = fetch_earlyoom()
    killers = {
        "kill": ["/bin/kill", "-9", "PID"],
        # Acts at once: some of 99 % of memory is always in use, and there is no swap. -p: its own
        # nice -20, as its Debian service has.
        "earlyoom": [*earlyoom, "-m", "99,99", "-s", "100,100", "-r", "0", "-p"],
        "memreap": [sys.executable, "-m", "memreap", "kill", "--quiet", "PID"],
    }
    with tracer() as trace:
        for case in CASES:
            seen: dict[str, list[float | None]] = {name: [] for name in killers}
            for round_ in range(3 if quick else RUNS):
                for name, argv in killers.items():
                    if name == "kill" and round_ >= ALONE_RUNS:
                        continue  # it is told beside, and mostly waits for what never comes
                    seen[name].append(_fight(case, argv, trace))
            alone = ", ".join("-" if s is None else f"{s * 1000:.3g}" for s in seen["kill"])
            note = f"kill -9 alone, ms: {alone}"
            baseline = "earlyoom 1.9"
            yield Row(case.name, baseline, seen["earlyoom"], seen["memreap"], case.target, note)


def _fight(case: Case, argv: list[str], trace: Tracer) -> float | None:
    """One killer, one victim: seconds from SIGKILL to memory back."""
    name = f"memreap-bench-{os.getpid()}"
    with cgroups.temporary("memory", name, Procfs()) as group, _arena(case, group) as arena:
        usage = os.open(cgroups.usage_file(group), os.O_RDONLY)
        try:
            held_bytes = int(os.pread(usage, 32, 0))
            # As this namespace numbers them: a killer may send SIGKILL to helpers of its own too.
            victims = {int(pid) for pid in (group / "cgroup.procs").read_text().split()}
            trace.clear()
            assert arena.stdin is not None
            arena.stdin.write(json.dumps(argv).encode() + b"\n")
            arena.stdin.flush()
            released_s = _watch(usage, held_bytes)
        finally:
            os.close(usage)
        kills = [at_s for at_s, pid in trace.kills() if pid in victims]
    if not kills:
        raise RuntimeError(f"{argv[0]} killed nobody")
    return None if released_s is None else released_s - kills[0]


@contextlib.contextmanager
def _arena(case: Case, group: Path) -> Iterator[subprocess.Popen[bytes]]:
    order = {"size_bytes": 512 * MIB, "cgroups": [str(group)], **case.order}
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with subprocess.Popen(
        [*argv, sys.executable, "-m", "bench.arena", json.dumps(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as arena:
        try:
            assert arena.stdout is not None
            if not arena.stdout.readline():
                raise RuntimeError("the arena did not open")
            yield arena
        finally:
            arena.communicate(timeout=15)


def _watch(usage: int, held_bytes: int) -> float | None:
    """When the cgroup was all but empty; None: not within the limit."""
    rest_bytes = held_bytes * (1 - RELEASED_SHARE)
    with scheduling.watching():
        start_s = now_s = time.monotonic()
        while now_s < start_s + LIMIT_S:
            left_bytes = int(os.pread(usage, 32, 0))
            now_s = time.monotonic()
            if left_bytes <= rest_bytes:
                return now_s
            time.sleep(LOOK_S)
    return None


def fetch_earlyoom() -> list[str]:
    """earlyoom's command, fetched once. Raises RuntimeError where apt cannot give it."""
    root = CACHE / "sid"
    if not (root / "usr/bin/earlyoom").exists():
        try:
            Apt.of("sid", CACHE / "apt").unpack(["earlyoom", "libc6"], root)
        except NotReadyError as error:
            raise RuntimeError(f"cannot fetch earlyoom from Debian sid: {error}") from error
    libraries = next(root.glob("usr/lib/*-linux-gnu"))
    loader = next(libraries.glob("ld-linux*.so.*"))
    return [str(loader), "--library-path", str(libraries), str(root / "usr/bin/earlyoom")]
