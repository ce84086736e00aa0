"""What a service manager is told. See sd_notify(3), systemd.service(5).

Only the datagrams to $NOTIFY_SOCKET live here. Nothing waits, and nothing fails: who is not
heard goes on.
"""

import os
import socket
import time
from collections.abc import Mapping


class Notify:
    """The manager's socket, if there is one."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Look for it in the environment; without one nothing is ever sent."""
        name = environ.get("NOTIFY_SOCKET", "")
        self._address: bytes | None = None
        self._socket: socket.socket | None = None
        if name.startswith(("/", "@")):
            raw = os.fsencode(name)
            self._address = b"\0" + raw[1:] if name.startswith("@") else raw
            self._socket = socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )

    @property
    def there(self) -> bool:
        """Whether anyone is to be told."""
        return self._socket is not None

    def send(self, *assignments: str) -> bool:
        """Send "READY=1", "STATUS=..." in one datagram; False where it could not be."""
        if self._socket is None or self._address is None:
            return False
        lines = (line.replace("\n", " ") for line in assignments)
        raw = "\n".join(lines).encode("utf-8", "replace")  # what is no UTF-8 is not accepted
        try:
            self._socket.sendto(raw, self._address)
        except OSError:  # gone, full, or too large
            return False
        return True

    def reloading(self) -> bool:
        """Say that a reload begins; "READY=1" ends it. The time tells it from an older one."""
        return self.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often "WATCHDOG=1" is to be sent: twice as often as it must; None: never."""
    try:
        usec = int(environ.get("WATCHDOG_USEC", "0"))
        meant = int(environ.get("WATCHDOG_PID") or os.getpid())
    except ValueError:
        return None
    return usec / 2e6 if usec > 0 and meant == os.getpid() else None
