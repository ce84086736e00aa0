"""Where names go: each beside its mark, over nothing else if that can be.

Only places live here. A label is some lines of text; its place is tried all around its mark, nearer
ones first, and the one that covers least is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import cos, pi, sin

from memreap.simulate.drawing import Point

CHARACTER = 5.9  # pixels, about, of 11 px sans
LINE = 13.0
MARK = 6.0  # half of one
DIRECTIONS = 16
DISTANCES = (11.0, 16.0, 24.0, 36.0, 52.0, 72.0)
LEADER_FROM = 20.0  # a label that is further away has a line to its mark


@dataclass(frozen=True, slots=True)
class Box:
    """An area."""

    left: float
    top: float
    right: float
    bottom: float

    def covers(self, other: "Box") -> float:
        """So much of another one."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, wide) * max(0.0, high)

    def has(self, point: Point) -> bool:
        """Whether a point is in it."""
        return self.left <= point[0] <= self.right and self.top <= point[1] <= self.bottom


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a label's first baseline begins, and the end of its leader if it has one."""

    box: Box
    is_far: bool


def placed(
    labels: Sequence[tuple[Point, Sequence[str]]],
    marks: Sequence[Point],
    lines: Sequence[tuple[Point, ...]],
    frame: Box,
) -> list[Placed]:
    """A place for each label, in their order; ``lines`` are better not covered either."""
    taken: list[Box] = []
    found: dict[int, Placed] = {}
    marked = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for x, y in marks]
    dots = [dot for line in lines for dot in _dotted(line)]
    order = sorted(range(len(labels)), key=lambda n: (-len(labels[n][1]), labels[n][0]))
    for number in order:
        at, texts = labels[number]
        best: tuple[float, Placed] | None = None
        for distance, box in _around(at, _size(texts)):
            cost = distance / 8 + _cost(box, taken, marked, dots, frame)
            if best is None or cost < best[0]:
                best = cost, Placed(box, distance > LEADER_FROM)
        assert best is not None, "there are places to try"
        found[number] = best[1]
        taken.append(best[1].box)
    return [found[number] for number in range(len(labels))]


def _size(texts: Sequence[str]) -> tuple[float, float]:
    return max(map(len, texts)) * CHARACTER, len(texts) * LINE


def _around(at: Point, size: tuple[float, float]) -> Iterator[tuple[float, Box]]:
    """Places, with their distance."""
    (x, y), (wide, high) = at, size
    for distance in DISTANCES:
        for turn in range(DIRECTIONS):
            angle = 2 * pi * turn / DIRECTIONS
            dx, dy = cos(angle), sin(angle)
            left = x + dx * distance - wide * (1 - dx) / 2
            top = y + dy * distance - high * (1 - dy) / 2
            yield distance, Box(left, top, left + wide, top + high)


def _cost(
    box: Box, taken: Sequence[Box], marked: Sequence[Box], dots: Sequence[Point], frame: Box
) -> float:
    area = (box.right - box.left) * (box.bottom - box.top)
    outside = area - frame.covers(box)
    over = 40 * sum(box.covers(other) for other in taken)
    over += 12 * sum(box.covers(other) for other in marked)
    return over + 100 * outside + 2.5 * sum(box.has(dot) for dot in dots)


def _dotted(line: tuple[Point, ...]) -> Iterator[Point]:
    for (ax, ay), (bx, by) in pairwise(line):
        steps = max(1, int(max(abs(bx - ax), abs(by - ay)) / 4))
        for step in range(steps + 1):
            yield ax + (bx - ax) * step / steps, ay + (by - ay) * step / steps
