"""The life of one domain, from calm to relief.

1. Only ``Domain.step`` changes a state, and only along ``TRANSITIONS``; anything else asserts.
2. A state is a frozen value that says everything: two domains in equal states behave alike.
3. One victim at a time: ``Kill`` and ``Term`` are returned only on the way out of PRESSED (and
   ``Kill`` for the victim that was asked to go), and PRESSED is entered only without a victim.
4. After a release, a reading begun before it decides nothing.
5. Time comes in as ``now_s``; ``deadline_s`` says when a Tick is due at the latest.
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

# With the real hog protected, the small ones beside it would die one by one for nothing.
FUTILE_SHARE = 0.05
TOO_LITTLE = "all who may be killed hold less than 5 % of the limit together"


class Phase(StrEnum):
    """Where in an incident a domain stands."""

    CALM = "calm"  # within its limit
    PRESSED = "pressed"  # over it; a snapshot of candidates is on its way
    TERMINATING = "terminating"  # a victim was asked to go
    RELEASING = "releasing"  # a victim was killed; its memory is not back yet
    DRAINING = "draining"  # a victim is done with; a fresh reading decides what comes next
    HELPLESS = "helpless"  # over the limit, and nobody may be killed


class Cause(StrEnum):
    """Why a domain moves."""

    OVER = "over"
    WITHIN = "within"
    ASKED_TO_GO = "asked to go"
    KILLED = "killed"
    NOBODY = "nobody"
    RELEASED = "released"
    SKIPPED = "skipped"
    SPARED = "spared"
    RETRY = "retry"


TRANSITIONS: dict[tuple[Phase, Cause], Phase] = {
    (Phase.CALM, Cause.OVER): Phase.PRESSED,
    (Phase.PRESSED, Cause.WITHIN): Phase.CALM,
    (Phase.PRESSED, Cause.ASKED_TO_GO): Phase.TERMINATING,
    (Phase.PRESSED, Cause.KILLED): Phase.RELEASING,
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
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What a domain is held to."""

    limit_bytes: int
    totalpages: int  # what oom_score_adj is a share of: the limit, as for a memory cgroup
    patience_s: float = 2.0
    term_s: float | None = None  # between SIGTERM and SIGKILL; None: SIGKILL at once
    ceiling_bytes: int | None = None  # no more time to save anything from here on


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
            case _ if self.state.victim and event.victim == self.state.victim.identity:
                return self._fate(now_s, event)
        return []

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
        state = self.state = replace(self.state, usage_bytes=event.usage_bytes)
        over = event.usage_bytes > self.rules.limit_bytes
        match state.phase:
            case Phase.DRAINING if event.read_s < state.fresh_s:
                return []
            case Phase.CALM | Phase.DRAINING if over:
                return self._press(Cause.OVER, now_s)
            case Phase.PRESSED | Phase.DRAINING | Phase.HELPLESS if not over:
                self._move(Cause.WITHIN, replace(state, deadline_s=None))
                return [self._report(What.RELIEVED, now_s)]
            case Phase.TERMINATING:
                return self._overgrown(now_s)
            case Phase.RELEASING:
                return self._progress(now_s, event)
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
        choice = choose(
            event.candidates, self.rules.totalpages, event.protected, self.state.skipped
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
        return pages < self.rules.totalpages * FUTILE_SHARE

    def _doom(self, now_s: float, victim: Candidate, choice: Choice) -> list[Effect]:
        self.state = replace(self.state, victim=victim)
        chosen = replace(self._report(What.CHOSEN, now_s), choice=choice)
        if self.rules.term_s is None:
            return [*self._kill(now_s, victim), chosen]
        deadline_s = now_s + self.rules.term_s
        self._move(Cause.ASKED_TO_GO, replace(self.state, deadline_s=deadline_s))
        return [Term(self.name, victim), chosen]

    def _kill(self, now_s: float, victim: Candidate) -> list[Effect]:
        patience = Patience(now_s, self.state.usage_bytes)
        deadline_s = patience.ends_s(self.rules.patience_s)
        self._move(Cause.KILLED, replace(self.state, patience=patience, deadline_s=deadline_s))
        return [Kill(self.name, victim)]

    def _overgrown(self, now_s: float) -> list[Effect]:
        """End a victim's time to save its work when the domain cannot wait."""
        ceiling, victim = self.rules.ceiling_bytes, self.state.victim
        assert victim is not None
        if ceiling is None or self.state.usage_bytes < ceiling:
            return []
        return self._kill(now_s, victim)

    def _progress(self, now_s: float, event: Measured) -> list[Effect]:
        assert self.state.patience is not None
        patience = self.state.patience.observe(now_s, event.usage_bytes, event.victim_bytes)
        deadline_s = patience.ends_s(self.rules.patience_s)
        self.state = replace(self.state, patience=patience, deadline_s=deadline_s)
        return self._tick(now_s)

    def _fate(
        self, now_s: float, event: VictimReleased | VictimExited | VictimStuck | VictimRefused
    ) -> list[Effect]:
        match event:
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
            case Phase.TERMINATING if state.usage_bytes > self.rules.limit_bytes:
                assert state.victim is not None
                return self._kill(now_s, state.victim)
            case Phase.TERMINATING:
                spared = self._report(What.SPARED, now_s)
                self._move(Cause.SPARED, replace(state, victim=None, deadline_s=None))
                return [spared, self._report(What.RELIEVED, now_s)]
            case Phase.RELEASING:
                return self._skip(now_s, f"no progress for {self.rules.patience_s:g} s")
            case Phase.HELPLESS:
                return self._press(Cause.RETRY, now_s)
        raise AssertionError(f"{state.phase} has no deadline")

    def _released(self, at_s: float) -> list[Effect]:
        report = self._report(What.RELEASED, at_s)
        done = replace(self.state, victim=None, patience=None, deadline_s=None, fresh_s=at_s)
        self._move(Cause.RELEASED, done)
        return [report]

    def _skip(self, now_s: float, reason: str) -> list[Effect]:
        victim = self.state.victim
        assert victim is not None
        report = self._report(What.SKIPPED, now_s, reason)
        skipped = (*self.state.skipped, *victim.members)
        done = replace(self.state, victim=None, patience=None, deadline_s=None, fresh_s=now_s)
        self._move(Cause.SKIPPED, replace(done, skipped=skipped))
        return [Skip(self.name, victim), report]
