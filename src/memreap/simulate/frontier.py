"""What many trials say: time to relief against needless kills, and who is on the frontier.

Pure functions of results live here; nothing is drawn, and nothing is random.

1. A trial in which nobody stalled has no incident: it is left out, and counted.
2. Relief that did not come within the horizon came later than any that did: the median and its
   interval are order statistics, so they need not know by how much. None: not within the horizon.
3. The interval of a median is the narrowest pair of order statistics, alike on both sides, between
   which it lies with a probability of at least CONFIDENCE, whatever the distribution; fewer than
   six incidents have none.
4. The interval of a rate of kills is a score interval for counts that vary more, or less, than
   Poisson's, by as much as these did. It has a width also where all counts are alike: it is as if
   one incident more had been seen, with one kill more.
5. On the frontier is who relieves, and whom no other one beats: sooner and with no more needless
   kills, or as soon with fewer. What differs by less than ALIKE is alike. The bound that knows what
   is to come is no strategy: it is left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import comb, inf, sqrt
from typing import Any

from memreap.simulate.strategies import CLAIRVOYANT
from memreap.simulate.trial import Result
from memreap.simulate.world import HORIZON_S

CONFIDENCE = 0.95
ALIKE = 0.01
FIRST = "first of them"
Z = 1.959963984540054  # of CONFIDENCE, two-sided


@dataclass(frozen=True, slots=True)
class Time:
    """A median, and its interval. None: not within the horizon; of ``low_s``: there is none."""

    median_s: float | None
    low_s: float | None
    high_s: float | None


@dataclass(frozen=True, slots=True)
class Rate:
    """So many an incident, and its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class NodeRow:
    """Of one NUMA node, or of FIRST: incidents are those in which somebody stalled there."""

    node: str
    incidents: int
    relief: Time
    relief_mean_s: float | None  # as a Row has it


@dataclass(frozen=True, slots=True)
class Row:
    """A strategy in a scenario."""

    scenario: str
    strategy: str
    trials: int
    incidents: int
    relief: Time
    relief_mean_s: float | None  # one that did not come counts as the horizon; None: no incident
    unrelieved: Rate | None  # a share
    needless: Rate | None  # None: no incident
    needless_strict: Rate | None
    needless_lenient: Rate | None
    kills: Rate | None
    nodes: tuple[NodeRow, ...]  # where there are several
    on_frontier: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def has_incident(result: Result) -> bool:
    """Whether anybody stalled."""
    return result.relief_s is None or result.relief_s > 0 or result.stalled_s > 0


def rows(results: Iterable[Result]) -> list[Row]:
    """One for each scenario and strategy, in the order in which they are first met."""
    cells: dict[str, dict[str, list[Result]]] = {}
    for one in results:
        cells.setdefault(one.scenario, {}).setdefault(one.strategy, []).append(one)
    told: list[Row] = []
    for scenario, strategies in cells.items():
        drawn = [_row(scenario, strategy, trials) for strategy, trials in strategies.items()]
        best = frontier([_point(row) for row in drawn])
        told += [replace(row, on_frontier=n in best) for n, row in enumerate(drawn)]
    return told


def together(results: Iterable[Result]) -> list[Row]:
    """One for each strategy over all scenarios, each incident alike; the frontier is by the mean.

    Medians of incidents of many kinds say little: most are over at once, whoever is asked.
    """
    strategies: dict[str, list[Result]] = {}
    scenarios: set[str] = set()
    for one in results:
        strategies.setdefault(one.strategy, []).append(one)
        scenarios.add(one.scenario)
    name = f"{len(scenarios)} scenarios together"
    drawn = [_row(name, strategy, trials) for strategy, trials in strategies.items()]
    best = frontier([_mean_point(row) for row in drawn])
    return [replace(row, on_frontier=n in best, nodes=()) for n, row in enumerate(drawn)]


def _mean_point(row: Row) -> tuple[float, float] | None:
    if row.needless is None or row.relief_mean_s is None or row.strategy == CLAIRVOYANT:
        return None
    return row.relief_mean_s, row.needless.mean


