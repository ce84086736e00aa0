"""An incident once more, under another configuration."""

from dataclasses import replace
from typing import Any

import pytest

from memreap.decide.policy import Policy, Rule, Verdict
from memreap.guard.settings import Settings
from memreap.records.archive import Recorded
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
