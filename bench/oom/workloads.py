"""What makes memory run out, whose fault it is, and which machine it needs. A table.

A workload starts its processes in the yard and returns; they go on until they are killed. Sizes
and rates follow what is left on the machine, so that the line is always crossed, and with time
enough for an emulated CPU to show who was quick.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vmtest import inside

from bench.oom import hung, yard
from bench.oom.meter import Ground
from bench.oom.yard import MIB, Yard

ENDLESS_BYTES = 4 << 30
LEAK_BYTES_PER_S = 12 * MIB
BUSY_EACH_CPU = 3
WORKERS = 8
WORKER_SHARE = 0.25  # of all that can be had: three fit, and leave more than the line
SMALL_BYTES = 8 * MIB
BOMB_PIDS = 150
BOMB_MEMBER_BYTES = 8 * MIB
# --oomable: one that was killed does not come again, else there would be no end.
STRESS = (
    *("--brk", "2", "--stack", "2", "--bigheap", "2"),
    *("--oomable", "--timeout", "60", "--temp-path", "/tmp"),
)


@dataclass(frozen=True)
class Workload:
    """One row."""

    name: str
    what: str
    """For people."""
    act: Callable[[Yard], object]
    culprits: tuple[str, ...]
    """Their names, as in /proc/PID/comm; * and ? stand for others. To kill those is right."""
    enough: int | None = None
    """So many of them dead are enough; None: as many as it takes."""
    node: int | None = None
    """The NUMA node that runs out; None: the machine."""
    swap: str | None = None
    limit_s: float = 30.0
    """A run is over then, whatever became of it."""

    @property
    def nodes(self) -> int:
        """That the guest needs."""
        return 1 if self.node is None else 2

    @property
    def ground(self) -> Ground:
        """What runs out."""
        return Ground(self.node)

    def blames(self, comm: str) -> bool:
        """Whether a process of this name is at fault."""
        return any(fnmatchcase(comm, culprit) for culprit in self.culprits)


def _tail(there: Yard) -> None:
    there.start("tail", yard.execute("tail", "/dev/zero"))


def _leak(there: Yard) -> None:
    at_once = max(0, there.left_bytes - 3 * LEAK_BYTES_PER_S)
    there.start("leak", yard.hog(ENDLESS_BYTES, LEAK_BYTES_PER_S, at_once))


def _leak_into_swap(there: Yard) -> None:
    rate = 2 * LEAK_BYTES_PER_S
    swap_bytes = sum(int(each["Size"]) << 10 for each in inside.swaps())
    at_once = max(0, there.left_bytes - swap_bytes - 3 * rate)
    there.start("leak", yard.hog(ENDLESS_BYTES, rate, at_once))


def _stress(there: Yard) -> None:
    there.start("stress-ng", yard.execute("stress-ng", *STRESS))


def _build(there: Yard) -> None:
    size_bytes = round((there.left_bytes + there.line_bytes) * WORKER_SHARE)

    def make() -> None:
        workers = []
        for _ in range(WORKERS):
            pid = os.fork()
            if pid == 0:
                yard.call_oneself("cc1plus")
                yard.hog(size_bytes, 20 * MIB)()
            workers.append(pid)
        for pid in workers:
            os.waitpid(pid, 0)

    there.start("make", make)


def _many(there: Yard) -> None:
    most = round(1.2 * (there.left_bytes + there.line_bytes) / SMALL_BYTES)

    def nursery() -> None:
        for _ in range(most):
            if os.fork() == 0:
                yard.call_oneself("small")
                yard.hog(SMALL_BYTES)()
            time.sleep(0.02)
        while True:
            signal.pause()

    there.start("nursery", nursery)


def _busy(there: Yard) -> None:
    yard.settle(f"{yard.APPS}/busy.scope")
    for _ in range(BUSY_EACH_CPU * (os.cpu_count() or 1)):
        there.start("busy", yard.spin, f"{yard.APPS}/busy.scope")
    there.start("hog", yard.hog(ENDLESS_BYTES))


def _hung_aio(there: Yard) -> None:
    with hung.file(there) as (file, fd):
        there.start("hog", yard.hog(ENDLESS_BYTES, 150 * MIB, before=hung.aio(file, fd)))


def _hung_thread(there: Yard) -> None:
    with hung.file(there) as (file, fd):
        there.start("hog", yard.hog(ENDLESS_BYTES, 150 * MIB, before=hung.thread(file, fd)))


def _shared(there: Yard) -> None:
    there.start("shared", yard.hog(ENDLESS_BYTES, 150 * MIB, before=yard.share))


def _ignorer(there: Yard) -> None:
    def ignore(_memory: yard.Memory) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    there.start("ignorer", yard.hog(ENDLESS_BYTES, 100 * MIB, before=ignore))


def _node(there: Yard) -> None:
    there.start("bound", yard.hog(ENDLESS_BYTES, 40 * MIB, before=yard.bind(1)))


def _two_hogs(there: Yard) -> None:
    room = there.left_bytes + there.line_bytes
    there.start("smaller", yard.hog(round(0.35 * room)))
    time.sleep(1.0)
    there.start("larger", yard.hog(round(0.8 * room), 80 * MIB, round(0.3 * room)))


def _bomb(there: Yard) -> None:
    there.group.write("pids.max", BOMB_PIDS)  # so that the guest survives it

    def member() -> None:
        memory = yard.Memory(BOMB_MEMBER_BYTES)
        memory.take(BOMB_MEMBER_BYTES)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            time.sleep(0.1)
            try:
                if os.fork() == 0:
                    memory = yard.Memory(BOMB_MEMBER_BYTES)
                    memory.take(BOMB_MEMBER_BYTES)
            except OSError:
                time.sleep(0.2)

    there.start("bomb", member)


WORKLOADS = {
    one.name: one
    for one in (
        Workload("tail", "`tail /dev/zero`", _tail, ("tail",)),
        Workload("leak", "a slow leak, no swap", _leak, ("leak",)),
        Workload(
            "leak-swap",
            "a slow leak, swap",
            _leak_into_swap,
            ("leak",),
            swap="512M",
            limit_s=90,
        ),
        Workload(
            "stress",
            "`stress-ng`: two each of brk, stack, bigheap",
            _stress,
            ("stress-ng*",),
        ),
        Workload(
            "build",
            f"a build: {WORKERS} workers, room for three",
            _build,
            ("cc1plus", "make"),
        ),
        Workload("many", "many small processes", _many, ("small", "nursery")),
        Workload(
            "busy",
            f"a hog beside {BUSY_EACH_CPU} busy processes a CPU",
            _busy,
            ("hog",),
        ),
        Workload("hung-aio", "a hog with hung AIO", _hung_aio, ("hog",)),
        Workload("hung-thread", "a hog with a thread hung in FUSE", _hung_thread, ("hog",)),
        Workload("shared", "two processes, one mm", _shared, ("shared",)),
        Workload("ignorer", "a hog that ignores SIGTERM", _ignorer, ("ignorer",)),
        Workload("node", "NUMA node 1 runs out, node 0 does not", _node, ("bound",), node=1),
        Workload(
            "two-hogs",
            "two hogs, one too many",
            _two_hogs,
            ("smaller", "larger"),
            enough=1,
        ),
        Workload("bomb", f"a fork bomb, {BOMB_PIDS} at most", _bomb, ("bomb",)),
    )
}
