"""What the kernel did to a guard's victims: out of a trace of everybody, recorded, and told."""

import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.guarding import Guard, Hog, keeping, limited

from memreap.evidence.one_of_many import trace_of
from memreap.evidence.timeline import timeline
from memreap.linux.tracing import PREFIX, Event, TracingError, tracefs
from memreap.records import schema
from memreap.records.archive import Archive, Recorded
from memreap.records.database import Database
from memreap.records.schema import Life
from memreap.records.trouble import Trouble
from memreap.telling.explain import ExplainOptions, explain

MIB = 1 << 20
MakeCgroup = Callable[[str], Path]


def event(at_us: int, by: int, name: str, /, **fields: object) -> Event:
    return Event(1_000_000 + at_us * 1000, 0, by, name, fields)


def rss(at_us: int, by: int, mm_id: int, mib: int) -> Event:
    return event(at_us, by, "rss_stat", mm_id=mm_id, curr=0, member=1, size=mib * MIB)


def test_two_who_die_at_once_are_told_apart() -> None:
    events = [
        event(0, 90, "signal_generate", sig=9, pid=10, comm="one"),
        event(1, 91, "signal_generate", sig=9, pid=20, comm="two"),
        event(2, 90, "sys_enter_process_mrelease"),
        event(3, 91, "sys_enter_process_mrelease"),
        rss(4, 90, 1, 80),
        rss(5, 91, 2, 40),
        event(6, 92, "sys_enter_process_mrelease"),  # a second pair of hands for the first
        rss(7, 92, 1, 60),
        rss(8, 12, 1, 0),  # a thread of the first
        rss(9, 20, 2, 0),
        event(10, 12, "exit_mmap", mm=5),
        event(11, 90, "sys_exit_process_mrelease", ret=0),
        rss(12, 55, 3, 9),  # somebody forks
    ]
    one = trace_of(events, 10, "one", 100 * MIB, "6.18")
    two = trace_of(events, 20, "two", 50 * MIB, "6.18")
    assert one is not None
    assert two is not None
    assert one.victim.tids == (10, 12)
    assert timeline(one).freed_bytes == {
        "reaper 1": 20 * MIB,
        "reaper 2": 20 * MIB,
        "exit": 60 * MIB,
    }
    assert timeline(one).torn_down_s is not None
    assert two.victim.tids == (20,)
    assert timeline(two).freed_bytes == {"reaper": 10 * MIB, "exit": 40 * MIB}


def test_without_its_sigkill_there_is_no_story() -> None:
    assert trace_of([rss(1, 10, 1, 5)], 10, "one", MIB, "6.18") is None
    term = event(0, 90, "signal_generate", sig=15, pid=10, comm="one")
    assert trace_of([term], 10, "one", MIB, "6.18") is None


def one_of(path: Path, number: int | None = None) -> Recorded | None:
    with contextlib.closing(Archive(str(path))) as archive:
        return archive.one(number)


def turn(number: int, what: str) -> dict[str, object]:
    return {
        "turn": number,
        "incident": 1,
        "domain": "system",
        "kind": "system",
        "what": what,
        "at_s": 1.0,
        "wall_s": 2.0,
        "usage_bytes": 3,
        "limit_bytes": 4,
        "reason": "",
        "dry_run": False,
        "victim": None,
        "choice": None,
        "outcome": None,
        "figures": {},
    }


def database(path: Path) -> Database:
    return Database(str(path), 10, Trouble(), lambda _: None, Life(os.getpid()))


def test_evidence_stands_with_its_incident_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "incidents.db"
    kept = database(path)
    kept.take(turn(1, "pressed"), None)
    kept.take_evidence(1, 10, json.dumps({"pid": 10, "summary": ["freed"]}))
    kept.take_evidence(7, 11, json.dumps({"pid": 11}))  # of no incident that is known
    assert kept.due_s() is not None
    kept.attend({}, time.monotonic())
    assert kept.due_s() is None
    kept.close()
    incident = one_of(path)
    assert incident is not None
    assert incident.evidence == [{"pid": 10, "summary": ["freed"]}]
    assert incident.as_dict()["evidence"] == incident.evidence
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("DELETE FROM incident")
        assert db.execute("SELECT count(*) FROM evidence").fetchone() == (0,)


