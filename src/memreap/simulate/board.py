"""Tables of ``memreap simulate``: the frontier, what there is to choose from, and its progress.

Where it is printed is handed in: this room does not know what people see.
"""

from collections.abc import Sequence

from memreap import size
from memreap.printing import Column, Paper
from memreap.simulate import scenario
from memreap.simulate.frontier import Rate, Row, Time
from memreap.simulate.strategies import STRATEGIES
from memreap.simulate.trial import NEEDLESS_S
from memreap.simulate.world import HORIZON_S

COLUMNS: tuple[Column, ...] = (
    ("", False),
    ("strategy", False),
    ("relief", True),
    ("95 %", True),
    ("mean", True),
    ("none", True),
    ("needless", True),
    ("95 %", True),
    ("strictly", True),
    ("leniently", True),
    ("killed", True),
)
LEGEND = (
    "*: on the frontier. relief: median time from the first stall until nobody stalls any more.",
    f"mean: of the same, none within {HORIZON_S:g} s counted as that; none: how often none came.",
    f"needless: kills an incident without which relief would have come within {NEEDLESS_S:g} s all",
    "the same; strictly: memory of an earlier victim was on its way; leniently: none was back yet.",
)


def cells(row: Row) -> list[str]:
    """A row of COLUMNS."""
    return [
        "*" if row.on_frontier else "",
        row.strategy,
        median(row.relief),
        between(row.relief),
        size.seconds(row.relief_mean_s),
        _percent(row.unrelieved),
        _rate(row.needless),
        _interval(row.needless),
        _rate(row.needless_strict),
        _rate(row.needless_lenient),
        _rate(row.kills),
    ]


def median(time: Time) -> str:
    """In words where there is none."""
    return "none" if time.median_s is None else size.seconds(time.median_s)


def between(time: Time) -> str:
    """Its interval; open above where relief may not come."""
    if time.low_s is None:
        return "-"
    high = "none" if time.high_s is None else size.seconds(time.high_s)
    return f"{size.seconds(time.low_s)} to {high}"


def _percent(share: Rate | None) -> str:
    return "-" if share is None else f"{100 * share.mean:.3g} %" if share.mean else ""


def _rate(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.mean:.2f}"


def _interval(rate: Rate | None) -> str:
    return "-" if rate is None else f"{rate.low:.2f} to {rate.high:.2f}"


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """By scenario."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.scenario, []).append(row)
    return groups


def counted(rows: Sequence[Row]) -> str:
    """Of how many trials."""
    trials, incidents = max(r.trials for r in rows), max(r.incidents for r in rows)
    least = min(row.trials for row in rows)
    told = f"{trials} trials each" if least == trials else f"{least} to {trials} trials each"
    without = trials - incidents
    return f"{told}, {without} of them without an incident" if without else told


def show(rows: Sequence[Row], together: Sequence[Row], says: dict[str, str], paper: Paper) -> None:
    """A table a scenario, and one of all."""
    for name, group in grouped(rows).items():
        paper.out(f"{name}: {says[name]}")
        paper.out(f"{counted(group)}")
        paper.show(COLUMNS, [cells(row) for row in group])
        if group[0].nodes:
            paper.out()
            paper.show(node_columns(group), [node_cells(row) for row in group])
        paper.out()
    if len(says) > 1:
        paper.out(f"{together[0].scenario}; *: on the frontier by the mean")
        paper.out(counted(together))
        paper.show(TOGETHER_COLUMNS, [together_cells(row) for row in together])
        paper.out()
    for line in LEGEND:
        paper.out(line)


TOGETHER_COLUMNS: tuple[Column, ...] = (
    ("", False),
    ("strategy", False),
    ("mean", True),
    ("none", True),
    ("needless", True),
    ("95 %", True),
    ("strictly", True),
    ("leniently", True),
    ("killed", True),
)


def together_cells(row: Row) -> list[str]:
    """A row of them: the same without the median."""
    star, name, _, _, *rest = cells(row)
    return [star, name, *rest]


def node_columns(rows: Sequence[Row]) -> list[Column]:
    """The relief of each node."""
    columns: list[Column] = [("strategy", False)]
    for node in rows[0].nodes:
        columns += [(node.node, True), ("95 %", True), ("mean", True)]
    return columns


def node_cells(row: Row) -> list[str]:
    """A row of them."""
    told = [row.strategy]
    for node in row.nodes:
        told += [median(node.relief), between(node.relief), size.seconds(node.relief_mean_s)]
    return told


def show_names(paper: Paper, *, as_json: bool) -> None:
    """Everything that can be named."""
    says = {name: scenario.load(name).says for name in scenario.names()}
    if as_json:
        for name, text in says.items():
            paper.dump({"scenario": name, "says": text})
        for one in STRATEGIES.values():
            paper.dump({"strategy": one.name, "says": one.says})
        return
    paper.out("SCENARIOS")
    width = max(map(len, says))
    for name, text in says.items():
        paper.out(f"{name:<{width}}  {text}")
    paper.out()
    paper.out("STRATEGIES; patience, domain and guard with any number of seconds")
    width = max(map(len, STRATEGIES))
    for one in STRATEGIES.values():
        paper.out(f"{one.name:<{width}}  {one.says}")
