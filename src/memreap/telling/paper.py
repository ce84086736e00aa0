"""Where a command writes: a table for those who look, plain lines for those who script.

Only how things are put on stdout lives here. rich is imported when a person is looking.
"""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from memreap.linux.procfs import printable
from memreap.printing import Column

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

EXIT_OK, EXIT_NO_GUARD, EXIT_NO_DATABASE = 0, 3, 4
EXIT_INTERRUPTED = 130


def is_seen() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def out(text: str = "") -> None:
    """One line on stdout, whatever it holds."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    print(text)


def err(text: str) -> None:
    """One line on stderr."""
    print(f"memreap: {printable(text)}", file=sys.stderr)


def finish(code: int) -> int:
    """What is still in the buffer goes out; a reader that has gone is no error of ours."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def table(columns: Iterable[Column], rows: Iterable[Sequence[str]]) -> "Table":
    """A rich table; strings are strings, never markup."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading, is_number in columns:
        shown.add_column(heading.upper(), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    return shown


def console() -> "Console":
    """Where a person looks."""
    from rich.console import Console  # noqa: PLC0415

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return Console(highlight=False, emoji=False, markup=False)


def show(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Rows as a table for a person, as aligned lines for a pipe."""
    if is_seen():
        console().print(table(columns, rows))
        return
    for line in aligned(columns, rows):
        out(line)


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """A heading and rows as lines in columns."""
    cells = [[heading.upper() for heading, _ in columns]]
    cells += [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, (_, is_number) in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in cells
    ]


def fold(text: str, width: int = 88, indent: str = "") -> list[str]:
    """Prose in lines; words that are too long stay whole."""
    import textwrap  # noqa: PLC0415

    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False
    )


def dump(value: Any) -> None:
    """One JSON value on a line."""
    import json  # noqa: PLC0415

    out(json.dumps(value))
