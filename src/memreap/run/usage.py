"""How much memory the tree uses, from /proc.

Only the measuring lives here. A sum of RSS counts what processes share once for each, so a server
that forked without exec would be killed for nothing; the exact figure (PSS) is dear and may hang.
So: bounds first. The sum is an upper bound, the largest mm a lower one; only when the limit lies
between them are the shares asked for, in a worker that can be given up.

Counted: anonymous memory, shmem that is mapped, swap. Not counted: files, and tmpfs files that
nobody maps.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cmp_to_key
from itertools import pairwise
from typing import Protocol, cast

from memreap.linux import syscalls
from memreap.linux.procfs import PAGE_SIZE_BYTES, Procfs
from memreap.linux.rss import pss_bytes
from memreap.linux.worker import Line, Worker
from memreap.run.tree import GONE, Member, Tree

SILENCE_S = 0.5  # a worker that says nothing for so long waits for a lock
STALE_PAGES = (1 << 20) // PAGE_SIZE_BYTES  # a change from which on status is read again
STALE_S = 1.0  # swap grows unseen by statm
PSS_SHARE = 0.05  # shares may cost this part of a CPU, while nothing grows
PSS_INTERVAL_S = 0.25
SMALL_PAGES = STALE_PAGES  # too small for its mm to matter twice


class Meter(Protocol):
    """Says what the domain uses."""

    means: str
    victim_bytes: int | None  # what the dying still hold, where that is known

    def read(self, now_s: float) -> int | None:
        """Bytes in use; None while that is being found out. Never waits."""

    def stillness(self) -> Callable[[], bool] | None:
        """A cheap look that tells whether ``read`` would say what it said last; None: no such."""

    def fds(self) -> list[int]:
        """Readable when there is a reason to read again."""

    def close(self) -> None:
        """Let go of everything."""


@dataclass(slots=True)
class Shares:
    """The tree's PSS as it was last found, and the reading that is under way."""

    pss_bytes: int | None = None
    upper_bytes: int = 0  # the upper bound at the same time
    read_s: float = -1e9
    cost_s: float = 0.0  # CPU time, or what was waited for in vain
    worker: Worker | None = None
    asked_s: float = 0.0
    heard_s: float = 0.0
    cpu_s: float = 0.0  # that the reading has taken so far
    asked_upper_bytes: int = 0
    missing: dict[int, int] = field(default_factory=dict)  # pid -> its bytes at most
    found: dict[int, int] = field(default_factory=dict)  # pid -> its bytes

    def estimate_bytes(self, upper_bytes: int) -> int | None:
        """What is used now, given how the upper bound moved since; None if never found."""
        if self.pss_bytes is None:
            return None
        grown = max(0, upper_bytes - self.upper_bytes)
        return min(self.pss_bytes + grown, upper_bytes)

    def is_fresh(self, now_s: float) -> bool:
        """Whether to rely on it: a write that unshares memory does not move the upper bound."""
        return now_s - self.read_s < max(PSS_INTERVAL_S, self.cost_s / PSS_SHARE)

    def is_due(self, now_s: float, within: bool) -> bool:
        """Whether to read again: at leisure within the limit, else as soon as is decent."""
        if self.worker:
            return False
        return not self.is_fresh(now_s) if within else now_s - self.read_s > self.cost_s


