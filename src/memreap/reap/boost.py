"""Giving a victim a CPU to die on.

A victim runs its own exit: one that is starved (SCHED_IDLE, a throttled CPU cgroup, busy
neighbours) frees nothing until it is scheduled. Right before the kill each thread gets SCHED_FIFO
below the reaper, which also takes it out of a CFS bandwidth limit; where that is not permitted,
the best nice value that is. What was changed is kept, to be undone if the kill does not happen.
"""

from memreap.linux import scheduling
from memreap.linux.procfs import Procfs
from memreap.linux.scheduling import Scheduling
from memreap.linux.worker import has_exited

THREADS_MAX = 512  # each costs some microseconds between the decision and the kill


class Boost:
    """What was done to the threads of a victim and of those who share its memory."""

    def __init__(self, processes: list[tuple[int, int]], proc: Procfs) -> None:
        """Boost every thread of these (pid, pidfd); whoever is gone is passed over."""
        self.how: set[str] = set()
        self._was: list[Scheduling] = []
        for pid, pidfd in processes:
            self._boost(pid, pidfd, proc)

    def _boost(self, pid: int, pidfd: int, proc: Procfs) -> None:
        """A thread's number may pass on to a stranger at any time: he is put back at once."""
        changed = []
        for tid in _threads(pid, pidfd, proc)[:THREADS_MAX]:
            try:
                was = scheduling.current(tid)
                self.how.add(scheduling.hurry(tid, scheduling.VICTIM_PRIORITY))
            except OSError:
                continue
            changed.append(was)
        still_its_own = set(_threads(pid, pidfd, proc))
        for was in changed:
            if was.tid in still_its_own:
                self._was.append(was)
            else:
                scheduling.restore(was)

    def undo(self) -> None:
        """Schedule every thread as it was."""
        for was in self._was:
            scheduling.restore(was)
        self._was.clear()


def _threads(pid: int, pidfd: int, proc: Procfs) -> list[int]:
    """The threads of the process that the pidfd means; none once it is gone. Pins nothing."""
    try:
        tids = proc.threads(pid)
    except OSError:
        return []
    return [] if has_exited(pidfd) else tids
