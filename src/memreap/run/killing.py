"""Who dies in a run: members of the tree, each made sure of right before the signal.

Only the making sure lives here, by reading /proc in a worker; what follows is guard/killing's.
"""

import contextlib
import os

from memreap.decide.events import Candidate, Identity
from memreap.guard.killing import Killing, Termination
from memreap.linux.procfs import Procfs
from memreap.reap.outcome import Outcome, refused
from memreap.reap.victim import Refused, Victim, identify

EXECUTED_MAX = 8  # of a group: reaping costs a fork, and pays for the large ones


class Doomed:
    """Everyone of a candidate who is still there, and may be killed."""

    def __init__(
        self,
        victim: Candidate,
        protected: frozenset[Identity],
        tree_pids: list[int],
        procfs: Procfs,
    ) -> None:
        """Look at the largest; hold the others by their pidfds.

        ``tree_pids``: everyone in the tree; nobody else can share a member's mm.
        """
        self._procfs = procfs
        self._tree_pids = tree_pids
        self._protected = {identity.pid for identity in protected}
        self._known: list[Victim] = []
        self._pidfds: list[int] = []
        self._outcomes: list[Outcome] = []
        for identity in victim.members[:EXECUTED_MAX]:
            self._identify(identity)
        # Oldest first: parents are older than their children.
        for identity in sorted(victim.members[EXECUTED_MAX:], key=lambda i: (i.start_ticks, i.pid)):
            self._hold(identity)
        self._victim = victim

    def kill(self) -> Killing:
        """SIGKILL them all, and reap."""
        return Killing(
            self._victim, self._known, self._pidfds, self._outcomes, among=self._tree_pids
        )

    def _identify(self, identity: Identity) -> None:
        try:
            victim = identify(
                identity.pid,
                self._procfs,
                start_ticks=identity.start_ticks,
                among=self._tree_pids,
            )
            shared = self._protected.intersection(victim.pids[1:])
            if shared:
                victim.close()
                reason = f"shares its mm with protected {min(shared)}"
                raise Refused(identity.pid, victim.facts.comm, reason)
        except Refused as refusal:
            gone = Outcome(identity.pid, refusal.comm, "exited", "it had ended already")
            self._outcomes.append(gone if refusal.missing else refused(refusal))
        except OSError:  # no worker can be had to look at it: at least it dies
            self._hold(identity)
        else:
            self._known.append(victim)

    def _hold(self, identity: Identity) -> None:
        pidfd = _pidfd(identity, self._procfs)
        if pidfd is not None:
            self._pidfds.append(pidfd)


def ask_to_go(victim: Candidate, procfs: Procfs) -> Termination:
    """SIGTERM everyone who is still who it was."""
    held = {identity: _pidfd(identity, procfs) for identity in victim.members}
    return Termination(victim, {i: fd for i, fd in held.items() if fd is not None})


def _pidfd(identity: Identity, procfs: Procfs) -> int | None:
    """Hold a process whose identity was checked behind the open pidfd."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(identity.pid)
        try:
            if procfs.stat(identity.pid).start_ticks == identity.start_ticks:
                return pidfd
        except OSError:
            pass
        os.close(pidfd)
    return None
