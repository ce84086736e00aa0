"""One victim from SIGKILL to release, driven by its owner's event loop.

    start -> (reaper speaks | victim exits | time passes: advance) -> outcome

Nothing here blocks: the reaper is a worker that may be given up, exit is told by pidfds.
"""

import errno
import math
import os
import time
from dataclasses import replace

from memreap import size
from memreap.linux import syscalls
from memreap.linux.procfs import PAGE_SIZE_BYTES, Procfs
from memreap.linux.worker import Worker, has_exited
from memreap.reap import hold as hold_
from memreap.reap import release
from memreap.reap.facts import Facts
from memreap.reap.outcome import Kind, Outcome
from memreap.reap.reaper import Clapper, Order, Reaper
from memreap.reap.release import Evidence
from memreap.reap.standby import Standby
from memreap.reap.survey import Found
from memreap.reap.victim import Victim

PREPARE_S = 1.0  # how long a reaper may take until its kill; then the owner kills
# One that waited leaves out what only helps once it is late, and kills; so it does not come only
# where nothing has memory or a CPU any more. To kill without it may lose the memory for good: a
# victim that waits in exit_aio cannot be reaped by whoever begins then.
STANDBY_PREPARE_S = 0.5
DISMISS_S = 0.2
REFUSAL_S = 0.05
EXIT_GRACE_S = 0.5  # how long a released victim may take to exit before it counts as hanging
UNWITNESSED_S = 0.1  # how long a reap without a witness waits for the exit to speak for it
TIMEOUT_S = 10.0

_WHY = {
    errno.ESRCH: "its exit had the memory before the reap",
    errno.EINVAL: "another live process shares its memory",
    errno.EAGAIN: "part of it could not be reaped yet",
    errno.EINTR: "the reap was interrupted",
    errno.ENOSYS: "this kernel has no process_mrelease (before 5.15)",
}


