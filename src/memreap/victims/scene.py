"""What a victim finds when it is forked, and the few things that every kind does with it.

Only the order (what was asked for) and the scene (what is there) live here; what a kind makes of
them is in ``kinds``.
"""

import contextlib
import ctypes
import json
import mmap
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from memreap.victims.fuse import HungFile


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for."""

    kind: str
    size_bytes: int
    huge: bool = False
    threads: int = 4
    cgroups: tuple[str, ...] = ()
    neighbours: int = 0
    """CPU-bound processes beside it, from when it is ready."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a victim finds."""

    order: Order
    report_fd: int
    """A pipe to the host, for the one line that says who is here."""
    lifeline_fd: int
    """A pipe on which nothing ever comes but its end, when the host is gone."""
    hung_file: HungFile | None
    held: list[mmap.mmap] = field(default_factory=list)

    @property
    def hung(self) -> HungFile:
        """The file of which no read ever returns."""
        assert self.hung_file is not None, "the table of kinds says which need the hung file"
        return self.hung_file

    def join_cgroups(self) -> None:
        """Move this process into the cgroups it was ordered into, before it holds anything."""
        for folder in self.order.cgroups:
            with open(f"{folder}/cgroup.procs", "w") as procs:
                procs.write(str(os.getpid()))

    def hold(self) -> mmap.mmap:
        """Allocate the memory that was ordered and touch all of it."""
        memory = hold(self.order.size_bytes, self.order.huge)
        self.held.append(memory)
        return memory

    def report(self, sharers: Sequence[int] = ()) -> None:
        """Say that this process is the victim and ready. Once."""
        line = json.dumps(
            {
                "pid": os.getpid(),
                "sharers": list(sharers),
                "size_bytes": self.order.size_bytes,
                "parent": os.getppid(),
            }
        )
        os.write(self.report_fd, line.encode() + b"\n")
        os.close(self.report_fd)


def hold(size_bytes: int, huge: bool = False) -> mmap.mmap:
    """Private anonymous memory, every page of it resident, in huge pages only if asked for.

    Private, because ``process_mrelease`` leaves shared mappings alone; written, because a page
    that was only read is the zero page.
    """
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        memory.madvise(mmap.MADV_HUGEPAGE)
    else:
        with contextlib.suppress(OSError):  # a kernel that has no huge pages gives none
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    touch(memory)
    return memory


def touch(memory: mmap.mmap) -> None:
    """Write to all of it: after a fork, that makes it this process's own."""
    ctypes.memset(address(memory), 1, len(memory))


def address(memory: mmap.mmap) -> int:
    """Where a mapping starts, valid for as long as the caller keeps it."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def sleep_for_ever() -> NoReturn:
    """Wait for the kill."""
    while True:
        signal.pause()
