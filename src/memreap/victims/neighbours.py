"""Processes that want the CPU: what a victim, and a killer, have to compete with.

Only CPU-bound bystanders live here. They hold no memory to speak of and are never victims. They
are of the victim's own session, because the scheduler shares a CPU out by session first
(sched(7), autogroup): across sessions even a SCHED_IDLE victim would get its half.
"""

import os
import signal

from memreap.linux import syscalls

SIGNALS_OF_HOST = {signal.SIGTERM, signal.SIGINT}


def spin() -> int:
    """Fork one neighbour; its pid. It ends with the process that forked it."""
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS_OF_HOST)
        while os.getppid() == parent:
            for _ in range(1_000_000):
                pass
    finally:
        os._exit(0)
