"""The event loop of :mod:`memreap.simulate` beside simpy, bare and with CPUs; trials a second.

What is measured lives here, and how it is told.
"""

import gc
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict
from functools import partial
from importlib import metadata
from random import Random
from typing import Any

import simpy

from bench.paper import Paper
from memreap.simulate import guard_trial
from memreap.simulate.cpus import NORMAL_WEIGHT, Cpus
from memreap.simulate.loop import Loop
from memreap.simulate.trial import Job, run
from memreap.size import seconds

HEAD = """# Measured: the simulator

`make bench-simulate` writes this page; it needs no root. Everything is from one run, one after
another in one process; medians (lowest .. highest) of five rounds, everyone once in each.
"""

ROUNDS = 5
EVENTS_TARGET = 500_000
INCIDENTS_TARGET = 200
INCIDENTS = 300  # of each kind, in a round
CLOCKS = 100  # processes that sleep, again and again, each for times of its own
WAKES = 2_000  # of each
TRIALS = ("desktop-leak", "hung-io", "build-host", "two-nodes-hung-io")
STRATEGIES = ("kernel", "guard", "clairvoyant")
BURSTS = 50_000

Sleeper = Generator[float, None, None]


def measure(paper: Paper, quick: bool) -> list[dict[str, object]]:
    """All of it."""
    rounds = 1 if quick else ROUNDS
    trials = _trials(paper, 3 if quick else 20)
    return [*_loops(paper, rounds), *_cpus(paper, rounds), *trials, *_guards(paper, rounds)]


def _naps() -> list[list[float]]:
    """The same for all: when each clock wakes."""
    source = Random(1)
    return [[source.random() for _ in range(WAKES)] for _ in range(CLOCKS)]


def _callbacks(naps: list[list[float]]) -> float:
    """Our loop bare: an event is a call."""
    loop = Loop()

    def wake(left: Iterator[float]) -> None:
        nap_s = next(left, None)
        if nap_s is not None:
            loop.after(nap_s, wake, left)

    for one in naps:
        wake(iter(one))
    loop.run(float(WAKES))
    assert loop.events == CLOCKS * WAKES
    return loop.now_s


def _generators(naps: list[list[float]]) -> float:
    """Our loop, and processes that are generators, as simpy's are."""
    loop = Loop()

    def sleeper(mine: list[float]) -> Sleeper:
        yield from mine

    def go(process: Sleeper) -> None:
        for nap_s in process:
            loop.after(nap_s, go, process)
            return

    for one in naps:
        go(sleeper(one))
    loop.run(float(WAKES))
    assert loop.events == CLOCKS * WAKES
    return loop.now_s


def _simpy(naps: list[list[float]]) -> float:
    """The same in simpy."""
    env = simpy.Environment()

    def sleeper(mine: list[float]) -> Generator[simpy.Event, Any, None]:
        for nap_s in mine:
            yield env.timeout(nap_s)

    for one in naps:
        env.process(sleeper(one))
    env.run()
    return float(env.now)


def _timed(what: Callable[[], object]) -> float:
    gc.collect()
    began_s = time.perf_counter()
    what()
    return time.perf_counter() - began_s


def _loops(paper: Paper, rounds: int) -> list[dict[str, object]]:
    naps = _naps()
    ways = {
        "memreap, calls": _callbacks,
        "memreap, generators": _generators,
        f"simpy {metadata.version('simpy')}, generators": _simpy,
    }
    ends = {round(way(naps), 9) for way in ways.values()}
    assert len(ends) == 1, "not the same scenario"
    events = CLOCKS * WAKES
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(_timed(partial(way, naps)))
    middle = {name: statistics.median(taken) for name, taken in times.items()}
    simpy_s = list(middle.values())[-1]
    paper.table(
        f"{CLOCKS} clocks that wake {WAKES:,} times each, {events:,} events",
        ("", "seconds", "events/s", "times as fast"),
        [
            [
                name,
                f"{seconds(middle[name])} ({seconds(min(taken))} .. {seconds(max(taken))})",
                f"{events / middle[name]:,.0f}",
                f"{simpy_s / middle[name]:.2f}",
            ]
            for name, taken in times.items()
        ],
    )
    rate = events / next(iter(middle.values()))
    target = f"{EVENTS_TARGET:,} at least"
    kept = rate >= EVENTS_TARGET
    what = "events a second in the bare loop"
    return [paper.figure(what, f"{rate:,.0f}", target, kept, rate=rate, times=times)]


def _cpus(paper: Paper, rounds: int) -> list[dict[str, object]]:
    """Works one after another by ten tasks on four CPUs, as the tasks of a trial do."""
    times = []
    for _ in range(rounds):
        loop = Loop()
        times.append(_timed(partial(_bursts, loop)))
    rate = BURSTS / statistics.median(times)
    paper.line(f"Works done a second on shared CPUs: {rate:,.0f}.")
    return [{"what": "works a second", "rate": rate, "times": times}]


def _bursts(loop: Loop) -> None:
    cpus, source = Cpus(loop, 4), Random(1)

    def again(left: int) -> None:
        if left:
            cpus.run(source.random(), NORMAL_WEIGHT, partial(again, left - 1))

    for _ in range(10):
        again(BURSTS // 10)
    loop.run(1e9)


def _trials(paper: Paper, seeds: int) -> list[dict[str, object]]:
    rows: list[list[str]] = []
    records: list[dict[str, object]] = []
    for scenario in TRIALS:
        for strategy in STRATEGIES:
            many = max(1, seeds // 5) if strategy == "clairvoyant" else seeds
            times, events = [], []
            for seed in range(many):
                job = Job(scenario, strategy, seed)
                times.append(_timed(partial(run, job)))
                events.append(run(job).events)
            middle_s = statistics.median(times)
            rows.append(
                [scenario, strategy, seconds(middle_s), f"{statistics.median(events):,.0f}"]
            )
            records.append({"what": asdict(Job(scenario, strategy, many)), "times": times})
    paper.table(
        "A trial, runs for its needless kills included",
        ("scenario", "strategy", "median", "events of one run"),
        rows,
        left=2,
    )
    return records


def _guards(paper: Paper, rounds: int) -> list[dict[str, object]]:
    """Incidents of the real guard on a simulated machine, a second on one CPU."""
    kinds: dict[str, Callable[[int], guard_trial.Finding]] = {
        "nothing out of the ordinary: one hog, no faults": lambda _: guard_trial.run(replay=()),
        "drawn: some domains, hogs, hung victims, a third of all faults": guard_trial.run,
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    with guard_trial.SEAM.replaced():
        for at in range(rounds):
            for kind, way in kinds.items():
                began_s, incidents = time.perf_counter(), 0
                for seed in range(at * INCIDENTS, (at + 1) * INCIDENTS):
                    found = way(seed)
                    assert not found.broken, found.broken
                    incidents += found.incidents
                rates[kind].append(incidents / (time.perf_counter() - began_s))
    middle = {kind: statistics.median(each) for kind, each in rates.items()}
    paper.table(
        "Incidents of the guard a second, one CPU",
        ("", "incidents/s"),
        [[k, f"{middle[k]:.0f} ({min(each):.0f} .. {max(each):.0f})"] for k, each in rates.items()],
    )
    target = f"{INCIDENTS_TARGET} at least"
    return [
        paper.figure(
            f"incidents a second, {kind}",
            f"{rate:.0f}",
            target,
            rate >= INCIDENTS_TARGET,
            rates=rates[kind],
        )
        for kind, rate in middle.items()
    ]
