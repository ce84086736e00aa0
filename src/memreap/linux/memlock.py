"""Memory that stays: no major fault while the machine has none left. See mlockall(2), mallopt(3).

Only what this process does to its own memory lives here.
"""

import resource

from memreap.linux import capabilities, syscalls

HEAP_PAD_BYTES = 1 << 20
# The most that glibc takes, and what is larger is mapped and unmapped each time.
MMAP_THRESHOLD_BYTES = 32 << 20
_NEVER_TRIM = (1 << 31) - 1
# malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def lock_all() -> bool:
    """Lock what is mapped now, at once, and what is mapped later as it is touched.

    Two calls: MCL_ONFAULT in the first would leave present holes unfilled, and without it in the
    second every later mapping would be filled whole. Not inherited by fork.

    False where it is not permitted (CAP_IPC_LOCK, RLIMIT_MEMLOCK). Below a finite limit what is
    there is locked if it fits, but nothing later: each mapping past the limit would fail.
    """
    try:
        syscalls.mlockall(syscalls.MCL_CURRENT)
        if not _unlimited():
            return False
        syscalls.mlockall(syscalls.MCL_FUTURE | syscalls.MCL_ONFAULT)
    except OSError:
        return False
    return True


def _unlimited() -> bool:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return soft == resource.RLIM_INFINITY or "cap_ipc_lock" in capabilities.effective()


def unlock() -> None:
    """Lock nothing any more, now and later."""
    syscalls.munlockall()


def keep_heap() -> bool:
    """Have malloc keep what is freed, in one arena for all threads. False but on glibc.

    Python's small objects live in arenas of its own, 1 MiB each, mapped and unmapped past malloc.
    """
    return all(
        [
            syscalls.mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM),
            syscalls.mallopt(_M_TOP_PAD, HEAP_PAD_BYTES),
            syscalls.mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
            syscalls.mallopt(_M_ARENA_MAX, 1),
        ]
    )


def faults() -> tuple[int, int]:
    """(minor, major) page faults of this process so far: a major one waited for a disk."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, usage.ru_majflt
