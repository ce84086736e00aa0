"""SIGTERM first: some seconds in which a victim may save its work and leave by itself."""

import select
import signal
import time

from memreap.reap import release
from memreap.reap.outcome import Outcome
from memreap.reap.victim import Victim


def ask(victims: list[Victim], patience_s: float) -> tuple[list[Outcome], list[Victim]]:
    """Send SIGTERM to all, and wait: (who left, whom SIGKILL must end). Takes ``patience_s``.

    Only the whole exit of a victim and its sharers counts: memory is not back before.
    """
    start_s = time.monotonic()
    waiting = {victim.pid: (victim, set(victim.pidfds)) for victim in victims}
    for victim in victims:
        for pidfd in victim.pidfds:
            _send(pidfd)
    left: list[Outcome] = []
    while waiting and (remaining_s := start_s + patience_s - time.monotonic()) > 0:
        fds = [fd for _, alive in waiting.values() for fd in alive]
        poll = select.poll()
        for fd in fds:
            poll.register(fd, select.POLLIN)
        gone = {fd for fd, _ in poll.poll(remaining_s * 1000)}
        for victim, alive in list(waiting.values()):
            alive.difference_update(gone)
            if not alive:
                del waiting[victim.pid]
                left.append(_left(victim, time.monotonic() - start_s))
    return left, [victim for victim, _ in waiting.values()]


def _send(pidfd: int) -> None:
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
    except ProcessLookupError:
        return


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
