"""Killers in user space, and the hands they all have: boost, SIGKILL, ``process_mrelease``.

1. The hands are the same for all, so that strategies differ in nothing but whom, and when next.
2. A daemon reads when something has changed, at its next reading; or when its patience is over.
3. Its hands end one victim after the other, or at once: a hand that hangs is given up.
4. It acts on a node from the first stall on, until relief. What is won by acting sooner, on a line
   of one's own, is another question than how long to wait for a victim.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from memreap.check.operation import Steps
from memreap.mm.mm_struct import TaskStruct
from memreap.mm.oom_kill import do_send_sig_info, kill_and_release
from memreap.reap.hold import UNDER_WAY_S
from memreap.reap.reaper import SECOND_HAND_BYTES_MIN, SECOND_HAND_NAP_S
from memreap.simulate.allocator import badness_pages
from memreap.simulate.cpus import FIFO, FIFO_BELOW
from memreap.simulate.loop import LAST
from memreap.simulate.process import Process
from memreap.simulate.setup import Io

if TYPE_CHECKING:
    from memreap.simulate.world import World

OOM_SCORE_ADJ_MIN = -1000
HOLD_S = SECOND_HAND_NAP_S + UNDER_WAY_S


def kill_and_reap(world: "World", victim: Process) -> Steps:
    """Whoever shares its memory dies with it, else nothing would come back."""
    for sharer in victim.signals[1:]:
        yield do_send_sig_info(sharer)
    k = world.k
    current = TaskStruct("mrelease", k.nobody, k.held, k.held, victim.mm)
    yield from kill_and_release(k, victim.main, current)


def kill(world: "World", victim: Process, node: int) -> bool:
    """Back to back, in real time; false where this world lets nobody be killed any more."""
    if not world.may_kill(node):
        return False
    victim.doomed_on = node
    world.boost(victim)
    hands(world, victim)
    return True


def hands(world: "World", victim: Process) -> None:
    """The reaper, and for a large victim a second one, which works where the victim does not.

    One that may hang in ``exit_aio`` is held until both have begun: later, neither finds its mm.
    """
    if victim.setup.io is not Io.NONE:
        victim.hold_s = HOLD_S
    world.tasks.spawn(f"reaper of {victim.name}", FIFO, kill_and_reap, world, victim)
    if world.bytes_of(victim) >= SECOND_HAND_BYTES_MIN:
        world.loop.after(SECOND_HAND_NAP_S, _second_hand, world, victim)


def _second_hand(world: "World", victim: Process) -> None:
    k = world.k
    current = TaskStruct("second hand", k.nobody, k.held, k.held, victim.mm)
    name = f"second hand of {victim.name}"
    world.tasks.spawn(name, FIFO_BELOW, k.process_mrelease, victim.main, current)


def candidates(world: "World", node: int) -> list[Process]:
    """Who may be killed for a node, best last."""
    s = world.tasks.s
    there = [
        one
        for one in world.eligible(node)
        if one.setup.oom_score_adj != OOM_SCORE_ADJ_MIN
        and not s[one.main.signal.sigkill]
        and one.killed_s is None
    ]
    return sorted(there, key=lambda one: (badness_pages(world, one), one.number))


class Readings:
    """When a daemon looks: soon after a change, and not more often than it can."""

    def __init__(self, look: Callable[["World"], object]) -> None:
        """``look``: what it does then."""
        self._look = look
        self._due_s: float | None = None

    def soon(self, world: "World") -> None:
        """At the next reading after now."""
        every_s = world.costs.reading_s
        self.at(world, (ceil(world.loop.now_s / every_s + 1e-9)) * every_s)

    def at(self, world: "World", time_s: float) -> None:
        """At a time, unless one is due before that."""
        if self._due_s is not None and self._due_s <= time_s:
            return
        self._due_s = time_s
        world.loop.at(max(time_s, world.loop.now_s), self._due, world, time_s, priority=LAST)

    def _due(self, world: "World", time_s: float) -> None:
        if self._due_s == time_s:
            self._due_s = None
            self._look(world)


@dataclass(slots=True)
class Waiting:
    """A victim, and until when it is waited for."""

    victim: Process
    until_s: float


@dataclass(slots=True)
class Ward:
    """Nodes that have one victim at a time together."""

    nodes: tuple[int, ...]
    waiting: Waiting | None = None
    is_deciding: bool = False


@dataclass(slots=True)
class FixedPatience:
    """One victim at a time; the next one when the memory is back and that was not enough, or when
    the patience is over, whatever has come back by then.
    """

    patience_s: float
    by_node: bool  # one at a time for each node, or for the machine
    wards: list[Ward] = field(default_factory=list)
    readings: Readings | None = None

    def begin(self, world: "World") -> None:
        """With nobody."""
        numbers = range(len(world.setup.nodes))
        self.wards = [Ward((n,)) for n in numbers] if self.by_node else [Ward(tuple(numbers))]
        self.readings = Readings(self._look)

    def changed(self, world: "World") -> None:
        """Look soon."""
        if self.readings is not None and world.machine.first_stall_s is not None:
            self.readings.soon(world)

    def _look(self, world: "World") -> None:
        assert self.readings is not None
        for ward in self.wards:
            waiting = ward.waiting
            if waiting is not None:
                is_over = world.loop.now_s >= waiting.until_s
                if not is_over and not world.is_back(waiting.victim):
                    self.readings.at(world, waiting.until_s)
                    continue
                ward.waiting = None
            if not ward.is_deciding and self._pressed(world, ward) is not None:
                ward.is_deciding = True
                world.loop.after(world.costs.decide_s, self._decide, world, ward)

    def _pressed(self, world: "World", ward: Ward) -> int | None:
        """A node that is in an incident: the one that has been for longest."""
        nodes = world.machine.nodes
        pressed = [n for n in ward.nodes if nodes[n].in_incident]
        return min(pressed, key=lambda n: (nodes[n].first_stall_s, n), default=None)

    def _decide(self, world: "World", ward: Ward) -> None:
        ward.is_deciding = False
        node = self._pressed(world, ward)
        there = candidates(world, node) if node is not None else []
        if node is None or not there or not kill(world, there[-1], node):
            return
        ward.waiting = Waiting(there[-1], world.loop.now_s + self.patience_s)
        assert self.readings is not None
        self.readings.at(world, ward.waiting.until_s)
