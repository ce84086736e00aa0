"""What the core tells the scribe: one message for each turn of an incident.

Only the wording of messages lives here; the docs call them turns, and show their fields.
"""

import itertools
import time
from typing import Any

from memreap.decide.events import Candidate, Choice, Report
from memreap.guard.look import Look, Seen
from memreap.guard.post import HotSet, Post
from memreap.linux.procfs import PAGE_SIZE_BYTES
from memreap.reap.outcome import Outcome


class Turns:
    """Numbers them."""

    def __init__(self) -> None:
        """Begin with 1."""
        self._count = itertools.count(1)
        self.incidents = 0

    def begin_incident(self, post: Post) -> None:
        """Give the domain's incident a number, unless it goes on."""
        if post.incident is None:
            self.incidents += 1
            post.incident = self.incidents

    def turn(self, post: Post, what: str, at_s: float, **more: Any) -> dict[str, Any]:
        """One message."""
        now_s, figures = time.monotonic(), post.figures
        told = dict(figures.details) if figures else {}
        if figures and figures.stall_share is not None:
            told["stall_share"] = figures.stall_share
        told["growth_bytes_per_s"] = round(post.growth_bytes_per_s)
        told |= more.pop("figures", {})
        return {
            "turn": next(self._count),
            "incident": post.incident,
            "domain": post.name,
            "kind": post.scope.kind,
            "what": what,
            "at_s": at_s,
            "wall_s": time.time() - (now_s - at_s),
            "usage_bytes": figures.usage_bytes if figures else 0,
            "limit_bytes": figures.limit_bytes if figures else 0,
            "reason": "",
            "dry_run": False,
            "victim": None,
            "choice": None,
            "outcome": None,
            "figures": told,
            **more,
        }

    def of_report(self, post: Post, report: Report, *, dry_run: bool) -> dict[str, Any]:
        """What decide/ reported."""
        look = post.hot.look
        return self.turn(
            post,
            report.what,
            report.at_s,
            usage_bytes=report.usage_bytes,
            reason=report.reason,
            dry_run=dry_run,
            victim=record_of(report.victim, post.hot) if report.victim else None,
            choice=choice_record(report.choice, look, report.at_s) if report.choice else None,
        )

    def of_outcome(
        self, post: Post, victim: Candidate, outcome: Outcome, incident: int | None
    ) -> dict[str, Any]:
        """What became of one process, which may be later than its domain's relief."""
        return self.turn(
            post,
            "outcome",
            time.monotonic(),
            incident=incident,
            reason=outcome.reason,
            victim=record_of(victim, post.hot),
            outcome=outcome.as_dict(),
        )


def record_of(candidate: Candidate, hot: HotSet) -> dict[str, object]:
    """A candidate with what was seen of it."""
    return hot.told_of(candidate).as_record()


def choice_record(choice: Choice, look: Look | None, now_s: float) -> dict[str, object]:
    """Everyone who was compared, with score or reason."""
    by_members = {s.candidate.members: s for s in look.seen} if look else {}
    ranked = [
        by_members.get(r.candidate.members, Seen(r.candidate)).as_record()
        | {"score_pages": r.score_pages, "why_not": r.why_not}
        for r in choice.ranked
    ]
    return {
        "candidates": ranked,
        "others": choice.others,
        "others_bytes": choice.others_pages * PAGE_SIZE_BYTES,
        "read_s": look.took_s if look else 0.0,
        "age_s": now_s - look.read_s if look else 0.0,
    }
