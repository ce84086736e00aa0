"""``memreap trace oom``: follows the kernel's own OOM killer, and tells each victim as it ends.

1. What is dear to trace (rss_stat, mmap_lock, sched_switch) the kernel takes up by itself when it
   marks a victim, and leaves again when nothing more is to be seen of any.
2. Nothing is read of a victim: who its threads are, and whether it is meant, is known before.
"""

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memreap.evidence import events, oom_words
from memreap.evidence.oom import DELAY_NS, GRACE_NS, Followed, Follower
from memreap.evidence.oom_folder import Folder
from memreap.evidence.oom_scope import Scope
from memreap.linux.procfs import Procfs
from memreap.linux.tracing import (
    BUFFER_BYTES,
    Event,
    Instance,
    TracingError,
    bytes_a_cpu,
    tracefs,
)
from memreap.printing import Paper
from memreap.telling.incidents import when

EXIT_OK, EXIT_USAGE, EXIT_NOT_HERE = 0, 2, 3
TICK_S = 0.05
ENDS_S = 2.0  # for a command to end on SIGTERM
LOOK_S = 1.0  # between two looks at a cgroup, if nothing happens
BUFFERS_BYTES, BUFFER_BYTES_MIN = 32 << 20, 1 << 20  # of all CPUs together; of each
INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, include/linux/proc_ns.h
MARK = "oom/mark_victim"
ALWAYS = (
    *events.OOM,
    *events.ENDS,
    ("mmap/exit_mmap", ""),
    ("task/task_newtask", ""),
)
OF_CGROUPS = (("cgroup/cgroup_attach_task", ""),)
ARMED = (
    ("kmem/rss_stat", "curr == 0 && member != 2"),  # no page faults, nor swap entries
    ("mmap_lock/mmap_lock_acquire_returned", 'comm == "oom_reaper"'),
    ("sched/sched_switch", events.DEAD),
)


class UsageError(ValueError):
    """What was asked for cannot be; the message says why."""


@dataclass(frozen=True, slots=True)
class OomOptions:
    """The command line. Ends with the first of: so many victims, so long, the command's end."""

    cgroup: str | None = None
    count: int | None = None
    seconds_s: float | None = None
    json: bool = False
    command: tuple[str, ...] = ()


def oom(options: OomOptions, paper: Paper) -> int:
    """Follow and tell; the exit code. Raises UsageError."""
    try:
        folder = _folder(options.cgroup)
        with tracefs() as root, _instances(root) as instances:
            following = Following(instances, folder)
            with _running(options) as child:
                Telling(following, options, paper).until_the_end(child)
            for line in following.shortcomings():
                paper.err(line)
    except TracingError as error:
        paper.err(str(error))
        return paper.finish(EXIT_NOT_HERE)
    return paper.finish(EXIT_OK)


def _folder(name: str | None) -> Folder | None:
    try:
        return None if name is None else Folder.of(name)
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from None


@contextlib.contextmanager
def _instances(root: Path) -> Iterator[tuple[Instance, Instance]]:
    size = bytes_a_cpu(BUFFERS_BYTES, BUFFER_BYTES_MIN, BUFFER_BYTES)
    with Instance(root, buffer_bytes=size) as one, Instance(root, buffer_bytes=size) as other:
        yield one, other


class Following:
    """The kernel's events, as they come, and the victims in them."""

    def __init__(self, instances: tuple[Instance, Instance], folder: Folder | None) -> None:
        """Begin to trace, then see who is there. Raises TracingError.

        ``instances``: for who is there and what becomes of them, and for what is dear: when many
        exit at once that may not fit, and is not to take the rest with it.
        """
        self._instances, self._folder = instances, folder
        lives, dear = instances
        if Path("/proc/self/ns/pid").stat().st_ino != INITIAL_PID_NAMESPACE:
            raise TracingError("events name processes as the initial PID namespace does: run there")
        always = (*ALWAYS, *OF_CGROUPS) if folder else ALWAYS
        self._missing = lives.enable_all(always)
        self._missing += [event for event, only in ARMED if not dear.arm(event, MARK, only)]
        if any(event in events.NEEDED["oom"] for event in self._missing):
            raise TracingError(f"this kernel has no {MARK}")
        dear.start()
        lives.start()
        ended = lives.format("sched/sched_process_exit").fields
        self._scope = Scope(_threads(Procfs()), folder.group if folder else None)
        self.follower = Follower(
            self._scope, exits_first=any(field.name == "group_dead" for field in ended)
        )
        self.until_ns = time.monotonic_ns()  # what was before has been read
        self._held_back: list[Event] = []
        self._rests, self._busy_ns = True, 0
        self._looked_s = 0.0
        self._killed = folder.killed() if folder else 0
        self._look_around()

    def read(self, *, last: bool = False) -> None:
        """Take what was traced. ``last``: trace no more."""
        until_ns, found = time.monotonic_ns(), self._held_back
        for instance in self._instances:
            if last:
                instance.stop()
            until_ns = min(until_ns, _take(instance, found))
        found.sort(key=lambda one: one.at_ns)
        ripe = found if last else [one for one in found if one.at_ns <= until_ns]
        self._held_back = found[len(ripe) :]
        for event in ripe:
            self.follower.take(event)
        self.until_ns = until_ns
        self._look_around()
        self._arm()

    def shortcomings(self) -> Iterator[str]:
        """What could not be seen."""
        if self._missing:
            told = ", ".join(self._missing)
            yield f"this kernel does not have {told}: what they tell is missing"
        lost, pages_lost = (instance.lost for instance in self._instances)
        if lost:
            yield f"{lost:,} events were lost: whoever is missing may be in them"
        if pages_lost:
            yield f"{pages_lost:,} events were lost of who freed what: figures may be too small"
        if self._folder is not None:
            killed, seen = self._folder.killed() - self._killed, self.follower.seen
            if killed > seen:
                yield f"by its own count, the kernel killed {killed} there, and {seen} were seen"

    def _look_around(self) -> None:
        """Who is in the cgroup, where events alone do not tell."""
        if self._folder is None:
            return
        now_s = time.monotonic()
        if self._scope.unsure or now_s - self._looked_s > LOOK_S:
            self._scope.unsure = False
            self._looked_s = now_s
            self._folder.look()

    def _arm(self) -> None:
        """Leave what is dear a while after the last that was to be seen.

        A mark that comes at that very moment arms it again, and is then undone: so it is enabled.
        """
        there = [event for event, _ in ARMED if event not in self._missing]
        now_ns = self.until_ns
        if self.follower.is_busy(now_ns):
            self._busy_ns = now_ns
            if self._rests:
                for event in there:
                    self._instances[1].enable(event)
            self._rests = False
        elif not self._rests and now_ns - self._busy_ns > GRACE_NS:
            for event in there:
                self._instances[1].rest(event)
            self._rests = True


