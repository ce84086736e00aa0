"""A guard under test: started as a user would, in a cgroup or tree of the test's own."""

import contextlib
import ctypes
import json
import mmap
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from memreap.linux.procfs import Procfs

READY = "on guard after"

# Joins a cgroup, takes so many MiB at so many MiB a second, says so, and holds on to them.
HOG = """
import ctypes, mmap, os, signal, sys, time
cgroup, mib, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
if len(sys.argv) > 4 and sys.argv[4] == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if cgroup:
    open(cgroup + "/cgroup.procs", "w").write("0")
memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
began = time.monotonic()
for done in range(mib):
    ctypes.memset(at + (done << 20), 1, 1 << 20)
    ahead = done / rate - (time.monotonic() - began)
    if ahead > 0.001:
        time.sleep(ahead)
print("full", flush=True)
while True:
    time.sleep(60)
"""

# The same, in a thread; then the first thread ends, and the process goes on without it.
LEADERLESS = HOG.replace(
    "while True:",
    """
import threading
threading.Thread(target=lambda: [time.sleep(60) for _ in iter(int, 1)]).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # exit(2)
while True:""",
)


class Guard:
    """One running guard, its words and its records."""

    def __init__(self, folder: Path, args: list[str], **popen: Any) -> None:
        """Start it; returns when it is on guard."""
        self.database, self.socket = folder / "incidents.db", folder / "guard.sock"
        self._log = folder / "guard.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "memreap", "guard"),
                    *("--database", str(self.database), "--socket", str(self.socket), *args),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **popen,
            )
        self.wait_for(lambda: READY in self.log or self.process.poll() is not None, 20)

    @property
    def pid(self) -> int:
        """The core's."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it said."""
        return self._log.read_text(errors="surrogateescape")

    def wait_for(self, what: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        """Until it is true; fails with the guard's words otherwise."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if found := what():
                return found
            time.sleep(0.005)
        raise AssertionError(f"not within {timeout_s:g} s; the guard said:\n{self.log}")

    def wait_for_turn(self, what: str, number: int = 1, timeout_s: float = 15.0) -> dict[str, Any]:
        """The so-manieth turn of a kind."""

        def found() -> dict[str, Any] | None:
            turns = [turn for turn in self.turns() if turn["what"] == what]
            return turns[number - 1] if len(turns) >= number else None

        turn: dict[str, Any] = self.wait_for(found, timeout_s)
        return turn

    def turns(self, *whats: str) -> list[dict[str, Any]]:
        """Everything that was written down, or all of these kinds."""
        if not self.database.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            try:
                rows = db.execute("select json from turn order by rowid").fetchall()
            except sqlite3.OperationalError:  # not made yet
                return []
        turns = [json.loads(row[0]) for row in rows]
        return [turn for turn in turns if not whats or turn["what"] in whats]

    def children(self) -> dict[str, list[int]]:
        """Its other processes by name."""
        named: dict[str, list[int]] = {}
        raw = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        for pid in map(int, raw.split()):
            with contextlib.suppress(OSError):
                named.setdefault(Path(f"/proc/{pid}/comm").read_text().strip(), []).append(pid)
        return named

    def stop(self) -> int:
        """End it as systemd would; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()


class Hog:
    """A process that takes memory."""

    def __init__(self, cgroup: Path | str, mib: int, rate_mib: float = 1e6, *more: str) -> None:
        """``cgroup``: to join, "" for none."""
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", HOG, str(cgroup), str(mib), str(rate_mib), *more],
            stdout=subprocess.PIPE,
        )
        self.pid = self.process.pid

    def wait_full(self) -> None:
        """Until it holds all."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"full\n"

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.process.poll() == -signal.SIGKILL

    def end(self) -> None:
        """Gone, whatever it is at."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def leaderless(cgroup: Path | str, mib: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds so much, and whose first thread has ended; gone afterwards."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", LEADERLESS, str(cgroup), str(mib), "1e6"],
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"full\n"
            deadline_s = time.monotonic() + 10
            while not Procfs().stat(process.pid).is_leaderless:
                assert time.monotonic() < deadline_s, "its first thread lives"
                time.sleep(0.001)
            yield process
        finally:
            process.kill()


def fill(mib: int) -> mmap.mmap:
    """So much private memory of this process, every page of it."""
    memory = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, len(memory))
    return memory


def limited(directory: Path, mib: int) -> Path:
    """A v1 memory cgroup with a limit."""
    (directory / "memory.limit_in_bytes").write_text(str(mib << 20))
    return directory


def wait_for_exec(pid: int, program: str, timeout_s: float = 10.0) -> None:
    """Until a child has become the program that it was started for."""
    deadline_s = time.monotonic() + timeout_s
    while not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(program.encode() + b"\0"):
        assert time.monotonic() < deadline_s, f"{pid} never became {program}"
        time.sleep(0.001)


def alive(pid: int) -> bool:
    """Whether it is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@contextlib.contextmanager
def keeping(*hogs: Hog) -> Iterator[None]:
    """End them, whatever happens."""
    try:
        yield
    finally:
        for hog in hogs:
            hog.end()


def usage_bytes(directory: Path) -> int:
    """Of a v1 memory cgroup."""
    return int((directory / "memory.usage_in_bytes").read_text())


def stay_below(directory: Path, limit_bytes: int, seconds_: float) -> int:
    """The highest usage seen in so many seconds; fails above the limit."""
    peak, until_s = 0, time.monotonic() + seconds_
    while time.monotonic() < until_s:
        peak = max(peak, usage_bytes(directory))
        assert peak <= limit_bytes
        time.sleep(0.002)
    return peak


NOBODY = 65534
OWN_PID = os.getpid()
