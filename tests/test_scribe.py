"""The scribe as the guard has it: a worker that is told turns, acks them, and may be killed."""

import contextlib
import gc
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from memreap.guard import scribe
from memreap.guard.settings import Hook, Records, Settings
from memreap.linux import journal as linux_journal
from memreap.linux.worker import Worker
from memreap.records import control, schema
from memreap.records.archive import Archive, NoArchiveError
from memreap.records.database import Database
from memreap.records.trouble import Trouble
from memreap.telling.asking import NoGuardError, ask
from memreap.telling.explain import ExplainOptions, explain
from memreap.telling.incidents import IncidentsOptions, ago_s, incidents
from memreap.telling.status import StatusOptions, status

pytestmark = pytest.mark.usefixtures("nothing_left")

MIB = 1 << 20
HOSTILE = "a\x1b[31mb\nc\td\udcff\u202e[bold]%s{}\0" + "x" * 300
Turn = dict[str, Any]


def candidate(pid: int, mib: int, name: str = "cc1plus", **more: Any) -> Turn:
    return {
        "pids": [pid],
        "name": name,
        "uid": 1000,
        "user": "ann",
        "command": f"/usr/lib/gcc/{name} -quiet -O2 main.cc",
        "cgroup": "/build",
        "unit": "build.service",
        "rss_bytes": mib * MIB,
        "swap_bytes": 0,
        "page_table_bytes": 2 * MIB,
        "oom_score_adj": 0,
        "tier": "normal",
    } | more


class Guard:
    """Makes turns as a core does, with its numbers and clock."""

    def __init__(self, domain: str = "cgroup:/build", name: str = "cc1plus") -> None:
        self.domain, self.name = domain, name
        self.seq = self.number = 0
        self.at_s, self.wall_s = 1000.0, time.time()

    def turn(self, what: str, after_s: float = 0.001, mib: int = 974, **more: Any) -> Turn:
        self.seq += 1
        self.at_s += after_s
        self.wall_s += after_s
        if what == "pressed":
            self.number += 1
        return {
            "turn": self.seq,
            "incident": None if what in ("warned", "eased") else self.number,
            "domain": self.domain,
            "kind": "cgroup",
            "what": what,
            "at_s": self.at_s,
            "wall_s": self.wall_s,
            "usage_bytes": mib * MIB,
            "limit_bytes": 950 * MIB,
            "reason": "",
            "dry_run": False,
            "victim": None,
            "choice": None,
            "outcome": None,
            "figures": {"growth_bytes_per_s": 3e8, "stall_share": 0.12},
        } | more

    def choice(self, victim: Turn, others: int = 20) -> Turn:
        ranked = [victim | {"score_pages": 157_000, "why_not": ""}]
        ranked += [
            candidate(9000 + i, 30 - i, f"worker-{i}") | {"score_pages": 8000 - i, "why_not": ""}
            for i in range(14)
        ]
        ranked.append(
            candidate(77, 90, "postgres") | {"score_pages": None, "why_not": "protected by name"}
        )
        return {
            "candidates": ranked,
            "others": others,
            "others_bytes": others * 3 * MIB,
            "read_s": 0.0061,
            "age_s": 0.021,
        }

    def incident(self, pid: int = 4711, victims: int = 1, relieved: bool = True) -> list[Turn]:
        turns = [self.turn("warned", mib=870), self.turn("pressed")]
        for i in range(victims):
            victim = candidate(pid + i, 610, self.name)
            turns += [
                self.turn("chosen", victim=victim, choice=self.choice(victim)),
                self.turn("killed", 0.0002, victim=victim),
                self.turn(
                    "outcome",
                    0.011,
                    victim=victim,
                    outcome={
                        "pid": pid + i,
                        "comm": self.name,
                        "outcome": "reaped",
                        "reason": "hangs in state D",
                        "released_bytes": 610 * MIB,
                        "seconds_to_release": 0.011,
                        "seconds_to_exit": None,
                        "attempts": 1,
                        "sharers": [],
                    },
                ),
                self.turn(
                    "released",
                    0.0008,
                    victim=victim,
                    figures={"released_bytes": 610 * MIB, "seconds": 0.012},
                ),
            ]
        if relieved:
            turns.append(self.turn("relieved", 0.002, mib=363))
        return turns

    def rehearsal(self, victim: Turn) -> list[Turn]:
        """How an incident begins in a dry run."""
        return [
            self.turn("pressed", dry_run=True),
            self.turn("chosen", victim=victim, choice=self.choice(victim), dry_run=True),
        ]

    def waiting(self, stranger: Turn, **figures: float) -> list[Turn]:
        """An incident that somebody else's death relieves."""
        return [
            self.turn("pressed"),
            self.turn("shared", victim=stranger, reason="exiting already"),
            self.turn("released", victim=stranger, figures=figures),
            self.turn("relieved", mib=363),
        ]


