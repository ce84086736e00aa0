"""Asynchronous I/O in flight. fs/aio.c, and the devices behind it."""

from typing import TYPE_CHECKING

from memreap.check.operation import BLOCK, Block, Memory, Steps, operation
from memreap.mm.mm_struct import MmStruct, TaskStruct

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel


@operation()
def kill_ioctx(s: Memory, mm: MmStruct, is_reaper: bool) -> None:
    """Cancel what can be cancelled; from here on there is only waiting."""
    if is_reaper and s[mm.aio]:
        s.breaks("hostage", "who should free the memory waits for the victim's I/O in exit_aio")


@operation()
def wait_for_completion(s: Memory, mm: MmStruct) -> Block | None:
    """Until nothing is in flight; nothing says that this ever comes."""
    return BLOCK if s[mm.aio] else None


def exit_aio(k: "Kernel", mm: MmStruct, current: TaskStruct) -> Steps:
    """Wait for all I/O of an address space that ends."""
    yield kill_ioctx(mm, current.comm in k.reapers)
    yield wait_for_completion(mm)


@operation()
def aio_complete(s: Memory, mm: MmStruct) -> None:
    """One I/O is done."""
    s[mm.aio] -= 1


def device(mm: MmStruct) -> Steps:
    """Raw I/O: it completes, soon or late, and needs nobody."""
    yield aio_complete(mm)


def filesystem(k: "Kernel", mm: MmStruct) -> Steps:
    """It completes only after it was given memory (or waits for another task that was)."""
    yield from k.alloc_page_for_io()
    yield aio_complete(mm)
