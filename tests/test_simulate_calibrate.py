"""Calibration: what was measured becomes costs, and what is predicted from them is told."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from memreap.linux import scheduling
from memreap.simulate import calibrate, killing, validate
from memreap.simulate.costs import HUGE_BYTES, SMALL_BYTES, Costs, PageCosts, calibrated, dumps
from memreap.simulate.costs import load as load_costs
from memreap.simulate.fit import (
    REAP_STEP,
    SIGNAL_STEPS,
    Figures,
    Mapping,
    Point,
    fit,
    line,
    sleeper,
)
from memreap.simulate.release import release_s
from memreap.simulate.validate import KINDS, Row, markdown, predict

MIB = 1 << 20
SIZES = (64, 160, 320)
THREADS = (1, 65, 129)
WORDS = {"machine": "m", "kernel": "k", "source": "s"}


def took(
    costs: Costs, mib: int, page_bytes: int = SMALL_BYTES, threads: int = 1, **how: bool
) -> float:
    victim = sleeper(mib * MIB, page_bytes, threads)
    seconds = release_s(victim, costs, **{"reap": False, "boost": False, **how})
    assert seconds is not None
    return seconds


def made_up(costs: Costs) -> Figures:
    """What a machine with exactly these costs would show."""

    def points(page_bytes: int, **how: bool) -> tuple[Point, ...]:
        return tuple(
            Point(mib * MIB / page_bytes, took(costs, mib, page_bytes, **how)) for mib in SIZES
        )

    def mapping(page: PageCosts) -> tuple[Mapping, ...]:
        # Mappings tell the parts alone: here they are all twice as fast as in a kill.
        return (Mapping(page.zap_s / 2, (page.zap_s + page.free_s) / 2, page.tables_s / 2),)

    return Figures(
        cpus=2,
        jiffy_s=costs.jiffy_s,
        wakeup_s=(costs.wakeup_s,),
        signal_s=(costs.steps[SIGNAL_STEPS[0]],),
        step_s=(costs.step_s,),
        scan_s=(costs.scan_s,),
        small=mapping(costs.small),
        huge=mapping(costs.huge),
        alone=points(SMALL_BYTES),
        reaped=points(SMALL_BYTES, reap=True),
        alone_huge=points(HUGE_BYTES),
        threads=tuple(Point(many, took(costs, 8, threads=many)) for many in THREADS),
    )


def seconds(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


some_costs = st.builds(
    lambda zap_s, free_s, huge_s, together, exit_s, wakeup_s, start_s, reap_s: replace(
        calibrated(),
        small=PageCosts(zap_s, free_s, zap_s / 50),
        huge=PageCosts(huge_s / 3, huge_s, 0.0),
        together=together,
        exit_s=exit_s,
        wakeup_s=wakeup_s,
        step_s=2e-7,
        killer_sleep_s=calibrated().jiffy_s,
        start_s=start_s,
        steps={**dict.fromkeys(SIGNAL_STEPS, 3e-6), REAP_STEP: 2e-7 + reap_s},
    ),
    seconds(3e-8, 5e-7),
    seconds(3e-8, 5e-7),
    seconds(1e-6, 5e-5),
    seconds(1.0, 2.0),
    seconds(5e-6, 2e-4),
    seconds(1e-6, 2e-4),
    seconds(0.0, 2e-3),
    seconds(0.0, 1e-3),
)


@settings(max_examples=25, deadline=None)
@given(some_costs)
def test_a_fit_finds_the_costs_that_the_measurements_were_made_of(costs: Costs) -> None:
    # A line is fitted; where the slow start is a good part of the smallest kill, that is a curve.
    pages_s = SIZES[0] * MIB / SMALL_BYTES * (costs.small.zap_s + costs.small.free_s)
    assume(costs.start_s < 0.5 * pages_s)
    found = fit(made_up(costs), calibrated(), **WORDS)
    for ours, theirs in ((found.small, costs.small), (found.huge, costs.huge)):
        assert ours.zap_s == pytest.approx(theirs.zap_s, rel=0.03)
        assert ours.free_s == pytest.approx(theirs.free_s, rel=0.03)
    assert found.small.tables_s == pytest.approx(costs.small.tables_s, rel=0.03)
    assert found.together == pytest.approx(costs.together, rel=0.1)
    assert found.wakeup_s == costs.wakeup_s
    assert found.exit_s == pytest.approx(costs.exit_s, rel=0.05)
    for mib in (100, 500):
        assert took(found, mib) == pytest.approx(took(costs, mib), rel=0.03)
    reaped = {"reap": True, "boost": True}
    assert took(found, 500, **reaped) == pytest.approx(took(costs, 500, **reaped), rel=0.12)


@settings(max_examples=10, deadline=None)
@given(some_costs, st.integers(0, 2), seconds(0.05, 5.0))
def test_a_kill_that_was_disturbed_does_no_harm(costs: Costs, which: int, more_s: float) -> None:
    figures = made_up(costs)
    points = list(figures.alone) * 3
    points[which] = replace(points[which], seconds=points[which].seconds + more_s)
    found = fit(replace(figures, alone=tuple(points)), calibrated(), **WORDS)
    assert found.small.all_s == pytest.approx(costs.small.all_s, rel=0.03)


@given(
    st.lists(st.integers(0, 1000), min_size=2, max_size=8, unique=True),
    seconds(0.0, 10.0),
    seconds(0.0, 1.0),
)
def test_a_line_goes_through_its_points(amounts: list[int], start: float, slope: float) -> None:
    found = line([Point(amount, start + slope * amount) for amount in amounts])
    assert found.slope == pytest.approx(slope, abs=1e-9)
    assert found.start == pytest.approx(start, abs=1e-6)


def test_a_kernel_without_huge_pages_keeps_the_figures_that_there_are() -> None:
    figures = replace(made_up(calibrated_with_steps()), huge=(), alone_huge=())
    assert fit(figures, calibrated(), **WORDS).huge == calibrated().huge


def calibrated_with_steps() -> Costs:
    costs = calibrated()
    return replace(costs, steps={**dict.fromkeys(SIGNAL_STEPS, 3e-6), REAP_STEP: costs.step_s})


# The table.


def test_a_row_tells_how_far_off_it_is() -> None:
    near = Row("near", (0.01, 0.02, 0.03), 0.016)
    far = Row("far", (0.01,), 0.0126)
    assert near.ratio == pytest.approx(0.8)
    assert near.is_kept
    assert not far.is_kept
    assert near.cells() == ("near", "20 ms (10 ms .. 30 ms)", "16 ms", "0.80", "yes")
    assert markdown([near]).splitlines()[0].startswith("| victim | measured | predicted |")


def test_what_never_came_is_no_figure() -> None:
    never = Row("never", (None, None, 1.0), 1.0)
    assert (never.median_s, never.ratio, never.is_kept) == (None, None, False)
    assert Row("mostly", (None, 2.0, 1.0), 1.0).median_s == 2.0
    assert never.cells()[1:4] == ("- (1 s .. 1 s)", "1 s", "-")


@pytest.mark.parametrize("name", KINDS)
def test_the_model_has_every_kind_that_is_told_of(name: str) -> None:
    said_s = predict(KINDS[name], calibrated())
    assert said_s is not None
    assert 0.0005 < said_s < 2


# For real.


def not_here() -> str | None:
    try:
        killing.permitted()
    except killing.CalibrationError as error:
        return str(error)
    return None


@pytest.mark.kernel
def test_a_quick_calibration_is_sane_and_leaves_nothing(
    tmp_path: Path, nothing_left: None, capsys: pytest.CaptureFixture[str]
) -> None:
    if why := not_here():
        pytest.skip(why)
    before = groups()
    file = tmp_path / "costs.toml"
    assert calibrate.main(["--quick", "--output", str(file)]) == 0
    costs = load_costs(str(file))
    assert dumps(costs) in file.read_text()
    assert costs.kernel == os.uname().release
    assert 1e-8 < costs.small.all_s < 1e-5
    assert costs.small.zap_s > 0
    assert costs.small.all_s > costs.small.zap_s
    if costs.huge != calibrated().huge:
        assert costs.huge.all_s < 512 * costs.small.all_s * 2
    assert 1 <= costs.together < 10
    assert 1e-7 < costs.wakeup_s < 0.1
    assert 0 < costs.jiffy_s <= 0.01
    assert groups() == before
    assert "round 2 of 2" in capsys.readouterr().err


@pytest.mark.kernel
def test_one_kind_beside_its_prediction(nothing_left: None) -> None:
    if why := not_here():
        pytest.skip(why)
    before = groups()
    kind = killing.Kind("sleeping", 64 * MIB, reap=True)
    (row,) = validate.validate(calibrated(), {"one": kind}, runs=2)
    assert row.median_s is not None
    assert 0 < row.median_s < killing.LIMIT_S
    assert groups() == before


def groups() -> set[Path]:
    """Cgroups of a calibration that are there."""
    return set(Path("/sys/fs/cgroup").glob("*/memreap-calibrate*"))


@pytest.mark.kernel
@pytest.mark.parametrize("module", ["calibrate", "validate"])
def test_without_permission_it_is_one_clear_line(
    module: str, as_nobody: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = as_nobody("-m", f"memreap.simulate.{module}")
    assert done.returncode == calibrate.EXIT_NOT_HERE
    assert done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert said.startswith("memreap: no memory cgroup of its own to measure by: ")


def test_medians_are_of_what_was_measured() -> None:
    figures = made_up(calibrated_with_steps())
    several = replace(figures, wakeup_s=(1e-5, 2e-5, 9e-5))
    assert fit(several, calibrated(), **WORDS).wakeup_s == median(several.wakeup_s)


def test_waiting_for_quiet_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10**6, 100))
    monkeypatch.setattr(killing, "_cpu_ticks", lambda: (0, next(ticks)))  # none of them idle
    assert not killing.quiet(wait_s=0.1)
    assert not scheduling.current().policy
