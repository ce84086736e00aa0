"""One guarded domain, as the core keeps it: its figures, who is in it, and when to look again.

Only what is read and known lives here; what it means is decide/'s.
"""

import contextlib
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from memreap.decide import pace
from memreap.decide.badness import DWARF_SHARE, OOM_SCORE_ADJ_MIN, choose, lead_pages
from memreap.decide.domain import Phase, Rules
from memreap.decide.events import Candidate, Identity
from memreap.guard.gauges import AnyGauge, Figures, NodeGauge, TreeGauge
from memreap.guard.look import Look, Seen
from memreap.guard.settings import Kind, Scope, Settings
from memreap.linux.procfs import PAGE_SIZE_BYTES
from memreap.linux.worker import has_exited

FRESH_S = 0.15  # a look of this age is as good as a new one
SOON_S = 1.5  # the line may be reached within this: keep the hot set warm
HIGH_SHARE = 0.8  # of the way to the line: from here on keep it lukewarm
STIRRED_BYTES = 64 << 20  # growth that ends a rest
WARM_S = 0.05
AWAITING_S = 0.1  # while a victim is waited for: fresh enough, should another one have to be chosen
LUKEWARM_S = 5.0
STALE_MAX_S = 10.0  # an older look is better waited for
EXPLAINED_SHARE = 0.5  # so is one that does not account for this much of the usage
REST_AFTER_S = 2.0
CHOSEN_MAX = 16  # victims whose last look is remembered
WALL_SHARE = 1.02  # a domain that cannot hold more than this of its line has no wall behind it
GROWTH_WINDOW_S = 0.02  # growth over less is noise
READING_GAP_S = 0.005  # of the readings that are remembered
READINGS_MAX = int(2 * FRESH_S / READING_GAP_S)


class HotSet:
    """The latest look, with the pidfds of those who may be killed."""

    def __init__(self) -> None:
        """Nobody was seen yet."""
        self.look: Look | None = None
        self.pidfds: dict[Identity, int] = {}
        self._chosen: deque[Seen] = deque(maxlen=CHOSEN_MAX)

    def remember(self, candidate: Candidate) -> None:
        """Keep what was seen of a victim: no later look has it."""
        if (seen := self._as_seen(candidate)) is not None:
            self._chosen.append(seen)

    def told_of(self, candidate: Candidate) -> Seen:
        """What was seen of a candidate, or of a victim while it was none yet."""
        chosen = (s for s in self._chosen if s.candidate.members == candidate.members)
        return self._as_seen(candidate) or next(chosen, None) or Seen(candidate)

    def _as_seen(self, candidate: Candidate) -> Seen | None:
        look = self.look.seen if self.look else ()
        return next((s for s in look if s.candidate.members == candidate.members), None)

    def take(self, look: Look, pidfds: dict[Identity, int]) -> None:
        """Let the latest one stand for all before it."""
        self._keep_held(look, pidfds)
        self.close()
        self.look, self.pidfds = self._with_commands(look), pidfds

    def _keep_held(self, look: Look, pidfds: dict[Identity, int]) -> None:
        """Go on holding whom the new look brought no pidfd of: descriptors may have run out."""
        for seen in look.seen:
            for member in seen.candidate.members:
                if not seen.candidate.barred and member not in pidfds and member in self.pidfds:
                    pidfds[member] = self.pidfds.pop(member)

    def _with_commands(self, look: Look) -> Look:
        """Go on knowing the command lines that a look under pressure leaves out."""
        if self.look is None or all(seen.command for seen in look.seen):
            return look
        known = {(s.candidate.identity, s.candidate.name): s.command for s in self.look.seen}
        seen = list(look.seen)
        for at, one in enumerate(look.seen):
            command = known.get((one.candidate.identity, one.candidate.name))
            if command and not one.command:
                seen[at] = replace(one, command=command)
        return replace(look, seen=tuple(seen))

    def give_back(self, pidfds: dict[Identity, int]) -> None:
        """Take pidfds that were handed out, where no later look brought others."""
        for identity, fd in pidfds.items():
            if self.pidfds.setdefault(identity, fd) != fd:
                os.close(fd)

    def seen(self, identity: Identity) -> Seen | None:
        """What was seen of a candidate."""
        if self.look is None:
            return None
        return next((s for s in self.look.seen if identity in s.candidate.members), None)

    def is_there(self, seen: Seen) -> bool:
        """Whether one of a candidate's members is, as far as they are held.

        Nobody holds those who may not die; they are named all the same, and why not.
        """
        if seen.candidate.barred or seen.candidate.oom_score_adj == OOM_SCORE_ADJ_MIN:
            return True
        fds = [self.pidfds[m] for m in seen.candidate.members if m in self.pidfds]
        return any(not has_exited(fd) for fd in fds)

    def is_leaving(self, identity: Identity) -> bool:
        """Whether one who was exiting still is."""
        if self.look is None or all(one.identity != identity for one in self.look.exiting):
            return False
        return identity not in self.pidfds or not has_exited(self.pidfds[identity])

    def there(self) -> tuple[Candidate, ...]:
        """The candidates of the last look that still are."""
        look = self.look.seen if self.look else ()
        return tuple(seen.candidate for seen in look if self.is_there(seen))

    def leaving(self) -> tuple[Candidate, ...]:
        """Who was exiting, and still is."""
        look = self.look.exiting if self.look else ()
        return tuple(one for one in look if self.is_leaving(one.identity))

    def age_s(self, now_s: float) -> float:
        """How long ago the look began."""
        return now_s - self.look.read_s if self.look else float("inf")

    def close(self) -> None:
        """Let go of every pidfd."""
        for fd in self.pidfds.values():
            os.close(fd)
        self.pidfds = {}


