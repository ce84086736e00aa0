"""The laws of the guard, one test each, over random lives of two to four domains.

A history is bytes: three a step, so that Hypothesis can shorten it. ``World`` plays the machine:
processes that grow, die, are released soon, late or never. Each law reads the log of what happened
and knows nothing of how the realm came to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from memreap.decide.domain import TRANSITIONS, Phase, Rules, State
from memreap.decide.events import (
    AskCandidates,
    Candidate,
    Candidates,
    Effect,
    Event,
    Fate,
    Identity,
    Kill,
    Measured,
    Report,
    Skip,
    Term,
    Tick,
    Tier,
    VictimExited,
    VictimRefused,
    VictimReleased,
    VictimStuck,
    What,
)
from memreap.decide.realm import Realm

MIB, MIB_PAGES = 1 << 20, 256
RULES = Rules(limit_bytes=100 * MIB, totalpages=25600, patience_s=2.0, ceiling_bytes=200 * MIB)
RULES = replace(RULES, warn_bytes=90 * MIB, stall_floor_bytes=80 * MIB)
GENTLE = replace(RULES, term_s=1.0)
# Which domains there are, and where a process may hold memory.
LAYOUTS = {
    "disjoint": (("a",), ("b",)),
    "a cgroup inside the system": (("system",), ("system", "cgroup")),
    "two NUMA nodes": (("n0",), ("n1",), ("n0", "n1")),
    "all": (("system", "n0"), ("system", "n1"), ("system", "cgroup", "n0", "n1")),
}
PROTECTED = Identity(13, 1)
UNTOUCHABLE = (
    Candidate((Identity(1, 0),), "init", rss_pages=5 * MIB_PAGES),
    Candidate((Identity(2, 0),), "kthreadd", is_kernel_thread=True, has_mm=False),
    Candidate((Identity(11, 1),), "unkillable", rss_pages=9 * MIB_PAGES, oom_score_adj=-1000),
    Candidate((Identity(12, 1),), "guard", rss_pages=9 * MIB_PAGES, barred="memreap itself"),
    Candidate((PROTECTED,), "protected", rss_pages=9 * MIB_PAGES),
)


@dataclass(frozen=True)
class Turn:
    """One step of the realm, and each domain before and after it."""

    now_s: float
    event: Event
    effects: list[Effect]
    before: dict[str, State]
    after: dict[str, State]
    rules: dict[str, Rules]


@dataclass
class World:
    """The machine under the realm."""

    places: tuple[tuple[str, ...], ...]
    rules: Rules
    now_s: float = 10.0
    realm: Realm = field(default_factory=Realm)
    crowd: dict[Identity, Candidate] = field(default_factory=dict)
    doomed: dict[Identity, str] = field(default_factory=dict)  # by which domain
    asking: list[str] = field(default_factory=list)
    log: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = tuple(dict.fromkeys(name for place in self.places for name in place))
        for name in self.names:
            self.realm.add(name, self.rules)
        for n, candidate in enumerate(UNTOUCHABLE):
            self.put(candidate, n)
        for n in range(5):
            self.spawn(n, 40 * n)

    def put(self, candidate: Candidate, place: int) -> None:
        domains = self.places[place % len(self.places)]
        self.crowd[candidate.identity] = replace(candidate, domains=domains)

    def spawn(self, place: int, kind: int) -> None:
        """A new one, a pair that dies as one now and then."""
        pid = 100 + 2 * (len(self.log) + len(self.crowd))
        members = (Identity(pid, 1), Identity(pid + 1, 1))[: 1 + (kind % 5 == 0)]
        tier = Tier(kind % 3)
        name = f"p{pid}"
        self.put(Candidate(members, name, rss_pages=kind * MIB_PAGES // 4, tier=tier), place)

    def usage_bytes(self, name: str) -> int:
        pages = sum(c.pages for c in self.crowd.values() if name in c.domains)
        return pages // MIB_PAGES * MIB

    def step(self, event: Event) -> None:
        before = {d.name: d.state for d in self.realm}
        effects = self.realm.step(self.now_s, event)
        after = {d.name: d.state for d in self.realm}
        rules = {d.name: d.rules for d in self.realm}
        self.log.append(Turn(self.now_s, event, effects, before, after, rules))
        for effect in effects:
            match effect:
                case AskCandidates(domain=name):
                    self.asking.append(name)
                case Kill(domain=name, victim=victim) | Term(domain=name, victim=victim):
                    self.doomed.pop(victim.identity, None)
                    self.doomed[victim.identity] = name

    # What may happen, each with two arguments from 0 to 255.

    def look(self, which: int, stalled: int) -> None:
        for name in self.names if which % 2 else (self.names[which % len(self.names)],):
            victim = self.realm.domain(name).state.victim if name in self.realm else None
            left = self.crowd.get(victim.identity) if victim else None
            left_bytes = left.pages // MIB_PAGES * MIB if left else 0 if victim else None
            usage_bytes = self.usage_bytes(name)
            self.step(Measured(name, self.now_s, usage_bytes, left_bytes, stalled % 8 == 0))

    def look_late(self, which: int, age: int) -> None:
        name = self.names[which % len(self.names)]
        self.step(Measured(name, self.now_s - age / 100, self.usage_bytes(name)))

    def answer(self, shift: int, others: int) -> None:
        asking, self.asking = self.asking, []
        for name in asking:
            here = [c for c in self.crowd.values() if name in c.domains]
            turned = tuple(here[shift % 3 :] + here[: shift % 3])
            pages = others % 4 * 500
            self.step(Candidates(name, turned, frozenset({PROTECTED}), others % 4, pages))

    def wait(self, long: int, _: int) -> None:
        self.now_s += long % 32 / 8
        for name in self.names:
            self.step(Tick(name))

    def grow(self, which: int, mib: int) -> None:
        identity = self.some(list(self.crowd), which)
        grown = self.crowd[identity]
        self.crowd[identity] = replace(grown, rss_pages=grown.rss_pages + mib % 100 * MIB_PAGES)

    def shrink(self, which: int, share: int) -> None:
        identity = self.some(list(self.crowd), which)
        left = self.crowd[identity]
        self.crowd[identity] = replace(left, rss_pages=left.rss_pages * share // 512)

    def ebb(self, share: int, _: int) -> None:
        for which in range(len(self.crowd)):
            self.shrink(which, share)

    def release(self, which: int, how: int) -> None:
        if not self.doomed:
            return
        identity = self.recent(which)
        name = self.doomed.pop(identity)
        self.crowd.pop(identity, None)
        fate = VictimReleased if how % 2 else VictimExited
        self.step(fate(name, identity, self.now_s))

    def fail(self, which: int, how: int) -> None:
        if not self.doomed:
            return
        identity = self.recent(which)
        name = self.doomed[identity]
        if how % 2:
            self.step(VictimStuck(name, identity))
        else:
            self.step(VictimRefused(name, identity, "not permitted"))

    def reload(self, which: int, how: int) -> None:
        name = self.names[which % len(self.names)]
        rules = replace(self.rules, dry_run=how % 3 == 0, term_s=(None, 1.0, 3.0)[how % 8 % 3])
        if name not in self.realm:
            self.realm.add(name, rules)
        elif how % 5 == 0:
            self.realm.remove(name)
        else:
            self.realm.set_rules(name, rules)
        self.step(Tick(name))  # so that the log knows

    def recent(self, which: int) -> Identity:
        """One of the last three that were asked to go or killed."""
        last = list(self.doomed)[-3:]
        return last[-1 - which % len(last)]

    @staticmethod
    def some(everyone: list[Identity], which: int) -> Identity:
        return everyone[which % len(everyone)]

    def play(self, history: bytes) -> list[Turn]:
        often = [self.look] * 4 + [self.answer] * 3 + [self.wait] * 2 + [self.release] * 2
        once = [
            self.look_late,
            self.grow,
            self.grow,
            self.shrink,
            self.ebb,
            self.fail,
            self.fail,
            self.spawn,
        ]
        happenings = [*often, *once, self.reload]
        for n in range(0, len(history) - 2, 3):
            kind, one, two = history[n : n + 3]
            happenings[kind % len(happenings)](one, two)
        return self.log


HISTORIES = st.builds(
    lambda layout, rules, history: (World(LAYOUTS[layout], rules), history),
    st.sampled_from(sorted(LAYOUTS)),
    st.sampled_from([RULES, GENTLE]),
    st.binary(min_size=150, max_size=450),
)
History = tuple[World, bytes]
law = settings(max_examples=100, deadline=None)


def played(history: History) -> list[Turn]:
    world, happenings = history
    return world.play(happenings)


def signals(turn: Turn) -> Iterator[Kill | Term]:
    return (effect for effect in turn.effects if isinstance(effect, Kill | Term))


def reports(turn: Turn, what: What, domain: str = "") -> list[Report]:
    every = [effect for effect in turn.effects if isinstance(effect, Report)]
    return [r for r in every if r.what is what and domain in ("", r.domain)]


def is_over(turn: Turn, reading: Measured) -> bool:
    rules = turn.rules[reading.domain]
    floor_bytes = rules.stall_floor_bytes
    assert floor_bytes is not None
    line = min(rules.limit_bytes, floor_bytes) if reading.stalled else rules.limit_bytes
    return reading.usage_bytes > line


def heard(turn: Turn) -> Measured | None:
    """The reading of this turn, unless it was begun before the last release."""
    if not isinstance(turn.event, Measured) or turn.event.domain not in turn.before:
        return None
    return turn.event if turn.event.read_s >= turn.before[turn.event.domain].fresh_s else None


@law
@given(HISTORIES)
def test_nobody_is_signalled_whom_nothing_may_kill(history: History) -> None:
    untouchable = {c.identity for c in UNTOUCHABLE}
    for turn in played(history):
        for signal in signals(turn):
            assert untouchable.isdisjoint(signal.victim.members)


@law
@given(HISTORIES)
def test_a_domain_waits_for_one_victim_at_a_time(history: History) -> None:
    waiting: dict[str, Identity] = {}
    for turn in played(history):
        if isinstance(turn.event, VictimReleased | VictimExited):
            waiting = {d: who for d, who in waiting.items() if who != turn.event.victim}
        for effect in turn.effects:
            match effect:
                case Skip(domain=domain) | Report(domain=domain, what=What.RELIEVED):
                    waiting.pop(domain, None)
                case Kill(domain=domain, victim=victim):
                    assert waiting.get(domain) in (None, victim.identity)
                    waiting[domain] = victim.identity
                case Term(domain=domain, victim=victim):
                    assert domain not in waiting
                    waiting[domain] = victim.identity
                case Report(domain=domain, what=What.SHARED, victim=Candidate() as victim):
                    assert domain not in waiting
                    waiting[domain] = victim.identity
        waiting = {d: who for d, who in waiting.items() if d in turn.after}


@law
@given(HISTORIES)
def test_the_next_victim_comes_after_release_and_a_fresh_reading_that_is_over(
    history: History,
) -> None:
    ended: dict[str, float] = {}  # when a domain was done with its victim
    fresh: dict[str, bool] = {}  # whether a reading begun after that was over
    for turn in played(history):
        event = turn.event
        if isinstance(event, Measured) and event.read_s >= ended.get(event.domain, 0.0):
            fresh[event.domain] = event.domain in turn.rules and is_over(turn, event)
        for effect in turn.effects:
            match effect:
                case Report(domain=domain, what=What.RELEASED | What.SKIPPED):
                    ended[domain], fresh[domain] = turn.now_s, False
                case Kill(domain=domain) | Term(domain=domain):
                    escalates = turn.before[domain].phase is Phase.TERMINATING
                    assert escalates or fresh[domain]
        ended = {d: at_s for d, at_s in ended.items() if d in turn.after}


@law
@given(HISTORIES)
def test_a_victim_is_given_up_only_after_patience_without_progress(history: History) -> None:
    lowest: dict[str, tuple[float, int]] = {}  # since when, how many bytes
    for turn in played(history):
        event = turn.event
        reading = heard(turn)
        low_bytes = lowest.get(reading.domain, (0.0, 0))[1] if reading else 0
        if reading and reading.usage_bytes <= low_bytes - MIB:
            lowest[reading.domain] = turn.now_s, reading.usage_bytes
        for effect in turn.effects:
            if isinstance(effect, Skip) and not isinstance(event, Fate):
                asked = turn.before[effect.domain].phase is Phase.TERMINATING
                since_s = lowest[effect.domain][0] if not asked else 0.0
                assert turn.now_s >= since_s + RULES.patience_s
                assert turn.rules[effect.domain].dry_run or not asked
        for domain, state in turn.after.items():
            began = turn.before[domain].phase is not state.phase
            if began and state.phase is Phase.RELEASING:
                lowest[domain] = turn.now_s, state.usage_bytes


@law
@given(HISTORIES)
def test_nobody_is_killed_twice(history: History) -> None:
    killed: list[Identity] = []
    for turn in played(history):
        for signal in signals(turn):
            assert not any(member in killed for member in signal.victim.members)
            if isinstance(signal, Kill):
                killed += signal.victim.members


@law
@given(HISTORIES)
def test_nobody_dies_within_the_line(history: History) -> None:
    last: dict[str, Measured] = {}
    for turn in played(history):
        if reading := heard(turn):
            last[reading.domain] = reading
        for signal in signals(turn):
            assert is_over(turn, last[signal.domain])


@law
@given(HISTORIES)
def test_every_kill_can_be_explained(history: History) -> None:
    asked: list[Identity] = []
    for turn in played(history):
        for signal in signals(turn):
            chosen = reports(turn, What.CHOSEN, signal.domain)
            choices = [r.choice.best for r in chosen if r.choice]
            explained = choices == [signal.victim]
            if isinstance(signal, Term):
                assert explained
                asked.append(signal.victim.identity)
            assert explained or signal.victim.identity in asked


WAYS = {
    AskCandidates: [(start, Phase.PRESSED) for start in Phase],
    Term: [(Phase.PRESSED, Phase.TERMINATING)],
    Kill: [(Phase.PRESSED, Phase.RELEASING), (Phase.TERMINATING, Phase.RELEASING)],
    Skip: [(Phase.TERMINATING, Phase.DRAINING), (Phase.RELEASING, Phase.DRAINING)],
}


@law
@given(HISTORIES)
def test_every_move_stands_in_the_table(history: History) -> None:
    table = [(start, end) for (start, _), end in TRANSITIONS.items()]
    for turn in played(history):
        moves = {d: (turn.before[d].phase, turn.after[d].phase) for d in turn.before}
        assert all(start is end or (start, end) in table for start, end in moves.values())
        for effect in turn.effects:
            if not isinstance(effect, Report):
                assert moves[effect.domain] in WAYS[type(effect)]


@law
@given(HISTORIES)
def test_a_dry_run_signals_nobody(history: History) -> None:
    for turn in played(history):
        assert not any(turn.rules[signal.domain].dry_run for signal in signals(turn))


@law
@given(HISTORIES)
def test_a_dry_run_decides_once_an_incident(history: History) -> None:
    decided: dict[str, bool] = {}
    for turn in played(history):
        # A reload may ask for a decision anew.
        decided = {d: was for d, was in decided.items() if d in turn.rules}
        decided = {d: was and turn.rules[d].dry_run for d, was in decided.items()}
        for report in reports(turn, What.CHOSEN):
            if turn.rules[report.domain].dry_run:
                assert not decided.get(report.domain)
                decided[report.domain] = True
        for report in reports(turn, What.RELIEVED):
            decided[report.domain] = False


@law
@given(HISTORIES)
def test_nobody_else_dies_where_a_victim_under_way_holds_memory(history: History) -> None:
    for turn in played(history):
        for signal in signals(turn):
            skipped = turn.before[signal.domain].skipped
            for state in turn.before.values():
                victim = state.victim
                if victim and signal.domain in victim.domains and victim.identity not in skipped:
                    # Two that were chosen before they met go on; nobody is chosen meanwhile.
                    asked = turn.before[signal.domain].phase is Phase.TERMINATING
                    assert victim.identity == signal.victim.identity or asked


@law
@given(HISTORIES)
def test_the_fate_of_a_victim_reaches_all_who_wait_for_it(history: History) -> None:
    for turn in played(history):
        if isinstance(turn.event, Fate):
            for state in turn.after.values():
                assert state.victim is None or state.victim.identity != turn.event.victim


@law
@given(HISTORIES)
def test_who_waits_knows_whether_the_victim_was_killed(history: History) -> None:
    """One is not asked by one domain, and killed by another that does not tell."""
    for turn in played(history):
        known: dict[Identity, Phase] = {}
        for state in turn.after.values():
            if state.victim:
                assert known.setdefault(state.victim.identity, state.phase) is state.phase


@law
@given(HISTORIES)
def test_one_who_could_not_be_killed_is_tried_by_nobody(history: History) -> None:
    refused: list[Identity] = []
    for turn in played(history):
        for signal in signals(turn):
            assert signal.victim.identity not in refused
        if isinstance(turn.event, VictimRefused):
            waiting = [state.victim for state in turn.before.values() if state.victim]
            refused += [v.identity for v in waiting if v.identity == turn.event.victim]


@law
@given(HISTORIES)
def test_when_nothing_is_pressed_any_more_everything_ends_calm(history: History) -> None:
    world, happenings = history
    world.play(happenings)
    world.crowd.clear()
    for _ in range(3):  # the patience of those whose victims never came back
        world.now_s += 4.0
        world.wait(0, 0)
        world.now_s += 0.1
        world.look(1, 1)
    world.look(1, 1)
    assert [d.state.phase for d in world.realm] == [Phase.CALM] * len(world.realm)


@law
@given(HISTORIES)
def test_when_victims_release_the_guard_alone_ends_every_pressure(history: History) -> None:
    world, happenings = history
    world.play(happenings)
    # A new life: nobody was tried in vain, and nobody is untouchable.
    for identity in [*world.doomed, *(c.identity for c in UNTOUCHABLE)]:
        world.crowd.pop(identity, None)
    world.doomed.clear()
    skipped = [i for d in world.realm for i in d.state.skipped] + list(world.realm._spent)
    for identity in skipped:
        world.crowd.pop(identity, None)
    for domain in list(world.realm):
        world.realm.set_rules(domain.name, world.rules)
    for _ in range(12 + 3 * len(world.crowd)):
        world.look(1, 1)
        world.answer(0, 0)
        for which in range(len(world.doomed)):
            world.release(which, 1)
        world.wait(9, 0)
    world.look(1, 1)
    world.look(1, 1)
    assert all(d.state.phase in (Phase.CALM, Phase.UNEASY) for d in world.realm)
    assert all(d.state.usage_bytes <= RULES.limit_bytes for d in world.realm)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(LAYOUTS)), st.binary(min_size=150, max_size=450))
def test_equal_histories_have_equal_effects(layout: str, happenings: bytes) -> None:
    one, two = (World(LAYOUTS[layout], GENTLE).play(happenings) for _ in range(2))
    assert one == two
