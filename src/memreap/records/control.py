"""The socket at which `memreap status` asks. See unix(7).

A client sends a line of JSON, {"status": true}, and is sent a line of JSON; as often as it likes.
Everything is bounded: clients, what they may send, how long they may take to read. Whoever may
open the socket's file may ask: its mode decides, and nothing can be changed through it.
"""

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable

from memreap.linux.procfs import Procfs
from memreap.records.outlet import Outlet, Tell
from memreap.records.trouble import Trouble

CLIENTS_MAX, BACKLOG = 16, 16
REQUEST_BYTES_MAX, ANSWER_BYTES_MAX = 4096, 8 << 20
ANSWER_S = 3.0  # how long the core may take
SLOW_S = 5.0  # how long a client may take to read
IDLE_S = 60.0
RETRY_S = 10.0


class Client:
    """One that is connected: what it said, what it is still to be told."""

    def __init__(self, end: socket.socket, now_s: float) -> None:
        """``end``: accepted."""
        end.setblocking(False)
        self.end, self.said, self.unsent = end, b"", b""
        self.asked: deque[int] = deque()  # requests the core has not answered yet
        self.deadline_s = now_s + IDLE_S

    def events(self) -> int:
        """What to poll for."""
        return select.POLLIN | (select.POLLOUT if self.unsent else 0)

    def answer(self, message: object, now_s: float) -> None:
        """Queue one line for it, and send what can be sent."""
        if not self.unsent:
            self.deadline_s = now_s + SLOW_S
        self.unsent += json.dumps(message).encode() + b"\n"
        self.send(now_s)

    def send(self, now_s: float) -> None:
        """Send what it takes now. Raises OSError."""
        with contextlib.suppress(BlockingIOError):
            sent = self.end.send(self.unsent)
            self.unsent = self.unsent[sent:]
            self.deadline_s = now_s + (SLOW_S if self.unsent else IDLE_S)
        if len(self.unsent) > ANSWER_BYTES_MAX:
            raise OSError("it does not read")


