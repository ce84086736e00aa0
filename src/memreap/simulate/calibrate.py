"""``python -m memreap.simulate.calibrate``: what each step costs on the machine it runs on.

Kills and mappings of its own, a minute or less, as root; what comes out is a file of costs.
Only the measuring lives here: what follows from it is ``fit``'s, one kill is ``killing``'s.
"""

import argparse
import contextlib
import mmap
import os
import platform
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

from memreap import size
from memreap.linux import syscalls
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Line, Worker, has_exited
from memreap.simulate.costs import HUGE_BYTES, SMALL_BYTES, Costs, calibrated, dumps
from memreap.simulate.fit import Figures, Mapping, Point, fit
from memreap.simulate.killing import (
    CalibrationError,
    Kind,
    Series,
    memory_group,
    permitted,
    quiet,
)
from memreap.victims.scene import hold

MIB = 1 << 20
THREADS_BYTES = 8 * MIB
EXIT_NOT_HERE = 3
CLOCK_MONOTONIC_COARSE = 6  # linux/time.h: goes on by a jiffy at a time
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
WORKER_S = 30.0  # without a word
PING_PAUSE_S = 0.003  # for its CPU to fall idle
CALLS = 500  # of one system call, for one figure

Say = Callable[[str], object]


class Plan:
    """How much is measured."""

    def __init__(self, quick: bool) -> None:
        """``quick``: enough to see that it works, too little to rely on."""
        small_mib = (32, 256) if quick else (128, 384, 640)
        huge_mib = (256, 512) if quick else (512, 1536)
        threads = (1, 33) if quick else (1, 65, 129)
        self.mapping_bytes = (32 if quick else 256) * MIB
        self.rounds = 2 if quick else 6  # even: as many on each of two CPUs
        self.pings = 20 if quick else 200
        self.has_huge_pages = _has_huge_pages()
        self.alone = [Kind("sleeping", mib * MIB) for mib in small_mib]
        self.reaped = [Kind("sleeping", mib * MIB, reap=True) for mib in small_mib]
        self.huge = [Kind("sleeping", mib * MIB, page_bytes=HUGE_BYTES) for mib in huge_mib]
        self.threads = [Kind("threads", THREADS_BYTES, threads=many) for many in threads]

    @property
    def kinds(self) -> list[Kind]:
        """Of victims that are killed."""
        huge = self.huge if self.has_huge_pages else []
        return [*self.alone, *self.reaped, *huge, *self.threads]


def calibrate(
    *, quick: bool = False, say: Say = lambda _: None, also: Iterable[Kind] = ()
) -> tuple[Costs, Series]:
    """Measure on the running kernel, and kill others ``also`` in between: the costs, all kills.

    Raises CalibrationError where that cannot be. What no measurement here tells (a daemon's pace,
    the kernel's own timers) is as in the file that comes with memreap.
    """
    permitted()
    plan, series = Plan(quick), Series()
    quiet()
    say("single steps and mappings")
    bare = measure(plan)
    series.run([*plan.kinds, *also], plan.rounds, say)
    cpus = os.cpu_count() or 1
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    how = "python -m memreap.simulate.calibrate" + (" --quick" if quick else "")
    costs = fit(
        replace(
            bare,
            alone=_points(series, plan.alone),
            reaped=_points(series, plan.reaped),
            alone_huge=_points(series, plan.huge),
            threads=_points(series, plan.threads),
        ),
        calibrated(),
        machine=f"{cpus} CPUs, {size.show(Procfs().meminfo()['MemTotal'])}",
        kernel=platform.release(),
        source=f"measured {when} by {how}; {_noise(series)}",
    )
    return costs, series


def _noise(series: Series) -> str:
    kills = sum(len(taken) for taken in series.taken.values())
    return f"{series.noisy} of {kills} kills began while the machine was not idle"


def measure(plan: Plan) -> Figures:
    """All but the kills."""
    huge = plan.has_huge_pages
    return Figures(
        cpus=os.cpu_count() or 1,
        jiffy_s=time.clock_getres(CLOCK_MONOTONIC_COARSE),
        wakeup_s=wakeups(plan.pings),
        signal_s=signals(plan.pings),
        step_s=steps(plan.rounds),
        scan_s=scans(plan.rounds),
        small=mappings(plan.mapping_bytes, False, plan.rounds),
        huge=mappings(plan.mapping_bytes, True, plan.rounds) if huge else (),
    )


def _points(series: Series, kinds: Sequence[Kind]) -> tuple[Point, ...]:
    points = []
    for kind in kinds:
        amount = kind.threads if kind.kind == "threads" else kind.size_bytes / kind.page_bytes
        for seconds in series.taken.get(kind, ()):
            if seconds is None:
                raise CalibrationError(f"a victim's memory did not come back: {kind}")
            points.append(Point(amount, seconds))
    return tuple(points)


def _has_huge_pages() -> bool:
    try:
        return "[never]" not in HUGE_PAGES.read_text()
    except OSError:
        return False


# Mappings: a page in its parts.


def mappings(size_bytes: int, is_huge: bool, rounds: int) -> tuple[Mapping, ...]:
    """Unmap and free, in a child of a memory cgroup of its own, as victims are."""
    with memory_group() as group:
        body = partial(_map, group=group, size_bytes=size_bytes, is_huge=is_huge, rounds=rounds)
        return tuple(Mapping(*cast("list[float]", said)) for said in _said(body))


