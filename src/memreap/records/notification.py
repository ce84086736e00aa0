"""The kill, told on D-Bus: to the victim's user, and to all who listen on the system bus.

See the Desktop Notifications Specification, and dbus-daemon(1): a session bus takes nobody but
its own user. Needs memreap[dbus]. A bus may hang: each message is a worker's, given up after
two seconds, and only ever sent after the kill.
"""

import contextlib
import os
import pwd
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from memreap import size
from memreap.linux import syscalls
from memreap.linux.worker import Line, Worker
from memreap.records.outlet import Outlet
from memreap.records.trouble import Trouble
from memreap.records.turn import Course, Turn, figure, held_bytes, pid_of
from memreap.records.words import clipped, pressure, whom

LIMIT_S = 2.0
AT_ONCE_MAX, WAITING_MAX = 2, 16
SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
OBJECT, INTERFACE = "/org/memreap/Guard1", "org.memreap.Guard1"
URGENCY_NORMAL = 1
FDS_END = (1 << 31) - 1

Errand = Callable[[Line], None]


def session_bus(uid: int) -> str:
    """Where a user's session bus is, by systemd's convention."""
    return f"unix:path=/run/user/{uid}/bus"


class Notification(Outlet):
    """Tells each kill once, and never waits for who is told."""

    name = "notification"

    def __init__(
        self,
        *,
        notify: bool,
        signal_: bool,
        trouble: Trouble,
        session: Callable[[int], str] = session_bus,
        system: str = "",
    ) -> None:
        """``session``: the bus of a uid. Raises ImportError without the library."""
        import jeepney.io.blocking  # type: ignore[import-untyped]  # noqa: F401, PLC0415

        self._notify, self._signal, self._trouble = notify, signal_, trouble
        self._session = session
        self._system = system or os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_BUS
        self._waiting: deque[tuple[str, Errand]] = deque()
        self._running: list[tuple[str, Worker, float]] = []

    def take(self, turn: Turn, course: Course | None) -> None:
        """Send word of a kill."""
        del course
        victim = turn.get("victim")
        if turn.get("what") != "killed" or not victim or turn.get("dry_run"):
            return
        if self._signal:
            self._queue("bus signal", lambda _: emit(self._system, turn))
        if self._notify:
            uid = int(victim.get("uid", -1))
            bus = self._session(uid)
            self._queue("notification", lambda _: notify(bus, uid, turn))
        self._start()

    def fds(self) -> dict[int, int]:
        """The end of each worker."""
        return {worker.fileno(): 1 for _, worker, _ in self._running}

    def due_s(self) -> float | None:
        """When the first one is given up."""
        return min((until_s for _, _, until_s in self._running), default=None)

    def attend(self, ready: dict[int, int], now_s: float) -> None:
        """Hear who is done, give up who is not in time."""
        for errand in list(self._running):
            title, worker, until_s = errand
            if worker.fileno() in ready:
                self._hear(title, worker)
            if worker.ended:
                worker.close()
                self._running.remove(errand)
            elif now_s >= until_s:
                worker.give_up()
                self._running.remove(errand)
                self._trouble.note(title, f"no answer from the bus within {LIMIT_S:g} s")
        self._start()

    def close(self) -> None:
        """Give up what is under way."""
        for _, worker, _ in self._running:
            worker.give_up()
        self._running.clear()

    def _queue(self, title: str, errand: Errand) -> None:
        if len(self._waiting) >= WAITING_MAX:
            self._waiting.popleft()
        self._waiting.append((title, errand))

    def _start(self) -> None:
        while self._waiting and len(self._running) < AT_ONCE_MAX:
            title, errand = self._waiting.popleft()
            try:
                worker = Worker(lambda line, run=errand: _done(run, line))  # type: ignore[misc]
            except OSError as error:
                self._trouble.note(title, f"cannot be sent: {error.strerror}")
                continue
            self._running.append((title, worker, time.monotonic() + LIMIT_S))

    def _hear(self, title: str, worker: Worker) -> None:
        for message, _ in worker.hear():
            if isinstance(message, dict) and message.get("error"):
                self._trouble.note(title, message["error"])
            else:
                self._trouble.over(title)


