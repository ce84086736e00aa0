"""``memreap simulate`` as it is run: what it prints, its answers to bad input, its exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.terminal import seen

from memreap.simulate import scenario
from memreap.simulate.command import SimulateOptions
from memreap.simulate.command import simulate as simulated
from memreap.simulate.costs import calibrated, dumps
from memreap.simulate.strategies import STRATEGIES
from memreap.telling import paper

MINE = """
says = "One that leaks & <b>grows</b>."
[[node]]
size = "2G"
[[process]]
name = "hog <i>"
size = "1G"
rate = "500M"
[[process]]
name = "shell"
size = "100M"
"""
QUICK = ("two-hogs", "held-lock", "--strategy", "kernel", "--strategy", "guard-2", "--seeds", "3")

needs_matplotlib = pytest.mark.skipif(
    find_spec("matplotlib") is None, reason="matplotlib is not installed: pip install '.[plots]'"
)


def command(*args: str | Path) -> list[str]:
    return [sys.executable, "-m", "memreap", "simulate", *map(str, args)]


def simulate(*args: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args), capture_output=True, text=True, timeout=60, check=False, **how
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_row_is_what_the_manual_says() -> None:
    done = simulate(*QUICK, "--json")
    told = rows(done)
    assert [(row["scenario"], row["strategy"]) for row in told] == [
        (name, one) for name in ("two-hogs", "held-lock") for one in ("kernel", "guard-2")
    ]
    for row in told:
        assert row["trials"] == row["incidents"] == 3
        assert set(row["relief"]) == {"median_s", "low_s", "high_s"}
        for key in ("needless", "needless_strict", "needless_lenient", "kills", "unrelieved"):
            assert row[key]["low"] <= row[key]["mean"] <= row[key]["high"]
    assert any(row["on_frontier"] for row in told)
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_table_is_lines_in_columns() -> None:
    done = simulate(*QUICK)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("two-hogs: Two hogs")
    assert lines[1] == "3 trials each"
    assert lines[2].split()[:2] == ["STRATEGY", "RELIEF"]
    assert "kernel" in lines[3]
    assert "on the frontier" in done.stdout


def test_two_nodes_are_told_apart() -> None:
    done = simulate("two-nodes", "--strategy", "guard-2", "--seeds", "2")
    heading = next(line for line in done.stdout.splitlines() if "NODE0" in line)
    assert heading.split("  ")[0] == "STRATEGY"
    assert [one for one in heading.split() if one not in ("95", "%", "MEAN")][1:] == [
        "NODE0",
        "NODE1",
        "FIRST",
        "OF",
        "THEM",
    ]


def test_the_number_of_processes_changes_nothing() -> None:
    one, three = (simulate(*QUICK, "--json", "--jobs", jobs) for jobs in ("1", "3"))
    assert one.stdout == three.stdout


def test_a_scenario_and_costs_of_ones_own(tmp_path: Path) -> None:
    file, costs = tmp_path / "mine.toml", tmp_path / "costs.toml"
    file.write_text(MINE)
    costs.write_text(dumps(calibrated()).replace("decide_s = ", "decide_s = 1"))
    quick, slow = (
        rows(simulate(file, "--strategy", "guard", "--seeds", "2", "--json", *more))[0]
        for more in ((), ("--costs", costs))
    )
    assert quick["scenario"] == slow["scenario"] == str(file)
    assert slow["relief"]["median_s"] > 1 > quick["relief"]["median_s"]


def test_one_incident_is_told() -> None:
    done = simulate("--one", "3", "held-lock", "--strategy", "patience-0.1", "--strategy", "kernel")
    assert done.stdout.count("held-lock, seed 3: ") == 2
    assert "SIGKILL: allocator" in done.stdout
    assert "not a page of an earlier victim is back" in done.stdout
    assert re.search(r"2 were killed, 1 needless: without service \d there would", done.stdout)
    assert (done.stderr, done.returncode) == ("", 0)


def test_an_incident_that_is_none_is_told(tmp_path: Path) -> None:
    file = tmp_path / "quiet.toml"
    file.write_text(MINE.replace("rate =", 'until = "1200M"\nrate ='))
    assert "there was no incident" in simulate("--one", "0", file).stdout
    done = simulate(file, "--seeds", "2", "--strategy", "guard")
    assert "2 trials each, 2 of them without an incident" in done.stdout


def test_everything_that_can_be_named_is_listed() -> None:
    told = rows(simulate("--list", "--json"))
    assert [row["scenario"] for row in told if "scenario" in row] == list(scenario.names())
    assert [row["strategy"] for row in told if "strategy" in row] == list(STRATEGIES)
    plain = simulate("--list").stdout
    assert all(name in plain for name in (*scenario.names(), *STRATEGIES))


BAD: dict[str, tuple[Sequence[str], str, int]] = {
    "scenario": (("nosuch",), "nosuch: No such file or directory; shipped scenarios are", 2),
    "strategy": (("--strategy", "nosuch"), "no strategy 'nosuch'; there are pre-4.14", 2),
    "patience": (("--strategy", "guard-0"), "guard-0: patience is more than 0", 2),
    "costs": (("--costs", "/nowhere/x.toml"), "/nowhere/x.toml: No such file", 2),
    "executor": (("--executor", "mpi"), "no executor 'mpi': say processes, or dask://", 2),
    "jobs of dask": (("--executor", "dask://127.0.0.1:1", "--jobs", "2"), "--jobs is of", 2),
    "seeds": (("--seeds", "0"), "0 is not in the range", 2),
    "one of what": (("--one", "7"), "say of which SCENARIO", 2),
    "resume what": (("--resume",), "say which, with --results", 2),
    "device": (("--results", "/dev/full"), "/dev/full: no regular file", 2),
    "results": (("--results", "/nowhere/x.jsonl"), "/nowhere/x.jsonl: No such file", 2),
    "html": (("--html", "/nowhere/x.html"), "cannot write /nowhere/x.html", 2),
    "directory": (("--html", "/tmp"), "cannot write /tmp", 2),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_line(what: str) -> None:
    args, said, code = BAD[what]
    done = simulate(*args)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert (done.stdout, done.returncode) == ("", code)


def test_nobody_to_do_the_work_is_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    options = SimulateOptions(scenarios=("two-hogs",), executor="dask://127.0.0.1:8786")
    assert simulated(options, paper) == 3
    assert "pip install 'memreap[dask]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("says = ", "mine.toml: "),
        (MINE.replace("500M", "fast"), "mine.toml: process[0].rate: not 'fast': say"),
        (MINE + 'colour = "red"\n', "mine.toml: process[1].colour: no such key"),
        (MINE.replace("1G", "3G"), "mine.toml: process: those of node0 may hold 3.098 GiB"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    done = simulate(file, "--seeds", "1")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.returncode == 2


@needs_matplotlib
def test_pictures_are_written_and_do_not_change(tmp_path: Path) -> None:
    for number in range(2):
        done = simulate(*QUICK, "--svg", f"{number}.svg", "--png", f"{number}.png", cwd=tmp_path)
        assert done.returncode == 0
        assert done.stderr.splitlines() == [
            f"memreap: written: {number}.png",
            f"memreap: written: {number}.svg",
        ]
    text = (tmp_path / "0.svg").read_text()
    assert "held-lock" in text, "texts stay texts"
    assert text == (tmp_path / "1.svg").read_text()
    assert (tmp_path / "0.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path) -> None:
    """Before anything is run."""
    blocked = "import sys; sys.modules['matplotlib'] = None; from memreap.cli import main; main()"
    args = ["simulate", "--png", str(tmp_path / "x.png")]
    done = subprocess.run(
        [sys.executable, "-c", blocked, *args], capture_output=True, text=True, check=False
    )
    assert done.stderr == (
        "memreap: --png and --svg need matplotlib: pip install 'memreap[plots]'\n"
    )
    assert done.returncode == 2


# Interrupted, and gone on with.


def started(*args: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*args),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell's background job is started with SIGINT ignored, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def until_lines(file: Path, lines: int) -> None:
    deadline_s = time.monotonic() + 30
    while not (file.exists() and file.read_bytes().count(b"\n") > lines):
        assert time.monotonic() < deadline_s, "nothing is written"
        time.sleep(0.02)


def nobody_left(group: int) -> bool:
    deadline_s = time.monotonic() + 3
    while time.monotonic() < deadline_s:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_an_interrupted_sweep_is_gone_on_with(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    file = tmp_path / "results.jsonl"
    asked = ("two-hogs", "raw-io", "--strategy", "kernel", "--strategy", "guard-2", "--json")
    args = (*asked, "--seeds", "40")
    with started(*asked, "--seeds", "4000", "--results", file) as process:
        until_lines(file, 20)
        begun_s = time.monotonic()
        if number is signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: to the workers as well
        else:
            process.send_signal(number)
        _, err = process.communicate(timeout=10)
        assert process.returncode == code
        assert time.monotonic() - begun_s < 2, "at once"
    assert nobody_left(process.pid)
    if number is signal.SIGINT:
        assert re.fullmatch(
            r"memreap: interrupted: \d+ of 16000 are in .*; --resume goes on\n", err
        )
    assert "Traceback" not in err
    there = file.read_text().splitlines()[1:-1]
    refused = simulate(*args, "--results", file)
    assert "is there: --resume goes on with it" in refused.stderr
    resumed = simulate(*args, "--results", file, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert file.read_text().splitlines()[1 : len(there) + 1] == there, "nothing is lost"
    assert resumed.stdout == simulate(*args).stdout


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    args = ("two-hogs", "--strategy", "kernel", "--seeds", "300", "--json")
    with started(*args, "--results", file) as process:
        until_lines(file, 10)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(workers[0]), signal.SIGKILL)
        out, err = process.communicate(timeout=60)
        assert (err, process.returncode) == ("", 0)
    assert out == simulate(*args).stdout
    seeds = [json.loads(line)["seed"] for line in file.read_text().splitlines()[1:]]
    assert sorted(seeds) == list(range(300)), "each once"


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", *command(*QUICK, "--results", file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == f"memreap: cannot write {file}: File too large\n"
    assert done.returncode == 2
    resumed = simulate(*QUICK, "--json", "--results", file, "--resume")
    assert resumed.stdout == simulate(*QUICK, "--json").stdout


def test_whoever_looks_sees_it_move() -> None:
    """On a terminal: a bar while it runs, and a table."""
    shown = seen(command("two-hogs", "--strategy", "kernel", "--seeds", "60"))
    assert b"simulating" in shown
    assert b"60 trials each" in shown
    assert b"kernel" in shown
