"""One incident to come, all of it drawn: what every strategy finds alike. Only values live here."""

from dataclasses import dataclass
from enum import StrEnum
from math import sqrt

KIB = 1 << 10


class Io(StrEnum):
    """Asynchronous I/O in flight when the process is killed."""

    NONE = "none"
    RAW = "raw"  # completes by itself
    FILESYSTEM = "filesystem"  # only after memory was given to it
    HUNG = "hung"  # never


class Hang(StrEnum):
    """What one of its threads does when the process is killed."""

    NONE = "none"
    THREAD = "thread"  # hangs in the kernel, and never comes back
    LOCK = "lock"  # the same, with mmap_lock held for writing
    LOCK_HELD = "lock-held"  # has mmap_lock for writing, and lets it go after a time


@dataclass(frozen=True, slots=True)
class NodeSetup:
    """A NUMA node, and its watermarks."""

    name: str
    size_bytes: int
    min_bytes: int
    low_bytes: int
    high_bytes: int


def node(name: str, size_bytes: int) -> NodeSetup:
    """With the watermarks that the kernel gives it.

    calculate_min_free_kbytes, and watermark_scale_factor of 10. mm/page_alloc.c
    """
    min_bytes = int(sqrt(size_bytes / KIB * 16)) * KIB
    step_bytes = max(min_bytes // 4, size_bytes // 1000)
    return NodeSetup(
        name, size_bytes, min_bytes, min_bytes + step_bytes, min_bytes + 2 * step_bytes
    )


@dataclass(frozen=True, slots=True)
class ProcessSetup:
    """A process: what it holds, how it grows, how it would die."""

    name: str
    node: int  # where it allocates first
    bound: bool  # and nowhere else
    size_bytes: int  # at the beginning
    rate_bytes_s: float  # growth, from start_s on
    until_bytes: int  # and up to here
    start_s: float
    stays_s: float | None  # when it is grown it ends by itself after so long; None: never
    page_bytes: int
    threads: int
    sharers: int  # processes more that use the same memory
    weight: float  # on a CPU
    oom_score_adj: int
    io: Io
    io_s: float  # from the kill to the completion, where there is one
    hangs: Hang
    lock_s: float  # from the kill to the unlock, with LOCK_HELD


@dataclass(frozen=True, slots=True)
class Setup:
    """A machine and its processes."""

    scenario: str
    seed: int
    cpus: int
    busy: int  # CPU-bound processes that hold no memory, at nice 0
    nodes: tuple[NodeSetup, ...]
    swap_bytes: int
    swap_bytes_s: float
    processes: tuple[ProcessSetup, ...]
