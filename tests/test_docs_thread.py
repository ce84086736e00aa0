"""docs/thread.md and docs/check.md say what the model says. Run this file to write it in anew."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from memreap.mm.argument import CLAIMS
from memreap.proof import board
from memreap.proof.claims import judge, lockings

DOCS = Path(__file__).parents[1] / "docs"
THREAD, CHECK = DOCS / "thread.md", DOCS / "check.md"
EXAMPLE = DOCS / "examples" / "my_design.py"
# A mark, and the block below it, if it is there yet.
BLOCK = r"<!-- {} -->\n(?:\n```\w*\n(.*?)```\n)?"


def claim_block(name: str) -> str:
    return "".join(f"{line.strip()}\n" for line in board.findings(judge(name)))


def locking_block() -> str:
    return "".join(f"{line}\n" for line in board.locking_lines(list(lockings())))


def block(file: Path, mark: str) -> str:
    found = re.search(BLOCK.format(re.escape(mark)), file.read_text(), re.DOTALL)
    assert found, f"no {mark!r} in {file.name}"
    return found[1] or ""


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_is_quoted_as_it_came_out(name: str) -> None:
    assert block(THREAD, f"claim {name}") == claim_block(name)


def test_every_claim_has_its_place_in_the_order_of_the_table() -> None:
    assert re.findall(r"<!-- claim ([\w-]+) -->", THREAD.read_text()) == list(CLAIMS)


def test_the_locks_are_counted_as_they_are() -> None:
    assert block(THREAD, "lockings") == locking_block()


def test_the_example_is_the_one_that_runs() -> None:
    assert block(CHECK, "example") == EXAMPLE.read_text()


def test_what_the_pages_tell_to_run_is_there() -> None:
    """Every ``memreap check`` line of the two pages is one that the command takes."""
    from memreap.proof.bring import subjects

    known = subjects(str(EXAMPLE))
    text = THREAD.read_text() + CHECK.read_text()
    lines = re.findall(r"memreap check ([^`\n#]*)", text)
    assert len(lines) > 12
    names = {*known.designs, "DESIGN"}
    for line in lines:
        words = line.replace("docs/examples/", "").split()
        for option, there in (("--property", known.properties), ("--scenario", known.scenarios)):
            for at in (i for i, word in enumerate(words) if word == option):
                assert words[at + 1] in there, line
        takes = {"--property", "--scenario", "--from", "--html"}
        free = [w for i, w in enumerate(words) if w[0] != "-" and words[i - 1] not in takes]
        assert set(free) <= names or "prints" in free, line


def write(file: Path, mark: str, make: Callable[[], str], language: str = "") -> None:
    text = f"<!-- {mark} -->\n\n```{language}\n{make()}```\n"
    pattern = BLOCK.format(re.escape(mark))
    file.write_text(re.sub(pattern, lambda _: text, file.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    for claim in CLAIMS:
        write(THREAD, f"claim {claim}", lambda claim=claim: claim_block(claim))  # type: ignore[misc]
    write(THREAD, "lockings", locking_block)
    write(CHECK, "example", EXAMPLE.read_text, "python")
