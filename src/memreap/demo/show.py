"""``memreap demo``: plays every scene twice, and gives the verdict in one line."""

import json
import os
import subprocess
import sys
import time

from memreap import size
from memreap.demo import measure
from memreap.demo.measure import Measurement
from memreap.demo.scenes import SCENES, Scene, left_out, staged
from memreap.demo.table import PENDING, Board, Row, cell
from memreap.size import seconds
from memreap.victims import kinds_possible

ALONE_LIMIT_S = 3.0
REAPED_LIMIT_S = 3.0
BUDGET_BYTES = 256 << 20
HOG_BYTES = 1 << 30
RUN_TIMEOUT_S = 30.0


def demo(*, as_json: bool, svg_path: str | None = None) -> int:
    """Show it; 0 where memreap had every victim's memory back."""
    start_s = time.monotonic()
    if svg_path:
        open(svg_path, "a").close()  # before the work, not after it
    omitted = left_out(kinds_possible())
    scenes = [scene for scene in SCENES if scene.name not in omitted]
    results: list[tuple[Scene, Measurement, Measurement]] = []
    board = Board(ALONE_LIMIT_S)
    with board:
        for scene in scenes:
            row = Row(scene.name, scene.why, PENDING)
            board.rows.append(row)
            board.show()
            results.append(_play(scene, board, row))
        budget_kept = _play_run(board)
    if as_json:
        _print_json(results)
    closing = [f"left out: {name} ({why})" for name, why in omitted.items()]
    closing.append(_verdict(results, budget_kept, time.monotonic() - start_s))
    for line in closing:
        board.console.print(line)
    if svg_path:
        board.save_svg(svg_path, closing)
    return 0 if budget_kept and all(mine.seconds is not None for _, _, mine in results) else 1


def _play(scene: Scene, board: Board, row: Row) -> tuple[Scene, Measurement, Measurement]:
    with staged(scene) as (victim, group):
        alone = measure.alone(victim, group, ALONE_LIMIT_S)
    row.alone, row.memreap = cell(alone, ALONE_LIMIT_S), PENDING
    board.show()
    with staged(scene) as (victim, group):
        mine = measure.reaped(victim, group, REAPED_LIMIT_S)
    row.memreap = cell(mine, REAPED_LIMIT_S)
    board.show()
    return scene, alone, mine


def _play_run(board: Board) -> bool:
    """A command that forks a hog, with nobody watching and under ``memreap run``."""
    row = Row("a command that forks a hog", "nobody stops it", PENDING)
    board.rows.append(row)
    board.show()
    script = f"'{sys.executable}' -S -c 'x = bytearray({HOG_BYTES})'; echo goes on"
    shell = ["/bin/sh", "-c", script]
    row.alone, row.memreap = f"[red]grows to {size.show(_peak_bytes(shell))}[/]", PENDING
    board.show()
    budget = ["run", "-m", str(BUDGET_BYTES), "--json", "/dev/stderr", "--quiet", "--"]
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "memreap", *budget, *shell],
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    incidents = [json.loads(line) for line in ran.stderr.splitlines() if line.startswith("{")]
    ended = [v["outcome"] for incident in incidents for v in incident["victims"]]
    kept = ended in (["exited"], ["reaped"]) and ran.returncode == 0 and "goes on" in ran.stdout
    if kept:
        row.memreap = f"[green]hog killed at {size.show(incidents[0]['usage_bytes'])}[/]"
    else:
        row.memreap = f"[red]exit code {ran.returncode}[/]"
    board.show()
    return kept


def _peak_bytes(argv: list[str]) -> int:
    """The most that one process of a command held."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    quiet = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in (1, 2)]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=quiet)
    os.close(null)
    _, _, usage = os.wait4(pid, 0)
    return usage.ru_maxrss * 1024


def _verdict(
    results: list[tuple[Scene, Measurement, Measurement]], budget_kept: bool, took_s: float
) -> str:
    alone = sum(theirs.seconds is not None for _, theirs, _ in results)
    mine = sum(ours.seconds is not None for _, _, ours in results)
    worst = max((ours.seconds or 0.0 for _, _, ours in results), default=0.0)
    budget = "kept" if budget_kept else "[red]not kept[/]"
    return (
        f"[bold]memreap: {mine} of {len(results)} released, the slowest in {seconds(worst)}; "
        f"SIGKILL alone: {alone} of {len(results)} within {ALONE_LIMIT_S:g} s; "
        f"the budget was {budget}.[/] ({took_s:.0f} s)"
    )


def _print_json(results: list[tuple[Scene, Measurement, Measurement]]) -> None:
    for scene, alone, mine in results:
        record = {"victim": scene.name, "size_bytes": scene.size_bytes}
        for name, seen in (("alone", alone), ("memreap", mine)):
            record[f"{name}_released_bytes"] = seen.released_bytes
            record[f"{name}_seconds"] = seen.seconds
        print(json.dumps(record))
