"""The kernel's tracepoints, by an instance of tracefs of one's own.

1. An instance is always removed; one that a killed process left behind, or that somebody went on
   reading, by the next who comes.
2. Nothing of what others trace is touched, nor read.
3. What was lost is counted by the kernel, and told.

See Documentation/trace/ftrace.rst, events.rst. Events are named as there: ``mmap_lock/...``.
"""

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Self

from memreap.linux.mounting import mount_detached
from memreap.linux.ring_buffer import COMMON, Format, PageHeader

MOUNTED = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
PREFIX = "memreap-"
BUFFER_BYTES = 8 << 20  # for each CPU
BUSY_WAIT_S, BUSY_NAP_S = 1.0, 0.01
_LOST = ("overrun", "commit overrun", "dropped events")
_numbers = count()


class TracingError(Exception):
    """Nothing can be traced here, and why; one line for people."""


class Event(NamedTuple):
    """One thing that happened. ``pid``: of the thread in whose context it did."""

    at_ns: int  # CLOCK_MONOTONIC
    cpu: int
    pid: int
    name: str
    fields: dict[str, Any]


@contextlib.contextmanager
def tracefs(*, may_mount: bool = True) -> Iterator[Path]:
    """Where tracefs is; where it is not mounted and that is permitted, it is for a while.

    Raises TracingError.
    """
    for root in MOUNTED:
        if os.access(root / "instances", os.F_OK, effective_ids=True):
            yield root
            return
    if not may_mount or os.geteuid() != 0:
        raise TracingError(
            "tracefs is not mounted, or not for this user to see: as root, "
            f"mount -t tracefs tracefs {MOUNTED[0]}"
        )
    try:
        fd = mount_detached("tracefs")
    except OSError as error:
        raise TracingError(f"tracefs cannot be mounted: {error.strerror}") from error
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


