"""The comparison on whole machines: what is read from traces and samples, how runs are judged,
how an interrupted comparison goes on, what the page and the drawings say. No guest is booted."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench.oom import daemons, meter, page, plots, runs, signals, verdict
from bench.oom import round as one_round
from bench.oom.workloads import WORKLOADS
from vmtest import guest

TRACE = """# tracer: nop
#
        earlyoom-225     [001] d..1.    21.891511: signal_generate: sig=15 errno=0 code=0 comm=tail pid=237 grp=1 res=0
 my prog (x-1)-12      [000] d..2.    22.500000: signal_generate: sig=9 errno=0 code=128 comm=a pid=1 b pid=300 grp=1 res=0
          python-177     [000] .....    22.400000: mark_victim: pid=300 comm=a uid=1000 total-vm=1kB
           <...>-9       [001] d..1.    23.000001: signal_generate: sig=9 errno=0 code=-6 comm=leak pid=7 grp=0 res=2
"""  # noqa: E501


def test_signals_are_read_whoever_sent_them_and_whatever_they_are_called() -> None:
    term, kernels, other = signals.parse(TRACE)
    assert (term.at_s, term.signal, term.pid, term.comm) == (21.891511, 15, 237, "tail")
    assert (term.by, term.by_pid, term.by_kernel, term.result) == ("earlyoom", 225, False, 0)
    assert (kernels.comm, kernels.pid, kernels.by_kernel) == ("a pid=1 b", 300, True)
    assert (kernels.by, kernels.by_pid) == ("my prog (x-1)", 12)
    assert (other.by, other.result) == ("<...>", 2)
    assert signals.parse_marks(TRACE) == [(22.4, 300)]


MEMINFO = b"""MemTotal:         987372 kB
MemFree:          650000 kB
MemAvailable:     700000 kB
SwapTotal:        524284 kB
SwapFree:         500000 kB
"""
NODE = b"""Node 1 MemTotal:       386616 kB
Node 1 MemFree:        100000 kB
Node 1 Active(anon):     1000 kB
Node 1 Inactive(anon):   1000 kB
Node 1 Active(file):     2000 kB
Node 1 Inactive(file):   3000 kB
"""


def test_what_is_left_of_a_machine_and_of_a_node() -> None:
    machine, node = meter.Ground(), meter.Ground(1)
    assert machine.left(MEMINFO) == 1_200_000 << 10
    assert machine.whole(MEMINFO) == (987372 + 524284) << 10
    assert node.left(NODE) == 105_000 << 10
    assert node.whole(NODE) == 386616 << 10


SAMPLES = [(0.0, 100), (1.0, 50), (2.0, 5), (3.0, 30), (4.0, 8), (5.0, 60), (6.0, 70)]


def test_the_line_is_crossed_once_and_memory_is_back_when_it_stays() -> None:
    assert meter.crossing(SAMPLES, 10) == 2.0
    assert meter.crossing(SAMPLES, 1) is None
    assert meter.back(SAMPLES, 10, 2.0) == 5.0
    assert meter.back(SAMPLES, 10, 5.5) == 6.0
    assert meter.back(SAMPLES[:5], 10, 2.0) is None


def test_a_standstill_reaches_to_the_end_and_is_sought_in_its_span() -> None:
    beats = [0.0, 0.5, 0.51, 0.52, 0.9]
    assert meter.longest_gap(beats, 0.505, 1.0) == pytest.approx((0.38, 0.52))
    assert meter.longest_gap(beats, 0.505, 9.0) == pytest.approx((8.1, 0.9))
    assert meter.longest_gap(beats, 0.0, 1.0) == (0.5, 0.0)
    assert meter.longest_gap([], 0.0, 1.0) == (1.0, 0.0)


def test_thinned_samples_are_few_and_of_the_span() -> None:
    many = [(at / 100, at) for at in range(1000)]
    few = meter.thinned(many, 2.0, 4.0, 20)
    assert len(few) <= 20
    assert few[0] == (2.0, 200)
    assert few[-1][0] <= 4.0


def test_what_was_seen_is_told_from_the_workloads_begin() -> None:
    samples = [(100 + at / 10, 1000 - 20 * at if at < 50 else 900) for at in range(100)]
    beats = [100 + at / 10 for at in range(100)]
    sent = signals.parse(TRACE.replace(" 21.891511", "104.850000"))[-1:]
    told = one_round.tell(samples, beats, sent, line=100, began_s=100.5, ended_s=109.0)
    assert told["crossed_s"] == pytest.approx(4.1)
    assert told["signals"][0]["at_s"] == pytest.approx(4.35)
    assert told["back_s"] == pytest.approx(4.5)
    assert told["frozen_s"] == pytest.approx(0.1)
    assert told["left_at_signal_bytes"] == 40
    assert json.loads(json.dumps(told)) == told


def sent(at_s: float, comm: str, pid: int, by: str = "earlyoom", **more: Any) -> dict[str, Any]:
    base = {"signal": 9, "by_pid": 1, "by_kernel": by == "kernel", "result": 0}
    return {"at_s": at_s, "comm": comm, "pid": pid, "by": by, **base, **more}


def run(workload: str = "tail", *kills: dict[str, Any], **more: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "kind": "run", "daemon": "earlyoom", "setting": "default", "workload": workload, "run": 1,
        "why_ended": "relieved", "crossed_s": 2.0, "back_s": 3.5, "frozen_s": 0.2,
        "lasted_s": 10.0, "signals": list(kills), "rest": {"cpu_share": 0.01},
        "use_before": {"cpu_s": 1.0, "pss_bytes": 1 << 20, "rss_bytes": 2 << 20, "major_faults": 3},
        "use_after": {"cpu_s": 1.5, "pss_bytes": 1 << 20, "rss_bytes": 2 << 20, "major_faults": 7},
    }  # fmt: skip
    return base | more


def test_times_are_from_the_line() -> None:
    found = verdict.judge(run("tail", sent(2.5, "tail", 7, signal=15), sent(2.9, "tail", 7)))
    assert found.signal_s == pytest.approx(0.5)
    assert found.back_s == pytest.approx(1.5)
    assert [victim.comm for victim in found.victims] == ["tail"]
    assert (found.needless, found.first_was_right, found.by) == (0, True, "earlyoom")


def test_a_bystander_is_killed_for_nothing_and_a_culprit_is_not() -> None:
    found = verdict.judge(
        run("stress", sent(2.1, "database", 5, "kernel"), sent(2.5, "stress-ng-brk", 6))
    )
    assert (found.needless, found.first_was_right, found.by) == (1, False, "kernel")


def test_of_two_hogs_the_second_dies_for_nothing() -> None:
    both = (sent(2.1, "larger", 5), sent(2.2, "smaller", 6))
    assert verdict.judge(run("two-hogs", *both)).needless == 1
    assert verdict.judge(run("two-hogs", *both[:1])).needless == 0


def test_who_ignores_a_signal_is_not_killed_nor_whom_others_end() -> None:
    found = verdict.judge(
        run(
            "stress",
            sent(2.1, "ignorer", 4, signal=15, result=1),
            sent(2.2, "stress-ng-brk", 5, "stress-ng"),
            sent(2.3, "memreap-reaper", 6, "memreap"),
            sent(2.35, "(udev-worker)", 8, "systemd-udevd", signal=15),
            sent(2.4, "stress-ng-brk", 7, "memreap-core"),
        )
    )
    assert [victim.pid for victim in found.victims] == [7]
    assert found.by == "memreap"


def test_the_kernel_kills_in_the_name_of_the_hog() -> None:
    found = verdict.judge(run("tail", sent(2.1, "tail", 4, "tail", by_kernel=True)))
    assert found.by == "kernel"


def test_killed_before_the_line_is_told_from_the_kill() -> None:
    found = verdict.judge(run("tail", sent(1.5, "tail", 4), crossed_s=None, back_s=1.5))
    assert (found.signal_s, found.back_s) == (0.0, 0.0)


def test_a_frozen_guest_brought_nothing_back() -> None:
    found = verdict.judge({"kind": "run", "workload": "tail", "why_ended": verdict.FROZE})
    assert (found.was_seen, found.back_s, found.frozen_s) == (False, None, None)


def test_never_is_longer_than_anything() -> None:
    found = verdict.spread([1.0, None, 3.0])
    assert found is not None
    assert (found.middle, found.low, found.high, found.never) == (3.0, 1.0, 3.0, 1)
    assert verdict.spread([]) is None
    nothing = verdict.spread([None, None])
    assert nothing is not None
    assert nothing.middle == float("inf")


def test_few_guests_serve_many_runs_and_first_runs_come_first() -> None:
    wanted = runs.keys(["kernel", "earlyoom"], ["default"], ["tail", "leak", "node"], 6)
    boots = runs.boots(wanted)
    told = [(b.daemon, b.setting, *job) for b in boots for job in b.jobs]
    assert sorted(told) == sorted(wanted)
    assert len(boots) == 2 * (6 + 2), "daemons; a round each, and two of the machine of two nodes"
    for boot in boots:
        assert len({WORKLOADS[name].nodes for name, _ in boot.jobs}) == 1
    firsts = [boot.jobs[0][1] for boot in boots]
    assert firsts == sorted(firsts)


BEGIN = {"kind": "begin", "daemon": "kernel", "setting": "default", "workload": "tail"}


def test_an_interrupted_comparison_goes_on(tmp_path: Path) -> None:
    archive = runs.Archive(tmp_path / "runs.jsonl")
    assert archive.done() == set()
    taker = runs.Taker(archive)
    taker({"kind": "machine", "versions": {}})
    taker(BEGIN | {"run": 1})
    taker(BEGIN | {"kind": "run", "run": 1, "why_ended": "relieved"})
    assert archive.done() == {("kernel", "default", "tail", 1)}, "kept as it is told"
    with open(archive.path, "a") as file:
        file.write('{"kind": "run", "daem')  # the power went
    assert len(archive.done()) == 1
    archive.add(BEGIN | {"kind": "run", "run": 3, "why_ended": "relieved"})
    assert len(archive.done()) == 2


def test_a_run_in_which_the_guest_froze_is_a_result(tmp_path: Path) -> None:
    taker = runs.Taker(runs.Archive(tmp_path / "runs.jsonl"))
    taker(BEGIN | {"run": 1})
    taker(BEGIN | {"kind": "run", "run": 1, "why_ended": "relieved"})
    taker(BEGIN | {"workload": "leak", "run": 1})
    taker.end(verdict.FROZE)
    assert taker.kept == 2
    assert [(record["workload"], record["why_ended"]) for record in taker.archive.runs()] == [
        ("tail", "relieved"), ("leak", verdict.FROZE),
    ]  # fmt: skip


def test_what_a_script_broke_in_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(_machine: object, _script: str, told: guest.Told) -> guest.Result:
        told(BEGIN | {"run": 1})
        return guest.Result(exit_code=1, stderr=["OSError: out of luck"])

    monkeypatch.setattr(guest.Guest, "run", break_down)
    archive = runs.Archive(tmp_path / "runs.jsonl")
    said = runs.run(runs.Boot("kernel", "default", (("tail", 1),)), archive)
    assert said == "kernel default tail: 0 of 1 runs, OSError: out of luck"
    assert archive.done() == set()


def test_settings_are_changed_where_they_are() -> None:
    text = "# soft = 1\nsoft = 5 %\nhard= 2 %\n"
    assert daemons.with_keys(text, {"soft": "10 %", "hard": "9 %"}) == (
        "# soft = 1\nsoft = 10 %\nhard = 9 %\n"
    )
    with pytest.raises(KeyError):
        daemons.with_keys(text, {"loud": "1"})


def test_earlyoom_is_told_the_line_in_kib() -> None:
    assert "-M 98000,98000 -S 52000,52000" in daemons.earlyoom_options(98000, 52000)
    assert "-S" not in daemons.earlyoom_options(98000, 0)


@pytest.mark.parametrize("swapping", [False, True])
def test_oomd_gets_rules_that_are_json(swapping: bool) -> None:
    rules = json.loads(daemons.oomd_rules(600, swapping))["rulesets"]
    detectors = [ruleset["detectors"][0][1]["name"] for ruleset in rules]
    assert detectors == [("swap_free" if swapping else "memory_above"), "pressure_above"]


def records() -> list[dict[str, Any]]:
    quick, slow = sent(2.1, "tail", 4), sent(4.0, "database", 5, "kernel")
    return [
        {"kind": "machine", "versions": {"earlyoom": "1.9.0-1"}, "memory_bytes": 1 << 30,
         "cpus": 2, "swap": []},
        run("tail", quick, back_s=2.2),
        run("tail", quick, back_s=2.4, run=2),
        run("tail", slow, back_s=None, run=1, daemon="kernel", frozen_s=4.0, use_after={}),
        {"kind": "run", "daemon": "kernel", "setting": "default", "workload": "tail", "run": 2,
         "why_ended": verdict.FROZE},
    ]  # fmt: skip


def test_the_page_says_who_was_best_and_who_never() -> None:
    text = "\n".join(page.lines(records()))
    assert "| earlyoom | 1.9.0-1 |" in text
    assert "836 of 840 runs are missing, and 166 rows have none at all" in text
    winners = next(line for line in text.splitlines() if line.startswith("| `tail /dev/zero` |"))
    assert winners.count("earlyoom (default)") == 4
    ours = next(line for line in text.splitlines() if line.startswith("| earlyoom | default | **"))
    assert "**300 ms (200 ms .. 400 ms)**" in ours
    assert "earlyoom 2" in ours
    bare = next(line for line in text.splitlines() if line.startswith("| kernel | default | "))
    assert "| never |" in bare
    assert "kernel 1, the guest froze 1" in bare
    assert "0 of 1" in bare
    assert "| earlyoom | default | 1.00% | 5.00% | 1 MiB | 2 MiB | 4 (4 .. 4) | 2 |" in text


def test_the_drawings_show_each_run_once(tmp_path: Path) -> None:
    found = plots.dots(runs_of(records()), lambda each: each.back_s)
    assert list(found) == ["tail"]
    assert [dot.value_s is None for dot in found["tail"]] == [False, False, True, True]
    written = plots.write(runs_of(records()), tmp_path)
    assert [path.name for path in written] == ["peers-back.svg", "peers-frozen.svg"]
    text = written[0].read_text()
    assert "<svg" in text
    assert "systemd-oomd" in text


def runs_of(all_of_them: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in all_of_them if record["kind"] == "run"]


def test_every_workload_blames_somebody_and_no_bystander() -> None:
    from bench.oom.yard import BYSTANDERS

    for workload in WORKLOADS.values():
        assert workload.culprits
        assert not any(workload.blames(name) for name, *_ in BYSTANDERS)
