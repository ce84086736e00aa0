"""Word of a kill on D-Bus: with a real bus, one that hangs, and none."""

import contextlib
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memreap.linux.worker import Line, Worker
from memreap.records import notification as module
from memreap.records.notification import Notification, text_of
from memreap.records.trouble import Trouble
from memreap.run import voice

pytest.importorskip("jeepney", reason="memreap[dbus] is not installed")
pytestmark = pytest.mark.usefixtures("nothing_left")

NOBODY = 65534
TURN: dict[str, Any] = {
    "what": "killed",
    "domain": "cgroup:/build",
    "incident": 3,
    "usage_bytes": 974 << 20,
    "limit_bytes": 950 << 20,
    "dry_run": False,
    "victim": {
        "pids": [4711],
        "name": "<b>cc\x1b1\udcff",
        "uid": NOBODY,
        "command": "cc1plus \udcff" + "x" * 5000,
        "rss_bytes": 600 << 20,
    },
}
CONFIG = """<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow own="*"/>
<allow eavesdrop="true"/>{more}</policy></busconfig>"""


def listen(line: Line, path: str, uid: int) -> None:
    """Be a screen, and hear signals too."""
    from jeepney import (  # type: ignore[import-untyped]
        MatchRule,
        MessageType,
        message_bus,
        new_method_return,
    )
    from jeepney.io.blocking import (  # type: ignore[import-untyped]
        Proxy,
        open_dbus_connection,
    )

    module.become(uid)
    connection = open_dbus_connection(f"unix:path={path}")
    bus = Proxy(message_bus, connection)
    bus.RequestName("org.freedesktop.Notifications")
    bus.AddMatch(MatchRule(type="signal", interface="org.memreap.Guard1"))
    line.say("ready")
    while True:
        message = connection.receive()
        is_call = message.header.message_type is MessageType.method_call
        if is_call:
            connection.send(new_method_return(message, "u", (1,)))
        if is_call or "Killed" in message.header.fields.values():
            line.say(repr(message.body))


def heard(service: Worker) -> str:
    (message, _) = next(service.hear_within(5))
    return str(message)


@contextlib.contextmanager
def bus(directory: Path, uid: int) -> Iterator[tuple[str, Any]]:
    """A private bus of a user's, and one who listens there."""
    if not shutil.which("dbus-daemon"):
        pytest.skip("no dbus-daemon")
    path, config = directory / "bus", directory / "bus.conf"
    config.write_text(CONFIG.format(path=path, more=""))
    who: dict[str, Any] = {"user": uid, "group": uid, "extra_groups": []} if uid else {}
    daemon = subprocess.Popen(
        ["dbus-daemon", "--nofork", f"--config-file={config}"], stderr=subprocess.DEVNULL, **who
    )
    deadline_s = time.monotonic() + 5
    while not path.exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    service = Worker(lambda line: listen(line, str(path), uid))
    try:
        assert heard(service) == "ready"
        yield f"unix:path={path}", service
    finally:
        service.give_up()
        daemon.kill()
        daemon.wait()


def attend(notification: Notification, timeout_s: float = 5.0) -> None:
    until_s = time.monotonic() + timeout_s
    while notification.fds():
        assert time.monotonic() < until_s
        ready = select.select(list(notification.fds()), [], [], 0.02)[0]
        notification.attend(dict.fromkeys(ready, 1), time.monotonic())


def made(address: str, **wanted: bool) -> Notification:
    asked = {"notify": False, "signal_": False} | wanted
    return Notification(**asked, trouble=Trouble(), session=lambda _: address, system=address)


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory that another user may enter."""
    with tempfile.TemporaryDirectory(prefix="memreap-", dir="/tmp") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def test_the_victims_user_is_told_on_his_own_bus(
    short: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uid = NOBODY if os.geteuid() == 0 else os.geteuid()
    victim = TURN["victim"] | {"uid": uid}
    with bus(short, uid if os.geteuid() == 0 else 0) as (address, service):
        notification = made(address, notify=True)
        notification.take(TURN | {"victim": victim}, None)
        attend(notification)
        voice.finish()
        assert capfd.readouterr().err == ""
        said = heard(service)
    assert "'memreap', 0, 'dialog-warning', '<b>cc\\\\x1b1\\\\udcff was killed to free" in said
    assert "cgroup:/build was over its line, 974 MiB of 950 MiB. &lt;b&gt;cc" in said


def test_the_signal(short: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with bus(short, 0) as (address, service):
        notification = made(address, signal_=True)
        notification.take(TURN, None)
        attend(notification)
        said = heard(service)
    voice.finish()
    assert capfd.readouterr().err == ""
    assert "('cgroup:/build', '<b>cc\\\\x1b1\\\\udcff', 4711, 65534, {" in said


def test_a_bus_that_hangs_is_given_up(
    short: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIMIT_S", 0.3)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(short / "bus"))
        silent.listen()
        notification = made(f"unix:path={short}/bus", signal_=True)
        began_s = time.monotonic()
        for _ in range(50):
            notification.take(TURN, None)
        assert time.monotonic() - began_s < 0.5
        notification._waiting.clear()
        attend(notification)
    voice.finish()
    assert capfd.readouterr().err == ("memreap: bus signal: no answer from the bus within 0.3 s\n")


def test_no_bus(short: Path, capfd: pytest.CaptureFixture[str]) -> None:
    notification = made(f"unix:path={short}/none", notify=True, signal_=True)
    notification.take(TURN, None)
    attend(notification)
    voice.finish()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("memreap: bus signal: FileNotFoundError")


@pytest.mark.parametrize("turn", [TURN | {"what": "chosen"}, TURN | {"dry_run": True}])
def test_nobody_is_told_before_the_kill(short: Path, turn: dict[str, Any]) -> None:
    with bus(short, 0) as (address, _):
        notification = made(address, notify=True, signal_=True)
        notification.take(turn, None)
        assert notification.fds() == {}


def test_text_is_printable_and_no_markup() -> None:
    title, body = text_of(TURN)
    assert (title + body).isprintable()
    assert "<" not in body
