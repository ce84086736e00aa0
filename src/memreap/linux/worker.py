"""A forked child whose loss does no harm. See fork(2), pidfd_open(2).

What may wait in the kernel for ever is done in a Worker: it says what it found through a socket,
message by message, is told what to do the same way, and can be given up at any moment. Only that
lives here: how a child is made, heard, told and given up, not what it does.
"""

import array
import contextlib
import errno
import json
import os
import select
import signal
import socket
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import ClassVar

from memreap.linux import syscalls

MESSAGE_BYTES_MAX = 1 << 20
FDS_MAX = 253  # SCM_MAX_FD, include/net/scm.h: the most that one message may carry
_RIGHTS_BYTES = socket.CMSG_LEN(FDS_MAX * array.array("i").itemsize)


class Line:
    """The worker's end: what either side says is heard by the other, whole and in order."""

    def __init__(self, end: socket.socket) -> None:
        """``end``: a SOCK_SEQPACKET socket."""
        self._end = end

    def say(self, message: object, fds: list[int] | None = None) -> None:
        """Send one message (what JSON can carry) with descriptors."""
        _send(self._end, message, fds)

    def hear(self, timeout_s: float | None = None) -> tuple[object, list[int]] | None:
        """The next message of the parent, with its descriptors; None if none came in time.

        Raises EOFError when the parent is gone, or wants to hear no more.
        """
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        if not poll.poll(None if timeout_s is None else timeout_s * 1000):
            return None
        try:
            raw, fds = _receive(self._end)
        except BlockingIOError:
            return None
        if not raw:
            raise EOFError("the parent is gone")
        return json.loads(raw), fds

    def fileno(self) -> int:
        """What to poll: readable when a message waits, or when the parent is gone."""
        return self._end.fileno()


class Worker:
    """A child of this process that runs ``body`` and ends; see the module's first lines."""

    living: ClassVar[set[int]] = set()  # pids, so that a killer of many spares its own hands
    _unburied: ClassVar[set[int]] = set()  # given up, and not seen to end since
    # Our ends. A younger worker closes its copies, else an older one would not see us go.
    _ends: ClassVar[weakref.WeakSet[socket.socket]] = weakref.WeakSet()

    def __init__(self, body: Callable[[Line], None], *, setsid: bool = False) -> None:
        """Fork. Raises OSError where the machine has no process, memory or descriptor left.

        ``setsid``: in a session of its own, where no terminal's signal reaches it.
        """
        Worker.bury()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES_MAX)
        parent = os.getpid()
        try:
            self.pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if self.pid == 0:
            ours.close()
            _become(body, Line(theirs), parent, setsid)
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
        Worker._ends.add(ours)
        self._end = ours
        self.ended = self.closed = False

    def fileno(self) -> int:
        """What to poll: readable when a message waits, or when the worker is gone."""
        return self._end.fileno()

    def tell(self, message: object, fds: list[int] | None = None) -> bool:
        """Send one message (what JSON can carry) with descriptors, which stay ours as well.

        Never waits: False when it has not heard enough of the earlier ones, or is gone. Raises
        OSError (EMSGSIZE) for one that can never be sent: the system bounds it, some 400 kB.
        """
        if self.closed:
            return False
        try:
            _send(self._end, message, fds)
        except (BlockingIOError, ConnectionError):
            return False
        except OSError as error:
            # Descriptors in flight are bounded too, by RLIMIT_NOFILE.
            if error.errno not in (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS):
                raise
            return False
        return True

    def hear(self) -> Iterator[tuple[object, list[int]]]:
        """Every message that waits now, with its descriptors; sets ``ended`` after the last."""
        while not self.ended:
            try:
                raw, fds = _receive(self._end)
            except BlockingIOError:
                return
            if not raw:
                self.ended = True
                return
            yield json.loads(raw), fds

    def hear_within(self, timeout_s: float) -> Iterator[tuple[object, list[int]]]:
        """Messages until the worker ends, or says nothing for ``timeout_s``."""
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        while not self.ended:
            if not poll.poll(timeout_s * 1000):
                return
            yield from self.hear()

    def part(self, timeout_s: float) -> None:
        """Let it hear that we go, and leave by itself; after so long it is given up."""
        if not self.closed:
            with contextlib.suppress(OSError):
                self._end.shutdown(socket.SHUT_WR)
            has_exited(self.pidfd, timeout_s)
            self.give_up()

    def give_up(self) -> None:
        """End it if it can be ended, and never wait for it: it may hang for ever."""
        if not self.closed:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.close()

    def close(self) -> None:
        """Let go of it. It leaves no zombie; one that hangs leaves one until the next is made."""
        if self.closed:
            return
        self.ended = self.closed = True
        Worker._ends.discard(self._end)
        self._end.close()
        Worker._unburied.add(self.pid)
        deadline_s = time.monotonic() + 0.05
        while self.pid in Worker._unburied and time.monotonic() < deadline_s:
            has_exited(self.pidfd, 0.01)
            Worker.bury()
        with contextlib.suppress(OSError):
            os.close(self.pidfd)

    @classmethod
    def bury(cls) -> bool:
        """Take leave of those who have ended since they were given up; whether one is left."""
        for pid in list(cls._unburied):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            cls._unburied.discard(pid)
            cls.living.discard(pid)
        return bool(cls._unburied)


def go_by(name: str) -> None:
    """Have this process listed under a name of at most 15 bytes. PR_SET_NAME, through proc(5)"""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(name)


def has_exited(pidfd: int, timeout_s: float = 0.0) -> bool:
    """Whether a process is gone, with all its threads. pidfd_open(2); any descriptor number."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _send(end: socket.socket, message: object, fds: list[int] | None) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    raw = json.dumps(message).encode()
    if len(raw) > MESSAGE_BYTES_MAX:  # it could be sent, and would be cut on receipt
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
    end.sendmsg([raw], rights, socket.MSG_NOSIGNAL)


def _receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """One message, b"" at the end, and its descriptors, which no executed program inherits.

    ``socket.recv_fds`` drops its flags, and would leave them to every such program. Where
    descriptors run out, the kernel gives the first ones of the message and drops the rest.
    """
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    try:
        raw, ancillary, _, _ = end.recvmsg(MESSAGE_BYTES_MAX, _RIGHTS_BYTES, flags)
    except ConnectionResetError:
        # The other side went without having heard all; said once, before its own last words.
        raw, ancillary, _, _ = end.recvmsg(MESSAGE_BYTES_MAX, _RIGHTS_BYTES, flags)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return raw, list(fds)


def _become(body: Callable[[Line], None], line: Line, parent: int, setsid: bool) -> None:
    """Be the worker: run, and leave without running anything that belongs to the parent."""
    code = 1
    try:
        # A worker never outlives the one who would hear it.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            for end in list(Worker._ends):
                end.close()
            if setsid:
                os.setsid()
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
