"""What the core has under way: victims that were asked to go, and victims that were killed.

Only doing and following lives here; that it is to be done was decided before. Whom it signals is
held by pidfds that came with the look.
"""

import errno
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from memreap.decide.events import (
    Candidate,
    Event,
    Identity,
    VictimExited,
    VictimRefused,
    VictimReleased,
    VictimStuck,
)
from memreap.guard.chase import Chase
from memreap.guard.killing import Killing, Termination
from memreap.guard.look import Seen, facts_without_a_look
from memreap.guard.post import Post
from memreap.linux.kin import LastPid
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Worker, has_exited
from memreap.reap.outcome import Outcome
from memreap.reap.standby import Standbys
from memreap.reap.victim import Rules, Victim

NEWBORN_MAX = 500  # since the look; among more than these, everybody is asked
REAPED_MAX = 8  # of a group: the largest; the others are killed
SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(slots=True)
class Deed:
    """A victim that was killed for a domain."""

    post: Post
    killing: Killing
    incident: int | None
    sharers: list[int] = field(default_factory=list)  # and newborn, whom the scout was told of
    is_struck: bool = False  # whether it was seen that SIGKILL was sent
    is_told: bool = False  # whether the domain knows how it ended

    def is_struck_after(self, fate: Event | None, outcomes: list[Outcome]) -> bool:
        """Whether what became of it tells that SIGKILL was sent, which was not known yet."""
        killed = any(one.outcome != "refused" for one in outcomes)
        if self.is_struck or not (killed or isinstance(fate, (VictimReleased, VictimStuck))):
            return False
        self.is_struck = self.killing.killed_s is not None
        return self.is_struck


