"""Ends a guest that stands still, so that it is known, and the next may come. In the guest.

A process of real-time priority, locked in memory: it needs no more than a timer. Where the whole
kernel stands still, the host's own limit is left.
"""

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import NoReturn

PRIORITY = 90
LAST_WORDS = "sysrq triggered crash"
"""What the console says then."""
_MCL_CURRENT = 1


class Watchdog:
    """Barks once."""

    def __init__(self, after_s: float) -> None:
        """Crash the guest unless it is told off before."""
        self._pid = os.fork()
        if self._pid == 0:
            _watch(after_s)

    def tell_off(self) -> None:
        """Nothing stands still."""
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


def _watch(after_s: float) -> NoReturn:
    try:
        Path("/proc/self/oom_score_adj").write_text("-1000")
        ctypes.CDLL(None).mlockall(_MCL_CURRENT)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        Path("/proc/sys/kernel/sysrq").write_text("1")
        fd = os.open("/proc/sysrq-trigger", os.O_WRONLY)
        time.sleep(after_s)
        os.write(fd, b"c")
    finally:
        os._exit(1)
