"""The incidents on disk: one SQLite file, written by one scribe.

Rules of the file:
1. A turn is acked once it is committed and synced, and not before.
2. It is bounded: the newest incidents are kept, and their pages are given back as others go.
3. What cannot be written is kept in memory, up to a bound, and tried again.
4. A file that is broken is moved aside, never deleted; one that is somebody else's is left alone.
"""

import contextlib
import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from memreap.linux.procfs import printable
from memreap.records import schema
from memreap.records.outlet import Outlet
from memreap.records.trouble import Trouble
from memreap.records.turn import Course, Turn, figure

BUSY_TIMEOUT_MS = 200  # how long a writer waits for another one's lock
RETRY_S, RETRY_MAX_S = 0.5, 3.0
PENDING_MAX, PENDING_BYTES_MAX = 2000, 2 << 20
BATCH_MAX = 64  # turns a commit
EVIDENCE_MAX = 64  # victims whose trace waits to be written
TURNS_OF_AN_INCIDENT_MAX = 1000  # beyond, what only repeats is not written
REPEATING = frozenset({"pressed", "helpless", "shared"})
VACUUM_PAGES = 512  # given back after a commit, at most
NAMED_AS_DATABASE = (".db", ".sqlite", ".sqlite3")

PRAGMAS = f"""
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA foreign_keys = ON;
PRAGMA cache_size = -256;
PRAGMA wal_autocheckpoint = 128;
PRAGMA journal_size_limit = 1048576;
PRAGMA busy_timeout = {BUSY_TIMEOUT_MS};
"""


class NotOursError(Exception):
    """The file belongs to somebody else: it is left alone."""


