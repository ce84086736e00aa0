"""The kernel's protocol by the second engine: what the search says, source-DPOR says too."""

import pytest

from memreap.check import dpor
from memreap.check.model import Kind
from memreap.check.search import explore
from memreap.mm.argument import AFTER_THE_KILL, ORDINARY_EXIT
from memreap.mm.designs import DESIGNS
from memreap.mm.kernel import Kernel
from memreap.mm.scenarios import SCENARIOS, Scenario

# In these nobody tries again and again: every run comes to an end.
ENDING = (
    ORDINARY_EXIT,
    AFTER_THE_KILL,
    *(
        SCENARIOS[name]
        for name in (
            "fork-fails",
            "mrelease-aio",
            "mrelease-reader",
            "mrelease-held",
            "mrelease-robust-list",
            "mrelease-held-robust-list",
        )
    ),
)
GOES_ROUND = {("gate-retry", "after-the-kill"), ("rientjes-2018", "after-the-kill")}
PAIRS = [
    (kernel, scenario)
    for kernel in DESIGNS.values()
    for scenario in ENDING
    if scenario.lets(kernel) and (kernel.name, scenario.name) not in GOES_ROUND
]
LOCAL = (Kind.STEP, Kind.AT_END, Kind.NO_DEADLOCK)


@pytest.mark.parametrize(
    ("kernel", "scenario"),
    PAIRS,
    ids=lambda value: value.name,
)
def test_both_engines_agree(kernel: type[Kernel], scenario: Scenario) -> None:
    kinds = scenario.model(kernel).kinds()
    asked = {prop for prop, kind in kinds.items() if kind in LOCAL}
    searched = set(explore(scenario.model(kernel)).broken) & asked
    found = dpor.runs(scenario.model(kernel))
    assert set(found.broken) & asked == searched
    assert found.complete + found.deadlocked > 0


def test_they_agree_on_something_that_is_broken() -> None:
    scenario = SCENARIOS["mrelease-aio"]
    found = dpor.runs(scenario.model(DESIGNS["5.15"]))
    assert "hostage" in found.broken
