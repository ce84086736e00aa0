"""Designs against scenarios: each pair is explored once, and answers for all its properties.

Only what is to be explored and what came of it live here. Any ``concurrent.futures.Executor``
serves: what goes to a worker, and comes back, are plain values.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from memreap.check import liveness
from memreap.check.counterexample import Counterexample, counterexample
from memreap.check.search import Exploration, explore
from memreap.mm.kernel import Kernel
from memreap.mm.properties import Property
from memreap.mm.scenarios import Scenario
from memreap.proof.bring import Subjects, blamed, subjects

Verdict = Literal["holds", "violated", "bounded"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A design in a scenario, by name. ``source``: the file of a user's own, if any."""

    design: str
    scenario: str
    source: str | None = None
    with_counterexamples: bool = False
    states_max: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What is said of one property. ``steps``: of a shortest counterexample, or None."""

    design: str
    scenario: str
    property: str
    verdict: Verdict
    states: int
    transitions: int
    seconds: float
    steps: int | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a pair; counterexamples by property."""

    pair: Pair
    rows: tuple[Row, ...]
    counterexamples: dict[str, Counterexample] = field(default_factory=dict)


def pairs(
    known: Subjects,
    designs: Iterable[str],
    scenarios: Iterable[str] | None = None,
    **how: Any,
) -> list[Pair]:
    """Every design in every scenario that it can be in."""
    return [
        Pair(design, scenario, known.source, **how)
        for design in designs
        for scenario in (known.scenarios if scenarios is None else scenarios)
        if known.scenarios[scenario].lets(known.designs[design])
    ]


def answer(pair: Pair) -> Answer:
    """Explore one pair. Runs in a worker. Raises BadSourceError."""
    known = subjects(pair.source)
    with blamed(pair.source):
        return _answer(pair, known)


def _answer(pair: Pair, known: Subjects) -> Answer:
    design, scenario = known.designs[pair.design], known.scenarios[pair.scenario]
    began_s = time.perf_counter()
    found = found_in(design, scenario, known.own_properties, pair.states_max)
    taken_s = time.perf_counter() - began_s
    told = {}
    if pair.with_counterexamples:
        told = {prop: counterexample(found, broken) for prop, broken in found.broken.items()}
    return Answer(pair, tuple(_rows(pair, found, taken_s)), told)


def found_in(
    design: type[Kernel],
    scenario: Scenario,
    own: Iterable[Property] = (),
    states_max: int | None = None,
) -> Exploration:
    """All that can be said of a design in a scenario."""
    found = explore(scenario.model(design, own), states_max=states_max)
    if found.complete:
        liveness.ask(found)
    return found


def _rows(pair: Pair, found: Exploration, taken_s: float) -> Iterator[Row]:
    for prop in found.space.model.kinds():
        broken = found.broken.get(prop)
        verdict: Verdict = "violated" if broken else "holds" if found.complete else "bounded"
        steps = found.steps(broken) if broken else None
        yield Row(
            pair.design,
            pair.scenario,
            prop,
            verdict,
            found.states,
            found.transitions,
            round(taken_s, 4),
            steps,
        )


def answers(todo: Iterable[Pair], executor: Executor | None = None) -> Iterator[Answer]:
    """The answers, as they come; one after another where there is no executor."""
    if executor is None:
        yield from map(answer, todo)
        return
    for done in as_completed([executor.submit(answer, pair) for pair in todo]):
        yield done.result()
