"""How long to trace: until a command has ended, for some seconds, or until Ctrl-C.

Only when it begins and when it is over lives here; ``trues`` holds one occasion more.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Protocol, Self

from memreap.linux.worker import has_exited

EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127  # as env(1) has them
ENDING_S = 2.0


class Occasion(Protocol):
    """What is traced while it goes on."""

    def go(self) -> None:
        """It begins: tracing does already."""

    def is_over(self, wait_s: float) -> bool:
        """Whether it has ended; waits so long at the most."""


class Interrupted:
    """Whether somebody pressed Ctrl-C since."""

    def __init__(self) -> None:
        """Nobody did."""
        self.is_so = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """As a handler of SIGINT."""
        del number, frame
        self.is_so = True


@contextlib.contextmanager
def interruptible() -> Iterator[Interrupted]:
    """Ctrl-C is noted, and breaks nothing off."""
    asked = Interrupted()
    was = signal.signal(signal.SIGINT, asked.note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, was)


class Span:
    """Some seconds, or until it is interrupted."""

    def __init__(self, seconds: float | None, interrupted: Interrupted) -> None:
        """``seconds``: None for ever."""
        self._seconds, self._interrupted = seconds, interrupted
        self._end_s = float("inf")

    def go(self) -> None:
        """From now on."""
        if self._seconds is not None:
            self._end_s = time.monotonic() + self._seconds

    def is_over(self, wait_s: float) -> bool:
        """Whether it has passed."""
        time.sleep(max(0.0, min(wait_s, self._end_s - time.monotonic())))
        return self._interrupted.is_so or time.monotonic() >= self._end_s


class CommandError(OSError):
    """It cannot be run; the message says why, ``code`` is what env(1) would exit with."""

    def __init__(self, message: str, code: int) -> None:
        """For people, and for the shell."""
        super().__init__(message)
        self.code = code


class Command:
    """A command, from its start to its end. Ctrl-C is for it to answer."""

    def __init__(self, argv: Sequence[str], *, quiet_stdout: bool = False) -> None:
        """``quiet_stdout``: what it says on stdout goes to stderr, for stdout is taken."""
        self._argv, self._quiet = argv, quiet_stdout
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    def go(self) -> None:
        """Start it. Raises CommandError."""
        stdout = sys.stderr.fileno() if self._quiet else None
        try:
            self._child = subprocess.Popen(self._argv, stdout=stdout)  # noqa: S603
        except OSError as error:
            missing = isinstance(error, FileNotFoundError | NotADirectoryError)
            code = EXIT_NOT_FOUND if missing else EXIT_NOT_EXECUTABLE
            raise CommandError(f"cannot run {self._argv[0]}: {error.strerror}", code) from error
        self._pidfd = os.pidfd_open(self._child.pid)

    def is_over(self, wait_s: float) -> bool:
        """Whether it has ended."""
        return has_exited(self._pidfd, wait_s)

    @property
    def code(self) -> int:
        """Its exit code, as a shell would tell it."""
        assert self._child is not None
        code = self._child.wait()
        return 128 - code if code < 0 else code

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Whoever broke off does not leave it behind."""
        if self._child is None:
            return
        if not self.is_over(0):
            self._child.terminate()
            if not self.is_over(ENDING_S):
                self._child.kill()
        self._child.wait()
        os.close(self._pidfd)
