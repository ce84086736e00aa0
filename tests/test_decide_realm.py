"""Domains that overlap, as stories: a cgroup inside the system, a process on two NUMA nodes."""

import tracemalloc
from dataclasses import replace

from memreap.decide.domain import Phase, Rules, State
from memreap.decide.events import (
    AskCandidates,
    Candidate,
    Candidates,
    Effect,
    Identity,
    Kill,
    Measured,
    Report,
    Skip,
    Term,
    VictimExited,
    VictimRefused,
    VictimReleased,
    VictimStuck,
    What,
)
from memreap.decide.patience import Patience
from memreap.decide.realm import ALREADY_KILLED, EXITING, Realm

MIB = 1 << 20
RULES = Rules(limit_bytes=100 * MIB, totalpages=25600, patience_s=2.0)
GENTLE = replace(RULES, term_s=5.0)
SYSTEM, GROUP, OTHER = "system", "cgroup:/a", "cgroup:/b"
HOG = Candidate((Identity(10, 1),), "hog", rss_pages=20000, domains=(SYSTEM, GROUP))
MID = Candidate((Identity(11, 2),), "mid", rss_pages=9000, domains=(SYSTEM, GROUP))
FAR = Candidate((Identity(12, 3),), "far", rss_pages=8000, domains=(SYSTEM, OTHER))


def realm(rules: Rules = RULES, *names: str) -> Realm:
    made = Realm()
    for name in names or (SYSTEM, GROUP, OTHER):
        made.add(name, rules)
    return made


def press(realm: Realm, now_s: float, name: str, *crowd: Candidate) -> list[tuple[str, str, str]]:
    """Over its limit, and answered: what comes of it."""
    pressed = realm.step(now_s, Measured(name, now_s, 120 * MIB))
    assert AskCandidates(name) in pressed
    return acts(realm.step(now_s, Candidates(name, crowd)))


def acts(effects: list[Effect]) -> list[tuple[str, str, str]]:
    short = []
    for effect in effects:
        match effect:
            case Report(domain=domain, what=what, victim=victim):
                short.append((domain, what.value, victim.name if victim else ""))
            case Kill(domain=domain, victim=victim) | Term(domain=domain, victim=victim):
                short.append((domain, type(effect).__name__, victim.name))
            case Skip(domain=domain, victim=victim):
                short.append((domain, "Skip", victim.name))
            case AskCandidates(domain=domain):
                short.append((domain, "Ask", ""))
    return short


KILLED_BY_GROUP = [(GROUP, "Kill", "hog"), (GROUP, "chosen", "hog")]
SHARED_BY_SYSTEM = [(SYSTEM, "shared", "hog")]


def test_disjoint_domains_have_a_victim_each() -> None:
    both = realm()
    assert press(both, 1.0, GROUP, HOG, MID) == KILLED_BY_GROUP
    assert press(both, 1.1, OTHER, FAR) == [(OTHER, "Kill", "far"), (OTHER, "chosen", "far")]


def test_a_victim_under_way_is_adopted_and_its_release_reaches_all() -> None:
    both = realm()
    assert press(both, 1.0, GROUP, HOG, MID) == KILLED_BY_GROUP
    assert press(both, 1.5, SYSTEM, HOG, MID, FAR) == SHARED_BY_SYSTEM
    patience = Patience(1.5, 120 * MIB)
    shared = State(Phase.RELEASING, 120 * MIB, HOG, patience, 3.5, shared=True)
    assert both.domain(SYSTEM).state == shared
    assert both.deadline_s == 3.0

    released = both.step(2.0, VictimReleased(GROUP, HOG.identity, 2.0))
    assert acts(released) == [(SYSTEM, "released", "hog"), (GROUP, "released", "hog")]
    assert both.domain(SYSTEM).state == State(Phase.DRAINING, 120 * MIB, fresh_s=2.0)
    # Read before the release.
    assert both.step(2.1, Measured(SYSTEM, 1.9, 120 * MIB)) == []
    assert acts(both.step(2.2, Measured(SYSTEM, 2.1, 50 * MIB))) == [(SYSTEM, "relieved", "")]


def test_a_victim_is_known_by_our_own_snapshot_where_its_own_did_not_tell() -> None:
    both = realm()
    hog = replace(HOG, domains=())
    press(both, 1.0, GROUP, hog, MID)
    assert press(both, 1.5, SYSTEM, hog, MID, FAR) == SHARED_BY_SYSTEM


