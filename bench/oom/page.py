"""docs/peers.md: what was measured, as tables. Nothing here is known but from the records."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.oom import verdict
from bench.oom.daemons import DAEMONS
from bench.oom.meter import SAMPLE_S
from bench.oom.runs import RUNS, SETTINGS, keys
from bench.oom.verdict import Cost, Spread, Verdict, spread
from bench.oom.workloads import WORKLOADS, Workload
from memreap import size
from memreap.size import seconds

HEAD = """# Side by side, on machines that run out of memory

`make bench-peers` writes this page from `docs/peers.jsonl`, which it fills, a line a run. Each run
is one workload on a whole Debian of its own in QEMU, with one daemon, or with none but the kernel.

**The line** is the same for all: a tenth of MemTotal (and of swap) left, by MemAvailable and
SwapFree; for the NUMA node, a tenth of the node free or page cache. A real-time process samples it
every 5 ms. Defaults differ in when they act: below the line is not late where a daemon is set to
act at 5 %. *Tuned* is at the line for all who can be told so.

- *To the signal*: from the line to the first SIGKILL or SIGTERM that somebody died of, by the
  kernel's tracepoint, whoever sent it. Negative: before the line.
- *Memory back*: from the line until as much as the line is left again, and stays so to the end.
  *never*: not within the run ({limit} s; a leak into swap has more). A daemon whose own line is
  lower than a tenth may stop killing before that much is left: this is *never*, too.
- *Killed*: processes, all runs; *for nothing*: those that were none of the workload's culprits, or
  more of them than it took. *First right*: the first to die was a culprit, of the runs in which
  somebody was killed.
- *Frozen*: the longest time between two beats, from the line on, of an ordinary process that wants
  10 ms of sleep and one page at each.
- Medians (lowest .. highest). A run that never came to it counts as longer than any. **Bold** is
  the best of the column, and who is no further from it than one sample.

Every machine has bystanders: a database (48 MiB, a system service), an editor (30 MiB) and a shell,
which do nothing wrong. All have oom_score_adj 0.

**The clock** of the guest counts instructions, one a nanosecond, and its two CPUs take turns. So a
figure is the same on a slow host and on a busy one. It is that of a small, slow machine: a loop in
Python takes some 15 times as long in there as on the host. And two loops at once take twice as long
as one: nothing is done sooner by two hands, and whoever watches slows down the one who dies. What
memreap does beside its victim's exit is a loss here; on real CPUs it is [a gain](bench.md).

![From the line to memory back, every run a dot](peers-back.svg)

![The longest standstill, every run a dot](peers-frozen.svg)
"""

Cell = tuple[str, str]  # daemon, setting
FEW = 3  # are named, even if they are all


@dataclass(frozen=True)
class Row:
    """All runs of one daemon in one setting under one workload."""

    daemon: str
    setting: str
    verdicts: tuple[Verdict, ...]

    @property
    def signal(self) -> Spread | None:
        """To the first signal."""
        return spread([each.signal_s for each in self._started])

    @property
    def back(self) -> Spread | None:
        """Until memory was back."""
        return spread([each.back_s for each in self._started])

    @property
    def frozen(self) -> Spread | None:
        """The longest time between two beats."""
        return spread([each.frozen_s for each in self._started])

    @property
    def killed(self) -> int:
        """In all runs."""
        return sum(len(each.victims) for each in self.verdicts)

    @property
    def needless(self) -> int:
        """The same."""
        return sum(each.needless for each in self.verdicts)

    @property
    def name(self) -> str:
        """For a sentence."""
        return f"{self.daemon} ({self.setting})"

    @property
    def is_complete(self) -> bool:
        """Memory came back in every run: only such can be the best."""
        found = self.back
        return found is not None and not found.never

    @property
    def _started(self) -> list[Verdict]:
        return [each for each in self.verdicts if each.ended != verdict.NOT_STARTED]

    def cells(self, best: "Best") -> list[str]:
        """As a line of the table."""
        rights = [v.first_was_right for v in self.verdicts if v.first_was_right is not None]
        return [
            self.daemon,
            self.setting,
            _bold(_times(self.signal), best.is_signal(self)),
            _bold(_times(self.back), best.is_back(self)),
            str(self.killed),
            _bold(str(self.needless), best.is_needless(self)),
            f"{sum(rights)} of {len(rights)}" if rights else "-",
            _bold(_times(self.frozen), best.is_frozen(self)),
            self._ends(),
        ]

    def _ends(self) -> str:
        """Who killed first, and what else came of it."""
        ends = Counter(
            (each.by or "nobody") if each.was_seen else each.ended for each in self.verdicts
        )
        return ", ".join(f"{what} {number}" for what, number in ends.most_common())


HEADINGS = (
    "", "setting", "to the signal", "memory back", "killed", "for nothing", "first right", "frozen",
    "killed first by",
)  # fmt: skip


@dataclass(frozen=True)
class Best:
    """The lowest of a workload's columns."""

    rows: Sequence[Row]

    def is_signal(self, row: Row) -> bool:
        """Quickest to act."""
        return self._is_least(row, lambda each: each.signal)

    def is_back(self, row: Row) -> bool:
        """Quickest to have memory back."""
        return self._is_least(row, lambda each: each.back)

    def is_frozen(self, row: Row) -> bool:
        """Stood still the least."""
        return self._is_least(row, lambda each: each.frozen)

    def is_needless(self, row: Row) -> bool:
        """Nobody killed fewer for nothing, of those who brought memory back."""
        complete = [each.needless for each in self.rows if each.is_complete]
        return row.is_complete and row.needless == min(complete)

    def _is_least(self, row: Row, of: Callable[[Row], Spread | None]) -> bool:
        complete = [each for each in self.rows if each.is_complete]
        middles = [found.middle for each in complete if (found := of(each))]
        mine = of(row)
        return row in complete and mine is not None and mine.middle <= min(middles) + SAMPLE_S


