"""Where a run speaks: to the person at the terminal, and to the file of incidents.

Both may be in trouble (a stopped terminal, a full pipe, a full disk), and neither may stop the
guard: what cannot be written at once is kept for later, and at last given up.
"""

import contextlib
import errno
import os
import select
import time
from collections import deque

STDERR = 2
KEPT_LINES_MAX = 200
LAST_WORDS_S = 0.5

_kept: deque[bytes] = deque(maxlen=KEPT_LINES_MAX)


def say(line: str) -> None:
    """One line to the person at the terminal, whatever has become of it. Never waits."""
    _kept.append(f"memreap: {line}\n".encode(errors="backslashreplace"))
    _speak()


def finish() -> None:
    """Say what is still unsaid, if that can be done within half a second."""
    deadline_s = time.monotonic() + LAST_WORDS_S
    while _kept and time.monotonic() < deadline_s:
        _speak(timeout_s=0.05)


def _speak(timeout_s: float = 0.0) -> None:
    poll = select.poll()
    poll.register(STDERR, select.POLLOUT)
    with contextlib.suppress(OSError):
        # Writable means that a line's worth does not wait (PIPE_BUF; for a terminal, a part).
        while _kept and any(event & select.POLLOUT for _, event in poll.poll(timeout_s * 1000)):
            line = _kept.popleft()
            rest = line[os.write(STDERR, line[: select.PIPE_BUF]) :]
            if rest:
                _kept.appendleft(rest)


class Ledger:
    """The file of incidents, opened before anything happens."""

    def __init__(self, path: str) -> None:
        """Open it for appending. Raises OSError; a FIFO needs a reader."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o666)

    def append(self, line: str) -> None:
        """Add one line. Raises OSError."""
        raw = line.encode() + b"\n"
        if os.write(self._fd, raw) < len(raw):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)
