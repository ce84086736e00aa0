"""Time to release of each kind of victim, against SIGKILL alone, run by run in turn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.row import Row
from memreap.demo import measure
from memreap.demo.measure import Measurement
from memreap.demo.scenes import Scene, staged
from memreap.victims import Staged

MIB, GIB = 1 << 20, 1 << 30
HUNG_LIMIT_S = 1.0
Side = Callable[[Staged, Path | None, float], Measurement]


@dataclass(frozen=True, slots=True)
class Case:
    """One victim, how often, how long to wait for SIGKILL alone, and the promise."""

    scene: Scene
    runs: int
    limit_s: float
    target: float | None
    note: str = ""


def scene(
    name: str,
    kind: str,
    size_bytes: int = 512 * MIB,
    *,
    crowded: bool = False,
    throttled: bool = False,
    huge: bool = False,
    frozen: bool = False,
) -> Scene:
    """A scene of the demo's kind."""
    return Scene(name, kind, "", crowded, frozen, throttled, huge, size_bytes)


CASES = (
    Case(scene("1 GiB of 4 KiB pages, sleeping, idle machine", "sleeping", GIB), 15, 5, 0.75),
    Case(scene("1 GiB of huge pages", "sleeping", GIB, huge=True), 15, 5, 1.1),
    Case(scene("512 MiB beside 3 busy processes a CPU", "busy", crowded=True), 15, 10, 0.15),
    Case(scene("the same at SCHED_IDLE", "idle", crowded=True), 5, 40, 0.005),
    Case(
        scene("the same throttled to 1 % of a CPU", "busy", crowded=True, throttled=True),
        5,
        40,
        0.005,
        "from 6.18 on a throttled task is only stopped on its way to user space: exits run free",
    ),
    Case(scene("512 MiB shared by two processes", "shared"), 3, HUNG_LIMIT_S, 1.0),
    Case(scene("512 MiB frozen in a v1 cgroup", "sleeping", frozen=True), 3, HUNG_LIMIT_S, 1.0),
)
HUNG = (
    scene("512 MiB, hung AIO", "hung-aio"),
    scene("512 MiB, thread hung in FUSE", "hung-thread"),
)
HEALTHY = scene("512 MiB, healthy", "sleeping")
HUNG_RUNS = 9
HUNG_TARGET = 1.5


def rows(quick: bool) -> Iterator[Row]:
    """A row a case."""
    for case in CASES:
        row = Row(case.scene.name, "SIGKILL alone", target=case.target, note=case.note)
        for _ in range(3 if quick else case.runs):
            row.theirs.append(_seconds(measure.alone, case.scene, case.limit_s))
            row.ours.append(_seconds(measure.reaped, case.scene, 5.0))
        yield row
    yield from _hung_rows(3 if quick else HUNG_RUNS)


def _hung_rows(runs: int) -> Iterator[Row]:
    """Hung victims: SIGKILL alone releases nothing, so the healthy victim is the measure."""
    for hung in HUNG:
        alone = Row(hung.name, "SIGKILL alone", target=1.0)
        healthy = Row(hung.name, "healthy victim, memreap", target=HUNG_TARGET)
        for _ in range(runs):
            ours = _seconds(measure.reaped, hung, 5.0)
            alone.ours.append(ours)
            healthy.ours.append(ours)
            healthy.theirs.append(_seconds(measure.reaped, HEALTHY, 5.0))
        for _ in range(3):
            alone.theirs.append(_seconds(measure.alone, hung, HUNG_LIMIT_S))
        yield alone
        yield healthy


def _seconds(side: Side, what: Scene, limit_s: float) -> float | None:
    with staged(what) as (victim, group):
        return side(victim, group, limit_s).seconds
