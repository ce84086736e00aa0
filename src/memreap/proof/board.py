"""Tables of ``memreap check``: the matrix, one design, claims, bugs, names; and its progress.

A table for those who look, the same in aligned lines for a pipe, JSON for those who script.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from memreap.mm.argument import CLAIMS
from memreap.mm.bugs import BUGS
from memreap.mm.kernel import Kernel
from memreap.printing import Column
from memreap.proof.bring import Subjects
from memreap.proof.bugs import Hunt
from memreap.proof.claims import Judgement, Locking
from memreap.proof.matrix import Answer, Row
from memreap.telling import paper

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")
HOLDS, NOT_ASKED, BOUNDED = "ok", "", "?"
STYLES = {"ok": "green", "?": "yellow"}
BROKEN_STYLE = "bold red"
GAP = 2


def progress(items: Iterable[T], total: int) -> Iterator[T]:
    """The same items; a bar on stderr while they come, where somebody looks."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    console = Console(stderr=True)
    yield from track(items, "exploring", total, console=console, transient=True)


def _cell(rows: Sequence[Row]) -> str:
    """Of one property in several scenarios: all hold, or how many are violated."""
    if not rows:
        return NOT_ASKED
    violated = sum(row.verdict == "violated" for row in rows)
    if violated:
        return f"{violated}/{len(rows)}"
    return BOUNDED if any(row.verdict == "bounded" for row in rows) else HOLDS


def _asked(told: Sequence[Answer], known: Subjects) -> list[str]:
    """The properties that are asked anywhere, in the order of their table."""
    asked = {row.property for one in told for row in one.rows}
    return [prop for prop in known.properties if prop in asked]


def show_matrix(told: Sequence[Answer], known: Subjects) -> None:
    """Designs against properties."""
    props = _asked(told, known)
    rows = []
    for design in dict.fromkeys(one.pair.design for one in told):
        mine = [one for one in told if one.pair.design == design]
        cells = [_cell([r for one in mine for r in one.rows if r.property == p]) for p in props]
        rows.append([design, *cells, *_cost(mine)])
    _show_marks("design", props, rows, known)
    states = sum(one.rows[0].states for one in told if one.rows)
    paper.out()
    paper.out(
        f"{len(told)} explorations, {states:,} states. ok: holds in every scenario that asks;"
    )
    paper.out("n/m: violated in n of m scenarios; ?: not all states were seen. Now one of:")
    paper.out("  memreap check DESIGN                   in which scenarios, and in how many steps")
    paper.out("  memreap check DESIGN --property NAME   a shortest run that breaks it")


def _cost(told: Sequence[Answer]) -> list[str]:
    states = sum(one.rows[0].states for one in told if one.rows)
    seconds = sum(one.rows[0].seconds for one in told if one.rows)
    return [f"{states:,}", f"{seconds:.1f}"]


def show_design(told: Sequence[Answer], known: Subjects) -> None:
    """One design: what it is; scenarios against properties, with steps."""
    design = known.designs[told[0].pair.design]
    for line in about(design):
        paper.out(line)
    paper.out()
    props = _asked(told, known)
    rows = []
    for one in told:
        mine = {row.property: row for row in one.rows}
        cells = [_step_cell(mine.get(prop)) for prop in props]
        rows.append([one.pair.scenario, *cells, *_cost([one])])
    _show_marks("scenario", props, rows, known)
    paper.out()
    paper.out(
        "ok: holds; a number: violated, in so many steps at the least; ?: not all states seen."
    )


def about(design: type[Kernel]) -> list[str]:
    """What a design is, who made it, and in which functions it differs from its base."""
    lines = [f"{design.name} ({design.who}; {design.when})"]
    text = " ".join((design.__doc__ or "").replace("``", "").split())
    lines += paper.fold(text, indent="  ")
    base = design.__bases__[0]
    differs = [name for name, value in vars(design).items() if callable(value)]
    fixes = sorted(design.fixes - getattr(base, "fixes", frozenset()))
    if issubclass(base, Kernel):
        what = ", ".join(differs + fixes) or "nothing but its name"
        lines += paper.fold(f"Differs from {base.name} in: {what}.", indent="  ")
    return lines


def _step_cell(row: Row | None) -> str:
    if row is None:
        return NOT_ASKED
    if row.verdict == "violated":
        return str(row.steps)
    return BOUNDED if row.verdict == "bounded" else HOLDS


def _show_marks(
    what: str, props: Sequence[str], rows: Sequence[Sequence[str]], known: Subjects
) -> None:
    """Marks under numbered headings, told below: the names are too long for columns."""
    headings = [str(number) for number in range(1, len(props) + 1)]
    columns = [(what, False), *((h, True) for h in headings), ("states", True), ("s", True)]
    if paper.is_seen():
        paper.console().print(_coloured(columns, rows))
    else:
        paper.show(columns, rows)
    paper.out()
    width = max(len(prop) for prop in props)
    for heading, prop in zip(headings, props, strict=True):
        paper.out(f"{heading:>3}  {prop:<{width}}  {known.properties[prop].says}")


