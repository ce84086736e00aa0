"""``python -m bench.oom``: run what is missing, then write the page and its drawings."""

import os
import signal
import sys
from pathlib import Path

import click
from vmtest.cache import NotReadyError

from bench.oom import page, plots, runs
from bench.oom.daemons import DAEMONS
from bench.oom.workloads import WORKLOADS

DOCS = Path(__file__).parents[2] / "docs"
QUICK = ("tail", "leak", "two-hogs")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(DAEMONS)), help="Just these.")
@click.option("--setting", multiple=True, type=click.Choice(runs.SETTINGS), help="Just these.")
@click.option("--workload", multiple=True, type=click.Choice(list(WORKLOADS)), help="Just these.")
@click.option("--runs", "many", default=runs.RUNS, show_default=True, help="Of each.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=DOCS / "peers.jsonl",
    help="Every run, a line each; those that are there are not run again. The page lies beside.",
)
@click.option(
    "--guests",
    type=click.IntRange(1),
    default=os.cpu_count() or 1,
    show_default=True,
    help="At a time.",
)
@click.option("--quick", is_flag=True, help="One run of few workloads: a look, not a result.")
@click.option("--page", "only_page", is_flag=True, help="Run nothing: the page, of what is there.")
def main(
    *,
    only: tuple[str, ...],
    setting: tuple[str, ...],
    workload: tuple[str, ...],
    many: int,
    out: Path,
    guests: int,
    quick: bool,
    only_page: bool,
) -> None:
    """Run memory out in guests beside memreap, its peers and the kernel, and see what comes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no guest is left
    archive = runs.Archive(out)
    if not only_page:
        workloads = workload or (QUICK if quick else tuple(WORKLOADS))
        number = 1 if quick else many
        wanted = runs.keys(only or tuple(DAEMONS), setting or runs.SETTINGS, workloads, number)
        try:
            for line in runs.measure(wanted, archive, guests):
                click.echo(line)
        except NotReadyError as error:
            raise click.ClickException(str(error)) from error
    page.write(archive.records(), out.with_suffix(".md"))
    plots.write(archive.runs(), out.parent)


if __name__ == "__main__":
    main()
