"""Exits of the whole system, read from the running kernel as fast as they come.

1. The kernel filters; a record is two calls of ``unpack_from``, and no dict is made.
2. Pages are taken off all CPUs before any is decoded: who decodes in between runs after the
   writers for ever.
3. CPUs are merged by time: what is younger than the sweep that read it waits for the next one.
"""

import struct
import time
from collections.abc import Callable
from operator import itemgetter

from memreap.evidence import events
from memreap.evidence.exits import (
    DEAD,
    EXECED,
    EXITS,
    FAILED,
    RELEASED_READ,
    THREAD_EXITS,
    TORN,
    WANTS_READ,
    Counting,
    Exits,
    Happening,
)
from memreap.evidence.occasions import Occasion
from memreap.linux.ring_buffer import COMMON, Format
from memreap.linux.tracing import Instance, TracingError, bytes_a_cpu

LOCKS = {
    # event: (its filter, what it is if its flag is not set, its flag)
    "mmap_lock/mmap_lock_start_locking": ("", WANTS_READ, "write"),
    "mmap_lock/mmap_lock_acquire_returned": ("write == 1 || success == 0", FAILED, "success"),
    "mmap_lock/mmap_lock_released": ("write == 1", RELEASED_READ, "write"),
}
TASKS = {
    # event: (its filter, what it is)
    "sched/sched_process_exit": ("", THREAD_EXITS),
    "mmap/exit_mmap": ("", TORN),
    "sched/sched_process_exec": ("", EXECED),
    "sched/sched_switch": (events.DEAD, DEAD),
}
GROUP_DEAD = "group_dead"  # told from 6.16 on, when the event came before exit_mm too

BUFFERS_BYTES, BUFFER_MIN_BYTES, BUFFER_MAX_BYTES = 128 << 20, 1 << 20, 32 << 20
PAUSE_S = 0.03
HELD_BACK_NS = 5_000_000  # a CPU of a virtual machine may stand still inside a tracepoint
DYING_S = 0.02  # who was waited for is a zombie, and not quite dead

Decoder = Callable[[bytes, int], tuple[int, int]]

_take_common = COMMON.unpack_from


def buffer_bytes(cpus: int) -> int:
    """For each CPU: seconds of exits, where there are few CPUs."""
    return bytes_a_cpu(BUFFERS_BYTES, BUFFER_MIN_BYTES, BUFFER_MAX_BYTES, cpus)


class Reader:
    """What happens, in the order of time, out of an instance of one's own."""

    def __init__(self, instance: Instance) -> None:
        """Have the kernel trace what is needed, from ``start`` on. Raises TracingError."""
        filters = {name: how[0] for name, how in (LOCKS | TASKS).items()}
        if missing := instance.enable_all(filters.items()):
            raise TracingError(f"this kernel does not trace {', '.join(missing)}")
        self._instance = instance
        self._records = instance.header.records
        self._locks = {}
        for name, (_, what, flag) in LOCKS.items():
            form = instance.format(name)
            self._locks[form.id] = what, _picker(form, "mm", flag).unpack_from
        self._tasks: dict[int, Decoder] = {}
        for name, (_, what) in TASKS.items():
            form = instance.format(name)
            self._tasks[form.id] = _decoder(form, what)
        exit_fields = {f.name for f in instance.format("sched/sched_process_exit").fields}
        self.late = GROUP_DEAD not in exit_fields
        self._kept: list[Happening] = []

    def read(self) -> list[Happening]:
        """What has happened since, but the very last."""
        until_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - HELD_BACK_NS
        found = self._sweep()
        older = [one for one in found if one[0] < until_ns]
        self._kept = found[len(older) :]
        return older

    def rest(self) -> list[Happening]:
        """All that is left, once tracing has stopped."""
        return self._sweep()

    def _sweep(self) -> list[Happening]:
        found, self._kept = self._kept, []
        for _, page in list(self._instance.pages()):
            self._decode(page, found)
        found.sort(key=itemgetter(0))  # stable: of one CPU as they were written
        return found

    def _decode(self, page: bytes, found: list[Happening]) -> None:
        locks, tasks, add = self._locks, self._tasks, found.append
        for at_ns, at in self._records(page):
            kind, _, _, pid = _take_common(page, at)
            lock = locks.get(kind)
            if lock is not None:
                what, take = lock
                mm, flag = take(page, at)
                add((at_ns, what + flag, pid, mm))
            elif kind in tasks:
                what, mm = tasks[kind](page, at)
                add((at_ns, what, pid, mm))


def _picker(form: Format, *names: str) -> struct.Struct:
    """Just these fields of a record, in the order in which they lie."""
    fields = {field.name: field for field in form.fields}
    code, at = "=", 0
    for name in names:
        one = fields[name]
        code += f"{one.offset - at}x{one.code}"
        at = one.offset + one.size
    return struct.Struct(code)


def _decoder(form: Format, what: int) -> Decoder:
    """What a record says: (what happened, mm)."""
    names = {field.name for field in form.fields}
    if what == TORN:
        take = _picker(form, "mm").unpack_from
        return lambda page, at: (TORN, take(page, at)[0])
    if GROUP_DEAD in names:
        take = _picker(form, GROUP_DEAD).unpack_from
        return lambda page, at: (THREAD_EXITS + take(page, at)[0], 0)
    # Before 6.16 nobody tells which thread is the last: each may be.
    always = (EXITS if what == THREAD_EXITS else what, 0)
    return lambda *_: always


def watch(instance: Instance, occasion: Occasion) -> Exits:
    """Count while it goes on. Raises TracingError."""
    reader = Reader(instance)
    counting = Counting(late=reader.late)
    instance.start()
    occasion.go()
    while not occasion.is_over(PAUSE_S):
        counting.feed(reader.read())
    time.sleep(DYING_S)
    instance.stop()
    counting.feed(reader.rest())
    return counting.finish()
