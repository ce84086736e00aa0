"""Turns as lines on stderr, for the person who started the guard, or the journal of its unit."""

import os

from memreap.records.outlet import Outlet
from memreap.records.turn import Course, Turn
from memreap.records.words import line
from memreap.run.voice import say

WRONG = frozenset({"skipped", "helpless"})
WRONG_OUTCOMES = frozenset({"stuck", "refused"})


def is_wrong(turn: Turn) -> bool:
    """Whether a turn tells of something that went wrong, which even the quiet want to know."""
    outcome = (turn.get("outcome") or {}).get("outcome")
    return turn.get("what") in WRONG or outcome in WRONG_OUTCOMES


def stderr_is_journal() -> bool:
    """Whether what is said on stderr goes to the journal anyway. systemd.exec(5), JOURNAL_STREAM"""
    try:
        device, inode = os.environ["JOURNAL_STREAM"].split(":")
        stderr = os.fstat(2)
        return (stderr.st_dev, stderr.st_ino) == (int(device), int(inode))
    except (KeyError, ValueError, OSError):
        return False


class Narration(Outlet):
    """Says each turn in one line. Never waits for whoever reads it."""

    name = "narration"

    def __init__(self, quiet: bool) -> None:
        """``quiet``: only what went wrong."""
        self._quiet = quiet

    def take(self, turn: Turn, course: Course | None) -> None:
        """Say it."""
        if self._quiet and not is_wrong(turn):
            return
        if told := line(turn, course):
            say(told)
