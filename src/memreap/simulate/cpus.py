"""CPUs, shared by weight among all who can run.

1. Nobody is on two CPUs at once: a task's rate is one CPU at the most.
2. SCHED_FIFO goes before all others, and shares with its like evenly.
3. What it leaves is shared by weight (CFS, EEVDF). Who would get more than one CPU gets one, and
   the rest is shared anew among the others.
4. It is a fluid: no slices, no migration. Whoever has 3 of 6,147 shares runs all the time, slowly.
   What a real-time task must leave to others (``sched_rt_runtime_us``) is left out.

Tasks of one weight have one rate, so each weight has one clock: what each of its tasks has got so
far. A task ends when the clock of its weight has come to where it began, plus its work; so every
change costs as much as there are weights, not tasks, and nothing is approximated.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from math import inf
from typing import Final

from memreap.simulate.loop import FIRST, Loop

FIFO: Final = inf
FIFO_BELOW: Final = 1e12  # of a lower priority: has all that FIFO leaves, before all others
IDLE: Final = 3.0  # WEIGHT_IDLEPRIO. kernel/sched/sched.h
# sched_prio_to_weight, of nice -20 to 19. kernel/sched/core.c
NICE: Final = (
    *(88761.0, 71755.0, 56483.0, 46273.0, 36291.0, 29154.0, 23254.0, 18705.0, 14949.0, 11916.0),
    *(9548.0, 7620.0, 6100.0, 4904.0, 3906.0, 3121.0, 2501.0, 1991.0, 1586.0, 1277.0),
    *(1024.0, 820.0, 655.0, 526.0, 423.0, 335.0, 272.0, 215.0, 172.0, 137.0),
    *(110.0, 87.0, 70.0, 56.0, 45.0, 36.0, 29.0, 23.0, 18.0, 15.0),
)
NICE_MIN: Final = -20
NORMAL_WEIGHT: Final = NICE[0 - NICE_MIN]
DUST_S: Final = 1e-12  # what is left of a work by rounding


class Burst:
    """Work that a task has to do on a CPU."""

    __slots__ = ("done", "ends", "seq", "weight")

    def __init__(self, weight: float, ends: float, seq: int, done: Callable[[], object]) -> None:
        """``ends``: on the clock of its weight."""
        self.weight, self.ends, self.seq, self.done = weight, ends, seq, done


class _Class:
    """All tasks of one weight."""

    __slots__ = ("clock", "count", "heap", "rate")

    def __init__(self) -> None:
        self.clock = 0.0  # seconds of CPU that each of them has got
        self.count = 0  # who can run, loops without an end included
        self.rate = 0.0  # CPUs for each
        self.heap: list[tuple[float, int, Burst]] = []


class Cpus:
    """So many CPUs."""

    def __init__(self, loop: Loop, count: int) -> None:
        """Idle."""
        self._loop, self.count = loop, count
        self._classes: dict[float, _Class] = {}
        self._order: list[tuple[float, _Class]] = []  # the heaviest first
        self._advanced_s = loop.now_s
        self._seq = 0
        self._turn = 0  # of the one completion that is scheduled; all others are out of date
        self._is_completing = False

    def run(self, work_s: float, weight: float, done: Callable[[], object]) -> Burst:
        """Begin a work; ``done`` is called at its end."""
        self._advance()
        burst = Burst(weight, 0.0, 0, done)
        self._add(burst, work_s)
        self._reschedule()
        return burst

    def loops(self, count: int, weight: float) -> None:
        """So many tasks that run without an end, from now on."""
        self._advance()
        self._class(weight).count += count
        self._reschedule()

    def reweigh(self, burst: Burst, weight: float) -> None:
        """Another weight for who is at work."""
        if weight == burst.weight:
            return
        self._advance()
        old = self._classes[burst.weight]
        left_s = burst.ends - old.clock
        old.count -= 1
        old.heap = [entry for entry in old.heap if entry[2] is not burst]
        old.heap.sort()
        burst.weight = weight
        self._add(burst, left_s)
        self._reschedule()

    def rate(self, weight: float) -> float:
        """CPUs that a task of this weight has, or would have."""
        found = self._classes.get(weight)
        return found.rate if found else 0.0

    def _class(self, weight: float) -> _Class:
        found = self._classes.get(weight)
        if found is None:
            found = self._classes[weight] = _Class()
            self._order = sorted(self._classes.items(), key=lambda item: -item[0])
        return found

    def _add(self, burst: Burst, work_s: float) -> None:
        one = self._class(burst.weight)
        self._seq += 1
        burst.ends, burst.seq = one.clock + work_s, self._seq
        one.count += 1
        heappush(one.heap, (burst.ends, burst.seq, burst))

    def _advance(self) -> None:
        """Bring every clock to now."""
        passed_s = self._loop.now_s - self._advanced_s
        if passed_s:
            for _, one in self._order:
                one.clock += one.rate * passed_s
            self._advanced_s = self._loop.now_s

    def _share(self) -> None:
        """Who gets how much."""
        left = float(self.count)
        weights = sum(w * one.count for w, one in self._order if w != FIFO and one.count)
        for weight, one in self._order:
            if not one.count:
                one.rate = 0.0
                continue
            if weight == FIFO:
                one.rate = min(1.0, left / one.count)
            else:
                one.rate = min(1.0, max(0.0, left) * weight / weights)
                weights -= weight * one.count
            left -= one.rate * one.count

    def _reschedule(self) -> None:
        if self._is_completing:
            return  # there may be more to come; once is enough
        self._share()
        self._turn += 1
        soonest_s = inf
        for _, one in self._order:
            if one.heap and one.rate > 0:
                soonest_s = min(soonest_s, (one.heap[0][0] - one.clock) / one.rate)
        if soonest_s < inf:
            at_s = self._loop.now_s + max(0.0, soonest_s)
            self._loop.at(at_s, self._complete, self._turn, priority=FIRST)

    def _complete(self, turn: int) -> None:
        if turn != self._turn:
            return
        self._advance()
        done = []
        for _, one in self._order:
            while one.heap and one.heap[0][0] - one.clock <= DUST_S + 1e-15 * one.clock:
                burst = heappop(one.heap)[2]
                one.count -= 1
                done.append(burst)
        self._is_completing = True
        for burst in done:
            burst.done()
        self._is_completing = False
        self._reschedule()
