"""The command: started as if nobody stood between it and its caller.

Only one child's life lives here: spawning, signals to it, stops, and its exit code. It stays in
our session and process group, so the terminal treats both as one job. Everything else follows:
- What the terminal sends, the kernel has sent to the whole group: it is not passed on.
- What kill(2) sent to us alone is passed on.
- When the command stops, we stop, so that the shell sees its job stop; continued, we continue it.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from signal import Signals
from typing import NoReturn

from memreap.linux import siginfo, syscalls
from memreap.linux.procfs import Procfs
from memreap.linux.siginfo import Siginfo

EXIT_OWN_TROUBLE = 125  # as env(1), nice(1) and timeout(1) have it
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
EXIT_SIGNALLED = 128

# Passed on when sent to us alone. SIGTSTP and its like are: the command stops, then so do we.
PASSED_ON = frozenset(
    Signals[f"SIG{name}"]
    for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "WINCH", "TSTP")
)
WATCHED = PASSED_ON | {Signals.SIGCHLD, Signals.SIGCONT, Signals.SIGTTIN, Signals.SIGTTOU}

# Python ignores these, and exec would hand that down.
_IGNORED_BY_PYTHON = (Signals.SIGPIPE, Signals.SIGXFSZ)


class NotStarted(Exception):  # noqa: N818 - what happened, as the caller says it
    """exec failed; ``code`` is what a shell would exit with."""

    def __init__(self, error: OSError) -> None:
        """``error``: exec's own."""
        super().__init__(os.strerror(error.errno or 0))
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        self.code = EXIT_NOT_FOUND if gone else EXIT_NOT_EXECUTABLE


class Command:
    """The child we were asked to run."""

    def __init__(self, argv: Sequence[str], before_exec: Callable[[], None] | None = None) -> None:
        """Fork and exec; ``before_exec`` runs in the child. Raises NotStarted."""
        # Blocked before the fork: no signal is lost between the start and the first read.
        # sigwait and signalfd take a signal only from those that no handler is run for.
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        self.signalfd = syscalls.signalfd(set(WATCHED))
        self.pid = _spawn(argv, before_exec)
        self.pidfd = os.pidfd_open(self.pid)
        self.code: int | None = None
        self.killed = False

    def close(self) -> None:
        """Give back the descriptors and the signal mask."""
        os.close(self.pidfd)
        os.close(self.signalfd)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def signals(self) -> Iterator[Siginfo]:
        """Every signal that came for us."""
        return siginfo.read(self.signalfd)

    def pass_on(self, info: Siginfo) -> None:
        """Give the command a signal that only we have got."""
        leads = info.signal is Signals.SIGHUP and os.getsid(0) == os.getpid()
        # A hangup goes to the session's leader alone: if that is us, the command has not got it.
        if info.signal in PASSED_ON and (leads or not info.from_kernel):
            self.send(info.signal)

    def send(self, number: Signals) -> None:
        """Send it a signal; none if it is gone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def wait(self) -> bool:
        """Take what the kernel has to say of it, without waiting; True when it has ended."""
        while self.code is None:
            found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG)
            if found is None:
                return False
            if found.si_code == os.CLD_EXITED:
                self.code = found.si_status
            elif found.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
                self.code = EXIT_SIGNALLED + found.si_status
                self.killed = found.si_status == Signals.SIGKILL
            elif found.si_code == os.CLD_STOPPED:
                self._stop_along()
        return True

    def _stop_along(self) -> None:
        """Stop ourselves, as the command did; back again, continue it."""
        if not _has_job_control() or Procfs().stat(self.pid).state != "T":
            return  # nobody would ever continue us, or somebody has continued it already
        os.kill(os.getpid(), Signals.SIGSTOP)
        self.send(Signals.SIGCONT)


def _has_job_control() -> bool:
    """Tell whether a shell of our session waits for us as a job."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY))
        parent = os.getppid()
        return os.getsid(parent) == os.getsid(0) and os.getpgid(parent) != os.getpgrp()
    except OSError:
        return False


def _spawn(argv: Sequence[str], before_exec: Callable[[], None] | None) -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(argv, before_exec, writer)
    os.close(writer)
    # Closed by a successful exec; else it says why.
    with open(reader, "rb") as report:
        failure = report.read()
    if failure:
        os.waitpid(pid, 0)
        raise NotStarted(OSError(int(failure), ""))
    return pid


def _become(argv: Sequence[str], before_exec: Callable[[], None] | None, writer: int) -> NoReturn:
    """Be the command, or say why not."""
    code = 0
    try:
        if before_exec:
            before_exec()
        for number in _IGNORED_BY_PYTHON:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(argv[0], list(argv))  # noqa: S606 - our purpose
    except OSError as error:
        code = error.errno or 0
    finally:
        os.write(writer, str(code).encode())
        os._exit(EXIT_OWN_TROUBLE)
