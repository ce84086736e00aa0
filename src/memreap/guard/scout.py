"""The scout: reads /proc and cgroups for the core, and may hang on them.

It decides nothing. It is told what to look at, looks, and says what it saw. When it hangs on a
file it is given up, and the next scout passes that process over; so nothing that has to survive
may live here.
"""

import contextlib
import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from memreap.decide import pace
from memreap.decide.events import Candidate, Identity, Tier
from memreap.decide.policy import Policy
from memreap.guard import crowd
from memreap.guard.crowd import SAMPLED, Births
from memreap.guard.kinship import FOREMOST, Kinship
from memreap.guard.look import FDS_IN_A_MESSAGE, Look, Seen
from memreap.guard.reading import YOUNG_LINES_MAX, Mark, Read, Reader
from memreap.guard.settings import Kind
from memreap.guard.wards import (
    Branch,
    Cgroup,
    Everyone,
    Node,
    path_below_its_mount,
    totalpages,
    ward,
)
from memreap.linux import cgroups, scheduling, syscalls
from memreap.linux.kin import LastPid
from memreap.linux.procfs import PAGE_SIZE_BYTES, Procfs
from memreap.linux.worker import Line, go_by, has_exited
from memreap.reap.facts import THREADS_EXAMINED_MAX

LISTED_MAX = 48  # processes that are looked at closely, and named in the record
FACTS_MAX = 12  # of those, how many are prepared to be killed at once
GROUP_REAPED_MAX = 8
GROUP_MAX = 2000  # members of a group that dies as one
ENOUGH_SHARE = 0.05  # of a node: who holds so much, whose end is relief
CRUMB_SHARE = 0.1  # of what the largest holds on a node: who has less does not count beside it
EXITING_SHARE = 0.05  # of a domain: who held so much, whose exit is waited for
FULL_AGE_MAX_S = 0.5  # how long a look at those known to be large may stand in for all
FULL_SHARE = 0.2  # what full looks may cost of a CPU, while a domain is watched
QUICK_SHARE = 0.5  # and quick ones: they are wanted when the line is near, and must not be old
BRANCH_SHARE = 0.5  # and readings of a tree: by them alone is it known to be over its line
BRANCH_FLOOR_S = 0.002
BRANCH_AWAITED_S = 0.05  # at most, while a victim of it still has memory to give back
PAUSE_S = 0.1  # after a kill: a look takes CPU from who dies; one that is asked for does not wait
CGROUP_MAX = 300  # characters of its path that are kept for the record
GONE = (FileNotFoundError, ProcessLookupError)

AnyWard = Everyone | Cgroup | Branch


class Watched:
    """A ward that is looked at again and again, until it is at ease."""

    def __init__(self, every_s: float) -> None:
        """Due at once."""
        self.every_s = every_s
        self.due_s = 0.0


