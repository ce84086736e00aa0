"""A frontier as a chart: time to relief to the right, on a logarithmic scale; needless kills
upwards; a mark a strategy, with whiskers for its intervals.

1. Strategies of one family that differ in their patience are joined, in its order.
2. The staircase joins those on the frontier: what lies above and to the right of it is beaten.
3. Who brings no relief in the median stands in a strip of its own at the right.
4. Marks that lie on one another have one label together.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10

from memreap import size
from memreap.simulate import labels
from memreap.simulate.drawing import Drawing, Item, Mark, Path, Point, Shape, Text
from memreap.simulate.frontier import Row, Time
from memreap.simulate.strategies import CLAIRVOYANT, FAMILIES
from memreap.simulate.world import HORIZON_S

WIDTH, HEIGHT = 600.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 24.0, 66.0, 44.0
STRIP = 54.0  # for those without relief
NEAR = 9.0  # marks that are nearer than that share a label
KERNEL, BOUND = "kernel", "bound"
FAMILY_ORDER = (KERNEL, *FAMILIES, BOUND)
SHAPES: dict[str, Shape] = {
    "pre-4.14": "triangle",
    "gate-retry": "square",
    "kernel": "diamond",
    "domain": "hexagon",
    BOUND: "star",
}
_SERIES = re.compile(rf"({'|'.join(FAMILIES)})-([\d.]+)", re.ASCII)
X_WORDS = "time from the first stall to relief"
Y_WORDS = "needless kills an incident"


def family(strategy: str) -> str:
    """Whose kind a strategy is."""
    if strategy == CLAIRVOYANT:
        return BOUND
    match = _SERIES.fullmatch(strategy)
    return match[1] if match else strategy if strategy in FAMILIES else KERNEL


def patience_s(strategy: str) -> float:
    """Of one that has it in its name."""
    match = _SERIES.fullmatch(strategy)
    return float(match[2]) if match else 0.0


def shape(strategy: str) -> Shape:
    """Its mark."""
    return SHAPES.get(strategy) or SHAPES.get(family(strategy), "circle")


@dataclass(frozen=True, slots=True)
class Scales:
    """Seconds and kills as pixels."""

    low_s: float
    high_s: float
    top: float
    has_strip: bool

    @property
    def right(self) -> float:
        """Where the seconds end."""
        return WIDTH - RIGHT - (STRIP if self.has_strip else 0)

    def x(self, time_s: float | None) -> float:
        """None: in the strip."""
        if time_s is None:
            return WIDTH - RIGHT - STRIP / 2
        share = log10(max(time_s, self.low_s) / self.low_s) / log10(self.high_s / self.low_s)
        return LEFT + min(1.0, share) * (self.right - LEFT)

    def y(self, kills: float) -> float:
        """What is above the scale is at its top."""
        return HEIGHT - BOTTOM - min(1.0, kills / self.top) * (HEIGHT - BOTTOM - TOP)


def scales(rows: Sequence[Row]) -> Scales:
    """That have room for all."""
    times = [row.relief.median_s for row in rows if row.relief.median_s is not None]
    low_s, high_s = min(times, default=1.0), max(times, default=1.0)
    low_s, high_s = _down(max(1e-4, low_s / 1.15)), _up(high_s * 1.15)
    means = [row.needless.mean for row in rows if row.needless]
    top = max(1.0, max(means, default=0.0) * 1.12)
    return Scales(low_s, high_s, top, any(row.relief.median_s is None for row in rows))


STEPS = (1, 2, 5)


def _down(value: float) -> float:
    power = 10.0 ** floor(log10(value) + 1e-9)
    return power * max(step for step in STEPS if step <= value / power * (1 + 1e-9))


def _up(value: float) -> float:
    power = 10.0 ** floor(log10(value) - 1e-9)
    return power * min(step for step in (*STEPS, 10) if step >= value / power * (1 - 1e-9))


def x_ticks(low_s: float, high_s: float) -> list[float]:
    """Powers of ten, with 2 and 5 between them where there is room."""
    decades = log10(high_s / low_s)
    steps: tuple[int, ...] = STEPS if decades <= 2.4 else (1, 3) if decades <= 3 else (1,)
    powers = range(floor(log10(low_s)), ceil(log10(high_s)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [tick for tick in ticks if low_s * 0.999 <= tick <= high_s * 1.001]


def y_ticks(top: float) -> list[float]:
    """Three to six."""
    step = _up(top / 6)
    return [number * step for number in range(int(top / step + 1e-9) + 1)]


def together(rows: Sequence[Row]) -> Drawing:
    """Of all scenarios' rows, by the mean."""
    by_mean = [replace(row, relief=Time(row.relief_mean_s, None, None)) for row in rows]
    says = f"Each incident counts alike; relief that did not come counts as {HORIZON_S:g} s."
    return chart(by_mean, rows[0].scenario, says, "mean")