class Instance:
    """A buffer of one's own for each CPU, and the events that go into it."""

    def __init__(self, root: Path, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        """Make it, not tracing yet. ``root``: of tracefs. Raises TracingError."""
        self._root = root
        self._folder = root / "instances" / f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self._formats: dict[int, Format] = {}
        self._pipes: dict[int, int] = {}
        self._armed: set[str] = set()
        self.pages_max = 0
        self._enabled: dict[str, None] = {}  # in the order in which they were
        remove_stale(root)
        try:
            self.header = PageHeader.parse((root / "events" / "header_page").read_text())
            self._folder.mkdir()
        except OSError as error:
            raise TracingError(_denied(root, error)) from error
        try:
            self._write("tracing_on", "0")
            self._write("trace_clock", "mono")
            self._write("buffer_size_kb", str(max(4, buffer_bytes >> 10)))
            self.pages_max = 2 * buffer_bytes // self.header.page_bytes + 8
            for cpu in sorted((self._folder / "per_cpu").iterdir()):
                number = int(cpu.name.removeprefix("cpu"))
                flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
                self._pipes[number] = os.open(cpu / "trace_pipe_raw", flags)
        except OSError as error:
            self.close()
            raise TracingError(_denied(root, error)) from error

    def has(self, event: str) -> bool:
        """Whether this kernel has such an event."""
        return (self._folder / "events" / event / "enable").exists()

    def enable(self, event: str, only: str = "") -> bool:
        """Take it up; ``only``: a filter. Whether this kernel has it. Raises TracingError."""
        if not self.has(event):
            return False
        try:
            if only:
                self._write(f"events/{event}/filter", only)
            if event not in self._enabled:
                self._learn(event)
            self._write(f"events/{event}/enable", "1")
            self._enabled |= {event: None}
        except OSError as error:
            raise TracingError(f"{event} cannot be traced: {error.strerror}") from error
        return True

    def enable_all(self, events: Iterable[tuple[str, str]]) -> list[str]:
        """Each with its filter; those that this kernel does not have."""
        return [event for event, only in events if not self.enable(event, only)]

    def pause_all(self) -> None:
        """Have no event of ours cost anybody anything, until ``resume_all``."""
        self._write("events/enable", "0")

    def resume_all(self) -> None:
        """Take up all that were enabled, with their filters."""
        for event in self._enabled:
            self._write(f"events/{event}/enable", "1")

    def trigger(self, event: str, what: str) -> bool:
        """Have the kernel do something at an event; whether it can."""
        try:
            self._write(f"events/{event}/trigger", what)
        except OSError:
            return False
        if "stacktrace" in what:
            self._learn("ftrace/kernel_stack")
        return True

    def arm(self, event: str, at: str, only: str = "") -> bool:
        """Have the kernel take it up by itself, at once, when ``at`` happens; ``only``: a filter.

        Until then, and after ``rest``, next to nothing is spent on it. A kernel that cannot do
        that takes it up now. Whether it has the event. Raises TracingError.
        """
        if not self.enable(event, only):
            return False
        if self.trigger(at, f"enable_event:{event.replace('/', ':')}"):
            self._armed.add(event)
            self.rest(event)
        return True

    def rest(self, event: str) -> None:
        """Leave it until what it is armed with happens, or it is enabled; if it is armed."""
        if event in self._armed:
            self._write(f"events/{event}/enable", "0")

    def follow(self, pids: Iterable[int]) -> None:
        """Only what these threads do, and those whom they fork. Raises TracingError."""
        try:
            self._write("options/event-fork", "1")
            self._write("set_event_pid", " ".join(map(str, pids)))
        except OSError as error:
            raise TracingError(f"events cannot be kept to a process: {error.strerror}") from error

    def start(self) -> None:
        """Trace from now on."""
        self._write("tracing_on", "1")

    def stop(self) -> None:
        """Trace no more; what was traced stays to be read."""
        self._write("tracing_on", "0")

    def pages(self) -> Iterator[tuple[int, bytes]]:
        """(CPU, page) of all that has been traced and not been read yet.

        Of each CPU at most ``pages_max``, more than its buffer has: who traces others, or himself,
        may be outrun, and is not to read for ever.
        """
        for cpu, fd in self._pipes.items():
            for _ in range(self.pages_max):
                try:
                    page = os.read(fd, self.header.page_bytes)
                except BlockingIOError:
                    break
                if not page:
                    break
                yield cpu, page

    def events(self) -> list[Event]:
        """All that has been traced and not been read yet, in the order of time."""
        found = [event for cpu, page in self.pages() for event in self.decode(cpu, page)]
        return sorted(found, key=lambda event: event.at_ns)  # of one CPU: as they were written

    def decode(self, cpu: int, page: bytes) -> Iterator[Event]:
        """The events of a page."""
        for at_ns, at in self.header.records(page):
            kind, _, _, pid = COMMON.unpack_from(page, at)
            if (form := self._formats.get(kind)) is not None:
                yield Event(at_ns, cpu, pid, form.name, form.values(page, at))

    def format(self, event: str) -> Format:
        """Of an event that was enabled. Raises KeyError."""
        by_name = {form.name: form for form in self._formats.values()}
        return by_name[event.rpartition("/")[2]]

    @property
    def lost(self) -> int:
        """Events that were traced and overwritten, or not even written, before they were read."""
        return sum(_lost(cpu) for cpu in (self._folder / "per_cpu").iterdir())

    def close(self) -> None:
        """Trace no more, and leave nothing behind.

        While somebody else reads a file of it, it is busy. One that stays so is left to the next
        who traces (``remove_stale``).
        """
        with contextlib.suppress(OSError):
            self.stop()
        for fd in self._pipes.values():
            os.close(fd)
        self._pipes.clear()
        deadline_s = time.monotonic() + BUSY_WAIT_S
        while not self._is_removed() and time.monotonic() < deadline_s:
            time.sleep(BUSY_NAP_S)

    def _is_removed(self) -> bool:
        try:
            self._folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
        return True

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it."""
        self.close()

    def _learn(self, event: str) -> None:
        try:
            text = (self._folder / "events" / event / "format").read_text()
        except OSError:  # of ftrace's own, which instances do not have
            text = (self._root / "events" / event / "format").read_text()
        form = Format.parse(text)
        self._formats[form.id] = form

    def _write(self, name: str, value: str) -> None:
        (self._folder / name).write_text(value)


def bytes_a_cpu(together: int, least: int, most: int, cpus: int | None = None) -> int:
    """A buffer's size, where all are to have so much together; ``cpus``: of this machine."""
    return max(least, min(most, together // (cpus or os.cpu_count() or 1)))


def remove_stale(root: Path) -> None:
    """Remove what killed processes left behind. One that is in use is busy, and stays."""
    for folder in root.glob(f"instances/{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


def _lost(cpu: Path) -> int:
    told = dict(line.partition(":")[::2] for line in (cpu / "stats").read_text().splitlines())
    return sum(int(told[what]) for what in _LOST if what in told)


def _denied(root: Path, error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{root}: {error.strerror}: tracing needs root"
    return f"{root}: {error.strerror}"
