"""Clearing the cgroups away, even if the demo itself is killed.

A child that sleeps until its pipe ends, which the end of the demo does, however it comes. Only
then it acts: thaws, lifts limits, and removes what is empty by then.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from memreap.linux import cgroups

RELAX = {"freezer.state": "THAWED", "cpu.cfs_quota_us": "-1", "cpu.max": "max"}
CLEAR_TIMEOUT_S = 6.0


@contextlib.contextmanager
def janitor(groups: list[Path]) -> Iterator[None]:
    """Watch over these groups while the block runs; behind it they are relaxed and removed."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _wait_and_clear(read, write, groups)
    os.close(read)
    try:
        yield
    finally:
        os.close(write)
        os.waitpid(pid, 0)


def _wait_and_clear(read: int, write: int, groups: list[Path]) -> None:
    try:
        os.setsid()  # what the terminal sends to the demo is not for us
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(write)
        os.read(read, 1)
        clear(groups)
    finally:
        os._exit(0)


def relax(groups: list[Path]) -> None:
    """Let everyone in them go on, to their end."""
    for group in groups:
        for name, value in RELAX.items():
            with contextlib.suppress(OSError):
                if (group / name).exists():
                    (group / name).write_text(value)


def clear(groups: list[Path]) -> None:
    """The same, and remove them once they are empty."""
    relax(groups)
    for group in groups:
        with contextlib.suppress(OSError):
            cgroups.remove(group, CLEAR_TIMEOUT_S)
