"""``python -m memreap.simulate.guard_soak COUNT [FIRST]``: many runs of the guard on all CPUs.

Only running, counting and telling lives here. It needs nothing but the standard library, so that
any interpreter runs it: PyPy takes half the time of CPython, and comes to the same hash.
"""

import hashlib
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from memreap.simulate.guard_trial import runs

PART = 200  # seeds that one process runs in a row
TELL_S = 60.0


@dataclass(slots=True)
class Sum:
    """What many runs came to. ``broken``: (seed, law, why) of each that broke one."""

    seeds: int = 0
    incidents: int = 0
    kills: int = 0
    broken: list[tuple[int | None, int | None, str]] = field(default_factory=list)
    hash: str = ""

    def add(self, other: "Sum") -> None:
        """One part more, in the order of seeds."""
        self.seeds += other.seeds
        self.incidents += other.incidents
        self.kills += other.kills
        self.broken += other.broken
        self.hash = hashlib.sha256((self.hash + other.hash).encode()).hexdigest()[:16]


def part(seeds: range) -> Sum:
    """Run these one after another."""
    done = Sum()
    for one in runs(seeds):
        done.add(Sum(1, one.incidents, one.kills, hash=one.hash))
        if one.broken:
            done.broken.append((one.seed, one.law, one.broken))
    return done


def parts(first: int, count: int, cpus: int) -> Iterator[Sum]:
    """Run so many on so many CPUs; what each part came to, in order."""
    ends = first + count
    ranges = [range(at, min(at + PART, ends)) for at in range(first, ends, PART)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cpus, mp_context=context) as pool:
        yield from pool.map(part, ranges)


def main(argv: list[str]) -> int:
    """``argv``: how many, from which seed. 0: no law was broken; 1: one was; 2: no numbers."""
    if not 1 <= len(argv) <= 2 or not all(word.isdecimal() for word in argv):
        print(__doc__, file=sys.stderr)
        return 2
    count, first = int(argv[0]), int(argv[1]) if len(argv) > 1 else 0
    began_s = told_s = time.monotonic()
    total, cpus = Sum(), os.cpu_count() or 1
    for one in parts(first, count, cpus):
        total.add(one)
        for seed, law, why in one.broken:
            print(f"seed {seed}: law {law}: {why}", flush=True)
        if time.monotonic() - told_s > TELL_S:
            told_s = time.monotonic()
            rate = total.seeds / (told_s - began_s)
            left_s = (count - total.seeds) / rate
            print(
                f"{total.seeds:,} of {count:,}, {rate:.0f} a second, {left_s / 60:.0f} min to go",
                file=sys.stderr,
                flush=True,
            )
    took_s = time.monotonic() - began_s
    print(
        f"{total.seeds:,} seeds from {first}, {total.incidents:,} incidents, {total.kills:,} kills:"
        f" {len(total.broken)} broke a law; {took_s / 60:.1f} min on {cpus} CPUs,"
        f" {platform.python_implementation()} {platform.python_version()}, hash {total.hash}"
    )
    return 1 if total.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
