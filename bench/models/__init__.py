"""One design in one family of scenarios, for our checker and for others.

Only models live here. ``current.m`` (Murphi, for rumur) and ``current.pml`` (Promela, for SPIN)
are written by hand after the kernel, not made from ours: they are there to disagree. All three take
the same steps, so that they have the same states.
"""

from pathlib import Path

from memreap.check.model import Model
from memreap.mm.actors import use_for_a_while
from memreap.mm.kernel import Kernel
from memreap.mm.properties import PROPERTIES
from memreap.mm.scenarios import ACTORS, SCENARIOS, Stage

HERE = Path(__file__).parent
MURPHI = HERE / "current.m"
PROMELA = HERE / "current.pml"

PAGES = 2  # the twins have so many
DAEMONS = 3  # tasks that are there whatever the size: allocator, timer, oom_reaper


def current(readers: int, threads: int) -> Model:
    """``SCENARIOS["reader"]`` of the current kernel, with so many readers and threads.

    The readers are one task several times over: with symmetry they are taken for one another.
    """
    scenario = SCENARIOS["reader"]
    model = Model(f"{Kernel.name} / {readers} readers, {threads} threads")
    k = Kernel(model, [scenario.has], PAGES)
    k.processes = (k.signal("victim"),)
    stage = Stage(k)
    ACTORS["victim"](stage, 0)
    for number in range(2, threads + 1):
        thread = stage.thread(f"thread {number}", 0)
        model.task(thread.comm, k.do_exit, thread)
    ACTORS["allocator"](stage, 0)
    ACTORS["oom_reaper"](stage, 0)
    victim = stage.victims[0]
    reader = k.kernel_task("reader", victim.address_space)
    for _ in range(readers):
        model.task("reader", use_for_a_while, k, victim, reader)
    for name in scenario.asks:
        _ask(model, k, name)
    return model


def _ask(model: Model, k: Kernel, name: str) -> None:
    prop = PROPERTIES[name]
    holds = prop.holds
    if holds is None:
        model.ask(name, prop.kind, why=prop.says)
    else:
        model.ask(name, prop.kind, lambda s: holds(s, k), prop.says)
