"""Hogs that cannot end: a request to a file server that never answers keeps them. In the guest.

The file and its server are memreap's own, from the victims that its tests kill. The server is a
process of the workload's; its end, however it comes, lets everybody go.
"""

import contextlib
import ctypes
import mmap
import os
import select
import threading
from collections.abc import Callable, Iterator

from bench.oom.yard import Memory, Yard
from memreap.linux import syscalls
from memreap.victims.fuse import HungFile
from memreap.victims.kinds import Iocb


@contextlib.contextmanager
def file(there: Yard) -> Iterator[tuple[HungFile, int]]:
    """The file, and a descriptor of it for one who is not root, once it is served."""
    hung = HungFile()
    there.start("fileserver", _serve(hung))
    hung.release()  # from now on the server alone keeps it
    fd = hung.open(os.O_RDONLY | os.O_DIRECT)
    try:
        yield hung, fd
    finally:
        for each in (fd, hung.folder, hung.reads):
            os.close(each)


def _serve(hung: HungFile) -> Callable[[], object]:
    """Answer everything but reads, for ever."""

    def act() -> None:
        poller = select.poll()
        poller.register(hung.device, select.POLLIN)
        while poller.poll() and hung.serve():
            pass

    return act


def aio(hung: HungFile, fd: int) -> Callable[[Memory], object]:
    """An AIO read in flight: whoever holds it waits in exit_aio, its memory still there."""

    def before(memory: Memory) -> None:
        memory.take(mmap.PAGESIZE)
        context = ctypes.c_ulong(0)
        syscalls.syscall(syscalls.NR_IO_SETUP, ctypes.c_uint(1), ctypes.byref(context))
        request = Iocb(aio_fildes=fd, aio_buf=memory.address, aio_nbytes=mmap.PAGESIZE)
        requests = (ctypes.c_void_p * 1)(ctypes.addressof(request))
        syscalls.syscall(syscalls.NR_IO_SUBMIT, context, ctypes.c_long(1), requests)
        hung.wait_for_read()

    return before


def thread(hung: HungFile, fd: int) -> Callable[[Memory], object]:
    """A thread that waits in a read, unkillably: the memory is its, too."""

    def before(memory: Memory) -> None:
        page = mmap.mmap(-1, mmap.PAGESIZE)
        threading.Thread(target=os.preadv, args=(fd, [page], 0), daemon=True).start()
        hung.wait_for_read()
        memory.take(mmap.PAGESIZE)

    return before
