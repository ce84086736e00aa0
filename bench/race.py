"""How often the reap gets the mm before the victim drops it: 1,000 kills of small sleepers.

Fresh forks of this process are the victims: single-threaded, 64 MiB, asleep, which is the
hardest case, since they run to exit_mm the moment they are woken.
"""

import os
import select
import signal
import time

from memreap.linux import scheduling
from memreap.reap import hold as hold_
from memreap.reap.execution import Execution
from memreap.reap.victim import identify
from memreap.victims.scene import hold

SIZE_BYTES = 64 << 20


def share(kills: int, mode: hold_.Mode) -> float:
    """Of the kills in which process_mrelease found the mm in place."""
    return sum(_reap_won(mode) for _ in range(kills)) / kills


def _reap_won(mode: hold_.Mode) -> bool:
    pid = _sleeper()
    victim = identify(pid)
    execution = Execution(victim, mode)
    try:
        with scheduling.watching():
            execution.start(time.monotonic())
            while execution.outcome is None:
                select.select(execution.fds(), [], [], 1.0)
                execution.advance(time.monotonic())
    finally:
        os.waitpid(pid, 0)
        victim.close()
    return execution.evidence is not None and execution.evidence.mrelease == 0


def _sleeper() -> int:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            memory = hold(SIZE_BYTES)
            os.write(write, b"!")
            while len(memory):
                signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return pid
