"""What can be known before the kill, read where hanging does no harm.

A read under /proc/PID can wait for that process's mmap_lock, or become the last to drop its mm
and hang in its place. So every read is made in a worker, one process at a time, under a time
limit: a worker that hangs is given up, the process named, and the next worker goes on behind it.
"""

import errno
import mmap
import os
import struct
from dataclasses import dataclass, field
from functools import partial

from memreap.linux import scheduling
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Line, Worker
from memreap.reap import facts as facts_
from memreap.reap.facts import Facts
from memreap.reap.sharers import sharers
from memreap.reap.target import Match, Target

READ_TIMEOUT_S = 1.0
READ_TIMEOUT_AFTER_HANGS_S = 0.1  # once the machine has shown that it hangs
HANGS_BEFORE_HASTE = 3
BREAKS_MAX = 1
PID_MAX = 1 << 62  # what is larger is nobody's number, but may be asked for
_PID = struct.Struct("q")


@dataclass(frozen=True, slots=True)
class Found:
    """A process with the pidfd that was open while its facts were read."""

    facts: Facts
    pidfd: int


@dataclass(slots=True)
class Survey:
    """Everything found: targets, who shares an mm with them, and what could not be read."""

    found: list[Found] = field(default_factory=list)
    sharers: dict[int, list[Found]] = field(default_factory=dict)  # by the victim's pid
    unreadable: dict[int, str] = field(default_factory=dict)  # pid -> why
    gone: list[int] = field(default_factory=list)
    ancestors: frozenset[int] = frozenset()  # of whoever asked, itself among them
    errors: list[str] = field(default_factory=list)
    complete: bool = False  # whether the last worker said that it was done

    def known(self) -> set[int]:
        """Every process that need not be read again."""
        others = [found.facts.pid for group in self.sharers.values() for found in group]
        return {f.facts.pid for f in self.found} | {*self.unreadable, *self.gone, *others}

    def note(self, message: object, fds: list[int]) -> None:
        """Take one message of the worker."""
        match message:
            case {"done": True}:
                self.complete = True
            case {"facts": dict(raw)} if not fds:
                self.unreadable[raw["pid"]] = os.strerror(errno.EMFILE)
            case {"facts": dict(raw), "victim": int(victim)}:
                self.sharers.setdefault(victim, []).append(Found(Facts.from_message(raw), fds[0]))
            case {"facts": dict(raw)}:
                self.found.append(Found(Facts.from_message(raw), fds[0]))
            case {"victim": int(victim), "is": int(pid)}:
                same = next(found for found in self.found if found.facts.pid == pid)
                self.sharers.setdefault(victim, []).append(same)
            case {"unreadable": int(pid), "why": str(why)}:
                self.unreadable[pid] = why
            case {"ancestors": list(pids)}:
                self.ancestors = frozenset(pids)
            case {"gone": int(pid)}:
                self.gone.append(pid)
            case {"error": str(error)}:
                self.errors.append(error)
            case _:
                raise AssertionError(f"a worker says what no worker says: {message!r}")


