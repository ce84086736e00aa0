"""A cgroup as a folder: who is in it and below it, and how many were killed there by the kernel.

Only what is read from a cgroup's own files lives here; nothing is read of a process.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from memreap.evidence.oom_scope import Group
from memreap.linux import cgroups
from memreap.linux.procfs import Procfs


class Folder:
    """A cgroup and all below it, as a folder."""

    def __init__(self, directory: Path) -> None:
        """``directory``: it is one."""
        self.directory = directory
        self.group = Group(_hierarchy(directory), set(), set())
        self.look()

    @classmethod
    def of(cls, name: str) -> "Folder":
        """By the name that was given. Raises FileNotFoundError, ValueError."""
        return cls(cgroups.find(name, Procfs()))

    def look(self) -> None:
        """Who is there."""
        for place in self._places():
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                self.group.ids.add(Path(place).stat().st_ino)
        with contextlib.suppress(FileNotFoundError):
            self.group.members.update(cgroups.members(self.directory))

    def killed(self) -> int:
        """How many the kernel says that it killed there; 0 where it does not."""
        total = 0
        for place in self._places():
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    total += _value(Path(place, name).read_text(), "oom_kill")
            if Path(place, "memory.events").exists():  # of all below as well
                break
        return total

    def _places(self) -> Iterator[str]:
        return (place for place, _, _ in os.walk(self.directory))


def _value(text: str, name: str) -> int:
    return sum(int(line.split()[1]) for line in text.splitlines() if line.split()[:1] == [name])


def _hierarchy(directory: Path) -> int:
    """The number of a cgroup's hierarchy: first in /proc/PID/cgroup, cgroups(7); v2's is 0."""
    for root, kind, options in cgroups.mounts(Procfs()):
        if kind == "cgroup" and root.resolve() in directory.parents:
            for line in Path("/proc/self/cgroup").read_text().splitlines():
                number, controllers, _ = line.split(":", 2)
                if controllers and options.issuperset(controllers.split(",")):
                    return int(number)
    return 0
