"""Who is born of a crowd while it dies: found, held by a pidfd, and said to be one of them.

That is answered without the memory of a process being touched: by the list of its cgroup, its name,
its owner and its oom_score_adj. It comes after the kill: what little it has to allocate, the dying
give back.
"""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from memreap.decide.badness import OOM_SCORE_ADJ_MIN
from memreap.linux.procfs import Procfs

CHASE_S = 0.05  # at most
EMPTY_ROUNDS = 2  # one that is being born may not be listed yet


class Chase:
    """Who was born of a crowd since it was looked at."""

    def __init__(
        self, directory: str, name: str, uid: int, after_pid: int, spared: Iterable[int]
    ) -> None:
        """``directory``: of its cgroup; ``after_pid``: the newest there was at the look."""
        self._members = Path(directory, "cgroup.procs")
        self._name, self._uid, self._after_pid = name, uid, after_pid
        self._known = set(spared)
        self._procfs = Procfs()

    def rounds(self) -> Iterator[list[tuple[int, int]]]:
        """(pid, pidfd, the taker's) of those who are new, again and again until nobody is."""
        until_s, empty = time.monotonic() + CHASE_S, 0
        while empty < EMPTY_ROUNDS and time.monotonic() < until_s:
            born = list(self._born())
            empty = 0 if born else empty + 1
            if born:
                yield born

    def _born(self) -> Iterator[tuple[int, int]]:
        try:
            listed = self._members.read_bytes().split()
        except OSError:  # the cgroup is gone, and everybody in it
            return
        for pid in map(int, listed):
            if pid <= self._after_pid or pid in self._known:
                continue
            self._known.add(pid)
            with contextlib.suppress(OSError):  # it is gone, or no descriptor is left
                pidfd = os.pidfd_open(pid)
                if self._is_kin(pid):
                    yield pid, pidfd
                else:
                    os.close(pidfd)

    def _is_kin(self, pid: int) -> bool:
        try:
            alike = self._procfs.comm(pid) == self._name and self._procfs.owner(pid) == self._uid
            return alike and self._procfs.oom_score_adj(pid) != OOM_SCORE_ADJ_MIN
        except (OSError, ValueError):
            return False
