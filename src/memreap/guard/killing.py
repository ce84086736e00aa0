"""One victim, from the signal to its end: a process, or a group that dies as one.

Only what is common to both lives here; how one process is killed and reaped is reap/'s, and how it
was made sure who they are is the caller's.
"""

import contextlib
import os
import signal
import time
from collections.abc import Sequence

from memreap.decide.events import Candidate, Identity
from memreap.guard.chase import Chase
from memreap.linux import syscalls
from memreap.linux.worker import has_exited
from memreap.reap.execution import Execution
from memreap.reap.outcome import Outcome
from memreap.reap.standby import Standbys
from memreap.reap.victim import Victim

TIMEOUT_S = 10.0
SHARED_BYTES_MAX = 16 << 20  # more, and a domain looked at before the exit would still seem full


class Killing:
    """Kills everyone of a candidate, and knows when their memory is back. Never waits."""

    def __init__(
        self,
        victim: Candidate,
        known: Sequence[Victim],
        pidfds: Sequence[int] = (),
        outcomes: Sequence[Outcome] = (),
        *,
        among: list[int] | None = None,
        standbys: Standbys | None = None,
        chase: Chase | None = None,
    ) -> None:
        """SIGKILL them all; those in ``known`` are reaped as well. All descriptors are ours now.

        ``pidfds``: members that are only to be signalled, parents before their children;
        ``outcomes``: of members that were not to be killed; ``among``: who may share a victim's
        mm, None for anybody; ``standbys``: reapers in waiting; ``chase``: who is born of them
        meanwhile, and dies as well.
        """
        self.victim = victim
        self.outcomes: list[Outcome] = list(outcomes)
        self._pidfds = list(pidfds)
        self._until_s = time.monotonic() + TIMEOUT_S  # for those who are only signalled
        self._executions = [Execution(v, timeout_s=TIMEOUT_S, among=among) for v in known]
        self._lingering = False  # whether one of those hangs, and is not waited for any more
        self._chase = chase
        self.born: list[int] = []  # of those who died, meanwhile; they died as well
        self._standbys = standbys or Standbys(0)
        # Where reapers wait, nothing is forked before the kill: there may be no memory for it.
        self._waits_for_no_fork = standbys is not None
        if len(self._executions) == 1 and not self._pidfds:
            self._execute(self._executions[0])
        else:
            self._execute_together()

    @property
    def doomed(self) -> list[int]:
        """Every pid that dies, sharers of an mm too: their /proc is not to be read any more.

        Without those that are gone: their numbers may be others' by now.
        """
        processes = [one for e in self._executions for one in e.victim.processes]
        gone = {pid for pid, pidfd in processes if has_exited(pidfd)}
        return [pid for pid in self.everyone if pid not in gone]

    @property
    def everyone(self) -> list[int]:
        """Every pid that dies, or has died, of it."""
        return [*(member.pid for member in self.victim.members), *self.sharers, *self.born]

    @property
    def sharers(self) -> list[int]:
        """Who dies because it uses a victim's mm."""
        return [pid for e in self._executions for pid in e.victim.pids[1:]] + self.unheld

    @property
    def unheld(self) -> list[int]:
        """Those of them whom there was no descriptor for."""
        return [pid for e in self._executions for pid in e.unheld]

    def fds(self) -> list[int]:
        """Poll these for reading."""
        return [fd for e in self._executions if e.outcome is None for fd in e.fds()] + self._pidfds

    @property
    def deadline_s(self) -> float | None:
        """When to advance at the latest."""
        due = [e.deadline_s for e in self._executions if e.outcome is None]
        due.append(self._until_s if self._pidfds else None)
        return min((d for d in due if d is not None), default=None)

    @property
    def killed_s(self) -> float | None:
        """When the first SIGKILL of one that is reaped was sent."""
        return min((e.killed_s for e in self._executions if e.killed_s), default=None)

    def has_struck(self, now_s: float) -> bool:
        """Whether SIGKILL was sent, and the kernel had no objection."""
        return any(e.has_struck(now_s) for e in self._executions)

    def advance(self, now_s: float) -> list[Outcome]:
        """Take what has happened; the outcomes that are new."""
        fresh: list[Outcome] = []
        for execution in self._executions:
            if execution.outcome is None:
                execution.advance(now_s)
                if execution.outcome is not None:
                    fresh.append(execution.outcome)
        late = now_s >= self._until_s
        self._lingering |= late and any(not has_exited(fd) for fd in self._pidfds)
        for pidfd in [fd for fd in self._pidfds if late or has_exited(fd)]:
            self._pidfds.remove(pidfd)
            os.close(pidfd)
        self.outcomes += fresh
        return fresh

    @property
    def released(self) -> bool:
        """Everyone's memory is back."""
        return not self._lingering and not self._pidfds and all(map(_is_back, self._executions))

    @property
    def refused(self) -> str:
        """Why nobody was killed; empty if somebody was, or may have been."""
        ends = [e.outcome for e in self._executions]
        if self._pidfds or any(end is None for end in ends):
            return ""
        if any(outcome.outcome != "refused" for outcome in self.outcomes):
            return ""
        return self.outcomes[0].reason if self.outcomes else "it is gone, or not ours to kill"

    @property
    def finished(self) -> bool:
        """Nothing more will happen."""
        return not self._pidfds and all(e.outcome is not None for e in self._executions)

    @property
    def lingering(self) -> list[tuple[int, int]]:
        """Who was killed and has not exited, as (pid, pidfd); without those only signalled."""
        killed = [e for e in self._executions if e.outcome and e.outcome.outcome != "refused"]
        processes = [p for e in killed for p in e.victim.processes]
        return [(pid, pidfd) for pid, pidfd in processes if not has_exited(pidfd)]

    @property
    def released_bytes(self) -> int:
        """What is known to be back by now."""
        return sum(execution.released_bytes for execution in self._executions)

    def close(self) -> None:
        """Let go of everyone, and of what is still waited for."""
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds.clear()
        for execution in self._executions:
            execution.dismiss()
            execution.victim.close()
        self._executions.clear()

    def _execute(self, execution: Execution) -> None:
        """Kill and reap one."""
        try:
            execution.start(time.monotonic(), self._standbys.take())
        except OSError:  # no worker can be had: at least it dies
            execution.kill()

    def _execute_together(self) -> None:
        """Kill everyone at once, so that no parent acts on the death of its child; then reap."""
        try:
            go, shut = os.pipe2(os.O_CLOEXEC)
        except OSError:  # no descriptor left: they die all the same
            self._strike()
            return
        later: list[Execution] = []
        for execution in self._executions:
            standby = self._standbys.take()
            if standby is None and self._waits_for_no_fork:
                later.append(execution)
                continue
            with contextlib.suppress(OSError):  # no worker: it is killed all the same
                execution.prepare(time.monotonic(), go, shut, standby)
        self._strike()
        os.close(shut)
        os.close(go)
        for execution in later:
            if execution.outcome is None:
                with contextlib.suppress(OSError):
                    execution.start(time.monotonic())

    def _strike(self) -> None:
        for pidfd in self._pidfds:
            syscalls.pidfd_kill(pidfd)
        for execution in sorted(self._executions, key=lambda e: e.victim.facts.start_ticks):
            execution.kill()
        for born in self._chase.rounds() if self._chase else ():
            for pid, pidfd in born:
                syscalls.pidfd_kill(pidfd)
                self.born.append(pid)
                self._pidfds.append(pidfd)


