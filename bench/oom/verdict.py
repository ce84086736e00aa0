"""What the record of a run means: how fast, whom, how many for nothing. Pure.

All times are from when the line was crossed. A process counts as killed that was sent SIGKILL, or
a SIGTERM that it did not ignore, by the kernel or by one of the daemons: others end processes, too,
their own. Rightly killed are those of the workload's culprits that it takes; all others were killed
for nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.oom.daemons import DAEMONS
from bench.oom.signals import IGNORED
from bench.oom.workloads import WORKLOADS

SIGKILL = 9
FROZE = "the guest froze"
DIED = "the guest died"
NOT_STARTED = "the daemon did not start"
NO_RUN = (FROZE, DIED, NOT_STARTED)  # nothing was seen to the end

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Victim:
    """One who was killed."""

    at_s: float
    pid: int
    comm: str
    by: str
    signal: int


@dataclass(frozen=True)
class Verdict:
    """One run."""

    ended: str
    """In a word or two."""
    signal_s: float | None = None
    """To the first signal that counts; below 0: before the line."""
    sigkill_s: float | None = None
    """To the first SIGKILL."""
    back_s: float | None = None
    """Until as much as the line is left again, to the end of the run; None: never."""
    victims: tuple[Victim, ...] = ()
    needless: int = 0
    first_was_right: bool | None = None
    """Whether the first to be killed was a culprit; None: nobody was killed."""
    frozen_s: float | None = None
    """The longest time between two beats, from the line on."""

    @property
    def was_seen(self) -> bool:
        """Whether it came to its end."""
        return self.ended not in NO_RUN

    @property
    def by(self) -> str:
        """Who was the first to kill; "" for nobody."""
        return self.victims[0].by if self.victims else ""


def judge(record: Record) -> Verdict:
    """One run's record."""
    ended = str(record["why_ended"])
    if ended in NO_RUN:
        return Verdict(ended)
    workload = WORKLOADS[record["workload"]]
    victims = killed(record["signals"])
    right = [victim for victim in victims if workload.blames(victim.comm)]
    too_many = max(0, len(right) - workload.enough) if workload.enough is not None else 0
    crossed_s = record["crossed_s"]
    kills = [victim.at_s for victim in victims if victim.signal == SIGKILL]
    # Killed before the line: it is told from when that was, since there is nothing else.
    zero_s = crossed_s if crossed_s is not None else (victims[0].at_s if victims else 0.0)
    back_s = record["back_s"]
    return Verdict(
        ended,
        signal_s=victims[0].at_s - zero_s if victims else None,
        sigkill_s=kills[0] - zero_s if kills else None,
        back_s=back_s - zero_s if back_s is not None and victims else None,
        victims=tuple(victims),
        needless=len(victims) - len(right) + too_many,
        frozen_s=record["frozen_s"],
        first_was_right=workload.blames(victims[0].comm) if victims else None,
    )


def killed(signals: Iterable[Mapping[str, Any]]) -> list[Victim]:
    """Each who was, once, in order."""
    found: dict[int, Victim] = {}
    for each in signals:
        by = killer(each)
        is_helper = each["comm"].startswith("memreap")  # a killer may send away its own
        if not by or is_helper or each["result"] == IGNORED or each["pid"] in found:
            continue
        found[each["pid"]] = Victim(each["at_s"], each["pid"], each["comm"], by, each["signal"])
    return list(found.values())


def killer(signal: Mapping[str, Any]) -> str:
    """The kernel, or a daemon by its name; "" for anybody else."""
    if signal["by_kernel"]:
        return "kernel"
    return next((name for name in DAEMONS if str(signal["by"]).startswith(name)), "")


@dataclass(frozen=True)
class Cost:
    """What a daemon used."""

    rest_share: float
    """Of one CPU, while nothing happened."""
    run_cpu_s: float
    pss_bytes: int
    rss_bytes: int
    major_faults: int


def cost(record: Record) -> Cost | None:
    """Of one run; None where there is no daemon, or it was not there at the end."""
    before, after = record.get("use_before"), record.get("use_after")
    if not before or not after:
        return None
    return Cost(
        rest_share=record["rest"]["cpu_share"],
        run_cpu_s=after["cpu_s"] - before["cpu_s"],
        pss_bytes=int(before["pss_bytes"]),
        rss_bytes=int(before["rss_bytes"]),
        major_faults=int(after["major_faults"] - before["major_faults"]),
    )


@dataclass(frozen=True)
class Spread:
    """A median, and the extremes, of those that came to anything."""

    middle: float
    low: float
    high: float
    many: int
    never: int

    @property
    def is_sometimes(self) -> bool:
        """Not always: a median of what came is none of all."""
        return self.never > 0


def spread(values: Sequence[float | None]) -> Spread | None:
    """None counts as never, which is longer than anything: so may be the median. None: no values.

    The median of all is infinite where half of them never came.
    """
    if not values:
        return None
    there = [value for value in values if value is not None]
    infinite = float("inf")
    middle = median([infinite if value is None else value for value in values])
    return Spread(
        middle,
        min(there, default=infinite),
        max(there, default=infinite),
        len(there),
        len(values) - len(there),
    )