class Scribe:
    """A scribe in a worker, as the core holds it."""

    def __init__(self, records: Records, quiet: bool = False) -> None:
        self.worker = Worker(lambda line: scribe.run(line, records, quiet))
        self.acked: set[int] = set()
        self.heard: list[Any] = []

    def tell(self, *messages: Any) -> None:
        for message in messages:
            deadline_s = time.monotonic() + 5
            while not self.worker.tell(message):
                assert time.monotonic() < deadline_s, "the scribe hears nothing"
                self.hear(0.01)

    def hear(self, timeout_s: float = 0.05) -> None:
        select.select([self.worker], [], [], timeout_s)
        for message, _ in self.worker.hear():
            assert isinstance(message, dict)
            if "acked" in message:
                self.acked.add(message["acked"])
            else:
                self.heard.append(message)

    def until(self, condition: Callable[[], object], timeout_s: float = 5.0) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline_s, f"in vain; heard {self.heard}"
            self.hear(0.02)

    def take(self, turns: list[Turn]) -> None:
        self.tell(*turns)
        self.until(lambda: {turn["turn"] for turn in turns} <= self.acked)

    def end(self) -> None:
        """As an orderly guard does: no more to say, then wait for its end."""
        self.worker._end.shutdown(socket.SHUT_WR)
        self.until(lambda: self.worker.ended)
        self.worker.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Scribe]]:
    begun: list[Scribe] = []

    def begin(quiet: bool = False, **records: Any) -> Scribe:
        begun.append(Scribe(Records(**{"journal": False, **records}), quiet))
        return begun[-1]

    yield begin
    for one in begun:
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(one.worker.pidfd, signal.SIGCONT)
        one.worker.give_up()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "incidents.db")