class TreeMeter:
    """Measures a tree against a limit; precise only as far as the limit needs."""

    def __init__(self, tree: Tree, limit_bytes: int) -> None:
        """Nothing is read yet."""
        self.means = "/proc (RSS bounds; PSS where they do not decide)"
        self.victim_bytes: int | None = None
        self.hung_readings = 0
        self.pss_readings = 0
        self._tree = tree
        self._limit_bytes = limit_bytes
        meminfo = tree.procfs.meminfo()
        self._swap_on = meminfo.get("SwapTotal", 0) > 0
        self._total_bytes = meminfo["MemTotal"] + meminfo.get("SwapTotal", 0)
        self._shares = Shares()
        self._shares_decide = False  # whether the limit lay between the bounds

    def fds(self) -> list[int]:
        """The worker's, while shares are being read."""
        return [self._shares.worker.fileno()] if self._shares.worker else []

    def close(self) -> None:
        """Give up a reading that is under way."""
        if self._shares.worker:
            self._shares.worker.give_up()
            self._shares.worker = None

    def read(self, now_s: float) -> int | None:
        """Bytes in use; None while the limit lies between the bounds and shares are being read."""
        self._tree.refresh(now_s)
        dying, largest, pages = self._look(now_s)
        self.victim_bytes = dying
        self._shares_decide = False
        upper = dying + pages * PAGE_SIZE_BYTES
        if self._shares.worker:
            self._hear(now_s, dying)
        if upper <= self._limit_bytes:
            return upper
        lower = largest * PAGE_SIZE_BYTES
        if lower > self._limit_bytes:
            return max(lower, self._shares.estimate_bytes(upper) or 0)
        self._shares_decide = True
        return self._between(now_s, upper)

    def stillness(self) -> Callable[[], bool] | None:
        """Whether nothing moved.

        Statm does not show all that moves where there is swap; nor, where shares decide, a write
        that makes a shared page one's own.
        """
        return None if self._swap_on or self._shares_decide else self._tree.stillness()

    def _look(self, now_s: float) -> tuple[int, int, int]:
        """Read everyone once: (bytes of the dying, pages of the largest, pages of all)."""
        dying = largest = pages = 0
        gone = None
        for member in self._tree.members.values():
            try:
                if member.dying_bytes is not None:
                    dying += self._remaining_bytes(member)
                    continue
                member.size, member.resident, member.shared = member.statm.read()
                if self._is_stale(member, now_s):
                    look_at_status(member, self._tree.procfs, now_s)
            except GONE:
                gone = [*(gone or ()), member.pid]
                continue
            at_most = member.pages_at_most
            pages += at_most
            largest = max(largest, at_most)
        for pid in gone or ():
            self._tree.remove(pid)
        return dying, largest, pages

    def _is_stale(self, member: Member, now_s: float) -> bool:
        if member.shared - member.shared_then > STALE_PAGES or member.looked_s < 0:
            return True
        if member.shared < member.shared_then and member.shmem:
            return member.shared_then - member.shared > STALE_PAGES
        return self._swap_on and (
            abs(member.resident - member.resident_then) > STALE_PAGES
            or now_s - member.looked_s > STALE_S
        )

    def _remaining_bytes(self, member: Member) -> int:
        """What a killed one still holds, as far as oom_score shows: it pins nothing."""
        assert member.dying_bytes is not None, "only of the dying"
        score = self._tree.procfs.oom_score(member.pid)
        if score == 0 or member.dying_bytes == 0:
            # No mm, which says nothing of its memory: exit_aio hangs behind that point.
            return member.dying_bytes
        fallen = (member.score_then - score) * 3 / 2 / 1000 * self._total_bytes
        return max(0, member.dying_bytes - max(0, int(fallen)))

    def _between(self, now_s: float, upper: int) -> int | None:
        """Neither bound decides. What is over the limit was read; growth is only guessed at."""
        shares = self._shares
        found = shares.pss_bytes if shares.read_s == now_s else None
        if found is not None and found > self._limit_bytes:
            return found
        estimate = shares.estimate_bytes(upper)
        within = estimate is not None and estimate <= self._limit_bytes
        if shares.is_due(now_s, within):
            self._ask(now_s, upper)
        return estimate if within else None

    def _ask(self, now_s: float, upper: int) -> None:
        shares, procfs = self._shares, self._tree.procfs
        members = distinct(m for m in self._tree if m.dying_bytes is None)
        shares.cpu_s = 0.0
        shares.missing = {m.pid: m.pages_at_most * PAGE_SIZE_BYTES for m in members}
        shares.found = {}
        shares.asked_s = shares.heard_s = now_s
        shares.asked_upper_bytes = upper
        members.sort(key=lambda m: -shares.missing[m.pid])
        tasks = [(m.pid, m.statm.tid) for m in members]
        self.pss_readings += 1
        try:
            shares.worker = Worker(lambda line: read_shares(line, tasks, procfs))
        except OSError:  # no process or descriptor left: the bound has to do
            shares.pss_bytes, shares.upper_bytes, shares.read_s = upper, upper, now_s

    def _hear(self, now_s: float, dying: int) -> None:
        """Take what the worker has read; conclude as soon as what is missing cannot matter."""
        shares = self._shares
        assert shares.worker is not None, "somebody to hear"
        for message, _ in shares.worker.hear():
            shares.heard_s = now_s
            for pid, found, cpu_s in cast("list[tuple[int, int | None, float]]", message):
                shares.cpu_s = cpu_s
                at_most = shares.missing.pop(pid, 0)
                shares.found[pid] = at_most if found is None else min(found, at_most)
        # Who was killed, or went, since it was asked for is among the dying, or holds nothing.
        living = {m.pid for m in self._tree if m.dying_bytes is None}
        known = dying + sum(size for pid, size in shares.found.items() if pid in living)
        at_most = known + sum(size for pid, size in shares.missing.items() if pid in living)
        hung = now_s - shares.heard_s > SILENCE_S
        if known > self._limit_bytes or at_most <= self._limit_bytes:
            self._conclude(now_s, known if known > self._limit_bytes else at_most)
        elif shares.worker.ended or hung:
            self.hung_readings += hung
            self._conclude(now_s, at_most, hung=hung)

    def _conclude(self, now_s: float, pss: int, *, hung: bool = False) -> None:
        shares = self._shares
        assert shares.worker is not None, "a reading is under way"
        if shares.worker.ended:
            shares.worker.close()
        else:
            shares.worker.give_up()
        shares.worker = None
        shares.pss_bytes, shares.upper_bytes = pss, shares.asked_upper_bytes
        # Not the time that it took: on a busy machine that is mostly others'.
        shares.cost_s = now_s - shares.asked_s if hung else shares.cpu_s
        shares.read_s = now_s


