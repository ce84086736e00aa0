"""Trials: strategies in scenarios, beside what was measured and what the checker knows."""

import pickle
from dataclasses import replace
from typing import Any

import pytest

from memreap.mm.designs import DESIGNS
from memreap.mm.designs.of_2017 import GateRetry
from memreap.mm.kernel import Kernel
from memreap.simulate import scenario, strategies, trial
from memreap.simulate.allocator import KernelKiller
from memreap.simulate.costs import PageCosts, calibrated
from memreap.simulate.cpus import IDLE
from memreap.simulate.fit import sleeper
from memreap.simulate.release import release_s
from memreap.simulate.setup import Hang, Io, ProcessSetup, Setup, node
from memreap.simulate.strategies import STRATEGIES, Strategy, StrategyError
from memreap.simulate.trial import Job, Result, Runs, run
from memreap.simulate.world import World

GIB = 1 << 30
HEALTHY = ("desktop-leak", "busy-neighbours", "many-threads", "two-hogs", "two-nodes")


def process(**changes: Any) -> ProcessSetup:
    """A healthy sleeping one of 1 GiB."""
    return replace(sleeper(GIB), **changes)


def setup(*processes: ProcessSetup, cpus: int = 2, busy: int = 0) -> Setup:
    return Setup("test", 0, cpus, busy, (node("node0", 8 * GIB),), 0, 0.0, processes)


def took(one: ProcessSetup, busy: int = 0, *, reap: bool, boost: bool = False) -> float | None:
    return release_s(one, BY_HAND, reap=reap, boost=boost, busy=busy)


# What was measured by hand, and the costs that follow from it. Single-threaded victims, two CPUs.

BY_HAND = replace(
    calibrated(),
    small=PageCosts(zap_s=1.07e-7, free_s=1.34e-7, tables_s=3e-9),
    together=1.2,
    step_s=3e-7,
    exit_s=5e-5,
    wakeup_s=5e-5,
    start_s=0.0,
    steps={"do_send_sig_info": 2e-6},
)


@pytest.mark.parametrize(
    ("measured_s", "mib", "busy", "how"),
    [
        (0.065, 1024, 0, {"reap": False}),
        (0.044, 1024, 0, {"reap": True}),
        (0.109, 512, 6, {"reap": False}),
        (0.028, 512, 6, {"reap": False, "boost": True}),
    ],
)
def test_a_release_takes_as_long_as_it_did(
    measured_s: float, mib: int, busy: int, how: dict[str, bool]
) -> None:
    one = process(size_bytes=mib << 20)
    assert took(one, busy, **how) == pytest.approx(measured_s, rel=0.25)


def test_a_starved_victim_takes_seconds_and_boosted_it_does_not() -> None:
    starved = process(size_bytes=256 << 20, weight=IDLE)
    slow_s, boosted_s = took(starved, 6, reap=False), took(starved, 6, reap=False, boost=True)
    both_s = took(starved, 6, reap=True, boost=True)
    assert slow_s is not None
    assert boosted_s is not None
    assert both_s is not None
    assert 3 < slow_s < 30
    assert boosted_s < 0.02
    assert both_s < 0.012


def test_a_reap_takes_the_memory_of_who_hangs() -> None:
    for hung in (process(io=Io.HUNG), process(threads=2, hangs=Hang.THREAD)):
        assert took(hung, reap=True) == pytest.approx(0.038, rel=0.1)  # by two hands
        assert took(hung, reap=False) is None


def test_nobody_takes_the_memory_behind_a_stuck_lock() -> None:
    assert took(process(threads=2, hangs=Hang.LOCK), reap=True, boost=True) is None
    held = process(threads=2, hangs=Hang.LOCK_HELD, lock_s=3.0)
    assert took(held, reap=True, boost=True) == pytest.approx(3.04, abs=0.02)


# Determinism.


def test_the_same_job_gives_the_same_result() -> None:
    job = Job("two-nodes-hung-io", "kernel", 3)
    assert run(pickle.loads(pickle.dumps(job))) == run(job)
    assert run(job).trace != run(replace(job, seed=4)).trace
    assert run(job).trace != run(replace(job, strategy="guard")).trace


