"""Hogs over their budget, on the running kernel."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

RUN = """
import json, re, sys
from memreap.run import usage
from memreap.run.options import RunOptions
from memreap.run.session import run
usage.SILENCE_S = 5.0  # a machine that is busy with other tests
given = json.loads(sys.argv[1])
if "protect" in given:
    given["protect"] = re.compile(given["protect"])
sys.exit(run(RunOptions(command=sys.argv[2:], **given)))
"""
SRC = str(Path(__file__).parents[1] / "src")
ENV = os.environ | {"PYTHONPATH": SRC}
BUDGET = 150 << 20
HOG = f"{sys.executable} -c 'x = bytearray(1 << 30); import time; time.sleep(60)'"
SMALL = f"{sys.executable} -c 'x = bytearray(60 << 20); import time; time.sleep(4)'"


class Run:
    def __init__(self, command: list[str], budget_bytes: int = BUDGET, **options: object) -> None:
        given = json.dumps({"budget_bytes": budget_bytes, **options})
        began_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", RUN, given, *command],
            capture_output=True,
            text=True,
            env=ENV,
            timeout=60,
            check=False,
        )
        self.took_s = time.monotonic() - began_s
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def kills(self) -> int:
        return self.err.count("killing ")


def shell(script: str, **options: object) -> Run:
    return Run(["sh", "-c", script], **options)  # type: ignore[arg-type]


def python(script: str, **options: object) -> Run:
    return Run([sys.executable, "-c", script], **options)  # type: ignore[arg-type]


def test_command_that_is_the_hog_gives_137_and_says_so() -> None:
    run = python("x = bytearray(1 << 30); import time; time.sleep(60)")
    assert run.code == 137
    assert run.took_s < 5
    assert "the command itself was the victim" in run.err
    assert "after the decision" in run.err


def test_shell_goes_on_when_its_hog_is_killed() -> None:
    run = shell(f"{HOG}; echo hog $?; exit 7")
    assert (run.code, run.out) == (7, "hog 137\n")
    assert run.kills == 1


def test_forks_that_share_pages_are_not_killed() -> None:
    run = python(
        "import os, time\n"
        "x = bytearray(80 << 20)\n"
        "children = []\n"
        "for _ in range(8):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        time.sleep(1.5); os._exit(0)\n"
        "    children.append(pid)\n"
        "print([os.waitpid(pid, 0)[1] for pid in children])"
    )
    assert (run.code, run.out) == (0, f"{[0] * 8}\n")
    assert run.kills == 0


def test_forks_that_unshare_pages_are_caught() -> None:
    run = python(
        "import os, time\n"
        "x = bytearray(80 << 20)\n"
        "children = []\n"
        "for _ in range(3):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        time.sleep(1)\n"
        "        y = bytearray(b'y' * (4 << 20))\n"
        "        for i in range(0, len(x), 4096): x[i] = 1\n"
        "        time.sleep(5); os._exit(0)\n"
        "    children.append(pid)\n"
        "print([os.waitpid(pid, 0)[1] for pid in children])"
    )
    # Each child has a little more than the parent, which may stay with its 80 MiB.
    assert (run.code, run.out) == (0, f"{[9] * 3}\n")
    assert run.kills == 3


def test_shared_memory_hog_is_caught() -> None:
    run = python(
        "import mmap, time\n"
        "m = mmap.mmap(-1, 1 << 30)\n"
        "for i in range(0, 1 << 30, 4096): m[i] = 1\n"
        "time.sleep(60)"
    )
    assert run.code == 137


def test_file_mapping_is_not_counted(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as f:
        f.truncate(400 << 20)
    run = python(
        "import mmap, sys, time\n"
        f"f = open({str(file)!r}, 'rb')\n"
        "m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)\n"
        "print(sum(m[i] for i in range(0, len(m), 4096)))\n"
        "time.sleep(0.5)"
    )
    assert (run.code, run.out, run.kills) == (0, "0\n", 0)


def test_orphaned_hog_is_caught() -> None:
    run = shell(f"(setsid {HOG} >/dev/null 2>&1 &) & sleep 2; echo alive")
    assert (run.code, run.out, run.kills) == (0, "alive\n", 1)
    assert "left running" not in run.err


def test_protected_hog_is_spared_and_another_dies() -> None:
    hog = HOG.replace("60)", "3)")
    # The shell has the word on its own command line: only the small one may be chosen.
    run = shell(f"{hog} sacred & {SMALL} & wait", protect="sacred")
    assert (run.code, run.kills) == (0, 1)
    assert "nobody may be killed" in run.err


def test_two_hogs_one_is_enough() -> None:
    hog = f"{sys.executable} -c 'x = bytearray(100 << 20); import time; time.sleep(2.5)'"
    run = shell(f"{hog} & a=$!; {hog} & b=$!; wait $a; echo $?; wait $b; echo $?")
    assert sorted(run.out.split()) == ["0", "137"]
    assert run.kills == 1


def test_kill_tree() -> None:
    run = shell(f"sleep 50 & {HOG} & wait; echo alive", on_limit="kill-tree")
    assert (run.code, run.out) == (137, "")
    assert "left running" not in run.err


def test_term_lets_a_victim_save_its_work() -> None:
    run = python(
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    print('saved'); sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "x = bytearray(200 << 20)\n"
        "time.sleep(60)",
        on_limit="term",
    )
    assert (run.code, run.out) == (9, "saved\n")


def test_term_is_followed_by_kill() -> None:
    run = python(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "x = bytearray(200 << 20)\n"
        "time.sleep(60)",
        on_limit="term",
        term_s=0.5,
    )
    assert run.code == 137
    assert 0.5 < run.took_s < 5


def test_vfork_does_not_count_twice() -> None:
    run = python(
        "import subprocess\n"
        "x = bytearray(100 << 20)\n"
        "for _ in range(30): subprocess.run(['sh', '-c', 'sleep 0.02'])\n"
    )
    assert (run.code, run.kills) == (0, 0)


def test_processes_left_behind_are_said() -> None:
    run = shell("setsid sleep 5 >/dev/null 2>&1 & exit 2")
    assert run.code == 2
    assert "1 process of its tree left running" in run.err


def test_wait_tree_waits_for_daemons() -> None:
    run = shell("setsid sleep 1 >/dev/null 2>&1 & exit 2", wait_tree=True)
    assert run.code == 2
    assert run.took_s > 1
    assert "left running" not in run.err


def test_record_explains_the_decision(tmp_path: Path) -> None:
    file = tmp_path / "incidents.json"
    shell(f"{HOG}; exit 0", json_path=str(file))
    (incident,) = map(json.loads, file.read_text().splitlines())
    (death,) = incident["victims"]
    assert death["outcome"] == "exited"
    assert death["seconds_to_release"] < 1
    scores = [c["score_pages"] for c in death["candidates"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 2
    assert incident["seconds_to_relief"] is not None


def test_a_zombie_whose_parent_looks_elsewhere_holds_no_memory() -> None:
    run = python(
        "import subprocess, sys, time\n"
        "x = bytearray(60 << 20)\n"
        "hog = subprocess.Popen([sys.executable, '-c', 'import time; x = bytearray(1 << 30)'])\n"
        "time.sleep(3)\n"
        "print(hog.wait())"
    )
    assert (run.code, run.out, run.kills) == (0, "-9\n", 1), run.err


def test_hundreds_of_members() -> None:
    many = "i=0; while [ $i -lt 400 ]; do sleep 3 & i=$((i+1)); done"
    run = shell(f"{many}; {HOG}; echo $?; wait")
    assert (run.code, run.out, run.kills) == (0, "137\n", 1), run.err


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")
def test_without_privileges() -> None:
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no Python that another user may run")
    run = Run.__new__(Run)
    given = json.dumps({"budget_bytes": BUDGET})
    done = subprocess.run(
        [python, "-c", RUN, given, "sh", "-c", f"{HOG.replace(sys.executable, python)}; echo $?"],
        capture_output=True,
        text=True,
        env=ENV,
        timeout=60,
        check=False,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    run.code, run.out, run.err = done.returncode, done.stdout, done.stderr
    assert (run.code, run.out, run.kills) == (0, "137\n", 1)
