"""Control groups, v1 and v2. See cgroups(7), Documentation/admin-guide/cgroup-v2.rst.

Where they are mounted, who is in one, what one uses and may use, what rings when it is full. A
cgroup is named by its directory.
"""

import contextlib
import errno
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from memreap.linux.procfs import Procfs, text

_MOUNT = re.compile(r"^\S+ (\S+) (cgroup2?) (\S+)", re.MULTILINE)
# Bytes in use, by the file that says so: v2's first.
USAGE_FILES = ("memory.current", "memory.usage_in_bytes")
_UNLIMITED = 1 << 62  # v1 has no word for it: the greatest number of pages, in bytes
_STAT_BYTES_MAX = 16384
_TRUE = frozenset((b"1", b"yes", b"y", b"true", b"t", b"on"))  # as systemd's parse_boolean()

Mounts = list[tuple[Path, str, frozenset[str]]]


def mounts(procfs: Procfs) -> Mounts:
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


def would_be(name: str, procfs: Procfs) -> Path:
    """The directory in which a cgroup that is not there yet would count memory.

    Raises ValueError where none would.
    """
    roots = [
        root.resolve() for root, kind, options in mounts(procfs) if counts_memory(root, options)
    ]
    for place in (Path(name), *(root / name.lstrip("/") for root in roots)):
        directory = place.resolve()
        if any(root in directory.parents for root in roots):
            return directory
    raise ValueError(f"no such cgroup: {name}")


def counts_memory(root: Path, options: frozenset[str]) -> bool:
    """Whether the memory controller is in a hierarchy, as ``mounts`` tells: v2 lists it."""
    if "memory" in options:
        return True
    with contextlib.suppress(OSError):
        return "memory" in (root / "cgroup.controllers").read_text().split()
    return False


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


def memory_usage_file(
    pid: int, procfs: Procfs, among: Mounts | None = None, *, tid: int | None = None
) -> str | None:
    """The file with the memory in use of a process's cgroup, None in a hierarchy's root.

    To be asked before the kill; the file is the group's, not the process's, and stays readable.
    ``among``: the mounts, where they are known; ``tid``: a thread, where the first has ended.
    """
    paths = procfs.cgroups(pid, tid)
    for root, kind, options in mounts(procfs) if among is None else among:
        for controllers, path in paths:
            mine = controllers == "" if kind == "cgroup2" else "memory" in controllers.split(",")
            if not mine or path == "/" or (kind == "cgroup" and "memory" not in options):
                continue
            for name in USAGE_FILES:
                file = f"{root}/{path.lstrip('/')}/{name}"
                if os.path.exists(file):  # noqa: PTH110 - a path costs more than the question
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


class SwapLeft(NamedTuple):
    """A limit of swap, and how much of it is left."""

    limit_bytes: int
    left_bytes: int


