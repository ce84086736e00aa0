"""Outcomes for those who look (a table) and those who script (JSON, an object a line).

Only how things are shown lives here. rich is imported when there is something to show, after the
kill: it costs as long as the kill itself.
"""

import json
import sys

from memreap import size
from memreap.linux.procfs import printable
from memreap.reap.outcome import Outcome
from memreap.size import seconds

_STYLE = {"exited": "green", "reaped": "green", "stuck": "bold red", "refused": "yellow"}


class Printer:
    """Takes outcomes as they come: JSON goes out at once, the table at the end."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        """``quiet``: nothing is printed but errors."""
        self._as_json, self._quiet = as_json, quiet
        self._rows: list[Outcome] = []
        self._progressed = False

    def outcome(self, outcome: Outcome) -> None:
        """One victim's end."""
        if self._quiet:
            return
        if self._as_json:
            print(json.dumps(outcome.as_dict()), flush=True)
        else:
            self._rows.append(outcome)

    def progress(self, pids: list[int]) -> None:
        """Whom we wait for; said once, where somebody looks."""
        if self._progressed or self._quiet or not sys.stderr.isatty():
            return
        self._progressed = True
        named = ", ".join(map(str, pids[:5])) + (" ..." if len(pids) > 5 else "")
        print(f"memreap: killed; waiting for the end of {named}", file=sys.stderr)

    def end(self) -> None:
        """The table, where there is anything to tell."""
        if self._rows:
            _print_table(self._rows)


def _print_table(rows: list[Outcome]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("PID", justify="right")
    table.add_column("NAME")
    table.add_column("OUTCOME")
    for heading in ("RELEASED", "TO RELEASE", "TO EXIT"):
        table.add_column(heading, justify="right")
    table.add_column("WHY", overflow="fold")
    for row in rows:
        table.add_row(
            str(row.pid),
            _escape(row.comm),
            f"[{_STYLE[row.outcome]}]{row.outcome}[/]",
            size.show(row.released_bytes) if row.released_bytes else "-",
            seconds(row.seconds_to_release),
            seconds(row.seconds_to_exit),
            _escape(_why(row)),
        )
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe has no width: do not fold what a script may grep
    console.print(table)


def _why(row: Outcome) -> str:
    others = f" (with pid {', '.join(map(str, row.sharers))}, same memory)" if row.sharers else ""
    return row.reason + others


def _escape(name: str) -> str:
    """A stranger's string: no control characters, no markup."""
    return printable(name).replace("[", r"\[")
