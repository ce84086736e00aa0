"""``python -m vmtest``: set up once, then run scripts in a guest by hand."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from memreap import size
from vmtest import debian, guest, roots, setup
from vmtest.cache import NotReadyError

NOT_READY = 3
GUEST_FAILED = 4


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A small Linux guest for what this machine lacks.

    \b
    Exit codes:
      0 fine   2 usage   3 not set up, or set-up failed   4 the guest hung or died
      run: else the script's own
    """


@main.command("setup")
@click.option("--update", is_flag=True, help="Look for something newer though it is there.")
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice([*roots.SUITES]),
    help="Build a whole Debian of this suite, too; as often as you like.",
)
def setup_command(update: bool, suites: tuple[str, ...]) -> None:
    """Bring QEMU and a kernel into the cache: as root, on Debian or Ubuntu.

    Where all is there it returns at once. A suite takes some two minutes and 1.5 GB.
    """
    try:
        kernel = setup.setup(update=update)
        click.echo(f"ready: {kernel.name} in {kernel.directory}")
        for suite in suites:
            if update or not roots.place(roots.suite(suite)).is_dir():
                click.echo(f"building {suite}", err=True)
            root = setup.build(suite, update=update)
            click.echo(f"ready: {suite}, Linux {root.about['kernel']} in {root.directory}")
    except NotReadyError as error:
        click.echo(f"vmtest: {error}", err=True)
        sys.exit(NOT_READY)


@main.command("run")
@click.argument("script", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--memory", default="1G", show_default=True, help="The guest's memory.")
@click.option("--cpus", default=2, show_default=True)
@click.option("--nodes", default=1, show_default=True, help="NUMA nodes of equal size.")
@click.option("--swap", metavar="SIZE|zram:SIZE", help="Swap on a disk, or on zram.")
@click.option("--suite", type=click.Choice([*roots.SUITES]), help="A whole Debian, with systemd.")
@click.option("--kernel", type=click.Choice([*roots.SUITES]), help="The small guest, its kernel.")
@click.option("--append", default="psi=1", show_default=True, help="More for the kernel.")
@click.option("--timeout", "timeout_s", default=90.0, show_default=True)
@click.option("--console", is_flag=True, help="Show what the kernel said as well.")
def run_command(
    script: Path, memory: str, console: bool, suite: str | None, kernel: str | None, **options: Any
) -> None:
    """Run a Python script in a guest; records go to stdout as JSON lines."""
    try:
        options |= {"memory_bytes": size.parse(memory), "kernel": kernel or ""}
        small = guest.Guest(**options)
        result = (debian.Machine(suite=suite, **options) if suite else small).run(script)
    except NotReadyError as error:
        click.echo(f"vmtest: {error}", err=True)
        sys.exit(NOT_READY)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    except guest.GuestError as error:
        result = error.result
        click.echo(f"vmtest: {error}", err=True)
    if console:
        click.echo(result.console, err=True)
    for line in result.stdout:
        click.echo(line)
    for record in result.records:
        click.echo(json.dumps(record))
    for line in result.stderr:
        click.echo(line, err=True)
    click.echo(f"script after {result.ready_s:.1f} s, end after {result.whole_s:.1f} s", err=True)
    sys.exit(GUEST_FAILED if result.exit_code is None else result.exit_code % 256)


if __name__ == "__main__":
    main()
