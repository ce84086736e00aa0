"""Outcomes for those who look (a table) and those who script (JSON, an object a line).

Only how things are shown lives here. rich is imported when there is something to show, after the
kill: it costs as long as the kill itself.
"""

import errno
import io
import json
import os
import sys
from dataclasses import dataclass

from memreap import size
from memreap.linux.procfs import printable
from memreap.reap.outcome import Outcome
from memreap.size import seconds

COMMAND_MAX = 160  # characters of it in a table
_STYLE = {"exited": "green", "reaped": "green", "stuck": "bold red", "refused": "yellow"}


@dataclass(frozen=True, slots=True)
class Intent:
    """Who would be killed, were it no dry run."""

    pid: int
    comm: str
    held_bytes: int  # resident and swapped out
    command: str | None  # None: it cannot be read, or hangs
    sharers: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """As a victim's end would be told, with an outcome that none has, and what it holds."""
        told = Outcome(self.pid, self.comm, "refused", "dry run", sharers=self.sharers).as_dict()
        held = {"held_bytes": self.held_bytes, "command": self.command}
        return told | {"outcome": "would be killed"} | held


class Printer:
    """Takes outcomes as they come: JSON goes out at once, the table at the end."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        """``quiet``: nothing is printed but errors."""
        self._as_json, self._quiet = as_json, quiet
        self._rows: list[Outcome] = []
        self._intents: list[Intent] = []
        self._progressed = False
        self._error: OSError | None = None

    def outcome(self, outcome: Outcome) -> None:
        """One victim's end."""
        if self._as_json:
            self._dump(outcome.as_dict())
        else:
            self._rows.append(outcome)

    def intent(self, intent: Intent) -> None:
        """One who would have been a victim."""
        if self._as_json:
            self._dump(intent.as_dict())
        else:
            self._intents.append(intent)

    def _dump(self, fields: dict[str, object]) -> None:
        if self._quiet or self._error:
            return
        try:
            print(json.dumps(fields), flush=True)
        except OSError as error:  # the kill goes on
            self._error = error

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
            if self._intents and not self._quiet:
                _print_intents(self._intents)
            if self._rows and not self._quiet:
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


def _print_intents(intents: list[Intent]) -> None:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("PID", justify="right")
    table.add_column("NAME")
    table.add_column("HOLDS", justify="right")
    table.add_column("WOULD BE KILLED", overflow="fold")
    for one in intents:
        shown = "(its command line cannot be read)" if one.command is None else one.command
        more = "..." if len(shown) > COMMAND_MAX else ""
        table.add_row(
            str(one.pid),
            Text(printable(one.comm)),
            size.show(one.held_bytes),
            Text(printable(shown[:COMMAND_MAX]) + more + _with(one.sharers)),
        )
    _print(table)


def _print_table(rows: list[Outcome]) -> None:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

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
            Text(row.outcome, _STYLE[row.outcome]),
            size.show(row.released_bytes) if row.released_bytes else "-",
            seconds(row.seconds_to_release),
            seconds(row.seconds_to_exit),
            Text(printable(row.reason) + _with(row.sharers)),
        )
    _print(table)


def _print(table: object) -> None:
    from rich.console import Console  # noqa: PLC0415

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = 1000  # a pipe has no width: do not fold what a script may grep
    console.print(table)


def _with(sharers: tuple[int, ...]) -> str:
    return f" (with pid {', '.join(map(str, sharers))}, same memory)" if sharers else ""