def write(records: Iterable[dict[str, Any]], path: Path) -> None:
    """The whole page. Raises OSError."""
    path.write_text("\n".join(lines(list(records))).rstrip() + "\n")


def lines(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Of the page."""
    runs = [record for record in records if record["kind"] == "run"]
    limits = Counter(round(workload.limit_s) for workload in WORKLOADS.values())
    yield HEAD.format(limit=limits.most_common(1)[0][0])
    yield from _missing(runs)
    yield from _machines([record for record in records if record["kind"] == "machine"])
    yield from _host(runs)
    tables = {name: rows(runs, name) for name in WORKLOADS}
    yield from _winners(tables)
    for name, found in tables.items():
        if found:
            yield from _workload(WORKLOADS[name], found)
    yield from _costs(runs)
    yield from _settings()


def _missing(runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    wanted = keys(DAEMONS, SETTINGS, WORKLOADS, RUNS)
    there = {(r["daemon"], r["setting"], r["workload"], r["run"]) for r in runs}
    missing = [key for key in wanted if key not in there]
    if not missing:
        return
    empty = len({key[:3] for key in wanted} - {key[:3] for key in there})
    none = f", and {empty} rows have none at all" if empty else ""
    yield (
        f"**Not all of it has run**: {len(missing)} of {len(wanted)} runs are missing{none}; who is"
        " called the best below is so among those that ran. The same command goes on where it was."
    )
    yield ""


def rows(runs: Iterable[dict[str, Any]], workload: str) -> list[Row]:
    """Of one workload, in the order of the table of daemons."""
    by_cell: dict[Cell, list[Verdict]] = {}
    for record in runs:
        if record["workload"] == workload:
            cell = (record["daemon"], record["setting"])
            by_cell.setdefault(cell, []).append(verdict.judge(record))
    return [Row(*cell, tuple(by_cell[cell])) for cell in _order() if cell in by_cell]


def _order() -> list[Cell]:
    return [(name, setting) for name, daemon in DAEMONS.items() for setting in daemon.settings]


def _machines(machines: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not machines:
        return
    found: dict[str, list[str]] = {}
    for machine in machines:
        for what, version in machine["versions"].items():
            if version not in found.setdefault(what, []):
                found[what].append(version)
    memory = sorted({size.show(m["memory_bytes"]) for m in machines if not m["swap"]})
    yield "## What ran"
    yield ""
    sizes = f"{' or '.join(memory)} (MemTotal, with one node or two)"
    yield f"Guests of {sizes}, {machines[-1]['cpus']} CPUs. As dpkg and uname tell:"
    yield ""
    yield from table(
        ("", "version"), [[what, ", ".join(versions)] for what, versions in found.items()], left=2
    )


def _host(runs: Iterable[dict[str, Any]]) -> Iterator[str]:
    """How far the meter can be trusted."""
    blind = [record["meter_blind_s"] for record in runs if "meter_blind_s" in record]
    if blind:
        yield (
            f"The meter, which nothing in the guest can keep waiting for long, missed"
            f" {seconds(median(blind))} at a stretch in the median run, {seconds(max(blind))} in"
            f" the worst of {len(blind)}: what is closer together than that is not told apart."
        )
        yield ""


def _winners(tables: dict[str, list[Row]]) -> Iterator[str]:
    yield "## Who was best"
    yield ""
    yield (
        "Of those who brought memory back in every run; equals, to a sample, are all named. "
        "A name is the lowest median of so few runs, not a proven difference: the tables below "
        "show how far the runs of each lie apart."
    )
    yield ""
    body = []
    for name, found in tables.items():
        if found:
            best = Best(found)
            tests = (best.is_signal, best.is_back, best.is_needless, best.is_frozen)
            body.append([WORKLOADS[name].what, *(_names(found, test) for test in tests)])
    yield from table(
        ("workload", "signalled first", "memory back first", "fewest for nothing", "least frozen"),
        body,
        left=5,
    )


def _names(found: Sequence[Row], is_best: Callable[[Row], bool]) -> str:
    there = [row.name for row in found if row.is_complete]
    names = [row.name for row in found if is_best(row)]
    return "all who did" if names == there and len(there) > FEW else ", ".join(names) or "-"


def _workload(workload: Workload, found: Sequence[Row]) -> Iterator[str]:
    numbers = sorted({len(row.verdicts) for row in found})
    many = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    yield f"## {workload.what[0].upper()}{workload.what[1:]}"
    yield ""
    blame = ", ".join(f"`{one}`" for one in workload.culprits)
    enough = f"; {workload.enough} of them is enough" if workload.enough else ""
    yield f"Runs of each: {many}. To blame: {blame}{enough}."
    yield ""
    best = Best(found)
    yield from table(HEADINGS, [row.cells(best) for row in found], left=2)


def _costs(runs: Iterable[dict[str, Any]]) -> Iterator[str]:
    by_cell: dict[Cell, list[tuple[Cost, float]]] = {}
    for record in runs:
        found = verdict.cost(record)
        if found:
            cell = (record["daemon"], record["setting"])
            by_cell.setdefault(cell, []).append((found, record["lasted_s"]))
    if not by_cell:
        return
    yield "## What they cost"
    yield ""
    yield (
        "All processes of the unit. At rest: in the 3 s before each run. In a run: of all runs,"
        " what happened to them included. Memory before the run."
    )
    yield ""
    body = []
    for cell in _order():
        if cell not in by_cell:
            continue
        costs, lasted = zip(*by_cell[cell], strict=True)
        share = median(c.run_cpu_s / each_s for c, each_s in zip(costs, lasted, strict=True))
        body.append(
            [
                *cell,
                f"{median(c.rest_share for c in costs):.2%}",
                f"{share:.2%}",
                size.show(round(median(c.pss_bytes for c in costs))),
                size.show(round(median(c.rss_bytes for c in costs))),
                f"{median(c.major_faults for c in costs):g}"
                f" ({min(c.major_faults for c in costs)} .. {max(c.major_faults for c in costs)})",
                str(len(costs)),
            ]
        )
    yield from table(
        ("", "setting", "CPU at rest", "CPU in a run", "PSS", "RSS", "major faults", "runs"),
        body,
        left=2,
    )


def _settings() -> Iterator[str]:
    yield "## How each was set"
    yield ""
    body = [
        [name, setting, about.why]
        for name, daemon in DAEMONS.items()
        for setting, about in daemon.settings.items()
    ]
    yield from table(("", "setting", "what that is"), body, left=3)


def table(headings: Sequence[str], body: Iterable[Sequence[str]], *, left: int) -> Iterator[str]:
    """In Markdown; ``left``: so many columns of words, before those of figures."""
    yield _line(headings)
    yield _line(["---"] * left + ["---:"] * (len(headings) - left))
    for row in body:
        yield _line(row)
    yield ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _bold(text: str, is_best: bool) -> str:
    return f"**{text}**" if is_best else text


def _times(found: Spread | None) -> str:
    """Median (lowest .. highest), and how often never."""
    if found is None:
        return "-"
    if not found.many:
        return "never"
    middle = seconds(found.middle) if found.middle != float("inf") else "never"
    never = f"; never {found.never} of {found.many + found.never}" if found.never else ""
    if found.many == 1 and not never:
        return middle
    return f"{middle} ({seconds(found.low)} .. {seconds(found.high)}{never})"