def test_a_file_of_a_guard_that_knew_nothing_of_it_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "incidents.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(schema.TABLES)
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO guard VALUES ('g', 'b', 1, 1, 0)")
        row = "('g', 1, 'system', 'system', 0, 1.0, 1.0, 5, 5)"
        columns = (
            "guard, number, domain, kind, dry_run, began_wall_s, began_s, usage_bytes, limit_bytes"
        )
        db.execute(f"INSERT INTO incident ({columns}) VALUES {row}")
        db.commit()
    old = one_of(path)
    assert old is not None
    assert old.evidence == []
    kept = database(path)
    kept.take(turn(1, "pressed"), None)
    kept.take_evidence(1, 10, json.dumps({"pid": 10}))
    kept.close()
    with contextlib.closing(Archive(str(path))) as archive:
        assert [found.id for found in archive.newest(9)] == [2, 1]
    new = one_of(path, 2)
    assert new is not None
    assert new.evidence == [{"pid": 10}]


def told(path: Path) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert explain(ExplainOptions(database=str(path))) == 0
    return " ".join(out.getvalue().split())


def recorded(path: Path) -> list[dict[str, Any]]:
    incident = one_of(path)
    return incident.evidence if incident else []


def ready_recorder(guard: Guard) -> int:
    """The pid of its recorder, once that has all its events, none of them taken up yet."""
    (scribe,) = guard.children()["memreap-scribe"]
    children = Path(f"/proc/{scribe}/task/{scribe}/children").read_text().split()
    with tracefs() as root:
        for pid in map(int, children):
            for made in root.glob(f"instances/{PREFIX}{pid}-*"):
                if "prev_state" in (made / "events/sched/sched_switch/filter").read_text():
                    return pid
    return 0


def is_armed(recorder: int) -> bool:
    """Whether it traces; until then a victim's end goes by it."""
    with tracefs() as root:
        made = root.glob(f"instances/{PREFIX}{recorder}-*")
        return any((one / "tracing_on").read_text().strip() == "1" for one in made)


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="tracefs needs root")
def test_a_real_guard_records_what_the_kernel_did(tmp_path: Path, cgroup: MakeCgroup) -> None:
    try:
        with tracefs():
            pass
    except TracingError as error:
        pytest.skip(str(error))
    directory = limited(cgroup("memory"), 800)
    guard = Guard(tmp_path, ["--cgroup", f"{directory}", "--limit", "300M"])
    try:
        recorder = guard.wait_for(lambda: ready_recorder(guard))
        hog = Hog(directory, 280)  # above the warning, below the line
        with keeping(hog):
            hog.wait_full()
            guard.wait_for(lambda: is_armed(recorder))
            last_straw = Hog(directory, 40)
            with keeping(last_straw):
                guard.wait_for_turn("relieved")
            guard.wait_for(lambda: recorded(guard.database))
        assert "What the kernel did to" in told(guard.database)
    finally:
        assert guard.stop() == 0
    (one,) = recorded(guard.database)
    assert one["pid"] == hog.process.pid
    assert sum(one["freed_bytes"].values()) > 250 * MIB
    assert any(who.startswith("reaper") for who in one["freed_bytes"])
    assert one["lost"] == 0
    assert one["steps"][0]["what"] == "SIGKILL sent"
    with tracefs() as root:
        left = [one.name for one in root.glob(f"instances/{PREFIX}*")]
    assert [one for one in left if one.startswith(f"{PREFIX}{recorder}-")] == []


def test_trace_is_asked_for_aloud_or_not(tmp_path: Path) -> None:
    text = "[records]\ntrace = 'perhaps'\n"
    file = tmp_path / "memreap.toml"
    file.write_text(text)
    command = [sys.executable, "-m", "memreap", "guard", "--check-config", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "records.trace" in done.stdout + done.stderr
