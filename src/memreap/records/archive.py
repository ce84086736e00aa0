"""Reading the database of incidents, while it is written or when nobody does. Never writes.

Only what was read lives here: an incident and its turns, with what follows from them alone.
"""

import contextlib
import json
import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memreap.records import schema

BUSY_TIMEOUT_S = 2.0
COLUMNS = (
    "i.id, i.guard, i.number, i.domain, i.kind, i.dry_run, i.began_wall_s, i.began_s,"
    " i.ended_wall_s, i.ended_s, i.usage_bytes, i.limit_bytes, i.victims, i.released_bytes,"
    " g.pid, g.boot, g.start_ticks"
)
# A turn without its comparison, which may be a hundred times as long as all else.
BRIEF = """CASE what WHEN 'chosen' THEN NULL WHEN 'helpless' THEN '{"what": "helpless"}'
 ELSE json END"""
BRIEF_DRY = BRIEF.replace("NULL", "json_remove(json, '$.choice')")
FROM = "FROM incident i LEFT JOIN guard g ON g.id = i.guard"


class NoArchiveError(Exception):
    """There is nothing to read; the text says why."""


@dataclass(slots=True)
class Recorded:
    """One incident as it stands in the database."""

    id: int
    guard: str
    number: int
    domain: str
    kind: str
    dry_run: bool
    began_wall_s: float
    began_s: float
    ended_wall_s: float | None
    ended_s: float | None
    usage_bytes: int
    limit_bytes: int
    victims: int
    released_bytes: int
    guard_lives: bool = False
    turns: list[dict[str, Any]] = field(default_factory=list)
    evidence: list[dict[str, Any]] = field(default_factory=list)  # what the kernel did, by victim

    @property
    def seconds_to_relief(self) -> float | None:
        """From pressure to relief; None if it never came, or nobody was there to see it."""
        return None if self.ended_s is None else self.ended_s - self.began_s

    def as_dict(self) -> dict[str, object]:
        """All of it, for scripts."""
        apart = ("turns", "evidence", "began_s", "ended_s")
        names = [name for name in self.__slots__ if name not in apart]
        fields: dict[str, object] = {name: getattr(self, name) for name in names}
        told = {"turns": self.turns, "evidence": self.evidence}
        return fields | {"seconds_to_relief": self.seconds_to_relief} | told


class Archive:
    """A database, opened for reading."""

    def __init__(self, path: str) -> None:
        """Open it. Raises NoArchiveError."""
        self.path = path
        try:
            os.stat(path)  # noqa: PTH116
            self._db = _open(path)
            self._check()
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            why = "nothing was recorded there yet" if missing else str(error.strerror)
            raise NoArchiveError(f"no database {path}: {why}") from error
        except sqlite3.Error as error:
            raise NoArchiveError(f"cannot read {path}: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def newest(self, limit: int, since_wall_s: float | None = None) -> list[Recorded]:
        """The newest incidents, newest first, with their turns; the long comparisons left out."""
        rows = self._db.execute(
            f"SELECT {COLUMNS} {FROM} WHERE i.began_wall_s >= ? ORDER BY i.id DESC LIMIT ?",
            (since_wall_s or 0.0, limit),
        ).fetchall()
        found = [_recorded(row) for row in rows]
        for incident in found:
            # Whom a dry run chose, no other turn tells.
            brief = BRIEF_DRY if incident.dry_run else BRIEF
            incident.turns = self._turns(incident.id, brief)
        return found

    def one(self, number: int | None) -> Recorded | None:
        """The incident of this id, or the last one; with every turn."""
        which = "WHERE i.id = ?" if number is not None else "ORDER BY i.id DESC LIMIT 1"
        given = (number,) if number is not None else ()
        row = self._db.execute(f"SELECT {COLUMNS} {FROM} {which}", given).fetchone()
        if row is None:
            return None
        incident = _recorded(row)
        incident.turns = self._turns(incident.id)
        incident.evidence = self._evidence(incident.id)
        return incident

    def _turns(self, incident: int, told: str = "json") -> list[dict[str, Any]]:
        rows = self._db.execute(
            f"SELECT {told} FROM turn WHERE incident_id = ? ORDER BY seq",  # noqa: S608
            (incident,),
        )
        return [json.loads(row[0]) for row in rows if row[0]]

    def _evidence(self, incident: int) -> list[dict[str, Any]]:
        """None from a guard that knew nothing of it."""
        try:
            found = "SELECT json FROM evidence WHERE incident_id = ? ORDER BY id"
            rows = self._db.execute(found, (incident,)).fetchall()
        except sqlite3.OperationalError:
            return []
        return [json.loads(row[0]) for row in rows]

    def _check(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        application = self._db.execute("PRAGMA application_id").fetchone()[0]
        if application == 0 and version == 0:
            self._db.close()
            raise NoArchiveError(f"no incidents recorded yet, looked in {self.path}")
        if application != schema.APPLICATION_ID or version > schema.VERSION:
            self._db.close()
            raise NoArchiveError(f"{self.path} is no database of this memreap's")


def _open(path: str) -> sqlite3.Connection:
    """Read-only. A file that its writer left cleanly needs nothing beside it (immutable)."""
    uri = Path(path).absolute().as_uri()
    last: sqlite3.Error = sqlite3.OperationalError("unable to open database file")
    ways = ["?mode=ro"]
    with contextlib.suppress(OSError):
        if not os.path.exists(f"{path}-wal") or not os.stat(f"{path}-wal").st_size:  # noqa: PTH110, PTH116
            ways.append("?mode=ro&immutable=1")
    for way in ways:
        try:
            db = sqlite3.connect(uri + way, uri=True, timeout=BUSY_TIMEOUT_S)
            db.execute("PRAGMA schema_version").fetchone()
        except sqlite3.OperationalError as error:
            last = error
        else:
            return db
    raise last


def _recorded(row: tuple[Any, ...]) -> Recorded:
    *own, pid, boot, start_ticks = row
    own[5] = bool(own[5])
    recorded = Recorded(*own)
    lives = pid and boot == schema.boot() and start_ticks == schema.start_ticks(pid) != 0
    recorded.guard_lives = bool(lives)
    return recorded
