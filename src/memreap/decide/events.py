"""What can happen to a domain, and what can be done about it.

Only frozen values live here. Events go into :meth:`memreap.decide.domain.Domain.step`, effects
come out of it; each names its domain, so that one loop can serve many.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple


class Identity(NamedTuple):
    """A process that cannot be mistaken for a later one of the same pid."""

    pid: int
    start_ticks: int


class Tier(IntEnum):
    """How gladly policy gives one up: the higher goes first."""

    AVOID = 0
    NORMAL = 1
    PREFER = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may be chosen: a process, or a group that dies as one.

    The figures are those of ``oom_badness``, in pages, so that a decision can be checked against
    the kernel's by hand.
    """

    members: tuple[Identity, ...]
    name: str
    rss_pages: int = 0
    swap_pages: int = 0
    page_table_pages: int = 0
    oom_score_adj: int = 0
    has_mm: bool = True
    is_kernel_thread: bool = False
    tier: Tier = Tier.NORMAL
    barred: str = ""  # why policy forbids it
    domains: tuple[str, ...] = ()  # in which it holds memory; empty: only in the one that asks

    @property
    def identity(self) -> Identity:
        """The first member, which stands for all."""
        return self.members[0]

    @property
    def pages(self) -> int:
        """What its mm holds: resident, swapped out, and page tables."""
        return self.rss_pages + self.swap_pages + self.page_table_pages


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate as it was judged; ``score_pages`` is None for one that must not be chosen.

    ``tier`` is the one it was ranked in, which need not be the one that policy wishes for.
    """

    candidate: Candidate
    score_pages: int | None
    why_not: str = ""
    tier: Tier = Tier.NORMAL


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom to kill, if anyone, and how everyone was judged, best candidate first."""

    best: Candidate | None
    ranked: tuple[Ranked, ...]
    others: int = 0  # who were not listed singly, because they are small
    others_pages: int = 0


# What can happen.


@dataclass(frozen=True, slots=True)
class Measured:
    """The domain's usage, and the victim's own remaining memory where that is known.

    ``read_s`` is when the reading began: one begun before a release knows nothing of it. The same
    goes for ``stalled``, which speaks of a span: the caller lets a new one begin with each release.
    """

    domain: str
    read_s: float
    usage_bytes: int
    victim_bytes: int | None = None
    stalled: bool = False  # PSI: everything stands still for memory


@dataclass(frozen=True, slots=True)
class Candidates:
    """Everyone in the domain, in the order of the kernel's task list, and whom policy protects.

    Small ones may be left out, and stand in ``others`` by their number and pages. Whoever is
    ``exiting`` is no candidate any more, and its memory is perhaps not back yet.
    """

    domain: str
    candidates: tuple[Candidate, ...]
    protected: frozenset[Identity] = frozenset()
    others: int = 0
    others_pages: int = 0
    exiting: tuple[Candidate, ...] = ()  # large, and on their way out by another's hand


@dataclass(frozen=True, slots=True)
class VictimReleased:
    """The victim's memory is back, though it may still hang."""

    domain: str
    victim: Identity
    at_s: float


@dataclass(frozen=True, slots=True)
class VictimExited:
    """The victim is gone, and its memory with it."""

    domain: str
    victim: Identity
    at_s: float


@dataclass(frozen=True, slots=True)
class VictimStuck:
    """The victim was killed, and whoever reaps it has given up."""

    domain: str
    victim: Identity


@dataclass(frozen=True, slots=True)
class VictimRefused:
    """The victim was not killed: not permitted, or no longer who it was."""

    domain: str
    victim: Identity
    reason: str


@dataclass(frozen=True, slots=True)
class VictimShared:
    """A victim of another domain, or of somebody else, holds memory here, too.

    ``killed``: or only asked to go; ``why``: how we know.
    """

    domain: str
    victim: Candidate
    killed: bool
    why: str


@dataclass(frozen=True, slots=True)
class VictimKilled:
    """The victim was asked to go, and another domain that waits for it has now killed it."""

    domain: str
    victim: Identity


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: the domain's own deadline may have come."""

    domain: str


Fate = VictimReleased | VictimExited | VictimStuck | VictimRefused
Event = Measured | Candidates | VictimShared | VictimKilled | Fate | Tick


# What can be done.


class What(StrEnum):
    """The turns of an incident that someone may want to read about."""

    WARNED = "warned"
    EASED = "eased"
    PRESSED = "pressed"
    CHOSEN = "chosen"
    SHARED = "shared"
    RELEASED = "released"
    SKIPPED = "skipped"
    SPARED = "spared"
    HELPLESS = "helpless"
    RELIEVED = "relieved"


@dataclass(frozen=True, slots=True)
class AskCandidates:
    """Take a snapshot of everyone in the domain, and answer with :class:`Candidates`."""

    domain: str


@dataclass(frozen=True, slots=True)
class Term:
    """SIGTERM: the victim may save what it holds."""

    domain: str
    victim: Candidate


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL and reap."""

    domain: str
    victim: Candidate


@dataclass(frozen=True, slots=True)
class Skip:
    """Wait for this victim no longer; never choose it again."""

    domain: str
    victim: Candidate


@dataclass(frozen=True, slots=True)
class Report:
    """Something to write down; ``choice`` stands where one was made."""

    domain: str
    what: What
    at_s: float
    usage_bytes: int
    victim: Candidate | None = None
    choice: Choice | None = None
    reason: str = ""


Effect = AskCandidates | Term | Kill | Skip | Report
