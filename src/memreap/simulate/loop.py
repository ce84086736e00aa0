"""The event loop: one heap, and what is due next.

An event's key is (time, priority, seq), as simpy has it: what is due at one time happens in the
order of its priority, and then in the order in which it was scheduled. So a run has one order.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

FIRST: Final = 0  # what has come about by itself: a CPU is through with something
NORMAL: Final = 1
LAST: Final = 2  # who looks at what the others did


class Loop:
    """The clock, and all that is yet to happen."""

    __slots__ = ("_heap", "_seq", "events", "now_s")

    def __init__(self) -> None:
        """At time 0, with nothing to do."""
        self.now_s = 0.0
        self.events = 0  # that have happened
        self._seq = 0
        self._heap: list[tuple[float, int, int, Callable[..., object], tuple[Any, ...]]] = []

    def at(
        self, time_s: float, function: Callable[..., object], *args: Any, priority: int = NORMAL
    ) -> None:
        """Call a function at a time that has not passed."""
        assert time_s >= self.now_s, "nothing is scheduled into the past"
        self._seq += 1
        heappush(self._heap, (time_s, priority, self._seq, function, args))

    def after(self, delay_s: float, function: Callable[..., object], *args: Any) -> None:
        """Call a function after a time."""
        self.at(self.now_s + delay_s, function, *args)

    def step(self) -> bool:
        """Let the next event happen; false when there is none."""
        if not self._heap:
            return False
        self.now_s, _, _, function, args = heappop(self._heap)
        self.events += 1
        function(*args)
        return True

    def run(self, until_s: float) -> None:
        """Let all happen that is due up to a time."""
        while self._heap and self._heap[0][0] <= until_s:
            self.step()

    def pass_to(self, time_s: float) -> None:
        """Let time pass in which nothing happens."""
        assert not self._heap or self._heap[0][0] >= time_s, "something is due before that"
        self.now_s = max(self.now_s, time_s)

    @property
    def next_s(self) -> float | None:
        """When the next event is due."""
        return self._heap[0][0] if self._heap else None
