"""What ``memreap trace exits`` costs those who exit, and how many exits it keeps up with.

What is measured lives here, and how it is told. Everything is many times /bin/true.
"""

import contextlib
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.paper import Paper
from memreap.evidence.exiting import Reader, buffer_bytes, watch
from memreap.evidence.exits import WAITED_NS, Exits
from memreap.evidence.exits_board import nanoseconds, percent
from memreap.evidence.spread import Spread
from memreap.evidence.trues import Trues
from memreap.linux.tracing import Instance, TracingError, tracefs

HEAD = """# Measured: tracing exits

`make bench-trace`, as root, writes this page. Everything is from one run; medians (lowest ..
highest) of interleaved rounds, every way once in each. The load is the one of 2017: /bin/true, as
fast as a worker on each CPU can start it and wait for it. CPU time is that of the worker and of
/bin/true, and tells more than the clock on the wall where others run beside them.
"""

ROUNDS, TRUES = 7, 4_000
OF_2017 = 100_000
PAUSE_S = 0.2


@dataclass
class Way:
    """One way to run them, and what came of it; times are those of one /bin/true."""

    name: str
    run: Callable[["Way", int], object]
    wall_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)  # its own and its starter's
    reader_us: list[float] = field(default_factory=list)  # CPU time of the reader for it
    lost: int = 0
    rate: float = 0.0  # exits a second, the highest with no event lost

    @contextlib.contextmanager
    def trues(self, many: int) -> Iterator[Trues]:
        """Run them in there, to their end."""
        before_s = _children_s()
        with Trues(many) as trues:
            yield trues
            self.wall_us.append(1e6 * trues.seconds / many)
        self.cpu_us.append(1e6 * (_children_s() - before_s) / many)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(paper: Paper, quick: bool) -> list[dict[str, object]]:
    """All of it. Raises RuntimeError where nothing can be traced."""
    try:
        ways = _interleaved(paper, 1 if quick else ROUNDS, 500 if quick else TRUES)
        return [_costs(paper, ways), *_as_in_2017(paper, ways[-1], 2_000 if quick else OF_2017)]
    except TracingError as error:
        raise RuntimeError(str(error)) from error


def _interleaved(paper: Paper, rounds: int, many: int) -> list[Way]:
    ways = [
        Way("not traced", _untraced),
        Way("traced, nobody reads", _unread),
        Way("traced and read", _read),
    ]
    for number in range(rounds):
        for way in ways:
            way.run(way, many)
            time.sleep(PAUSE_S)
        paper.progress(f"round {number + 1} of {rounds}")
    return ways


def _untraced(way: Way, many: int) -> None:
    with way.trues(many) as trues:
        _to_the_end(trues)


def _unread(way: Way, many: int) -> None:
    with way.trues(many) as trues, tracefs() as root, _instance(root) as instance:
        Reader(instance)
        instance.start()
        _to_the_end(trues)


def _to_the_end(trues: Trues) -> None:
    trues.go()
    while not trues.is_over(1.0):
        pass


def _read(way: Way, many: int) -> Exits:
    with way.trues(many) as trues, tracefs() as root, _instance(root) as instance:
        began_s = time.process_time()  # of this process, not of its workers
        found = watch(instance, trues)
        way.reader_us.append(1e6 * (time.process_time() - began_s) / found.count)
        way.lost += instance.lost
        if instance.lost == 0:
            way.rate = max(way.rate, found.count / trues.seconds)
        return found


def _instance(root: Path) -> Instance:
    return Instance(root, buffer_bytes=buffer_bytes(os.cpu_count() or 1))


def _costs(paper: Paper, ways: list[Way]) -> dict[str, object]:
    bare = ways[0]
    paper.table(
        f"One /bin/true, on {len(os.sched_getaffinity(0))} CPUs",
        ("", "CPU time", "ratio", "from one end to the next", "ratio", "CPU time of the reader"),
        [
            [
                way.name,
                *_beside(way.cpu_us, bare.cpu_us),
                *_beside(way.wall_us, bare.wall_us),
                _several(way.reader_us) if way.reader_us else "",
            ]
            for way in ways
        ],
    )
    times = {way.name: {"wall_us": way.wall_us, "cpu_us": way.cpu_us} for way in ways}
    return {"what": "one /bin/true", **times, "reader_us": ways[-1].reader_us}


def _beside(values_us: list[float], bare_us: list[float]) -> tuple[str, str]:
    ratio = statistics.median(values_us) / statistics.median(bare_us)
    return _several(values_us), f"{ratio:.2f}"


def _several(values_us: list[float]) -> str:
    middle = statistics.median(values_us)
    return f"{middle:.0f} us ({min(values_us):.0f} .. {max(values_us):.0f})"


def _as_in_2017(paper: Paper, way: Way, many: int) -> list[dict[str, object]]:
    """The whole count once, and what came out of it."""
    found = _read(way, many)
    rows = [
        ("from wanted to had", found.wait),
        (f"more than {nanoseconds(WAITED_NS)}: it waited", found.waited),
        ("from had to released", found.held),
        ("the whole exit", found.whole),
    ]
    paper.table(
        f"exit_mmap's write lock, over {many:,} times /bin/true",
        ("", "exits", "median", "p99", "max"),
        [[what, f"{spread.count:,}", *_times(spread)] for what, spread in rows],
    )
    unnecessary = percent(found.of_exits(found.unnecessary))
    paper.line(f"Unnecessary in {unnecessary} of exits: got at once, and nobody else wanted it.")
    true_ns = 1000 * way.cpu_us[-1]
    paper.line(
        f"It was held for {percent((found.held.median or 0) / true_ns)} of the CPU time of one "
        f"/bin/true, and waited for {percent(found.wait.total / found.count / true_ns)}; in 2017 "
        "an exit that always takes it was measured to cost about 4 %."
    )
    what = f"events lost in these {found.count:,} exits and all rounds before"
    records = [paper.figure(what, str(way.lost), "0", way.lost == 0, **found.as_dict())]
    ceiling = 1e6 / statistics.median(way.reader_us)
    paper.line(
        f"Highest rate of exits without an event lost: {way.rate:,.0f} a second, all that the "
        f"machine could. The reader alone could follow some {ceiling:,.0f} a second on a CPU of "
        "its own."
    )
    return [*records, {"what": "exits a second, none lost", "rate": way.rate}]


def _times(spread: Spread) -> list[str]:
    highest = spread.highest if spread.count else None
    return [nanoseconds(one) for one in (spread.median, spread.quantile(0.99), highest)]
