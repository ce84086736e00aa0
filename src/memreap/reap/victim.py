"""Who may be killed: a process whose identity was checked, with all who share its memory."""

import errno
import os
import signal
from dataclasses import dataclass

from memreap.linux.procfs import Memory, Procfs
from memreap.linux.worker import Worker
from memreap.reap.facts import Facts
from memreap.reap.survey import Found, Survey, survey
from memreap.reap.target import Match, Pids, Target

OOM_SCORE_ADJ_MIN = -1000  # include/uapi/linux/oom.h


class Refused(Exception):  # noqa: N818 - a refusal is an answer, not an error
    """A process that is not killed, and why."""

    def __init__(self, pid: int, comm: str, reason: str, *, missing: bool = False) -> None:
        """``missing``: there is no such process."""
        super().__init__(f"pid {pid}: {reason}")
        self.pid, self.comm, self.reason, self.missing = pid, comm, reason, missing


@dataclass(frozen=True, slots=True)
class Rules:
    """Who must not be signalled, whatever was named."""

    spared: frozenset[int] = frozenset()  # memreap, its ancestors, its own hands
    force: bool = False  # oom_score_adj -1000 does not protect
    protected: frozenset[int] = frozenset()  # by a policy

    def refusal(self, found: Found) -> str | None:
        """Why a process must not be signalled; None where it may be."""
        facts = found.facts
        if facts.pid == 1:
            return "init: the machine, or its container, would go with it"
        if facts.kernel_thread:
            return "a kernel thread: it has no memory of its own and takes no signal"
        if facts.pid in (os.getpid(), *self.spared):
            own = facts.pid == os.getpid()
            return "memreap itself" if own else "an ancestor of memreap: it would go too"
        if facts.pid in self.protected:
            return "protected by policy"
        if facts.oom_score_adj == OOM_SCORE_ADJ_MIN and not self.force:
            return "protected by its oom_score_adj of -1000 (--force overrides)"
        return _forbidden(found.pidfd)


@dataclass(frozen=True, slots=True)
class Victim:
    """One mm to be taken back: a process, and every other one that must die for it."""

    facts: Facts
    pidfd: int
    sharers: tuple[Found, ...] = ()
    rules: Rules = Rules()

    @property
    def pid(self) -> int:
        """Of the process that was named."""
        return self.facts.pid

    @property
    def pids(self) -> list[int]:
        """Everyone who must die, the named one first."""
        return [self.pid, *(found.facts.pid for found in self.sharers)]

    @property
    def pidfds(self) -> list[int]:
        """The same, as pidfds."""
        return [self.pidfd, *(found.pidfd for found in self.sharers)]

    @property
    def processes(self) -> list[tuple[int, int]]:
        """The same, as (pid, pidfd)."""
        return list(zip(self.pids, self.pidfds, strict=True))

    @property
    def memory(self) -> Memory:
        """What the mm holds; sharers hold the same, not more."""
        return self.facts.memory

    def close(self) -> None:
        """Let go of every pidfd."""
        for pidfd in self.pidfds:
            os.close(pidfd)


def identify(
    pid: int,
    proc: Procfs | None = None,
    *,
    force: bool = False,
    start_ticks: int | None = None,
    among: list[int] | None = None,
) -> Victim:
    """Take one process as victim. Raises Refused, with the reason, where it must not be one.

    ``start_ticks``: when it must have been started (field 22 of /proc/PID/stat), where the number
    was noted earlier: another process may have it now. ``among``: see ``survey``.
    """
    target = Pids((pid,))
    seen = survey(target, proc, among=among)
    victims, refused = admit(seen, target, force=force)
    if refused:
        raise refused[0]
    if not victims:
        raise Refused(pid, "", "; ".join(seen.errors) or "it could not be looked at")
    (victim,) = victims
    if start_ticks not in (None, victim.facts.start_ticks):
        victim.close()
        raise Refused(pid, victim.facts.comm, f"pid {pid} is another process now")
    return victim


def admit(seen: Survey, target: Target, *, force: bool) -> tuple[list[Victim], list[Refused]]:
    """Tell the victims in a survey from those who must not be killed.

    Processes that share an mm are one victim, named by the first of them.
    """
    victims, refused = [], _absent(seen, target)
    rules = Rules(seen.ancestors | Worker.living, force)
    merged = {found.facts.pid for group in seen.sharers.values() for found in group}
    for found in seen.found:
        facts = found.facts
        if facts.pid in merged:
            continue
        if isinstance(target, Match) and facts.pid in rules.spared:
            os.close(found.pidfd)
            continue
        sharers = tuple({f.facts.pid: f for f in seen.sharers.get(facts.pid, ())}.values())
        reason = rules.refusal(found)
        for sharer in sharers:
            why = rules.refusal(sharer)
            reason = reason or (why and f"shares its memory with pid {sharer.facts.pid}: {why}")
        if reason:
            for one in (found, *sharers):
                os.close(one.pidfd)
            refused.append(Refused(facts.pid, facts.comm, reason))
        else:
            victims.append(Victim(facts, found.pidfd, sharers, rules))
    return victims, refused


def _absent(seen: Survey, target: Target) -> list[Refused]:
    """Refusals for what was named and could not be looked at."""
    absent = [Refused(pid, "", why) for pid, why in seen.unreadable.items()]
    if isinstance(target, Pids):
        gone = [Refused(pid, "", "no such process", missing=True) for pid in seen.gone]
        absent.extend(gone)
    return absent


def _forbidden(pidfd: int) -> str | None:
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except OSError as error:
        if error.errno == errno.EPERM:
            return "not permitted to signal it"
        if error.errno != errno.ESRCH:
            raise
    return None
