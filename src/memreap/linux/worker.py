"""A forked child whose loss does no harm. See fork(2), pidfd_open(2).

What may wait in the kernel for ever is done in a Worker: it says what it found through a socket,
message by message, and can be given up at any moment. Only that lives here: how a child is made,
heard and given up, not what it does.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

from memreap.linux import syscalls

MESSAGE_BYTES_MAX = 1 << 20
FDS_MAX = 8


class Line:
    """The worker's end: what it says is heard by the parent, whole and in order."""

    def __init__(self, end: socket.socket) -> None:
        """``end``: a SOCK_SEQPACKET socket."""
        self._end = end

    def say(self, message: object, fds: list[int] | None = None) -> None:
        """Send one message (what JSON can carry) with descriptors."""
        socket.send_fds(self._end, [json.dumps(message).encode()], fds or [])


class Worker:
    """A child of this process that runs ``body`` and ends; see the module's first lines."""

    living: ClassVar[set[int]] = set()  # pids, so that a killer of many spares its own hands

    def __init__(self, body: Callable[[Line], None]) -> None:
        """Fork. Raises OSError where the machine has no process, memory or descriptor left."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES_MAX)
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if self.pid == 0:
            ours.close()
            _become(body, Line(theirs), parent)
        theirs.close()
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:  # no descriptor left: the end of our socket ends it
            ours.close()
            os.kill(self.pid, signal.SIGKILL)  # a child not waited for: still that one
            os.waitpid(self.pid, 0)
            raise
        Worker.living.add(self.pid)
        ours.setblocking(False)
        self._end = ours
        self.ended = self.closed = False

    def fileno(self) -> int:
        """What to poll: readable when a message waits, or when the worker is gone."""
        return self._end.fileno()

    def hear(self) -> Iterator[tuple[object, list[int]]]:
        """Every message that waits now, with its descriptors; sets ``ended`` after the last."""
        while not self.ended:
            try:
                raw, fds, _, _ = socket.recv_fds(self._end, MESSAGE_BYTES_MAX, FDS_MAX)
            except BlockingIOError:
                return
            except ConnectionError:
                raw, fds = b"", []
            if not raw:
                self.ended = True
                return
            yield json.loads(raw), list(fds)

    def hear_within(self, timeout_s: float) -> Iterator[tuple[object, list[int]]]:
        """Messages until the worker ends, or says nothing for ``timeout_s``."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        while not self.ended:
            if not poll.poll(timeout_s * 1000):
                return
            yield from self.hear()

    def give_up(self) -> None:
        """End it if it can be ended, and never wait for it: it may hang for ever."""
        if not self.closed:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.close()

    def close(self) -> None:
        """Let go of it; a worker that has ended leaves no zombie, one that hangs is left."""
        if self.closed:
            return
        self.ended = self.closed = True
        self._end.close()
        deadline_s = time.monotonic() + 0.05
        with contextlib.suppress(ChildProcessError, OSError):
            while os.waitpid(self.pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline_s:
                has_exited(self.pidfd, 0.01)
        if has_exited(self.pidfd):
            Worker.living.discard(self.pid)
        with contextlib.suppress(OSError):
            os.close(self.pidfd)


def has_exited(pidfd: int, timeout_s: float = 0.0) -> bool:
    """Whether a process is gone, with all its threads. pidfd_open(2); any descriptor number."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _become(body: Callable[[Line], None], line: Line, parent: int) -> None:
    """Be the worker: run, and leave without running anything that belongs to the parent."""
    code = 1
    try:
        # A worker never outlives the one who would hear it.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                signal.signal(number, signal.SIG_IGN)
            body(line)
            code = 0
    except BrokenPipeError:
        pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            line.say({"error": f"{type(error).__name__}: {error}"})
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)