def _is_back(execution: Execution) -> bool:
    """Whether one's memory is back, shared mappings too, which only the exit gives back."""
    if execution.outcome is not None:
        return execution.released_s is not None or execution.outcome.outcome != "stuck"
    if execution.victim.memory.rss_shmem_bytes > SHARED_BYTES_MAX:
        return False  # soon it has exited, or counts as one that hangs
    return execution.released_s is not None


class Termination:
    """Asks everyone of a candidate to go, and knows when they have gone."""

    def __init__(self, victim: Candidate, held: dict[Identity, int]) -> None:
        """SIGTERM to everyone in ``held``, by their pidfds, which are ours now."""
        self.victim = victim
        self._held = dict(held)
        for pidfd in held.values():
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                # A stopped one could not act on it, as in timeout(1).
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)

    def fds(self) -> list[int]:
        """Poll these for reading."""
        pidfds = list(self._held.values())
        return [fd for fd in pidfds if not has_exited(fd)] or pidfds

    @property
    def exited(self) -> bool:
        """Everyone has gone."""
        return all(has_exited(pidfd) for pidfd in self._held.values())

    def hand_over(self) -> dict[Identity, int]:
        """The pidfds, for somebody who kills; they are his."""
        held, self._held = self._held, {}
        return held

    def close(self) -> None:
        """Wait no more."""
        for pidfd in self.hand_over().values():
            os.close(pidfd)
