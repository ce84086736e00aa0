"""The record of one incident, from pressure to relief: what was read, chosen, done and got.

Only the record lives here, as plain values that JSON carries.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from memreap.decide.events import Candidate, Choice
from memreap.linux.procfs import PAGE_SIZE_BYTES, printable


def _candidate(candidate: Candidate) -> dict[str, object]:
    return {
        "pids": [member.pid for member in candidate.members],
        "name": printable(candidate.name),
        "rss_bytes": candidate.rss_pages * PAGE_SIZE_BYTES,
        "swap_bytes": candidate.swap_pages * PAGE_SIZE_BYTES,
        "page_table_bytes": candidate.page_table_pages * PAGE_SIZE_BYTES,
        "oom_score_adj": candidate.oom_score_adj,
    }


@dataclass(slots=True)
class Death:
    """One victim: whom, why this one, and what came of it."""

    victim: Candidate
    choice: Choice
    usage_bytes: int
    chosen_s: float
    outcome: str = ""  # exited, reaped, stuck, refused, skipped, spared
    reason: str = ""
    seconds_to_release: float | None = None
    released_bytes: int = 0
    members: list[dict[str, object]] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """All of it, with every candidate's score in pages."""
        ranked = [
            _candidate(r.candidate) | {"score_pages": r.score_pages, "why_not": r.why_not}
            for r in self.choice.ranked
        ]
        return {
            "victim": _candidate(self.victim),
            "usage_bytes": self.usage_bytes,
            "outcome": self.outcome,
            "reason": self.reason,
            "seconds_to_release": self.seconds_to_release,
            "released_bytes": self.released_bytes,
            "members": self.members,
            "candidates": ranked,
        }


@dataclass(slots=True)
class Incident:
    """From the first reading over the budget to the first within it."""

    number: int
    budget_bytes: int
    usage_bytes: int
    began_s: float
    means: str
    when: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    deaths: list[Death] = field(default_factory=list)
    relieved_s: float | None = None
    helpless: Choice | None = None

    def as_dict(self) -> dict[str, object]:
        """All of it."""
        relieved_s = self.relieved_s
        return {
            "incident": self.number,
            "when": self.when,
            "budget_bytes": self.budget_bytes,
            "usage_bytes": self.usage_bytes,
            "means": self.means,
            "seconds_to_relief": None if relieved_s is None else relieved_s - self.began_s,
            "helpless": self.helpless is not None,
            "victims": [death.as_dict() for death in self.deaths],
        }
