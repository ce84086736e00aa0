"""docs/domain.md shows the table as it is. Run this file to write the picture into it anew."""

from pathlib import Path

from memreap.decide.diagram import diagram

DOCUMENT = Path(__file__).parents[1] / "docs" / "domain.md"
BEGIN, END = "```mermaid\n", "```\n"


def parts(text: str) -> tuple[str, str, str]:
    before, _, rest = text.partition(BEGIN)
    shown, _, after = rest.partition(END)
    return before + BEGIN, shown, END + after


def test_the_document_shows_the_table() -> None:
    _, shown, _ = parts(DOCUMENT.read_text())
    assert shown == diagram(), f"write it anew: python {Path(__file__).name}"


if __name__ == "__main__":
    before, _, after = parts(DOCUMENT.read_text())
    DOCUMENT.write_text(before + diagram() + after)