def chart(rows: Sequence[Row], title: str, says: str = "", what: str = "median") -> Drawing:
    """Of one scenario's rows."""
    shown = [row for row in rows if row.needless is not None]
    known = scales(shown)
    at = {row.strategy: (known.x(row.relief.median_s), known.y(_mean(row))) for row in shown}
    stairs, joins = _stairs(shown, at, known), _joins(shown, at)
    items: list[Item] = [*_frame(known, what), *_heading(title, says, shown)]
    items += [*stairs, *joins]
    whiskers = [one for row in shown for one in _whiskers(row, at[row.strategy], known)]
    items += whiskers
    above = sorted(shown, key=lambda row: row.on_frontier)  # what is on it hides the others
    items += [_mark(row, at[row.strategy]) for row in above]
    items += _labels(shown, at, [one.points for one in (*stairs, *joins, *whiskers)])
    return Drawing(title, WIDTH, HEIGHT, tuple(items))


def _mean(row: Row) -> float:
    return row.needless.mean if row.needless else 0.0


def _heading(title: str, says: str, rows: Sequence[Row]) -> list[Item]:
    incidents = f"{max((row.incidents for row in rows), default=0)} incidents"
    return [
        Text(LEFT, 18, title, "title"),
        Text(WIDTH - RIGHT, 18, incidents, "tick", "end"),
        Text(LEFT, 35, says, "says"),
    ]


def _frame(known: Scales, what: str) -> list[Item]:
    floor_y, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    items: list[Item] = []
    for tick in x_ticks(known.low_s, known.high_s):
        x = known.x(tick)
        items.append(Path(((x, TOP), (x, floor_y)), "grid"))
        if not known.has_strip or x < known.x(None) - STRIP:  # else the strip's own is there
            items.append(Text(x, floor_y + 15, size.seconds(tick), "tick", "middle"))
    for tick in y_ticks(known.top):
        y = known.y(tick)
        items.append(Path(((LEFT, y), (right, y)), "grid"))
        items.append(Text(LEFT - 6, y + 4, f"{tick:g}", "tick", "end"))
    if known.has_strip:
        items.append(Path(((known.right, TOP), (known.right, floor_y)), "axis"))
        none = f"none in {HORIZON_S:g} s"
        items.append(Text(known.x(None), floor_y + 15, none, "tick", "middle"))
    items.append(Path(((LEFT, TOP), (LEFT, floor_y), (right, floor_y)), "axis"))
    items.append(Text(right, HEIGHT - 8, f"{what} {X_WORDS} \u2192", "words", "end"))
    items.append(Text(LEFT - 36, TOP - 8, f"\u2191 {Y_WORDS}", "words"))
    return items


def _stairs(rows: Sequence[Row], at: dict[str, Point], known: Scales) -> list[Path]:
    best = sorted(at[row.strategy] for row in rows if row.on_frontier)
    if not best:
        return []
    points: list[Point] = [(best[0][0], TOP)]
    for x, y in best:
        points += [(x, points[-1][1]), (x, y)]
    points.append((known.right, points[-1][1]))
    return [Path(tuple(points), "frontier")]


