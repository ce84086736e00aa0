"""The guard's own decisions on the clock: the real Realm, a domain for each node.

Only what carries events to it and effects from it lives here. Patience is a parameter.
"""

from typing import TYPE_CHECKING

from memreap.decide.domain import Phase, Rules
from memreap.decide.events import (
    AskCandidates,
    Candidate,
    Candidates,
    Effect,
    Identity,
    Kill,
    Measured,
    VictimReleased,
)
from memreap.decide.realm import Realm
from memreap.simulate.costs import SMALL_BYTES
from memreap.simulate.daemon import Readings, kill
from memreap.simulate.process import Process

if TYPE_CHECKING:
    from memreap.simulate.world import World


class ProgressPatience:
    """The guard."""

    def __init__(self, patience_s: float) -> None:
        """``patience_s``: without progress."""
        self.patience_s = patience_s
        self.realm = Realm()
        self.readings = Readings(self._look)

    def begin(self, world: "World") -> None:
        """A domain for each node: over its line while free memory is below the high watermark."""
        for one in world.setup.nodes:
            rules = Rules(
                limit_bytes=one.size_bytes - one.high_bytes,
                totalpages=one.size_bytes // SMALL_BYTES,
                patience_s=self.patience_s,
            )
            self.realm.add(one.name, rules)

    def changed(self, world: "World") -> None:
        """Look soon."""
        if world.machine.first_stall_s is not None:
            self.readings.soon(world)

    def _look(self, world: "World") -> None:
        now_s = world.loop.now_s
        for number, node in enumerate(world.machine.nodes):
            victim = self._victim(world, node.name)
            if victim is not None and world.is_back(victim):
                released = VictimReleased(node.name, _identity(victim), now_s)
                self._act(world, self.realm.step(now_s, released))
            self._act(world, self.realm.step(now_s, self._measured(world, number)))
        self._act(world, self.realm.tick(now_s))
        self._look_again(world)

    def _look_again(self, world: "World") -> None:
        """When time alone decides, or a fresh reading does."""
        if self.realm.deadline_s is not None:
            self.readings.at(world, self.realm.deadline_s)
        if any(domain.state.phase is Phase.DRAINING for domain in self.realm):
            self.readings.soon(world)

    def _measured(self, world: "World", number: int) -> Measured:
        """Before its first stall, and after relief, a node is within its line. See ``daemon``."""
        world.machine.advance()
        node = world.machine.nodes[number]
        limit_bytes = node.setup.size_bytes - node.setup.high_bytes
        usage_bytes = node.used_bytes if node.in_incident else min(node.used_bytes, limit_bytes)
        if node.in_incident:
            usage_bytes = max(usage_bytes, limit_bytes + 1)  # somebody stalls
        victim = self._victim(world, node.name)
        left_bytes = int(world.bytes_of(victim)) if victim else None
        return Measured(node.name, world.loop.now_s, usage_bytes, left_bytes)

    def _act(self, world: "World", effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case AskCandidates():
                    world.loop.after(world.costs.decide_s, self._answer, world, effect.domain)
                case Kill():
                    self._kill(world, effect)

    def _answer(self, world: "World", domain: str) -> None:
        node = self._number(world, domain)
        everyone = tuple(_candidate(world, one) for one in world.eligible(node))
        now_s = world.loop.now_s
        effects = self.realm.step(now_s, Candidates(domain, everyone))
        self._act(world, effects)
        self._look_again(world)

    def _kill(self, world: "World", effect: Kill) -> None:
        victim = world.processes[effect.victim.identity.pid - FIRST_PID]
        kill(world, victim, self._number(world, effect.domain))

    def _victim(self, world: "World", domain: str) -> Process | None:
        """Whom a domain waits for."""
        victim = self.realm.domain(domain).state.victim
        return None if victim is None else world.processes[victim.identity.pid - FIRST_PID]

    def _number(self, world: "World", domain: str) -> int:
        return [one.name for one in world.setup.nodes].index(domain)


FIRST_PID = 1000  # no process of a scenario is init


def _identity(process: Process) -> Identity:
    return Identity(FIRST_PID + process.number, 0)


def _candidate(world: "World", process: Process) -> Candidate:
    s = world.tasks.s
    holding = world.machine.holdings[process.number]
    return Candidate(
        members=(_identity(process),),
        name=process.name,
        rss_pages=int(sum(holding.held_bytes)) // SMALL_BYTES,
        swap_pages=int(holding.swapped_bytes) // SMALL_BYTES,
        oom_score_adj=process.setup.oom_score_adj,
        has_mm=any(s[thread.mm] for thread in process.threads),
        barred="it is ending" if s[process.main.signal.sigkill] else "",
    )
