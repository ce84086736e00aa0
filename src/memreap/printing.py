"""What a room is handed that prints: where its lines and tables go, and a bar for those who look.

Only that lives here. ``telling.paper`` is such a paper; a room that may not know what people see
takes any other as well.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

Column = tuple[str, bool]  # heading, and whether it is a number's


class Paper(Protocol):
    """Where lines, tables and JSON go."""

    def out(self, text: str = "") -> None:
        """A line on stdout."""

    def err(self, text: str) -> None:
        """A line on stderr."""

    def dump(self, value: Any) -> None:
        """One JSON value on a line."""

    def show(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """A table, or aligned lines."""

    def finish(self, code: int) -> int:
        """What is in the buffer goes out."""


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Callable[[int], object]]:
    """A bar on stderr, where somebody looks. Yields what moves it on by so many."""
    if not sys.stderr.isatty():
        yield abs  # nobody to tell
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda more: bar.advance(task, more)
