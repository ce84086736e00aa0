"""Who descends from whom, and who is new. See proc_pid_stat(5), fs/proc/loadavg.c.

Only what tells a family apart lives here: parents, the newest pid, and whether a process is a
fork of ours that never called exec.
"""

import os
from dataclasses import dataclass

from memreap.linux.procfs import Procfs

# Positions in /proc/PID/stat behind the name.
_PPID, _START_TICKS, _START_STACK, _ARG_START, _ENV_END = 1, 19, 25, 45, 48


@dataclass(frozen=True, slots=True)
class Kin:
    """A process, its parent, and the addresses that its mm was born with.

    ``birthmark`` is copied by fork and made anew, at random places, by exec: equal birthmarks
    are one program and its forks. All 0 where another user's process does not show it.
    """

    pid: int
    ppid: int
    start_ticks: int
    birthmark: tuple[int, ...]


def parse_kin(raw: bytes) -> Kin:
    """Parse /proc/PID/stat."""
    head, _, tail = raw.rpartition(b")")
    field = tail.split()
    marks = (field[_START_STACK], *field[_ARG_START : _ENV_END + 1])
    return Kin(
        pid=int(head.partition(b" (")[0]),
        ppid=int(field[_PPID]),
        start_ticks=int(field[_START_TICKS]),
        birthmark=tuple(map(int, marks)),
    )


def kin(pid: int, procfs: Procfs) -> Kin:
    """Read one process's kin. Pins the mm for an instant. Raises as Procfs does."""
    fd = os.open(f"{procfs.root}/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return parse_kin(os.read(fd, 4096))
    finally:
        os.close(fd)


class LastPid:
    """The pid that this pid namespace gave out last, on a kept descriptor: 2 us a read."""

    def __init__(self, procfs: Procfs) -> None:
        """Open /proc/loadavg, whose last field it is."""
        self._fd = os.open(f"{procfs.root}/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        self._tail = b""

    def read(self) -> int:
        """The newest pid; it may not show in /proc yet."""
        newest = os.pread(self._fd, 128, 0).rpartition(b" ")[2]
        self._tail = b" " + newest
        return int(newest)

    @property
    def last(self) -> tuple[int, bytes]:
        """(the descriptor, how what was read of it last ended): to be compared with a new read."""
        return self._fd, self._tail

    def close(self) -> None:
        """Let go of the descriptor."""
        os.close(self._fd)
