"""``memreap check`` as it is run: what it prints, what it answers to bad input, its exit codes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.terminal import seen

from memreap.mm.argument import CLAIMS
from memreap.mm.bugs import BUGS
from memreap.mm.designs import DESIGNS
from memreap.mm.properties import PROPERTIES
from memreap.mm.scenarios import SCENARIOS

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "my_design.py"
ROW = {
    "design": str,
    "scenario": str,
    "property": str,
    "verdict": str,
    "states": int,
    "transitions": int,
    "seconds": float,
    "steps": int | None,
}


def check(*args: str | Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "memreap", "check", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_row_is_what_the_contract_says() -> None:
    done = check("merged-4.14", "--scenario", "lone", "--json")
    told = rows(done)
    assert [row["property"] for row in told] == list(SCENARIOS["lone"].asks)
    for row in told:
        assert set(row) == set(ROW)
        assert all(isinstance(row[key], kind) for key, kind in ROW.items())
        assert (row["verdict"] == "violated") == (row["steps"] is not None)
    assert done.returncode == 1, "something of a design that was named is violated"
    assert done.stderr == ""


def test_a_design_that_holds_is_exit_code_0() -> None:
    done = check("current", "--scenario", "reader", "--property", "torn-tree", "--json")
    assert [(row["verdict"], row["steps"]) for row in rows(done)] == [("holds", None)]
    assert done.returncode == 0


def test_the_shortest_counterexample_is_printed() -> None:
    done = check("merged-4.14", "--scenario", "reader", "--property", "torn-tree")
    assert done.returncode == 1
    assert "frees areas that somebody walks" in done.stdout
    assert "mm->tree = freed (was linked)" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_design_is_explained_before_its_table() -> None:
    done = check("merged-4.14", "--scenario", "lone")
    assert done.stdout.startswith("merged-4.14 (Andrea Arcangeli, Michal Hocko; 212925802454")
    assert "Differs from pre-4.14 in: " in done.stdout
    assert "SCENARIO" in done.stdout


def test_two_designs_are_a_matrix() -> None:
    done = check("pre-4.14", "current", "--scenario", "lone", "--scenario", "aio-never")
    lines = done.stdout.splitlines()
    assert lines[0].split()[0] == "DESIGN"
    assert [line.split()[0] for line in lines[1:3]] == ["pre-4.14", "current"]


def test_a_search_that_is_cut_off_is_bounded() -> None:
    done = check("current", "--scenario", "lone", "--max-states", "50", "--json")
    assert {row["verdict"] for row in rows(done)} == {"bounded"}
    assert done.returncode == 0


def test_one_process_finds_what_two_do() -> None:
    one = check("5.15", "--json", "--jobs", "1", "--scenario", "lone", "--scenario", "mrelease")
    two = check("5.15", "--json", "--jobs", "2", "--scenario", "lone", "--scenario", "mrelease")
    without_time = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows(done)]
        for done in (one, two)
    ]
    assert without_time[0] == without_time[1]


def test_a_design_of_ones_own() -> None:
    done = check("--from", EXAMPLE, "--scenario", "lone", "--json")
    told = {str(row["property"]): row["verdict"] for row in rows(done)}
    assert {row["design"] for row in rows(done)} == {"skip-last"}
    assert told["needless-kill"] == "holds", "what it was made for"
    assert told["one-walker"] == "holds", "its own property"
    beside = check("--from", EXAMPLE, "current", "--scenario", "lone", "--json")
    verdicts = {str(row["property"]): row["verdict"] for row in rows(beside)}
    assert verdicts["needless-kill"] == "violated"
    assert verdicts["one-walker"] == "violated"


BAD = {
    "is not python": ("def (\n", "bad.py:1: SyntaxError"),
    "fails": ("import memreap\n\nmemreap.no_such_thing\n", "bad.py:3: AttributeError"),
    "defines nothing": ("x = 1\n", "defines no design"),
    "takes a name that is taken": (
        "from memreap.mm.kernel import Kernel\nclass K(Kernel):\n    name = 'current'\n",
        "needs a name of its own",
    ),
    "keeps its base's name": (
        "from memreap.mm.kernel import Kernel\nclass K(Kernel):\n    pass\n",
        "needs a name of its own",
    ),
    "raises in a step": (
        "from memreap.mm.kernel import Kernel\n"
        "class K(Kernel):\n    name = 'k'\n"
        "    def exit_mmap(self, mm, current):\n        yield 1 / 0\n",
        "bad.py:5: ZeroDivisionError",
    ),
    "yields what is no operation": (
        "from memreap.mm.kernel import Kernel\n"
        "class K(Kernel):\n    name = 'k'\n"
        "    def exit_mmap(self, mm, current):\n        yield 42\n",
        "42",
    ),
    "never ends": (
        "from memreap.mm.kernel import Kernel\nfrom memreap.mm.fork import mmdrop\n"
        "class K(Kernel):\n    name = 'k'\n"
        "    def exit_mmap(self, mm, current):\n"
        "        while True:\n            yield mmdrop(mm)\n",
        "become",
    ),
    "exits": ("import sys\nsys.exit(3)\n", "bad.py:2: SystemExit"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_cannot_be_used_is_one_clear_line(what: str, tmp_path: Path) -> None:
    text, said = BAD[what]
    file = tmp_path / "bad.py"
    file.write_text(text)
    for jobs in ("1", "2"):
        done = check("--from", file, "--scenario", "lone", "--jobs", jobs)
        assert said in done.stderr
        assert "Traceback" not in done.stderr
        assert done.returncode == 2
        assert done.stdout == ""


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        (("nosuch",), "no design 'nosuch'", 2),
        (("current", "--property", "nosuch"), "no property 'nosuch'", 2),
        (("--scenario", "nosuch"), "no scenario 'nosuch'", 2),
        (("--from", "/nowhere/x.py"), "no such file: /nowhere/x.py", 4),
        (("--from", "/etc/hostname"), "must end in .py", 2),
        (("--claims", "--bugs"), "go alone", 2),
        (("--claims", "current"), "go alone", 2),
        (("pre-4.14", "--scenario", "mrelease"), "nothing to check", 2),
        (("current", "--scenario", "lone", "--html", "/nowhere/x.html"), "/nowhere/x.html", 2),
        (("--jobs", "0"), "0 is not in the range", 2),
    ],
)
def test_bad_input_is_one_clear_line(args: Sequence[str], said: str, code: int) -> None:
    done = check(*args)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code


def test_the_bugs_are_told_and_found() -> None:
    done = check("--bugs")
    assert done.returncode == 0
    for bug in BUGS.values():
        assert (bug.cve or bug.commit) in done.stdout
    assert "NOT FOUND" not in done.stdout
    assert "STILL THERE" not in done.stdout


def test_the_claims_are_told_with_what_came_out() -> None:
    done = check("--claims", "--json")
    told = rows(done)
    assert [row["claim"] for row in told if "claim" in row] == list(CLAIMS)
    assert all(row["stands"] for row in told if "claim" in row)
    assert done.returncode == 0


def test_everything_that_can_be_named_is_listed() -> None:
    told = rows(check("--list", "--json"))
    assert [row["design"] for row in told if "design" in row] == list(DESIGNS)
    assert [row["scenario"] for row in told if "scenario" in row] == list(SCENARIOS)
    assert [row["property"] for row in told if "property" in row] == list(PROPERTIES)
    plain = check("--list").stdout
    assert all(name in plain for name in (*DESIGNS, *SCENARIOS, *PROPERTIES))


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-m", "memreap", "check", "--list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_ctrl_c_ends_it_at_once_and_leaves_nobody() -> None:
    command = [sys.executable, "-m", "memreap", "check"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        # A shell's background job is started with SIGINT ignored, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:
        time.sleep(2)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 130
        assert b"Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_whoever_looks_sees_it_move() -> None:
    """On a terminal: a bar while it runs, and colour."""
    arguments = ("current", "5.18", "--jobs", "1", "--scenario", "ksm")
    shown = seen([sys.executable, "-m", "memreap", "check", *arguments])
    assert b"exploring" in shown
    assert b"\x1b[" in shown
    assert b"current" in shown