class Scout:
    """What one scout knows; see the module's first lines."""

    def __init__(self, line: Line, policy: Policy, mark: Mark, core_pid: int) -> None:
        """Knows of no domain yet."""
        self._line, self._mark, self._policy = line, mark, policy
        self._procfs = Procfs()
        self._reader = Reader(self._procfs, policy, mark, core_pid)
        self._kinship = Kinship(self._reader)
        self._last_pid = LastPid(self._procfs)
        self._births, self._many_are_born = Births(), False
        self._wards: dict[str, AnyWard] = {}
        self._watched: dict[str, Watched] = {}
        self._pauses_until_s = 0.0
        self._doomed: dict[int, int] = {}  # pid -> pidfd: a number that passes on is free again
        self._hot: dict[str, dict[int, int]] = {}  # pid -> pages, the largest first
        self._exiting: dict[str, dict[int, int]] = {}  # the same of those who were leaving
        self._full: dict[str, tuple[float, float, int]] = {}  # when, what it cost, newest pid
        self._others: dict[str, tuple[int, int]] = {}
        self._there: dict[str, frozenset[int]] = {}  # everyone, at the last full look
        self._below: dict[str, list[str]] = {}
        self._orders: dict[str, dict[str, Any]] = {}  # what each ward was made by
        self._branch_due: dict[str, float] = {}
        self._branch_last: dict[str, tuple[float, int]] = {}
        self._branch_told: dict[str, list[Identity]] = {}

    def serve(self) -> None:
        """Until the core is gone."""
        while True:
            try:
                heard = self._line.hear(self._timeout_s())
                # All that waits, before anything is measured: whose memory is back may be in it.
                while heard is not None:
                    self._obey(cast("dict[str, Any]", heard[0]))
                    heard = self._line.hear(0)
            except EOFError:
                return
            now_s = time.monotonic()
            for name, watched in list(self._watched.items()):
                if now_s >= max(watched.due_s, self._pauses_until_s) and name in self._wards:
                    began_s = time.thread_time()
                    self.look(name, 0, quick=True)
                    pause_s = (time.thread_time() - began_s) / QUICK_SHARE
                    watched.due_s = time.monotonic() + max(watched.every_s, pause_s)
            for name, due_s in list(self._branch_due.items()):
                if now_s >= due_s:
                    self._measure(name)

    def _timeout_s(self) -> float | None:
        due = [max(watched.due_s, self._pauses_until_s) for watched in self._watched.values()]
        due += self._branch_due.values()
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _obey(self, order: dict[str, Any]) -> None:
        match order:
            case {"look": str(name), "number": int(number), "quick": bool(quick)}:
                if name in self._wards:
                    self.look(name, number, quick=quick, pressed=bool(order.get("pressed")))
            case {"watch": str(name), "every_s": every_s}:
                self._watch(name, float(every_s))
            case {"rest": str(name)}:
                self._watched.pop(name, None)
            case {"doomed": list(pids)}:
                self._doom(pids)
            case {"settled": list(pids)}:
                for branch in self._branches():
                    for pid in pids:
                        branch.tree.settle(pid)
            case {"spared": list(pids)}:
                self._spare(pids)
            case _:
                self._learn(order)

    def _watch(self, name: str, every_s: float) -> None:
        """At once where it was not watched before; else only at another pace."""
        watched = self._watched.get(name)
        if watched is None:
            self._watched[name] = Watched(every_s)
        else:
            watched.every_s = every_s
            watched.due_s = min(watched.due_s, time.monotonic() + every_s)

    def _learn(self, order: dict[str, Any]) -> None:
        match order:
            case {"ward": dict(raw)}:
                self._take_on(raw)
            case {"forget": str(name)}:
                self._forget(name)
            case {"avoid": int(pid), "muted": bool(muted)}:
                (self._reader.muted if muted else self._reader.avoided).add(pid)
            case {"discover": str(name)}:
                self._discover(name)

    def _branches(self) -> list[Branch]:
        return [w for w in self._wards.values() if isinstance(w, Branch)]

    def _take_on(self, raw: dict[str, Any]) -> None:
        name = str(raw["name"])
        if self._is_taken_on(name, raw):
            return
        self._forget(name)
        try:
            made = ward(raw, self._procfs)
        except OSError as error:
            self._line.say({"lost": name, "why": error.strerror or str(error)})
            return
        self._wards[name], self._orders[name] = made, _lasting(raw)
        if isinstance(made, Branch):
            made.tree.doomed = self._dying()
            for pid, start_ticks in raw.get("members", ()):
                made.tree.readmit(Identity(pid, start_ticks))
            self._branch_due[name] = 0.0

    def _is_taken_on(self, name: str, raw: dict[str, Any]) -> bool:
        """Whether it is the ward that is known, of which only the whole may have changed.

        To make it anew would forget who is exiting, or dying, and what they hold.
        """
        if name not in self._wards or self._orders[name] != _lasting(raw):
            return False
        self._wards[name].totalpages = totalpages(raw)
        return True

    def _forget(self, name: str) -> None:
        gone = self._wards.pop(name, None)
        self._orders.pop(name, None)
        if isinstance(gone, Branch):
            gone.close()
        for table in (
            self._watched,
            self._hot,
            self._exiting,
            self._full,
            self._others,
            self._there,
        ):
            table.pop(name, None)
        self._branch_due.pop(name, None)
        self._branch_last.pop(name, None)
        self._branch_told.pop(name, None)
        self._below.clear()  # what was forgotten may be found again, of the same name

    def _doom(self, pids: list[int]) -> None:
        """Read nothing more of these, but their oom_score. For a moment look at nobody unasked."""
        self._pauses_until_s = time.monotonic() + PAUSE_S
        for pid in pids:
            with contextlib.suppress(OSError):
                if pid not in self._doomed:
                    self._doomed[pid] = os.pidfd_open(pid)
            for branch in self._branches():
                branch.tree.doom(pid)
                if pid in branch.tree.members:
                    soon_s = time.monotonic() + BRANCH_AWAITED_S
                    self._branch_due[branch.name] = min(self._branch_due[branch.name], soon_s)

    def _spare(self, pids: list[int]) -> None:
        """They live on, and are read again."""
        for pid in pids:
            if pid in self._doomed:
                os.close(self._doomed.pop(pid))
            for branch in self._branches():
                branch.tree.spare(pid)

    def _unread(self) -> set[int]:
        """Whom not to read: the doomed that are still there, and those whose reads hang."""
        return self._reader.avoided | self._dying()

    def _dying(self) -> set[int]:
        """The doomed that are still there: a number of one that is gone may be another's."""
        for pid in [pid for pid, pidfd in self._doomed.items() if has_exited(pidfd)]:
            os.close(self._doomed.pop(pid))
        return set(self._doomed)

    # What a tree uses.

    def _measure(self, name: str) -> None:
        branch = cast("Branch", self._wards[name])
        now_s, began_s = time.monotonic(), time.thread_time()
        branch.tree.doomed = self._dying()  # one that was made anew finds its victims dying
        usage_bytes = branch.meter.read(now_s)
        floor_s = max(BRANCH_FLOOR_S, (time.thread_time() - began_s) / BRANCH_SHARE)
        if usage_bytes is None:
            self._branch_due[name] = now_s + floor_s
            return
        before_s, before_bytes = self._branch_last.get(name, (now_s, usage_bytes))
        growth = (usage_bytes - before_bytes) / max(now_s - before_s, 1e-6)
        self._branch_last[name] = (now_s, usage_bytes)
        limit_bytes = branch.limit_bytes
        interval_s = pace.interval_s(usage_bytes, limit_bytes, growth)
        if branch.meter.victim_bytes:  # patience hangs on what is seen of its release
            interval_s = min(interval_s, BRANCH_AWAITED_S)
        interval_s = max(floor_s, interval_s)
        self._branch_due[name] = now_s + interval_s
        members = [m.identity for m in branch.tree if m.dying_bytes is None][:GROUP_MAX]
        measured = {
            "usage": name,
            "read_s": now_s,
            "next_s": interval_s,
            "usage_bytes": usage_bytes,
            "victim_bytes": branch.meter.victim_bytes,
            "members": members if members != self._branch_told.get(name) else None,
            "empty": not branch.tree.members,
        }
        self._branch_told[name] = members
        self._line.say(measured)

    def _discover(self, name: str) -> None:
        """Say which cgroups below have limits of their own."""
        found = self._wards.get(name)
        if isinstance(found, Cgroup):
            top: Path | None = found.directory
        elif isinstance(found, Everyone):
            top = self._reader.memory_root
        else:
            return
        paths = [os.fspath(path) for path in (cgroups.limited_below(top) if top else [])]
        if paths != self._below.get(name, []):
            self._below[name] = paths
            groups = [[f"cgroup:{path_below_its_mount(p, self._procfs)}", p] for p in paths]
            self._line.say({"discovered": name, "groups": groups})

    # A look.

    def look(self, name: str, number: int, *, quick: bool, pressed: bool = False) -> None:
        """Look at a domain's processes, and say what was seen, with their pidfds."""
        self._reader.lines_left = 0 if pressed else YOUNG_LINES_MAX
        place, began_s, newest_pid = self._wards[name], time.monotonic(), self._last_pid.read()
        self._many_are_born = self._births.note(began_s, newest_pid)
        full_s, cost_s, newest = self._full.get(name, (0.0, 0.0, 0))
        age_max_s = max(FULL_AGE_MAX_S, cost_s / FULL_SHARE)
        quick = quick and name in self._hot and began_s - full_s < age_max_s
        hot = self._newcomers(place) if quick else self._everyone(place, newest)
        reads = self._read_held(hot)
        leaving = self._leaving(place, [pid for pid in hot if pid not in reads], newest)
        seen = self._seen(place, reads)
        bound = False
        if isinstance(place, Node):
            seen, bound = self._on_node(place, seen)
        took_s = time.monotonic() - began_s
        if not quick:
            full_s = began_s
            self._full[name] = (began_s, took_s, newest_pid)
        others, others_pages = self._others.get(name, (0, 0))
        # A small one's exit is over by now.
        exiting = tuple(c for c in leaving if self._reader.exiting(c.identity.pid))[:FACTS_MAX]
        self._exiting[name] = {one.identity.pid: one.pages for one in exiting}
        look = Look(
            domain=name,
            number=number,
            read_s=began_s,
            took_s=took_s,
            seen=seen,
            others=others,
            others_pages=others_pages,
            full_s=full_s,
            newest_pid=newest_pid,
            bound=bound,
            exiting=exiting,
        )
        if number and isinstance(place, Branch):
            self._measure(name)  # whoever went while we looked is in both, or in neither
        self._say(look, reads, leaving)

    def _everyone(self, place: AnyWard, newest_pid: int) -> list[int]:
        """The largest of the domain by a first look at all, and who may just be leaving."""
        reader, all_pids = self._reader, place.pids()
        self._there[place.name] = frozenset(all_pids)
        reader.forget(set(self._procfs.pids()))
        unread = self._unread()
        pids = [p for p in all_pids if p not in unread]
        self._others[place.name] = (0, 0)
        known = self._hot.get(place.name, {}).keys() | self._exiting.get(place.name, {})
        # cgroup.procs hides one whose first thread is through its exit.
        hidden = [p for p in known.difference(all_pids) if p not in unread and reader.exiting(p)]
        if len(pids) <= LISTED_MAX:
            return [*pids, *hidden]
        swapping = self._swapping()
        weighed = [
            (weight, pid)
            for pid in pids
            if (weight := reader.weight(pid, place.totalpages, swapping)) is not None
        ]
        weighed.sort(reverse=True)
        small = weighed[LISTED_MAX:]
        has_mm = {pid for _, pid in weighed}
        leaving = hidden + [
            p
            for p in pids
            if (p in known or p > newest_pid) and p not in has_mm and reader.exiting(p)
        ]
        newest: list[int] = []
        if self._many_are_born and self._policy.crowd:
            newest = sorted((pid for _, pid in small), reverse=True)[:SAMPLED]
        unseen = [(weight, pid) for weight, pid in small if pid not in newest]
        self._others[place.name] = (len(unseen), sum(max(0, weight) for weight, _ in unseen))
        return [pid for _, pid in weighed[:LISTED_MAX]] + newest + leaving[-LISTED_MAX:]

    def _swapping(self) -> bool:
        meminfo = self._procfs.meminfo()
        return meminfo.get("SwapTotal", 0) != meminfo.get("SwapFree", 0)

    def _newcomers(self, place: AnyWard) -> list[int]:
        """Those known to be large, and who came since the last full look: was born, or moved in."""
        unread = self._unread()
        known_pids = [*self._hot[place.name], *self._exiting.get(place.name, {})]
        hot = [p for p in known_pids if p not in unread]
        there = self._there[place.name].union(hot)
        fresh = [p for p in place.pids() if p not in there]
        return hot + [p for p in fresh if p not in unread][-LISTED_MAX:]

    def _leaving(self, place: AnyWard, pids: list[int], newest_pid: int) -> dict[Candidate, int]:
        """Of those who have no mm any more, whose memory may count, each with its pidfd.

        Who was known to be small, or is that old and was never seen to hold any, does not count.
        """
        if isinstance(place, Branch):
            return {}  # whose usage is what its processes show
        known, least = self._hot.get(place.name, {}), place.totalpages * EXITING_SHARE
        awaited = self._exiting.get(place.name, {})
        found: dict[Candidate, int] = {}
        for pid in pids:
            weight = known.get(pid, least if pid > newest_pid else 0)
            # Of a node that was never looked at, nobody is known to hold anything.
            is_elsewhere = isinstance(place, Node) and newest_pid > 0 and pid not in place.holders
            if (weight < least or is_elsewhere) and pid not in awaited:
                continue
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
                if (stat := self._reader.exiting(pid)) is None:
                    os.close(pidfd)
                    continue
                who = (Identity(pid, stat.start_ticks),)
                pages = known.get(pid, awaited.get(pid, 0))
                found[Candidate(who, stat.comm, rss_pages=pages)] = pidfd
        return found

    def _read_held(self, pids: list[int]) -> dict[int, tuple[Read, int]]:
        """Read each behind a pidfd of its own: (what was read, the pidfd or -1)."""
        reads: dict[int, tuple[Read, int]] = {}
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            read = self._reader.read(pid)
            if read is None or not read.may_die:
                os.close(pidfd)
                pidfd = -1
            if read is not None:
                reads[pid] = (read, pidfd)
        return reads

    def _seen(self, place: AnyWard, reads: dict[int, tuple[Read, int]]) -> tuple[Seen, ...]:
        """Make candidates: of one process each, or of those who die together."""
        belonging = {
            pid: read
            for pid, (read, _) in reads.items()
            if place.holds(pid, read.memory.uid, read.cgroup)
        }
        largest = sorted(belonging, key=lambda pid: -belonging[pid].pages)[:LISTED_MAX]
        self._hot[place.name] = {pid: belonging[pid].pages for pid in largest}
        crowds = crowd.found(belonging.values()) if self._policy.crowd else frozenset()
        groups: dict[str, list[Read]] = {}
        for read in belonging.values():
            key = _dies_with(read, crowds) or f"pid:{read.identity.pid}"
            groups.setdefault(key, []).append(read)
        for key in [key for key in groups if not key.startswith("pid:")]:
            groups[key] += self._rest_of_group(key, place, reads, crowds)
        crowded = {kind.key for kind in crowds}
        made = [
            self._crowd(members, place) if key in crowded else self._candidate(members)
            for key, members in groups.items()
        ]
        made.sort(key=lambda seen: (seen.candidate.members[0].start_ticks, seen.candidate.identity))
        foremost = self._foremost(made, place.totalpages)
        prepared = {seen.candidate.identity: self._prepare(seen, reads) for seen in foremost}
        for identity in list(prepared)[:FOREMOST]:
            prepared[identity] = self._kinship.tell(prepared[identity])
        return tuple(prepared.get(seen.candidate.identity, seen) for seen in made)

    def _rest_of_group(
        self,
        key: str,
        place: AnyWard,
        reads: dict[int, tuple[Read, int]],
        crowds: frozenset[crowd.Kind],
    ) -> list[Read]:
        """Those of a group who were too small to be looked at yet."""
        kind, _, value = key.partition(":")
        pids = place.pids()
        if kind == "cgroup":
            with contextlib.suppress(OSError):
                directory = self._reader.directory(value)
                pids = cgroups.members(Path(directory)) if directory else pids
        unread = self._unread() | set(reads)
        fresh = self._read_held([pid for pid in pids if pid not in unread][:GROUP_MAX])
        rest = []
        for pid, (read, pidfd) in fresh.items():
            if _dies_with(read, crowds) == key:
                reads[pid] = (read, pidfd)
                rest.append(read)
            elif pidfd >= 0:
                os.close(pidfd)
        return rest

    def _candidate(self, members: list[Read]) -> Seen:
        largest = max(members, key=lambda read: read.pages)
        alone = len(members) == 1
        ordered = sorted(members, key=lambda r: (r is not largest, r.identity.start_ticks))
        candidate = Candidate(
            members=tuple(read.identity for read in ordered),
            name=largest.stat.comm,
            rss_pages=sum(r.memory.rss_bytes for r in members) // PAGE_SIZE_BYTES,
            swap_pages=sum(r.memory.swap_bytes for r in members) // PAGE_SIZE_BYTES,
            page_table_pages=sum(r.memory.page_table_bytes for r in members) // PAGE_SIZE_BYTES,
            # A group is worth what it holds; its members' wishes cannot be added up.
            oom_score_adj=largest.oom_score_adj if alone else 0,
            tier=largest.judgement.tier if alone else Tier(min(r.judgement.tier for r in members)),
            barred=largest.judgement.barred,
            domains=self._domains(members),
        )
        return Seen(
            candidate,
            uid=largest.memory.uid,
            user=largest.user,
            command=largest.command,
            cgroup=largest.cgroup[:CGROUP_MAX],
            unit=largest.unit,
        )

    def _crowd(self, members: list[Read], place: AnyWard) -> Seen:
        seen = self._candidate(members)
        held = crowd.resident_pages(members, place.totalpages)
        # Of a tree nobody but the scout knows who is born: its cgroup may hold others as well.
        chased = not isinstance(place, Branch) and crowd.may_be_chased(self._policy)
        nest = self._reader.directory(members[0].cgroup) if chased else ""  # all have the same
        bare = replace(seen.candidate, rss_pages=held)
        return replace(seen, candidate=bare, crowd=True, nest=nest)

    def _domains(self, members: list[Read]) -> tuple[str, ...]:
        """Every domain in which one of them holds memory."""
        return tuple(
            name
            for name, place in self._wards.items()
            if any(_lies_in(place, read) for read in members)
        )

    def _foremost(self, made: list[Seen], totalpages: int) -> list[Seen]:
        """Those who are likely to be chosen next."""

        def rank(seen: Seen) -> tuple[int, int]:
            candidate = seen.candidate
            return candidate.tier, candidate.pages + candidate.oom_score_adj * (totalpages // 1000)

        killable = [seen for seen in made if not seen.candidate.barred]
        return sorted(killable, key=rank, reverse=True)[:FACTS_MAX]

    def _prepare(self, seen: Seen, reads: dict[int, tuple[Read, int]]) -> Seen:
        members = seen.candidate.members[:GROUP_REAPED_MAX]
        facts = [self._reader.facts(reads[member.pid][0]) for member in members]
        # One may have a hundred thousand threads: too many for a message, and the first will do.
        return replace(
            seen,
            facts=tuple(replace(f, tids=f.tids[:THREADS_EXAMINED_MAX]) for f in facts if f),
        )

    def _on_node(self, place: Node, seen: tuple[Seen, ...]) -> tuple[tuple[Seen, ...], bool]:
        """Count what each holds on the node alone; whether one of them may use no other."""
        here, any_bound = [], False
        for one in seen:
            pages = 0
            for member in one.candidate.members[:GROUP_REAPED_MAX]:
                if member.pid in self._reader.muted:
                    continue  # its mmap_lock is held: what it has here is not known
                self._mark.set(member.pid, waits=True)
                with contextlib.suppress(*GONE, PermissionError):
                    held, bound = place.pages(member.pid)
                    pages += held
                    any_bound |= bound
            if pages:
                bare = replace(one.candidate, rss_pages=pages, swap_pages=0, page_table_pages=0)
                here.append(replace(one, candidate=bare))
        self._mark.set(0)
        here = _without_crumbs(here, place.totalpages)
        place.holders = {member.pid for one in here for member in one.candidate.members}
        return tuple(here), any_bound

    def _say(
        self, look: Look, reads: dict[int, tuple[Read, int]], leaving: dict[Candidate, int]
    ) -> None:
        """First the descriptors, then the look that they belong to."""
        if look.exiting:
            who = [one.identity for one in look.exiting]
            fds = [leaving[one] for one in look.exiting]
            self._line.say({"held": who, "of": look.number}, fds)
        wanted = [
            member.pid
            for seen in look.seen
            if not seen.candidate.barred
            for member in seen.candidate.members
        ]
        # The largest first: where the core runs out of descriptors, the last are dropped.
        held = sorted((p for p in wanted if reads[p][1] >= 0), key=lambda p: -reads[p][0].pages)
        for at in range(0, len(held), FDS_IN_A_MESSAGE):
            part = held[at : at + FDS_IN_A_MESSAGE]
            who = [reads[pid][0].identity for pid in part]
            self._line.say({"held": who, "of": look.number}, [reads[pid][1] for pid in part])
        self._say_what_fits(look)
        for pidfd in [*(fd for _, fd in reads.values()), *leaving.values()]:
            if pidfd >= 0:
                os.close(pidfd)

    def _say_what_fits(self, look: Look) -> None:
        """Say it with as many of the largest as one message takes."""
        while True:
            try:
                self._line.say(look.as_message())
            except OSError as error:
                if error.errno != errno.EMSGSIZE or not look.seen:
                    raise
                by_size = sorted(look.seen, key=lambda seen: -seen.candidate.pages)
                small = by_size[len(by_size) // 2 :]
                look = replace(
                    look,
                    seen=tuple(seen for seen in look.seen if seen not in small),
                    others=look.others + len(small),
                    others_pages=look.others_pages + sum(s.candidate.pages for s in small),
                )
            else:
                return


def _dies_with(read: Read, crowds: frozenset[crowd.Kind]) -> str:
    """The same for all who die as one; empty for one that dies alone."""
    if not read.may_die:
        return ""
    kind = crowd.kind(read)
    return read.judgement.together or (kind.key if kind in crowds and kind else "")


def _lies_in(place: AnyWard, read: Read) -> bool:
    """Whether one holds memory in a domain; of a node that is known from the last look at it."""
    pid = read.identity.pid
    if isinstance(place, Node):
        return pid in place.holders
    return place.holds(pid, read.memory.uid, read.cgroup)


def _without_crumbs(here: list[Seen], totalpages: int) -> list[Seen]:
    """Those who count on a node, where one of them would be enough.

    Nearly everybody has a few pages on every node: nobody need wait until one like that has died.
    """

    def may_be_chosen(one: Seen) -> bool:
        return not one.candidate.barred and one.candidate.tier is not Tier.AVOID

    largest = max((one.candidate.pages for one in here if may_be_chosen(one)), default=0)
    if largest < totalpages * ENOUGH_SHARE:
        return here
    return [one for one in here if one.candidate.pages >= largest * CRUMB_SHARE]


def run(line: Line, policy: Policy, mark: Mark, core_pid: int) -> None:
    """The body of a worker."""
    go_by("memreap-scout")
    scheduling.hurry(0, scheduling.SCOUT_PRIORITY)
    with contextlib.suppress(OSError):  # not swapped out when it is needed; no page is copied
        syscalls.mlockall(syscalls.MCL_CURRENT | syscalls.MCL_ONFAULT)
    Scout(line, policy, mark, core_pid).serve()


def _lasting(order: dict[str, Any]) -> dict[str, Any]:
    """What makes a ward another one if it changes."""
    passing = {"members", "start_ticks", "whole_bytes"}
    if order["kind"] != Kind.TREE:  # whose meter is made for its limit
        passing.add("limit_bytes")
    return {key: value for key, value in order.items() if key not in passing}
