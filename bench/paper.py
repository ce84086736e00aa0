"""The results as they come out: on the terminal, and as a Markdown page for the docs."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from bench.row import Row

HEADINGS = ("", "against", "theirs", "memreap", "ratio", "promised", "kept")
LEFT = 2  # columns of words, before those of figures


class Paper:
    """Writes each result twice."""

    def __init__(self) -> None:
        """Nothing measured yet."""
        self._console = Console(width=150, highlight=False)
        self._markdown: list[str] = []

    def line(self, text: str) -> None:
        """One sentence or figure."""
        self._console.print(text, markup=False)
        self._markdown += [text, ""]

    def rows(self, title: str, rows: Iterable[Row]) -> list[dict[str, object]]:
        """A table, printed once it is whole; its records."""
        table = Table(title=title, title_justify="left", box=None)
        for number, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="left" if number < LEFT else "right")
        marks = ["---"] * LEFT + ["---:"] * (len(HEADINGS) - LEFT)
        page = [f"## {title}", "", _markdown_row(HEADINGS), _markdown_row(marks)]
        notes, records = [], []
        for row in rows:
            self._console.print(f"  measured: {row.what} ({row.baseline})", style="dim")
            table.add_row(*row.cells())
            page.append(_markdown_row(row.cells()))
            notes += [f"{row.what}: {row.note}"] if row.note else []
            records.append(row.as_dict())
        self._console.print(table, *notes, "", sep="\n", markup=False)
        self._markdown += [*page, "", *(f"- {note}" for note in notes), ""]
        return records

    def save(self, path: str, head: str) -> None:
        """Write the page. Raises OSError."""
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([head, "", *self._markdown]).rstrip() + "\n")


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