def _row(scenario: str, strategy: str, trials: Sequence[Result]) -> Row:
    incidents = [one for one in trials if has_incident(one)]
    reliefs = [inf if one.relief_s is None else one.relief_s for one in incidents]
    return Row(
        scenario=scenario,
        strategy=strategy,
        trials=len(trials),
        incidents=len(incidents),
        relief=median(reliefs),
        relief_mean_s=_capped_s(reliefs),
        unrelieved=share(sum(one == inf for one in reliefs), len(reliefs)),
        needless=rate([one.needless for one in incidents]),
        needless_strict=rate([one.needless_strict for one in incidents]),
        needless_lenient=rate([one.needless_lenient for one in incidents]),
        kills=rate([one.kills for one in incidents]),
        nodes=_nodes(incidents),
        on_frontier=False,
    )


def _nodes(incidents: Sequence[Result]) -> tuple[NodeRow, ...]:
    names = dict.fromkeys(node.node for one in incidents for node in one.nodes)
    if len(names) < 2:
        return ()
    told = []
    for name in names:
        seen = [node for one in incidents for node in one.nodes if node.node == name]
        reliefs = [inf if node.relief_s is None else node.relief_s for node in seen]
        ran_out = [one for one in reliefs if one > 0]
        told.append(NodeRow(name, len(ran_out), median(ran_out), _capped_s(ran_out)))
    return *told, _first(incidents)


def _first(incidents: Sequence[Result]) -> NodeRow:
    """Of several that ran out, the first to be relieved; the last one is the machine's relief."""
    firsts = []
    for one in incidents:
        ran_out = [inf if n.relief_s is None else n.relief_s for n in one.nodes if n.relief_s != 0]
        if len(ran_out) > 1:
            firsts.append(min(ran_out))
    return NodeRow(FIRST, len(firsts), median(firsts), _capped_s(firsts))


def _point(row: Row) -> tuple[float, float] | None:
    if row.needless is None or row.relief.median_s is None or row.strategy == CLAIRVOYANT:
        return None
    return row.relief.median_s, row.needless.mean


def frontier(points: Sequence[tuple[float, float] | None]) -> set[int]:
    """The numbers of those that no other one beats; None is in no race."""
    there = [(number, one) for number, one in enumerate(points) if one is not None]
    return {number for number, one in there if not any(_beats(other, one) for _, other in there)}


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """As good in one, better in the other. Never in a circle: the product falls each time."""
    (x, y), (a, b) = one, other
    sooner, as_soon = x < a * (1 - ALIKE), x <= a * (1 + ALIKE)
    fewer, as_few = y < b * (1 - ALIKE), y <= b * (1 + ALIKE)
    return (as_soon and fewer) or (sooner and as_few)


def median(values: Sequence[float]) -> Time:
    """Of times of which some are infinite, and its interval."""
    if not values:
        return Time(None, None, None)
    ordered = sorted(values)
    count = len(ordered)
    low, high = ordered[(count - 1) // 2], ordered[count // 2]
    middle = low if low == high else (low + high) / 2
    rank = _rank(count)
    if rank is None:
        return Time(_finite(middle), None, None)
    return Time(_finite(middle), _finite(ordered[rank]), _finite(ordered[count - 1 - rank]))


def _rank(count: int) -> int | None:
    """How many to leave out on each side: the most with which the median is still between."""
    tail, rank = 0.0, None
    for number in range(count // 2):
        tail += comb(count, number) / 2**count
        if 2 * tail > 1 - CONFIDENCE:
            break
        rank = number
    return rank


def rate(counts: Sequence[int]) -> Rate | None:
    """The mean of counts, and its interval; None of none."""
    number = len(counts)
    if not number:
        return None
    mean = _mean(counts)
    variance = sum((one - mean) ** 2 for one in counts) / max(1, number - 1)
    spread = (variance + 1 / number) / (mean + 1 / number)
    z2 = Z * Z * spread / number
    middle, half = mean + z2 / 2, sqrt(z2 * mean + z2 * z2 / 4)
    return Rate(mean, max(0.0, middle - half), middle + half)


def share(part: int, whole: int) -> Rate | None:
    """A part of a whole, and its interval (Wilson's); None of nothing."""
    if not whole:
        return None
    p, z2 = part / whole, Z * Z / whole
    middle = (p + z2 / 2) / (1 + z2)
    half = sqrt(p * (1 - p) * z2 + z2 * z2 / 4) / (1 + z2)
    return Rate(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)))


def _capped_s(reliefs: Sequence[float]) -> float | None:
    return _mean([min(one, HORIZON_S) for one in reliefs]) if reliefs else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _finite(value: float) -> float | None:
    return None if value == inf else value
