"""Who else holds a victim's mm. See kcmp(2).

The kernel does not reap an mm that a live process still uses (task_will_free_mem in
mm/oom_kill.c), and gives nothing back until the last one is gone: a process that was cloned with
CLONE_VM dies with its victim, as in __oom_kill_process.
"""

import contextlib
import time
from collections.abc import Iterator

from memreap.linux.procfs import Procfs
from memreap.linux.syscalls import kcmp_vm
from memreap.reap.facts import Facts

VFORK_PATIENCE_S = 0.05


def sharers(
    victims: list[Facts],
    proc: Procfs,
    among: list[int] | None = None,
    *,
    every_thread: bool = False,
) -> Iterator[tuple[int, int]]:
    """(victim's pid, sharer's pid) of every process that shares a victim's mm. May hang.

    ``among``: who may share, None for everyone on the machine. Costs some log2(victims) calls
    each: mms are ordered by kcmp. A process that may not be compared (no ptrace access to it) is
    passed over. ``every_thread``: ask them all, for a process whose first thread has ended.
    """
    ordered = _by_mm(list({facts.pid: facts for facts in victims}.values()))
    known = {facts.pid for facts in victims}
    for pid in dict.fromkeys(proc.pids() if among is None else among):
        if pid in known:
            continue
        tids = _threads(pid, proc) if every_thread else [pid]
        victim = next((v for tid in tids if (v := _same_mm(tid, ordered))), None)
        # To kcmp, all who have no mm are alike; a victim that has one now had it then.
        if victim is None or not proc.has_mm(victim.pid, victim.living_tid):
            continue
        if not _vforked(pid, victim, proc):
            yield victim.pid, pid
    for group in _groups([v for v in ordered if proc.has_mm(v.pid, v.living_tid)]):
        yield from ((group[0].pid, other.pid) for other in group[1:])


def _by_mm(victims: list[Facts]) -> list[Facts]:
    """The victims in the order of their mms: insertion by bisection."""
    ordered: list[Facts] = []
    for facts in victims:
        with contextlib.suppress(OSError):
            ordered.insert(_position(facts.living_tid, ordered)[0], facts)
    return ordered


def _position(tid: int, ordered: list[Facts]) -> tuple[int, bool]:
    """(where a task's mm stands in the order, whether that very mm stands there)."""
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        order = kcmp_vm(tid, ordered[middle].living_tid)
        if order == 0:
            return middle, True
        low, high = (low, middle) if order == 1 else (middle + 1, high)
    return low, False


def _threads(pid: int, proc: Procfs) -> list[int]:
    try:
        return proc.threads(pid)
    except OSError:
        return []


def _same_mm(pid: int, ordered: list[Facts]) -> Facts | None:
    try:
        place, same = _position(pid, ordered)
    except OSError:
        return None
    return ordered[place] if same else None


def _vforked(pid: int, victim: Facts, proc: Procfs) -> bool:
    """Whether a parent shares its mm only until its vfork()ed child, the victim, calls exec."""
    if pid != victim.ppid or _has_badness(victim.pid, proc):
        return False
    deadline_s = time.monotonic() + VFORK_PATIENCE_S
    while time.monotonic() < deadline_s:
        time.sleep(0.002)
        try:
            if kcmp_vm(pid, victim.living_tid):
                return True
        except OSError:
            return True
    return False


def _has_badness(pid: int, proc: Procfs) -> bool:
    """Then it is in no vfork: to the kernel such a one has none (in_vfork in oom_badness)."""
    try:
        return proc.oom_score(pid) > 0
    except OSError:
        return False


def _groups(ordered: list[Facts]) -> Iterator[list[Facts]]:
    """Victims that share one mm among themselves, in pid order, two or more."""
    group: list[Facts] = []
    for facts in ordered:
        with contextlib.suppress(OSError):
            if group and kcmp_vm(group[-1].living_tid, facts.living_tid) == 0:
                group.append(facts)
                continue
        if len(group) > 1:
            yield sorted(group, key=lambda f: f.pid)
        group = [facts]
    if len(group) > 1:
        yield sorted(group, key=lambda f: f.pid)