class CgroupMemory:
    """A memory cgroup's figures, v1 or v2, on kept descriptors.

    Once the cgroup is gone, every reader raises OSError (ENODEV).
    """

    def __init__(self, directory: Path) -> None:
        """Open them. Raises FileNotFoundError where it is no memory cgroup."""
        self.directory = directory
        usage = usage_file(directory)
        self.version = 2 if usage.name == USAGE_FILES[0] else 1
        self._usage_fd = os.open(usage, os.O_RDONLY | os.O_CLOEXEC)
        self._stat_fd = self._swap_fd = -1
        try:
            self._stat_fd = os.open(directory / "memory.stat", os.O_RDONLY | os.O_CLOEXEC)
            swap = "memory.swap.current" if self.version == 2 else "memory.memsw.usage_in_bytes"
            with contextlib.suppress(FileNotFoundError):  # swap is not accounted
                self._swap_fd = os.open(directory / swap, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise

    def usage_bytes(self) -> int:
        """RAM charged to it and all below: what its limit is about."""
        return int(os.pread(self._usage_fd, 32, 0))

    def swap_bytes(self) -> int:
        """Swap charged to it and all below; 0 where that is not accounted."""
        if self._swap_fd < 0:
            return 0
        charged = int(os.pread(self._swap_fd, 32, 0))
        return charged if self.version == 2 else max(0, charged - self.usage_bytes())

    def reclaimable_bytes(self) -> int:
        """File pages, and half of the slab that can be reclaimed (v2 alone tells it).

        tmpfs and shmem are charged as well, lie on the anonymous lists and can only be swapped:
        they do not count. Dearer than ``usage_bytes``: the kernel sums up the whole subtree.
        """
        raw = b"\n" + os.pread(self._stat_fd, _STAT_BYTES_MAX, 0)
        if self.version == 1:
            return _value(raw, b"\ntotal_active_file ") + _value(raw, b"\ntotal_inactive_file ")
        files = _value(raw, b"\nactive_file ") + _value(raw, b"\ninactive_file ")
        return files + _value(raw, b"\nslab_reclaimable ") // 2

    def limit_bytes(self, total_bytes: int) -> int | None:
        """The least limit of its own and of all above, None where none is below ``total_bytes``.

        Limits above the cgroup namespace are not seen from within it.
        """
        if self.version == 1:
            raw = b"\n" + os.pread(self._stat_fd, _STAT_BYTES_MAX, 0)
            limits = [_value(raw, b"\nhierarchical_memory_limit ")] if raw[1:] else []
        else:
            own = map(_own_limit, _upwards(self.directory))
            limits = [limit for limit in own if limit is not None]
        least = min(limits, default=total_bytes)
        return least if least < total_bytes else None

    def high_bytes(self) -> int | None:
        """The least memory.high of its own and of all above: from there on members are slowed down.

        None where none is set, and on v1, which knows no such thing.
        """
        if self.version == 1:
            return None
        own = [_own_limit(place, ("memory.high",)) for place in _upwards(self.directory)]
        return min((limit for limit in own if limit is not None), default=None)

    def pressure_path(self) -> Path | None:
        """Its own pressure file: v2 with PSI has one."""
        path = self.directory / "memory.pressure"
        return path if self.version == 2 and path.exists() else None

    def swap_left_bytes(self) -> SwapLeft | None:
        """The tightest swap limit of its own and of all above; None where none is set.

        v1 limits RAM and swap together (memsw): what is left of both may all be swap.
        """
        if self.version == 1:
            raw = b"\n" + os.pread(self._stat_fd, _STAT_BYTES_MAX, 0)
            limit = _value(raw, b"\nhierarchical_memsw_limit ")
            if not limit or limit >= _UNLIMITED or self._swap_fd < 0:
                return None
            return SwapLeft(limit, limit - int(os.pread(self._swap_fd, 32, 0)))
        found = [left for place in _upwards(self.directory) if (left := _swap_left(place))]
        return min(found, key=lambda left: left.left_bytes, default=None)

    def close(self) -> None:
        """Let go of the descriptors."""
        for fd in (self._usage_fd, self._stat_fd, self._swap_fd):
            if fd >= 0:
                os.close(fd)
        self._usage_fd = self._stat_fd = self._swap_fd = -1


def _value(raw: bytes, name: bytes) -> int:
    """The number behind a name, with the newline before it; 0 where it is not there."""
    at = raw.find(name)
    if at < 0:
        return 0
    at += len(name)
    return int(raw[at : raw.index(b"\n", at)])


def _upwards(directory: Path) -> Iterator[Path]:
    """A v2 memory cgroup and all above it but the root, which has no such files."""
    for place in (directory, *directory.parents):
        if not (place / "memory.max").exists():
            return
        yield place


LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")


def _swap_left(directory: Path) -> SwapLeft | None:
    try:
        limit = int((directory / "memory.swap.max").read_bytes())
        used = int((directory / "memory.swap.current").read_bytes())
    except (OSError, ValueError):  # "max", or no swap accounting
        return None
    return SwapLeft(limit, limit - used)


def _own_limit(directory: Path, names: tuple[str, ...] = LIMIT_FILES) -> int | None:
    """The limit that was set on this very cgroup, None where none is or can be read."""
    for name in names:
        try:
            raw = (directory / name).read_bytes().strip()
        except OSError:
            continue
        return None if raw == b"max" or int(raw) >= _UNLIMITED else int(raw)
    return None


def limited_below(directory: Path, most: int = 256) -> list[Path]:
    """Cgroups below with a finite limit of their own, the outermost first, at most so many."""
    found: list[Path] = []
    left = deque([directory])
    while left and len(found) < most:
        try:
            with os.scandir(left.popleft()) as entries:
                below = sorted(e.path for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:  # gone meanwhile
            continue
        for place in map(Path, below):
            left.append(place)
            if _own_limit(place) is not None:
                found.append(place)
    return found[:most]


def oom_group(directory: Path, domain: Path | None = None) -> Path | None:
    """The cgroup that dies as one if a process in ``directory`` is killed, None: it dies alone.

    The highest with memory.oom.group from it up to ``domain``, the cgroup that ran out, which may
    be it as well (None: the machine did). v2 only. mem_cgroup_get_oom_group()
    """
    if domain is not None and domain not in (directory, *directory.parents):
        return None
    highest = None
    for place in (directory, *directory.parents):
        try:
            if (place / "memory.oom.group").read_bytes().strip() == b"1":
                highest = place
        except OSError:  # the root, or v1
            break
        if place == domain:
            break
    return highest


def preference(directory: Path, monitored: Path | None = None) -> str:
    """ManagedOOMPreference= of a unit, as "omit", "avoid" or "". systemd.resource-control(5)

    Read from the extended attributes user.oomd_omit and user.oomd_avoid, the first of which
    counts if both are set. As in systemd-oomd, they are honoured on a cgroup that root owns, and
    on one with the same owner as the cgroup that ran out (None: the machine, which is root's).
    """
    try:
        owner = directory.stat().st_uid
        if owner != 0 and (monitored is None or monitored.stat().st_uid != owner):
            return ""
    except OSError:
        return ""
    for name in ("omit", "avoid"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, f"user.oomd_{name}").strip().lower() in _TRUE:
                return name
    return ""


def unit_of(cgroup_path: str) -> str:
    """The service or scope that a path in /proc/PID/cgroup lies in, "" where there is none."""
    for part in reversed(cgroup_path.removesuffix(" (deleted)").split("/")):
        if part.endswith((".service", ".scope")):
            return part.removeprefix("_")  # systemd sets it before what clashes with a file's name
    return ""


class Threshold:
    """The kernel's bell on a v1 cgroup's usage: rings whenever that crosses a mark, up or down.

    It looks once every 128 pages that a CPU charges or gives back, so it may be late by so much.
    An eventfd registered through cgroup.event_control; it rings as well when the cgroup goes.
    """

    def __init__(self, directory: Path, at_bytes: int) -> None:
        """Arm it. Raises OSError where it cannot be: v2, real-time kernels, no permission."""
        usage = os.open(directory / USAGE_FILES[1], os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            try:
                control = os.open(directory / "cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(control, f"{self._fd} {usage} {at_bytes}".encode())
                finally:
                    os.close(control)
            except BaseException:
                self.close()
                raise
        finally:
            os.close(usage)

    def fileno(self) -> int:
        """What to poll for POLLIN."""
        return self._fd

    def drain(self) -> int:
        """How often it rang since, and silence it."""
        try:
            return os.eventfd_read(self._fd)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Disarm it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Events:
    """A v2 cgroup's memory.events: poll it for POLLPRI, which comes with POLLERR.

    It rings when a limit was met ("high", "max"), the kernel killed ("oom_kill"), or the cgroup is
    gone, and is silent again once read. kernfs_generic_poll()
    """

    def __init__(self, directory: Path, name: str = "memory.events") -> None:
        """Open it, and read it once. Raises OSError: v1, or no such cgroup."""
        self._fd = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.read()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """What to poll for POLLPRI."""
        return self._fd

    def read(self) -> dict[str, int]:
        """How often each happened, here and below. Raises OSError (ENODEV) once it is gone."""
        field = os.pread(self._fd, 1024, 0).split()
        return {text(name): int(count) for name, count in zip(field[::2], field[1::2], strict=True)}

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
