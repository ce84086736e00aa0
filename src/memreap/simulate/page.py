"""The frontiers as one HTML page that needs nothing else: no server, no network, no script.

Only what goes into the page lives here; ``page.html`` and ``page.css`` are how it looks, ``chart``
and ``svg`` draw. Whatever a user named is escaped where it becomes markup.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

from memreap import __version__
from memreap.printing import Column
from memreap.simulate import board, chart
from memreap.simulate.chart import BOUND, KERNEL, family, shape
from memreap.simulate.costs import Costs
from memreap.simulate.frontier import Row
from memreap.simulate.strategies import STRATEGIES
from memreap.simulate.svg import svg, symbol
from memreap.simulate.world import HORIZON_S

FAMILY_SAYS = {
    "patience": "the next one after so many seconds, whatever came back",
    "domain": "the same, one at a time for each NUMA node",
    "guard": "memreap guard: after so many seconds without progress",
    BOUND: "knows what is to come; no strategy",
}


def page(
    rows: Sequence[Row], together: Sequence[Row], says: Mapping[str, str], costs: Costs
) -> str:
    """The page. ``says``: of each scenario, its line."""
    style = _file("page.css")
    policy = f"default-src 'none'; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    groups = board.grouped(rows)
    cards = [_card(name, group, says[name]) for name, group in groups.items()]
    if len(groups) > 1:
        cards.insert(0, _together(together))
    return Template(_file("page.html")).substitute(
        policy=policy,
        style=style,
        facts=_facts(rows, groups, costs),
        legend=_legend(rows),
        cards="\n".join(cards),
        horizon=f"{HORIZON_S:g}",
    )


def _facts(rows: Sequence[Row], groups: Mapping[str, Sequence[Row]], costs: Costs) -> str:
    strategies = len({row.strategy for row in rows})
    trials = sum(row.trials for row in rows)
    return (
        f"<b>{len(groups)}</b> scenarios, <b>{strategies}</b> strategies, <b>{trials:,}</b> trials."
        f" Costs of {escape(costs.machine)}, Linux {escape(costs.kernel)}:"
        f" {escape(costs.source)}. memreap {__version__}."
    )


def _legend(rows: Sequence[Row]) -> str:
    """A line a strategy of the kernel's, one a family of the others."""
    entries: dict[str, str] = {}
    for row in rows:
        whose = family(row.strategy)
        name = row.strategy if whose == KERNEL else whose
        if name not in entries:
            what = STRATEGIES[name].says if whose == KERNEL else FAMILY_SAYS[whose]
            mark = symbol(shape(row.strategy), whose, is_filled=True)
            entries[name] = f"<li>{mark}<b>{escape(name)}</b> <span>{escape(what)}</span></li>"
    return "".join(entries.values())


def _together(rows: Sequence[Row]) -> str:
    told = [(board.together_cells(row), row.on_frontier) for row in rows]
    return _section(svg(chart.together(rows)), rows, [_table(board.TOGETHER_COLUMNS, told)])


def _card(name: str, rows: Sequence[Row], says: str) -> str:
    tables = [_table(board.COLUMNS, [(board.cells(row), row.on_frontier) for row in rows])]
    if rows[0].nodes:
        nodes = [(board.node_cells(row), False) for row in rows]
        tables.append(_table(board.node_columns(rows), nodes))
    return _section(svg(chart.chart(rows, name, says)), rows, tables)


def _section(drawn: str, rows: Sequence[Row], tables: Sequence[str]) -> str:
    return (
        f'<section class="card">{drawn}'
        f"<details><summary>In figures: {escape(board.counted(rows))}</summary>"
        f"{''.join(tables)}</details></section>"
    )


def _table(columns: Sequence[Column], rows: Sequence[tuple[Sequence[str], bool]]) -> str:
    heads = "".join(f"<th{_name(is_number)}>{escape(one)}</th>" for one, is_number in columns)
    body = ""
    for cells, is_on in rows:
        told = "".join(
            f"<td{_name(is_number)}>{escape(cell)}</td>"
            for cell, (_, is_number) in zip(cells, columns, strict=True)
        )
        body += f"<tr{' class=on' if is_on else ''}>{told}</tr>"
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _name(is_number: bool) -> str:
    return "" if is_number else ' class="name"'


def _file(name: str) -> str:
    return files("memreap.simulate").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
