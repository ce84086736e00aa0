"""The results as they come out: on the terminal, and as a Markdown page for the docs."""

from collections.abc import Iterable, Sequence

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

    def figure(
        self, what: str, value: str, target: str, kept: bool, **record: object
    ) -> dict[str, object]:
        """One that something was promised of; its record."""
        self.line(f"{what}: {value} (promised {target}: {'kept' if kept else 'not kept'})")
        return {"what": what, "met": kept, **record}

    def rows(self, title: str, rows: Iterable[Row]) -> list[dict[str, object]]:
        """Two sides, row by row; the records."""
        cells, notes, records = [], [], []
        for row in rows:
            self.progress(f"{row.what} ({row.baseline})")
            cells.append(row.cells())
            notes += [f"{row.what}: {row.note}"] if row.note else []
            records.append(row.as_dict())
        self.table(title, HEADINGS, cells, left=LEFT, notes=notes)
        return records

    def progress(self, what: str) -> None:
        """On the terminal alone: how far it is."""
        self._console.print(f"  measured: {what}", style="dim", markup=False)

    def table(
        self,
        title: str,
        headings: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        left: int = 1,
        notes: Sequence[str] = (),
    ) -> None:
        """``left``: so many columns of words, before those of figures."""
        table = Table(title=title, title_justify="left", box=None)
        for number, heading in enumerate(headings):
            table.add_column(heading, justify="left" if number < left else "right")
        marks = ["---"] * left + ["---:"] * (len(headings) - left)
        page = [f"## {title}", "", _markdown_row(headings), _markdown_row(marks)]
        for row in rows:
            table.add_row(*row)
            page.append(_markdown_row(row))
        self._console.print(table, *notes, "", sep="\n", markup=False)
        self._markdown += [*page, "", *(f"- {note}" for note in notes), ""]

    def save(self, path: str, head: str) -> None:
        """Write the page. Raises OSError."""
        with open(path, "w", encoding="utf-8") as file:
            file.write("\n".join([head, "", *self._markdown]).rstrip() + "\n")


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
