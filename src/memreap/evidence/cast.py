"""Who takes part in a kill. Values only.

Everybody is numbered in the order in which they act, so that kills of one kind have one cast, and
what was found out of it is found out once.
"""

from dataclasses import dataclass
from enum import StrEnum

from memreap.evidence.alphabet import Seen

REAPER = "oom_reaper"
ANYBODY = "*"


class Assumed(StrEnum):
    """What no event tells of, and has to be so for a trace to be one of the model's."""

    KHUGEPAGED = "khugepaged had its cursor on it"
    OWN_END = "a thread of it ended by itself"
    HAD_LEFT = "threads of it that do nothing had left before the trace began"
    KILLED = "it was killed by somebody who was not traced, or ended by itself"
    HAD_LOCK = "a thread of it had mmap_lock, or asked for it, before the trace began"
    UNSEEN = "somebody who was not traced used its address space, and took it down"


@dataclass(frozen=True, slots=True)
class Cast:
    """``threads``: of each process with the mm, the victim first.

    ``passers``: others, who call process_mrelease; ``lookers`` of them take the lock beside that.
    ``last``: who takes the mm down, or ANYBODY, where that is not known. ``spared``: processes
    that get no SIGKILL, as a child of vfork, which leaves by execve. ``ends_late``:
    sched_process_exit comes after ``exit_mm``, as before 6.16. ``is_busy``: a reaper may be told
    to come again. ``began``: who was at the lock before the trace began, and what it does first.
    ``own_ends``: threads that end by themselves. ``left``: threads that had left before it began.
    ``hidden``: what this kernel tells nothing of.
    """

    threads: tuple[int, ...]
    passers: int = 0
    lookers: frozenset[str] = frozenset()
    last: str = ""
    pages: int = 1
    spared: frozenset[str] = frozenset()
    has_reaper: bool = False
    ends_late: bool = False
    is_busy: bool = False
    began: frozenset[tuple[str, Seen]] = frozenset()
    own_ends: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()
    hidden: frozenset[Seen] = frozenset()
    assuming: frozenset[Assumed] = frozenset()

    @property
    def names(self) -> tuple[str, ...]:
        """All threads, numbered through."""
        return tuple(f"thread {n}" for n in range(sum(self.threads)))
