"""An incident once more, under another configuration."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memreap.decide.policy import Policy, Rule, Verdict
from memreap.guard.settings import Settings
from memreap.records import schema
from memreap.records.archive import Recorded
from memreap.records.database import Database
from memreap.records.trouble import Trouble
from memreap.simulate.guard_replay import NoReplayError, Replayed, recorded, replayed

MIB = 1 << 20


def candidate(pid: int, name: str, mib: int) -> dict[str, Any]:
    return {
        "pids": [pid],
        "name": name,
        "uid": 1000,
        "user": "ada",
        "command": f"/usr/bin/{name} --work",
        "cgroup": "/build.slice",
        "unit": "",
        "rss_bytes": mib * MIB,
        "swap_bytes": 0,
        "page_table_bytes": 0,
        "oom_score_adj": 0,
        "tier": "normal",
        "score_pages": mib * 256,
        "why_not": "",
    }


HOG, EDITOR, COMPILER = (
    candidate(7, "hog", 700),
    candidate(8, "editor", 200),
    candidate(9, "cc", 90),
)


def turn(what: str, **more: Any) -> dict[str, Any]:
    return {
        "what": what,
        "at_s": 5.0,
        "usage_bytes": 1010 * MIB,
        "limit_bytes": 1000 * MIB,
        "victim": None,
        "choice": None,
        "outcome": None,
        "figures": {"growth_bytes_per_s": 50 * MIB},
        **more,
    }


@pytest.fixture
def incident() -> Recorded:
    outcome = {"outcome": "exited", "seconds_to_exit": 0.05}
    turns = [
        turn("pressed"),
        turn("chosen", victim=HOG, choice={"candidates": [HOG, EDITOR, COMPILER]}),
        turn("killed", victim=HOG),
        turn("released", victim=HOG),
        turn("relieved"),
        turn("outcome", victim=HOG, outcome=outcome),
    ]
    return Recorded(
        id=1, guard="g", number=1, domain="cgroup:/build.slice", kind="cgroup", dry_run=False,
        began_wall_s=0.0, began_s=5.0, ended_wall_s=0.1, ended_s=5.1, usage_bytes=1010 * MIB,
        limit_bytes=1000 * MIB, victims=1, released_bytes=700 * MIB, turns=turns,
    )  # fmt: skip


def names(came: Replayed) -> list[str]:
    return [name for name, _, _ in came.killed]


def test_under_the_same_configuration_the_same_happens(incident: Recorded) -> None:
    then, again = recorded(incident), replayed(incident, Settings())
    assert names(then) == names(again) == ["hog"]
    assert again.seconds_to_relief is not None
    assert again.seconds_to_relief < 0.5


def test_a_protected_hog_costs_somebody_else(incident: Recorded) -> None:
    policy = Policy((Rule(Verdict.PROTECT, name="hog"),))
    came = replayed(incident, Settings(policy=policy))
    assert names(came)[0] == "editor"
    assert "hog" not in names(came)


def test_who_is_preferred_goes_first(incident: Recorded) -> None:
    policy = Policy((Rule(Verdict.PREFER, command="editor"),))
    assert names(replayed(incident, Settings(policy=policy)))[0] == "editor"


def test_a_victim_that_hung_for_good_costs_patience_and_another_one(incident: Recorded) -> None:
    stuck = {"outcome": "stuck", "seconds_to_exit": None}
    incident.turns[-1] = turn("outcome", victim=HOG, outcome=stuck)
    waits = replayed(incident, Settings(patience_s=3.0))
    hurries = replayed(incident, Settings(patience_s=0.5))
    assert names(waits)[:2] == ["hog", "editor"]
    assert waits.skipped >= 1
    assert waits.seconds_to_relief is not None
    assert hurries.seconds_to_relief is not None
    assert waits.seconds_to_relief - hurries.seconds_to_relief == pytest.approx(2.5, abs=0.5)


def test_a_dry_run_kills_nobody(incident: Recorded) -> None:
    assert names(replayed(incident, Settings(dry_run=True))) == []


def test_without_a_comparison_there_is_nothing_to_replay(incident: Recorded) -> None:
    incident.turns = [replace_choice(t) for t in incident.turns]
    with pytest.raises(NoReplayError):
        replayed(incident, Settings())


def replace_choice(one: dict[str, Any]) -> dict[str, Any]:
    return {**one, "choice": None}


def test_it_is_the_same_each_time(incident: Recorded) -> None:
    settings = replace(Settings(), patience_s=1.0)
    assert replayed(incident, settings) == replayed(incident, settings)


# As a command, on a database as the guard writes it.


@pytest.fixture
def database(incident: Recorded, tmp_path: Path) -> str:
    path = str(tmp_path / "incidents.db")
    written = Database(path, 100, Trouble(), lambda _: None, schema.Life())
    for number, one in enumerate(incident.turns, 1):
        of_all = {"turn": number, "incident": 1, "domain": incident.domain, "kind": "cgroup"}
        of_all |= {"at_s": 5.0 + number / 100, "wall_s": 0.0, "reason": "", "dry_run": False}
        written.take({**one, **of_all}, None)
    written.attend({}, time.monotonic())
    written.close()
    return path


def again(*args: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "memreap", "simulate", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_what_was_is_told_beside_what_would_have_been(database: str, tmp_path: Path) -> None:
    config = tmp_path / "careful.toml"
    config.write_text('[[protect]]\nname = "hog"\n')
    asked = ("--incident", "1", "--config", str(config), "--database", database)
    told, data = again(*asked), again(*asked, "--json")
    assert (told.returncode, data.returncode) == (0, 0), told.stderr + data.stderr
    then, now = told.stdout.split("With ")
    assert "hog (pid 7)" in then
    assert str(config) in now
    assert "hog (pid 7)" not in now
    assert "Assumed" in now
    record = json.loads(data.stdout)
    assert [one["name"] for one in record["was"]["killed"]] == ["hog"]
    assert record["would_be"]["killed"][0]["name"] == "editor"
    assert record["config"] == [str(config)]


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--incident", "9"), 4, "no incident 9"),
        (("--incident", "1", "--config", "/nowhere.toml"), 2, "/nowhere.toml"),
        (("--incident", "1", "two-hogs"), 2, "takes no SCENARIO"),
        (("two-hogs",), 2, "--incident"),
    ],
)
def test_what_cannot_be_told_is_said_in_a_line(
    database: str, args: tuple[str, ...], code: int, says: str
) -> None:
    done = again(*args, "--database", database)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
