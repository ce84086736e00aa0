"""The command's own cgroup, where one can be had: precise usage. See cgroup-v2.rst, "Memory".

Only the making, measuring and removing of that one group lives here. It needs cgroup v2 with the
memory controller in a directory that we may write to: as root, or delegated
(``systemd-run --user --scope -p Delegate=yes memreap run ...``). By the no-internal-processes
rule a group with processes of its own cannot hand the controller down; if we are its only
process, we step aside into a leaf first, and back at the end. The command is put beneath the group
that it would have been in, never beside it: limits that held for it still hold.
"""

import contextlib
import os
import re
from pathlib import Path

from memreap.linux import cgroups
from memreap.linux.procfs import Procfs

_STAT = re.compile(rb"^(anon|shmem) (\d+)$", re.MULTILINE)


class NoGroup(Exception):  # noqa: N818 - an answer, not an error
    """No cgroup of our own can be had, and why."""


class Group:
    """A cgroup for the command; a Meter as well."""

    def __init__(self, procfs: Procfs, limit_bytes: int) -> None:
        """Make it. Raises NoGroup, with everything as it was."""
        self.means = "cgroup v2 (memory.current, memory.stat)"
        self.victim_bytes: int | None = None  # a group tells only the sum
        self._limit_bytes = limit_bytes
        self._home = _own_directory(procfs)
        self._leaf: Path | None = None
        self._enabled = False
        self._path = self._home / f"memreap-{os.getpid()}"
        self._files: dict[str, int] = {}
        try:
            self._hand_down_memory()
            self._path.mkdir()
            self._open()
        except OSError as error:
            self.close()
            raise NoGroup(f"{error.filename or self._home}: {error.strerror}") from error

    def enter(self) -> None:
        """Move the calling process into it: for the command, before exec."""
        (self._path / "cgroup.procs").write_text("0")

    def read(self, now_s: float) -> int | None:  # noqa: ARG002 - a Meter
        """Anonymous, shmem and swap; if even the page cache fits in, with the page cache."""
        swap = self._number("memory.swap.current")
        current = self._number("memory.current") + swap
        if current <= self._limit_bytes:
            return current
        kinds = {m[1]: int(m[2]) for m in _STAT.finditer(self._raw("memory.stat"))}
        return min(current, sum(kinds.values()) + swap)

    def stillness(self) -> None:
        """There is none: a read is as cheap."""
        return

    def fds(self) -> list[int]:
        """Nothing to wait for: every read answers at once."""
        return []

    def close(self) -> None:
        """Remove it, and undo what was done for it. One with processes in it has to stay."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
        with contextlib.suppress(OSError):
            self._path.rmdir()
        if self._path.exists():
            return  # while it is there, the controller must be, too
        if self._enabled:
            self._control("-memory")
        if self._leaf:
            with contextlib.suppress(OSError):
                (self._home / "cgroup.procs").write_text("0")
                self._leaf.rmdir()
        self._leaf, self._enabled = None, False

    def _hand_down_memory(self) -> None:
        if "memory" not in _words(self._home / "cgroup.controllers"):
            raise NoGroup(f"{self._home} has no memory controller")
        if "memory" in _words(self._home / "cgroup.subtree_control"):
            return
        # The root of all has no such rule, and no cgroup.type by which it is known.
        if (self._home / "cgroup.type").exists():
            if _words(self._home / "cgroup.procs") != [str(os.getpid())]:
                raise NoGroup(f"{self._home} has other processes, and cannot hand memory down")
            self._leaf = self._home / f"memreap-{os.getpid()}-self"
            self._leaf.mkdir()
            (self._leaf / "cgroup.procs").write_text("0")
        (self._home / "cgroup.subtree_control").write_text("+memory")
        self._enabled = True

    def _control(self, change: str) -> None:
        with contextlib.suppress(OSError):
            (self._home / "cgroup.subtree_control").write_text(change)

    def _open(self) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC
        for name in ("memory.current", "memory.stat"):
            self._files[name] = os.open(self._path / name, flags)
        with contextlib.suppress(FileNotFoundError):  # a kernel without swap
            self._files["memory.swap.current"] = os.open(self._path / "memory.swap.current", flags)

    def _raw(self, name: str) -> bytes:
        return os.pread(self._files[name], 16384, 0)

    def _number(self, name: str) -> int:
        return int(self._raw(name)) if name in self._files else 0


def _words(path: Path) -> list[str]:
    return path.read_text().split()


def _own_directory(procfs: Procfs) -> Path:
    own = [path for controllers, path in procfs.cgroups(os.getpid()) if controllers == ""]
    roots = [root for root, kind, _ in cgroups.mounts(procfs) if kind == "cgroup2"]
    for path in own:
        for root in roots:
            directory = root / path.lstrip("/")
            if (directory / "cgroup.controllers").exists():
                return directory
    raise NoGroup("no cgroup v2 here")
