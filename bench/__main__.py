"""``python -m bench``: run everything, or what is named, and print it with the machine."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.table import Table

from bench import command, peers, race, victims
from bench.row import Row, median
from memreap import size
from memreap.linux.procfs import Procfs
from memreap.size import seconds

RACE_KILLS = 1000
RACE_TARGET = 0.999
STARTUP_TARGET_S = 0.060
IDLE_TARGET = 0.001

console = Console(width=150, highlight=False)


def machine() -> str:
    """What it was measured on."""
    memory = size.show(Procfs().meminfo()["MemTotal"])
    python = platform.python_version()
    return f"Linux {platform.release()}, {os.cpu_count()} CPUs, {memory}, CPython {python}"


def show(title: str, rows: Iterator[Row]) -> list[dict[str, object]]:
    """Print rows as a table once they are all there; say on stderr where we are."""
    table = Table(title=title, title_justify="left", box=None)
    for heading in ("", "AGAINST", "THEIRS", "MEMREAP", "RATIO", "PROMISED", "KEPT"):
        table.add_column(heading, justify="left" if heading in ("", "AGAINST") else "right")
    records = []
    for row in rows:
        print(f"  measured: {row.what} ({row.baseline})", file=sys.stderr)
        ratio = "-" if row.ratio is None else f"{row.ratio:.3g}"
        target = "-" if row.target is None else f"{row.target:g}"
        kept = {True: "[green]yes[/]", False: "[red]no[/]", None: "-"}[row.met]
        table.add_row(
            row.what, row.baseline, _cell(row.theirs), _cell(row.ours), ratio, target, kept
        )
        if row.note:
            table.add_row(f"  [dim]{row.note}[/]")
        records.append(row.as_dict())
    console.print(table, "")
    return records


def _cell(values: list[float | None]) -> str:
    """Median, and the spread: lowest to highest."""
    middle = median(values)
    known = [value for value in values if value is not None]
    if middle is None:
        return f"never ({len(values)} runs)"
    return f"{seconds(middle)} ({seconds(min(known))} .. {seconds(max(known))})"


def _figure(what: str, value: str, target: str, kept: bool, **record: object) -> dict[str, object]:
    word = "[green]kept[/]" if kept else "[red]not kept[/]"
    console.print(f"{what}: [bold]{value}[/] (promised {target}: {word})")
    return {"what": what, "met": kept, **record}


def _race(quick: bool) -> list[dict[str, object]]:
    kills = 100 if quick else RACE_KILLS
    records = []
    for mode in ("auto", "always"):
        won = race.share(kills, mode)
        what = f"the reap got the mm, of {kills} kills of sleeping 64 MiB victims, --hold {mode}"
        records.append(_figure(what, f"{won:.2%}", "99.9 %", won >= RACE_TARGET, share=won))
    return records


def _command(quick: bool) -> list[dict[str, object]]:
    bare_s, ours_s = command.exec_to_sigkill(quick)
    more_s = ours_s - bare_s
    what = f"memreap kill, from exec to SIGKILL sent, more than python -c pass ({seconds(bare_s)})"
    kept = more_s <= STARTUP_TARGET_S
    records = [_figure(what, seconds(more_s), "60 ms at most", kept, seconds=more_s)]
    share = command.idle_share(quick)
    what = "memreap run on an idle tree, of one CPU"
    kept = share <= IDLE_TARGET
    records.append(_figure(what, f"{share:.3%}", "0.1 % at most", kept, share=share))
    return records + show("Caught before twice the budget", iter([command.overshoot(quick)]))


PARTS: dict[str, Callable[[bool], list[dict[str, object]]]] = {
    "victims": lambda quick: show(
        "Time to release, from SIGKILL to 99 % back", victims.rows(quick)
    ),
    "peers": lambda quick: show("Beside earlyoom, each alone with the victim", peers.rows(quick)),
    "race": _race,
    "command": _command,
}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Just these parts.")
@click.option("--quick", is_flag=True, help="Few runs each: a look, not a result.")
@click.option("--json", "json_path", type=click.Path(), help="Write every figure to a file.")
def main(only: tuple[str, ...], quick: bool, json_path: str | None) -> None:
    """Measure memreap beside SIGKILL alone and earlyoom, in one run."""
    if os.geteuid() != 0:
        raise click.ClickException("needs root: cgroups and tracepoints are what it measures by")
    start_s = time.monotonic()
    console.print(machine(), "")
    records: dict[str, object] = {"machine": machine()}
    for name in only or PARTS:
        try:
            records[name] = PARTS[name](quick)
        except (OSError, RuntimeError) as error:
            console.print(f"[red]left out: {name}: {error}[/]")
    console.print(f"took {time.monotonic() - start_s:.0f} s")
    if json_path:
        with open(json_path, "w") as file:
            json.dump(records, file, indent=1)


if __name__ == "__main__":
    main()