class Hands:
    """Kills, asks to go, and follows both to their end."""

    def __init__(self, standbys: Standbys, ancestors: frozenset[int]) -> None:
        """``ancestors``: of the guard, itself among them."""
        self._standbys, self._ancestors = standbys, ancestors
        self._last_pid = LastPid(Procfs())
        self.deeds: list[Deed] = []
        self.asked: dict[str, Termination] = {}
        self.kills = 0
        self._joined: list[list[int]] = []  # who share a victim's memory, and nobody was told yet
        self._kept: list[Killing] = []  # done with, for want of descriptors still whole
        self._ghosts: dict[int, int] = {}  # pid -> pidfd: done with, and hanging in their exit
        self._unheld: set[int] = set()  # sharers who die, and there was no descriptor for

    def fds(self) -> list[int]:
        """Poll these for reading."""
        fds = [fd for deed in self.deeds for fd in deed.killing.fds()]
        return fds + [fd for asked in self.asked.values() for fd in asked.fds()]

    @property
    def deadline_s(self) -> float | None:
        """When to advance at the latest."""
        due = [d.killing.deadline_s for d in self.deeds]
        return min((d for d in due if d is not None), default=None)

    def ask(self, post: Post, victim: Candidate) -> Event | None:
        """SIGTERM; what is to be told at once where nobody is left."""
        self.part(post.name)
        held, gone = _taken(post.hot.pidfds, victim)
        if not held:
            return _nobody(post, victim, gone)
        self.asked[post.name] = Termination(victim, dict(held))
        return None

    def kill(self, post: Post, victim: Candidate, protected: frozenset[Identity]) -> Event | None:
        """SIGKILL and reap; what is to be told at once where nobody is left."""
        asked = [name for name, one in self.asked.items() if _same(one.victim, victim)]
        for name in asked:  # by this domain, or by one that it shares the victim with
            post.hot.give_back(self.asked.pop(name).hand_over())
        held, gone = _taken(post.hot.pidfds, victim)
        # By identity: a look may be old, and its numbers others' by now.
        barred = [member for member, _ in held if member in protected]
        if barred:  # since it was chosen, or asked to go
            for _, fd in held:
                os.close(fd)
            return VictimRefused(post.name, victim.identity, "protected meanwhile")
        if not held:
            return _nobody(post, victim, gone)
        spared = frozenset(m.pid for m in protected) - {m.pid for m, _ in held}
        rules = Rules(self._ancestors | Worker.living, protected=spared)
        seen = post.hot.seen(victim.identity)
        known = []
        for member, fd in held[:REAPED_MAX]:
            facts = seen.facts_of(member) if seen else None
            facts = facts or facts_without_a_look(victim, member)
            known.append(Victim(facts, fd, (), rules))
        rest = sorted(held[REAPED_MAX:], key=lambda h: (h[0].start_ticks, h[0].pid))
        killing = Killing(
            victim,
            known,
            [fd for _, fd in rest],
            among=self._who_may_share(post),
            standbys=self._standbys,
            chase=self._chase(post, victim, seen, spared),
        )
        self.deeds.append(Deed(post, killing, post.incident))
        self.kills += 1
        return None

    def _who_may_share(self, post: Post) -> list[int] | None:
        """Who may share the victim's mm; None for anybody.

        Whoever does is as large as the victim, so it stands in the look beside it; unless it lives
        elsewhere, where the scout has looked for it, or was born since. To ask everybody takes
        milliseconds a thousand processes.
        """
        look = post.hot.look
        if look is None:
            return None
        newest = self._last_pid.read()
        if not 0 <= newest - look.newest_pid <= NEWBORN_MAX:
            return None
        listed = [member.pid for seen in look.seen for member in seen.candidate.members]
        elsewhere = [pid for seen in look.seen for pid in seen.sharers]
        return [*listed, *elsewhere, *range(look.newest_pid + 1, newest + 1)]

    def _chase(
        self, post: Post, victim: Candidate, seen: Seen | None, protected: frozenset[int]
    ) -> Chase | None:
        """Who dies as well if born of a crowd meanwhile; None where the victim is no crowd."""
        look = post.hot.look
        if seen is None or look is None or not seen.nest:
            return None
        spared = {*self._ancestors, *Worker.living, *protected, *self.doomed}
        spared.update(member.pid for member in victim.members)
        return Chase(seen.nest, victim.name, seen.uid, look.newest_pid, spared)

    def part(self, domain: str) -> None:
        """Wait no longer for somebody who was asked to go."""
        if domain in self.asked:
            self.asked.pop(domain).close()

    def struck(self, now_s: float) -> Iterator[Deed]:
        """Each deed once, when its SIGKILL is known to be sent, and was permitted."""
        for deed in self.deeds:
            if not deed.is_struck and deed.killing.has_struck(now_s):
                deed.is_struck = True
                yield deed

    def joined(self) -> Iterator[list[int]]:
        """Who was found to share a victim's memory, or to be born of it, and dies: each once."""
        while self._joined:
            yield self._joined.pop(0)

    def _note_joined(self, deed: Deed) -> None:
        """Before it is forgotten: a core that comes late may find its beginning and its end."""
        others = (*deed.killing.sharers, *deed.killing.born)
        fresh = [pid for pid in others if pid not in deed.sharers]
        deed.sharers += fresh
        if fresh and (left := [pid for pid in fresh if pid in deed.killing.doomed]):
            self._joined.append(left)

    def advance(self, now_s: float) -> Iterator[tuple[Deed, Event | None, list[Outcome]]]:
        """What has happened: to the domain, and to single processes."""
        for deed in list(self.deeds):
            fresh = deed.killing.advance(now_s)
            self._note_joined(deed)
            event = self._fate(deed, now_s)
            if event is not None or fresh:
                yield deed, event, fresh
            if deed.killing.finished:
                if self._remember(deed.killing):
                    deed.killing.close()
                else:
                    self._kept.append(deed.killing)
                self.deeds.remove(deed)

    def hold_sharers(self) -> None:
        """Get hold of those whom there was no descriptor for, as soon as there is one.

        Known by number alone, each might be another one by then: ask at every turn.
        """
        while self._unheld:
            pid = self._unheld.pop()
            if pid in self._ghosts:
                continue
            try:
                self._ghosts[pid] = os.pidfd_open(pid)
            except OSError as error:
                if error.errno in SCARCE:
                    self._unheld.add(pid)
                    return

    def departed(self, now_s: float) -> Iterator[Event]:
        """Who went on being asked."""
        for domain, asked in list(self.asked.items()):
            if asked.exited:
                self.part(domain)
                yield VictimExited(domain, asked.victim.identity, now_s)

    def _remember(self, killing: Killing) -> bool:
        """Keep in mind who hangs in its exit: a scout that is new must not read it either.

        False where there is no descriptor left to do so: the killing itself has some.
        """
        if not killing.refused:
            self._unheld.update(killing.unheld)
            self.hold_sharers()
        try:
            for pid, pidfd in killing.lingering:
                if pid not in self._ghosts:
                    self._ghosts[pid] = os.dup(pidfd)
        except OSError:
            return False
        return True

    @property
    def doomed(self) -> list[int]:
        """Everyone who was killed and may still be there: nothing of them is to be read."""
        for pid in [pid for pid, pidfd in self._ghosts.items() if has_exited(pidfd)]:
            os.close(self._ghosts.pop(pid))
        for killing in [one for one in self._kept if not one.lingering]:
            self._kept.remove(killing)
            killing.close()
        kept = [pid for killing in self._kept for pid, _ in killing.lingering]
        dying = [pid for deed in self.deeds for pid in deed.killing.doomed]
        return [*kept, *dying, *self._ghosts, *self._unheld]

    def spared(self, deed: Deed) -> list[int]:
        """Who lives on, since this deed was refused: not those whom another one kills."""
        others = {pid for one in self.deeds if one is not deed for pid in one.killing.doomed}
        others.update(self._ghosts, self._unheld)
        return [pid for pid in deed.killing.doomed if pid not in others]

    def rest(self) -> None:
        """Make reapers ready for the next time."""
        self._standbys.refill()

    def close(self) -> None:
        """Let go of everyone."""
        self._standbys.close()
        for killing in (*(deed.killing for deed in self.deeds), *self._kept):
            killing.close()
        self.deeds.clear()
        self._kept.clear()
        for domain in list(self.asked):
            self.part(domain)
        for pidfd in self._ghosts.values():
            os.close(pidfd)
        self._ghosts.clear()

    def _fate(self, deed: Deed, now_s: float) -> Event | None:
        killing, name = deed.killing, deed.post.name
        if deed.is_told or not (killing.released or killing.finished):
            return None
        deed.is_told = True
        identity = killing.victim.identity
        if killing.refused:
            return VictimRefused(name, identity, killing.refused)
        if killing.released:
            return VictimReleased(name, identity, now_s)
        return VictimStuck(name, identity)


def _same(one: Candidate, other: Candidate) -> bool:
    return bool(set(one.members).intersection(other.members))


def _nobody(post: Post, victim: Candidate, gone: int) -> Event:
    """What to tell where none of a victim is held any more: all are gone, or never were held."""
    if gone:
        return VictimExited(post.name, victim.identity, time.monotonic())
    return VictimRefused(post.name, victim.identity, "it could not be held by a pidfd")


def _taken(
    pidfds: dict[Identity, int], victim: Candidate
) -> tuple[list[tuple[Identity, int]], int]:
    """(members that are there, each with its pidfd, the taker's from now on; how many left)."""
    held, gone = [], 0
    for member in victim.members:
        fd = pidfds.pop(member, -1)
        if fd >= 0 and has_exited(fd):
            os.close(fd)
            gone += 1
        elif fd >= 0:
            held.append((member, fd))
    return held, gone
