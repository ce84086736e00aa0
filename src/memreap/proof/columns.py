"""A counterexample on the terminal: a task a column, downward the time.

Only how one run looks lives here. A person gets a table, or, where there is no room for a column a
task, a list; a pipe gets a line a step.
"""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from memreap.check.counterexample import Change, Counterexample, Step
from memreap.linux.procfs import printable
from memreap.telling.paper import console, is_seen, out

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

NARROWEST = 24  # of a task's column: most calls and most changes fit into a line, or two
GAP = 3  # between two columns
STEP_WIDTH = 4
COLOURS = ("cyan", "magenta", "blue", "green", "bright_cyan", "bright_magenta")  # of tasks
FOR_EVER = "and so on for ever:"
# Where a line may be broken: after a comma, a call's bracket, a bar; before a result, a "(was 0)".
_CALL = re.compile(r"(?<=,) |(?<=\w)\(|\|| (?=\(was |-> )")
_BLANK = re.compile(r" (?<!-> )")


def show(design: str, scenario: str, told: Counterexample, says: str) -> None:
    """A run on stdout, as whoever reads it needs it. ``says``: what the property says."""
    if not is_seen():
        for line in lines(design, scenario, told, says):
            out(line)
        return
    show_on(console(), design, scenario, told, says)


def lines(design: str, scenario: str, told: Counterexample, says: str) -> list[str]:
    """The run for a pipe, a line a step; what stands in brackets says what a colour would."""
    rows = [("STEP", "TASK", "OPERATION", "CHANGES")]
    rows += [_row(number, step, before) for number, step, before in _numbered(told)]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    shown = [
        f"{row[0].rjust(widths[0])}  {row[1].ljust(widths[1])}  {row[2].ljust(widths[2])}  {row[3]}"
        for row in rows
    ]
    if told.cycle:
        shown.insert(1 + len(told.steps), FOR_EVER)
    return [
        f"{printable(design)} / {printable(scenario)} / {printable(told.prop)}: {verdict(told)}",
        printable(says),
        "",
        *shown,
        *map(printable, ending(told)),
    ]


def verdict(told: Counterexample) -> str:
    """How long the run is. That none is shorter is known of those that come to an end."""
    if told.cycle:
        goes = "goes" if len(told.cycle) == 1 else "go"
        return (
            f"violated: {_steps(len(told.steps))}, and {len(told.cycle)} that {goes} round for ever"
        )
    if not told.steps:
        return "violated before the first step"
    return f"violated in {_steps(len(told.steps))}; no shorter run breaks it"


def acting(told: Counterexample) -> list[str]:
    """The tasks that take a step, in the order of the model."""
    act = {step.task for step in (*told.steps, *told.cycle)}
    return [task for task in told.tasks if task in act]


def ending(told: Counterexample) -> list[str]:
    """What is to be said below the steps."""
    said = [] if any(step.breaks for step in told.steps) else [told.why]
    said += told.waiting
    named = {line.partition(" waits in ")[0] for line in said}
    idle = [task for task in told.tasks if task not in named.union(acting(told))]
    if idle:
        verb = "takes" if len(idle) == 1 else "take"
        said.append(f"{', '.join(idle)} {verb} no step")
    return said


def _steps(number: int) -> str:
    return f"{number} step" if number == 1 else f"{number} steps"


def _numbered(told: Counterexample) -> Iterator[tuple[int, Step, Step | None]]:
    """Each step, its number, and the one before it."""
    before = None
    for number, step in enumerate((*told.steps, *told.cycle), 1):
        yield number, step, before
        before = step


def _row(number: int, step: Step, before: Step | None) -> tuple[str, str, str, str]:
    told = ["; ".join(_change(change) for change in step.changes) or "-"]
    if step.preempts and before:
        told.append(f"[preempts {before.task}]")
    if step.breaks:
        told.append(f"[breaks it: {step.breaks}]")
    operation, task = printable(step.operation), printable(step.task)
    if step.result is not None:
        operation = f"{operation} -> {printable(step.result)}"
    return str(number), task, operation, printable("  ".join(told))


def _change(change: Change) -> str:
    return f"{change.variable} = {change.now} (was {change.was})"


def show_on(screen: "Console", design: str, scenario: str, told: Counterexample, says: str) -> None:
    """The run for a person."""
    from rich.text import Text  # noqa: PLC0415

    screen.print(
        Text.assemble(
            (printable(design), "bold"),
            f" / {printable(scenario)} / ",
            (printable(told.prop), "bold"),
            ": ",
            (verdict(told), "bold red"),
        )
    )
    screen.print(Text(printable(says), "dim"))
    for table in _tables(told, screen.width):
        screen.print(table)
    for number, line in enumerate(ending(told)):
        is_why = number == 0 and line == told.why
        screen.print(Text(printable(line), "bold red" if is_why else ""))


