"""One meter for both sides: from SIGKILL sent until the memory is back, and how much came.

The memory cgroup's own counter is believed, where one can be made (root). Else the victim's end
is (its exit; for memreap also what the kernel's reap returned), and the figures say so.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from memreap.linux import cgroups, scheduling
from memreap.linux.procfs import Procfs
from memreap.linux.worker import has_exited
from memreap.reap import hold as hold_
from memreap.reap.execution import Execution
from memreap.reap.outcome import Outcome
from memreap.reap.victim import identify
from memreap.victims import Staged

RELEASED_SHARE = 0.99
TICK_MIN_S, TICK_FIRST_S, TICK_MAX_S = 0.0003, 0.001, 0.01


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one kill gave back."""

    held_bytes: int
    released_bytes: int
    seconds: float | None  # from SIGKILL until 99 % was back; None: not within the time
    seconds_to_exit: float | None
    outcome: Outcome | None = None  # of memreap's own account

    @property
    def share(self) -> float:
        """Of what was held."""
        return max(0.0, min(1.0, self.released_bytes / self.held_bytes))


class Meter:
    """How much of one victim's memory is back."""

    def __init__(self, staged: Staged, group: Path | None) -> None:
        """Look at what is held now; ``group``: the victim's own memory cgroup."""
        self.held_bytes = staged.size_bytes
        # One descriptor, kept: the meter runs above everyone, so a look must cost next to nothing.
        file = cgroups.usage_file(group) if group else None
        self._usage = os.open(file, os.O_RDONLY | os.O_CLOEXEC) if file else None
        self._start_bytes = self._used_bytes()
        self._pidfds = [os.pidfd_open(pid) for pid in (staged.pid, *staged.sharers)]
        self.exited_s: float | None = None

    def released_bytes(self) -> int:
        """How much is back by now."""
        if self._usage is None:
            self.watch_exit()
            return self.held_bytes if self.exited_s is not None else 0
        return self._start_bytes - self._used_bytes()

    def _used_bytes(self) -> int:
        return int(os.pread(self._usage, 32, 0)) if self._usage is not None else 0

    def watch_exit(self) -> None:
        """Note when the victim, and whoever shares its memory, is gone."""
        if self.exited_s is None and all(map(has_exited, self._pidfds)):
            self.exited_s = time.monotonic()

    def _nap_s(self, released_bytes: int, since_s: float) -> float:
        """Until half of the rest will be back: each look takes CPU from those who are measured."""
        rest_s = since_s * (self.held_bytes / max(released_bytes, 1) - 1)
        most_s = min(max(TICK_FIRST_S, since_s / 2), TICK_MAX_S)
        return min(max(rest_s / 2, TICK_MIN_S), most_s)

    def close(self) -> None:
        """Let go of the victim."""
        for fd in [*self._pidfds, *([] if self._usage is None else [self._usage])]:
            os.close(fd)

    def follow(self, act: "Act", limit_s: float, done: Callable[[], bool]) -> Measurement:
        """Kill with ``act``, and look until the memory is back and ``done``, or time is up."""
        with scheduling.watching():
            killed_s = act()
            released_s: float | None = None
            released = 0
            while (now_s := time.monotonic()) < killed_s() + limit_s:
                released = max(released, self.released_bytes())
                if released_s is None and released >= RELEASED_SHARE * self.held_bytes:
                    released_s = time.monotonic()
                if released_s is not None:
                    self.watch_exit()
                    if done():
                        break
                time.sleep(self._nap_s(released, now_s - killed_s()))
        start_s = killed_s()
        return Measurement(
            held_bytes=self.held_bytes,
            released_bytes=released,
            seconds=None if released_s is None else released_s - start_s,
            seconds_to_exit=None if self.exited_s is None else self.exited_s - start_s,
        )


Act = Callable[[], Callable[[], float]]  # kills; gives a clock that tells when SIGKILL was sent


def alone(staged: Staged, group: Path | None, limit_s: float) -> Measurement:
    """SIGKILL, as any other tool sends it, and then wait. Only the named process gets it."""
    with _metered(staged, group) as meter:
        pidfd = os.pidfd_open(staged.pid)

        def act() -> Callable[[], float]:
            now_s = time.monotonic()
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return lambda: now_s

        try:
            return meter.follow(act, limit_s, lambda: True)
        finally:
            os.close(pidfd)


def reaped(
    staged: Staged, group: Path | None, limit_s: float, hold: hold_.Mode = "auto"
) -> Measurement:
    """The same with memreap: identify, boost, hold, kill, reap."""
    victim = identify(staged.pid, Procfs())
    execution = Execution(victim, hold, limit_s)
    try:
        with _metered(staged, group) as meter:

            def act() -> Callable[[], float]:
                start_s = time.monotonic()
                execution.start(start_s)
                return lambda: execution.killed_s or start_s

            def advance() -> bool:
                execution.advance(time.monotonic())
                return execution.outcome is not None

            seen = meter.follow(act, limit_s, advance)
        outcome = execution.give_up("the demo has seen enough")
    finally:
        victim.close()
    if group is None and outcome.outcome in ("exited", "reaped"):
        return Measurement(
            seen.held_bytes,
            min(outcome.released_bytes, seen.held_bytes),
            outcome.seconds_to_release,
            outcome.seconds_to_exit,
            outcome,
        )
    return Measurement(
        seen.held_bytes, seen.released_bytes, seen.seconds, seen.seconds_to_exit, outcome
    )


@contextlib.contextmanager
def _metered(staged: Staged, group: Path | None) -> Iterator[Meter]:
    meter = Meter(staged, group)
    try:
        yield meter
    finally:
        meter.close()