class Execution:
    """One victim being killed. Make, ``start``, and ``advance`` until ``outcome`` is set."""

    def __init__(
        self,
        victim: Victim,
        hold: hold_.Mode = "auto",
        timeout_s: float = TIMEOUT_S,
        among: list[int] | None = None,
    ) -> None:
        """Nothing is done yet. ``timeout_s``: from SIGKILL until it counts as stuck.

        ``among``: who may share the victim's memory, where that is known.
        """
        self.victim = victim
        self.outcome: Outcome | None = None
        self.released_s: float | None = None
        self.ready = False
        self.evidence: Evidence | None = None
        self._hold, self._timeout_s, self._among = hold, timeout_s, among
        self._clapper = Clapper()
        self._worker: Worker | None = None
        self._alive = list(victim.pidfds)
        self._started_s = time.monotonic()
        self._exited_s: float | None = None
        self._reap_code: int | None = None  # of the last process_mrelease
        self._keeper: str | None = None  # who lives on with the memory
        self.unheld: list[int] = []  # sharers that the reaper kills, and there is no descriptor for
        self._struck = False  # the reaper has killed
        self._notes: list[str] = []
        self._prepare_s = PREPARE_S
        self._several = False

    def start(self, now_s: float, standby: Standby | None = None) -> None:
        """Boost, kill and reap in a worker; returns at once. Raises OSError: no worker.

        ``standby``: the worker, where one waits already.
        """
        self._employ(now_s, None, standby, several=False)

    def prepare(self, now_s: float, go: int, shut: int, standby: Standby | None = None) -> None:
        """As ``start``, but reap only when the pipe ``shut`` -> ``go`` ends: the owner kills."""
        self._employ(now_s, (go, shut), standby, several=True)

    def _employ(
        self, now_s: float, go: tuple[int, int] | None, standby: Standby | None, *, several: bool
    ) -> None:
        self._several = several
        self._prepare_s = PREPARE_S if standby is None else STANDBY_PREPARE_S
        self._started_s = now_s
        if standby is not None:
            self._clapper = standby.clapper
        order = Order(
            self.victim,
            self._hold,
            several,
            self._clapper,
            self._timeout_s,
            go,
            self._among,
            now_s if standby is not None else math.inf,  # where nobody waits, nothing is urgent
        )
        self._worker = standby.employ(order) if standby else None
        if self._worker is None:
            self._worker = Worker(Reaper(order).run)

    def kill(self) -> None:
        """SIGKILL everyone of this victim from here, for a reaper that waits or none at all."""
        if self.outcome is not None:
            return
        self._clapper.clap()
        self._kills([syscalls.pidfd_kill(pidfd) for pidfd in reversed(self.victim.pidfds)])

    def fds(self) -> list[int]:
        """What to poll for reading."""
        reaper = [self._worker.fileno()] if self._worker and not self._worker.ended else []
        return [*self._alive, *reaper]

    @property
    def reaper_alive(self) -> bool:
        """Whether a reaper is at work, or waits to be."""
        return self._worker is not None and not self._worker.ended

    @property
    def deadline_s(self) -> float | None:
        """When to call ``advance`` at the latest (CLOCK_MONOTONIC, s)."""
        if self.outcome is not None:
            return None
        due = [self._end_s]
        if self._exited_s is not None:
            due.append(self._exited_s + EXIT_GRACE_S)
        if self.released_s is not None:
            due.append(self.released_s + EXIT_GRACE_S)
        elif self.evidence is not None and self.evidence.reaped:
            due.append(self.evidence.released_s + UNWITNESSED_S)
        return min(due)

    @property
    def killed_s(self) -> float | None:
        """When SIGKILL was sent."""
        return self._clapper.killed_s

    def has_struck(self, now_s: float) -> bool:
        """Whether SIGKILL was sent, and permitted: a refusal comes at once."""
        killed_s = self.killed_s
        if killed_s is None or self._clapper.called_off:
            return False
        return self._struck or now_s - killed_s > REFUSAL_S

    @property
    def _end_s(self) -> float:
        if self.killed_s is None:
            return self._started_s + self._prepare_s
        return self.killed_s + self._timeout_s

    def advance(self, now_s: float) -> None:
        """Take in what happened until now. Never blocks."""
        if self.outcome is not None:
            self.dismiss()
            return
        self._listen()
        if self.outcome is None and self.killed_s is None:
            self._insist(now_s)
        if self.outcome is None:
            self._watch_exits(now_s)
            self._trust_reap(now_s)
            self._conclude(now_s)
        if self.outcome is not None:
            self.dismiss()

    def _insist(self, now_s: float) -> None:
        """Kill from here where the reaper died, or hangs, before it did."""
        if self._worker is not None and (self._worker.ended or now_s >= self._end_s):
            self._notes.append("the reaper did not kill in time: killed without one")
            self.kill()

    def dismiss(self) -> None:
        """Part with the reaper; one that has a boost to undo is given the time to."""
        if self._worker is not None and not self._worker.closed:
            if self._clapper.called_off and self._several:  # alone, it has undone it already
                list(self._worker.hear_within(DISMISS_S))
            self._worker.give_up()

    def _listen(self) -> None:
        if self._worker is None:
            return
        for message, fds in self._worker.hear():
            match message:
                case {"ready": True}:
                    self.ready = True
                case {"refused": str(reason)}:
                    self.outcome = self._end("refused", reason)
                case {"sharer": dict(raw)}:
                    self._join(Facts.from_message(raw), fds)
                case {"kills": list(kills), "held": str(held)}:
                    self._notes += [held] if held != "not held" else []
                    self._kills(kills)
                case {"error": str(error)}:
                    self._notes.append(f"the reaper failed: {error}")
                case dict():
                    self._learn(message)

    def _learn(self, message: dict[str, object]) -> None:
        """Take what the reap brought: first the kernel's answer, then what was seen of it."""
        match message:
            case {"mrelease": int(code), "shared": bool(shared)}:
                self._reap_code = code
                if self.unheld and code != 0:  # its exit alone cannot be seen
                    self._keeper = self._keeper or _unheld(self.unheld[0])
                if shared and self._keeper is None:
                    self._keeper = "a live process that was not found shares its memory"
            case {"evidence": dict(fields)}:
                self.evidence = Evidence(**fields)
                if self._witnessed(self.evidence):
                    self.released_s = self.released_s or self.evidence.released_s

    def _kills(self, errnos: list[int]) -> None:
        """Take the result of each SIGKILL; one that was not permitted ends it here."""
        self._struck = True
        if errno.EPERM in errnos:
            self._clapper.call_off()
            self.outcome = self._end("refused", "not permitted to signal it")

    def _join(self, facts: Facts, fds: list[int]) -> None:
        """Kill who came to share the mm since the survey: else the kernel refuses the reap."""
        if not fds and not self._struck:  # no descriptor left to hold it by; the reaper has one
            self.unheld.append(facts.pid)
            return
        if not fds:
            self._keeper = _unheld(facts.pid)
            return
        sharer = Found(facts, fds[0])
        reason = self.victim.rules.refusal(sharer)
        if reason:
            self._keeper = f"pid {facts.pid} shares its memory, and is spared: {reason}"
            os.close(sharer.pidfd)
            return
        if self.killed_s is not None:
            syscalls.pidfd_kill(sharer.pidfd)
        self.victim = replace(self.victim, sharers=(*self.victim.sharers, sharer))
        self._alive.append(sharer.pidfd)

    def _witnessed(self, evidence: Evidence) -> bool:
        """Whether more than the reap's own word says that the memory is back."""
        memory = self.victim.memory
        return evidence.reaped and release.witnessed(memory, evidence.usage_fell_bytes)

    def _trust_reap(self, now_s: float) -> None:
        """A victim that does not exit though it is reaped hangs: nothing lies in its hands."""
        evidence = self.evidence
        if self.released_s is not None or evidence is None or not evidence.reaped:
            return
        if now_s >= evidence.released_s + UNWITNESSED_S:
            self.released_s = evidence.released_s

    def _watch_exits(self, now_s: float) -> None:
        self._alive = [pidfd for pidfd in self._alive if not has_exited(pidfd)]
        if self._alive:
            return
        self._exited_s = self._exited_s or now_s
        # What the reaper has yet to say may be that somebody else still has the memory.
        speaking = self.reaper_alive and self._reap_code is None
        if self.unheld and self._reap_code is None and not speaking:
            self._keeper = self._keeper or _unheld(self.unheld[0])
        if self._keeper is None and not (speaking and now_s < self._exited_s + EXIT_GRACE_S):
            self.released_s = min(self.released_s or self._exited_s, self._exited_s)

    def _conclude(self, now_s: float) -> None:
        deadline_s = self.deadline_s
        assert deadline_s is not None, "there is no outcome yet"
        if self._exited_s is not None:
            # The last words of a reaper that is all but done belong to the record.
            if not (self.reaper_alive and self.evidence is None) or now_s >= deadline_s:
                self.outcome = self._end(*self._kind())
        elif now_s >= deadline_s and self.killed_s is not None:
            self.outcome = self._end(*self._kind())

    def give_up(self, reason: str) -> Outcome:
        """End here, with what is known: released or not, it is not waited for any longer."""
        self.advance(time.monotonic())
        if self.outcome is None:
            self._notes.append(reason)
            self.outcome = self._end(*self._kind())
            self.dismiss()
        return self.outcome

    def _kind(self) -> tuple[Kind, str]:
        if self._exited_s is not None and self.released_s is not None:
            return "exited", self._how()
        if self.released_s is not None:
            return "reaped", self._how()
        return "stuck", self._how()

    def _how(self) -> str:
        told = list(self._notes)
        evidence = self.evidence
        if self._keeper is not None:
            told.insert(0, self._keeper)
        elif evidence is None:
            told.insert(0, self._how_without_reap())
        elif evidence.reaped:
            told.insert(0, "process_mrelease took all it can take")
        elif evidence.mrelease == errno.ESRCH and self._exited_s is None:
            told.insert(0, "the reap came too late: its exit has the memory, and hangs with it")
        else:
            told.insert(0, _WHY.get(evidence.mrelease, os.strerror(evidence.mrelease)))
        if evidence is not None and (evidence.usage_fell_bytes or 0) > 0:
            told.append(f"its cgroup fell by {size.show(evidence.usage_fell_bytes or 0)}")
        return "; ".join(told)

    def _how_without_reap(self) -> str:
        if self._exited_s is not None:
            return "by exit"
        if self.killed_s is None:
            return "not killed yet"
        if self.reaper_alive:
            return "the reap waits for the victim's mmap_lock"
        return "no reap"

    @property
    def released_bytes(self) -> int:
        """What is known to be back by now."""
        facts, evidence = self.victim.facts, self.evidence
        if self.released_s is None:
            return 0
        if self._exited_s is not None:
            return release.releasable_bytes(facts.memory)
        if evidence is not None and evidence.reaped:
            return release.reaped_bytes(facts, evidence, _total_bytes())
        return 0

    def _end(self, kind: Kind, reason: str) -> Outcome:
        killed_s = self.killed_s
        return Outcome(
            pid=self.victim.pid,
            comm=self.victim.facts.comm,
            outcome=kind,
            reason=reason,
            released_bytes=self.released_bytes if kind != "refused" else 0,
            seconds_to_release=_since(killed_s, self.released_s),
            seconds_to_exit=_since(killed_s, self._exited_s),
            attempts=self.evidence.attempts if self.evidence else 0,
            sharers=(*(found.facts.pid for found in self.victim.sharers), *self.unheld),
        )


def _total_bytes() -> int:
    """RAM and swap. Asked after the kill: before it, nothing is opened that need not be."""
    try:
        meminfo = Procfs().meminfo()
    except OSError:  # no descriptor left: RAM alone is known without
        return os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE_BYTES
    return meminfo["MemTotal"] + meminfo["SwapTotal"]


def _since(start_s: float | None, end_s: float | None) -> float | None:
    return None if start_s is None or end_s is None else max(0.0, end_s - start_s)


def _unheld(pid: int) -> str:
    return f"pid {pid} shares its memory: {os.strerror(errno.EMFILE)}"
