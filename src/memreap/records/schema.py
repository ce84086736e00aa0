"""The tables of the database of incidents, and whose life a guard's is. See sqlite.org.

Only names live here, shared by the one who writes and those who read.
"""

import os

from memreap.linux.procfs import Procfs

VERSION = 2
APPLICATION_ID = 0x6D656D72  # "memr"
PATH = "/var/lib/memreap/incidents.db"

TABLES = """
CREATE TABLE guard (
    id TEXT PRIMARY KEY,           -- one life of a guard, whatever became of its scribes
    boot TEXT NOT NULL,
    pid INTEGER NOT NULL,
    start_ticks INTEGER NOT NULL,
    began_wall_s REAL NOT NULL
);
CREATE TABLE incident (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    guard TEXT NOT NULL,
    number INTEGER NOT NULL,       -- within the guard's life
    domain TEXT NOT NULL,          -- printable; as it is in turn.json
    kind TEXT NOT NULL,
    dry_run INTEGER NOT NULL,
    began_wall_s REAL NOT NULL,
    began_s REAL NOT NULL,         -- CLOCK_MONOTONIC
    ended_wall_s REAL,             -- NULL: goes on, or the guard ended before
    ended_s REAL,
    usage_bytes INTEGER NOT NULL,  -- the most that was read
    limit_bytes INTEGER NOT NULL,
    victims INTEGER NOT NULL DEFAULT 0,
    released_bytes INTEGER NOT NULL DEFAULT 0,
    turns INTEGER NOT NULL DEFAULT 0,
    UNIQUE (guard, number)
);
CREATE TABLE turn (
    id INTEGER PRIMARY KEY,
    guard TEXT NOT NULL,
    seq INTEGER NOT NULL,
    incident_id INTEGER REFERENCES incident (id) ON DELETE CASCADE,  -- NULL: warned, eased
    what TEXT NOT NULL,
    at REAL NOT NULL,              -- unix time
    json TEXT NOT NULL,
    UNIQUE (guard, seq)
);
CREATE INDEX turn_incident ON turn (incident_id, seq);
"""
# Since version 2.
EVIDENCE = """
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY,
    incident_id INTEGER NOT NULL REFERENCES incident (id) ON DELETE CASCADE,
    pid INTEGER NOT NULL,
    json TEXT NOT NULL             -- what the kernel did to this victim
)
"""


def boot() -> str:
    """This boot's own name."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int:
    """When a process began; 0 for one that is gone."""
    try:
        return Procfs().stat(pid).start_ticks
    except OSError:
        return 0


class Life:
    """One life of a guard: the same for every scribe it starts, never the same for two guards."""

    def __init__(self, pid: int = 0) -> None:
        """``pid``: the core's; without, our parent's."""
        self.pid = pid or os.getppid()
        self.boot, self.start_ticks = boot(), start_ticks(self.pid)
        self.id = f"{self.boot}-{self.pid}-{self.start_ticks}"
