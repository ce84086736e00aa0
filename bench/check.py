"""The engines of :mod:`memreap.check` beside rumur and SPIN, on one model, in one run.

What is measured lives here, and how it is told; the other checkers are run by ``checkers``.
"""

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

from bench import checkers
from bench.checkers import Found
from bench.models import DAEMONS, current
from bench.paper import Paper
from memreap.check import accelerated, search
from memreap.mm.designs import DESIGNS
from memreap.proof.bring import subjects
from memreap.proof.matrix import answers, pairs
from memreap.size import seconds

HEAD = """# Measured: the checker

`make bench-check` writes this page; it needs no root. Everything is from one run, one process
after another; times are medians (lowest .. highest), in rounds: everyone once, then everyone again.

The model is the current kernel's `exit_mmap` with its OOM killer, timer and reaper, threads of the
victim, and readers that hold `mm_users` too. `bench/models` has it three times: ours made from
`memreap.mm`, and written by hand in Murphi for rumur and in Promela for SPIN, step for step.
"""

READERS, THREADS = 5, 2  # more than a million states
QUICK_READERS, QUICK_THREADS = 3, 2
ROUNDS = 3
AGREE = [(readers, threads) for threads in (1, 2) for readers in range(1, 6)]
GROWING_READERS = range(7)
WORKERS = 2

PLAIN_TARGET = 250_000
MATRIX_TARGET_S = 60.0
PLAIN, ACCELERATED = "memreap", "memreap, accelerated"
SYMMETRIC, ACCELERATED_SYMMETRIC = "memreap, symmetry", "memreap, accelerated, symmetry"
RUMUR, SPIN = "rumur, 1 thread", "SPIN, no reduction"
REPOSITORY = Path(__file__).parents[1]
FIRST_RUN = """
import time
began_s = time.perf_counter()
from memreap.check import accelerated
from bench.models import current
accelerated.explore(current(1, 1))
print(time.perf_counter() - began_s)
"""

Run = Callable[[], Found]
Make = Callable[..., checkers.Verifier]


@dataclass(slots=True)
class Contender:
    """One checker in one way. ``made_s``: its model made ready, which is in no run."""

    run: Run
    made_s: float | None = None
    runs: list[Found] = field(default_factory=list)

    @property
    def middle_s(self) -> float:
        """The median."""
        return statistics.median(found.seconds for found in self.runs)

    @property
    def rate(self) -> float:
        """States a second."""
        return self.runs[0].states / self.middle_s

    def cells(self, name: str, plain_s: float) -> list[str]:
        """As it is shown."""
        found, times = self.runs[0], [found.seconds for found in self.runs]
        return [
            name,
            f"{found.states:,}",
            f"{found.transitions:,}",
            f"{seconds(self.middle_s)} ({seconds(min(times))} .. {seconds(max(times))})",
            f"{self.rate:,.0f}",
            f"{plain_s / self.middle_s:.2f}",
            "-" if self.made_s is None else seconds(self.made_s),
        ]


def measure(paper: Paper, quick: bool) -> list[dict[str, object]]:
    """All of it. Raises RuntimeError where a checker fails."""
    rounds = 1 if quick else ROUNDS
    paper.line(_versions())
    records = _side_by_side(paper, quick, rounds)
    records += _agreement(paper, AGREE[:3] if quick else AGREE)
    records += _growth(paper, GROWING_READERS[:4] if quick else GROWING_READERS, rounds)
    return records + _matrix(paper, quick)


def _versions() -> str:
    """Of all others; and whether the machine was quiet."""
    there = [f"{it} {checkers.version(it)}" for it in ("rumur", "spin") if not checkers.missing(it)]
    if there:
        there.append(f"gcc {checkers.version('gcc')}")
    if not accelerated.unavailable():
        there.append(f"numba {metadata.version('numba')}")
    load = os.getloadavg()[0]
    return f"{', '.join(there) or 'No other checker'}. Load before: {load:.1f}."


def _ours(
    engine: Callable[..., search.Exploration], readers: int, threads: int, **how: bool
) -> Run:
    def run() -> Found:
        model = current(readers, threads)
        gc.collect()
        began_s = time.perf_counter()
        found = engine(model, **how)
        taken_s = time.perf_counter() - began_s
        return Found(found.states, found.transitions, taken_s)

    return run


