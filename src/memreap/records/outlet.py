"""What every record has in common: it takes turns, has descriptors to wait for, and deadlines.

Nothing here waits. Whatever an outlet raises is its own trouble, told once.
"""

from collections.abc import Callable
from typing import Any

from memreap.records.turn import Course, Turn

Tell = Callable[[dict[str, Any]], None]


class Outlet:
    """One way in which turns leave the guard."""

    name = "record"

    def take(self, turn: Turn, course: Course | None) -> None:
        """One turn."""

    def fds(self) -> dict[int, int]:
        """Descriptors to poll, with their events."""
        return {}

    def attend(self, ready: dict[int, int], now_s: float) -> None:
        """Do what is due: what these descriptors have, and what these deadlines ask."""

    def due_s(self) -> float | None:
        """When to be attended at the latest, on the monotonic clock."""
        return None

    def close(self) -> None:
        """Let go of everything; children too."""
