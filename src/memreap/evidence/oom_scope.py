"""Whose thread is whose, and who is in a cgroup, from what was so when tracing began. Pure.

1. A child is where its parent was, unless it was born elsewhere (clone3 with CLONE_INTO_CGROUP).
2. Who was born elsewhere, or moved to a cgroup that is not known, is looked for again: ``unsure``.
3. Who is found there is added; who goes is told by events alone, so that a look may be late.
4. A number goes to the next one before ``sched_process_free``, which comes late by seconds where
   many exit: it is believed only of who was seen to exit, and of one after the other.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from memreap.linux.tracing import Event

CLONE_THREAD, CLONE_INTO_CGROUP = 0x10000, 1 << 33  # linux/sched.h


@dataclass(slots=True)
class Group:
    """A cgroup and all below it, named as ``cgroup_attach_task`` names them."""

    hierarchy: int
    ids: set[int]
    members: set[int]  # processes


class Scope:
    """Processes by their threads, and which of them are meant."""

    def __init__(self, threads: Mapping[int, int], group: Group | None = None) -> None:
        """``threads``: the process of each; ``group``: who is meant, None: all."""
        self._threads = dict(threads)
        self._exiting: set[int] = set()
        self._late: Counter[int] = Counter()  # frees that are still to come, of who was before
        self.group = group
        self.unsure = False

    def process(self, tid: int) -> int:
        """Whose thread it is; its own, where nothing is known."""
        return self._threads.get(tid, tid)

    def threads(self, pid: int) -> set[int]:
        """Those of a process that are known."""
        return {pid, *(tid for tid, process in self._threads.items() if process == pid)}

    def is_exiting(self, tid: int) -> bool:
        """Whether it was seen to begin its exit."""
        return tid in self._exiting

    def is_freed(self, tid: int) -> bool:
        """Whether ``sched_process_free`` is its last word, if it comes now."""
        return tid in self._exiting and not self._late[tid]

    def covers(self, pid: int) -> bool:
        """Whether a process is meant."""
        return self.group is None or pid in self.group.members

    def take(self, event: Event) -> None:
        """Keep up with what happened."""
        if event.name == "task_newtask":
            self._born(event)
        elif event.name == "sched_process_exit":
            self._exiting.add(event.pid)
        elif event.name == "sched_process_free":
            self._freed(event.fields["pid"])
        elif event.name == "cgroup_attach_task":
            self._moved(event)

    def _born(self, event: Event) -> None:
        tid, flags, parent = event.fields["pid"], event.fields["clone_flags"], event.pid
        if tid in self._exiting:
            self._exiting.discard(tid)
            self._late[tid] += 1
        if self.group is not None:
            self.group.members.discard(tid)
        if flags & CLONE_THREAD:
            self._threads[tid] = self.process(parent)
            return
        self._threads[tid] = tid
        if self.group is None:
            return
        if flags & CLONE_INTO_CGROUP:
            self.unsure = True
        elif self.process(parent) in self.group.members:
            self.group.members.add(tid)

    def _freed(self, tid: int) -> None:
        if self.is_freed(tid):
            self._exiting.discard(tid)
            self._threads.pop(tid, None)
            if self.group is not None:
                self.group.members.discard(tid)
        elif self._late[tid] > 1:
            self._late[tid] -= 1
        else:
            del self._late[tid]

    def _moved(self, event: Event) -> None:
        if self.group is None or event.fields["dst_root"] != self.group.hierarchy:
            return
        pid = event.fields["pid"]
        if self.process(pid) != pid:  # one thread alone, as v1 permits: its process stays
            return
        if event.fields["dst_id"] in self.group.ids:
            self.group.members.add(pid)
        else:  # to elsewhere, or to one below that was made just now
            self.group.members.discard(pid)
            self.unsure = True
