"""A counterexample on the terminal, and in a pipe."""

import itertools
from typing import Any

import pytest
from rich.console import Console

from memreap.check.counterexample import Change, Counterexample, Step
from memreap.proof import columns
from memreap.proof.matrix import Pair, answer

UNSET = Change("mm->flags", "MMF_OOM_SKIP|MMF_UNSTABLE", "MMF_UNSTABLE")
LOCK = Change("mm->mmap_lock", "1 reader", "free")


def step(task: str, operation: str, result: str | None = None, **how: object) -> Step:
    told: dict[str, Any] = {"changes": (), "preempts": False, "breaks": None, **how}
    return Step(task, operation, result, **told)


BROKEN = Counterexample(
    "torn-tree",
    "frees areas that somebody walks",
    ("victim", "oom_reaper", "reader", "kworker"),
    (
        step("oom_reaper", "mmap_read_trylock(mm)", "1", changes=(LOCK,)),
        step("reader", "get_task_mm({victim}, mm)", "0"),
        step("victim", "set_bit(MMF_OOM_SKIP, mm)", changes=(UNSET,), preempts=True),
        step("victim", "remove_vmas(mm)", breaks="frees areas that somebody walks"),
    ),
)
ROUND = Counterexample(
    "released",
    "not so: it is released",
    ("victim", "allocator", "oom_reaper"),
    (step("allocator", "mutex_trylock(oom_lock)", "1"),),
    cycle=(step("oom_reaper", "mutex_lock(oom_lock)"), step("allocator", "cond_resched()")),
    waiting=("victim waits in wait_for_completion(mm)",),
)
SAYS = "Nobody walks areas that were torn down."


def shown(told: Counterexample, width: int) -> list[str]:
    screen = Console(width=width, force_terminal=True, color_system=None, highlight=False)
    with screen.capture() as capture:
        columns.show_on(screen, "merged-4.14", "reader", told, SAYS)
    return capture.get().splitlines()


def piped(told: Counterexample) -> list[str]:
    return columns.lines("merged-4.14", "reader", told, SAYS)


def test_a_pipe_gets_a_line_a_step() -> None:
    text = piped(BROKEN)
    assert text[0] == (
        "merged-4.14 / reader / torn-tree: violated in 4 steps; no shorter run breaks it"
    )
    assert text[1] == SAYS
    assert text[3].split() == ["STEP", "TASK", "OPERATION", "CHANGES"]
    rows = [line.split(None, 2) for line in text[4:8]]
    assert [row[:2] for row in rows] == [
        ["1", "oom_reaper"],
        ["2", "reader"],
        ["3", "victim"],
        ["4", "victim"],
    ]
    assert "mmap_read_trylock(mm) -> 1" in text[4]
    assert text[4].endswith("mm->mmap_lock = 1 reader (was free)")
    assert text[5].endswith("  -")
    assert text[6].endswith(
        "mm->flags = MMF_OOM_SKIP|MMF_UNSTABLE (was MMF_UNSTABLE)  [preempts reader]"
    )
    assert text[7].endswith("[breaks it: frees areas that somebody walks]")
    assert text[8:] == ["kworker takes no step"]
    assert all(line.isascii() for line in text)


def test_what_goes_round_stands_apart() -> None:
    text = piped(ROUND)
    assert text[0].endswith("violated: 1 step, and 2 that go round for ever")
    assert text[5] == columns.FOR_EVER
    assert [line.split()[0] for line in (text[4], *text[6:8])] == ["1", "2", "3"]
    assert text[8:] == ["not so: it is released", "victim waits in wait_for_completion(mm)"]


def test_nothing_at_all_is_needed_to_break_it() -> None:
    told = Counterexample("always", "not so", ("victim",), ())
    assert columns.verdict(told) == "violated before the first step"
    assert piped(told)[-2:] == ["not so", "victim takes no step"]
    assert shown(told, 100)[-2:] == ["not so", "victim takes no step"]


