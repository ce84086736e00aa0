"""Strategies for the next victim. One table.

A strategy is a kernel's design and who kills. Those of the kernel kill where it kills; those of
user space run on today's kernel, whose own killer stays out of it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from memreap.mm.designs.of_2017 import GateRetry
from memreap.mm.designs.pre_4_14 import Pre414
from memreap.mm.kernel import Kernel
from memreap.simulate.allocator import KernelKiller
from memreap.simulate.clairvoyant import Planned
from memreap.simulate.daemon import FixedPatience
from memreap.simulate.progress import ProgressPatience
from memreap.simulate.world import Killer

CLAIRVOYANT = "clairvoyant"
DEFAULT_PATIENCE_S = 2.0
PATIENCE_MAX_S = 3600.0


class StrategyError(ValueError):
    """No strategy of that name."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """``says``: what it does, in a line. ``killer`` makes a new one for each run."""

    name: str
    says: str
    design: type[Kernel]
    killer: Callable[[], Killer]


def _kernel(name: str, says: str, design: type[Kernel]) -> Strategy:
    return Strategy(name, says, design, KernelKiller)


def _fixed(name: str, patience_s: float) -> Strategy:
    says = f"user space, one victim at a time, the next one after {patience_s:g} s at the latest"
    return Strategy(name, says, Kernel, lambda: FixedPatience(patience_s, by_node=False))


def _by_node(name: str, patience_s: float) -> Strategy:
    says = f"the same, one victim at a time for each NUMA node, {patience_s:g} s"
    return Strategy(name, says, Kernel, lambda: FixedPatience(patience_s, by_node=True))


def _guard(name: str, patience_s: float) -> Strategy:
    says = f"memreap guard: the next one after {patience_s:g} s without progress, for each node"
    return Strategy(name, says, Kernel, lambda: ProgressPatience(patience_s))


FAMILIES: dict[str, Callable[[str, float], Strategy]] = {
    "patience": _fixed,
    "domain": _by_node,
    "guard": _guard,
}
_NAME = re.compile(r"([a-z]+)(?:-(\d{1,4}(?:\.\d{1,4})?))?", re.ASCII)

FIXED_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        _kernel(
            "pre-4.14", "4.9 to 4.12: the reaper at once, and done where it gets no mm", Pre414
        ),
        _kernel(
            "gate-retry",
            "no concurrency: the reaper tries until the exit path is through",
            GateRetry,
        ),
        _kernel("kernel", "today: the reaper after 2 s, 10 tries of 0.1 s, one for all", Kernel),
        *(_fixed(f"patience-{patience_s:g}", patience_s) for patience_s in FIXED_S),
        _by_node("domain-2", 2.0),
        *(_guard(f"guard-{patience_s:g}", patience_s) for patience_s in FIXED_S),
        Strategy(CLAIRVOYANT, "knows what is to come: a bound", Kernel, lambda: Planned(())),
    )
}
"""By name. ``patience-S``, ``domain-S``, ``guard-S`` are there for any S; ``guard`` is guard-2."""


def strategy(name: str) -> Strategy:
    """By its name. Raises StrategyError."""
    if name in STRATEGIES:
        return STRATEGIES[name]
    match = _NAME.fullmatch(name)
    family = FAMILIES.get(match[1]) if match else None
    if match is None or family is None:
        raise StrategyError(f"no strategy {name!r}; there are {', '.join(STRATEGIES)}")
    patience_s = float(match[2]) if match[2] else DEFAULT_PATIENCE_S
    if not 0 < patience_s <= PATIENCE_MAX_S:
        raise StrategyError(f"{name}: patience is more than 0 and at most {PATIENCE_MAX_S:g} s")
    return family(name, patience_s)
