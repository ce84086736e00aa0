"""How the demo looks: a table that grows live where somebody watches, plain rows elsewhere."""

import io
import re
import sys
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from memreap import size
from memreap.demo.measure import Measurement
from memreap.size import seconds

PENDING = "..."
SVG_WIDTH = 128
_REMOTE_FONT = re.compile(r",\s*url\([^)]*\) format\([^)]*\)")  # a picture asks nobody for a font
WIDE = 118  # columns, from which on there is room for the reasons


@dataclass(slots=True)
class Row:
    """One scene, as far as it is known."""

    name: str
    why: str
    alone: str = ""
    memreap: str = ""


@dataclass(slots=True)
class Board:
    """Every row, and the display they are shown on."""

    limit_s: float
    rows: list[Row] = field(default_factory=list)
    console: Console = field(default_factory=lambda: Console(highlight=False))
    live: Live | None = None

    def __enter__(self) -> "Board":
        """Show it from here on."""
        if self.console.is_terminal:
            self.live = Live(self._table(), console=self.console, auto_refresh=False)
            self.live.__enter__()
        else:
            self.console.width = 140
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType
    ) -> None:
        """Leave the last state standing."""
        if self.live:
            self.live.__exit__(kind, error, trace)
        elif kind is None:
            self.console.print(self._table())

    def show(self) -> None:
        """Draw what is known now."""
        if self.live:
            self.live.update(self._table(), refresh=True)
        else:
            last = self.rows[-1]
            if last.memreap and last.memreap != PENDING:
                print(f"{last.name}: done", file=sys.stderr)

    def save_svg(self, path: str, closing: list[str]) -> None:
        """The same as a picture. Raises OSError."""
        console = Console(record=True, width=SVG_WIDTH, file=io.StringIO(), highlight=False)
        console.print(self._table(wide=True))
        for line in closing:
            console.print(line)
        svg = console.export_svg(title="memreap demo")
        with open(path, "w", encoding="utf-8") as file:
            file.write(_REMOTE_FONT.sub("", svg))

    def _table(self, *, wide: bool = False) -> Table:
        table = Table(title="A process that was killed is not memory that was freed", box=None)
        table.title_justify, table.title_style = "left", "bold"
        table.add_column("VICTIM", no_wrap=True)
        table.add_column("SIGKILL ALONE", justify="right", no_wrap=True)
        table.add_column("MEMREAP", justify="right", no_wrap=True)
        why = wide or self.console.width >= WIDE
        if why:
            table.add_column("BECAUSE ALONE", style="dim", no_wrap=True)
        for row in self.rows:
            cells = [row.name, row.alone, row.memreap, *([row.why] if why else [])]
            table.add_row(*cells)
        return table


def cell(seen: Measurement, limit_s: float) -> str:
    """One measurement in few words: all back and when, or how much was back at the limit."""
    if seen.seconds is not None:
        hangs = "" if seen.seconds_to_exit is not None or seen.outcome is None else ", still hangs"
        hung = hangs if seen.outcome and seen.outcome.outcome == "reaped" else ""
        return f"[green]{size.show(seen.held_bytes)} in {seconds(seen.seconds)}[/]{hung}"
    return f"[red]{seen.share:.0%} after {limit_s:g} s[/]"
