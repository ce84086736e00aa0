"""One victim of a run, from the signal to its end: a process, or a group that dies as one.

Only what is common to both lives here; how one process is killed and reaped is reap/'s.
"""

import contextlib
import os
import signal
import time

from memreap.decide.events import Candidate, Identity
from memreap.linux.procfs import Procfs
from memreap.linux.worker import has_exited
from memreap.reap.execution import Execution
from memreap.reap.outcome import Outcome, refused
from memreap.reap.victim import Refused, Victim, identify

EXECUTED_MAX = 8  # of a group: reaping costs a fork, and pays for the large ones
TIMEOUT_S = 10.0


class Killing:
    """Kills everyone of a candidate, and knows when their memory is back. Never waits."""

    def __init__(
        self,
        victim: Candidate,
        protected: frozenset[Identity],
        tree_pids: list[int],
        procfs: Procfs,
        now_s: float,
    ) -> None:
        """SIGKILL them all; the largest are reaped as well.

        ``tree_pids``: everyone in the tree; nobody else can share a member's mm.
        """
        self._pidfds: list[int] = []
        self.victim = victim
        self.began_s = now_s
        self.outcomes: list[Outcome] = []
        self._procfs = procfs
        self._tree_pids = tree_pids
        self._protected = {identity.pid for identity in protected}
        self._executions: list[Execution] = []
        if len(victim.members) == 1:
            self._execute(victim.identity)
        else:
            self._execute_together()

    @property
    def doomed(self) -> list[int]:
        """Every pid that dies, sharers of an mm too: their /proc is not to be read any more."""
        return [*(member.pid for member in self.victim.members), *self.sharers]

    @property
    def sharers(self) -> list[int]:
        """Who dies because it uses a victim's mm."""
        return [pid for e in self._executions for pid in sharer_pids(e.victim)]

    def fds(self) -> list[int]:
        """Poll these for reading."""
        return [fd for e in self._executions if e.outcome is None for fd in e.fds()] + self._pidfds

    @property
    def deadline_s(self) -> float | None:
        """When to advance at the latest."""
        due = [e.deadline_s for e in self._executions if e.outcome is None]
        return min((d for d in due if d is not None), default=None)

    def advance(self, now_s: float) -> None:
        """Take what has happened."""
        for execution in self._executions:
            if execution.outcome is None:
                execution.advance(now_s)
                if execution.outcome is not None:
                    self.outcomes.append(execution.outcome)
        for pidfd in [fd for fd in self._pidfds if has_exited(fd)]:
            self._pidfds.remove(pidfd)
            os.close(pidfd)

    @property
    def released(self) -> bool:
        """Everyone's memory is back."""
        return not self._pidfds and all(
            e.released_s is not None or (e.outcome is not None and e.outcome.outcome != "stuck")
            for e in self._executions
        )

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

    def _execute(self, identity: Identity) -> None:
        """Kill and reap one."""
        execution = self._prepare(identity)
        if execution is None:
            return
        try:
            execution.start(time.monotonic())
        except OSError:  # no worker can be had: at least it dies
            execution.kill()
        self._executions.append(execution)

    def _execute_together(self) -> None:
        """Kill everyone at once, so that no parent acts on the death of its child; then reap."""
        members = self.victim.members
        go, shut = os.pipe2(os.O_CLOEXEC)
        for identity in members[:EXECUTED_MAX]:
            execution = self._prepare(identity)
            if execution is not None:
                with contextlib.suppress(OSError):  # no worker: it is killed all the same
                    execution.prepare(time.monotonic(), go, shut)
                self._executions.append(execution)
        # Oldest first: parents are older than their children.
        for identity in sorted(members[EXECUTED_MAX:], key=lambda i: (i.start_ticks, i.pid)):
            self._kill(identity)
        for execution in sorted(self._executions, key=lambda e: e.victim.facts.start_ticks):
            execution.kill()
        os.close(shut)
        os.close(go)

    def _prepare(self, identity: Identity) -> Execution | None:
        """Identify one; None, with the outcome noted, where it must not or need not be killed."""
        try:
            victim = identify(
                identity.pid,
                self._procfs,
                start_ticks=identity.start_ticks,
                among=self._tree_pids,
            )
            shared = self._protected.intersection(sharer_pids(victim))
            if shared:
                victim.close()
                reason = f"shares its mm with protected {min(shared)}"
                raise Refused(identity.pid, victim.facts.comm, reason)
        except Refused as refusal:
            gone = Outcome(identity.pid, refusal.comm, "exited", "it had ended already")
            self.outcomes.append(gone if refusal.missing else refused(refusal))
            return None
        except OSError:  # no worker can be had to look at it: at least it dies
            self._kill(identity)
            return None
        return Execution(victim, timeout_s=TIMEOUT_S, among=self._tree_pids)

    def _kill(self, identity: Identity) -> None:
        pidfd = _signal(identity, signal.SIGKILL, self._procfs)
        if pidfd is not None:
            self._pidfds.append(pidfd)


def sharer_pids(victim: Victim) -> list[int]:
    """Who else uses the victim's mm, and dies with it."""
    return [found.facts.pid for found in victim.sharers]


class Termination:
    """Asks everyone of a candidate to go, and knows when they have gone."""

    def __init__(self, victim: Candidate, procfs: Procfs) -> None:
        """SIGTERM to everyone who is still who it was."""
        self.victim = victim
        sent = [_signal(identity, signal.SIGTERM, procfs) for identity in victim.members]
        self._pidfds = [pidfd for pidfd in sent if pidfd is not None]
        for pidfd in self._pidfds:  # a stopped one could not act on it, as in timeout(1)
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGCONT)

    def fds(self) -> list[int]:
        """Poll these for reading."""
        return self._pidfds

    @property
    def exited(self) -> bool:
        """Everyone has gone."""
        return all(has_exited(pidfd) for pidfd in self._pidfds)

    def close(self) -> None:
        """Wait no more."""
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds.clear()


def _signal(identity: Identity, number: signal.Signals, procfs: Procfs) -> int | None:
    """Signal a process whose identity was checked behind an open pidfd; the pidfd."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(identity.pid)
        try:
            if procfs.stat(identity.pid).start_ticks == identity.start_ticks:
                signal.pidfd_send_signal(pidfd, number)
                return pidfd
        except OSError:
            pass
        os.close(pidfd)
    return None