def test_a_result_is_json_and_pickles() -> None:
    result = run(Job("two-nodes", "guard", 0))
    assert pickle.loads(pickle.dumps(result)) == result
    assert result.as_dict()["nodes"][1]["node"] == "node1"


def test_a_path_is_a_scenario(tmp_path: Any) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'says = "x"\n[[node]]\nsize = "2G"\n[[process]]\nname = "hog"\nsize = "1G"\nrate = "500M"\n'
    )
    result = run(Job(str(file), "guard-1", 0))
    assert result.victims == ("hog",)
    assert result.relief_s is not None


def test_a_strategy_of_no_name_is_one_clear_line() -> None:
    for name, said in (
        ("nobody", "no strategy 'nobody'; there are pre-4.14"),
        ("guard-0", "guard-0: patience is more than 0"),
        ("patience-x", "no strategy 'patience-x'"),
    ):
        with pytest.raises(StrategyError, match=said):
            strategies.strategy(name)
    assert strategies.strategy("guard").says == STRATEGIES["guard-2"].says


# Designs of the kernel.


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", HEALTHY)
def test_every_design_frees_everything_of_who_is_healthy(design: str, name: str) -> None:
    strategy = Strategy(design, "", DESIGNS[design], KernelKiller)
    world = Runs(scenario.load(name).draw(0), strategy, calibrated()).world()
    world.run()
    assert world.machine.relieved_s is not None
    world.loop.run(world.loop.now_s + 60)
    assert world.kills
    assert all(world.is_back(kill.process) for kill in world.kills)
    broken = {prop for prop, _ in world.tasks.s.broken}
    needless = {"needless-kill", "needless-kill-at-once", "freed-after-skip", "kill-after-relief"}
    assert broken <= needless


def results(name: str, strategy: str, seeds: int = 4) -> list[Result]:
    return [run(Job(name, strategy, seed)) for seed in range(seeds)]


def test_pre_4_14_kills_needlessly_where_the_checker_says_that_it_can() -> None:
    # The reaper gets no mm from who is in exit_mmap or exit_aio already, and says done.
    for name in ("busy-neighbours", "two-hogs"):
        assert all(one.needless_lenient >= 1 for one in results(name, "pre-4.14"))
        assert all(one.needless >= 1 for one in results(name, "pre-4.14"))
        for strategy in ("gate-retry", "kernel", "guard"):
            assert not any(one.needless_strict for one in results(name, strategy))
            assert not any(one.needless for one in results(name, strategy))
    assert all(one.needless for one in results("raw-io", "pre-4.14"))


def test_hung_io_is_reaped_after_two_seconds_today_and_never_by_gate_retry() -> None:
    for today in results("hung-io", "kernel"):
        assert today.relief_s == pytest.approx(2.0, abs=0.1)
        assert today.kills == 1
    for retry in results("hung-io", "gate-retry"):
        assert retry.relief_s is None
        assert retry.kills == 1
    since = Strategy("merged-4.14", "", DESIGNS["merged-4.14"], KernelKiller)
    runs = Runs(scenario.load("hung-io").draw(0), since, calibrated())
    merged = runs.result(Job("hung-io", "merged-4.14", 0))
    assert merged.relief_s is not None
    assert merged.relief_s < 0.1


def test_the_kernels_reaper_gives_up_a_stuck_lock_after_three_seconds() -> None:
    world = World(
        setup(
            process(size_bytes=4 * GIB, rate_bytes_s=1e9, threads=2, hangs=Hang.LOCK,
                    until_bytes=16 * GIB),
            process(name="next", size_bytes=GIB, rate_bytes_s=1e7, until_bytes=16 * GIB),
        ),
        Kernel,
        KernelKiller(),
        calibrated(),
    )  # fmt: skip
    world.run()
    first, second = world.kills
    assert (first.process.name, second.process.name) == ("victim", "next")
    assert second.at_s - first.at_s == pytest.approx(3.0, abs=0.05)


