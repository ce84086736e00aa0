"""Who belongs to a domain, as the scout finds them. A ward is the scout's side of a domain.

Only membership lives here. May hang wherever /proc does.
"""

import os
from pathlib import Path
from typing import Protocol

from memreap.guard.settings import Kind
from memreap.linux import cgroups, numa
from memreap.linux.procfs import PAGE_SIZE_BYTES, Procfs
from memreap.run.tree import Tree
from memreap.run.usage import TreeMeter


class Ward(Protocol):
    """One domain's people."""

    name: str
    totalpages: int

    def pids(self) -> list[int]:
        """Everyone who may belong to it, in ascending order."""
        ...

    def holds(self, pid: int, uid: int, cgroup: str) -> bool:
        """Whether one who was read belongs to it."""
        ...


class Everyone:
    """The system, or all of one user on it."""

    def __init__(self, name: str, totalpages: int, procfs: Procfs, uid: int | None = None) -> None:
        """``uid``: whose processes; None for everybody's."""
        self.name, self.totalpages = name, totalpages
        self._procfs, self._uid = procfs, uid

    def pids(self) -> list[int]:
        """All pids; another user's are told apart by the owner of their directory."""
        pids = self._procfs.pids()
        if self._uid is None:
            return pids
        return [pid for pid in pids if self._owner(pid) == self._uid]

    def holds(self, pid: int, uid: int, cgroup: str) -> bool:
        """By user."""
        del pid, cgroup
        return self._uid in (None, uid)

    def _owner(self, pid: int) -> int:
        try:
            return Path(f"{self._procfs.root}/{pid}").stat().st_uid
        except OSError:
            return -1


class Node(Everyone):
    """A NUMA node: everyone who holds memory there, which only their numa_maps tells."""

    def __init__(self, name: str, totalpages: int, procfs: Procfs, number: int) -> None:
        """``number``: the node's."""
        super().__init__(name, totalpages, procfs)
        self.number = number
        self.holders: set[int] = set()  # who was seen to hold memory there that counts

    def pages(self, pid: int) -> tuple[int, bool]:
        """(pages that it holds on this node, whether it may use no other). May hang."""
        allowed = numa.allowed_nodes(pid, self._procfs)
        maps = numa.numa_maps(pid, self._procfs)
        here = maps.bytes_by_node.get(self.number, 0) // PAGE_SIZE_BYTES
        return here, here > 0 and (allowed == {self.number} or self.number in maps.bound)


class Cgroup:
    """A cgroup and all below it."""

    def __init__(self, name: str, totalpages: int, directory: str, procfs: Procfs) -> None:
        """``directory``: where it is mounted."""
        self.name, self.totalpages = name, totalpages
        self.directory = Path(directory)
        self._members: frozenset[int] = frozenset()
        self._path = path_below_its_mount(directory, procfs)

    def pids(self) -> list[int]:
        """From cgroup.procs; nobody where the group is gone."""
        try:
            pids = cgroups.members(self.directory)
        except OSError:
            pids = []
        self._members = frozenset(pids)
        return pids

    def holds(self, pid: int, uid: int, cgroup: str) -> bool:
        """As cgroup.procs had it, or by path: in a container the two may differ."""
        del uid
        return pid in self._members or f"{cgroup}/".startswith(f"{self._path}/")


class Branch:
    """A process tree with a budget, and what it uses."""

    def __init__(
        self, name: str, limit_bytes: int, root: int, start_ticks: int | None, procfs: Procfs
    ) -> None:
        """``root``: its first process; ``start_ticks``: when that began, where it is known."""
        self.name, self.totalpages = name, limit_bytes // PAGE_SIZE_BYTES
        self.limit_bytes = limit_bytes
        self.tree = Tree(procfs, root)
        self.tree.root_start_ticks = start_ticks
        self.tree.raise_descriptor_limit()
        self.meter = TreeMeter(self.tree, limit_bytes)

    def pids(self) -> list[int]:
        """All who were found at the last reading and are not dying."""
        return sorted(m.pid for m in self.tree if m.dying_bytes is None)

    def holds(self, pid: int, uid: int, cgroup: str) -> bool:
        """By descent."""
        del uid, cgroup
        return pid in self.tree.members

    def close(self) -> None:
        """Let go of every descriptor."""
        self.meter.close()
        self.tree.close()


def path_below_its_mount(directory: str, procfs: Procfs) -> str:
    """A cgroup's path as /proc/PID/cgroup names it; the directory itself where none is mounted."""
    tops = [os.path.realpath(root) for root, _, _ in cgroups.mounts(procfs)]
    place = os.path.realpath(directory)
    over = [top for top in tops if f"{place}/".startswith(f"{top}/")]
    return place.removeprefix(max(over, key=len)) if over else place


def totalpages(order: dict[str, object]) -> int:
    """What the core says that the domain has in all."""
    return int(str(order["whole_bytes"])) // PAGE_SIZE_BYTES


def ward(order: dict[str, object], procfs: Procfs) -> "Everyone | Cgroup | Branch":
    """Make the ward that the core ordered. Raises OSError."""
    name, pages = str(order["name"]), totalpages(order)
    match Kind(str(order["kind"])):
        case Kind.SYSTEM:
            return Everyone(name, pages, procfs)
        case Kind.OWN:
            return Everyone(name, pages, procfs, int(str(order["uid"])))
        case Kind.NODE:
            return Node(name, pages, procfs, int(str(order["number"])))
        case Kind.CGROUP:
            return Cgroup(name, pages, str(order["path"]), procfs)
        case Kind.TREE:
            ticks = order["start_ticks"]
            start_ticks = None if ticks is None else int(str(ticks))
            root, limit_bytes = int(str(order["pid"])), int(str(order["limit_bytes"]))
            return Branch(name, limit_bytes, root, start_ticks, procfs)
