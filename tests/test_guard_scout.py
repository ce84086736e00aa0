"""How often is read: far from the line seldom, a victim's release often, never all the time.

And who is read as one.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

from memreap.decide.policy import Policy, Rule, Verdict
from memreap.guard import core, reading
from memreap.guard.core import TURNS_SHARE, Core
from memreap.guard.reading import Mark, Reader
from memreap.guard.scout import BRANCH_AWAITED_S, PAUSE_S, QUICK_SHARE, Scout
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Line

LIMIT_BYTES = 8 << 30
TAKES_64_MIB = "import time; held = bytearray(64 << 20); print('full', flush=True); time.sleep(600)"


class Told:
    """A line that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def say(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        del fds
        self.said.append(message)


@pytest.fixture
def victim() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", TAKES_64_MIB], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"full\n"
        try:
            yield child.pid
        finally:
            child.kill()


def ward(name: str, kind: str, pid: int) -> dict[str, Any]:
    """As the core orders it."""
    return {
        "name": name,
        "kind": kind,
        "pid": pid,
        "uid": 0,
        "path": "",
        "members": [],
        "limit_bytes": LIMIT_BYTES,
        "whole_bytes": LIMIT_BYTES,
        "start_ticks": Procfs().stat(pid).start_ticks,
    }


SLEEPERS = 14
# Joins a cgroup, and starts them.
STARTS = f"""
import subprocess, sys
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
started = [subprocess.Popen(["sleep", "600"]) for _ in range({SLEEPERS})]
for one in started:
    while open(f"/proc/{{one.pid}}/comm").read() != "sleep\\n":
        pass
print("started", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def starter(cgroup: Callable[[str], Path]) -> Iterator[tuple[int, Path]]:
    """(its pid, its cgroup)."""
    directory = cgroup("memory")
    argv = [sys.executable, "-S", "-c", STARTS, str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"started\n"
        try:
            yield one.pid, directory
        finally:
            for pid in (directory / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            one.wait()
            while (directory / "cgroup.procs").read_text():
                time.sleep(0.01)


@pytest.mark.kernel
@pytest.mark.skipif("os.geteuid() != 0", reason="needs root")
@pytest.mark.parametrize("kind", ["system", "tree"])
def test_a_crowd_is_one_candidate_and_in_a_tree_nobody_is_chased(
    kind: str, starter: tuple[int, Path]
) -> None:
    pid, directory = starter
    told = Told()
    scout = Scout(cast("Line", told), Policy(), Mark(), os.getpid())
    scout._obey({"ward": ward("it", kind, pid)})
    if kind == "tree":
        scout._measure("it")
    scout.look("it", 1, quick=False)
    seen = told.said[-1]["look"]["seen"]
    (sleepers,) = [o for o in seen if o["crowd"] and o["candidate"]["name"] == "sleep"]
    assert len(sleepers["candidate"]["members"]) == SLEEPERS
    assert sleepers["nest"] == (str(directory) if kind == "system" else "")
    scout._obey({"forget": "it"})


def test_a_tree_is_measured_often_while_a_victim_of_it_is_waited_for(victim: int) -> None:
    told = Told()
    scout = Scout(cast("Line", told), Policy(), Mark(), os.getpid())
    scout._obey({"ward": ward("tree:1", "tree", victim)})
    scout._measure("tree:1")
    assert told.said[-1]["next_s"] > 4 * BRANCH_AWAITED_S, "far from its line"

    scout._obey({"doomed": [victim]})
    assert scout._branch_due["tree:1"] <= time.monotonic() + BRANCH_AWAITED_S
    scout._measure("tree:1")
    assert told.said[-1]["victim_bytes"] > 0
    assert told.said[-1]["next_s"] <= BRANCH_AWAITED_S

    scout._obey({"settled": [victim]})
    scout._measure("tree:1")
    assert told.said[-1]["next_s"] > 4 * BRANCH_AWAITED_S, "its memory is back"
    scout._obey({"forget": "tree:1"})


def test_a_tree_that_is_taken_on_anew_finds_its_victim_dying(victim: int) -> None:
    told = Told()
    scout = Scout(cast("Line", told), Policy(), Mark(), os.getpid())
    scout._obey({"doomed": [victim]})  # by the core, to a scout that is new
    members = [(victim, Procfs().stat(victim).start_ticks)]
    scout._obey({"ward": ward("tree:1", "tree", victim) | {"members": members}})
    scout._measure("tree:1")
    (member,) = scout._branches()[0].tree
    assert member.dying_bytes is not None
    assert told.said[-1]["victim_bytes"] < 128 << 20  # as closely as oom_score tells
    assert told.said[-1]["members"] == []
    scout._obey({"forget": "tree:1"})


@pytest.mark.parametrize("kind", ["system", "tree"])
def test_a_ward_that_is_ordered_again_is_the_same_one(kind: str, victim: int) -> None:
    """Made anew, it would not know who is exiting, or dying."""
    scout = Scout(cast("Line", Told()), Policy(), Mark(), os.getpid())
    order = ward("it", kind, victim)
    scout._obey({"ward": order})
    made = scout._wards["it"]
    scout._obey({"ward": order | {"members": [(victim, 1)], "whole_bytes": 4 << 30}})
    assert scout._wards["it"] is made
    assert made.totalpages == (4 << 30) // 4096
    scout._obey({"ward": order | {"pid": 1}})
    assert scout._wards["it"] is not made
    scout._obey({"forget": "it"})
    assert not scout._orders


def test_so_many_command_lines_of_young_ones_are_waited_for_in_a_look(victim: int) -> None:
    reader = Reader(Procfs(), Policy(), Mark(), os.getpid())

    def command(**allowed: int) -> str:
        reader.lines_left = allowed["lines"]
        read = reader.read(victim)
        assert read is not None
        return read.command

    assert command(lines=0) == ""
    assert "bytearray" in command(lines=1)
    assert reader.lines_left == 0
    assert "bytearray" in command(lines=0), "it is known by now"


def test_under_pressure_old_ones_are_read_and_those_whom_a_rule_knows_by_command_line(
    victim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_command = Policy(rules=(Rule(Verdict.PROTECT, command="bytearray"),))
    for policy, young_s in ((by_command, 1e6), (Policy(), 0.0)):
        monkeypatch.setattr(reading, "YOUNG_S", young_s)
        reader = Reader(Procfs(), policy, Mark(), 1)
        reader.lines_left = 0
        read = reader.read(victim)
        assert read is not None
        assert "bytearray" in read.command
        assert bool(read.judgement.barred) == (policy is by_command)


def test_a_look_at_a_tree_that_was_asked_for_comes_with_a_reading_of_its_time(victim: int) -> None:
    told = Told()
    scout = Scout(cast("Line", told), Policy(), Mark(), os.getpid())
    scout._obey({"ward": ward("it", "tree", victim)})
    scout.look("it", 0, quick=True)
    assert not any("usage" in message for message in told.said), "but none that it took by itself"
    scout.look("it", 1, quick=True)
    look = next(m["look"] for m in reversed(told.said) if "look" in m)
    kinds = [next(iter(message)) for message in told.said]
    assert kinds.index("usage") < len(kinds) - 1 - kinds[::-1].index("look"), "it comes first"
    assert next(m for m in told.said if "usage" in m)["read_s"] >= look["read_s"]
    scout._obey({"forget": "it"})


def test_a_look_that_is_asked_for_under_pressure_waits_for_none(
    victim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scout = Scout(cast("Line", Told()), Policy(), Mark(), os.getpid())
    scout._obey({"ward": ward("it", "tree", victim)})
    scout._measure("it")
    asked: list[int] = []
    monkeypatch.setattr(scout._reader, "_command", asked.append)
    post = mock.Mock(asked_s=7.0)
    post.name = "it"
    scout._obey(core._look(post))
    assert asked == []
    post.asked_s = None
    scout._obey(core._look(post))
    assert asked == [victim]
    scout._obey({"forget": "it"})


def burn(seconds: float) -> None:
    """Take so much CPU time, as everything does on a slow machine."""
    end_s = time.thread_time() + seconds
    while time.thread_time() < end_s:
        pass


class Hearing(Told):
    """A line on which nothing comes, for a while."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._until_s = time.monotonic() + seconds

    def hear(self, timeout_s: float | None) -> None:
        if time.monotonic() > self._until_s:
            raise EOFError
        time.sleep(min(timeout_s or 0.0, 0.05))


def test_looks_take_a_share_of_a_cpu_however_long_each_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scout = Scout(cast("Line", Hearing(1.0)), Policy(), Mark(), os.getpid())
    scout._wards["system"] = cast("Any", None)
    looks = []

    def look(name: str, number: int, *, quick: bool) -> None:
        looks.append((name, number, quick))
        burn(0.04)

    monkeypatch.setattr(scout, "look", look)
    scout._watch("system", 0.05)
    began_s = time.thread_time()
    scout.serve()
    assert len(looks) >= 2
    assert time.thread_time() - began_s < 1.5 * QUICK_SHARE, "of the second that it lasted"


def test_after_a_kill_it_looks_again_in_a_moment_or_when_asked(
    monkeypatch: pytest.MonkeyPatch, victim: int
) -> None:
    scout = Scout(cast("Line", Hearing(3 * PAUSE_S)), Policy(), Mark(), os.getpid())
    scout._wards["system"] = cast("Any", mock.Mock())
    looks: list[tuple[bool, float]] = []
    scout._watch("system", 0.01)
    killed_s = time.monotonic()
    monkeypatch.setattr(
        scout, "look", lambda *_, quick, **__: looks.append((quick, time.monotonic() - killed_s))
    )
    scout._obey({"doomed": [victim]})
    scout._watch("system", 0.005)  # as the core orders when it waits
    scout._obey({"look": "system", "number": 1, "quick": False})
    scout.serve()
    (asked, asked_s), *by_itself = looks
    assert not asked
    assert asked_s < PAUSE_S / 2
    assert len(by_itself) >= 2
    assert all(quick and at_s >= PAUSE_S for quick, at_s in by_itself)
    scout._obey({"spared": [victim]})


def test_turns_take_a_share_of_a_cpu_however_long_each_takes() -> None:
    core = Core.__new__(Core)
    core._turn_s, core._realm = 0.04, mock.Mock()
    core._settle_watch = mock.Mock()  # type: ignore[method-assign]
    core._interval_s = mock.Mock(return_value=0.005)  # type: ignore[method-assign]
    core._step = mock.Mock()  # type: ignore[method-assign]
    post = mock.Mock(gauge=mock.Mock(), figures=None)
    core._settings = mock.Mock()
    core._measure(post, 100.0, 100.0, mock.Mock())
    assert post.due_s == pytest.approx(100.0 + 0.04 / TURNS_SHARE)
    core._turn_s = 0.0001
    core._measure(post, 100.0, 100.0, mock.Mock())
    assert post.due_s == pytest.approx(100.005), "fast ones as often as ever"
