"""What a user names to be killed, and which processes that means now.

Only the naming lives here; whether a process may be killed is ``victim``'s business.
"""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from memreap.linux import cgroups
from memreap.linux.procfs import Procfs

TREE_SCANS_MAX = 8


class Target(Protocol):
    """Some processes, by one name; ``str`` gives it as people write it."""

    def pids(self, proc: Procfs) -> list[int]:
        """Who may be meant; may read, in a worker, files that hang."""
        ...

    def means(self, pid: int, proc: Procfs) -> bool:
        """Whether this one is meant; may hang."""
        ...

    def newcomers(self, known: set[int], proc: Procfs) -> list[int]:
        """Who belongs to it now and is not known yet. Never hangs."""
        ...


@dataclass(frozen=True, slots=True)
class Pids:
    """Processes by number."""

    numbers: tuple[int, ...]

    def pids(self, proc: Procfs) -> list[int]:
        """Those numbers, whether or not there is such a process."""
        del proc
        return list(dict.fromkeys(self.numbers))

    def means(self, pid: int, proc: Procfs) -> bool:
        """Whether it is one of the numbers."""
        del proc
        return pid in self.numbers

    def __str__(self) -> str:
        """As people write it."""
        return " ".join(map(str, self.numbers))

    def newcomers(self, known: set[int], proc: Procfs) -> list[int]:
        """Nobody: a number means one process."""
        del known, proc
        return []


@dataclass(frozen=True, slots=True)
class Tree:
    """A process and all its descendants that can still be told: orphans have left it."""

    root: int

    def pids(self, proc: Procfs) -> list[int]:
        """Root and descendants, scanned until nobody is new."""
        found = [self.root]
        for _ in range(TREE_SCANS_MAX):
            grown = _descendants(found, proc)
            if grown == found:
                break
            found = grown
        return found

    def means(self, pid: int, proc: Procfs) -> bool:
        """Everyone ``pids`` gave."""
        del pid, proc
        return True

    def __str__(self) -> str:
        """As people write it."""
        return f"--tree {self.root}"

    def newcomers(self, known: set[int], proc: Procfs) -> list[int]:
        """Children that were forked since; to be asked before the kill, not after."""
        return [pid for pid in _descendants([self.root], proc) if pid not in known]


def _descendants(roots: list[int], proc: Procfs) -> list[int]:
    """Roots and all below, parents first. Reads ``children``, which pins nothing."""
    found = list(dict.fromkeys(roots))
    for pid in found:  # grows while it is walked
        with contextlib.suppress(OSError):
            found.extend(child for child in proc.children(pid) if child not in found)
    return found


@dataclass(frozen=True, slots=True)
class Cgroup:
    """Everything in a cgroup and below it, new forks too."""

    directory: Path

    def pids(self, proc: Procfs) -> list[int]:
        """Its members now."""
        del proc
        return cgroups.members(self.directory)

    def means(self, pid: int, proc: Procfs) -> bool:
        """Every member."""
        del pid, proc
        return True

    def __str__(self) -> str:
        """As people write it."""
        return f"--cgroup {self.directory}"

    def newcomers(self, known: set[int], proc: Procfs) -> list[int]:
        """Members that came since; the group is gone when its last member is."""
        del proc
        with contextlib.suppress(FileNotFoundError):
            return [pid for pid in cgroups.members(self.directory) if pid not in known]
        return []


@dataclass(frozen=True, slots=True)
class Match:
    """Every process whose full command line a regular expression finds."""

    regex: str

    def pids(self, proc: Procfs) -> list[int]:
        """Every process of the machine but the one that looks."""
        return [pid for pid in proc.pids() if pid != os.getpid()]

    def means(self, pid: int, proc: Procfs) -> bool:
        """Whether its command line is found. Waits for mmap_lock."""
        line = proc.cmdline(pid)
        return bool(line) and re.search(self.regex, line) is not None

    def __str__(self) -> str:
        """As people write it."""
        return f"--match {self.regex}"

    def newcomers(self, known: set[int], proc: Procfs) -> list[int]:
        """Nobody: who matches later was not meant when it was asked."""
        del known, proc
        return []
