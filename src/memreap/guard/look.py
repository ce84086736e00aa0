"""What the scout saw of a domain at one moment, and how it reaches the core.

Only the record and its way through a message live here. The pidfds of those who may be killed
travel beside it: each was open before anything of its process was read, so the numbers, the names
and the judgement are of the process that the descriptor holds, whatever becomes of its pid.
"""

from dataclasses import dataclass
from typing import Any

from memreap.decide.events import Candidate, Identity, Tier
from memreap.linux.procfs import PAGE_SIZE_BYTES, Memory
from memreap.reap.facts import Facts, fields_of

COMMAND_MAX = 300  # characters of a command line that are kept for the record
FDS_IN_A_MESSAGE = 240  # SCM_MAX_FD is 253


@dataclass(frozen=True, slots=True)
class Seen:
    """A candidate, with what a reader of the record wants to know of it.

    ``facts``: of the members that would be reaped, the largest first; the others have none.
    ``crowd``: they die as one since they are many, alike and young; ``nest``: of a crowd whose
    newborn die with it, the directory of its cgroup.
    """

    candidate: Candidate
    facts: tuple[Facts, ...] = ()
    sharers: tuple[int, ...] = ()  # who dies with it, as far as they were looked for
    uid: int = -1
    user: str = ""
    command: str = ""
    cgroup: str = ""
    unit: str = ""
    crowd: bool = False
    nest: str = ""

    def facts_of(self, identity: Identity) -> Facts | None:
        """What is known of a member, None where only its number is."""
        return next((f for f in self.facts if f.pid == identity.pid), None)

    def as_record(self) -> dict[str, object]:
        """As the scribe writes it down."""
        candidate = self.candidate
        return {
            "pids": [member.pid for member in candidate.members],
            "name": candidate.name,
            "uid": self.uid,
            "user": self.user,
            "command": self.command,
            "cgroup": self.cgroup,
            "unit": self.unit,
            "rss_bytes": candidate.rss_pages * PAGE_SIZE_BYTES,
            "swap_bytes": candidate.swap_pages * PAGE_SIZE_BYTES,
            "page_table_bytes": candidate.page_table_pages * PAGE_SIZE_BYTES,
            "oom_score_adj": candidate.oom_score_adj,
            "tier": candidate.tier.name.lower(),
            "crowd": self.crowd,
        }


@dataclass(frozen=True, slots=True)
class Look:
    """A domain's processes: the largest one by one, the others in sum."""

    domain: str
    number: int
    read_s: float  # when it began
    took_s: float
    seen: tuple[Seen, ...]
    others: int = 0
    others_pages: int = 0
    full_s: float = 0.0  # when everyone was last read, and not only those known to be large
    newest_pid: int = 0  # given out when it began: whoever has a later one was born since
    bound: bool = False  # of a NUMA node: whether somebody may use no other
    exiting: tuple[Candidate, ...] = ()  # large, and on their way out; held by their pidfds, too

    def as_message(self) -> dict[str, Any]:
        """As JSON can carry it."""
        seen = [_seen_message(seen) for seen in self.seen]
        return {
            "look": fields_of(self)
            | {"seen": seen, "exiting": [fields_of(c) for c in self.exiting]}
        }

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Look":
        """The inverse of ``as_message``, from what stands under ``look``."""
        seen = tuple(_seen(raw) for raw in message["seen"])
        exiting = tuple(_candidate(raw) for raw in message["exiting"])
        return cls(**{**message, "seen": seen, "exiting": exiting})


def _seen_message(seen: Seen) -> dict[str, Any]:
    facts = [f.as_message() for f in seen.facts]
    return fields_of(seen) | {"candidate": fields_of(seen.candidate), "facts": facts}


def _candidate(raw: dict[str, Any]) -> Candidate:
    return Candidate(
        **{
            **raw,
            "members": tuple(Identity(*member) for member in raw["members"]),
            "tier": Tier(raw["tier"]),
            "domains": tuple(raw["domains"]),
        }
    )


def _seen(raw: dict[str, Any]) -> Seen:
    candidate = _candidate(raw["candidate"])
    facts = tuple(Facts.from_message(dict(f)) for f in raw["facts"])
    sharers = tuple(raw["sharers"])
    return Seen(**{**raw, "candidate": candidate, "facts": facts, "sharers": sharers})


def facts_without_a_look(candidate: Candidate, identity: Identity) -> Facts:
    """What a kill needs, of a process of which nothing but the candidate's figures is known."""
    alone = len(candidate.members) == 1
    anon_bytes = candidate.rss_pages * PAGE_SIZE_BYTES if alone else 0
    return Facts(
        pid=identity.pid,
        start_ticks=identity.start_ticks,
        comm=candidate.name,
        state="?",
        ppid=0,
        kernel_thread=False,
        tids=(identity.pid,),
        thread_states="?",
        oom_score=0,
        oom_score_adj=candidate.oom_score_adj,
        memory=Memory(rss_anon_bytes=anon_bytes),
        usage_file=None,
    )
