"""A service manager is told, if there is one; nothing waits for it and nothing fails by it."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memreap.linux.notify import Notify, watchdog_interval_s

pytestmark = pytest.mark.usefixtures("nothing_left")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(2)
        yield end


def test_assignments_come_in_one_datagram(manager: socket.socket) -> None:
    notify = Notify({"NOTIFY_SOCKET": manager.getsockname()})
    assert notify.there
    assert notify.send("READY=1", "STATUS=watching é")
    assert manager.recv(4096).decode() == "READY=1\nSTATUS=watching é"
    assert notify.send("STATUS=killed a\nREADY=1 \udcff")  # a stranger's name says nothing else
    assert manager.recv(4096) == b"STATUS=killed a READY=1 ?"
    before_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert notify.reloading()
    head, _, usec = manager.recv(4096).decode().partition("\nMONOTONIC_USEC=")
    assert head == "RELOADING=1"
    assert before_us <= int(usec) <= before_us + 2_000_000
    notify.close()
    assert not notify.send("READY=1")


def test_an_abstract_socket() -> None:
    name = f"memreap-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0{name}")
        notify = Notify({"NOTIFY_SOCKET": f"@{name}"})
        assert notify.send("WATCHDOG=1")
        assert end.recv(64) == b"WATCHDOG=1"
        notify.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_manager_nothing_is_sent(environ: dict[str, str]) -> None:
    notify = Notify(environ)
    assert not notify.there
    assert not notify.send("READY=1")
    assert not notify.reloading()
    notify.close()


def test_a_manager_that_is_gone_or_does_not_read(manager: socket.socket, tmp_path: Path) -> None:
    notify = Notify({"NOTIFY_SOCKET": manager.getsockname()})
    began_s, sent = time.monotonic(), 0
    while notify.send("STATUS=" + "x" * 1000):
        sent += 1
        assert sent < 100_000
    assert sent > 0
    assert time.monotonic() - began_s < 2
    manager.close()
    assert not notify.send("READY=1")
    Path(tmp_path / "notify").unlink()
    assert not notify.send("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:  # restarted: heard again
        again.bind(str(tmp_path / "notify"))
        assert notify.send("READY=1")
    notify.close()


def test_the_watchdog_is_fed_twice_as_often_as_it_must() -> None:
    me, usec = str(os.getpid()), "30000000"
    assert watchdog_interval_s({}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": usec}) == 15.0
    assert watchdog_interval_s({"WATCHDOG_USEC": usec, "WATCHDOG_PID": me}) == 15.0
    assert watchdog_interval_s({"WATCHDOG_USEC": usec, "WATCHDOG_PID": "1"}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "0", "WATCHDOG_PID": me}) is None
    assert watchdog_interval_s({"WATCHDOG_USEC": "soon"}) is None