class Telling:
    """What is said of whom, and when it is over."""

    def __init__(self, following: Following, options: OomOptions, paper: Paper) -> None:
        """Nothing was told so far."""
        self._following, self._options, self._paper = following, options, paper
        self._told = 0
        self._until_s = _later(options.seconds_s)
        self._linger_until_s: float | None = None  # the command has ended, the reaper may come yet

    def until_the_end(self, child: subprocess.Popen[bytes] | None) -> None:
        """Tell of each victim as it ends, and in the end of those that have not."""
        self._hint(child)
        with contextlib.suppress(KeyboardInterrupt):
            while not self._is_over(child):
                time.sleep(TICK_S)
                self._look()
        if self._is_enough():
            return
        self._look(last=True)
        for victim in self._following.follower.untold():
            self._tell(victim)
        if not self._told and not self._options.json:
            self._paper.err("the kernel's OOM killer marked nobody")
        if child is not None and child.poll():
            self._paper.err(f"{self._options.command[0]} ended with {child.returncode}")

    def _hint(self, child: subprocess.Popen[bytes] | None) -> None:
        if sys.stderr.isatty() and child is None:
            where = self._options.cgroup or "the whole machine"
            self._paper.err(f"following the kernel's OOM killer, {where}; Ctrl-C ends it")

    def _is_over(self, child: subprocess.Popen[bytes] | None) -> bool:
        if child is not None and child.poll() is not None:
            if self._linger_until_s is None:  # the last events are still to be read
                self._linger_until_s = _later((DELAY_NS + 2 * GRACE_NS) / 1e9)
                self._until_s = min(self._until_s, self._linger_until_s)
            elif not self._following.follower.is_busy(self._following.until_ns):
                return True
        return self._is_enough() or time.monotonic() > self._until_s

    def _is_enough(self) -> bool:
        return self._options.count is not None and self._told >= self._options.count

    def _look(self, *, last: bool = False) -> None:
        self._following.read(last=last)
        for victim, again in self._following.follower.settled(self._following.until_ns):
            if self._is_enough():
                return
            self._tell(victim, again=again)

    def _tell(self, victim: Followed, *, again: bool = False) -> None:
        self._told += not again
        marked_wall_s = time.time() - (time.monotonic_ns() - victim.marked_ns) / 1e9
        if self._options.json:
            self._paper.dump(oom_words.as_dict(victim, marked_wall_s))
        else:
            for line in oom_words.lines(victim, when(marked_wall_s), again=again):
                self._paper.out(line)
        sys.stdout.flush()  # who has gone by now, as head(1) has, wants to hear no more


@contextlib.contextmanager
def _running(options: OomOptions) -> Iterator[subprocess.Popen[bytes] | None]:
    """The command, if there is one; it ends with us. Raises UsageError."""
    if not options.command:
        yield None
        return
    try:
        child = subprocess.Popen(options.command, stdout=2 if options.json else None)  # noqa: S603
    except OSError as error:
        raise UsageError(f"{options.command[0]}: {error.strerror}") from error
    try:
        yield child
    finally:
        for end in (child.terminate, child.kill):
            if child.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):  # it may hang
                    child.wait(ENDS_S)


def _take(instance: Instance, found: list[Event]) -> int:
    """Append what was traced; until when there is no more of it.

    While one CPU's events are read, others come on those that were read before; and whoever is
    outrun by them has not read all there is.
    """
    until_ns, pages = time.monotonic_ns(), Counter[int]()
    for cpu, page in instance.pages():
        found += instance.decode(cpu, page)
        pages[cpu] += 1
        if pages[cpu] == instance.pages_max and found:
            until_ns = min(until_ns, found[-1].at_ns)
    return until_ns


def _later(after_s: float | None) -> float:
    return float("inf") if after_s is None else time.monotonic() + after_s


def _threads(procfs: Procfs) -> dict[int, int]:
    """The process of every thread there is. Pins nothing."""
    found: dict[int, int] = {}
    for pid in procfs.pids():
        with contextlib.suppress(OSError):  # gone meanwhile
            found.update(dict.fromkeys(procfs.threads(pid), pid))
    return found