def _tables(told: Counterexample, width: int) -> Iterator["Table | Text"]:
    """The steps, and those that go round."""
    from rich.text import Text  # noqa: PLC0415

    tasks = acting(told)
    fits = width >= STEP_WIDTH + len(tasks) * (GAP + NARROWEST)
    headings = [("", ""), *((task, _colour(told, task)) for task in tasks)]
    if not fits:
        headings = [("", ""), ("TASK", ""), ("OPERATION", ""), ("CHANGES", "")]
    rows = []
    for number, step, before in _numbered(told):
        cells = _across(told, tasks, step, before) if fits else _listed(told, step, before)
        rows.append([[Text(str(number), "bold red" if step.breaks else "dim")], *cells])
    widths = _fit(
        [
            max(len(headings[column][0]), *(len(line) for row in rows for line in row[column]), 1)
            for column in range(len(headings))
        ],
        width - GAP * (len(headings) - 1),
    )
    parts = len(told.steps)
    if told.steps:
        yield _table(headings, widths, rows[:parts])
    if told.cycle:
        yield Text(FOR_EVER, "bold yellow")
        yield _table([] if told.steps else headings, widths, rows[parts:])


Cell = list["Text"]  # lines


def _across(
    told: Counterexample, tasks: Sequence[str], step: Step, before: Step | None
) -> Iterator[Cell]:
    """A row of the table: a cell a task."""
    from rich.text import Text  # noqa: PLC0415

    for task in tasks:
        if task == step.task:
            cell = [_operation(step, _colour(told, task))]
            cell += [Text("  ").append_text(_styled(change)) for change in step.changes]
            if step.breaks:
                cell.append(Text(printable(step.breaks), "bold red"))
            yield cell
        elif step.preempts and before and task == before.task:
            yield [Text("- - interrupted - -", "yellow")]
        else:
            yield []


def _listed(told: Counterexample, step: Step, before: Step | None) -> Iterator[Cell]:
    """A row of the list: task, operation, changes."""
    from rich.text import Text  # noqa: PLC0415

    yield [Text(printable(step.task), _colour(told, step.task))]
    operation = [_operation(step, _colour(told, step.task))]
    if step.preempts and before:
        operation.insert(0, Text(f"- - {printable(before.task)} is interrupted", "yellow"))
    if step.breaks:
        operation.append(Text(printable(step.breaks), "bold red"))
    yield operation
    yield [_styled(change) for change in step.changes]


def _colour(told: Counterexample, task: str) -> str:
    return COLOURS[acting(told).index(task) % len(COLOURS)]


def _operation(step: Step, colour: str) -> "Text":
    from rich.text import Text  # noqa: PLC0415

    shown = Text(printable(step.operation), "bold red" if step.breaks else colour)
    if step.result is not None:
        shown.append(f" -> {printable(step.result)}", "bold")
    return shown


def _styled(change: Change) -> "Text":
    from rich.text import Text  # noqa: PLC0415

    return Text.assemble(
        f"{printable(change.variable)} = ",
        (printable(change.now), "bold"),
        (f" (was {printable(change.was)})", "dim"),
    )


def _fit(natural: Sequence[int], room: int) -> list[int]:
    """Widths of columns: the widest ones give way, all to the same width."""
    most = max(natural)
    while most > 1 and sum(min(width, most) for width in natural) > room:
        most -= 1
    return [min(width, most) for width in natural]


def _table(
    headings: Sequence[tuple[str, str]], widths: Sequence[int], rows: Sequence[Sequence[Cell]]
) -> "Table":
    from rich import box  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.MINIMAL, pad_edge=False, show_edge=False, show_header=bool(headings))
    for number, width in enumerate(widths):
        heading, colour = headings[number] if headings else ("", "")
        table.add_column(
            Text(printable(heading), f"bold {colour}"),
            width=width,
            justify="right" if number == 0 else "left",
        )
    for row in rows:
        table.add_row(*(_folded(cell, width) for cell, width in zip(row, widths, strict=True)))
    return table


def _folded(cell: Cell, width: int) -> "Text":
    """The lines of a cell, none wider than its column; what goes on is indented."""
    from rich.text import Text  # noqa: PLC0415

    shown = []
    for line in cell:
        deep = len(line.plain) - len(line.plain.lstrip()) + 2
        for number, part in enumerate(line.divide(breaks(line.plain, width, deep))):
            part.rstrip()
            shown.append(Text(" " * deep if number else "").append_text(part))
    return Text("\n").join(shown)


def breaks(text: str, width: int, indent: int = 0) -> list[int]:
    """Where to break a line, by what it says; at a blank only where it says nothing."""
    found: list[int] = []
    start, room = 0, width
    while len(text) - start > room:
        start = next(filter(None, (_last(kind, text, start, room) for kind in (_CALL, _BLANK))), 0)
        if not start:
            start = (found[-1] if found else 0) + room
        found.append(start)
        room = max(width - indent, 1)
    return found


def _last(kind: re.Pattern[str], text: str, start: int, room: int) -> int:
    """The last place to break at; 0 where none fits."""
    first = start + len(text[start:]) - len(text[start:].lstrip())
    ends = (match.end() for match in kind.finditer(text, first))
    return max((end for end in ends if len(text[start:end].rstrip()) <= room), default=0)
