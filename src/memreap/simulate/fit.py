"""From what was measured to costs: arithmetic alone, no clock and no kernel.

1. What grows with something (pages, threads) is the slope of a line, by Theil and Sen: the median
   of the slopes between all pairs of measurements, so that a few that were disturbed do no harm.
2. Kills say how long a page takes in all, mappings how that falls to its parts.
3. What a kill takes beside all that is what the model leaves over: it is how an exit starts. What
   is left of a reap then is what it begins with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median

from memreap.simulate.costs import SMALL_BYTES, Costs, PageCosts, with_steps
from memreap.simulate.cpus import NORMAL_WEIGHT
from memreap.simulate.release import release_s
from memreap.simulate.setup import Hang, Io, ProcessSetup

THREAD_STEPS = 4  # of one that is not the last: get_signal, exit_mm, mmput, release_task
SIGNAL_STEPS = ("do_send_sig_info", "send_sigkill_and_mark")
REAP_STEP = "find_lock_task_mm"
REAP_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Point:
    """One measurement: of how much (pages, threads), and how long it took."""

    amount: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Mapping:
    """Seconds a page, of mappings of one's own."""

    zap_s: float  # unmapped, while somebody else keeps the page
    all_s: float  # unmapped and freed
    tables_s: float  # the page tables, empty


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is measured. Times of one kind are single measurements, not yet a median."""

    cpus: int
    jiffy_s: float
    wakeup_s: tuple[float, ...]
    signal_s: tuple[float, ...]
    step_s: tuple[float, ...]
    scan_s: tuple[float, ...]
    small: tuple[Mapping, ...]
    huge: tuple[Mapping, ...]  # none where this kernel gives no huge pages
    alone: tuple[Point, ...] = ()  # small pages, idle machine, SIGKILL alone
    reaped: tuple[Point, ...] = ()  # the same, and process_mrelease
    alone_huge: tuple[Point, ...] = ()
    threads: tuple[Point, ...] = ()  # of one size, by threads


@dataclass(frozen=True, slots=True)
class Line:
    """``start + slope * amount``."""

    start: float
    slope: float


def line(points: Sequence[Point]) -> Line:
    """Through the middle of the points; neither part is below 0."""
    pairs = [pair for pair in combinations(points, 2) if pair[0].amount != pair[1].amount]
    assert pairs, "a slope takes two amounts"
    slope = max(0.0, median(_slope(one, other) for one, other in pairs))
    return Line(max(0.0, median(p.seconds - slope * p.amount for p in points)), slope)


def _slope(one: Point, other: Point) -> float:
    return (one.seconds - other.seconds) / (one.amount - other.amount)


def sleeper(size_bytes: int, page_bytes: int = SMALL_BYTES, threads: int = 1) -> ProcessSetup:
    """A victim as the model has it: asleep, and healthy."""
    return ProcessSetup(
        name="victim",
        node=0,
        bound=False,
        size_bytes=size_bytes,
        rate_bytes_s=0.0,
        until_bytes=size_bytes,
        start_s=0.0,
        stays_s=None,
        page_bytes=page_bytes,
        threads=threads,
        sharers=0,
        weight=NORMAL_WEIGHT,
        oom_score_adj=0,
        io=Io.NONE,
        io_s=0.0,
        hangs=Hang.NONE,
        lock_s=0.0,
    )


def fit(figures: Figures, base: Costs, *, machine: str, kernel: str, source: str) -> Costs:
    """Costs that give what was measured; what was not measured is as in ``base``."""
    step_s = median(figures.step_s)
    small = _pages(line(figures.alone).slope, figures.small)
    huge = base.huge
    if figures.huge and figures.alone_huge:
        huge = _pages(line(figures.alone_huge).slope, figures.huge)
    costs = replace(
        base,
        machine=machine,
        kernel=kernel,
        source=source,
        small=small,
        huge=huge,
        together=_together(line(figures.reaped).slope, small),
        step_s=step_s,
        exit_s=_exit_s(line(figures.threads).slope, figures.cpus, step_s),
        scan_s=median(figures.scan_s),
        wakeup_s=median(figures.wakeup_s),
        jiffy_s=figures.jiffy_s,
        killer_sleep_s=figures.jiffy_s,
        steps={},
    )
    costs = with_steps(costs, **dict.fromkeys(SIGNAL_STEPS, median(figures.signal_s)))
    return _with_reap(figures, _with_start(figures, costs))


def _with_start(figures: Figures, costs: Costs) -> Costs:
    costs = replace(costs, start_s=0.0)
    return replace(costs, start_s=max(0.0, _over_s(figures, figures.alone, costs, reap=False)))


def _with_reap(figures: Figures, costs: Costs) -> Costs:
    """Two hands share what one of them does more, so it counts half."""
    reap_s = costs.step_s
    for _ in range(REAP_ROUNDS):
        costs = with_steps(costs, **{REAP_STEP: reap_s})
        over_s = _over_s(figures, figures.reaped, costs, reap=True)
        reap_s = max(costs.step_s, reap_s + 2 * over_s)
    return with_steps(costs, **{REAP_STEP: reap_s})


def _pages(all_s: float, mappings: Sequence[Mapping]) -> PageCosts:
    """What kills say of a page in all, in the parts that mappings say."""
    zap_s = median(one.zap_s for one in mappings)
    tables_s = median(one.tables_s for one in mappings)
    free_s = max(0.0, median(one.all_s for one in mappings) - zap_s)
    share = all_s / (zap_s + free_s + tables_s)
    return PageCosts(zap_s * share, free_s * share, tables_s * share)


def _together(slope_s: float, small: PageCosts) -> float:
    """Two hands halve zapping and freeing, but each is slower than alone; page tables have one."""
    alone_s = small.zap_s + small.free_s
    return max(1.0, 2 * (slope_s - small.tables_s) / alone_s) if alone_s else 1.0


def _exit_s(slope_s: float, cpus: int, step_s: float) -> float:
    return max(0.0, slope_s * cpus - THREAD_STEPS * step_s)


def _over_s(figures: Figures, points: Sequence[Point], costs: Costs, *, reap: bool) -> float:
    """What kills of sleepers take beyond what the model says so far."""
    over = []
    for point in points:
        victim = sleeper(int(point.amount * SMALL_BYTES))
        said_s = release_s(victim, costs, reap=reap, boost=reap, cpus=figures.cpus)
        assert said_s is not None, "a healthy victim's memory comes back"
        over.append(point.seconds - said_s)
    return median(over)
