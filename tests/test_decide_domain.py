"""The life of a domain: stories, and laws that hold for every story."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memreap.decide.domain import (
    DRY_RUN,
    TOO_LITTLE,
    TRANSITIONS,
    Cause,
    Domain,
    Phase,
    Rules,
    State,
)
from memreap.decide.events import (
    AskCandidates,
    Candidate,
    Candidates,
    Effect,
    Event,
    Identity,
    Kill,
    Measured,
    Report,
    Skip,
    Term,
    Tick,
    VictimExited,
    VictimRefused,
    VictimReleased,
    VictimStuck,
    What,
)
from memreap.decide.patience import Patience

D = "d"
MIB = 1 << 20
RULES = Rules(limit_bytes=100 * MIB, totalpages=25600, patience_s=2.0)
BIG = Candidate((Identity(10, 1),), "big", rss_pages=20000)
MID = Candidate((Identity(11, 2),), "mid", rss_pages=9000)
LOW = Candidate((Identity(12, 3),), "low", rss_pages=10)
ALL = (BIG, MID, LOW)


def measured(mib: int, read_s: float, victim_mib: int | None = None) -> Measured:
    victim = None if victim_mib is None else victim_mib * MIB
    return Measured(D, read_s, mib * MIB, victim)


def acts(effects: list[Effect]) -> list[object]:
    """What is done, and the turns that are reported, in order."""
    short: list[object] = []
    for effect in effects:
        match effect:
            case Report(what=what):
                short.append(what)
            case Kill(victim=victim) | Term(victim=victim) | Skip(victim=victim):
                short.append((type(effect), victim.name))
            case AskCandidates():
                short.append(AskCandidates)
    return short


def over(rules: Rules = RULES) -> Domain:
    """A domain that has just killed, or asked to go, its biggest."""
    domain = Domain(D, rules)
    domain.step(1.0, measured(120, 1.0))
    domain.step(1.0, Candidates(D, ALL))
    return domain


def test_from_calm_to_relief() -> None:
    domain = Domain(D, RULES)
    assert domain.step(0.0, measured(100, 0.0)) == []
    assert domain.state == State(usage_bytes=100 * MIB)

    assert acts(domain.step(1.0, measured(120, 1.0))) == [What.PRESSED, AskCandidates]
    assert domain.state == State(Phase.PRESSED, 120 * MIB)

    assert acts(domain.step(1.1, Candidates(D, ALL))) == [(Kill, "big"), What.CHOSEN]
    patience = Patience(1.1, 120 * MIB)
    assert domain.state == State(Phase.RELEASING, 120 * MIB, BIG, patience, 3.1)

    assert acts(domain.step(1.2, VictimReleased(D, BIG.identity, 1.2))) == [What.RELEASED]
    assert domain.state == State(Phase.DRAINING, 120 * MIB, fresh_s=1.2)

    # Read before the release: it says nothing of it.
    assert domain.step(1.3, measured(120, 1.15)) == []

    assert acts(domain.step(1.4, measured(40, 1.3))) == [What.RELIEVED]
    assert domain.state == State(Phase.CALM, 40 * MIB, fresh_s=1.2)


def test_a_reading_from_before_the_release_presses_nobody_even_later() -> None:
    domain = over()
    domain.step(1.2, VictimReleased(D, BIG.identity, 1.2))
    domain.step(1.4, measured(40, 1.3))
    assert domain.step(1.5, measured(120, 1.15)) == []
    assert domain.state == State(Phase.CALM, 40 * MIB, fresh_s=1.2)


def test_second_victim_only_after_the_first_released_and_still_over() -> None:
    domain = over()
    assert domain.step(1.5, measured(200, 1.5)) == []
    assert domain.step(1.5, Candidates(D, ALL)) == []
    domain.step(1.6, VictimExited(D, BIG.identity, 1.6))
    assert acts(domain.step(1.7, measured(110, 1.7))) == [What.PRESSED, AskCandidates]
    assert acts(domain.step(1.7, Candidates(D, (MID, LOW)))) == [(Kill, "mid"), What.CHOSEN]


def test_victim_without_progress_is_skipped_and_never_chosen_again() -> None:
    domain = over()
    assert domain.deadline_s == 3.0
    assert domain.step(2.9, Tick(D)) == []
    assert acts(domain.step(3.0, Tick(D))) == [(Skip, "big"), What.SKIPPED]
    assert domain.state == State(Phase.DRAINING, 120 * MIB, fresh_s=3.0, skipped=(BIG.identity,))
    domain.step(3.1, measured(120, 3.1))
    assert acts(domain.step(3.1, Candidates(D, ALL))) == [(Kill, "mid"), What.CHOSEN]
    # Its late release changes nothing.
    before = domain.state
    assert domain.step(3.2, VictimReleased(D, BIG.identity, 3.2)) == []
    assert domain.state == before


def test_progress_renews_patience() -> None:
    domain = over()
    assert domain.step(2.5, measured(130, 2.5, victim_mib=70)) == []
    assert domain.step(2.8, measured(140, 2.8, victim_mib=50)) == []
    assert domain.deadline_s == 4.8
    assert domain.step(4.7, Tick(D)) == []
    assert acts(domain.step(4.8, Tick(D))) == [(Skip, "big"), What.SKIPPED]


@pytest.mark.parametrize(
    "event", [VictimStuck(D, BIG.identity), VictimRefused(D, BIG.identity, "not permitted")]
)
def test_stuck_or_refused_victim_is_skipped_at_once(event: Event) -> None:
    domain = over()
    assert acts(domain.step(1.2, event)) == [(Skip, "big"), What.SKIPPED]
    assert domain.state.skipped == (BIG.identity,)


def test_pressure_that_passes_kills_nobody() -> None:
    domain = Domain(D, RULES)
    domain.step(1.0, measured(120, 1.0))
    assert acts(domain.step(1.1, measured(90, 1.1))) == [What.RELIEVED]
    assert domain.step(1.2, Candidates(D, ALL)) == []
    assert domain.state == State(usage_bytes=90 * MIB)


def test_nobody_to_kill_is_said_and_asked_again_later() -> None:
    domain = Domain(D, RULES)
    domain.step(1.0, measured(120, 1.0))
    everyone = frozenset(c.identity for c in ALL)
    assert acts(domain.step(1.0, Candidates(D, ALL, everyone))) == [What.HELPLESS]
    assert domain.state == State(Phase.HELPLESS, 120 * MIB, deadline_s=3.0)
    assert domain.step(2.0, measured(130, 2.0)) == []
    assert acts(domain.step(3.0, Tick(D))) == [AskCandidates]
    assert acts(domain.step(3.0, Candidates(D, ALL, everyone))) == [What.HELPLESS]
    assert acts(domain.step(3.5, measured(10, 3.5))) == [What.RELIEVED]


GENTLE = replace(RULES, term_s=1.0, ceiling_bytes=200 * MIB)


def test_small_ones_beside_a_protected_hog_are_left_alone() -> None:
    domain = Domain(D, RULES)
    domain.step(1.0, measured(120, 1.0))
    hog_protected = Candidates(D, (BIG, LOW), frozenset({BIG.identity}))
    (report,) = domain.step(1.0, hog_protected)
    assert isinstance(report, Report)
    assert (report.what, report.reason) == (What.HELPLESS, TOO_LITTLE)
    assert domain.state == State(Phase.HELPLESS, 120 * MIB, deadline_s=3.0)


def test_many_small_ones_die_one_by_one_when_together_they_matter() -> None:
    domain = Domain(D, RULES)
    domain.step(1.0, measured(120, 1.0))
    swarm = tuple(Candidate((Identity(n, n),), "small", rss_pages=20) for n in range(10, 110))
    assert acts(domain.step(1.0, Candidates(D, swarm))) == [(Kill, "small"), What.CHOSEN]


def test_term_then_kill() -> None:
    domain = over(GENTLE)
    assert domain.state == State(Phase.TERMINATING, 120 * MIB, BIG, deadline_s=2.0)
    assert domain.step(1.5, Tick(D)) == []
    assert acts(domain.step(2.0, Tick(D))) == [(Kill, "big")]
    patience = Patience(2.0, 120 * MIB)
    assert domain.state == State(Phase.RELEASING, 120 * MIB, BIG, patience, 4.0)


def test_term_and_it_goes() -> None:
    domain = over(GENTLE)
    assert acts(domain.step(1.5, VictimExited(D, BIG.identity, 1.5))) == [What.RELEASED]
    assert domain.state == State(Phase.DRAINING, 120 * MIB, fresh_s=1.5)


def test_term_and_it_frees_enough_to_be_spared() -> None:
    domain = over(GENTLE)
    assert domain.step(1.5, measured(80, 1.5)) == []
    assert acts(domain.step(2.0, Tick(D))) == [What.SPARED, What.RELIEVED]
    assert domain.state == State(Phase.CALM, 80 * MIB)


def test_term_ends_early_when_the_domain_cannot_wait() -> None:
    domain = over(GENTLE)
    assert domain.step(1.2, measured(199, 1.2)) == []
    assert acts(domain.step(1.3, measured(200, 1.3))) == [(Kill, "big")]


WARY = replace(RULES, warn_bytes=90 * MIB, stall_floor_bytes=80 * MIB)
REHEARSAL = replace(RULES, dry_run=True)


def test_it_warns_once_and_eases_only_well_below() -> None:
    domain = Domain(D, WARY)
    assert domain.step(1.0, measured(90, 1.0)) == []
    assert acts(domain.step(2.0, measured(91, 2.0))) == [What.WARNED]
    assert domain.state == State(Phase.UNEASY, 91 * MIB)
    assert domain.step(3.0, measured(99, 3.0)) == []
    assert domain.step(4.0, measured(89, 4.0)) == []
    assert acts(domain.step(5.0, measured(88, 5.0))) == [What.EASED]
    assert domain.state == State(usage_bytes=88 * MIB)


def test_from_uneasy_to_pressed() -> None:
    domain = Domain(D, WARY)
    domain.step(1.0, measured(91, 1.0))
    assert acts(domain.step(2.0, measured(101, 2.0))) == [What.PRESSED, AskCandidates]
    assert acts(domain.step(3.0, measured(95, 3.0))) == [What.RELIEVED]
    # The warning line is another matter: the next reading tells.
    assert acts(domain.step(4.0, measured(95, 4.0))) == [What.WARNED]


def test_who_no_longer_warns_eases() -> None:
    domain = Domain(D, WARY)
    domain.step(1.0, measured(91, 1.0))
    domain.rules = RULES
    assert acts(domain.step(2.0, measured(91, 2.0))) == [What.EASED]


def test_a_standstill_presses_above_its_floor_and_passes() -> None:
    domain = Domain(D, WARY)
    assert domain.step(1.0, replace(measured(80, 1.0), stalled=True)) == []
    over = domain.step(2.0, replace(measured(81, 2.0), stalled=True))
    assert acts(over) == [What.PRESSED, AskCandidates]
    assert acts(domain.step(3.0, measured(81, 3.0))) == [What.RELIEVED]
    assert acts(Domain(D, RULES).step(2.0, replace(measured(81, 2.0), stalled=True))) == []


def test_in_a_standstill_the_victim_that_was_asked_is_killed() -> None:
    domain = Domain(D, replace(WARY, term_s=1.0))
    domain.step(1.0, replace(measured(85, 1.0), stalled=True))
    assert acts(domain.step(1.0, Candidates(D, ALL))) == [(Term, "big"), What.CHOSEN]
    assert acts(domain.step(2.0, Tick(D))) == [(Kill, "big")]


def test_a_dry_run_decides_once_an_incident_and_signals_nobody() -> None:
    domain = Domain(D, REHEARSAL)
    domain.step(1.0, measured(120, 1.0))
    (report,) = domain.step(1.0, Candidates(D, ALL))
    assert isinstance(report, Report)
    assert (report.what, report.victim, report.reason) == (What.CHOSEN, BIG, DRY_RUN)
    assert report.choice is not None
    assert domain.state == State(Phase.REHEARSED, 120 * MIB)
    assert domain.step(9.0, measured(130, 9.0)) == domain.step(9.0, Candidates(D, ALL)) == []
    assert acts(domain.step(10.0, measured(90, 10.0))) == [What.RELIEVED]
    assert acts(domain.step(11.0, measured(120, 11.0))) == [What.PRESSED, AskCandidates]


def test_a_dry_run_that_ends_amid_an_incident_chooses_anew() -> None:
    domain = Domain(D, REHEARSAL)
    domain.step(1.0, measured(120, 1.0))
    domain.step(1.0, Candidates(D, ALL))
    domain.rules = RULES
    assert acts(domain.step(2.0, measured(120, 2.0))) == [AskCandidates]
    assert acts(domain.step(2.0, Candidates(D, ALL))) == [(Kill, "big"), What.CHOSEN]


def test_a_dry_run_that_begins_amid_an_incident_kills_no_one_who_was_asked_to_go() -> None:
    domain = over(GENTLE)
    domain.rules = replace(GENTLE, dry_run=True)
    assert domain.step(1.5, measured(300, 1.5)) == []
    (_, report) = domain.step(2.0, Tick(D))
    assert isinstance(report, Report)
    assert (report.what, report.reason) == (What.SKIPPED, DRY_RUN)


def test_a_limit_that_was_raised_meanwhile_saves_everyone() -> None:
    domain = Domain(D, RULES)
    domain.step(1.0, measured(120, 1.0))
    domain.rules = replace(RULES, limit_bytes=200 * MIB)
    assert acts(domain.step(1.1, Candidates(D, ALL))) == [What.RELIEVED]


def test_those_not_listed_singly_count_when_it_is_asked_whether_it_helps() -> None:
    domain = Domain(D, RULES)
    domain.step(1.0, measured(120, 1.0))
    few = Candidates(D, (LOW,), others=300, others_pages=1269)
    (report,) = domain.step(1.0, few)
    assert isinstance(report, Report)
    assert (report.what, report.reason) == (What.HELPLESS, TOO_LITTLE)
    assert report.choice is not None
    assert (report.choice.others, report.choice.others_pages) == (300, 1269)
    domain.step(3.0, Tick(D))
    enough = replace(few, others_pages=1270)
    assert acts(domain.step(3.0, enough)) == [(Kill, "low"), What.CHOSEN]


def test_only_so_many_skipped_ones_are_remembered() -> None:
    domain = Domain(D, RULES)
    domain.state = replace(domain.state, skipped=tuple(Identity(n, 99) for n in range(1, 5000)))
    domain.step(1.0, measured(120, 1.0))
    domain.step(1.0, Candidates(D, ALL))
    domain.step(1.1, VictimStuck(D, BIG.identity))
    assert len(domain.state.skipped) == 4096
    assert domain.state.skipped[-1] == BIG.identity


def test_every_phase_can_be_reached_and_left() -> None:
    for phase in Phase:
        assert any(start is phase for start, _ in TRANSITIONS)
        assert phase in TRANSITIONS.values()
    for cause in Cause:
        assert any(why is cause for _, why in TRANSITIONS)


def test_no_other_transition_is_possible() -> None:
    domain = over()
    with pytest.raises(AssertionError):
        domain._move(Cause.OVER, domain.state)


IDENTITIES = [c.identity for c in ALL]
EVENTS = st.one_of(
    st.builds(
        Measured,
        st.just(D),
        st.just(0.0),
        st.integers(0, 220).map(lambda m: m * MIB),
        st.one_of(st.none(), st.integers(0, 100).map(lambda m: m * MIB)),
    ),
    st.builds(
        Candidates,
        st.just(D),
        st.permutations(ALL).map(tuple),
        st.frozensets(st.sampled_from(IDENTITIES)),
    ),
    st.builds(VictimReleased, st.just(D), st.sampled_from(IDENTITIES), st.just(0.0)),
    st.builds(VictimExited, st.just(D), st.sampled_from(IDENTITIES), st.just(0.0)),
    st.builds(VictimStuck, st.just(D), st.sampled_from(IDENTITIES)),
    st.builds(VictimRefused, st.just(D), st.sampled_from(IDENTITIES), st.just("no")),
    st.just(Tick(D)),
)
STORIES = st.lists(st.tuples(st.floats(0, 1.5), EVENTS), max_size=60)


@dataclass
class Watcher:
    """Knows the laws, not the domain's state."""

    rules: Rules
    domain: Domain = field(init=False)
    victim: Identity | None = None
    killed: bool = False
    moved_s: float = 0.0
    lowest: tuple[int, int] = (0, 0)
    usage_bytes: int = 0
    skipped: set[Identity] = field(default_factory=set)
    must_measure: bool = False

    def __post_init__(self) -> None:
        self.domain = Domain(D, self.rules)

    def see(self, now_s: float, event: Event) -> None:
        if isinstance(event, Measured):
            event = replace(event, read_s=now_s)
        elif isinstance(event, VictimReleased | VictimExited):
            event = replace(event, at_s=now_s)
        effects = self.domain.step(now_s, event)
        self.before(event)
        for effect in effects:
            if isinstance(effect, Kill | Term):
                self.chosen(effect, event, now_s)
            if isinstance(effect, Skip):
                self.gave_up(effect, event, now_s)
            if isinstance(effect, Report) and effect.what is What.SPARED:
                assert self.usage_bytes <= self.rules.limit_bytes
                self.victim = None

    def before(self, event: Event) -> None:
        match event:
            case Measured():
                self.usage_bytes = event.usage_bytes
                self.must_measure = False
            case VictimReleased(victim=who) | VictimExited(victim=who) if who == self.victim:
                self.victim, self.must_measure = None, True

    def chosen(self, effect: Kill | Term, event: Event, now_s: float) -> None:
        who = effect.victim.identity
        if self.victim is not None:
            # Law 2: nobody else, while one is under way; SIGKILL may follow SIGTERM.
            assert (who, self.killed, type(effect)) == (self.victim, False, Kill)
        else:
            assert isinstance(event, Candidates)
            assert who not in event.protected, "law 1"
            assert who not in self.skipped, "a skipped one is never chosen again"
            assert not self.must_measure, "law 2: pressed still, by a reading after the release"
        assert self.usage_bytes > self.rules.limit_bytes, "nobody dies within the limit"
        self.victim, self.killed, self.moved_s = who, isinstance(effect, Kill), now_s

    def gave_up(self, effect: Skip, event: Event, now_s: float) -> None:
        assert effect.victim.identity == self.victim
        if not isinstance(event, VictimStuck | VictimRefused):
            assert now_s >= self.moved_s + self.rules.patience_s, "law 2: patience"
        self.skipped.add(effect.victim.identity)
        self.victim, self.must_measure = None, True


@settings(max_examples=400)
@given(STORIES, st.sampled_from([RULES, GENTLE]))
def test_laws_hold_in_every_story(story: list[tuple[float, Event]], rules: Rules) -> None:
    watcher, now_s = Watcher(rules), 0.0
    for wait_s, event in story:
        now_s += wait_s
        watcher.see(now_s, event)


@given(STORIES)
def test_equal_stories_end_in_equal_states(story: list[tuple[float, Event]]) -> None:
    one, two = Domain(D, RULES), Domain(D, RULES)
    now_s = 0.0
    for wait_s, event in story:
        now_s += wait_s
        assert one.step(now_s, event) == two.step(now_s, event)
        assert one.state == two.state


@given(STORIES)
def test_patience_always_ends(story: list[tuple[float, Event]]) -> None:
    """Without news of a victim, ticks alone bring every domain out of waiting."""
    domain, now_s = Domain(D, RULES), 0.0
    for wait_s, event in story:
        now_s += wait_s
        domain.step(now_s, event)
    if domain.state.phase is Phase.RELEASING:
        assert domain.deadline_s is not None
        effects = domain.step(max(now_s, domain.deadline_s), Tick(D))
        assert any(isinstance(effect, Skip) for effect in effects)