def _map(line: Line, group: Path, size_bytes: int, is_huge: bool, rounds: int) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))
    pages = size_bytes // (HUGE_BYTES if is_huge else SMALL_BYTES)
    for _ in range(rounds):
        memory = hold(size_bytes, is_huge)
        zap_s = _in_a_child(lambda memory=memory: _drop(memory))  # type: ignore[misc]
        all_s = _drop(memory)
        start_s = time.perf_counter()
        memory.close()
        tables_s = time.perf_counter() - start_s
        line.say([zap_s / pages, all_s / pages, tables_s / pages])


def _drop(memory: mmap.mmap) -> float:
    """Unmap all its pages, which frees those that nobody else has."""
    start_s = time.perf_counter()
    memory.madvise(mmap.MADV_DONTNEED)
    return time.perf_counter() - start_s


def _in_a_child(does: Callable[[], float]) -> float:
    """In a fork of this process, while this one keeps every page."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, struct.pack("d", does()))
        finally:
            os._exit(0)
    os.close(write)
    raw = os.read(read, 8)
    os.close(read)
    os.waitpid(pid, 0)
    return float(struct.unpack("d", raw)[0])


def _said(body: Callable[[Line], None]) -> Iterator[object]:
    """All that a child says. Raises CalibrationError where it fails."""
    worker = Worker(body)
    try:
        for message, _ in worker.hear_within(WORKER_S):
            if isinstance(message, dict):
                raise CalibrationError(str(message.get("error", message)))
            yield message
    finally:
        worker.give_up()


# Single steps.


def wakeups(pings: int) -> tuple[float, ...]:
    """From a write to a pipe until its reader, asleep on an idle CPU, has read."""
    read, write = os.pipe()

    def body(line: Line) -> None:
        while os.read(read, 1) == b"!":
            line.say(time.monotonic())

    worker, taken = Worker(body), []
    try:
        for _ in range(pings):
            time.sleep(PING_PAUSE_S)
            start_s = time.monotonic()
            os.write(write, b"!")
            (woken_s,) = (said for said, _ in _one(worker))
            taken.append(cast("float", woken_s) - start_s)
    finally:
        os.write(write, b".")
        worker.part(1.0)
        os.close(read)
        os.close(write)
    return tuple(taken)


def _one(worker: Worker) -> list[tuple[object, list[int]]]:
    for heard in worker.hear_within(WORKER_S):
        return [heard]
    raise CalibrationError("a child that was to answer is gone")


@contextlib.contextmanager
def _sleeper() -> Iterator[tuple[int, int]]:
    """A small child that sleeps: (pid, pidfd)."""
    pid = os.fork()
    if pid == 0:
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            while True:
                signal.pause()
        finally:
            os._exit(1)
    pidfd = os.pidfd_open(pid)
    try:
        yield pid, pidfd
    finally:
        syscalls.pidfd_kill(pidfd)
        os.waitpid(pid, 0)
        os.close(pidfd)


def signals(many: int) -> tuple[float, ...]:
    """What a SIGKILL takes from its sender."""
    taken = []
    for _ in range(many):
        with _sleeper() as (_, pidfd):
            time.sleep(PING_PAUSE_S)
            start_s = time.perf_counter()
            syscalls.pidfd_kill(pidfd)
            taken.append(time.perf_counter() - start_s)
    return tuple(taken)


def steps(rounds: int) -> tuple[float, ...]:
    """What ``process_mrelease`` does to find that no thread has an mm, beyond a bare call."""
    with _sleeper() as (_, pidfd):
        syscalls.pidfd_kill(pidfd)
        has_exited(pidfd, WORKER_S)
        return _beyond(
            lambda: syscalls.process_mrelease(pidfd), lambda: syscalls.process_mrelease(-1), rounds
        )


def scans(rounds: int) -> tuple[float, ...]:
    """What the killer does to judge a process: ``oom_score`` beyond ``oom_score_adj``."""
    files = [os.open(f"/proc/self/{name}", os.O_RDONLY) for name in ("oom_score", "oom_score_adj")]
    try:
        judged, bare = files
        return _beyond(lambda: os.pread(judged, 32, 0), lambda: os.pread(bare, 32, 0), rounds)
    finally:
        for fd in files:
            os.close(fd)


def _beyond(
    call: Callable[[], object], bare: Callable[[], object], rounds: int
) -> tuple[float, ...]:
    """Seconds a call, less those of another one; in turn."""
    return tuple(max(0.0, _each_s(call) - _each_s(bare)) for _ in range(rounds))


def _each_s(call: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start_s) / CALLS


# The command.


def tell(what: str) -> None:
    """How far it is."""
    print(f"  {what}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, and write the file; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m memreap.simulate.calibrate",
        description="Measure what each step costs on this kernel, by kills of its own; as root.",
    )
    parser.add_argument("--output", metavar="FILE", help="where to; without: standard output")
    parser.add_argument("--quick", action="store_true", help="seconds, and less exact")
    options = parser.parse_args(argv)
    try:
        costs, _ = calibrate(quick=options.quick, say=tell)
        if options.output:
            write(costs, options.output)
        else:
            sys.stdout.write(HEAD + dumps(costs))
    except (CalibrationError, OSError) as error:
        print(f"memreap: {error}", file=sys.stderr)
        return EXIT_NOT_HERE
    return 0


def write(costs: Costs, path: str) -> None:
    """Into a file, with where they are from. Raises OSError."""
    Path(path).write_text(HEAD + dumps(costs), encoding="utf-8")


HEAD = """\
# What each step costs: see src/memreap/simulate/costs.py and docs/calibration.md.
# Measured by kills and mappings of its own, medians of several. Of other origin: reaper_delay_s,
# reap_retry_s, free_timeout_s (the kernel's own constants); decide_s, reading_s (memreap guard:
# docs/bench.md has the time from the line crossed to SIGKILL sent).
"""

if __name__ == "__main__":
    sys.exit(main())
