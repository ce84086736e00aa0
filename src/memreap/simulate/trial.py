"""One trial: a scenario, a strategy, a seed; and what came of it.

Only what goes into a trial and what comes out lives here. The same job gives the same result, to
the last bit, in any process.

**Relief** comes when, after the first stall, nobody stalls at any node and each that ran out has
its high watermark free again, and that lasts for SETTLE_S. It is counted from the first stall:
until then all strategies have the same run.

A kill is **needless** if without it, and without the later ones for its node, that node would have
had relief within NEEDLESS_S of it all the same: found out by running the trial again without them.
NEEDLESS_S is the longest wait that anyone proposed for the kernel (David Rientjes, May 2018): a
kill that saves a machine more than that is not needless. Beside it stand the two readings that
``memreap check`` has (``mm.oom_kill.kill_next``), asked at the moment of the kill of every earlier
victim of its node: **strictly** needless while memory of one is on its way, **leniently** if not a
page of that one is back. Neither asks whether that memory would have been enough, or how long it
would have taken.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from memreap.simulate import clairvoyant, scenario, strategies
from memreap.simulate.costs import Costs, calibrated
from memreap.simulate.scenario import Scenario
from memreap.simulate.setup import Setup
from memreap.simulate.strategies import CLAIRVOYANT, Strategy
from memreap.simulate.world import SETTLE_S, Killer, World

NEEDLESS_S = 10.0


@dataclass(frozen=True, slots=True)
class Job:
    """``scenario``: a shipped one's name, or a path. ``strategy``: a name of STRATEGIES."""

    scenario: str
    strategy: str
    seed: int


@dataclass(frozen=True, slots=True)
class NodeResult:
    """The same of one NUMA node. ``relief_s``: since the first stall anywhere; 0: it had none."""

    node: str
    relief_s: float | None
    stalled_s: float
    kills: int
    needless: int


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a trial."""

    scenario: str
    strategy: str
    seed: int
    relief_s: float | None  # None: not within HORIZON_S of the first stall
    needless: int  # without them relief would have come within NEEDLESS_S all the same
    needless_strict: int  # while memory of an earlier victim was on its way
    needless_lenient: int  # the same, and not a page of it was back
    kills: int
    stalled_s: float  # summed over all who stalled
    events: int
    trace: str  # a hash of all that happened, in order
    victims: tuple[str, ...]  # in the order they were killed
    nodes: tuple[NodeResult, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def run(job: Job, costs: Costs | None = None, loaded: Scenario | None = None) -> Result:
    """All of it. ``loaded``: the scenario, where its file need not be here.

    Raises ScenarioError, StrategyError.
    """
    setup = (loaded or scenario.load(job.scenario)).draw(job.seed)
    strategy = strategies.strategy(job.strategy)
    runs = Runs(setup, strategy, costs or calibrated())
    if strategy.name == CLAIRVOYANT:
        runs.foresee()
    return runs.result(job)


class Runs:
    """A strategy in one incident, as often as it takes to know what each kill was for."""

    def __init__(self, setup: Setup, strategy: Strategy, costs: Costs) -> None:
        """Nothing has run yet."""
        self.setup, self.strategy, self.costs = setup, strategy, costs
        self.killer: Callable[[], Killer] = strategy.killer
        self.events = 0

    def world(self, allow: dict[int, int] | None = None) -> World:
        """A new one, at its beginning."""
        return World(self.setup, self.strategy.design, self.killer(), self.costs, allow)

    def result(self, job: Job) -> Result:
        """Of one run, and its needless kills."""
        world = self.world()
        world.run()
        begun_s = world.machine.first_stall_s
        needless = [self.needless(world, number) for number in range(len(world.machine.nodes))]
        relieved_s = world.machine.relieved_s
        return Result(
            scenario=job.scenario,
            strategy=job.strategy,
            seed=job.seed,
            relief_s=_since(begun_s, relieved_s) if begun_s is not None else 0.0,
            needless=sum(needless),
            needless_strict=sum(kill.is_strictly_needless for kill in world.kills),
            needless_lenient=sum(kill.is_leniently_needless for kill in world.kills),
            kills=len(world.kills),
            stalled_s=sum(node.stalled_s for node in world.machine.nodes),
            events=world.loop.events,
            trace=world.trace.digest,
            victims=tuple(kill.process.name for kill in world.kills),
            nodes=tuple(
                NodeResult(
                    node=node.name,
                    relief_s=0.0
                    if node.first_stall_s is None
                    else _since(begun_s, node.relieved_s),
                    stalled_s=node.stalled_s,
                    kills=sum(kill.node == number for kill in world.kills),
                    needless=needless[number],
                )
                for number, node in enumerate(world.machine.nodes)
            ),
        )

    def needless(self, world: World, node: int) -> int:
        """How many of the kills for a node were needless: from the first such one on, all are."""
        kills = [kill for kill in world.kills if kill.node == node]
        for number, kill in enumerate(kills):
            without = self.world({node: number})
            until_s = kill.at_s + NEEDLESS_S
            without.run(until_s + SETTLE_S)
            relieved_s = without.machine.nodes[node].relieved_s
            if relieved_s is not None and relieved_s <= until_s:
                return len(kills) - number
        return 0

    def foresee(self) -> None:
        """Find the clairvoyant's plan."""
        ahead = self.world()
        ahead.run()
        stalled = [
            number
            for number, node in enumerate(ahead.machine.nodes)
            if node.first_stall_s is not None
        ]
        begun_s = ahead.machine.first_stall_s
        by_itself_s = _since(begun_s, ahead.machine.relieved_s)
        if by_itself_s is not None and by_itself_s <= NEEDLESS_S:
            return  # every kill would be needless
        nobody = self.world()
        nobody.run(begun_s)

        def relief(plan: clairvoyant.Plan) -> float | None:
            self.killer = lambda: clairvoyant.Planned(plan)
            world = self.world()
            world.run()
            return _since(begun_s, world.machine.relieved_s)

        for tried in clairvoyant.best(clairvoyant.plans(nobody, stalled), relief):
            plan = tried.plan
            self.killer = lambda plan=plan: clairvoyant.Planned(plan)  # type: ignore[misc]
            world = self.world()
            world.run()
            if not any(self.needless(world, node) for node in stalled):
                return
        self.killer = lambda: clairvoyant.Planned(())


def _since(begun_s: float | None, then_s: float | None) -> float | None:
    return None if begun_s is None or then_s is None else then_s - begun_s