class Database(Outlet):
    """Takes turns, commits them, and says which are durable."""

    name = "database"

    def __init__(
        self,
        path: str,
        keep: int,
        trouble: Trouble,
        acked: Callable[[int], None],
        life: schema.Life,
    ) -> None:
        """Nothing is opened yet. ``acked`` is called with the seq of each durable turn."""
        self.path, self.keep = os.path.abspath(path), max(1, keep)  # noqa: PTH100
        self._trouble, self._acked, self._life = trouble, acked, life
        self._pending: deque[tuple[int, str, Turn]] = deque()
        self._pending_bytes = self._dropped = 0
        self._evidence: deque[tuple[int, int, str]] = deque(maxlen=EVIDENCE_MAX)
        self._db: sqlite3.Connection | None = None
        self._written = 0  # the last seq of this guard's life that is in the file
        self._retry_s, self._pause_s = 0.0, RETRY_S
        self._to_vacuum = False

    def begin(self) -> None:
        """See now whether it can be written, so that it is said before anything happens.

        It is opened with the first turn: a guard at rest need not carry SQLite's pages.
        """
        self._protected(self._touch)

    def has(self, seq: int) -> bool:
        """Whether a turn was written by a scribe before us: the core tells it again."""
        if self._db is None and time.monotonic() >= self._retry_s:
            self._protected(self._open)
        return seq <= self._written

    def take(self, turn: Turn, course: Course | None) -> None:
        """Keep it until it is written; the oldest goes where there are too many."""
        del course
        text = json.dumps(turn)
        # Parsed, a comparison of hundreds takes several times its text.
        brief = {**turn, "choice": None}
        self._pending.append((int(turn["turn"]), text, brief))
        self._pending_bytes += len(text)
        while len(self._pending) > PENDING_MAX or (
            self._pending_bytes > PENDING_BYTES_MAX and len(self._pending) > 1
        ):
            self._pending_bytes -= len(self._pending.popleft()[1])
            self._dropped += 1

    def take_evidence(self, number: int, pid: int, text: str) -> None:
        """What the kernel did to a victim of the incident of this number."""
        self._evidence.append((number, pid, text))

    def attend(self, ready: dict[int, int], now_s: float) -> None:
        """Write what is pending, unless it failed a moment ago."""
        del ready
        while (self._pending or self._evidence) and now_s >= self._retry_s:
            if not self._protected(self._write):
                return

    @property
    def unwritten(self) -> list[tuple[int, str, Turn]]:
        """The turns that no file has, with their texts."""
        return list(self._pending)

    def take_over(self, turns: list[tuple[int, str, Turn]]) -> None:
        """Write what another file could not take."""
        self._pending.extendleft(reversed(turns))
        self._pending_bytes += sum(len(text) for _, text, _ in turns)

    @property
    def waiting(self) -> int | None:
        """The oldest turn that could not be written yet."""
        return self._pending[0][0] if self._pending else None

    def due_s(self) -> float | None:
        """When to try again."""
        return self._retry_s if self._pending or self._evidence else None

    def close(self) -> None:
        """Write what can be written, once more, and let go of the file."""
        self._retry_s = 0.0
        with contextlib.suppress(Exception):
            self.attend({}, time.monotonic())
        self._forget()

    def _protected(self, action: Callable[[], None]) -> bool:
        """Do it; where it fails, say so once, and try again later."""
        try:
            action()
        except (sqlite3.Error, OSError, NotOursError) as error:
            self._trouble.note(f"database {self.path}", _why(error))
            broken = isinstance(error, sqlite3.DatabaseError) and _is_corrupt(error)
            self._forget()
            self._retry_s = time.monotonic() + self._pause_s
            self._pause_s = min(self._pause_s * 2, RETRY_MAX_S)
            if broken:
                self._set_aside("corrupt")
            return False
        return True

    def _write(self) -> None:
        if self._db is None:
            self._open()
        assert self._db is not None, "opened, or an exception was raised"
        batch = [self._pending[i] for i in range(min(BATCH_MAX, len(self._pending)))]
        with self._transaction(self._db):
            for seq, text, turn in batch:
                self._store(self._db, seq, text, turn)
            for evidence in self._evidence:
                self._store_evidence(self._db, *evidence)
        self._evidence.clear()
        for seq, text, _ in batch:
            self._pending.popleft()
            self._pending_bytes -= len(text)
            self._written = max(self._written, seq)
            self._acked(seq)
        self._pause_s = RETRY_S
        lost = f"; {self._dropped} turns are lost" if self._dropped else ""
        self._trouble.over(f"database {self.path}", f"written again{lost}")
        self._dropped = 0
        if self._to_vacuum:
            self._to_vacuum = False
            # Not execute(): it would take one step only, which is one page.
            self._db.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES});")

    @contextlib.contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Any:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    def _store(self, db: sqlite3.Connection, seq: int, text: str, turn: Turn) -> None:
        if seq <= self._written:
            return
        incident, what = None, printable(str(turn["what"]))
        if turn.get("incident") is not None:
            incident, turns = self._incident(db, turn)
            if turns > TURNS_OF_AN_INCIDENT_MAX and what in REPEATING:
                return
            self._follow(db, incident, turn)
        db.execute(
            "INSERT OR IGNORE INTO turn (guard, seq, incident_id, what, at, json)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (self._life.id, seq, incident, what, turn["wall_s"], text),
        )
        if incident is None:
            self._prune_loose(db)

    def _store_evidence(self, db: sqlite3.Connection, number: int, pid: int, text: str) -> None:
        """Of an incident that is there: it comes behind the turns that it belongs to."""
        db.execute(
            "INSERT INTO evidence (incident_id, pid, json)"
            " SELECT id, ?, ? FROM incident WHERE guard = ? AND number = ?",
            (pid, text, self._life.id, number),
        )

    def _incident(self, db: sqlite3.Connection, turn: Turn) -> tuple[int, int]:
        key = (self._life.id, turn["incident"])
        found = "SELECT id, turns FROM incident WHERE guard = ? AND number = ?"
        row = db.execute(found, key).fetchone()
        if row is None:
            db.execute(
                "INSERT INTO incident (guard, number, domain, kind, dry_run, began_wall_s,"
                " began_s, usage_bytes, limit_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *key,
                    printable(str(turn["domain"])),
                    printable(str(turn.get("kind"))),
                    bool(turn.get("dry_run")),
                    turn["wall_s"],
                    turn["at_s"],
                    turn["usage_bytes"],
                    turn["limit_bytes"],
                ),
            )
            self._prune(db)
            row = db.execute(found, key).fetchone()
        return int(row[0]), int(row[1])

    def _follow(self, db: sqlite3.Connection, incident: int, turn: Turn) -> None:
        what = turn["what"]
        db.execute(
            "UPDATE incident SET turns = turns + 1, usage_bytes = max(usage_bytes, ?),"
            " victims = victims + ?, released_bytes = released_bytes + ? WHERE id = ?",
            (
                turn["usage_bytes"],
                what == "chosen",
                int(figure(turn, "released_bytes") or 0) if what == "released" else 0,
                incident,
            ),
        )
        if what in ("asked", "killed"):  # a dry run may have become real
            db.execute("UPDATE incident SET dry_run = 0 WHERE id = ?", (incident,))
        if what == "relieved":
            db.execute(
                "UPDATE incident SET ended_wall_s = ?, ended_s = ? WHERE id = ?",
                (turn["wall_s"], turn["at_s"], incident),
            )

    def _prune(self, db: sqlite3.Connection) -> None:
        """Let the oldest incidents go, with their turns."""
        gone = db.execute(
            "DELETE FROM incident WHERE id <= "
            "(SELECT id FROM incident ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (self.keep,),
        ).rowcount
        if gone:
            self._to_vacuum = True
            db.execute(
                "DELETE FROM guard WHERE id <> ? AND id NOT IN (SELECT guard FROM incident)",
                (self._life.id,),
            )

    def _prune_loose(self, db: sqlite3.Connection) -> None:
        """Let the oldest warnings go, which belong to no incident."""
        gone = db.execute(
            "DELETE FROM turn WHERE incident_id IS NULL AND id <= (SELECT id FROM turn"
            " WHERE incident_id IS NULL ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (self.keep,),
        ).rowcount
        self._to_vacuum |= gone > 0

    def _touch(self) -> None:
        directory, _ = os.path.split(self.path)
        os.makedirs(directory, mode=0o750, exist_ok=True)  # noqa: PTH103
        _create(self.path)
        os.close(os.open(self.path, os.O_RDWR | os.O_CLOEXEC))

    def _open(self) -> None:
        self._touch()
        db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)
        try:
            for pragma in PRAGMAS.strip().splitlines():
                db.execute(pragma).fetchall()
            self._make_tables(db)
            db.execute(
                "INSERT OR IGNORE INTO guard VALUES (?, ?, ?, ?, ?)",
                (
                    self._life.id,
                    self._life.boot,
                    self._life.pid,
                    self._life.start_ticks,
                    time.time(),
                ),
            )
            last = db.execute("SELECT max(seq) FROM turn WHERE guard = ?", (self._life.id,))
            self._written = last.fetchone()[0] or 0
        except BaseException:
            db.close()
            raise
        self._db = db

    def _make_tables(self, db: sqlite3.Connection) -> None:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        application = db.execute("PRAGMA application_id").fetchone()[0]
        if application == schema.APPLICATION_ID and version == schema.VERSION:
            return
        if application == schema.APPLICATION_ID and version > schema.VERSION:
            raise NotOursError(f"written by a newer memreap (version {version} of its tables)")
        with self._transaction(db):
            if application != schema.APPLICATION_ID:
                if db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    raise NotOursError("a database of somebody else's: left alone")
                for statement in schema.TABLES.split(";\n"):
                    db.execute(statement)
            db.execute(schema.EVIDENCE)
            db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {schema.VERSION}")

    def _forget(self) -> None:
        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
        self._db = None

    def _set_aside(self, what: str) -> None:
        """Move a broken file away, and begin a new one at once."""
        if not self.path.endswith(NAMED_AS_DATABASE):
            return  # a mistaken path would move a file that was never a database
        aside = f"{self.path}.{what}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        if os.path.exists(aside):  # noqa: PTH110
            aside += f".{time.monotonic_ns()}"
        try:
            os.rename(self.path, aside)  # noqa: PTH104
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path + suffix, aside + suffix)  # noqa: PTH104
        except OSError as error:
            self._trouble.note(f"database {self.path}", f"cannot be moved aside: {error}")
            return
        self._written = 0
        self._retry_s = 0.0
        self._trouble.note(
            f"database {self.path}", f"{what}: moved aside to {aside}, a new one begun"
        )


def _create(path: str) -> None:
    """Make the file with its mode; SQLite gives its -wal and -shm the same."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    except FileExistsError:
        return
    try:
        os.fchmod(fd, 0o640)
    finally:
        os.close(fd)


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be written: {error.strerror}"
    if isinstance(error, NotOursError):
        return str(error)
    return f"cannot be written: {error}"
