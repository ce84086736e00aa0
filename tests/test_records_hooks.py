"""Commands that are run at a turn: whatever they do, nobody waits for them."""

import contextlib
import json
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memreap.guard.settings import Hook
from memreap.records import hooks as module
from memreap.records.hooks import Hooks
from memreap.records.trouble import Trouble
from memreap.run import voice

pytestmark = pytest.mark.usefixtures("nothing_left")

TURN: dict[str, Any] = {
    "turn": 7,
    "incident": 1,
    "domain": "cgroup:/bu\nild",
    "what": "chosen",
    "usage_bytes": 3,
    "limit_bytes": 2,
    "victim": {"pids": [4711], "name": "na\x1bme\udcff\0"},
}


@pytest.fixture
def run() -> Iterator[Callable[..., Hooks]]:
    begun: list[Hooks] = []

    def start(*argv: str, times: int = 1, timeout_s: float = 5.0) -> Hooks:
        hooks = Hooks([Hook("chosen", argv, timeout_s)], Trouble(), quiet=False)
        begun.append(hooks)
        for _ in range(times):
            hooks.take(TURN, None)
        return hooks

    yield start
    for hooks in begun:
        hooks.close()
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, 0):
            pass


def attend(hooks: Hooks, timeout_s: float = 5.0) -> None:
    """As the scribe's loop does, until nothing runs."""
    until_s = time.monotonic() + timeout_s
    while hooks.fds():
        assert time.monotonic() < until_s
        poll = select.poll()
        for fd, events in hooks.fds().items():
            poll.register(fd, events)
        hooks.attend(dict(poll.poll(20)), time.monotonic())


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    voice.finish()
    return capfd.readouterr().err.splitlines()


def test_it_gets_the_turn_and_a_clean_place(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")  # as the scribe does
    out = tmp_path / "out"
    code = f"""
import json, os, signal, sys
json.dump({{"turn": json.load(sys.stdin),
"env": {{k: os.environb[k.encode()].hex() for k in os.environ}}, "cwd": os.getcwd(),
"sid": os.getsid(0) == os.getpid(), "fds": os.listdir("/proc/self/fd"),
"term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL}}, open({str(out)!r}, "w"))
"""
    attend(run(sys.executable, "-c", code))
    said = json.loads(out.read_text())
    assert said["turn"] == TURN
    env = {name: bytes.fromhex(value) for name, value in said["env"].items()}
    assert env["MEMREAP_VICTIM_NAME"] == b"na\x1bme\xff"
    assert env["MEMREAP_DOMAIN"] == b"cgroup:/bu\nild"
    assert {name for name in env if not name.startswith("MEMREAP_")} <= {"PATH", "LC_CTYPE"}
    assert (said["cwd"], said["sid"], said["term"]) == ("/", True, True)
    assert len(said["fds"]) <= 4  # 0, 1, 2, and the directory


def test_one_that_hangs_is_killed_with_all_it_started(
    run: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    hooks = run("sh", "-c", "sleep 61 & sleep 62", timeout_s=0.2)
    (running,) = hooks._running
    began_s = time.monotonic()
    attend(hooks)
    assert time.monotonic() - began_s < 2
    with contextlib.suppress(ProcessLookupError):
        while True:  # the kernel takes them one by one
            os.killpg(running.pid, 0)
            assert time.monotonic() < began_s + 3
            time.sleep(0.01)
    assert lines(capfd) == ["memreap: hook sh on chosen: killed: still there after 0.2 s"]


def test_megabytes_are_read_and_forgotten(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    attend(run("sh", "-c", "head -c 5000000 /dev/zero; printf 'x\\033[2J\\n%.0s' 1 2 3"))
    assert sum(map(len, lines(capfd))) < 8000


def test_what_it_prints_is_printable(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    attend(run("printf", "\\033[31mred\\n\\377"))
    assert lines(capfd) == [
        "memreap: hook printf on chosen: \\x1b[31mred",
        "memreap: hook printf on chosen: \\udcff",
    ]


def test_failures_are_told_once(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    for argv in (("false",), ("/no/such",), ("/etc/passwd",), ("sh", "-c", "kill -9 $$")):
        attend(run(*argv, times=3))
    assert lines(capfd) == [
        "memreap: hook false on chosen: exit code 1",
        "memreap: hook such on chosen: cannot be run: No such file or directory",
        "memreap: hook passwd on chosen: cannot be run: Permission denied",
        "memreap: hook sh on chosen: ended by Killed",
    ]


def test_no_more_than_so_many_at_once(run: Any) -> None:
    hooks = run("sleep", "0.05", times=20)
    assert len(hooks._running) == module.RUNNING_MAX
    attend(hooks)
    assert not hooks._waiting


def test_too_many_are_not_kept(run: Any, capfd: pytest.CaptureFixture[str]) -> None:
    run("sleep", "60", times=200)
    assert lines(capfd) == ["memreap: hooks: more than 64 wait: the rest is not run"]


def test_other_turns_are_none_of_its_affair() -> None:
    hooks = Hooks([Hook("relieved", ("false",))], Trouble(), quiet=False)
    hooks.take(TURN, None)
    assert hooks.fds() == {}
