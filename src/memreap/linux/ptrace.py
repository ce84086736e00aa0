"""The few requests of ptrace(2) that hold a dying task at its exit stop.

A request must come from the thread that seized: seize, wait and let go in one thread. If that
thread dies, the kernel lets go by itself (kernel/ptrace.c, exit_ptrace).
"""

import contextlib
import ctypes
import os
import signal

PTRACE_CONT = 7  # linux/ptrace.h
PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_LISTEN = 0x4208
PTRACE_O_TRACEEXIT = 0x40
PTRACE_EVENT_EXIT = 6
PTRACE_EVENT_STOP = 128
WALL = 0x40000000  # linux/wait.h: __WALL

_STOP_SIGNALS = (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)

_ptrace = getattr(ctypes, "PyDLL", ctypes.CDLL)(None, use_errno=True).ptrace  # as in syscalls
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _request(request: int, tid: int, data: int) -> None:
    if _ptrace(request, tid, None, data) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def seize_exit(tid: int) -> None:
    """Trace one task, without stopping it, so that it stops in do_exit() before exit_mm().

    Raises PermissionError: someone else traces it, it is exiting already, or Yama, an LSM or its
    credentials forbid it. ProcessLookupError: it is gone.
    """
    _request(PTRACE_SEIZE, tid, PTRACE_O_TRACEEXIT)


def wait_exit_stop(tid: int) -> bool:
    """Wait until a seized task stops in its exit: True; False if it ended without a stop.

    Until then it goes on as if nobody traced it: a signal it gets is delivered, a stop is kept.
    """
    while True:
        _, status = os.waitpid(tid, WALL)
        if not os.WIFSTOPPED(status):
            return False
        if status >> 16 == PTRACE_EVENT_EXIT:
            return True
        with contextlib.suppress(ProcessLookupError):  # killed meanwhile: the exit stop comes
            _go_on(tid, status)


def _go_on(tid: int, status: int) -> None:
    """Resume a task from a stop that is none of ours, as it would have gone on untraced."""
    number = os.WSTOPSIG(status)
    if status >> 16 != PTRACE_EVENT_STOP:
        _request(PTRACE_CONT, tid, number)  # the signal is delivered
    elif number in _STOP_SIGNALS:
        _request(PTRACE_LISTEN, tid, 0)  # it stays stopped
    else:
        _request(PTRACE_CONT, tid, 0)  # SIGCONT has ended the stop


def let_go(tid: int) -> None:
    """Stop tracing; the task goes on with its exit. Raises ProcessLookupError if it is gone."""
    _request(PTRACE_DETACH, tid, 0)
