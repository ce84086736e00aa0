"""How long one victim's memory takes to come back: what a calibration compares with real kills."""

from memreap.mm.kernel import Kernel
from memreap.simulate.costs import Costs
from memreap.simulate.daemon import hands
from memreap.simulate.setup import ProcessSetup, Setup, node
from memreap.simulate.world import World

ROOM = 4  # times the victim's size: nobody stalls


class _Nobody:
    """Kills nobody: the kill is not what is asked about."""

    def begin(self, world: World) -> None:
        """Nothing."""

    def changed(self, world: World) -> None:
        """Nothing."""


def release_s(
    victim: ProcessSetup,
    costs: Costs,
    *,
    reap: bool,
    boost: bool,
    cpus: int = 2,
    busy: int = 0,
    within_s: float = 600.0,
) -> float | None:
    """From the SIGKILL until all of it is back; None where it is not, within a time.

    ``boost``: SCHED_FIFO for its threads; ``reap``: ``process_mrelease`` right behind the signal.
    """
    there = (node("node0", victim.size_bytes * ROOM),)
    setup = Setup("release", 0, cpus, busy, there, 0, 0.0, (victim,))
    world = World(setup, Kernel, _Nobody(), costs)
    process = world.processes[0]
    if boost:
        world.boost(process)
    if reap:
        hands(world, process)
    else:
        for signal in process.signals:
            world.tasks.write(signal.sigkill, True)
    while not world.is_back(process):
        next_s = world.loop.next_s
        if next_s is None or next_s > within_s:
            return None
        world.loop.step()
    return world.loop.now_s
