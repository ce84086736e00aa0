"""The life of one domain, from calm to relief.

1. Only ``Domain.step`` changes a state, and only along ``TRANSITIONS``; anything else asserts.
2. A state is a frozen value that says everything: two domains in equal states behave alike.
3. One victim at a time: ``Kill`` and ``Term`` are returned only on the way out of PRESSED (and
   ``Kill`` for the victim that was asked to go), and PRESSED is entered only without a victim.
4. A victim of another domain, or of the kernel, that holds memory here counts as our own, but is
   not killed again.
5. After a release, a reading begun before it decides nothing.
6. In a dry run nobody is signalled, whatever else happens.
7. Time comes in as ``now_s``; ``deadline_s`` says when a Tick is due at the latest.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from memreap.decide.badness import choose
from memreap.decide.events import (
    AskCandidates,
    Candidate,
    Candidates,
    Choice,
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
    VictimKilled,
    VictimRefused,
    VictimShared,
    VictimStuck,
    What,
)
from memreap.decide.patience import Patience

# With the real hog protected, the small ones beside it would die one by one for nothing.
FUTILE_SHARE = 0.05
TOO_LITTLE = "all who may be killed hold less than 5 % of the limit together"
DRY_RUN = "dry run: nobody is signalled"
EASE_SHARE = 0.02  # of the limit: so far below the warning line it eases, so as not to flap
REMEMBERED = 4096  # processes: of those that were passed over, the last


class Phase(StrEnum):
    """Where in an incident a domain stands."""

    CALM = "calm"  # within its limit
    UNEASY = "uneasy"  # within it still, and over the warning line
    PRESSED = "pressed"  # over it; a snapshot of candidates is on its way
    TERMINATING = "terminating"  # a victim was asked to go
    RELEASING = "releasing"  # a victim was killed; its memory is not back yet
    DRAINING = "draining"  # a victim is done with; a fresh reading decides what comes next
    HELPLESS = "helpless"  # over the limit, and nobody may be killed
    REHEARSED = "rehearsed"  # a dry run made its choice, and waits for relief


class Cause(StrEnum):
    """Why a domain moves."""

    WARNED = "warned"
    EASED = "eased"
    OVER = "over"
    WITHIN = "within"
    ASKED_TO_GO = "asked to go"
    KILLED = "killed"
    SHARED = "shared"  # with a domain, or somebody else, that killed it
    SHARED_ASKED = "shared, asked to go"
    REHEARSED = "rehearsed"
    NOBODY = "nobody"
    RELEASED = "released"
    SKIPPED = "skipped"
    SPARED = "spared"
    RETRY = "retry"


TRANSITIONS: dict[tuple[Phase, Cause], Phase] = {
    (Phase.CALM, Cause.WARNED): Phase.UNEASY,
    (Phase.CALM, Cause.OVER): Phase.PRESSED,
    (Phase.UNEASY, Cause.EASED): Phase.CALM,
    (Phase.UNEASY, Cause.OVER): Phase.PRESSED,
    (Phase.PRESSED, Cause.WITHIN): Phase.CALM,
    (Phase.PRESSED, Cause.ASKED_TO_GO): Phase.TERMINATING,
    (Phase.PRESSED, Cause.KILLED): Phase.RELEASING,
    (Phase.PRESSED, Cause.SHARED): Phase.RELEASING,
    (Phase.PRESSED, Cause.SHARED_ASKED): Phase.TERMINATING,
    (Phase.PRESSED, Cause.REHEARSED): Phase.REHEARSED,
    (Phase.PRESSED, Cause.NOBODY): Phase.HELPLESS,
    (Phase.TERMINATING, Cause.KILLED): Phase.RELEASING,
    (Phase.TERMINATING, Cause.RELEASED): Phase.DRAINING,
    (Phase.TERMINATING, Cause.SKIPPED): Phase.DRAINING,
    (Phase.TERMINATING, Cause.SPARED): Phase.CALM,
    (Phase.RELEASING, Cause.RELEASED): Phase.DRAINING,
    (Phase.RELEASING, Cause.SKIPPED): Phase.DRAINING,
    (Phase.DRAINING, Cause.OVER): Phase.PRESSED,
    (Phase.DRAINING, Cause.WITHIN): Phase.CALM,
    (Phase.HELPLESS, Cause.RETRY): Phase.PRESSED,
    (Phase.HELPLESS, Cause.WITHIN): Phase.CALM,
    (Phase.REHEARSED, Cause.RETRY): Phase.PRESSED,
    (Phase.REHEARSED, Cause.WITHIN): Phase.CALM,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a domain is held to."""

    limit_bytes: int
    totalpages: int  # what oom_score_adj is a share of: the limit, as for a memory cgroup
    patience_s: float = 2.0
    term_s: float | None = None  # between SIGTERM and SIGKILL; None: SIGKILL at once
    ceiling_bytes: int | None = None  # no more time to save anything from here on
    warn_bytes: int | None = None  # uneasy from here on; None: never
    stall_floor_bytes: int | None = None  # when stalled, over from here on; None: never
    dry_run: bool = False  # choose, say so, and signal nobody


