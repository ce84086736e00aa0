"""One trial, told: who stalled, who was killed, what came back, and whether it had to be.

Only the watching and the words live here. Whoever watches changes nothing: the trial has the hash
that it has when nobody does.
"""

from memreap import size
from memreap.simulate.costs import Costs
from memreap.simulate.machine import BYTE, Node
from memreap.simulate.process import Process
from memreap.simulate.scenario import Scenario
from memreap.simulate.strategies import CLAIRVOYANT, strategy
from memreap.simulate.trial import NEEDLESS_S, Job, Result, Runs
from memreap.simulate.world import HORIZON_S, Kill, Killer, World

Line = tuple[float, str]  # since the beginning, and what happened


class Watcher:
    """A killer, and somebody who looks over its shoulder."""

    def __init__(self, killer: Killer) -> None:
        """Nothing was seen yet."""
        self.killer = killer
        self.lines: list[Line] = []
        self._kills = 0
        self._stopped: set[int] = set()
        self._back: set[int] = set()
        self._in_incident: set[str] = set()

    def begin(self, world: World) -> None:
        """It begins."""
        self.killer.begin(world)

    def changed(self, world: World) -> None:
        """Look, and let it do what it does."""
        self._look(world)
        self.killer.changed(world)

    def _look(self, world: World) -> None:
        for node in world.machine.nodes:
            self._look_at_node(world, node)
        for kill in world.kills[self._kills :]:
            self._killed(world, kill)
        self._kills = len(world.kills)
        for process in world.processes:
            self._look_at_process(world, process)

    def _say(self, world: World, text: str) -> None:
        self.lines.append((world.loop.now_s, text))

    def _look_at_node(self, world: World, node: Node) -> None:
        was, now = node.name in self._in_incident, node.in_incident
        if now and not was:
            self._in_incident.add(node.name)
            self._say(world, f"{node.name} has nothing left: {_stalling(world, node)} must wait")
        elif was and not now:
            self._in_incident.discard(node.name)
            free = size.show(int(node.free_bytes))
            self._say(world, f"{node.name} is relieved: {free} free, and nobody waits")

    def _killed(self, world: World, kill: Kill) -> None:
        process = kill.process
        self._stopped.add(process.number)
        holds = size.show(int(world.machine.holdings[process.number].bytes))
        for_ = f" for {world.machine.nodes[kill.node].name}" if len(world.machine.nodes) > 1 else ""
        self._say(world, f"SIGKILL{for_}: {process.name}, {holds}{_hidden(kill)}")

    def _look_at_process(self, world: World, process: Process) -> None:
        holding = world.machine.holdings[process.number]
        if holding.is_stopped and process.number not in self._stopped:
            self._stopped.add(process.number)
            held = size.show(int(holding.stop_bytes))
            if world.machine.first_stall_s is not None:
                self._say(world, f"{process.name} ends by itself, {held}")
        if holding.is_stopped and holding.bytes < BYTE and process.number not in self._back:
            self._back.add(process.number)
            if world.machine.first_stall_s is not None and process.killed_s is not None:
                after = size.seconds(world.loop.now_s - process.killed_s)
                self._say(world, f"{process.name}: its memory is back, after {after}")


def _hidden(kill: Kill) -> str:
    if kill.is_leniently_needless:
        return ", though not a page of an earlier victim is back yet"
    return ", though memory of an earlier victim is on its way" if kill.is_strictly_needless else ""


def _stalling(world: World, node: Node) -> str:
    names = [
        holding.setup.name
        for holding in world.machine.holdings
        if holding.is_growing
        and not holding.rate_bytes_s
        and not holding.swap_rate_bytes_s
        and world.machine.nodes[holding.setup.node] is node
    ]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def tell(job: Job, costs: Costs, scenario: Scenario) -> list[str]:
    """The whole of it, in lines."""
    runs = Runs(scenario.draw(job.seed), strategy(job.strategy), costs)
    if runs.strategy.name == CLAIRVOYANT:
        runs.foresee()
    watcher = Watcher(runs.killer())
    world = World(runs.setup, runs.strategy.design, watcher, costs)
    world.run()
    result = runs.result(job)
    assert result.trace == world.trace.digest, "who watches changes nothing"
    first_s = world.machine.first_stall_s
    head = [
        f"{job.scenario}, seed {job.seed}: {scenario.says}",
        f"{job.strategy}: {runs.strategy.says}.",
        "",
    ]
    if first_s is None:
        return [*head, "Nobody had to wait for memory: there was no incident."]
    lines = [f"{then_s - first_s:10.4f} s  {text}" for then_s, text in watcher.lines]
    return [*head, *lines, "", *_outcome(result, world)]


def _outcome(result: Result, world: World) -> list[str]:
    if result.relief_s is None:
        relief = f"No relief within {HORIZON_S:g} s of the first stall."
    else:
        relief = f"Relief after {size.seconds(result.relief_s)}."
    waited = f"All who waited did so for {size.seconds(result.stalled_s)} together."
    return [f"{relief} {waited}", *_needless(result, world)]


def _needless(result: Result, world: World) -> list[str]:
    """Of each node the last ones, if any: from the first needless one on all are."""
    if not result.kills:
        return ["Nobody was killed."]
    if not result.needless:
        return [f"{_count(result.kills)}, none of them needless."]
    names: list[str] = []
    for number, node in enumerate(result.nodes):
        mine = [kill.process.name for kill in world.kills if kill.node == number]
        names += mine[len(mine) - node.needless :]
    return [
        f"{_count(result.kills)}, {result.needless} needless: without {', '.join(names)} there"
        f" would have been relief within {NEEDLESS_S:g} s of the kill."
    ]


def _count(kills: int) -> str:
    return "1 was killed" if kills == 1 else f"{kills} were killed"