class _Reader:
    """The worker's side."""

    def __init__(self, target: Target, proc: Procfs, shared: bool, among: list[int] | None) -> None:
        self.target, self.proc, self.shared, self.among = target, proc, shared, among
        self.now_reading = mmap.mmap(-1, mmap.PAGESIZE)  # shared with every worker

    def look_at(self, pid: int) -> None:
        """Let the parent know whom to name if this hangs."""
        _PID.pack_into(self.now_reading, 0, min(pid, PID_MAX))

    def run(self, before: list[Facts], done: set[int], line: Line) -> None:
        """Find, then look for sharers; ``before``: what workers found that hung later on."""
        if not isinstance(self.target, Match):  # a regular expression may take all the time it gets
            scheduling.realtime(0, scheduling.REAPER_PRIORITY)
        self.ask_ancestors(line)
        found = [*before, *self.find(done, line)]
        if self.shared:
            self.share(found, done, line)
        line.say({"done": True})

    def ask_ancestors(self, line: Line) -> None:
        """Say who must not be meant: whoever asked, and its ancestors."""
        line.say({"ancestors": _ancestors(os.getppid(), self.proc)})

    def find(self, done: set[int], line: Line) -> list[Facts]:
        """Say the facts of each process that is meant."""
        done = done | {os.getpid()}  # this worker may well stand in what it looks at
        unseen = [pid for pid in self.target.pids(self.proc) if pid not in done]
        found = [self._try(pid, line, {}) for pid in unseen]
        return [facts for facts in found if facts is not None]

    def share(self, victims: list[Facts], done: set[int], line: Line) -> None:
        """Say the facts of each process that shares the mm of one of these."""
        named = {facts.pid for facts in victims}
        for victim, pid in sharers(victims, self.proc, self.among):
            if pid in named:
                line.say({"victim": victim, "is": pid})
            elif pid not in done:
                self._try(pid, line, {"victim": victim})

    def _try(self, pid: int, line: Line, more: dict[str, object]) -> Facts | None:
        self.look_at(pid)
        try:
            if more or self.target.means(pid, self.proc):
                return self.say(pid, line, more)
        except (FileNotFoundError, ProcessLookupError):
            line.say({"gone": pid})
        except OSError as error:
            line.say({"unreadable": pid, "why": error.strerror})
        finally:
            self.look_at(0)
        return None

    def say(self, pid: int, line: Line, more: dict[str, object]) -> Facts:
        """Facts and pidfd together: the pidfd was open before, so they are of one process."""
        pidfd = open_pidfd(pid)
        try:
            known = facts_.read(pid, self.proc)
            line.say({"facts": known.as_message(), **more}, [pidfd])
            return known
        finally:
            os.close(pidfd)


def _ancestors(pid: int, proc: Procfs) -> list[int]:
    """A process and its parents, up to init; one of another pid namespace ends the line."""
    line = []
    while pid:
        line.append(pid)
        pid = proc.stat(pid).ppid
    return line


def open_pidfd(pid: int) -> int:
    """Open a pidfd; a number that is no process's raises ProcessLookupError. pidfd_open(2)"""
    try:
        return os.pidfd_open(pid)
    except OverflowError:
        raise ProcessLookupError(errno.ESRCH, "no such process") from None
    except OSError as error:
        # A thread's number gives EINVAL, or ENOENT from 6.9 on: not a process.
        if error.errno in (errno.EINVAL, errno.ENOENT):
            raise ProcessLookupError(error.errno, "not a process but a thread") from None
        raise


def survey(
    target: Target,
    proc: Procfs | None = None,
    *,
    shared: bool = True,
    among: list[int] | None = None,
) -> Survey:
    """Find the target's processes and, if ``shared``, who shares their mm. Bounded in time.

    ``among``: who may share it, where that is known; else everyone on the machine is asked.
    Raises OSError where no worker can be made.
    """
    result = Survey()
    reader = _Reader(target, proc or Procfs(), shared, among)
    hangs = broken = 0
    while True:
        before = [found.facts for found in result.found]
        worker = Worker(partial(reader.run, before, result.known()))
        timeout_s = READ_TIMEOUT_S if hangs < HANGS_BEFORE_HASTE else READ_TIMEOUT_AFTER_HANGS_S
        hung_on = _hear(worker, result, reader.now_reading, timeout_s)
        worker.give_up()
        if hung_on is None and (result.complete or result.errors):
            return result
        if hung_on is None:  # killed halfway: by the machine, for its memory
            broken += 1
            if broken > BREAKS_MAX:
                result.errors.append("whoever looked was killed halfway: some may be missing")
                return result
            continue
        if hung_on == 0:  # between two reads: in a comparison, or in what the target means
            result.errors.append("looking for processes hangs: some may be missing")
            return result
        hangs += 1
        result.unreadable[hung_on] = f"reading it hangs (waited {timeout_s:g} s)"


def _hear(worker: Worker, result: Survey, now_reading: mmap.mmap, timeout_s: float) -> int | None:
    """Note what a worker says until it ends (None), or makes no progress: what it hangs on."""
    before = None
    while True:
        for message, fds in worker.hear_within(timeout_s):
            result.note(message, fds)
        if worker.ended:
            return None
        (pid,) = _PID.unpack_from(now_reading, 0)
        if pid == before:
            return int(pid)
        before = pid  # silent, but not stuck: many processes are not meant
