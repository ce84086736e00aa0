"""One turn of an incident, as the core tells it, and what is known of its incident so far.

Only plain values live here. A turn is a JSON object; its strings come from strangers.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

INCIDENTS_MAX = 64  # followed at once: one a domain, and those whose end was never told

Turn = Mapping[str, Any]


def pid_of(candidate: Turn) -> int:
    """The first process of a candidate, which stands for all; 0 if there is none."""
    pids = candidate.get("pids") or [0]
    return int(pids[0])


def held_bytes(candidate: Turn) -> int:
    """What a candidate's memory is: resident, swapped out, and page tables."""
    return sum(int(candidate.get(name) or 0) for name in HELD)


HELD = ("rss_bytes", "swap_bytes", "page_table_bytes")


def figure(turn: Turn, name: str) -> float | None:
    """One of the figures that were read, if it was."""
    value = (turn.get("figures") or {}).get(name)
    return float(value) if isinstance(value, int | float) else None


@dataclass(slots=True)
class Course:
    """An incident so far."""

    began_s: float = 0.0
    chosen_s: float | None = None
    is_whole: bool = True  # whether its beginning was seen: a scribe may have taken over
    victims: set[int] = field(default_factory=set)
    awaited: set[int] = field(default_factory=set)  # who dies by another's hand
    helpless: bool = False

    def take(self, turn: Turn) -> None:
        """Note a turn."""
        what, victim = turn.get("what"), turn.get("victim")
        if what == "chosen" and victim:
            self.chosen_s = turn["at_s"]
            self.victims.add(pid_of(victim))
        elif what == "shared" and victim:
            self.awaited.add(pid_of(victim))
        elif what == "helpless":
            self.helpless = True

    def only_awaited(self, victim: Turn) -> bool:
        """Whether this one was no victim here."""
        return pid_of(victim) in self.awaited - self.victims


class Courses:
    """Follows every incident that goes on, a bounded number of them."""

    def __init__(self) -> None:
        """None yet."""
        self._courses: OrderedDict[int, Course] = OrderedDict()

    def before(self, turn: Turn) -> Course | None:
        """What was known before this turn; None for one that belongs to no incident."""
        number = turn.get("incident")
        if number is None:
            return None
        if number not in self._courses and turn.get("what") != "outcome":  # it may come after all
            # Without its beginning (a scribe that took over), times count from what is known.
            is_whole = turn.get("what") == "pressed"
            self._courses[number] = Course(began_s=turn["at_s"], is_whole=is_whole)
            if len(self._courses) > INCIDENTS_MAX:
                self._courses.popitem(last=False)
        return self._courses.get(number)

    def after(self, turn: Turn) -> None:
        """Note a turn; the last one of an incident ends the following."""
        number = turn.get("incident")
        if number is not None and number in self._courses:
            self._courses[number].take(turn)
            if turn.get("what") == "relieved":
                del self._courses[number]


def reasons(ranked: Iterable[Turn]) -> list[str]:
    """Why not, each reason once, in the order of the ranking."""
    return list(dict.fromkeys(str(r["why_not"]) for r in ranked if r.get("why_not")))