class ControlSocket(Outlet):
    """Listens, passes requests on, and hands answers out."""

    name = "socket"

    def __init__(self, path: str, trouble: Trouble, tell: Tell) -> None:
        """``tell`` carries a message to the core."""
        self.path = os.path.abspath(path)  # noqa: PTH100
        self._trouble, self._tell = trouble, tell
        self._listener: socket.socket | None = None
        self._clients: dict[int, Client] = {}
        self._asked: dict[int, tuple[Client, float]] = {}
        self._last_id = 0
        self._retry_s = 0.0
        self._reported = ""
        self._inode = 0

    def fds(self) -> dict[int, int]:
        """The listener and every client."""
        found = {fd: client.events() for fd, client in self._clients.items()}
        if self._listener:
            found[self._listener.fileno()] = select.POLLIN
        return found

    def due_s(self) -> float | None:
        """The first deadline: of a client, of an answer, or to try listening again."""
        deadlines = [client.deadline_s for client in self._clients.values()]
        deadlines += [until_s for _, until_s in self._asked.values()]
        if self._listener is None:
            deadlines.append(self._retry_s)
        return min(deadlines, default=None)

    def attend(self, ready: dict[int, int], now_s: float) -> None:
        """Accept, read, write, and drop who is too slow."""
        if self._listener is None:
            if now_s >= self._retry_s:
                self._retry_s = now_s + RETRY_S
                self._listen()
        elif self._listener.fileno() in ready:
            self._accept(now_s)
        for fd, client in list(self._clients.items()):
            if fd in ready:
                self._protected(client, lambda c=client, e=ready[fd]: self._serve(c, e, now_s))  # type: ignore[misc]
            if now_s >= client.deadline_s:
                self._drop(client)
        for number, (client, until_s) in list(self._asked.items()):
            if now_s >= until_s:
                self._answer(number, client, {"error": "the guard's core does not answer"})

    def answered(self, number: int, status: object) -> None:
        """The core's answer to a request."""
        if number in self._asked:
            self._answer(number, self._asked[number][0], status)

    def close(self) -> None:
        """Leave; the socket's file goes if it is still ours."""
        for client in list(self._clients.values()):
            self._drop(client)
        if self._listener:
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_ino == self._inode:  # noqa: PTH116
                    os.unlink(self.path)  # noqa: PTH108

    def _answer(self, number: int, client: Client, status: object) -> None:
        del self._asked[number]
        client.asked.remove(number)
        self._protected(client, lambda: client.answer(status, time.monotonic()))

    def _serve(self, client: Client, event: int, now_s: float) -> None:
        if event & select.POLLOUT:
            client.send(now_s)
        if not event & ~select.POLLOUT:
            return
        with contextlib.suppress(BlockingIOError):
            said = client.end.recv(REQUEST_BYTES_MAX)
            if not said:
                raise OSError("it is gone")
            client.said += said
        *lines, client.said = client.said.split(b"\n")
        if len(client.said) > REQUEST_BYTES_MAX or len(lines) + len(client.asked) > BACKLOG:
            raise OSError("it says too much")
        for line in lines:
            self._request(client, line, now_s)

    def _request(self, client: Client, line: bytes, now_s: float) -> None:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict) or not request.get("status"):
            client.answer({"error": 'ask with {"status": true}'}, now_s)
            return
        self._last_id += 1
        client.asked.append(self._last_id)
        self._asked[self._last_id] = client, now_s + ANSWER_S
        client.deadline_s = now_s + IDLE_S
        self._tell({"status": self._last_id})

    def _protected(self, client: Client, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        self._clients.pop(client.end.fileno(), None)
        for number in client.asked:
            self._asked.pop(number, None)
        client.end.close()

    def _accept(self, now_s: float) -> None:
        assert self._listener, "it was polled"
        with contextlib.suppress(OSError):
            end, _ = self._listener.accept()
            if len(self._clients) >= CLIENTS_MAX:  # the one that has been idle longest makes room
                idle = [c for c in self._clients.values() if not c.asked]
                self._drop(min(idle or self._clients.values(), key=lambda c: c.deadline_s))
            self._clients[end.fileno()] = Client(end, now_s)

    def _listen(self) -> None:
        who = f"socket {self.path}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.makedirs(os.path.split(self.path)[0], mode=0o750, exist_ok=True)  # noqa: PTH103
            if holder := self._holder():
                raise OSError(0, f"another guard answers there (pid {holder})")
            listener.bind(self.path)
            os.chmod(self.path, 0o660)  # noqa: PTH101  # nobody is heard before listen()
            listener.listen(BACKLOG)
            listener.setblocking(False)
            self._inode = os.stat(self.path).st_ino  # noqa: PTH116
        except OSError as error:
            listener.close()
            why = f"cannot listen: {error.strerror or error}"
            self._trouble.note(who, why)
            if why != self._reported:
                self._reported = why
                self._tell({"error": f"{who}: {why}"})
        else:
            self._listener, self._reported = listener, ""
            self._trouble.over(who)

    def _holder(self) -> int:
        """The pid of another guard's scribe that listens there; a stale file is removed."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.2)
            try:
                probe.connect(self.path)
            except FileNotFoundError:
                return 0
            except ConnectionRefusedError:
                pid = 0
            except BlockingIOError:
                pid = -1  # so many wait there that somebody listens
            else:
                pid = peer(probe)
        if pid and not self._is_sibling(pid):
            return pid
        os.unlink(self.path)  # noqa: PTH108
        return 0

    @staticmethod
    def _is_sibling(pid: int) -> bool:
        """Whether it is a scribe of our own guard's, given up and not yet gone."""
        try:
            return pid == os.getpid() or Procfs().stat(pid).ppid == os.getppid()
        except OSError:
            return True  # gone by now


def peer(end: socket.socket) -> int:
    """Who is at the other end; of a listener, who listens. SO_PEERCRED in unix(7)"""
    raw = end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    return int(struct.unpack("iII", raw)[0])