def _joins(rows: Sequence[Row], at: dict[str, Point]) -> list[Path]:
    paths = []
    for name in FAMILIES:
        mine = [
            row.strategy
            for row in rows
            if family(row.strategy) == name and row.relief.median_s is not None
        ]
        mine.sort(key=patience_s)
        if len(mine) > 1:
            paths.append(Path(tuple(at[one] for one in mine), "join", name))
    return paths


def _whiskers(row: Row, at: Point, known: Scales) -> list[Path]:
    (x, y), whose = at, family(row.strategy)
    items: list[Path] = []
    if row.needless:
        up, down = known.y(row.needless.high), known.y(row.needless.low)
        items.append(Path(((x, up), (x, down)), "whisker", whose))
    if row.relief.median_s is not None and row.relief.low_s is not None:
        high_s = row.relief.high_s
        right = known.right if high_s is None else min(known.right, known.x(high_s))
        items.append(Path(((known.x(row.relief.low_s), y), (right, y)), "whisker", whose))
    return items


def _mark(row: Row, at: Point) -> Mark:
    return Mark(at[0], at[1], shape(row.strategy), family(row.strategy), row.on_frontier, _tip(row))


def _tip(row: Row) -> str:
    relief = row.relief.median_s
    when = f"none in {HORIZON_S:g} s" if relief is None else size.seconds(relief)
    return f"{row.strategy}: relief {when}, {_mean(row):.3g} needless"


def _labels(
    rows: Sequence[Row], at: dict[str, Point], lines: Sequence[tuple[Point, ...]]
) -> list[Item]:
    clusters = _clusters(rows, at)
    named = [(_middle(at, names), _names(names, rows)) for names in clusters]
    texts = [(middle, [text for text, _ in names]) for middle, names in named]
    frame = labels.Box(LEFT + 2, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM - 2)
    items: list[Item] = []
    for (middle, names), place in zip(
        named, labels.placed(texts, list(at.values()), lines, frame), strict=True
    ):
        box = place.box
        if place.is_far:
            items.append(Path((middle, _nearest(box, middle)), "leader"))
        is_left = (box.left + box.right) / 2 < middle[0] - 4
        for number, (text, whose) in enumerate(names):
            y = box.top + labels.LINE * (number + 1) - 3
            if is_left:
                items.append(Text(box.right, y, text, "label", "end", whose))
            else:
                items.append(Text(box.left, y, text, "label", "start", whose))
    return items


def _nearest(box: labels.Box, to: Point) -> Point:
    x, y = to
    return min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)


def _clusters(rows: Sequence[Row], at: dict[str, Point]) -> list[list[str]]:
    clusters: list[list[str]] = []
    for row in rows:
        x, y = at[row.strategy]
        for names in clusters:
            mx, my = _middle(at, names)
            if (mx - x) ** 2 + (my - y) ** 2 <= NEAR**2:
                names.append(row.strategy)
                break
        else:
            clusters.append([row.strategy])
    return clusters


def _middle(at: dict[str, Point], names: Sequence[str]) -> Point:
    return (
        sum(at[one][0] for one in names) / len(names),
        sum(at[one][1] for one in names) / len(names),
    )


def _names(names: Iterable[str], rows: Sequence[Row]) -> list[tuple[str, str]]:
    """A line a family, with its name."""
    told = []
    for whose in FAMILY_ORDER:
        mine = sorted((one for one in names if family(one) == whose), key=patience_s)
        if not mine:
            continue
        if whose not in FAMILIES:
            told.append((", ".join(mine), whose))
            continue
        every = sorted((r.strategy for r in rows if family(r.strategy) == whose), key=patience_s)
        told.append((f"{whose} {_patiences(mine, every)}", whose))
    return told


def _patiences(mine: Sequence[str], every: Sequence[str]) -> str:
    """0.1-2 where none is missing between them, 0.1, 2 otherwise."""
    first = every.index(mine[0])
    figures = [f"{patience_s(one):g}" for one in mine]
    if len(mine) > 2 and list(every[first : first + len(mine)]) == list(mine):
        return f"{figures[0]}\u2013{figures[-1]} s"
    return f"{', '.join(figures)} s"
