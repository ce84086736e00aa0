"""The scribe: one loop over the core's line and every record; each protected from the others.

It may be slow and it may die: the core loses nothing but time. What is not durable yet is not
acked, and the core tells it again to the next scribe.
"""

import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from memreap.guard.settings import Hook, Records
from memreap.linux.procfs import printable
from memreap.linux.worker import Line
from memreap.records.control import ControlSocket
from memreap.records.narration import Narration, stderr_is_journal
from memreap.records.outlet import Outlet
from memreap.records.trouble import Trouble
from memreap.records.turn import Courses, Turn
from memreap.run import voice

BATCH_MAX = 16  # messages heard before anything is written
UNSENT_MAX = 4096
SIGN_OF_LIFE_S = 1.0  # at most so often
LONGEST_S = 60.0

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """A record that is wanted: made anew only when its key has changed."""

    name: str
    key: object
    make: Callable[[], Outlet]
    needs: str = ""  # the extra that it needs


class Scribe:
    """See the module's first lines."""

    def __init__(self, line: Line, records: Records, quiet: bool) -> None:
        """Begin every record that is wanted; those that cannot begin say so, once."""
        self._line, self._quiet = line, quiet
        self._trouble, self._courses = Trouble(), Courses()
        self._outlets: dict[str, tuple[object, Outlet]] = {}
        self._unsent: deque[Message] = deque(maxlen=UNSENT_MAX)
        self._over = False
        self._signed_s = 0.0
        self._home = os.getcwd()  # noqa: PTH109
        os.chdir("/")  # hooks start there, and no mount is held
        self._settle(records)

    def serve(self) -> None:
        """Until the core has gone; then write what can be written, and leave."""
        try:
            while not self._over:
                self._round()
        finally:
            for _, outlet in self._outlets.values():
                self._protected(outlet, outlet.close)
            self._send()
            voice.finish()

    def _round(self) -> None:
        ready = self._wait()
        if self._line.fileno() in ready:
            self._hear(ready[self._line.fileno()])
        now_s = time.monotonic()
        for outlet in self._living():
            self._protected(outlet, lambda o=outlet: o.attend(ready, now_s))  # type: ignore[misc]
        self._sign(now_s)
        self._send()

    def _living(self) -> list[Outlet]:
        return [outlet for _, outlet in self._outlets.values()]

    def _sign(self, now_s: float) -> None:
        """Say that we live, though there is nothing to ack: turns wait for a database."""
        _, database = self._outlets.get("database", (None, None))
        waiting = getattr(database, "waiting", None)
        if waiting is not None and now_s >= self._signed_s + SIGN_OF_LIFE_S:
            self._signed_s = now_s
            self._tell({"waiting": waiting})

    def _wait(self) -> dict[int, int]:
        poll, own = select.poll(), self._line.fileno()
        poll.register(own, select.POLLIN | (select.POLLOUT if self._unsent else 0))
        due_s = [time.monotonic() + LONGEST_S]
        for outlet in self._living():
            for fd, events in outlet.fds().items():
                poll.register(fd, events)
            if (wanted_s := outlet.due_s()) is not None:
                due_s.append(wanted_s)
        wait_s = max(0.0, min(due_s) - time.monotonic())
        return dict(poll.poll(wait_s * 1000 + 1 if wait_s else 0))

    def _hear(self, event: int) -> None:
        for _ in range(BATCH_MAX):
            try:
                heard = self._line.hear(0)
            except (EOFError, ConnectionError):
                self._over = True
                return
            if heard is None:
                # Nothing waits: the end, if the other side is closed.
                self._over = bool(event & (select.POLLHUP | select.POLLERR))
                return
            message, _ = heard
            if isinstance(message, dict):
                self._take(message)

    def _take(self, message: Message) -> None:
        try:
            if "turn" in message:
                self._turn(message)
            elif "settings" in message:
                self._settle(_records(message["settings"]))
            elif "say" in message:
                voice.say(printable(str(message["say"])))
            elif "gauges" in message:
                self._gauges(message["gauges"])
            elif "status" in message and "id" in message:
                self._answer(message)
        except Exception as error:  # a message that nobody foresaw is not the scribe's end
            self._trouble.note("scribe", f"{type(error).__name__}: {error}")

    def _turn(self, turn: Message) -> None:
        seq, database = int(turn["turn"]), self._outlets.get("database")
        if database and database[1].has(seq):  # type: ignore[attr-defined]
            self._acked(seq)
            return
        course = self._courses.before(turn)
        for outlet in self._living():
            self._protected(outlet, lambda o=outlet: o.take(turn, course))  # type: ignore[misc]
        self._courses.after(turn)
        if not database:
            self._acked(seq)

    def _gauges(self, status: Message) -> None:
        if metrics := self._outlets.get("metrics"):
            metrics[1].gauges(status)  # type: ignore[attr-defined]

    def _answer(self, message: Message) -> None:
        if control := self._outlets.get("socket"):
            control[1].answered(int(message["id"]), message["status"])  # type: ignore[attr-defined]

    def _acked(self, seq: int) -> None:
        self._tell({"acked": seq})

    def _tell(self, message: Message) -> None:
        self._unsent.append(message)

    def _send(self) -> None:
        """Say what the core can hear now; it may be busy, and we do not wait for it."""
        poll = select.poll()
        poll.register(self._line.fileno(), select.POLLOUT)
        while self._unsent and any(event & select.POLLOUT for _, event in poll.poll(0)):
            try:
                self._line.say(self._unsent[0])
            except OSError:
                self._over = True
                return
            self._unsent.popleft()

    def _protected(self, outlet: Outlet, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # one record's trouble is not another's
            self._trouble.note(outlet.name, f"{type(error).__name__}: {error}")

    def _settle(self, records: Records) -> None:
        """Begin what is newly wanted, end what is not; what did not change goes on."""
        records = replace(
            records,
            database=self._whole(records.database),
            metrics_file=self._whole(records.metrics_file),
            socket=self._whole(records.socket),
        )
        wishes = {wish.name: wish for wish in self._wishes(records)}
        before = self._outlets.get("database")
        for name, (key, outlet) in list(self._outlets.items()):
            if name not in wishes or wishes[name].key != key:
                self._protected(outlet, outlet.close)
                del self._outlets[name]
        begun: dict[str, tuple[object, Outlet]] = {}
        for name, wish in wishes.items():  # in the order of the wishes
            if name in self._outlets:
                begun[name] = self._outlets[name]
            elif new := self._begin(wish):
                begun[name] = wish.key, new
        self._outlets = begun
        if before and begun.get("database") != before:
            self._hand_over(before[1].unwritten)  # type: ignore[attr-defined]

    def _hand_over(self, turns: list[tuple[int, str, Turn]]) -> None:
        """Have another file what the former could not take; it may be why there is another."""
        if database := self._outlets.get("database"):
            database[1].take_over(turns)  # type: ignore[attr-defined]
            return
        for seq, _, _ in turns:
            self._acked(seq)

    def _whole(self, path: str) -> str:
        """A path from where the guard was started."""
        return os.path.join(self._home, path) if path else ""  # noqa: PTH118

    def _begin(self, wish: Wish) -> Outlet | None:
        try:
            return wish.make()
        except ImportError as error:
            advice = f", install memreap[{wish.needs}]" if wish.needs else ""
            self._trouble.note(wish.name, f"not here: {error}{advice}")
        except (OSError, ValueError) as error:
            self._trouble.note(wish.name, f"cannot begin: {error}")
        return None

    def _wishes(self, records: Records) -> Iterable[Wish]:
        """What is wanted. People first, then the machines; the slowest last."""
        covered = records.journal and stderr_is_journal()
        if not covered:
            yield Wish("narration", self._quiet, lambda: Narration(self._quiet))
        if records.journal:
            yield Wish("journal", covered, lambda: self._journal(not covered))
        if records.hooks:
            yield Wish("hooks", records.hooks, lambda: self._hooks(records.hooks))
        if records.notify or records.bus_signal:
            wanted = records.notify, records.bus_signal
            yield Wish("notification", wanted, lambda: self._notification(*wanted), "dbus")
        if records.metrics_file or records.metrics_listen:
            where = records.metrics_file, records.metrics_listen
            yield Wish("metrics", where, lambda: self._metrics(*where), "metrics")
        if records.socket:
            path = records.socket
            yield Wish("socket", path, lambda: ControlSocket(path, self._trouble, self._tell))
        if records.database:
            kept = records.database, records.keep
            yield Wish("database", kept, lambda: self._database(*kept))
        if records.database and records.trace is not False:
            aloud = records.trace is True
            yield Wish("trace", aloud, lambda: self._evidence(aloud))

    def _keep_evidence(self, incident: int, pid: int, text: str) -> None:
        if database := self._outlets.get("database"):
            database[1].take_evidence(incident, pid, text)  # type: ignore[attr-defined]

    # Each is imported where it is wanted: what is not wanted costs no memory.

    def _journal(self, aloud: bool) -> Outlet:
        from memreap.records.journal import Journal  # noqa: PLC0415

        return Journal(aloud, self._quiet)

    def _hooks(self, hooks: tuple[Hook, ...]) -> Outlet:
        from memreap.records.hooks import Hooks  # noqa: PLC0415

        return Hooks(hooks, self._trouble, self._quiet)

    def _notification(self, notify: bool, signal_: bool) -> Outlet:
        from memreap.records.notification import Notification  # noqa: PLC0415

        return Notification(notify=notify, signal_=signal_, trouble=self._trouble)

    def _metrics(self, file: str, listen: str) -> Outlet:
        from memreap.records.metrics import Metrics  # noqa: PLC0415

        return Metrics(file, listen, self._trouble)

    def _evidence(self, aloud: bool) -> Outlet:
        from memreap.records.evidence import Evidence  # noqa: PLC0415

        return Evidence(self._keep_evidence, self._trouble, aloud=aloud)

    def _database(self, path: str, keep: int) -> Outlet:
        from memreap.records.database import Database  # noqa: PLC0415
        from memreap.records.schema import Life  # noqa: PLC0415

        database = Database(path, keep, self._trouble, self._acked, Life())
        database.begin()
        return database


def _records(message: Message) -> Records:
    hooks = tuple(Hook(**{**hook, "argv": tuple(hook["argv"])}) for hook in message["hooks"])
    return Records(**{**message, "hooks": hooks})
