"""What each kind of victim does, and the table of them all.

A kind is one function that never returns: it holds the memory, makes itself hard to kill or to
reap in its own way, reports, and waits for its end. It runs in a process of its own.
"""

import ctypes
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from memreap.linux import syscalls
from memreap.victims.bomb import fork_bomb
from memreap.victims.scene import Scene, address, sleep_for_ever

CLONE_VM = 0x00000100  # linux/sched.h
SHARER_STACK_BYTES = 1 << 18
LEAVES_AFTER_S = 0.2
SETVBUF_UNBUFFERED = 2  # _IONBF in stdio.h
IOCB_CMD_PREAD = 0  # linux/aio_abi.h


class Iocb(ctypes.Structure):
    """``struct iocb`` of linux/aio_abi.h: a request to io_submit(2).

    On big-endian machines aio_key and aio_rw_flags change places; both stay 0 here.
    """

    _fields_ = (
        ("aio_data", ctypes.c_uint64),
        ("aio_key", ctypes.c_uint32),
        ("aio_rw_flags", ctypes.c_uint32),
        ("aio_lio_opcode", ctypes.c_uint16),
        ("aio_reqprio", ctypes.c_int16),
        ("aio_fildes", ctypes.c_uint32),
        ("aio_buf", ctypes.c_uint64),
        ("aio_nbytes", ctypes.c_uint64),
        ("aio_offset", ctypes.c_int64),
        ("aio_reserved2", ctypes.c_uint64),
        ("aio_flags", ctypes.c_uint32),
        ("aio_resfd", ctypes.c_uint32),
    )


def sleeping(scene: Scene) -> NoReturn:
    """The plain case: one thread, asleep."""
    scene.hold()
    scene.report()
    sleep_for_ever()


def busy(scene: Scene) -> NoReturn:
    """Runs, and goes on writing to its memory."""
    memory = scene.hold()
    scene.report()
    _spin(memory)


def idle(scene: Scene) -> NoReturn:
    """Runs only when no one else wants to: beside busy neighbours it hardly gets to die."""
    memory = scene.hold()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    scene.report()
    _spin(memory)


def _spin(memory: mmap.mmap) -> NoReturn:
    while True:
        memory[0] = (memory[0] + 1) & 0xFF


def threads(scene: Scene) -> NoReturn:
    """Every thread has to end before the mm does."""
    scene.hold()
    for _ in range(scene.order.threads):
        threading.Thread(target=signal.pause, daemon=True).start()
    scene.report()
    sleep_for_ever()


def shared(scene: Scene) -> NoReturn:
    """A second process uses the same mm: it takes the death of both to free anything."""
    scene.hold()
    stack = mmap.mmap(-1, SHARER_STACK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    scene.report(sharers=[_clone_sharer(scene.lifeline_fd, stack)])
    sleep_for_ever()


def _clone_sharer(lifeline_fd: int, stack: mmap.mmap) -> int:
    """Start a process in this very mm, in C alone: there is no second interpreter in here.

    It reads one byte that never comes; when the host is gone, end-of-file lets it return and
    end. No PDEATHSIG does that, for its parent, this victim, may well die long before it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fdopen.restype = ctypes.c_void_p
    lifeline = ctypes.c_void_p(libc.fdopen(lifeline_fd, b"r"))
    libc.setvbuf(lifeline, None, SETVBUF_UNBUFFERED, ctypes.c_size_t(0))  # so it never allocates
    top = ctypes.c_void_p(address(stack) + len(stack))
    entry = ctypes.cast(libc.fgetc, ctypes.c_void_p)
    pid = int(libc.clone(entry, top, CLONE_VM | signal.SIGCHLD, lifeline))
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone(CLONE_VM)")
    return pid


def ignores_term(scene: Scene) -> NoReturn:
    """Politeness does not help."""
    scene.hold()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    scene.report()
    sleep_for_ever()


def leaves_on_term(scene: Scene) -> NoReturn:
    """Politeness helps, if one waits a little."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        time.sleep(LEAVES_AFTER_S)
        os._exit(0)

    scene.hold()
    signal.signal(signal.SIGTERM, leave)
    scene.report()
    sleep_for_ever()


def fork_hog(scene: Scene) -> NoReturn:
    """The child has the memory; its parent is small and waits for it."""
    if os.fork() == 0:
        # Should the parent be gone by now, the report finds no reader, and that ends the child.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        sleeping(scene)
    os.close(scene.report_fd)
    os.wait()
    os._exit(0)


def hung_aio(scene: Scene) -> NoReturn:
    """Has an AIO read in flight that never ends: waits in ``exit_aio``, its mm intact, for ever."""
    memory = scene.hold()
    fd = scene.hung.open(os.O_RDONLY | os.O_DIRECT)
    context = ctypes.c_ulong(0)
    syscalls.syscall(syscalls.NR_IO_SETUP, ctypes.c_uint(1), ctypes.byref(context))
    request = Iocb(
        aio_lio_opcode=IOCB_CMD_PREAD,
        aio_fildes=fd,
        aio_buf=address(memory),
        aio_nbytes=mmap.PAGESIZE,
    )
    requests = (ctypes.c_void_p * 1)(ctypes.addressof(request))
    syscalls.syscall(syscalls.NR_IO_SUBMIT, context, ctypes.c_long(1), requests)
    scene.hung.wait_for_read()
    scene.report()
    sleep_for_ever()


def hung_thread(scene: Scene) -> NoReturn:
    """One thread waits unkillably in a read, and keeps the mm that the others have left."""
    memory = scene.hold()
    fd = scene.hung.open(os.O_RDONLY | os.O_DIRECT)
    page = memoryview(memory)[: mmap.PAGESIZE]
    threading.Thread(target=os.preadv, args=(fd, [page], 0), daemon=True).start()
    scene.hung.wait_for_read()
    scene.report()
    sleep_for_ever()


def hung_mmap_lock(scene: Scene) -> NoReturn:
    """Hangs inside mmap(2), with ``mmap_lock`` held for writing: no one else can look at the mm.

    A read that never ends keeps a folio of the page cache locked. To map the same file privately
    through a descriptor that bypasses the cache, the kernel first drops the cache
    (``fuse_file_mmap -> invalidate_inode_pages2 -> folio_lock``), and waits for that folio.
    """
    scene.hold()
    cached = scene.hung.open(os.O_RDONLY)
    direct = scene.hung.open(os.O_RDONLY | os.O_DIRECT)  # now: an open would wait for the folio
    threading.Thread(target=os.pread, args=(cached, 1, 0), daemon=True).start()
    scene.hung.wait_for_read()
    scene.report()  # before the fact, as this thread comes no further; the host waits for state D
    mmap.mmap(direct, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    raise AssertionError("the mapping returned, so nothing hangs")


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the table."""

    act: Callable[[Scene], NoReturn]
    hung_file: bool = False
    """Needs the hung file."""
    ends_in_d: bool = False
    """Is ready only when its main thread is in state D."""


KINDS = {
    "sleeping": Kind(sleeping),
    "busy": Kind(busy),
    "idle": Kind(idle),
    "threads": Kind(threads),
    "shared": Kind(shared),
    "ignores-term": Kind(ignores_term),
    "leaves-on-term": Kind(leaves_on_term),
    "fork-hog": Kind(fork_hog),
    "fork-bomb": Kind(fork_bomb),
    "hung-aio": Kind(hung_aio, hung_file=True),
    "hung-thread": Kind(hung_thread, hung_file=True),
    "hung-mmap-lock": Kind(hung_mmap_lock, hung_file=True, ends_in_d=True),
}
