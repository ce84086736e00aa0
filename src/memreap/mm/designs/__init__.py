"""Designs: what was merged, and what was proposed, each as a difference from another one."""

from memreap.mm.designs.of_2017 import (
    AlwaysLock,
    GateRetry,
    GateRetryBounded,
    Merged414,
    TestAndSet,
    TestAndSetUnlocked,
)
from memreap.mm.designs.of_2018 import Handover2018, Rientjes2018
from memreap.mm.designs.pre_4_14 import Pre414
from memreap.mm.designs.since_4_15 import V60, V415, V417, V419, V515, V518, V515First
from memreap.mm.kernel import Kernel

DESIGNS: dict[str, type[Kernel]] = {
    kernel.name: kernel
    for kernel in (
        Pre414,
        GateRetry,
        GateRetryBounded,
        AlwaysLock,
        TestAndSet,
        TestAndSetUnlocked,
        Merged414,
        V415,
        V417,
        Rientjes2018,
        Handover2018,
        V419,
        V515First,
        V515,
        V518,
        V60,
        Kernel,
    )
}
"""By name, in the order of time."""

__all__ = ["DESIGNS"]