def _done(errand: Errand, line: Line) -> None:
    # What the scribe has open is not for one who may be about to become somebody else.
    os.closerange(3, line.fileno())
    os.closerange(line.fileno() + 1, FDS_END)
    errand(line)
    line.say({"done": True})


def _exists(bus: str) -> bool:
    path = bus.removeprefix("unix:path=").partition(",")[0]
    return bus.startswith("unix:abstract=") or os.path.exists(path)  # noqa: PTH110


def become(uid: int) -> None:
    """Be that user for good, with nothing of ours but this process. Raises OSError."""
    if uid == os.geteuid():
        return
    try:
        gid = pwd.getpwuid(uid).pw_gid
    except KeyError:
        gid = uid
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # the change of uid cleared it


def text_of(turn: Turn) -> tuple[str, str]:
    """Title and body of a notification. The body may be read as markup: it is escaped."""
    victim = turn["victim"]
    title = f"{clipped(victim.get('name') or '?', 64)} was killed to free memory"
    body = f"{clipped(turn['domain'], 200)} was {pressure(turn)}. {whom(victim)} held "
    body += f"{size.show(held_bytes(victim))}."
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        body = body.replace(character, entity)
    return title, body


def notify(bus: str, uid: int, turn: Turn) -> None:
    """Show it on the user's screen, if there is one. Raises what the bus raises."""
    from jeepney import DBusAddress, new_method_call  # noqa: PLC0415

    become(uid)
    if not _exists(bus):  # asked as the user: his folder is closed to everybody else
        return
    title, body = text_of(turn)
    service = DBusAddress(
        "/org/freedesktop/Notifications",
        bus_name="org.freedesktop.Notifications",
        interface="org.freedesktop.Notifications",
    )
    hints = {"urgency": ("y", URGENCY_NORMAL), "category": ("s", "device.error")}
    values: tuple[Any, ...] = ("memreap", 0, "dialog-warning", title, body, [], hints, -1)
    _call(bus, new_method_call(service, "Notify", "susssasa{sv}i", values))


def emit(bus: str, turn: Turn) -> None:
    """Emit Killed (s domain, s name, u pid, u uid, a{sv} more). Raises what the bus raises."""
    from jeepney import DBusAddress, new_signal  # noqa: PLC0415

    victim = turn["victim"]
    more: dict[str, tuple[str, Any]] = {
        "incident": ("t", int(turn.get("incident") or 0)),
        "reason": ("s", clipped(turn.get("reason") or "")),
        "command": ("s", clipped(victim.get("command") or "")),
        "cgroup": ("s", clipped(victim.get("cgroup") or "")),
        "unit": ("s", clipped(victim.get("unit") or "")),
        "pids": ("au", [int(pid) for pid in victim.get("pids") or ()][:1000]),
        "held_bytes": ("t", held_bytes(victim)),
        "usage_bytes": ("t", int(turn["usage_bytes"])),
        "limit_bytes": ("t", int(turn["limit_bytes"])),
        "stall_share": ("d", figure(turn, "stall_share") or 0.0),
    }
    values: tuple[Any, ...] = (
        clipped(turn["domain"]),
        clipped(victim.get("name") or ""),
        pid_of(victim),
        max(0, int(victim.get("uid") or 0)),
        more,
    )
    from_us = DBusAddress(OBJECT, interface=INTERFACE)
    _call(bus, new_signal(from_us, "Killed", "ssuua{sv}", values))


def _call(bus: str, message: Any) -> None:
    from jeepney import DBusAddress, MessageType, new_method_call  # noqa: PLC0415
    from jeepney.io.blocking import open_dbus_connection  # noqa: PLC0415
    from jeepney.wrappers import unwrap_msg  # type: ignore[import-untyped]  # noqa: PLC0415

    connection = open_dbus_connection(bus)
    with contextlib.closing(connection):
        if message.header.message_type is MessageType.method_call:
            unwrap_msg(connection.send_and_get_reply(message, timeout=LIMIT_S))
            return
        connection.send(message)
        # A round trip: the bus has taken the signal, or refused it.
        peer = DBusAddress(
            "/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus.Peer"
        )
        connection.send_and_get_reply(new_method_call(peer, "Ping"), timeout=LIMIT_S)
