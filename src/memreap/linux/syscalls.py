"""System calls that Python lacks, or makes too slowly. See linux/syscalls.h.

Only bare calls live here: each takes and gives what the kernel does, and returns an errno or
raises OSError; what a result means is said by the room that asks.

All but ``process_mrelease`` go through one ``ctypes.PyDLL``: it keeps the GIL, so that no lock
stands between a call and the next one that must follow at once. ``process_mrelease`` can wait for
ever: it gives the GIL away, and belongs into a process that may be given up.
"""

import ctypes
import os
import signal

# PyPy has no PyDLL; simulations, which call nothing here, run twice as fast on it.
_libc = getattr(ctypes, "PyDLL", ctypes.CDLL)(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_waiting_syscall = ctypes.CDLL(None, use_errno=True).syscall
_waiting_syscall.restype = ctypes.c_long

# Numbers from 424 on are the same on every architecture (kernel: scripts/syscall.tbl).
NR_PIDFD_SEND_SIGNAL = 424
NR_PROCESS_MRELEASE = 448

# Older calls are numbered by architecture: (kcmp, signalfd4, io_setup, io_submit).
_GENERIC = (272, 74, 0, 2)
_NUMBERS = {
    "x86_64": (312, 289, 206, 209),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": (354, 313, 227, 230),
    "s390x": (343, 322, 243, 246),
}
NR_KCMP, NR_SIGNALFD4, NR_IO_SETUP, NR_IO_SUBMIT = _NUMBERS.get(os.uname().machine, _GENERIC)

KCMP_VM = 1  # linux/kcmp.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
# asm/mman.h: powerpc has its own.
_POWERPC = os.uname().machine.startswith("ppc")
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = (0x2000, 0x4000, 0x8000) if _POWERPC else (1, 2, 4)
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h

_NULL = ctypes.c_void_p(None)
_ZERO = ctypes.c_ulong(0)
_KILL = ctypes.c_int(signal.SIGKILL)
_NR_SEND = ctypes.c_long(NR_PIDFD_SEND_SIGNAL)
_NR_MRELEASE = ctypes.c_long(NR_PROCESS_MRELEASE)


def syscall(number: int, *args: object) -> int:
    """Make one system call; its result, or raise OSError with its errno."""
    result: int = _syscall(ctypes.c_long(number), *args)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def pidfd_kill(pidfd: int) -> int:
    """SIGKILL through a pidfd: 0, or the errno. pidfd_send_signal(2), without the detours."""
    if _syscall(_NR_SEND, ctypes.c_int(pidfd), _KILL, _NULL, _ZERO) == 0:
        return 0
    return ctypes.get_errno()


def process_mrelease(pidfd: int) -> int:
    """Reap a dying process: 0, or the errno. May wait for its ``mmap_lock`` for ever. mm/oom_kill.c

    ESRCH: no thread holds an mm any more. EINVAL: not dying, dumping core, or its mm is shared
    with a live process. EAGAIN: part is left, call again. EINTR: the caller was killed.
    ENOSYS: a kernel before 5.15.
    """
    if _waiting_syscall(_NR_MRELEASE, ctypes.c_int(pidfd), _ZERO) == 0:
        return 0
    return ctypes.get_errno()


def kill_and_mrelease(pidfds: list[int]) -> tuple[list[int], int]:
    """SIGKILL each, the first one last, and reap it: (errno of each kill, errno of the reap).

    Every argument is made before the first call, so that between the last two calls stand some
    hundred nanoseconds: the victim must not reach ``exit_mm`` before the reap has its mm.
    """
    kill, reap, code = _syscall, _waiting_syscall, ctypes.get_errno
    fds = [ctypes.c_int(fd) for fd in pidfds]
    first, errnos = fds[0], []
    for fd in reversed(fds):
        failed = kill(_NR_SEND, fd, _KILL, _NULL, _ZERO)
        errnos.append(code() if failed else 0)
    released = reap(_NR_MRELEASE, first, _ZERO)
    return errnos[::-1], code() if released else 0


def kcmp_vm(pid: int, other: int) -> int:
    """Order two tasks by their mm: 0 the same, 1 less, 2 greater. kcmp(2), KCMP_VM."""
    return syscall(NR_KCMP, ctypes.c_int(pid), ctypes.c_int(other), ctypes.c_int(KCMP_VM), 0, 0)


def prctl(option: int, value: int) -> None:
    """Set one property of this process. prctl(2)."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def signalfd(signals: set[signal.Signals]) -> int:
    """Make a descriptor on which these (blocked) signals are read. signalfd(2).

    Each read gives ``struct signalfd_siginfo``s, 128 bytes; it tells a signal that a person or
    a terminal sent from one that a process sent, which a Python handler cannot.
    """
    mask = ctypes.c_uint64(sum(1 << (s - 1) for s in signals))
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    return syscall(NR_SIGNALFD4, ctypes.c_int(-1), ctypes.byref(mask), ctypes.c_size_t(8), flags)


def mlockall(flags: int) -> None:
    """Lock this process's memory. mlockall(2). Raises OSError where it is not permitted."""
    if _libc.mlockall(ctypes.c_int(flags)) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def munlockall() -> None:
    """Lock nothing any more. munlockall(2)."""
    if _libc.munlockall() == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def mallopt(parameter: int, value: int) -> bool:
    """Set one property of malloc. mallopt(3). False where the C library has no such thing."""
    try:
        function = _libc.mallopt
    except AttributeError:  # musl
        return False
    return bool(function(ctypes.c_int(parameter), ctypes.c_int(value)))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's capabilities, as bit masks. capset(2)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (effective, permitted, inheritable)
    low, high = ([mask >> shift & 0xFFFFFFFF for mask in sets] for shift in (0, 32))
    data = (ctypes.c_uint32 * 6)(*low, *high)
    if _libc.capset(ctypes.byref(header), ctypes.byref(data)) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
