"""The clock of a run: what was available, sampled every five milliseconds, and a heartbeat.

Two processes, started before anything goes wrong and locked in memory. The sampler has real-time
priority: what it misses, the machine missed. The heart is an ordinary process that wants one page
at each beat: the longest time between two of its beats is how long the guest stood still for
somebody who needs next to nothing. What they see goes into memory that is shared with who reads it.
"""

import contextlib
import ctypes
import mmap
import os
import signal
import struct
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SAMPLE_S = 0.005
BEAT_S = 0.010
START_S = 10.0
LONGEST_S = 300  # of a run
SAMPLER_PRIORITY = 60
LINE_SHARE = 0.10
_SAMPLE = struct.Struct("=dq")  # CLOCK_MONOTONIC s, bytes left
_BEAT = struct.Struct("=d")
_COUNT = struct.Struct("=q")
_MCL_CURRENT_AND_FUTURE = 3
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15

Sample = tuple[float, int]


@dataclass(frozen=True)
class Ground:
    """What may run out, and where its line is: of the machine, or of one NUMA node."""

    node: int | None = None

    @property
    def path(self) -> str:
        """The file that tells."""
        if self.node is None:
            return "/proc/meminfo"
        return f"/sys/devices/system/node/node{self.node}/meminfo"

    def left(self, text: bytes) -> int:
        """Bytes that can still be had, swap included; of a node: free, or page cache."""
        if self.node is None:
            return _kib(text, b"MemAvailable:") + _kib(text, b"SwapFree:")
        return sum(_kib(text, n) for n in (b"MemFree:", b"Active(file):", b"Inactive(file):"))

    def whole(self, text: bytes) -> int:
        """Bytes there are."""
        total = _kib(text, b"MemTotal:")
        return total if self.node is not None else total + _kib(text, b"SwapTotal:")

    def look(self) -> tuple[int, int]:
        """(left, the line), bytes, now."""
        text = Path(self.path).read_bytes()
        return self.left(text), round(self.whole(text) * LINE_SHARE)


def _kib(text: bytes, name: bytes) -> int:
    at = text.index(name) + len(name)
    return int(text[at : text.index(b"kB", at)]) << 10


class Meter:
    """Sampler and heart while a run lasts."""

    def __init__(self, ground: Ground) -> None:
        """``ground``: what is looked at."""
        self.ground = ground
        self._samples = mmap.mmap(-1, _COUNT.size + round(LONGEST_S / SAMPLE_S) * _SAMPLE.size)
        self._beats = mmap.mmap(-1, _COUNT.size + round(LONGEST_S / BEAT_S) * _BEAT.size)
        self._pids: list[int] = []

    def start(self) -> None:
        """Both begin; returns when both run."""
        for what in (self._sample, self._beat):
            self._pids.append(_fork(what))
        # Should one of them fail, the run says so by having seen nothing.
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if self._number(self._samples) and self._number(self._beats):
                break
            time.sleep(0.01)

    def stop(self) -> None:
        """Both end."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self._pids.clear()

    def samples(self) -> list[Sample]:
        """All so far."""
        return [
            (at_s, left) for at_s, left in _SAMPLE.iter_unpack(self._rows(self._samples, _SAMPLE))
        ]

    def beats(self) -> list[float]:
        """All so far."""
        return [at_s for (at_s,) in _BEAT.iter_unpack(self._rows(self._beats, _BEAT))]

    def _number(self, table: mmap.mmap) -> int:
        return int(_COUNT.unpack_from(table)[0])

    def _rows(self, table: mmap.mmap, row: struct.Struct) -> bytes:
        return table[_COUNT.size : _COUNT.size + self._number(table) * row.size]

    def _sample(self) -> None:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(SAMPLER_PRIORITY))
        fd = os.open(self.ground.path, os.O_RDONLY)
        for number in range((len(self._samples) - _COUNT.size) // _SAMPLE.size):
            left = self.ground.left(os.pread(fd, 8192, 0))
            at = _COUNT.size + number * _SAMPLE.size
            _SAMPLE.pack_into(self._samples, at, time.monotonic(), left)
            _COUNT.pack_into(self._samples, 0, number + 1)
            time.sleep(SAMPLE_S)

    def _beat(self) -> None:
        for number in range((len(self._beats) - _COUNT.size) // _BEAT.size):
            page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            page[0] = 1
            page.close()
            at = _COUNT.size + number * _BEAT.size
            _BEAT.pack_into(self._beats, at, time.monotonic())
            _COUNT.pack_into(self._beats, 0, number + 1)
            time.sleep(BEAT_S)


@contextlib.contextmanager
def metering(ground: Ground) -> Iterator[Meter]:
    """A meter for a while."""
    meter = Meter(ground)
    try:
        meter.start()
        yield meter
    finally:
        meter.stop()


def _fork(what: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(what)
    return pid


def _become(what: Callable[[], None]) -> NoReturn:
    try:
        Path("/proc/self/oom_score_adj").write_text("-1000")
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        libc.prctl(_PR_SET_NAME, b"meter")
        if libc.mlockall(_MCL_CURRENT_AND_FUTURE) != 0:
            raise OSError(ctypes.get_errno(), "mlockall")
        what()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


# What the samples say.


def crossing(samples: list[Sample], line: int) -> float | None:
    """When there was first less left than the line; None: never."""
    return next((at_s for at_s, left in samples if left < line), None)


def back(samples: list[Sample], line: int, after_s: float) -> float | None:
    """Since when there has been as much as the line again, to the end; None: there was not.

    Only what is ``after_s`` counts. Where the line was not crossed after all, that is at once.
    """
    since: float | None = None
    for at_s, left in samples:
        if at_s < after_s:
            continue
        if left < line:
            since = None
        elif since is None:
            since = at_s
    return since


def longest_gap(times: list[float], from_s: float, to_s: float) -> tuple[float, float]:
    """(length, begin) of the longest time between two, of those that reach into a span."""
    if not times:
        return to_s - from_s, from_s
    gaps = [
        (later - earlier, earlier)
        for earlier, later in zip(times, [*times[1:], to_s], strict=True)
        if later > from_s and earlier < to_s
    ]
    return max(gaps, default=(0.0, from_s))


def thinned(samples: list[Sample], from_s: float, to_s: float, many: int) -> list[Sample]:
    """At most so many, evenly, of a span."""
    inside = [sample for sample in samples if from_s <= sample[0] <= to_s]
    step = -(-len(inside) // many) or 1
    return inside[::step]
