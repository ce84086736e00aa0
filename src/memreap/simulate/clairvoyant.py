"""The bound: somebody who knows what is to come, and whose hands cost nothing.

1. It kills at the first stall, everyone of its plan at once, and never again.
2. A victim's memory comes back as fast as two hands could free it that have a CPU each, lose
   nothing to one another and never wait; from a stuck lock never, from one that is held once it is
   let go. No strategy's victim is faster.
3. The plan is found by running the trial forward under many: nobody; each single one of the worst;
   the worst two, three and so on; where several nodes run out, one such choice for each. It takes
   the one that relieves soonest of those that kill nobody needlessly.

So no strategy that tries one of these sets of victims is sooner without a needless kill.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import TYPE_CHECKING

from memreap.simulate.daemon import candidates
from memreap.simulate.process import Process
from memreap.simulate.setup import Hang

if TYPE_CHECKING:
    from memreap.simulate.world import World

HANDS = 2
SINGLES = 12  # of a node, the worst; strategies choose among the first few
SINGLES_OF_MANY = 4  # where several nodes run out
PREFIX = 16

Plan = tuple[int, ...]
"""Processes, by number."""


@dataclass(slots=True)
class Planned:
    """Kills a plan."""

    plan: Plan
    is_done: bool = False

    def begin(self, world: "World") -> None:
        """Nothing yet."""

    def changed(self, world: "World") -> None:
        """At the first stall, all of them."""
        if self.is_done or world.machine.first_stall_s is None:
            return
        self.is_done = True
        for number in self.plan:
            world.loop.at(world.loop.now_s, _kill, world, world.processes[number])


def _kill(world: "World", process: Process) -> None:
    if process.killed_s is not None or not world.may_kill(process.setup.node):
        return
    world.record(process, process.setup.node)
    process.killed_s = world.loop.now_s
    world.machine.stop(process.number)
    resident_bytes = world.machine.holdings[process.number].stop_bytes
    release = release_s(world, process, resident_bytes)
    if release == inf:
        return
    begin_s = process.setup.lock_s if process.setup.hangs is Hang.LOCK_HELD else 0.0
    chunks = len(process.mm.pages)
    for number in range(1, chunks + 1):
        after_s = begin_s + release * number / chunks
        world.loop.after(after_s, world.machine.give_back, process.number, 1 / chunks)


def release_s(world: "World", process: Process, resident_bytes: float) -> float:
    """How long the fastest release takes, once it has begun."""
    if process.setup.hangs is Hang.LOCK:
        return inf
    page = world.costs.page(process.setup.page_bytes)
    pages = resident_bytes / process.setup.page_bytes
    return pages * (page.zap_s + page.free_s) / min(HANDS, world.setup.cpus)


def plans(nobody: "World", stalled: list[int]) -> Iterator[list[Plan]]:
    """Groups of plans. ``nobody``: a world at its first stall; ``stalled``: nodes that run out.

    Within a group they are asked in order, and the first one that relieves ends it.
    """
    yield [()]
    if not stalled:
        return
    many = len(stalled) > 1
    options = [_options(nobody, node, SINGLES_OF_MANY if many else SINGLES) for node in stalled]
    if many:
        for choice in product(*options):
            yield [tuple(dict.fromkeys(number for one in choice for number in one))]
        return
    singles = [plan for plan in options[0] if len(plan) == 1]
    for single in singles:
        yield [single]
    yield [plan for plan in options[0] if len(plan) > 1]


def _options(nobody: "World", node: int, singles: int) -> list[Plan]:
    worst = [one.number for one in candidates(nobody, node)[::-1]]
    prefixes = range(2, 1 + min(len(worst), SINGLES_OF_MANY if singles < SINGLES else PREFIX))
    return [(), *((one,) for one in worst[:singles]), *(tuple(worst[:n]) for n in prefixes)]


@dataclass(frozen=True, slots=True)
class Tried:
    """A plan, and when it relieved."""

    plan: Plan
    relief_s: float


def best(groups: Iterator[list[Plan]], relief: Callable[[Plan], float | None]) -> list[Tried]:
    """All that relieve, the soonest first; of two that are as soon, the one with fewer victims."""
    tried: list[Tried] = []
    for group in groups:
        for plan in group:
            after_s = relief(plan)
            if after_s is not None:
                tried.append(Tried(plan, after_s))
                break
    return sorted(tried, key=lambda one: (one.relief_s, len(one.plan)))
