"""``python -m memreap.simulate.validate``: what the model predicts, beside real kills.

One table: for each kind of victim the releases that were measured and the one that the simulator
says. The promise: within 25 % for six kinds at least. Kills victims of its own, as root.
"""

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from memreap.simulate.calibrate import Say, calibrate, tell, write
from memreap.simulate.costs import HUGE_BYTES, Costs, CostsError, calibrated, load
from memreap.simulate.cpus import IDLE
from memreap.simulate.fit import sleeper
from memreap.simulate.killing import CalibrationError, Kind, Series, permitted
from memreap.simulate.release import release_s
from memreap.simulate.setup import Hang, Io, ProcessSetup
from memreap.size import seconds

MIB = 1 << 20
BUSY = 3 * (os.cpu_count() or 1)
WITHIN = 0.25
KINDS_MIN = 6
RUNS = 6
EXIT_MISSED, EXIT_USAGE, EXIT_NOT_HERE = 1, 2, 3

KINDS = {
    "256 MiB, asleep, SIGKILL alone": Kind("sleeping", 256 * MIB),
    "1 GiB, asleep, SIGKILL alone": Kind("sleeping", 1024 * MIB),
    "256 MiB, asleep, memreap": Kind("sleeping", 256 * MIB, reap=True),
    "1 GiB, asleep, memreap": Kind("sleeping", 1024 * MIB, reap=True),
    "1 GiB of huge pages, SIGKILL alone": Kind("sleeping", 1024 * MIB, page_bytes=HUGE_BYTES),
    "512 MiB, 32 threads, memreap": Kind("threads", 512 * MIB, reap=True, threads=32),
    "512 MiB shared by two, memreap": Kind("shared", 512 * MIB, reap=True),
    "512 MiB, hung AIO, memreap": Kind("hung-aio", 512 * MIB, reap=True),
    "512 MiB, hung thread, memreap": Kind("hung-thread", 512 * MIB, reap=True),
    "512 MiB beside busy loops, memreap": Kind("busy", 512 * MIB, reap=True, busy=BUSY),
    "512 MiB beside busy loops, SIGKILL alone": Kind("busy", 512 * MIB, busy=BUSY),
    "256 MiB beside busy loops, SIGKILL alone": Kind("busy", 256 * MIB, busy=BUSY),
    "256 MiB at SCHED_IDLE beside busy loops, memreap": Kind(
        "idle", 256 * MIB, reap=True, busy=BUSY
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind."""

    name: str
    measured_s: tuple[float | None, ...]  # None: it never came back
    predicted_s: float | None

    @property
    def median_s(self) -> float | None:
        """None where half of them or more never came back."""
        came = [value for value in self.measured_s if value is not None]
        if 2 * len(came) <= len(self.measured_s):
            return None
        return median([*came, *[float("inf")] * (len(self.measured_s) - len(came))])

    @property
    def ratio(self) -> float | None:
        """Predicted to measured."""
        if self.predicted_s is None or self.median_s is None:
            return None
        return self.predicted_s / self.median_s

    @property
    def is_kept(self) -> bool:
        """Whether the promise is, for this one."""
        return self.ratio is not None and abs(self.ratio - 1) <= WITHIN

    def cells(self) -> tuple[str, str, str, str, str]:
        """As it is shown."""
        came = [value for value in self.measured_s if value is not None]
        spread = f" ({seconds(min(came))} .. {seconds(max(came))})" if came else ""
        ratio = "-" if self.ratio is None else f"{self.ratio:.2f}"
        kept = "yes" if self.is_kept else "no"
        return self.name, seconds(self.median_s) + spread, seconds(self.predicted_s), ratio, kept


def setup(kind: Kind) -> ProcessSetup:
    """The victim as the model has it."""
    plain = sleeper(kind.size_bytes, kind.page_bytes)
    match kind.kind:
        case "idle":
            return replace(plain, weight=IDLE)
        case "threads":
            return replace(plain, threads=1 + kind.threads)
        case "shared":
            return replace(plain, sharers=1)
        case "hung-aio":
            return replace(plain, io=Io.HUNG)
        case "hung-thread":
            return replace(plain, threads=2, hangs=Hang.THREAD)
    assert kind.kind in ("sleeping", "busy"), f"the model has no {kind.kind} victim"
    return plain


def predict(kind: Kind, costs: Costs) -> float | None:
    """What the simulator says."""
    return release_s(
        setup(kind),
        costs,
        reap=kind.reap,
        boost=kind.reap,
        cpus=os.cpu_count() or 1,
        busy=kind.busy,
    )


def validate(
    costs: Costs, kinds: Mapping[str, Kind], runs: int = RUNS, say: Say = lambda _: None
) -> list[Row]:
    """Kill so many of each, in turn. Raises CalibrationError where that cannot be."""
    permitted()
    series = Series()
    series.run(kinds.values(), runs, say)
    return rows(costs, kinds, series)


def rows(costs: Costs, kinds: Mapping[str, Kind], series: Series) -> list[Row]:
    """What was measured, beside what is predicted."""
    return [
        Row(name, tuple(series.taken[kind]), predict(kind, costs)) for name, kind in kinds.items()
    ]


HEADINGS = ("victim", "measured", "predicted", "ratio", "within 25 %")


def markdown(rows: Iterable[Row]) -> str:
    """As a table."""
    lines = [HEADINGS, ("---", "---:", "---:", "---:", "---"), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and judge; the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m memreap.simulate.validate",
        description="Predicted against real times of release, by kills of its own; as root.",
    )
    parser.add_argument("--costs", metavar="FILE", help="without: those that come with memreap")
    parser.add_argument(
        "--calibrate", metavar="FILE", help="measure the costs in between, and write them to FILE"
    )
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help="kills of each kind")
    parser.add_argument("--only", metavar="WORDS", default="", help="kinds whose name has these")
    options = parser.parse_args(argv)
    kinds = {name: kind for name, kind in KINDS.items() if options.only in name}
    if options.runs < 1 or not kinds:
        parser.error("nothing to measure")
    try:
        if options.calibrate:
            costs, series = calibrate(say=tell, also=kinds.values())
            write(costs, options.calibrate)
            table = rows(costs, kinds, series)
        else:
            costs = load(options.costs) if options.costs else calibrated()
            table = validate(costs, kinds, options.runs, tell)
    except CostsError as error:
        print(f"memreap: {error}", file=sys.stderr)
        return EXIT_USAGE
    except (CalibrationError, OSError) as error:
        print(f"memreap: {error}", file=sys.stderr)
        return EXIT_NOT_HERE
    kept = sum(row.is_kept for row in table)
    print(f"Linux {platform.release()}; costs: {costs.machine}, {costs.kernel}, {costs.source}\n")
    print(markdown(table))
    print(f"{kept} of {len(table)} within 25 % (promised {KINDS_MIN})")
    return 0 if kept >= min(KINDS_MIN, len(table)) else EXIT_MISSED


if __name__ == "__main__":
    sys.exit(main())
