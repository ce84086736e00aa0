"""SIGTERM first: some seconds in which a victim may save its work and leave by itself."""

import contextlib
import select
import signal
import time
from dataclasses import dataclass, field

from memreap.reap import release
from memreap.reap.outcome import Outcome
from memreap.reap.victim import Victim


@dataclass(slots=True)
class Asked:
    """What became of those who were asked to go."""

    left: list[Outcome] = field(default_factory=list)
    stayed: list[Victim] = field(default_factory=list)
    interrupted: bool = False


def ask(victims: list[Victim], patience_s: float, interrupt: int) -> Asked:
    """Send SIGTERM to all, and wait for ``patience_s`` or until ``interrupt`` is readable.

    Only the whole exit of a victim and its sharers counts: memory is not back before.
    """
    start_s = time.monotonic()
    for victim in victims:
        for pidfd in victim.pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    asked = Asked()
    alive = {victim.pid: set(victim.pidfds) for victim in victims}
    while any(alive.values()) and not asked.interrupted:
        remaining_s = start_s + patience_s - time.monotonic()
        if remaining_s <= 0:
            break
        gone = _wait({interrupt, *(fd for fds in alive.values() for fd in fds)}, remaining_s)
        asked.interrupted = interrupt in gone
        for victim in victims:
            fds = alive[victim.pid]
            if fds and fds <= gone:
                asked.left.append(_left(victim, time.monotonic() - start_s))
            fds -= gone
    asked.stayed = [victim for victim in victims if alive[victim.pid]]
    return asked


def _wait(fds: set[int], timeout_s: float) -> set[int]:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(timeout_s * 1000 + 1)}


def _left(victim: Victim, seconds: float) -> Outcome:
    return Outcome(
        pid=victim.pid,
        comm=victim.facts.comm,
        outcome="exited",
        reason="left on SIGTERM; the times count from it",
        released_bytes=release.releasable_bytes(victim.memory),
        seconds_to_release=seconds,
        seconds_to_exit=seconds,
        sharers=tuple(found.facts.pid for found in victim.sharers),
    )