@dataclass(frozen=True, slots=True)
class State:
    """All there is to know of a domain between two steps."""

    phase: Phase = Phase.CALM
    usage_bytes: int = 0
    victim: Candidate | None = None
    patience: Patience | None = None  # while RELEASING
    deadline_s: float | None = None  # when a Tick is due
    fresh_s: float = 0.0  # readings begun before this are stale
    skipped: tuple[Identity, ...] = ()
    stalled: bool = False
    shared: bool = False  # the victim is another domain's


class Domain:
    """One domain: ``step`` takes what happened, and returns what to do."""

    def __init__(self, name: str, rules: Rules) -> None:
        """Begin calm."""
        self.name = name
        self.rules = rules
        self.state = State()

    def step(self, now_s: float, event: Event) -> list[Effect]:
        """Take one event. Events of strangers and of former victims change nothing."""
        assert event.domain == self.name, "an event reached the wrong domain"
        match event:
            case Measured():
                return self._measured(now_s, event)
            case Candidates():
                return self._candidates(now_s, event)
            case Tick():
                return self._tick(now_s)
            case VictimShared():
                return self._share(now_s, event)
            case _ if self.state.victim and event.victim == self.state.victim.identity:
                return self._fate(now_s, event)
        return []

    @property
    def is_over(self) -> bool:
        """Whether by the last reading somebody has to go: over the limit, or at a standstill."""
        usage_bytes, floor_bytes = self.state.usage_bytes, self.rules.stall_floor_bytes
        if usage_bytes > self.rules.limit_bytes:
            return True
        return self.state.stalled and floor_bytes is not None and usage_bytes > floor_bytes

    @property
    def deadline_s(self) -> float | None:
        """When to come with a Tick, if nothing else happens."""
        return self.state.deadline_s

    def _move(self, cause: Cause, state: State) -> None:
        key = (self.state.phase, cause)
        assert key in TRANSITIONS, f"no way out of {key[0]} by {key[1]}"
        self.state = replace(state, phase=TRANSITIONS[key])

    def _report(self, what: What, at_s: float, reason: str = "") -> Report:
        state = self.state
        return Report(self.name, what, at_s, state.usage_bytes, state.victim, None, reason)

    def _measured(self, now_s: float, event: Measured) -> list[Effect]:
        if event.read_s < self.state.fresh_s:
            return []
        usage_bytes, stalled = event.usage_bytes, event.stalled
        if (usage_bytes, stalled) != (self.state.usage_bytes, self.state.stalled):
            self.state = replace(self.state, usage_bytes=usage_bytes, stalled=stalled)
        match self.state.phase:
            case Phase.CALM | Phase.UNEASY:
                return self._at_ease(now_s)
            case Phase.TERMINATING:
                return self._overgrown(now_s)
            case Phase.RELEASING:
                return self._progress(now_s, event)
        return self._without_a_victim(now_s)

    def _at_ease(self, now_s: float) -> list[Effect]:
        usage_bytes, warn_bytes = self.state.usage_bytes, self.rules.warn_bytes
        if self.is_over:
            return self._press(Cause.OVER, now_s)
        if self.state.phase is Phase.CALM:
            if warn_bytes is None or usage_bytes <= warn_bytes:
                return []
            self._move(Cause.WARNED, self.state)
            return [self._report(What.WARNED, now_s)]
        if warn_bytes is not None:
            eased_bytes = warn_bytes - int(self.rules.limit_bytes * EASE_SHARE)
            if usage_bytes > max(0, eased_bytes):
                return []
        self._move(Cause.EASED, self.state)
        return [self._report(What.EASED, now_s)]

    def _without_a_victim(self, now_s: float) -> list[Effect]:
        if not self.is_over:
            self._move(Cause.WITHIN, replace(self.state, deadline_s=None))
            return [self._report(What.RELIEVED, now_s)]
        match self.state.phase:
            case Phase.DRAINING:
                return self._press(Cause.OVER, now_s)
            case Phase.REHEARSED if not self.rules.dry_run:
                return self._press(Cause.RETRY, now_s)
        return []

    def _press(self, cause: Cause, now_s: float) -> list[Effect]:
        assert self.state.victim is None, "a second victim is chosen only when the first is done"
        self._move(cause, replace(self.state, deadline_s=None))
        ask = AskCandidates(self.name)
        # A retry is the same incident going on.
        return [ask] if cause is Cause.RETRY else [self._report(What.PRESSED, now_s), ask]

    def _candidates(self, now_s: float, event: Candidates) -> list[Effect]:
        if self.state.phase is not Phase.PRESSED:
            return []  # asked for, and overtaken by relief
        if not self.is_over:
            return self._without_a_victim(now_s)  # the rules are others than when it was asked for
        choice = choose(
            event.candidates,
            self.rules.totalpages,
            event.protected,
            self.state.skipped,
            others=event.others,
            others_pages=event.others_pages,
        )
        reason = TOO_LITTLE if choice.best and self._is_futile(choice) else ""
        if choice.best is None or reason:
            retry_s = now_s + self.rules.patience_s
            self._move(Cause.NOBODY, replace(self.state, deadline_s=retry_s))
            return [replace(self._report(What.HELPLESS, now_s, reason), choice=choice)]
        return self._doom(now_s, choice.best, choice)

    def _is_futile(self, choice: Choice) -> bool:
        """Whether killing everyone who may be killed would still not help: then nobody dies."""
        pages = sum(r.candidate.pages for r in choice.ranked if r.score_pages is not None)
        return pages + choice.others_pages < self.rules.totalpages * FUTILE_SHARE

    def _doom(self, now_s: float, victim: Candidate, choice: Choice) -> list[Effect]:
        self.state = replace(self.state, victim=victim)
        chosen = replace(self._report(What.CHOSEN, now_s), choice=choice)
        if self.rules.dry_run:
            self._move(Cause.REHEARSED, replace(self.state, victim=None))
            return [replace(chosen, reason=DRY_RUN)]
        if self.rules.term_s is None:
            return [*self._kill(now_s, victim), chosen]
        deadline_s = now_s + self.rules.term_s
        self._move(Cause.ASKED_TO_GO, replace(self.state, deadline_s=deadline_s))
        return [Term(self.name, victim), chosen]

    def _share(self, now_s: float, event: VictimShared) -> list[Effect]:
        """Wait for another's victim as for our own."""
        if self.state.phase is not Phase.PRESSED:
            return []
        if not self.is_over:
            return self._without_a_victim(now_s)
        self.state = replace(self.state, victim=event.victim, shared=True)
        if event.killed:
            self._await_release(Cause.SHARED, now_s)
            return [self._report(What.SHARED, now_s, event.why)]
        # The time to save its work is the other domain's gift; we wait as for anything else.
        deadline_s = now_s + self.rules.patience_s
        self._move(Cause.SHARED_ASKED, replace(self.state, deadline_s=deadline_s))
        return [self._report(What.SHARED, now_s, event.why)]

    def _kill(self, now_s: float, victim: Candidate) -> list[Effect]:
        assert not self.rules.dry_run, "a dry run signals nobody"
        self.state = replace(self.state, shared=False)
        self._await_release(Cause.KILLED, now_s)
        return [Kill(self.name, victim)]

    def _await_release(self, cause: Cause, now_s: float) -> None:
        patience = Patience(now_s, self.state.usage_bytes)
        deadline_s = patience.ends_s(self.rules.patience_s)
        self._move(cause, replace(self.state, patience=patience, deadline_s=deadline_s))

    def _overgrown(self, now_s: float) -> list[Effect]:
        """End a victim's time to save its work when the domain cannot wait."""
        ceiling, victim = self.rules.ceiling_bytes, self.state.victim
        assert victim is not None
        if ceiling is None or self.state.usage_bytes < ceiling or self.rules.dry_run:
            return []
        return self._kill(now_s, victim)

    def _progress(self, now_s: float, event: Measured) -> list[Effect]:
        assert self.state.patience is not None
        patience = self.state.patience.observe(now_s, event.usage_bytes, event.victim_bytes)
        deadline_s = patience.ends_s(self.rules.patience_s)
        if (patience, deadline_s) != (self.state.patience, self.state.deadline_s):
            self.state = replace(self.state, patience=patience, deadline_s=deadline_s)
        return self._tick(now_s)

    def _fate(self, now_s: float, event: Fate | VictimKilled) -> list[Effect]:
        match event:
            case VictimKilled():
                if self.state.phase is Phase.TERMINATING:
                    self._await_release(Cause.KILLED, now_s)
                return []
            case VictimStuck():
                return self._skip(now_s, "killed, and not released in time")
            case VictimRefused():
                return self._skip(now_s, event.reason)
            case _:
                return self._released(event.at_s)

    def _tick(self, now_s: float) -> list[Effect]:
        state = self.state
        if state.deadline_s is None or now_s < state.deadline_s:
            return []
        match state.phase:
            case Phase.TERMINATING:
                return self._insist(now_s)
            case Phase.RELEASING:
                return self._skip(now_s, f"no progress for {self.rules.patience_s:g} s")
            case Phase.HELPLESS:
                return self._press(Cause.RETRY, now_s)
        raise AssertionError(f"{state.phase} has no deadline")

    def _insist(self, now_s: float) -> list[Effect]:
        """Kill the victim that was asked to go, and has not; unless that is no longer needed."""
        victim = self.state.victim
        assert victim is not None
        if self.is_over and self.rules.dry_run:  # since a reload
            return self._skip(now_s, DRY_RUN)
        if self.is_over:
            return self._kill(now_s, victim)
        # What becomes of another domain's victim is not for us to say.
        spared = [] if self.state.shared else [self._report(What.SPARED, now_s)]
        self._move(Cause.SPARED, self._done())
        return [*spared, self._report(What.RELIEVED, now_s)]

    def _done(self) -> State:
        """The state without its victim."""
        return replace(self.state, victim=None, patience=None, deadline_s=None, shared=False)

    def _released(self, at_s: float) -> list[Effect]:
        report = self._report(What.RELEASED, at_s)
        self._move(Cause.RELEASED, replace(self._done(), fresh_s=at_s))
        return [report]

    def _skip(self, now_s: float, reason: str) -> list[Effect]:
        victim = self.state.victim
        assert victim is not None
        report = self._report(What.SKIPPED, now_s, reason)
        skipped = (*self.state.skipped, *victim.members)[-REMEMBERED:]
        self._move(Cause.SKIPPED, replace(self._done(), fresh_s=now_s, skipped=skipped))
        return [Skip(self.name, victim), report]