def told(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err


def until_told(guard: Scribe, capfd: pytest.CaptureFixture[str], words: str) -> str:
    """Everything that it says until these words are among it."""
    text = ""

    def is_told() -> bool:
        nonlocal text
        text += told(capfd)
        return words in text

    guard.until(is_told)
    return text


# What is durable.


def test_a_turn_is_acked_when_it_is_in_the_file(start: Any, path: str) -> None:
    turns = Guard().incident()
    guard = start(database=path)
    guard.take(turns)
    with contextlib.closing(Archive(path)) as archive:
        found = archive.newest(10)
    assert [(i.number, i.domain, i.victims) for i in found] == [(1, "cgroup:/build", 1)]
    assert found[0].released_bytes == 610 * MIB
    assert found[0].seconds_to_relief == pytest.approx(0.015)
    assert found[0].guard_lives
    assert Path(path).stat().st_mode & 0o777 == 0o640
    assert Path(path).parent.stat().st_mode & 0o777 == 0o750
    guard.end()


def test_without_a_database_everything_is_acked_at_once(start: Any) -> None:
    start().take(Guard().incident())


def test_what_was_acked_survives_any_number_of_sigkills(start: Any, path: str) -> None:
    core, unacked, acked = Guard(), [], set()
    for round_ in range(12):
        guard = start(database=path)
        unacked += [turn for _ in range(5) for turn in core.incident()]
        for turn in unacked:
            guard.worker.tell(turn)
        with contextlib.suppress(AssertionError):
            guard.until(lambda g=guard, n=round_: len(g.acked) > n * 3, 0.5)
        signal.pidfd_send_signal(guard.worker.pidfd, signal.SIGKILL)
        guard.until(lambda g=guard: g.worker.ended)
        guard.worker.close()
        acked |= guard.acked
        unacked = [turn for turn in unacked if turn["turn"] not in acked]
        db = sqlite3.connect(path)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        begun = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'turn'").fetchone()
        present = {seq for (seq,) in db.execute("SELECT seq FROM turn")} if begun else set()
        db.close()
        assert acked <= present
    start(database=path).take(unacked)
    with contextlib.closing(Archive(path)) as archive:
        found = archive.newest(1000)
    assert len(found) == core.number
    assert {incident.victims for incident in found} == {1}  # nothing was counted twice


def test_a_stopped_scribe_waits_for_nobody_and_loses_nothing(start: Any, path: str) -> None:
    guard, turns = start(database=path), Guard().incident()
    signal.pidfd_send_signal(guard.worker.pidfd, signal.SIGSTOP)
    began_s = time.monotonic()
    assert all(guard.worker.tell(turn) for turn in turns)
    assert time.monotonic() - began_s < 0.5
    signal.pidfd_send_signal(guard.worker.pidfd, signal.SIGCONT)
    guard.take([])
    guard.until(lambda: len(guard.acked) == len(turns))


def test_what_is_told_again_is_acked_and_not_done_again(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    turns = Guard().incident()
    first = start(database=path)
    first.take(turns)
    first.worker.give_up()
    assert "killing" in told(capfd)
    start(database=path).take(turns)
    assert "killing" not in told(capfd)


def file_bytes(path: str) -> int:
    files = (Path(path), Path(f"{path}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def test_the_file_is_bounded(tmp_path: Path) -> None:
    path, core, sizes = str(tmp_path / "i.db"), Guard(), []
    database = Database(path, 100, Trouble(), lambda _: None, schema.Life())
    for number in range(5000):
        for turn in core.incident():
            database.take(turn, None)
        if number % 25 == 0:
            database.attend({}, time.monotonic())
            sizes.append(file_bytes(path))
    database.attend({}, time.monotonic())
    with contextlib.closing(Archive(path)) as archive:
        found = archive.newest(10_000)
    assert [i.number for i in found] == list(range(5000, 4900, -1))
    assert max(sizes[20:]) < 4 * MIB
    assert sizes[-1] < 1.2 * sizes[20]
    database.close()


def test_a_shrunken_keep_gives_pages_back(tmp_path: Path) -> None:
    path, core = str(tmp_path / "i.db"), Guard()
    for keep in (200, 10):
        database = Database(path, keep, Trouble(), lambda _: None, schema.Life())
        assert not database.has(core.seq + 1)
        for _ in range(200 if keep == 200 else 20):
            for turn in core.incident():
                database.take(turn, None)
            database.attend({}, time.monotonic())
        database.close()
        size = file_bytes(path)
        assert size > MIB if keep == 200 else size < MIB // 2, size


def test_a_broken_file_is_moved_aside_and_a_new_one_begun(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(path).parent.mkdir()
    Path(path).write_bytes(b"no database at all, " * 500)
    start(database=path).take(Guard().incident())
    (aside,) = Path(path).parent.glob("*.corrupt-*")
    assert aside.read_bytes().startswith(b"no database")
    assert told(capfd).count("moved aside") == 1
    with contextlib.closing(Archive(path)) as archive:
        assert archive.one(None) is not None


def test_a_file_that_breaks_while_it_is_written(start: Any, path: str) -> None:
    guard, core = start(database=path), Guard()
    guard.take(core.incident())
    with open(path, "r+b") as file:
        file.write(os.urandom(Path(path).stat().st_size))
    Path(path + "-wal").write_bytes(b"")
    for _ in range(3):
        guard.take(core.incident())


@pytest.mark.parametrize("name", ["shadow", "theirs.db"])
def test_what_is_somebody_elses_is_left_alone(
    start: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    theirs = tmp_path / name
    if name == "shadow":
        theirs.write_text("root:*:1:\n" * 200)
    else:
        with contextlib.closing(sqlite3.connect(theirs)) as db:
            db.execute("CREATE TABLE bookmark (url)")
    before = theirs.read_bytes()
    guard = start(database=str(theirs))
    guard.tell(*Guard().incident())
    until_told(guard, capfd, f"database {theirs}: ")
    guard.worker.give_up()
    if name == "shadow":
        assert theirs.read_bytes() == before
    with (
        contextlib.suppress(sqlite3.DatabaseError),
        contextlib.closing(sqlite3.connect(theirs)) as d,
    ):
        assert d.execute("SELECT name FROM sqlite_schema").fetchall() == [("bookmark",)]
    assert [p.name for p in tmp_path.iterdir() if "corrupt" in p.name] == []


def test_a_locked_database_delays_only_the_database(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    guard, core = start(database=path), Guard()
    guard.take(core.incident())
    told(capfd)
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    turns = core.incident(pid=5000)
    guard.tell(*turns)
    # It lives: no reason to replace it.
    guard.until(lambda: {"waiting": turns[0]["turn"]} in guard.heard)
    text = until_told(guard, capfd, "killing cc1plus (pid 5000)")
    assert turns[-1]["turn"] not in guard.acked
    assert text.count("database is locked") == 1
    lock.execute("ROLLBACK")
    lock.close()
    guard.until(lambda: turns[-1]["turn"] in guard.acked)
    guard.hear(0.05)
    assert "written again" in told(capfd)


def test_a_full_disk_delays_only_the_database(
    start: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = tmp_path / "tiny"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "memreap-test", str(where)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        guard, core = start(database=str(where / "i.db")), Guard()
        guard.take(core.incident())
        filler = where / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while file.write(b"x" * 4096):
                pass
        turns = [turn for _ in range(20) for turn in core.incident()]
        guard.tell(*turns)
        until_told(guard, capfd, "cannot be written")
        assert not {turn["turn"] for turn in turns} <= guard.acked
        filler.unlink()
        guard.until(lambda: {turn["turn"] for turn in turns[-20:]} <= guard.acked, 12)
        guard.end()
    finally:
        subprocess.run(["umount", str(where)], check=True)


# The other records.


def test_every_turn_has_its_line(start: Any, capfd: pytest.CaptureFixture[str]) -> None:
    start().take(Guard().incident())
    assert told(capfd).splitlines() == [
        "memreap: cgroup:/build: nearing its line, 870 MiB of 950 MiB",
        "memreap: cgroup:/build: over its line, 974 MiB of 950 MiB: killing cc1plus (pid 4711),"
        " 612 MiB, the highest badness of 35",
        "memreap: cgroup:/build: cc1plus (pid 4711): still hangs in the kernel,"
        " its memory released",
        "memreap: cgroup:/build: cc1plus (pid 4711): 610 MiB back 12 ms after the decision",
        "memreap: cgroup:/build: relieved after 15 ms, 363 MiB of 950 MiB",
    ]


def test_the_quiet_hear_only_what_went_wrong(start: Any, capfd: pytest.CaptureFixture[str]) -> None:
    core = Guard()
    turns = core.incident(relieved=False)
    turns.append(core.turn("skipped", victim=candidate(4711, 5), reason="no progress for 2 s"))
    start(quiet=True).take(turns)
    assert told(capfd).splitlines() == [
        "memreap: cgroup:/build: cc1plus (pid 4711): passed over from now on: no progress for 2 s"
    ]


def test_the_journal_gets_fields_and_falls_back_to_stderr(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(linux_journal, "SOCKET", str(tmp_path / "journal"))
    capfd.readouterr()
    stderr = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{stderr.st_dev}:{stderr.st_ino}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(linux_journal.SOCKET)
        end.settimeout(2)
        core = Guard(name=HOSTILE[:15])
        start(journal=True).take(core.incident())
        end.recv(1 << 20)  # warned
        entry = end.recv(1 << 20)
    for field in (b"SYSLOG_IDENTIFIER=memreap", b"PRIORITY=4", b"MEMREAP_VICTIM_PID=4711"):
        assert field + b"\n" in entry
    assert os.fsencode(HOSTILE[:15]) in entry  # whole
    (message,) = [row for row in entry.split(b"\n") if row.startswith(b"MESSAGE=")]
    assert message.decode().isprintable()
    assert told(capfd) == ""  # not twice
    Path(linux_journal.SOCKET).unlink()
    start(journal=True).take(Guard().incident())
    assert "killing cc1plus" in told(capfd)


def test_one_broken_record_stops_no_other(
    start: Any, path: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done = tmp_path / "done"
    guard = start(
        database=path,
        journal=True,
        metrics_file=str(tmp_path / "no" / "such" / "m.prom"),
        metrics_listen="nonsense",
        socket=str(tmp_path / ("s" * 120)),
        notify=True,
        bus_signal=True,
        hooks=(
            Hook("chosen", ("/no/such/hook",)),
            Hook("chosen", ("sleep", "60")),
            Hook("released", ("sh", "-c", f"cat > {done}")),
        ),
    )
    turns = Guard().incident()
    began_s = time.monotonic()
    guard.take(turns)
    assert time.monotonic() - began_s < 3
    guard.until(lambda: done.exists() and done.stat().st_size)
    assert json.loads(done.read_text())["what"] == "released"
    text = told(capfd)
    for complaint in ("socket", "metrics", "hook hook on chosen: cannot be run: No such file"):
        assert f"memreap: {complaint}" in text
    assert any("error" in message for message in guard.heard)
    guard.end()


def test_hostile_strings_break_nothing(
    start: Any, path: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    name = HOSTILE
    core = Guard(domain=f"cgroup:/{HOSTILE}", name=name)
    turns = core.incident()
    turns.append(core.turn("helpless", reason=HOSTILE + "y" * 100_000))
    turns.append(core.turn(HOSTILE, victim=candidate(1, 1, HOSTILE, command=HOSTILE)))
    metrics = tmp_path / "m.prom"
    guard = start(
        database=path,
        journal=True,
        metrics_file=str(metrics),
        hooks=(Hook("chosen", ("sh", "-c", 'echo "$MEMREAP_VICTIM_NAME"')),),
    )
    guard.take(turns)
    guard.hear(0.3)
    assert written(metrics)
    guard.end()
    text = told(capfd)
    assert "\x1b" not in text
    assert all(row.startswith("memreap: ") and len(row) < 2000 for row in text.splitlines())
    assert explain(ExplainOptions(database=path)) == 0
    assert incidents(IncidentsOptions(database=path)) == 0
    shown = capfd.readouterr().out
    assert all(row.isprintable() for row in shown.splitlines())


def test_nonsense_from_the_core_is_survived(start: Any) -> None:
    guard = start()
    guard.tell(
        {"turn": 1}, {"turn": None}, {"settings": {}}, {"status": {}, "id": 9}, {"gauges": 1}
    )
    guard.tell([], "text", {"say": "\x1b[2Jhello"})
    guard.take(Guard().incident())


def test_new_settings_are_taken(start: Any, path: str, tmp_path: Path) -> None:
    guard, core = start(), Guard()
    guard.take(core.incident())
    guard.tell({"settings": asdict(Records(database=path, journal=False))})
    guard.take(core.incident())
    with contextlib.closing(Archive(path)) as archive:
        assert len(archive.newest(10)) == 1
    guard.end()


def written(file: Path, what: str = "memreap_", timeout_s: float = 15.0) -> str:
    """What a metrics file holds, once this stands in it."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if file.exists() and what in (text := file.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError(f"no {what!r} in {file}")


def test_metrics(start: Any, tmp_path: Path) -> None:
    file = tmp_path / "memreap.prom"
    guard = start(metrics_file=str(file))
    guard.take(Guard().incident(victims=2))
    guard.tell({"gauges": STATUS})
    rows = written(file, "memreap_domain_usage_bytes{").splitlines()
    assert file.stat().st_mode & 0o777 == 0o644
    guard.end()
    assert list(tmp_path.iterdir()) == [], "nobody is to be told of a guard that is gone"
    for row in (
        'memreap_domain_usage_bytes{domain="cgroup:/build"} 9e+08',
        'memreap_incidents_total{domain="cgroup:/build"} 1.0',
        'memreap_kills_total{domain="cgroup:/build",outcome="reaped"} 2.0',
        'memreap_release_seconds_bucket{le="0.02"} 2.0',
        "memreap_scout_restarts_total 1.0",
    ):
        assert row in rows


def test_metrics_over_http(start: Any) -> None:
    from urllib.request import urlopen

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    guard = start(metrics_listen=f":{port}")
    guard.take(Guard().incident())
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b"memreap_incidents_total" in answer.read()
    guard.end()


# The socket and the commands.

STATUS: dict[str, Any] = {
    "pid": 4242,
    "version": "9.9",
    "started_wall_s": 0.0,
    "dry_run": False,
    "means": ["no PSI on this kernel: pressure is told from counters alone"],
    "scout": {"restarts": 1, "age_s": 0.02},
    "scribe": {"restarts": 0},
    "incidents": 3,
    "kills": 2,
    "domains": [
        {
            "name": "cgroup:/build",
            "kind": "cgroup",
            "phase": "calm",
            "usage_bytes": 900_000_000,
            "limit_bytes": 950 * MIB,
            "whole_bytes": 1000 * MIB,
            "warn_bytes": 855 * MIB,
            "stall_share": 0.013,
            "growth_bytes_per_s": 2.5e6,
            "victim": None,
            "next": candidate(4711, 610, HOSTILE[:15]) | {"score_pages": 1, "why_not": ""},
            "next_why": "the highest badness of 37",
            "skipped": 0,
        }
    ],
}


@contextlib.contextmanager
def answering(guard: Scribe) -> Iterator[None]:
    """Play the core: answer every request."""
    over = threading.Event()

    def core() -> None:
        while not over.is_set():
            guard.hear(0.01)
            while guard.heard:
                message = guard.heard.pop(0)
                guard.worker.tell({"status": STATUS, "id": message["status"]})

    thread = threading.Thread(target=core)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def listening(guard: Scribe, path: Path) -> None:
    def is_listening() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(path)) == 0 and path.stat().st_mode & 0o777 == 0o660

    guard.until(is_listening)


def test_status_is_asked_of_the_core(
    start: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STATUS, "started_wall_s", time.time() - 5400)
    at = tmp_path / "run" / "guard.sock"
    guard = start(socket=str(at))
    listening(guard, at)
    with answering(guard):
        assert ask(str(at)) == STATUS
        assert status(StatusOptions(socket=str(at))) == 0
        text = capfd.readouterr().out
        assert re.search(
            r"memreap 9.9, pid 4242, up 1 h \d\d min, 3 incidents, 2 kills, scout replaced", text
        )
        assert "█████████░ 858.3 MiB of 950 MiB" in text
        assert "the highest badness of 37" in text
        assert text.replace("\n", "").isprintable()
        assert status(StatusOptions(socket=str(at), json=True)) == 0
        assert json.loads(capfd.readouterr().out) == STATUS
    guard.end()
    assert not at.exists()
    assert status(StatusOptions(socket=str(at))) == 3
    assert "no guard answers at" in capfd.readouterr().err


def test_slow_silent_and_talkative_clients_hold_nobody_up(start: Any, tmp_path: Path) -> None:
    at = tmp_path / "guard.sock"
    guard = start(socket=str(at))
    listening(guard, at)
    with answering(guard), contextlib.ExitStack() as stack:
        for i in range(control.CLIENTS_MAX + 5):
            end = stack.enter_context(socket.socket(socket.AF_UNIX))
            end.connect(str(at))
            with contextlib.suppress(OSError):
                end.sendall(b"x" * 9000 if i % 2 else b"nonsense\n")
        assert ask(str(at)) == STATUS


def seen(at: Path, *, watch: bool) -> tuple[int, str]:
    """What a person sees, and the exit code; with Ctrl-C once there was a picture."""
    terminal, theirs = pty.openpty()
    code = f"""
import sys
from memreap.telling.status import StatusOptions, status
sys.exit(status(StatusOptions(socket={str(at)!r}, watch={watch})))"""
    env = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    shown, deadline_s = b"", time.monotonic() + 10
    try:
        with contextlib.suppress(OSError):  # EIO: it has ended
            while time.monotonic() < deadline_s:
                if select.select([terminal], [], [], 0.1)[0]:
                    shown += os.read(terminal, 65536)
                if watch and b"HEADROOM" in shown:
                    child.send_signal(signal.SIGINT)
                    watch = False
        return child.wait(timeout=5), shown.decode()
    finally:
        child.kill()
        child.wait()
        os.close(terminal)


@pytest.mark.parametrize("watch", [False, True])
def test_status_for_a_person(start: Any, tmp_path: Path, watch: bool) -> None:
    at = tmp_path / "guard.sock"
    guard = start(socket=str(at))
    listening(guard, at)
    with answering(guard):
        code, shown = seen(at, watch=watch)
    assert code == 0
    assert "HEADROOM" in shown
    assert "a\x1b[31mb" not in shown  # the stranger's name is printable
    assert "Traceback" not in shown


def test_a_core_that_does_not_answer(
    start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ANSWER_S", 0.2)
    at = tmp_path / "guard.sock"
    guard = start(socket=str(at))
    listening(guard, at)
    with pytest.raises(NoGuardError, match="core does not answer"):
        ask(str(at))


def test_a_stale_socket_is_replaced_and_a_live_one_is_not(start: Any, tmp_path: Path) -> None:
    at = tmp_path / "guard.sock"
    first = start(socket=str(at))
    listening(first, at)
    signal.pidfd_send_signal(first.worker.pidfd, signal.SIGSTOP)  # hangs; replaced
    stale_ns = at.stat().st_ctime_ns
    second = start(socket=str(at))
    second.until(lambda: at.exists() and at.stat().st_ctime_ns != stale_ns)
    listening(second, at)
    with answering(second):
        assert ask(str(at)) == STATUS
    second.worker.give_up()  # its file stays
    at.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(at))
        other.listen()
        third = start(socket=str(at))
        third.until(lambda: third.heard)
        assert "another guard answers" in third.heard[0]["error"]


def test_the_commands_without_a_database(capfd: pytest.CaptureFixture[str], path: str) -> None:
    incidents_, explain_ = IncidentsOptions(database=path), ExplainOptions(database=path)
    assert (incidents(incidents_), explain(explain_)) == (4, 4)
    text = capfd.readouterr()
    assert text.err == f"memreap: no database {path}: nothing was recorded there yet\n" * 2
    assert text.out == ""
    assert not Path(path).exists()


def test_incidents(start: Any, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    core, guard = Guard(), start(database=path)
    guard.take(core.incident())
    guard.take(core.incident(victims=6))
    guard.take(core.incident(relieved=False))
    capfd.readouterr()
    assert incidents(IncidentsOptions(database=path)) == 0
    rows = capfd.readouterr().out.splitlines()
    assert " ".join(rows[0].split()) == "ID WHEN DOMAIN VICTIMS BACK TO RELIEF OUTCOME"
    assert [row.split()[0] for row in rows[1:]] == ["3", "2", "1"]
    assert rows[1].endswith("-  goes on, reaped")
    assert "and 2 more" in rows[2]
    assert rows[3].endswith("cc1plus (pid 4711) 612 MiB   610 MiB      15 ms  reaped") or (
        "610 MiB" in rows[3] and rows[3].endswith("reaped")
    )
    assert incidents(IncidentsOptions(database=path, json=True, limit=1)) == 0
    (row,) = capfd.readouterr().out.splitlines()
    assert json.loads(row)["deaths"][0]["victim"]["pids"] == [4711]
    assert incidents(IncidentsOptions(database=path, since_s=ago_s("2h"))) == 0
    assert len(capfd.readouterr().out.splitlines()) == 4


def test_explain(start: Any, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    core, guard = Guard(), start(database=path)
    guard.take(core.incident(victims=2))
    capfd.readouterr()
    assert explain(ExplainOptions(database=path)) == 0
    text = " ".join(capfd.readouterr().out.split())
    for told_ in (
        "What ran out was a cgroup's memory: 974 MiB of 950 MiB (102.5%), over its line;",
        "growing by 286.1 MiB a second, stalled 12%.",
        "cc1plus (pid 4711) was chosen: it had the highest badness of 35, 19.6 times that of",
        "It belonged to build.service.",
        "and 25 others holding 165 MiB together",
        "and 32 others holding",
        "postgres (pid 77), 92 MiB: protected by name",
        "610 MiB came back 12 ms after the decision, 49.64 GiB a second",
        "That was not enough: 974 MiB of 950 MiB. So cc1plus (pid 4712) had to be next.",
        "Since the pressure was seen: 0.0 ms pressed, 974 MiB of 950 MiB 1.0 ms chosen cc1plus",
        "hung in the kernel when last seen, their memory released.",
        "It was relieved 28 ms after the pressure was seen, at 363 MiB of 950 MiB.",
    ):
        assert told_ in text, told_
    assert explain(ExplainOptions(id=77, database=path)) == 4
    assert explain(ExplainOptions(id=1, database=path, json=True)) == 0
    assert len(json.loads(capfd.readouterr().out.splitlines()[-1])["turns"]) == 10


def test_a_crowd_is_explained(start: Any, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    core, guard = Guard(name="bomb"), start(database=path)
    turns = core.incident()
    for turn in turns:
        if turn["victim"]:
            turn["victim"] |= {"pids": [4711, *range(5000, 5057)], "crowd": True}
        if turn["what"] == "killed":
            turn["figures"]["born"] = 3
    guard.take(turns)
    capfd.readouterr()
    assert explain(ExplainOptions(database=path)) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "bomb (58 processes) was chosen" in text
    assert "They are a crowd, of one name, user and cgroup, and came at once" in text
    assert "after the decision, 49.64 GiB a second; 3 processes born meanwhile died as well" in text


@pytest.mark.parametrize("ending", ["released", "skipped"])
def test_who_was_only_waited_for_is_no_victim(
    start: Any, path: str, capfd: pytest.CaptureFixture[str], ending: str
) -> None:
    core, guard, stranger = Guard(), start(database=path), candidate(88, 50, "stranger")
    turns = core.incident()
    waiting = [
        core.turn("shared", victim=stranger, reason="exiting already"),
        core.turn(ending, victim=stranger, figures={}),
    ]
    guard.take([*turns[:2], *waiting, *turns[2:]])
    capfd.readouterr()
    assert explain(ExplainOptions(database=path)) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "It waited for stranger (pid 88) (exiting already): the memory was held here" in text
    assert text.count(" was chosen") == 1
    assert "had to be next" not in text
    assert "It left by itself" not in text


def test_nothing_but_anothers_death_may_relieve(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    core, guard = Guard(), start(database=path)
    guard.take(core.waiting(candidate(88, 50, "stranger")))
    capfd.readouterr()
    assert incidents(IncidentsOptions(database=path)) == 0
    assert "another's death" in capfd.readouterr().out
    assert explain(ExplainOptions(database=path)) == 0
    assert "It was relieved 3 ms after the pressure was seen" in capfd.readouterr().out


def test_dry_runs_and_unfinished_incidents_are_told_as_such(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    core, guard = Guard(), start(database=path)
    guard.take(core.rehearsal(candidate(4711, 610)))
    assert explain(ExplainOptions(database=path)) == 0
    captured = capfd.readouterr()
    assert "dry run: over its line, 974 MiB of 950 MiB: would kill cc1plus" in captured.err
    assert "A dry run:" in captured.out
    assert "would have been killed" in captured.out
    guard.take(core.incident(relieved=False))
    guard.end()
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE guard SET start_ticks = 1")
    assert explain(ExplainOptions(database=path)) == 0
    assert "the guard ended before the pressure did" in " ".join(capfd.readouterr().out.split())


def test_incidents_names_whom_a_dry_run_would_have_killed(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    core, guard = Guard(), start(database=path)
    guard.take(core.rehearsal(candidate(4711, 610)))
    capfd.readouterr()
    assert incidents(IncidentsOptions(database=path)) == 0
    shown = capfd.readouterr().out
    assert "would be cc1plus (pid 4711) 612 MiB" in shown
    assert shown.count("dry run") == 1
    assert incidents(IncidentsOptions(database=path, json=True)) == 0
    (told_,) = map(json.loads, capfd.readouterr().out.splitlines())
    assert [victim["pids"] for victim in told_["would_be"]] == [[4711]]
    assert told_["deaths"] == []
    assert explain(ExplainOptions(database=path)) == 0
    assert "It goes on." in capfd.readouterr().out


def test_incidents_tells_where_nobody_could_be_killed(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    core, guard = Guard(), start(database=path)
    guard.take(
        [
            core.turn("pressed"),
            core.turn("helpless", choice=core.choice(candidate(4711, 610))),
            core.turn("relieved"),
        ]
    )
    capfd.readouterr()
    assert incidents(IncidentsOptions(database=path)) == 0
    assert "nobody to kill" in capfd.readouterr().out


def test_a_dry_run_that_became_real_is_told_as_what_it_was(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    core, guard = Guard(), start(database=path)
    dry = core.rehearsal(candidate(4700, 50, "early"))
    guard.take([*dry, *(turn | {"incident": 1} for turn in core.incident()[2:])])
    capfd.readouterr()
    assert explain(ExplainOptions(database=path)) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "early (pid 4700) would have been killed, and was left alone" in text
    assert "That was a dry run. cc1plus (pid 4711) was next" in text
    assert "610 MiB came back" in text
    assert "It was relieved" in text
    assert "nobody was signalled" not in text
    assert incidents(IncidentsOptions(database=path)) == 0
    shown = capfd.readouterr().out
    assert "cc1plus (pid 4711)" in shown
    assert "dry run" not in shown


def test_a_dry_run_that_became_real_by_sigterm_alone_is_none(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    core, guard, victim = Guard(), start(database=path), candidate(4711, 50, "gentle")
    guard.take(
        [
            core.turn("pressed", dry_run=True),
            core.turn("chosen", victim=victim, choice=core.choice(victim)),
            core.turn("asked", victim=victim),
            core.turn("released", victim=victim, figures={}),
            core.turn("relieved", mib=363),
        ]
    )
    capfd.readouterr()
    assert explain(ExplainOptions(database=path)) == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "It was asked to go (SIGTERM)" in text
    assert "It was relieved" in text
    assert "nobody was signalled" not in text


def test_who_was_only_waited_for_is_told_as_gone(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    core, guard = Guard(), start(database=path)
    guard.take(core.waiting(candidate(88, 50, "stranger"), seconds=0.3))
    said = until_told(guard, capfd, "relieved")
    assert "stranger (pid 88): gone after 300 ms" in said
    assert "decision" not in said


def test_a_scribe_that_takes_over_tells_of_relief(
    start: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """It does not know that somebody died: an incident whose beginning it saw it would pass."""
    turns = Guard().incident()
    first = start(database=path)
    first.take(turns[:-1])
    first.end()
    capfd.readouterr()
    second = start(database=path)
    second.take(turns[-1:])
    assert "relieved" in until_told(second, capfd, "363 MiB")


def test_what_a_full_disk_did_not_take_another_database_does(start: Any, tmp_path: Path) -> None:
    nowhere = tmp_path / "file" / "incidents.db"
    (tmp_path / "file").write_text("in the way of a directory")
    path = tmp_path / "new" / "incidents.db"
    guard, turns = start(database=str(nowhere)), Guard().incident()
    guard.tell(*turns)
    guard.until(lambda: any("waiting" in message for message in guard.heard))
    assert not guard.acked
    guard.tell({"settings": records_message(database=str(path))})
    guard.until(lambda: {turn["turn"] for turn in turns} <= guard.acked)
    with contextlib.closing(Archive(str(path))) as archive:
        assert [i.victims for i in archive.newest(10)] == [1]


def test_what_no_database_is_to_take_is_acked(start: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way of a directory")
    guard = start(database=str(tmp_path / "file" / "incidents.db"))
    turns = Guard().incident()
    guard.tell(*turns)
    guard.until(lambda: any("waiting" in message for message in guard.heard))
    guard.tell({"settings": records_message()})
    guard.until(lambda: {turn["turn"] for turn in turns} <= guard.acked)


def records_message(**records: Any) -> dict[str, Any]:
    """As the core says it after a reload."""
    settings = Settings(records=Records(**{"journal": False, **records}))
    message = json.loads(json.dumps(settings.as_message()["records"]))
    assert isinstance(message, dict)
    return message


def test_a_reader_needs_no_right_to_write(start: Any, path: str) -> None:
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    guard = start(database=path)
    guard.take(Guard().incident())
    guard.end()
    Path(path).chmod(0o644)
    Path(path).parent.chmod(0o755)
    for parent in Path(path).parents:
        if parent.stat().st_mode & 0o005 != 0o005 and parent.is_relative_to("/tmp/pytest-of-root"):
            parent.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(NoArchiveError, OSError):
            os.setresuid(65534, 65534, 65534)
            code = 0 if len(Archive(path).newest(9)) == 1 else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_scribe_costs_little(start: Any, path: str, request: pytest.FixtureRequest) -> None:
    gc.disable()  # to collect is to write, in here, on pages that both have
    request.addfinalizer(gc.enable)
    guard = start(database=path, journal=True)
    guard.take([turn for core in [Guard()] for _ in range(20) for turn in core.incident()])
    rollup = Path(f"/proc/{guard.worker.pid}/smaps_rollup").read_text()
    private = sum(int(row.split()[1]) for row in rollup.splitlines() if row.startswith("Private"))
    assert private < 24 * 1024  # of the process that tests; of a guard's own: see docs/records.md
