"""``python -m bench``: run what kills, or what is named, and print it with the machine."""

import json
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable

import click

from bench import check, command, exits, guard, peers, race, simulate, victims
from bench.paper import Paper
from memreap import size
from memreap.linux.procfs import Procfs
from memreap.reap import hold
from memreap.size import seconds

HEAD = """# Measured

`make bench`, as root, writes this page: every row side by side in one run, medians (lowest ..
highest). *Theirs* and *memreap* are times from SIGKILL sent to 99 % of the memory back, by the
victim's memory cgroup. *Ratio* is of the medians, *promised* the highest that we set out for.
"""

RACE_KILLS: dict[hold.Mode, int] = {"auto": 1000, "always": 200}
RACE_TARGET = 0.999
STARTUP_TARGET_S = 0.060
IDLE_TARGET = 0.001
WAKES_TARGET = 1.0
PSS_TARGET_BYTES = 30 << 20

paper = Paper()


def machine() -> str:
    """What it was measured on."""
    memory = size.show(Procfs().meminfo()["MemTotal"])
    python = platform.python_version()
    return f"Linux {platform.release()}, {os.cpu_count()} CPUs, {memory}, CPython {python}"


def _race(quick: bool) -> list[dict[str, object]]:
    records = []
    for mode, many in RACE_KILLS.items():
        kills = 100 if quick else many
        won = race.share(kills, mode)
        what = f"the reap got the mm, of {kills} kills of sleeping 64 MiB victims, --hold {mode}"
        records.append(paper.figure(what, f"{won:.2%}", "99.9 %", won >= RACE_TARGET, share=won))
    return records


def _command(quick: bool) -> list[dict[str, object]]:
    bare_s, ours_s = command.exec_to_sigkill(quick)
    more_s = ours_s - bare_s
    what = f"memreap kill, from exec to SIGKILL sent, more than python -c pass ({seconds(bare_s)})"
    kept = more_s <= STARTUP_TARGET_S
    records = [paper.figure(what, seconds(more_s), "60 ms at most", kept, seconds=more_s)]
    share = command.idle_share(quick)
    what = "memreap run on an idle tree, of one CPU"
    kept = share <= IDLE_TARGET
    records.append(paper.figure(what, f"{share:.3%}", "0.1 % at most", kept, share=share))
    return records + paper.rows("Caught before twice the budget", iter([command.overshoot(quick)]))


def _guard(quick: bool) -> list[dict[str, object]]:
    rest = guard.idle(quick)
    share, wakes = rest["share"], rest["wakes_per_s"]
    pss, spares = int(rest["pss_bytes"]), int(rest["pss_with_spares_bytes"])
    what = f"memreap guard at rest beside {guard.IDLE_PROCESSES} processes, all its own, of one CPU"
    records = [paper.figure(what, f"{share:.3%}", "0.05 % at most", share <= 0.0005, share=share)]
    what = "wake-ups of the core a second, at rest"
    kept = wakes <= WAKES_TARGET
    records.append(paper.figure(what, f"{wakes:.2f}", "1 at most", kept, wakes_per_s=wakes))
    what = (
        f"PSS of core, scout and scribe ({size.show(spares)} with a scout and reapers in waiting)"
    )
    kept = pss <= PSS_TARGET_BYTES
    records.append(paper.figure(what, size.show(pss), "30 MiB at most", kept, **rest))
    times = guard.among_many(quick)
    median_s = statistics.median(times)
    what = f"choice among {guard.MANY} processes, in the core, median of {len(times)}"
    records.append(
        paper.figure(what, seconds(median_s), "5 ms at most", median_s <= 0.005, times=times)
    )
    times = guard.crossings(quick)
    median_s = statistics.median(times)
    what = f"from the line crossed at 1 GB/s to SIGKILL sent, median of {len(times)}"
    what += f" ({seconds(min(times))} .. {seconds(max(times))})"
    kept = median_s <= 0.020
    records.append(paper.figure(what, seconds(median_s), "20 ms at most", kept, times=times))
    grown = guard.under_way(quick)
    faults, rss = grown["major_faults"], grown["rss_bytes"]
    what = f"major faults of the core in {grown['incidents']} incidents"
    records.append(paper.figure(what, str(faults), "0", faults == 0, **grown))
    what = f"growth of its resident memory over {grown['incidents']} incidents"
    records.append(paper.figure(what, size.show(rss), "none", rss <= 0))
    return records


PARTS: dict[str, Callable[[bool], list[dict[str, object]]]] = {
    "victims": lambda quick: paper.rows(
        "Time to release, from SIGKILL to 99 % back", victims.rows(quick)
    ),
    "peers": lambda quick: paper.rows(
        "Beside earlyoom, each alone with the victim", peers.rows(quick)
    ),
    "race": _race,
    "command": _command,
    "guard": _guard,
    "check": lambda quick: check.measure(paper, quick),
    "simulate": lambda quick: simulate.measure(paper, quick),
    "trace": lambda quick: exits.measure(paper, quick),
}
HEADS = {
    "check": check.HEAD,
    "simulate": simulate.HEAD,
    "trace": exits.HEAD,
}  # of parts that have a page of their own, and need no cgroup; trace says what else it needs


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Just these parts.")
@click.option("--quick", is_flag=True, help="Few runs each: a look, not a result.")
@click.option("--json", "json_path", type=click.Path(), help="Write every figure to a file.")
@click.option("--markdown", "markdown_path", type=click.Path(), help="Write a page for the docs.")
def main(
    only: tuple[str, ...], quick: bool, json_path: str | None, markdown_path: str | None
) -> None:
    """Measure memreap beside SIGKILL and earlyoom, its checker beside rumur and SPIN.

    And its simulator beside simpy.
    """
    parts = only or tuple(name for name in PARTS if name not in HEADS)
    if os.geteuid() != 0 and set(parts) - set(HEADS):
        raise click.ClickException("needs root: cgroups and tracepoints are what it measures by")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that all is cleared away
    start_s = time.monotonic()
    paper.line(machine())
    records: dict[str, object] = {"machine": machine()}
    for name in parts:
        try:
            records[name] = PARTS[name](quick)
        except (OSError, RuntimeError) as error:
            paper.line(f"left out: {name}: {error}")
    paper.line(f"The whole run took {time.monotonic() - start_s:.0f} s.")
    if json_path:
        with open(json_path, "w") as file:
            json.dump(records, file, indent=1)
    if markdown_path:
        paper.save(markdown_path, HEADS.get(parts[0], HEAD) if len(parts) == 1 else HEAD)


if __name__ == "__main__":
    main()