def test_an_adopter_has_a_patience_of_its_own_and_the_dead_stay_dead() -> None:
    both = realm()
    press(both, 1.0, GROUP, HOG, MID)
    press(both, 2.5, SYSTEM, HOG, MID, FAR)
    assert acts(both.tick(3.0)) == [(GROUP, "Skip", "hog"), (GROUP, "skipped", "hog")]
    assert acts(both.tick(4.5)) == [(SYSTEM, "Skip", "hog"), (SYSTEM, "skipped", "hog")]
    both.step(4.6, Measured(SYSTEM, 4.6, 120 * MIB))
    effects = both.step(4.6, Candidates(SYSTEM, (HOG, MID, FAR)))
    assert acts(effects) == [(SYSTEM, "Kill", "mid"), (SYSTEM, "chosen", "mid")]


def test_one_who_was_skipped_is_not_adopted_again() -> None:
    both = realm()
    press(both, 1.0, GROUP, HOG, MID)
    press(both, 1.5, SYSTEM, HOG, MID, FAR)
    # In its own cgroup it shrinks; the system as a whole does not.
    both.step(2.9, Measured(GROUP, 2.9, 110 * MIB))
    assert acts(both.tick(3.5)) == [(SYSTEM, "Skip", "hog"), (SYSTEM, "skipped", "hog")]
    assert both.domain(GROUP).state.phase is Phase.RELEASING
    both.step(3.6, Measured(SYSTEM, 3.6, 120 * MIB))
    effects = both.step(3.6, Candidates(SYSTEM, (HOG, FAR)))
    assert acts(effects) == [(SYSTEM, "Kill", "far"), (SYSTEM, "chosen", "far")]


def test_one_whom_another_killed_is_never_chosen() -> None:
    both = realm()
    press(both, 1.0, GROUP, HOG, MID)
    both.step(1.1, VictimStuck(GROUP, HOG.identity))
    both.step(1.2, Measured(SYSTEM, 1.2, 120 * MIB))
    effects = both.step(1.2, Candidates(SYSTEM, (HOG, FAR)))
    assert acts(effects) == [(SYSTEM, "Kill", "far"), (SYSTEM, "chosen", "far")]
    chosen = effects[1]
    assert isinstance(chosen, Report)
    assert chosen.choice is not None
    assert [r.why_not for r in chosen.choice.ranked] == ["", ALREADY_KILLED]


def test_a_refused_victim_is_skipped_by_all_and_tried_by_none() -> None:
    both = realm()
    press(both, 1.0, GROUP, HOG, MID)
    press(both, 1.1, SYSTEM, HOG, MID, FAR)
    refused = both.step(1.2, VictimRefused(GROUP, HOG.identity, "not permitted"))
    assert [act for act in acts(refused) if act[1] == "Skip"] == [
        (SYSTEM, "Skip", "hog"),
        (GROUP, "Skip", "hog"),
    ]
    both.step(1.3, Measured(OTHER, 1.3, 120 * MIB))
    (helpless,) = both.step(1.3, Candidates(OTHER, (HOG,)))
    assert isinstance(helpless, Report)
    assert helpless.choice is not None
    assert helpless.choice.ranked[0].why_not == "could not be killed: not permitted"


def test_adopters_go_on_when_the_owner_is_removed() -> None:
    both = realm()
    press(both, 1.0, GROUP, HOG, MID)
    press(both, 1.1, SYSTEM, HOG, MID, FAR)
    both.remove(GROUP)
    assert [d.name for d in both] == [SYSTEM, OTHER]
    assert both.step(1.2, Measured(GROUP, 1.2, 500 * MIB)) == []
    exited = both.step(1.3, VictimExited(GROUP, HOG.identity, 1.3))
    assert acts(exited) == [(SYSTEM, "released", "hog")]


def test_one_who_was_only_asked_is_killed_by_the_first_that_cannot_wait() -> None:
    both = realm(GENTLE)
    assert press(both, 1.0, GROUP, HOG)[0] == (GROUP, "Term", "hog")
    assert press(both, 1.5, SYSTEM, HOG, FAR) == SHARED_BY_SYSTEM
    asked = State(Phase.TERMINATING, 120 * MIB, HOG, deadline_s=3.5, shared=True)
    assert both.domain(SYSTEM).state == asked

    assert acts(both.tick(3.5)) == [(SYSTEM, "Kill", "hog")]
    patience = Patience(3.5, 120 * MIB)
    killed = State(Phase.RELEASING, 120 * MIB, HOG, patience, 5.5)
    assert both.domain(SYSTEM).state == both.domain(GROUP).state == killed
    released = both.step(4.0, VictimReleased(SYSTEM, HOG.identity, 4.0))
    assert [what for _, what, _ in acts(released)] == ["released", "released"]