def _coloured(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.text import Text  # noqa: PLC0415

    table = paper.table(columns, [])
    for row in rows:
        name, *marks = row
        cells = [
            Text(mark, style=STYLES.get(mark, BROKEN_STYLE if mark else "")) for mark in marks[:-2]
        ]
        table.add_row(Text(name, style="bold"), *cells, *marks[-2:])
    return table


def show_names(known: Subjects, *, as_json: bool) -> int:
    """Everything that can be named."""
    if as_json:
        for name, design in known.designs.items():
            paper.dump({"design": name, "who": design.who, "when": design.when})
        for name, scenario in known.scenarios.items():
            cast = list(scenario.cast)
            paper.dump({"scenario": name, "says": scenario.says, "cast": cast})
        for name, prop in known.properties.items():
            paper.dump({"property": name, "says": prop.says})
        return 0
    paper.out("DESIGNS, in the order of time")
    for design in known.designs.values():
        for line in about(design):
            paper.out(line)
    paper.out()
    paper.out("SCENARIOS")
    width = max(map(len, known.scenarios))
    for name, scenario in known.scenarios.items():
        paper.out(f"{name:<{width}}  {scenario.says}")
    paper.out()
    paper.out("PROPERTIES")
    width = max(map(len, known.properties))
    for name, prop in known.properties.items():
        paper.out(f"{name:<{width}}  {prop.says}")
    return 0


def show_claims(judged: Sequence[Judgement], counted: Sequence[Locking], *, as_json: bool) -> None:
    """What the mail claims, and what came out."""
    if as_json:
        for row in [*(one.as_dict() for one in judged), *(one.as_dict() for one in counted)]:
            paper.dump(row)
        return
    for one in judged:
        claim = CLAIMS[one.claim]
        verdict = "came out" if one.stands else "DID NOT COME OUT"
        paper.out(f"{one.claim}  ({claim.who}): {verdict}")
        text = paper.fold(f'"{claim.text}"', indent="  ")
        for line in (*text, *paper.fold(claim.finding, indent="  "), *findings(one)):
            paper.out(line)
        paper.out()
    show_lockings(counted)


def findings(judged: Judgement) -> Iterator[str]:
    """What was found of a claim: a line for each design and scenario."""
    for design, scenario in dict.fromkeys((f.design, f.scenario) for f in judged.findings):
        mine = [f for f in judged.findings if (f.design, f.scenario) == (design, scenario)]
        said = [
            f"{f.property} {f'violated in {f.steps} steps' if f.steps else 'holds'}"
            + ("" if f.found == f.expected else f" (not as claimed: {f.expected})")
            for f in mine
        ]
        yield f"    {design} / {scenario}: {', '.join(said)}; {mine[0].states:,} states"


LOCKING_COLUMNS = (
    ("design", False),
    ("ordinary exit", True),
    ("beside the reaper", True),
    ("and has to wait", True),
    ("of interleavings", True),
)


def _locking_row(one: Locking) -> list[str]:
    shares = [f"{share:.1%}" for share in (one.takes_ordinary, one.takes, one.waits)]
    return [one.design, *shares, f"{one.interleavings:,}"]


def show_lockings(counted: Sequence[Locking]) -> None:
    """How often the lock is taken for writing, and waited for, over all interleavings."""
    paper.out("exit_mmap takes the lock for writing, in how many of all interleavings:")
    paper.show(LOCKING_COLUMNS, [_locking_row(one) for one in counted])


def locking_lines(counted: Sequence[Locking]) -> list[str]:
    """The same as plain lines."""
    return paper.aligned(LOCKING_COLUMNS, [_locking_row(one) for one in counted])


def show_bugs(hunted: Sequence[Hunt], *, as_json: bool) -> None:
    """What was found without each commit, and that it is gone with it."""
    if as_json:
        for one in hunted:
            paper.dump(one.as_dict())
        return
    rows = []
    for one in hunted:
        bug = BUGS[one.commit]
        rows.append(
            [
                bug.cve or one.commit,
                bug.prop,
                bug.scenario.name,
                one.before,
                f"{one.steps} steps" if one.steps else "NOT FOUND",
                one.after,
                f"gone in {one.states_after:,} states" if one.is_gone else "STILL THERE",
            ]
        )
    headings = ("bug", "property", "scenario", "broken", "found in", "mended", "")
    paper.show([(heading, False) for heading in headings], rows)
    paper.out()
    for bug in BUGS.values():
        for line in paper.fold(f"{bug.commit}: {bug.what}"):
            paper.out(line)
