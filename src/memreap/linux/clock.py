"""How long the machine has slept. See clock_gettime(2), CLOCK_BOOTTIME.

Only what the kernel's clocks say of suspend lives here.
"""

import time


def slept_s() -> float:
    """Seconds spent suspended since boot: once it grows, every figure from before is stale."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
