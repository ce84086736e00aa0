"""In which order events may have happened, where the clocks of two CPUs leave it open.

Two events of different CPUs that are no more than SKEW_NS apart may have happened in either order:
their clocks agree no better, and an event bears the time at which it began to be written. Events of
one CPU, and those of one thread, stay in their order.
"""

from collections.abc import Iterator, Sequence

from memreap.evidence.reading import Line

SKEW_NS = 2_000


class Orders:
    """All of them, of one trace: how far it has come is a count a CPU."""

    def __init__(self, lines: Sequence[Line]) -> None:
        """``lines``: in the order of time."""
        self._lines = lines
        cpus = dict.fromkeys(line.cpu for line in lines)
        self.cpus = [[n for n, line in enumerate(lines) if line.cpu == cpu] for cpu in cpus]
        self._place = {n: (cpu, at) for cpu, ns in enumerate(self.cpus) for at, n in enumerate(ns)}
        self._previous: list[int | None] = []  # of the same thread
        last: dict[int, int] = {}
        for number, line in enumerate(lines):
            self._previous.append(last.get(line.doer))
            last[line.doer] = number

    def first(self, counts: tuple[int, ...]) -> int:
        """The first event that has not happened yet."""
        return min(cpu[n] for cpu, n in zip(self.cpus, counts, strict=True) if n < len(cpu))

    def following(self, counts: tuple[int, ...]) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Each event that may be the next, and how far all are then."""
        latest_ns = self._lines[self.first(counts)].at_ns + SKEW_NS
        for which, (cpu, n) in enumerate(zip(self.cpus, counts, strict=True)):
            if n == len(cpu) or self._lines[cpu[n]].at_ns > latest_ns:
                continue
            previous = self._previous[cpu[n]]
            if previous is not None:
                there, at = self._place[previous]
                if counts[there] <= at:
                    continue
            yield cpu[n], (*counts[:which], n + 1, *counts[which + 1 :])
