"""Real victims for a calibration: staged, killed, and their release timed. This acts.

What is measured is memory that comes back, by the counter of a memory cgroup of the victim's own,
so it takes root. Only that lives here: how to get one measurement, on a machine that is quiet.
"""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from memreap.demo import measure
from memreap.demo.janitor import janitor
from memreap.linux import cgroups, scheduling, syscalls
from memreap.linux.procfs import Procfs
from memreap.reap.execution import Execution
from memreap.reap.victim import identify
from memreap.simulate.costs import SMALL_BYTES
from memreap.victims import Staged, stage

LIMIT_S = 20.0
SETTLE_S = 0.05  # for neighbours to have spread over the CPUs
QUIET_SHARE = 0.9  # of all CPUs idle
QUIET_LOOK_S = 0.05
QUIET_WAIT_S = 5.0
IDLE_FIELDS = (3, 4, 7)  # of /proc/stat's line: idle, iowait, steal


class CalibrationError(RuntimeError):
    """It cannot be measured here: one line that says why."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A victim, who is beside it, and who kills it."""

    kind: str  # of ``memreap.victims``
    size_bytes: int
    reap: bool = False  # by memreap: boosted and reaped; or SIGKILL alone
    page_bytes: int = SMALL_BYTES
    threads: int = 1
    busy: int = 0

    @property
    def is_huge(self) -> bool:
        """Whether its pages are."""
        return self.page_bytes > SMALL_BYTES


@contextlib.contextmanager
def memory_group() -> Iterator[Path]:
    """A memory cgroup of our own, gone at the end, even if we are killed. Raises OSError."""
    name = f"memreap-calibrate-{os.getpid()}"
    with cgroups.temporary("memory", name, Procfs()) as group, janitor([group]):
        yield group


def permitted() -> None:
    """Raises CalibrationError where no memory cgroup or real-time priority is to be had."""
    try:
        with memory_group():
            pass
    except OSError as error:
        raise CalibrationError(
            f"no memory cgroup of its own to measure by: {error.strerror}: run it as root"
        ) from error
    if not scheduling.realtime_permitted():
        raise CalibrationError("SCHED_FIFO is not permitted here: run it as root")


@contextlib.contextmanager
def staged(kind: Kind, group: Path, cpu: int) -> Iterator[Staged]:
    """The victim. One that is alone gets its memory on this CPU, and is woken there."""
    everywhere = os.sched_getaffinity(0)
    if not kind.busy:
        os.sched_setaffinity(0, {sorted(everywhere)[cpu % len(everywhere)]})
    try:
        with stage(
            kind.kind,
            kind.size_bytes,
            huge=kind.is_huge,
            threads=kind.threads,
            cgroups=[group],
            neighbours=kind.busy,
        ) as victim:
            os.sched_setaffinity(0, everywhere)
            for pid in (victim.pid, *victim.sharers):
                for tid in Procfs().threads(pid):
                    os.sched_setaffinity(tid, everywhere)
            _prefer(victim.session)
            time.sleep(SETTLE_S)
            yield victim
    finally:
        os.sched_setaffinity(0, everywhere)


def _prefer(session: int) -> None:
    """Let a session have nearly all of every CPU, whatever else runs here. sched(7), autogroup"""
    with contextlib.suppress(OSError):  # a kernel without
        Path(f"/proc/{session}/autogroup").write_text(str(scheduling.NICE_BEST))


def release(kind: Kind, cpu: int = 0) -> float | None:
    """Seconds from SIGKILL until 99 % of the memory of one such victim was back; None: never.

    Where it can, the kernel rings when it is: whoever looks again and again takes the CPU from a
    victim that has little of it, which then waits for its next turn.
    """
    with memory_group() as group, staged(kind, group, cpu) as victim:
        used_bytes = int(cgroups.usage_file(group).read_text())
        try:
            at_bytes = used_bytes - int(measure.RELEASED_SHARE * kind.size_bytes)
            bell = cgroups.Threshold(group, at_bytes)
        except OSError:  # v2 has no such bell
            side = measure.reaped if kind.reap else measure.alone
            return side(victim, group, LIMIT_S).seconds
        try:
            return _reaped(victim.pid, bell) if kind.reap else _alone(victim.pid, bell)
        finally:
            bell.close()


def _alone(pid: int, bell: cgroups.Threshold) -> float | None:
    """SIGKILL, and wait."""
    poll = select.poll()
    poll.register(bell.fileno(), select.POLLIN)
    pidfd = os.pidfd_open(pid)
    try:
        with scheduling.watching():
            start_s = time.monotonic()
            syscalls.pidfd_kill(pidfd)
            return time.monotonic() - start_s if poll.poll(LIMIT_S * 1000) else None
    finally:
        os.close(pidfd)


def _reaped(pid: int, bell: cgroups.Threshold) -> float | None:
    """As ``memreap kill`` does it."""
    execution = Execution(identify(pid), "auto", LIMIT_S)
    released_s = None
    try:
        with scheduling.watching():
            execution.start(time.monotonic())
            while execution.outcome is None:
                poll = select.poll()
                for fd in execution.fds():
                    poll.register(fd, select.POLLIN)
                if released_s is None:
                    poll.register(bell.fileno(), select.POLLIN)
                wait_s = (execution.deadline_s or 0.0) - time.monotonic()
                ready = [fd for fd, _ in poll.poll(max(0.0, wait_s) * 1000 + 1)]
                if bell.fileno() in ready:
                    released_s = time.monotonic()
                execution.advance(time.monotonic())
    finally:
        execution.victim.close()
    if released_s is None or execution.killed_s is None:
        return None
    return released_s - execution.killed_s


@dataclass(slots=True)
class Series:
    """Kills of several kinds, each once a round, so that what changes on the machine meanwhile
    meets all of them alike. The CPUs take turns too: on a virtual machine one may be slower.
    """

    taken: dict[Kind, list[float | None]] = field(default_factory=dict)
    noisy: int = 0  # kills that began on a machine that was not idle

    def run(self, kinds: Iterable[Kind], rounds: int, say: Callable[[str], object]) -> None:
        """So many of each."""
        each = list(dict.fromkeys(kinds))
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}: {len(each)} kills")
            Random(number).shuffle(each)  # noqa: S311 (who died before may matter)
            for kind in each:
                self.noisy += not quiet(0.0 if self.noisy else QUIET_WAIT_S)
                self.taken.setdefault(kind, []).append(release(kind, number))


def quiet(wait_s: float = QUIET_WAIT_S) -> bool:
    """Wait until the CPUs are idle, for so long at the most; whether they were."""
    deadline_s = time.monotonic() + wait_s
    while True:
        before = _cpu_ticks()
        time.sleep(QUIET_LOOK_S)
        idle, total = (now - was for now, was in zip(_cpu_ticks(), before, strict=True))
        if idle >= QUIET_SHARE * total:
            return True
        if time.monotonic() > deadline_s:
            return False


def _cpu_ticks() -> tuple[int, int]:
    """(Idle, all) of all CPUs since boot. proc_stat(5)"""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks[field] for field in IDLE_FIELDS), sum(ticks)
