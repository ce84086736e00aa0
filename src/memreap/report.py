"""Outcomes for those who look (a table) and those who script (JSON, an object a line).

Only how things are shown lives here. rich is imported when there is something to show, after the
kill: it costs as long as the kill itself.
"""

import errno
import io
import json
import os
import sys

from memreap import size
from memreap.linux.procfs import printable
from memreap.reap.outcome import Outcome
from memreap.size import seconds

DRY_RUN = "dry run: would be killed"
_STYLE = {"exited": "green", "reaped": "green", "stuck": "bold red", "refused": "yellow"}


class Printer:
    """Takes outcomes as they come: JSON goes out at once, the table at the end."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        """``quiet``: nothing is printed but errors."""
        self._as_json, self._quiet = as_json, quiet
        self._rows: list[Outcome] = []
        self._progressed = False
        self._error: OSError | None = None

    def outcome(self, outcome: Outcome) -> None:
        """One victim's end."""
        if self._quiet or self._error:
            return
        if self._as_json:
            try:
                print(json.dumps(outcome.as_dict()), flush=True)
            except OSError as error:  # the kill goes on
                self._error = error
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
        try:
            if self._rows:
                _print_table(self._rows)
            sys.stdout.flush()
        except OSError as error:
            self._error = error
        except SystemExit:  # rich's answer to a reader who went away; ours is the kill's own code
            self._error = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if self._error:
            print(f"memreap: cannot print the outcome: {self._error.strerror}", file=sys.stderr)
            # What is left in the buffer must not fail once more, at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_table(rows: list[Outcome]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")

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
            Text(printable(row.comm)),
            Text("would be killed" if row.reason == DRY_RUN else row.outcome, _STYLE[row.outcome]),
            size.show(row.released_bytes) if row.released_bytes else "-",
            seconds(row.seconds_to_release),
            seconds(row.seconds_to_exit),
            Text(printable(_why(row))),
        )
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # a pipe has no width: do not fold what a script may grep
    console.print(table)


def _why(row: Outcome) -> str:
    others = f" (with pid {', '.join(map(str, row.sharers))}, same memory)" if row.sharers else ""
    return row.reason + others
