"""What the guard answers when it is asked how things are.

Only that answer is made here.
"""

from typing import Any

from memreap.decide.badness import choose
from memreap.decide.domain import Phase
from memreap.decide.events import Choice, Tier
from memreap.decide.realm import Realm
from memreap.guard.post import Post
from memreap.guard.turns import choice_record, record_of


def domain_status(post: Post, realm: Realm) -> dict[str, Any]:
    """One domain: how it stands, and who would be next."""
    domain, figures, look = realm.domain(post.name), post.figures, post.hot.look
    rules, state = domain.rules, domain.state
    foremost: dict[str, object] | None = None
    why = "nobody was looked at yet"
    if look is not None:
        seen = [s.candidate for s in look.seen]
        choice = choose(seen, rules.totalpages, (), state.skipped)
        ranked = choice_record(choice, look, look.read_s)["candidates"]
        assert isinstance(ranked, list)
        foremost = ranked[0] if choice.best else None
        why = _why(choice)
    return {
        "name": post.name,
        "kind": post.scope.kind,
        "phase": state.phase,
        "usage_bytes": figures.usage_bytes if figures else 0,
        "limit_bytes": rules.limit_bytes,
        "whole_bytes": figures.whole_bytes if figures else 0,
        "warn_bytes": rules.warn_bytes,
        "stall_share": figures.stall_share if figures else None,
        "growth_bytes_per_s": post.growth_bytes_per_s if state.phase is not Phase.CALM else 0.0,
        "victim": record_of(state.victim, post.hot) if state.victim else None,
        "next": foremost,
        "next_why": why,
        "skipped": len(state.skipped),
    }


def _why(choice: Choice) -> str:
    eligible = [r for r in choice.ranked if r.score_pages is not None]
    if choice.best is None:
        return "nobody may be killed" if choice.ranked else "nobody is in it"
    if len(eligible) == 1:
        return "the only candidate"
    if eligible[0].tier is Tier.PREFER is not eligible[1].tier:
        return "preferred by the configuration"
    return f"the highest badness of {len(eligible)}"