class Post:
    """What the core knows of one domain."""

    def __init__(self, scope: Scope, gauge: AnyGauge) -> None:
        """Nothing was read yet."""
        self.scope, self.gauge = scope, gauge
        self.name = scope.name
        self.hot = HotSet()
        self.figures: Figures | None = None
        self.read_s = 0.0  # when these were read
        self.victim_bytes: int | None = None
        self.settles_s = 0.0  # until when the scout of a tree may still count who is done with
        self.growth_bytes_per_s = 0.0
        self.due_s = 0.0
        self.incident: int | None = None
        self.killed_in: int | None = None  # the last incident in which somebody was
        self.origin = ""  # the domain below which it was found; "" where it was asked for
        self.chosen_s = 0.0
        self.answered_s = 0.0  # when decide/ was last told who is there
        self.deciding_s = 0.0  # from then until the order to kill was given
        self.asked_s: float | None = None  # since when the domain waits for candidates
        self.unseen_pages: int | None = None  # in use, and nobody's, by the last look at everyone
        self.watch_s: float | None = None  # how often the scout looks by itself
        self.members: list[Identity] = []  # of a tree: known even if the scout is lost
        self.root: Identity | None = None  # of a tree: its first process, as it was first seen
        self.leaving: Identity | None = None  # waited for, though nobody here killed it
        self._leaving_pidfd = -1  # a later look may not show it; it counts until it is gone
        self.helpless_told: int | None = None  # the incident in which everyone was named already
        self._since = (0.0, 0)
        self._readings: deque[tuple[float, int]] = deque(maxlen=READINGS_MAX)
        self._eased_s = 0.0

    def await_leaving(self, identity: Identity) -> None:
        """Wait for one who is exiting by another's hand."""
        self.part_with_leaving()
        self.leaving = identity
        with contextlib.suppress(OSError):  # no descriptor left: then the looks have to tell
            if identity in self.hot.pidfds:
                self._leaving_pidfd = os.dup(self.hot.pidfds[identity])

    def part_with_leaving(self) -> None:
        """Wait for it no more."""
        self.leaving = None
        if self._leaving_pidfd >= 0:
            os.close(self._leaving_pidfd)
            self._leaving_pidfd = -1

    def has_left(self) -> bool:
        """Whether the one who is waited for is gone."""
        if self.leaving is None:
            return False
        if self._leaving_pidfd >= 0:
            return has_exited(self._leaving_pidfd)
        return not self.hot.is_leaving(self.leaving)

    def see(self, look: Look, pidfds: dict[Identity, int]) -> None:
        """Let the latest look stand for all before it."""
        self.hot.take(look, pidfds)
        if look.full_s == look.read_s and self._readings:
            seen = (*(seen.candidate for seen in look.seen), *look.exiting)
            seen_pages = sum(c.pages for c in seen) + look.others_pages
            self.unseen_pages = self._usage_at(look.read_s) // PAGE_SIZE_BYTES - seen_pages

    def meet(self, members: list[Identity]) -> None:
        """Note who belongs to the tree."""
        self.members = members
        if self.root is None:
            self.root = next((m for m in members if m.pid == self.scope.pid), None)

    def take(self, read_s: float, figures: Figures) -> None:
        """Note a reading, and how fast usage grows."""
        self.figures, self.read_s = figures, read_s
        if not self._readings or read_s - self._readings[-1][0] >= READING_GAP_S:
            self._readings.append((read_s, figures.usage_bytes))
        before_s, before_bytes = self._since
        if read_s - before_s >= GROWTH_WINDOW_S:
            growth = (figures.usage_bytes - before_bytes) / (read_s - before_s)
            self.growth_bytes_per_s = growth if before_s else 0.0
            self._since = (read_s, figures.usage_bytes)

    @property
    def rests_below_bytes(self) -> int:
        """While less than this is in use, a glance a second is enough."""
        assert self.figures is not None, "a reading comes first"
        usage, limit = self.figures.usage_bytes, self.figures.limit_bytes
        if isinstance(self.gauge, TreeGauge):
            return limit
        if not self.gauge.rests(usage) and self.interval_s() < pace.CEILING_S:
            return 0
        return min(usage + STIRRED_BYTES, int(limit * HIGH_SHARE))

    def interval_s(self, crowd: int = 1) -> float:
        """Until the next reading of a calm domain; ``crowd``: how many are read like it."""
        assert self.figures is not None, "a reading comes first"
        usage, limit = self.figures.usage_bytes, self.figures.limit_bytes
        if self.gauge.rests(usage):
            return pace.CEILING_S
        return pace.watch_interval_s(usage, limit, self.growth_bytes_per_s, crowd)

    def watch_wanted_s(self, now_s: float, phase: Phase) -> float | None:
        """How often the scout should look by itself; None: not at all."""
        assert self.figures is not None, "a reading comes first"
        if phase in (Phase.HELPLESS, Phase.REHEARSED):
            return LUKEWARM_S  # may be for days, and each try asks for a look of its own
        if phase is Phase.RELEASING:
            return AWAITING_S
        usage, limit = self.figures.usage_bytes, self.figures.limit_bytes
        growth = self.growth_bytes_per_s
        wanted = None
        if usage > limit or (growth > 0 and (limit - usage) / growth < SOON_S):
            wanted = WARM_S
        elif usage > limit * HIGH_SHARE:
            wanted = LUKEWARM_S
        if wanted is not None and (self.watch_s is None or wanted <= self.watch_s):
            self._eased_s = now_s + REST_AFTER_S
        elif now_s < self._eased_s:
            wanted = self.watch_s  # what was just needed may be needed again
        return wanted

    def rules(self, settings: Settings, figures: Figures) -> Rules:
        """What the domain is held to."""
        limit = figures.limit_bytes
        # At its memory.high a cgroup stands still, and never gets near its limit.
        stand_bytes = min(limit, int(figures.details.get("high_bytes", limit)))
        floor = int(stand_bytes * self.scope.stall_floor) if self.scope.stall_max else None
        return Rules(
            limit_bytes=limit,
            totalpages=figures.whole_bytes // PAGE_SIZE_BYTES,
            patience_s=settings.patience_s,
            term_s=settings.term_s,
            ceiling_bytes=ceiling_bytes(figures) if settings.term_s else None,
            warn_bytes=int(limit * self.scope.warn) if self.scope.warn else None,
            stall_floor_bytes=floor,
            dry_run=settings.dry_run,
        )

    def is_stalled(self, figures: Figures) -> bool:
        """Whether too much time is lost to memory."""
        share, most = figures.stall_share, self.scope.stall_max
        return bool(most) and share is not None and share > most

    def order(self) -> dict[str, object]:
        """What the scout is told of it."""
        figures, scope = self.figures, self.scope
        limit = figures.limit_bytes if figures else 0
        whole = figures.whole_bytes if figures else 0
        order: dict[str, object] = {
            "name": self.name,
            "kind": scope.kind,
            "path": scope.path,
            "pid": scope.pid,
            "uid": scope.uid,
            "limit_bytes": limit,
            "whole_bytes": whole,
            "members": self.members,
            "start_ticks": self.root.start_ticks if self.root else None,
        }
        if isinstance(self.gauge, NodeGauge):
            order["number"] = self.gauge.number
        if scope.kind is Kind.TREE and scope.limit:
            order["limit_bytes"] = order["whole_bytes"] = scope.limit.bytes
        return order

    def looks_outdated(self, now_s: float) -> bool:
        """Whether what was last seen cannot be the whole truth any more."""
        look, figures = self.hot.look, self.figures
        if look is None or figures is None or self.hot.age_s(now_s) > STALE_MAX_S:
            return True
        pages = sum(c.pages for c in self.hot.there()) + look.others_pages
        return pages * PAGE_SIZE_BYTES < figures.usage_bytes * EXPLAINED_SHARE

    def is_in_doubt(self) -> bool:
        """Whether somebody may have outgrown, unseen, whom the last look would choose."""
        look, figures = self.hot.look, self.figures
        if look is None or figures is None:
            return True
        if self.read_s < look.read_s:
            return True  # of a tree: whoever went while they looked still counts
        there, totalpages = self.hot.there(), figures.whole_bytes // PAGE_SIZE_BYTES
        choice = choose(there, totalpages, others_pages=look.others_pages)
        if any(seen.crowd and seen.candidate is choice.best for seen in look.seen):
            return False  # what grows unseen is its newborn, and to look at them all takes long
        if self.unseen_pages is None:
            return True
        seen_pages = sum(c.pages for c in (*there, *self.hot.leaving())) + look.others_pages
        grown_pages = figures.usage_bytes // PAGE_SIZE_BYTES - seen_pages - self.unseen_pages
        return grown_pages > lead_pages(choice) + totalpages * DWARF_SHARE

    def leaves_doubt(self, now_s: float) -> bool:
        """Whether only a look at everyone tells who is to die."""
        return self.looks_outdated(now_s) or self.is_in_doubt()

    def _usage_at(self, moment_s: float) -> int:
        """By the last reading before, or the first that is remembered."""
        assert self._readings, "a reading comes first"
        before = (usage for read_s, usage in reversed(self._readings) if read_s <= moment_s)
        return next(before, self._readings[0][1])

    def forget(self) -> None:
        """Who is in it has to be found out anew."""
        self.watch_s = None
        self.hot.close()
        self.hot.look = None

    def close(self) -> None:
        """Let go of everything."""
        self.part_with_leaving()
        self.hot.close()
        self.gauge.close()


def ceiling_bytes(figures: Figures) -> int:
    """Where nobody is given time any more: half-way to the end, or twice a line without one."""
    limit, whole = figures.limit_bytes, figures.whole_bytes
    if figures.end_bytes is not None:
        return (limit + figures.end_bytes) // 2
    return (limit + whole) // 2 if whole > limit * WALL_SHARE else 2 * limit


def pids_of(victims: Sequence[Identity]) -> list[int]:
    """Numbers alone."""
    return [identity.pid for identity in victims]
