"""An incident that never happens, played before the guard begins.

It walks the way of a real one with invented processes, so that everything on it has run once: the
code is in memory, the heap has grown to what an incident takes, and nothing is looked up late.
"""

import json

from memreap.decide.domain import Rules
from memreap.decide.events import (
    Candidate,
    Candidates,
    Event,
    Identity,
    Measured,
    Report,
    VictimReleased,
)
from memreap.decide.realm import Realm
from memreap.guard.gauges import Figures, TreeGauge
from memreap.guard.look import Look, Seen, facts_without_a_look
from memreap.guard.post import Post
from memreap.guard.settings import Amount, Kind, Scope
from memreap.guard.turns import Turns

ROUNDS = 3
PEOPLE = 64
LIMIT_BYTES = 1 << 30
NAME = "a rehearsal"


def rehearse() -> None:
    """Play it; nobody is signalled, nothing is told."""
    candidates = tuple(
        Candidate((Identity(pid, pid),), "x" * 15, rss_pages=pid, domains=(NAME,))
        for pid in range(1 << 22, (1 << 22) + PEOPLE)
    )
    for _ in range(ROUNDS):
        realm, turns = Realm(), Turns()
        post = Post(
            Scope(Kind.TREE, NAME, limit=Amount(LIMIT_BYTES)), TreeGauge(Scope(Kind.TREE, NAME))
        )
        post.take(1.0, Figures(LIMIT_BYTES + 1, LIMIT_BYTES, LIMIT_BYTES, 0.0, {}))
        seen = tuple(
            Seen(c, (facts_without_a_look(c, c.identity),), command="x" * 300) for c in candidates
        )
        look = Look(NAME, 0, 1.0, 0.0, seen, full_s=1.0)
        post.see(Look.from_message(json.loads(json.dumps(look.as_message()))["look"]), {})
        post.leaves_doubt(1.0)
        realm.add(NAME, Rules(LIMIT_BYTES, LIMIT_BYTES >> 12))
        victim = candidates[-1].identity
        story: tuple[Event, ...] = (
            Measured(NAME, 1.0, LIMIT_BYTES + 1),
            Candidates(NAME, candidates),
            VictimReleased(NAME, victim, 2.0),
            Measured(NAME, 2.1, 0),
        )
        for at_s, event in enumerate(story):
            for effect in realm.step(float(at_s), event):
                if isinstance(effect, Report):
                    json.dumps(turns.of_report(post, effect, dry_run=False))