def _first_run_s(cache: str) -> float:
    """The accelerated engine in a process of its own: loaded, compiled unless that is cached."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_RUN],
        cwd=REPOSITORY,
        env={**os.environ, "NUMBA_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the accelerated engine failed: {done.stderr[-500:]}")
    return float(done.stdout)


def _contenders(directory: Path, readers: int, threads: int) -> dict[str, Contender]:
    """Everyone who can be run here, made ready."""

    def room(name: str) -> Path:
        made = directory / name
        made.mkdir()
        return made

    def theirs(verifier: checkers.Verifier) -> Contender:
        return Contender(verifier.run, verifier.made_s)

    size = readers, threads
    there = {PLAIN: Contender(_ours(search.explore, *size))}
    there[SYMMETRIC] = Contender(_ours(search.explore, *size, symmetry=True))
    if not accelerated.unavailable():
        accelerated.explore(current(1, 1))  # what is compiled, is compiled now
        there[ACCELERATED] = Contender(_ours(accelerated.explore, *size))
        there[ACCELERATED_SYMMETRIC] = Contender(_ours(accelerated.explore, *size, symmetry=True))
    if not checkers.missing("rumur"):
        for name, workers, symmetry in (
            (RUMUR, 1, False),
            (f"rumur, {WORKERS} threads", WORKERS, False),
            ("rumur, 1 thread, symmetry", 1, True),
        ):
            made = checkers.rumur(room(name), *size, workers=workers, symmetry=symmetry)
            there[name] = theirs(made)
    if not checkers.missing("spin"):
        for name, reduction in ((SPIN, False), ("SPIN, partial order reduction", True)):
            there[name] = theirs(checkers.spin(room(name), *size, reduction=reduction))
    return there


def _side_by_side(paper: Paper, quick: bool, rounds: int) -> list[dict[str, object]]:
    size = (QUICK_READERS, QUICK_THREADS) if quick else (READERS, THREADS)
    with ExitStack() as stack:
        there = _contenders(Path(stack.enter_context(tempfile.TemporaryDirectory())), *size)
        for _ in range(rounds):
            for name, contender in there.items():
                contender.runs.append(contender.run())
                paper.progress(name)
        loaded_s = []
        if ACCELERATED in there:
            cache = stack.enter_context(tempfile.TemporaryDirectory())
            loaded_s = [_first_run_s(cache), _first_run_s(cache)]
            there[ACCELERATED].made_s = there[ACCELERATED_SYMMETRIC].made_s = loaded_s[0]
    plain_s = there[PLAIN].middle_s
    paper.table(
        f"{size[0]} readers and {size[1]} threads, {sum(size) + DAEMONS} tasks in all",
        ("", "states", "transitions", "seconds", "states/s", "times as fast", "made in"),
        [contender.cells(name, plain_s) for name, contender in there.items()],
        notes=list(_notes(there, loaded_s)),
    )
    records: list[dict[str, object]] = [
        {"what": name, "made_s": contender.made_s, "runs": [asdict(run) for run in contender.runs]}
        for name, contender in there.items()
    ]
    records.append({"what": "the accelerated engine, loaded", "seconds": loaded_s})
    return records + list(_rates(paper, there))


def _notes(there: dict[str, Contender], loaded_s: list[float]) -> Iterator[str]:
    yield (
        "times as fast: to the whole answer, as the plain engine in the first line."
        " Made in: what comes once for a model or a machine, and is in no other column"
    )
    if loaded_s:
        yield (
            f"accelerated: {seconds(loaded_s[0])} to load and compile it, once on a machine;"
            f" {seconds(loaded_s[1])} to load it from numba's cache, once in a process"
        )
    if RUMUR in there:
        yield (
            f"rumur: gcc {' '.join(checkers.RUMUR_FLAGS)}. With symmetry, of readers in one place"
            " it moves each, and memreap one"
        )
    if SPIN in there:
        yield (
            "SPIN: -o2, so that nothing is left out of a state;"
            f" gcc {' '.join(checkers.SPIN_FLAGS)} -DSAFETY, without reduction -DNOREDUCE. The"
            " reduction finds nothing to leave out: every step is on shared variables. The first"
            " state, which SPIN counts among the transitions, is taken off"
        )
    for checker in ("rumur", "spin"):
        if why := checkers.missing(checker):
            yield f"left out: {checker}: {why}"
    if why := accelerated.unavailable():
        yield f"left out: {why}"


def _rates(paper: Paper, there: dict[str, Contender]) -> Iterator[dict[str, object]]:
    rate = there[PLAIN].rate
    yield paper.figure(
        "states a second, plain engine",
        f"{rate:,.0f}",
        f"{PLAIN_TARGET:,} at least",
        rate >= PLAIN_TARGET,
        rate=rate,
    )
    spins = [contender.rate for name, contender in there.items() if name.startswith("SPIN")]
    if ACCELERATED in there and spins:
        rate, theirs = there[ACCELERATED].rate, max(spins)
        what = f"states a second, accelerated engine, SPIN at its best having {theirs:,.0f}"
        yield paper.figure(what, f"{rate:,.0f}", "more than SPIN", rate > theirs, rate=rate)


def _agreement(paper: Paper, sizes: list[tuple[int, int]]) -> list[dict[str, object]]:
    """Sizes in which all find as many states, and as many transitions."""
    makers: dict[str, Make] = {"rumur": checkers.rumur, "spin": checkers.spin}
    makers = {name: maker for name, maker in makers.items() if not checkers.missing(name)}
    if not makers:
        paper.line("Left out: what other checkers find; neither rumur nor SPIN is here.")
        return []
    same = 0
    for size in sizes:
        ours = _ours(search.explore, *size)()
        found = [_once(maker, size) for maker in makers.values()]
        same += all((it.states, it.transitions) == (ours.states, ours.transitions) for it in found)
    readers, threads = map(max, zip(*sizes, strict=True))
    what = f"sizes, of up to {readers} readers and {threads} threads, in which"
    what += f" {' and '.join(makers)} find exactly as many states and transitions as memreap"
    value = f"{same} of {len(sizes)}"
    return [paper.figure(what, value, "all", same == len(sizes), same=same, sizes=sizes)]


def _once(make: Make, size: tuple[int, int]) -> Found:
    with tempfile.TemporaryDirectory() as directory:
        return make(Path(directory), *size, flags=("-O1",)).run()


def _growth(paper: Paper, growing: range, rounds: int) -> list[dict[str, object]]:
    """One thread, and one more reader in each line."""
    fast = not accelerated.unavailable()
    rows: list[list[str]] = []
    records: list[dict[str, object]] = []
    for readers in growing:
        ways = {
            PLAIN: Contender(_ours(search.explore, readers, 1)),
            SYMMETRIC: Contender(_ours(search.explore, readers, 1, symmetry=True)),
        }
        if fast:
            ways[ACCELERATED] = Contender(_ours(accelerated.explore, readers, 1))
        for _ in range(rounds):
            for way in ways.values():
                way.runs.append(way.run())
        tasks = DAEMONS + 1 + readers
        paper.progress(f"{tasks} tasks")
        plain, symmetric = ways[PLAIN], ways[SYMMETRIC]
        rows.append(
            [
                str(tasks),
                f"{plain.runs[0].states:,}",
                f"{plain.runs[0].transitions:,}",
                seconds(plain.middle_s),
                f"{symmetric.runs[0].states:,}",
                seconds(symmetric.middle_s),
                seconds(ways[ACCELERATED].middle_s) if fast else "-",
            ]
        )
        runs = {name: [asdict(run) for run in way.runs] for name, way in ways.items()}
        records.append({"tasks": tasks, **runs})
    paper.table(
        "What it costs as a model grows: a thread, and a reader more in each line",
        ("tasks", "states", "transitions", "plain", "with symmetry", "symmetry", "accelerated"),
        rows,
        left=0,
    )
    return records


def _matrix(paper: Paper, quick: bool) -> list[dict[str, object]]:
    """Every design in every scenario, liveness too, from a cold start."""
    designs = list(DESIGNS)[:2] if quick else list(DESIGNS)
    todo = pairs(subjects(), designs)
    began_s = time.perf_counter()
    states = 0
    with ProcessPoolExecutor(WORKERS) as executor:
        for answer in answers(todo, executor):
            states += answer.rows[0].states
    taken_s = time.perf_counter() - began_s
    what = f"{len(designs)} designs, all scenarios, {len(todo)} pairs, {states:,} states"
    what += f", safety and liveness, {WORKERS} processes"
    kept = taken_s <= MATRIX_TARGET_S
    return [paper.figure(what, seconds(taken_s), "60 s at most", kept, seconds=taken_s)]
