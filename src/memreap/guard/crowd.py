"""A crowd: many young processes of one program. They count as one candidate, and die as one.

A fork bomb, or a loop that starts more than there is room for: each is small, so by badness alone
the largest innocent would die first, and then one of them after another while more are born.
Killing a few changes nothing; what tells a crowd from many workers is that it came at once.
"""

from collections import Counter, deque
from collections.abc import Iterable
from typing import NamedTuple

from memreap.decide.events import Tier
from memreap.decide.policy import Policy, Verdict
from memreap.guard.reading import YOUNG_S, Read, is_young
from memreap.linux.procfs import PAGE_SIZE_BYTES

LEAST = 12  # processes
SAMPLED = 24  # of those too small to be looked at singly, the newest


class Kind(NamedTuple):
    """What the processes of a crowd have in common."""

    name: str
    uid: int
    cgroup: str

    @property
    def key(self) -> str:
        """As those are grouped who die as one."""
        return f"crowd:{self.uid}:{self.cgroup}:{self.name}"


def kind(read: Read) -> Kind | None:
    """Of which crowd it would be; None for one that must not die, or that policy wishes for."""
    if not read.may_die or read.judgement.together or read.judgement.tier is Tier.AVOID:
        return None
    return Kind(read.stat.comm, read.memory.uid, read.cgroup) if is_young(read.stat) else None


def found(reads: Iterable[Read]) -> frozenset[Kind]:
    """The crowds among these."""
    many = Counter(filter(None, map(kind, reads)))
    return frozenset(one for one, number in many.items() if number >= LEAST)


def resident_pages(members: Iterable[Read], totalpages: int) -> int:
    """What they hold together, at most: what they share is counted once where it is known."""
    memories = [read.memory for read in members]
    own = sum(memory.rss_anon_bytes for memory in memories)
    shared = max(memory.rss_file_bytes + memory.rss_shmem_bytes for memory in memories)
    return min((own + shared) // PAGE_SIZE_BYTES, totalpages)


def may_be_chased(policy: Policy) -> bool:
    """Whether name, user and cgroup are enough to know that no rule protects one."""
    return not any(
        rule.verdict is Verdict.PROTECT and (rule.command or rule.exe) for rule in policy.rules
    )


class Births:
    """How many were born lately, by the pids that were given out."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._seen: deque[tuple[float, int]] = deque()

    def note(self, now_s: float, newest_pid: int) -> bool:
        """Whether a crowd may be among them; where that is not known, it may."""
        self._seen.append((now_s, newest_pid))
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - YOUNG_S:
            self._seen.popleft()
        number = newest_pid - self._seen[0][1]
        return len(self._seen) == 1 or not 0 <= number < LEAST  # below 0: pids began anew
