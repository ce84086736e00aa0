"""The host's side: boots a guest for what is missing, and keeps each run on a line of a file.

A run that was begun and never told of is a result, too: the guest froze, or died, in it. Its
console is kept beside the file. What was not begun is tried again in another guest.
"""

import fcntl
import json
import multiprocessing
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vmtest import debian, guest

from bench.oom import verdict, watchdog
from bench.oom.daemons import DAEMONS
from bench.oom.workloads import WORKLOADS

PACKAGE = Path(__file__).parent
IN_GUEST = (
    "__init__.py", "daemons.py", "hung.py", "meter.py", "round.py", "signals.py", "watchdog.py",
    "workloads.py", "yard.py",
)  # fmt: skip
RUNS = 5  # of each
SETTINGS = ("default", "tuned")
MEMORY_BYTES = 1 << 30
BOOT_S = 120.0
BETWEEN_S = 100.0  # that may pass between two runs: settling, starting, clearing away
SLOWNESS = 8  # at most, of a guest's clock, on the host's


Key = tuple[str, str, str, int]  # daemon, setting, workload, number of the run


@dataclass(frozen=True)
class Boot:
    """What one guest is booted for: a daemon in one setting, some runs."""

    daemon: str
    setting: str
    jobs: tuple[tuple[str, int], ...]
    """Workload and number; all of these need the same machine."""

    def __str__(self) -> str:
        """For people, and for file names."""
        return f"{self.daemon} {self.setting} {self.jobs[0][0]}"

    @property
    def machine(self) -> debian.Machine:
        """The guest."""
        workload = WORKLOADS[self.jobs[0][0]]
        return debian.Machine(
            suite="sid",
            memory_bytes=MEMORY_BYTES,
            nodes=workload.nodes,
            swap=workload.swap,
            timeout_s=SLOWNESS
            * (BOOT_S + sum(WORKLOADS[name].limit_s + BETWEEN_S for name, _ in self.jobs)),
            counted=True,
            files=files(),
        )

    @property
    def script(self) -> str:
        """What runs there."""
        jobs = list(self.jobs)
        return (
            "from bench.oom import round\n"
            f"round.main({self.daemon!r}, {self.setting!r}, {jobs!r})\n"
        )


def boots(wanted: Iterable[Key]) -> list[Boot]:
    """One guest for the runs of one number, of one daemon, one setting and one kind of machine.

    First runs come first, so that an early end leaves something of everything. A machine that few
    workloads need is booted for all of its later runs at once: half the time goes in booting.
    """
    queues: dict[tuple[int, str, str, int, str | None], list[tuple[str, int]]] = {}
    for daemon, setting, name, number in sorted(wanted, key=lambda key: key[3]):
        workload = WORKLOADS[name]
        is_rare = workload.nodes > 1 or workload.swap is not None
        turn = min(number, 2) if is_rare else number
        kind = (turn, daemon, setting, workload.nodes, workload.swap)
        queues.setdefault(kind, []).append((name, number))
    return [Boot(daemon, setting, tuple(jobs)) for (_, daemon, setting, *_), jobs in queues.items()]


def keys(
    daemons: Iterable[str], settings: Iterable[str], workloads: Iterable[str], runs: int
) -> list[Key]:
    """All runs of these."""
    wanted, names = set(settings), list(workloads)
    return [
        (daemon, setting, workload, number)
        for daemon in daemons
        for setting in DAEMONS[daemon].settings
        if setting in wanted
        for workload in names
        for number in range(1, runs + 1)
    ]


class Archive:
    """The file: a line for each run, and one for each guest's machine."""

    def __init__(self, path: Path) -> None:
        """It need not be there."""
        self.path = path

    def records(self) -> list[dict[str, Any]]:
        """All of them. A last line that was cut off is none."""
        if not self.path.exists():
            return []
        found = []
        for line in self.path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def runs(self) -> list[dict[str, Any]]:
        """The runs alone."""
        return [record for record in self.records() if record["kind"] == "run"]

    def add(self, record: dict[str, Any]) -> None:
        """One more, and on the disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # several guests are told of at a time
            if file.seek(0, 2) and not _ends_a_line(file.name):
                file.write(b"\n")
            file.write(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def done(self) -> set[Key]:
        """The runs that are there."""
        return {(r["daemon"], r["setting"], r["workload"], r["run"]) for r in self.runs()}

    def keep_console(self, name: str, console: Path) -> None:
        """What a guest said that ended badly."""
        folder = self.path.with_suffix(".consoles")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.move(console, folder / f"{name.replace(' ', '-')}.txt")
        shutil.rmtree(console.parent, ignore_errors=True)


def _ends_a_line(path: str) -> bool:
    return Path(path).read_bytes().endswith(b"\n")


def measure(wanted: Iterable[Key], archive: Archive, guests: int) -> Iterator[str]:
    """Boot, so many at a time, until all of these runs are there; what happened, for people.

    Raises NotReadyError.
    """
    wanted, done = list(wanted), archive.done()
    while left := boots(key for key in wanted if key not in done):
        # Ends its processes, and they their guests, whatever happens here.
        with multiprocessing.Pool(guests, _ready_to_end) as pool:
            yield from pool.imap_unordered(partial(run, archive=archive), left)
        before, done = done, archive.done()
        if done == before:
            yield "given up: in all of these guests no run was begun"
            return


def _ready_to_end() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the pool's own process hears it


def run(boot: Boot, archive: Archive) -> str:
    """One guest, each run kept as it is told; what came of it, for people. Raises NotReadyError."""
    taker = Taker(archive)
    how = ""
    try:
        result = boot.machine.run(boot.script, taker)
        if result.exit_code != 0:
            how = " ".join(result.stderr[-3:])
    except guest.GuestError as error:
        archive.keep_console(str(boot), error.console)
        froze = isinstance(error, guest.HungError) or watchdog.LAST_WORDS in error.result.console
        how = verdict.FROZE if froze else verdict.DIED
        taker.end(how)
    return f"{boot}: {taker.kept} of {len(boot.jobs)} runs{f', {how}' if how else ''}"


class Taker:
    """Keeps what one guest tells."""

    def __init__(self, archive: Archive) -> None:
        """Nothing was told yet."""
        self.archive = archive
        self.kept = 0
        self._begun: guest.Record | None = None

    def __call__(self, record: guest.Record) -> None:
        """What the guest says."""
        if record["kind"] == "begin":
            self._begun = record
            return
        self.archive.add(record)
        if record["kind"] == "run":
            self._begun = None
            self.kept += 1

    def end(self, how: str) -> None:
        """The guest froze, or died; so did the run that it had begun."""
        if self._begun is not None:
            self(self._begun | {"kind": "run", "why_ended": how})


def files() -> dict[str, bytes]:
    """What goes into the guest."""
    ours = {f"/memreap/bench/oom/{name}": (PACKAGE / name).read_bytes() for name in IN_GUEST}
    return ours | {"/memreap/bench/__init__.py": b'"""In the guest."""\n'}