def look_at_status(member: Member, procfs: Procfs, now_s: float) -> None:
    """Tell shmem and swap, which statm does not. Raises as Procfs does."""
    memory = procfs.memory(member.pid)
    member.shmem = memory.rss_shmem_bytes // PAGE_SIZE_BYTES
    member.swap = memory.swap_bytes // PAGE_SIZE_BYTES
    # What it mapped since statm was read counts as grown, and is looked at again.
    member.shared_then = (memory.rss_shmem_bytes + memory.rss_file_bytes) // PAGE_SIZE_BYTES
    member.resident_then, member.looked_s = member.resident, now_s


def distinct(members: Iterable[Member]) -> list[Member]:
    """One member for each mm: vfork and CLONE_VM make several processes of one."""
    everyone = list(members)
    big = [m for m in everyone if m.pages_at_most > SMALL_PAGES]
    small = [m for m in everyone if m.pages_at_most <= SMALL_PAGES]
    try:
        ordered = sorted(big, key=cmp_to_key(_by_mm))
        again = {b.pid for a, b in pairwise(ordered) if _by_mm(a, b) == 0}
    except OSError:  # one is gone, or not ours to compare: then each counts
        again = set()
    return [m for m in big if m.pid not in again] + small


def _by_mm(a: Member, b: Member) -> int:
    order = syscalls.kcmp_vm(a.statm.tid, b.statm.tid)
    return -1 if order == 1 else order and 1


def read_shares(line: Line, tasks: list[tuple[int, int]], procfs: Procfs) -> None:
    """In the worker: say each one's PSS as it is found; None for one that cannot be read.

    ``tasks``: (pid, a thread of it that has the mm).
    """
    for pid, tid in tasks:
        try:
            found = pss_bytes(tid, procfs)
        except GONE:
            found = 0
        except PermissionError:
            found = None
        line.say([(pid, found, time.process_time())])