def test_when_the_owner_kills_the_adopter_waits_anew() -> None:
    both = realm(replace(RULES, term_s=1.0))
    press(both, 1.0, GROUP, HOG)
    press(both, 1.5, SYSTEM, HOG, FAR)
    assert acts(both.tick(2.0)) == [(GROUP, "Kill", "hog")]
    patience = Patience(2.0, 120 * MIB)
    waiting = State(Phase.RELEASING, 120 * MIB, HOG, patience, 4.0, shared=True)
    assert both.domain(SYSTEM).state == waiting


def test_an_adopter_within_its_line_leaves_the_victim_to_the_other() -> None:
    both = realm(GENTLE)
    press(both, 1.0, GROUP, HOG)
    press(both, 1.5, SYSTEM, HOG, FAR)
    both.step(2.0, Measured(SYSTEM, 2.0, 90 * MIB))
    assert acts(both.tick(3.5)) == [(SYSTEM, "relieved", "")]
    assert both.domain(SYSTEM).state == State(usage_bytes=90 * MIB)
    assert both.domain(GROUP).state.phase is Phase.TERMINATING


def test_one_who_was_spared_may_be_chosen_again() -> None:
    both = realm(GENTLE)
    press(both, 1.0, GROUP, HOG)
    both.step(2.0, Measured(GROUP, 2.0, 90 * MIB))
    assert acts(both.tick(6.0)) == [(GROUP, "spared", "hog"), (GROUP, "relieved", "")]
    assert press(both, 7.0, SYSTEM, HOG, FAR)[0] == (SYSTEM, "Term", "hog")


def test_a_dry_run_waits_for_the_victim_of_others_and_never_kills_it() -> None:
    both = realm(GENTLE)
    both.set_rules(SYSTEM, replace(RULES, dry_run=True))
    press(both, 1.0, GROUP, HOG)
    assert press(both, 1.5, SYSTEM, HOG, FAR) == SHARED_BY_SYSTEM
    assert acts(both.tick(3.5)) == [(SYSTEM, "Skip", "hog"), (SYSTEM, "skipped", "hog")]


def test_other_rules_do_not_change_where_a_domain_stands() -> None:
    both = realm()
    press(both, 1.0, GROUP, HOG)
    before = both.domain(GROUP).state
    both.set_rules(GROUP, replace(RULES, limit_bytes=MIB))
    assert both.domain(GROUP).state is before


def test_only_so_many_dead_are_remembered() -> None:
    both = realm()
    for n in range(5000):
        hog = replace(HOG, members=(Identity(100 + n, 1),))
        press(both, n, GROUP, hog)
        both.step(n, VictimReleased(GROUP, hog.identity, n))
        assert acts(both.step(n, Measured(GROUP, n, 0))) == [(GROUP, What.RELIEVED.value, "")]
    assert len(both._spent) == 4096
    assert press(both, 5000, GROUP, hog) == [(GROUP, "helpless", "")]


def test_a_calm_reading_leaves_nothing_behind() -> None:
    calm, reading = realm(), Measured(GROUP, 1.0, 50 * MIB)
    calm.step(1.0, reading)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(100):
            calm.step(1.0, reading)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 500
    assert peak - before < 2000


def test_who_is_exiting_by_another_hand_is_waited_for_once_and_then_no_more() -> None:
    alone = realm(RULES, GROUP)
    gone = Candidate((Identity(9, 1),), "gone", rss_pages=15000)
    alone.step(1.0, Measured(GROUP, 1.0, 120 * MIB))
    waiting = alone.step(1.0, Candidates(GROUP, (MID,), exiting=(gone,)))
    assert acts(waiting) == [(GROUP, "shared", "gone")]
    assert [e.reason for e in waiting if isinstance(e, Report)] == [EXITING]
    assert acts(alone.step(1.5, Measured(GROUP, 1.5, 120 * MIB))) == []
    assert acts(alone.tick(3.1)) == [(GROUP, "Skip", "gone"), (GROUP, "skipped", "gone")]
    assert (GROUP, "Ask", "") in acts(alone.step(3.2, Measured(GROUP, 3.2, 120 * MIB)))
    again = alone.step(3.2, Candidates(GROUP, (MID,), exiting=(gone,)))
    assert acts(again) == [(GROUP, "Kill", "mid"), (GROUP, "chosen", "mid")]


def test_relief_by_who_exits_costs_nobody() -> None:
    alone = realm(RULES, GROUP)
    gone = Candidate((Identity(9, 1),), "gone", rss_pages=15000)
    alone.step(1.0, Measured(GROUP, 1.0, 120 * MIB))
    alone.step(1.0, Candidates(GROUP, (MID,), exiting=(gone,)))
    over = alone.step(1.4, VictimExited(GROUP, gone.identity, 1.4))
    assert acts(over) == [(GROUP, "released", "gone")]
    assert acts(alone.step(1.4, Measured(GROUP, 1.4, 60 * MIB))) == [(GROUP, "relieved", "")]
