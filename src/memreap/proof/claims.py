"""The mail's claims, put to the model; and how often a write lock is taken, and waited for.

What is claimed stands in ``mm.argument``; only the asking lives here.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

from memreap.check import paths
from memreap.check.search import explore
from memreap.mm.argument import AFTER_THE_KILL, CLAIMS, LOCKING, ORDINARY_EXIT
from memreap.mm.designs import DESIGNS
from memreap.mm.scenarios import Scenario
from memreap.proof.matrix import found_in

EXITING = "victim"
LOCK = "mmap_write_lock"


@dataclass(frozen=True, slots=True)
class Finding:
    """What came out of one question. ``steps``: of a shortest counterexample, or None."""

    design: str
    scenario: str
    property: str
    expected: str
    found: str
    states: int
    steps: int | None


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim, and all that was found of it."""

    claim: str
    findings: tuple[Finding, ...]

    @property
    def stands(self) -> bool:
        """Whether all came out as it must if the claim is right."""
        return all(finding.found == finding.expected for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        claim = CLAIMS[self.claim]
        return {
            "claim": self.claim,
            "who": claim.who,
            "text": claim.text,
            "stands": self.stands,
            "finding": claim.finding,
            "findings": [asdict(finding) for finding in self.findings],
        }


def judge(name: str) -> Judgement:
    """Put one claim to the model. Runs in a worker."""
    explored: dict[tuple[str, str], Any] = {}
    findings = []
    for ask in CLAIMS[name].asks:
        key = ask.design.name, ask.scenario.name
        if key not in explored:
            explored[key] = found_in(ask.design, ask.scenario)
        found = explored[key]
        broken = found.broken.get(ask.prop)
        findings.append(
            Finding(
                *key,
                ask.prop,
                ask.outcome,
                "violated" if broken else "holds",
                found.states,
                found.steps(broken) if broken else None,
            )
        )
    return Judgement(name, tuple(findings))


def judgements(names: Iterable[str], executor: Executor | None = None) -> Iterator[Judgement]:
    """Every claim's, in their order."""
    yield from (executor.map if executor else map)(judge, names)


@dataclass(frozen=True, slots=True)
class Locking:
    """How often, of all interleavings, a design's exit path takes the lock for writing."""

    design: str
    takes_ordinary: float  # in an exit without OOM
    takes: float  # as a victim, beside the reaper
    waits: float  # and has to wait there
    interleavings: int  # with the reaper
    states: int

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def locking(design: str) -> Locking:
    """Count one design's. Runs in a worker."""
    kernel = DESIGNS[design]

    def share(scenario: Scenario, waits: bool) -> paths.Share:
        happens = paths.waits_at if waits else paths.stands_at
        return paths.share(explore(scenario.model(kernel)), happens(EXITING, LOCK))

    takes, waits = share(AFTER_THE_KILL, False), share(AFTER_THE_KILL, True)
    ordinary = share(ORDINARY_EXIT, False)
    return Locking(
        design, ordinary.share, takes.share, waits.share, takes.interleavings, takes.states
    )


def lockings(executor: Executor | None = None) -> Iterator[Locking]:
    """Every design's of which it is counted."""
    yield from (executor.map if executor else map)(locking, LOCKING)