def test_one_serial_reaper_costs_the_other_node() -> None:
    # Two victims that hang with their locks: each has the reaper for a second of its own.
    stuck = {"rate_bytes_s": 1e9, "threads": 2, "hangs": Hang.LOCK, "bound": True}
    more = {"size_bytes": GIB, "rate_bytes_s": 1e7, "until_bytes": 16 * GIB, "bound": True}
    both = Setup(
        "test", 0, 4, 0, (node("node0", 8 * GIB), node("node1", 8 * GIB)), 0, 0.0,
        (
            process(name="a", node=0, size_bytes=4 * GIB, until_bytes=16 * GIB, **stuck),
            process(name="b", node=1, size_bytes=4 * GIB, until_bytes=16 * GIB, **stuck),
            process(name="c", node=0, **more),
            process(name="d", node=1, **more),
        ),
    )  # fmt: skip
    world = World(both, Kernel, KernelKiller(), calibrated())
    world.run()
    kills = {kill.process.name: kill.at_s for kill in world.kills}
    waits = sorted((kills["c"] - kills["a"], kills["d"] - kills["b"]))
    assert waits == pytest.approx([3.0, 4.0], abs=0.1)


def test_io_of_a_filesystem_that_needs_memory_closes_the_circle() -> None:
    assert all(one.relief_s is None for one in results("filesystem-io", "gate-retry"))
    assert all(one.relief_s is not None for one in results("filesystem-io", "kernel"))


def test_who_is_alone_in_gate_retry_is_gate_retry() -> None:
    assert STRATEGIES["gate-retry"].design is GateRetry


# Patience.


def test_patience_is_how_long_a_stuck_victim_holds_up_the_next() -> None:
    for patience_s in (0.5, 2.0):
        for family in ("patience", "domain", "guard"):
            for one in results("held-lock", f"{family}-{patience_s:g}", 6):
                lock_s = scenario.load("held-lock").draw(one.seed).processes[0].lock_s
                expected = 2 if lock_s > patience_s + 0.1 else 1
                if abs(lock_s - patience_s) > 0.2:
                    assert (one.kills, one.needless) == (expected, expected - 1)


def test_one_victim_a_node_does_not_wait_for_the_other_node() -> None:
    for seed in range(3):
        serial, by_node, guard = (
            run(Job("two-nodes-stuck-lock", name, seed))
            for name in ("patience-10", "domain-10", "guard-10")
        )
        healthy = 1
        for patient in (by_node, guard):
            ours, theirs = patient.nodes[healthy].stalled_s, serial.nodes[healthy].stalled_s
            assert ours <= theirs


def test_who_would_end_by_itself_dies_needlessly() -> None:
    assert any(one.needless for one in results("short-peak", "guard", 8))
    assert not any(one.needless for one in results("short-peak", "clairvoyant", 8))


# The bound.

OTHERS = ("pre-4.14", "gate-retry", "kernel", "patience-0.1", "patience-2", "domain-2", "guard")


@pytest.mark.parametrize("name", scenario.names())
def test_each_strategy_ends_and_none_beats_the_clairvoyant(name: str) -> None:
    for seed in range(2):
        bound = run(Job(name, "clairvoyant", seed))
        assert bound.needless == 0
        bound_s = float("inf") if bound.relief_s is None else bound.relief_s
        for strategy in OTHERS:
            one = run(Job(name, strategy, seed))
            after_s = float("inf") if one.relief_s is None else one.relief_s
            assert after_s >= bound_s or one.needless > bound.needless, (strategy, seed)
            assert one.needless <= one.kills
            assert sum(each.kills for each in one.nodes) == one.kills == len(one.victims)


def test_the_horizon_ends_what_never_ends() -> None:
    assert trial.NEEDLESS_S < 60
    (never,) = results("hung-io", "gate-retry", 1)
    assert never.relief_s is None
    assert never.nodes[0].relief_s is None
    assert never.stalled_s > 100  # several services, a minute
