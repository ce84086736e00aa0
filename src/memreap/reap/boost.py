"""Giving a victim a CPU to die on.

A victim runs its own exit: one that is starved (SCHED_IDLE, a throttled CPU cgroup, busy
neighbours) frees nothing until it is scheduled. Right before the kill each thread gets SCHED_FIFO
below the reaper, which also takes it out of a CFS bandwidth limit; where that is not permitted,
the best nice value that is. What was changed is kept, to be undone if the kill does not happen.
"""

from memreap.linux import scheduling
from memreap.linux.scheduling import Scheduling

THREADS_MAX = 512  # each costs some microseconds between the decision and the kill


class Boost:
    """What was done to one victim's threads."""

    def __init__(self, tids: list[int]) -> None:
        """Boost them; a thread that is gone is passed over."""
        self.how: set[str] = set()
        self._was: list[Scheduling] = []
        for tid in tids[:THREADS_MAX]:
            try:
                was = scheduling.current(tid)
                self.how.add(scheduling.hurry(tid, scheduling.VICTIM_PRIORITY))
            except OSError:
                continue
            self._was.append(was)

    def undo(self) -> None:
        """Schedule every thread as it was."""
        for was in self._was:
            scheduling.restore(was)
        self._was.clear()