def test_a_hostile_name_moves_no_cursor() -> None:
    told = Counterexample("p\x1b[2J", "w\ny", ("t\n",), (step("t\n", "x\x1b]0;", "\r"),))
    text = columns.lines("d\x1b[1A", "s\n", told, "a\x07")
    assert all(line.isprintable() for line in text)
    assert not any(set("\x1b\x07\r") & set(line) for line in shown(told, 80))


@pytest.mark.parametrize("width", [100, 160])
def test_a_person_sees_a_task_a_column(width: int) -> None:
    text = shown(BROKEN, width)
    assert all(len(line) <= width for line in text)
    heads = next(line for line in text if "oom_reaper" in line)
    assert [head.strip() for head in heads.split("│")] == ["", "victim", "oom_reaper", "reader"]
    places = {head: heads.index(head) for head in ("victim", "oom_reaper", "reader")}
    for number, told in enumerate(BROKEN.steps, 1):
        row = next(line for line in text if line.lstrip().startswith(f"{number} "))
        assert row.index(told.operation.partition("(")[0]) == places[told.task]
    interrupted = next(line for line in text if "interrupted" in line)
    assert interrupted.index("- - interrupted") == places["reader"]
    assert interrupted.lstrip().startswith("3 ")
    joined = " ".join(" ".join(text).replace("│", " ").split())
    assert "mm->mmap_lock = 1 reader (was free)" in joined
    assert "frees areas that somebody walks" in joined
    assert text[-1] == "kworker takes no step"


def test_where_there_is_no_room_it_is_a_list() -> None:
    text = shown(BROKEN, 80)
    assert all(len(line) <= 80 for line in text)
    heads = next(line for line in text if "OPERATION" in line)
    assert [head.strip() for head in heads.split("│")] == ["", "TASK", "OPERATION", "CHANGES"]
    assert any("reader is interrupted" in line for line in text)
    assert any("oom_reaper" in line and "-> 1" in line for line in text)


def test_the_breaking_step_is_red() -> None:
    screen = Console(width=100, force_terminal=True, color_system="standard", highlight=False)
    with screen.capture() as capture:
        columns.show_on(screen, "d", "s", BROKEN, SAYS)
    assert "\x1b[1;31mremove_vmas(mm)" in capture.get()


def test_the_cycle_has_its_part_of_the_table() -> None:
    text = shown(ROUND, 100)
    at = text.index(columns.FOR_EVER)
    assert text[at - 1].lstrip().startswith("1 ")
    assert text[at + 1].lstrip().startswith("2 ")


@pytest.mark.parametrize("width", [8, 24, 31, 60])
def test_lines_are_broken_where_they_say_something_and_lose_nothing(width: int) -> None:
    for text in (
        "send_sigkill_and_mark({victim, thread 2}, {victim}) -> 1",
        "  mm->flags = MMF_OOM_SKIP|MMF_UNSTABLE (was MMF_UNSTABLE)",
        "x" * 70,
    ):
        at = [0, *columns.breaks(text, width, 4), len(text)]
        parts = [text[a:b] for a, b in itertools.pairwise(at)]
        assert "".join(parts) == text
        assert len(parts[0].rstrip()) <= width
        assert all(len(part.rstrip()) <= max(width - 4, 1) for part in parts[1:])


def test_a_value_stays_with_its_brackets() -> None:
    text = "mm->mmap_lock = free (was 1 reader)"
    assert columns.breaks(text, 30) == [text.index("(was")]


def test_a_real_one_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(Pair("pre-4.14", "lone", with_counterexamples=True)).counterexamples
    one = told["needless-kill"]
    columns.show("pre-4.14", "lone", one, "It says so.")
    out = capsys.readouterr().out.splitlines()
    rows = [line for line in out if line.lstrip()[:1].isdigit()]
    assert len(rows) == len(one.steps)
    for row, told_step in zip(rows, one.steps, strict=True):
        assert told_step.operation in row
        for change in told_step.changes:
            assert f"{change.variable} = {change.now} (was {change.was})" in row
