"""Control groups, v1 and v2. See cgroups(7), Documentation/admin-guide/cgroup-v2.rst.

Where they are mounted, who is in one, what one uses. A cgroup is named by its directory.
"""

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from memreap.linux.procfs import Procfs, text

_MOUNT = re.compile(r"^\S+ (\S+) (cgroup2?) (\S+)", re.MULTILINE)
# Bytes in use, by the file that says so: v2's first.
USAGE_FILES = ("memory.current", "memory.usage_in_bytes")


def mounts(procfs: Procfs) -> list[tuple[Path, str, frozenset[str]]]:
    """(directory, "cgroup" or "cgroup2", mount options) of every hierarchy."""
    raw = Path(procfs.root, "self/mounts").read_bytes()
    return [
        (Path(m[1].replace("\\040", " ")), m[2], frozenset(m[3].split(",")))
        for m in _MOUNT.finditer(text(raw))
    ]


def find(name: str, procfs: Procfs) -> Path:
    """The directory of a cgroup given as a path, or as /proc/PID/cgroup names it.

    Raises FileNotFoundError where there is none, ValueError where it is a hierarchy's root.
    """
    roots = mounts(procfs)
    by_preference = sorted(roots, key=lambda m: (m[1] != "cgroup2", "memory" not in m[2]))
    places = [Path(name), *(root / name.lstrip("/") for root, _, _ in by_preference)]
    for place in places:
        directory = place.resolve()
        tops = {root.resolve() for root, _, _ in roots}
        # A folder elsewhere may hold a file of that name: only a mounted hierarchy counts.
        if (directory / "cgroup.procs").exists() and tops.intersection(
            (directory, *directory.parents)
        ):
            if directory in tops:
                raise ValueError(f"{name} is the root of its hierarchy: every process")
            return directory
    raise FileNotFoundError(f"no such cgroup: {name}")


def members(directory: Path) -> list[int]:
    """Every process in a cgroup and below, in ascending order.

    Raises FileNotFoundError where the cgroup itself is gone; a group below that goes is passed.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"no such cgroup: {directory}")
    pids: set[int] = set()
    for place, _, _ in os.walk(directory):
        try:
            raw = Path(place, "cgroup.procs").read_bytes()
        except OSError:  # gone meanwhile, or a threaded group: its processes stand above
            continue
        pids.update(int(pid) for pid in raw.split())
    return sorted(pids - {0})  # 0: a process of another pid namespace


def memory_usage_file(pid: int, procfs: Procfs) -> Path | None:
    """The file with the memory in use of a process's cgroup, None in a hierarchy's root.

    To be asked before the kill; the file is the group's, not the process's, and stays readable.
    """
    paths = procfs.cgroups(pid)
    for root, kind, options in mounts(procfs):
        for controllers, path in paths:
            mine = controllers == "" if kind == "cgroup2" else "memory" in controllers.split(",")
            if not mine or path == "/" or (kind == "cgroup" and "memory" not in options):
                continue
            for name in USAGE_FILES:
                file = root / path.lstrip("/") / name
                if file.exists():
                    return file
    return None


@contextlib.contextmanager
def temporary(controller: str, name: str, procfs: Procfs) -> Iterator[Path]:
    """Make a cgroup of one's own below the hierarchy's root, and remove it at the end.

    v2 where it has the controller ("memory", "cpu"), else v1. Raises OSError, with what to do,
    where there is none or it is not permitted.
    """
    directory = _place(controller, procfs) / name
    directory.mkdir()
    try:
        yield directory
    finally:
        remove(directory)


def _place(controller: str, procfs: Procfs) -> Path:
    for root, kind, options in mounts(procfs):
        if kind == "cgroup2":
            subtree = root / "cgroup.subtree_control"
            if controller in (root / "cgroup.controllers").read_text().split():
                if controller not in subtree.read_text().split():
                    subtree.write_text(f"+{controller}")
                return root
        elif controller in options:
            return root
    raise FileNotFoundError(errno.ENOENT, f"no cgroup hierarchy has the {controller} controller")


def remove(directory: Path, timeout_s: float = 2.0) -> None:
    """Remove an empty cgroup; waits for its last member to be gone. Raises OSError if one stays."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.005)
        else:
            return


def usage_file(directory: Path) -> Path:
    """The file with the memory in use of a memory cgroup. Raises FileNotFoundError."""
    for name in USAGE_FILES:
        if (directory / name).exists():
            return directory / name
    raise FileNotFoundError(errno.ENOENT, f"not a memory cgroup: {directory}")
