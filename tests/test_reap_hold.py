"""A victim is traced without being disturbed, and killed and reaped whoever else traces it."""

import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memreap.linux.procfs import Memory, Procfs
from memreap.reap import hold
from memreap.reap.execution import Execution
from memreap.reap.facts import Facts

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
PROC = Procfs()
Reap = Callable[..., Execution]
Script = Callable[..., subprocess.Popen[str]]

kernel = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]


def facts(thread_states: str = "S") -> Facts:
    tids = tuple(range(100, 100 + len(thread_states)))
    state = thread_states[0]
    return Facts(100, 5, "x", state, 1, False, tids, thread_states, 0, 0, Memory(), None)


CALM: dict[str, Any] = {"several": False, "realtime": True, "aio_nr": 0}


@pytest.mark.parametrize(
    ("states", "unlike_calm", "because"),
    [
        ("S", {}, "one thread, asleep"),
        ("R", {}, None),
        ("RSSR", {}, None),
        ("SS", {}, None),
        ("SD", {}, "a thread in state D"),
        ("S", {"aio_nr": 1}, "AIO contexts on this machine"),
        ("S", {"several": True}, "several victims"),
        ("S", {"realtime": False}, "SCHED_FIFO is not permitted"),
    ],
)
def test_auto_holds_where_the_race_may_be_lost(
    states: str, unlike_calm: dict[str, Any], because: str | None
) -> None:
    assert hold.wanted("auto", facts(states), **CALM | unlike_calm) == because


@pytest.mark.parametrize("states", ["S", "D"])
@pytest.mark.parametrize(
    ("several", "realtime", "aio_nr"), [*itertools.product([True, False], [True, False], [0, 3])]
)
def test_always_and_never_mean_it(states: str, several: bool, realtime: bool, aio_nr: int) -> None:
    machine = {"several": several, "realtime": realtime, "aio_nr": aio_nr}
    assert hold.wanted("never", facts(states), **machine) is None  # type: ignore[arg-type]
    assert hold.wanted("always", facts(states), **machine) == "asked for"  # type: ignore[arg-type]


TRACER = """
import sys, time
from memreap.linux import ptrace
ptrace._request(ptrace.PTRACE_SEIZE, int(sys.argv[1]), int(sys.argv[2]))
print("traces", flush=True)
time.sleep(300)
"""

ANSWERS = """
import os, signal, sys, time
memory = bytearray(64 << 20)
def answer(number, frame):
    os.write(1, signal.Signals(number).name.encode() + b"\\n")
signal.signal(signal.SIGUSR1, answer)
signal.signal(signal.SIGCHLD, answer)
os.write(1, b"ready\\n")
if sys.argv[1:]:
    os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
while True:
    time.sleep(300)
"""
STORM = """
import os, signal, sys
print("storms", flush=True)
while True:
    try:
        os.kill(int(sys.argv[1]), signal.SIGUSR1)
    except ProcessLookupError:
        break
"""
LEADER_LEAVES = """
import ctypes, os, platform, threading, time
memory = bytearray(64 << 20)
def live_on():
    while open(f"/proc/self/task/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.001)
    print("alone", flush=True)
    time.sleep(300)
threading.Thread(target=live_on).start()
ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)
"""


def next_line(process: subprocess.Popen[bytes], timeout_s: float = 2.0) -> str | None:
    """What it says within the time; it says one short line at a time."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], timeout_s)[0]:
        return None
    return os.read(process.stdout.fileno(), 4096).decode().strip()


def comes_to(pid: int, states: str, timeout_s: float = 2.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while PROC.stat(pid).state not in states:
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.001)
    return True


class TestOnTheKernel:
    pytestmark = kernel

    @pytest.mark.parametrize("mode", ["always", "auto", "never"])
    def test_a_victim_that_someone_else_traces_is_killed_and_reaped(
        self, mode: str, nursery: Callable[[int], int], script: Script, reap: Reap
    ) -> None:
        pid = nursery(SIZE_BYTES)
        script(TRACER, pid, 0)
        outcome = reap(pid, hold=mode).outcome
        assert outcome is not None
        assert outcome.outcome == "exited"
        assert ("could not be held" in outcome.reason) is (mode != "never")

    def test_a_victim_that_someone_else_holds_at_its_exit_is_reaped(
        self, nursery: Callable[[int], int], script: Script, reap: Reap
    ) -> None:
        pid = nursery(SIZE_BYTES)
        script(TRACER, pid, 0x40)
        outcome = reap(pid, hold="always").outcome
        assert outcome is not None
        assert outcome.outcome == "reaped", outcome.reason
        assert outcome.released_bytes >= SIZE_BYTES

    @pytest.mark.parametrize("mode", ["always", "never"])
    def test_a_stopped_victim_is_killed_and_reaped(
        self, mode: str, nursery: Callable[[int], int], reap: Reap
    ) -> None:
        pid = nursery(SIZE_BYTES)
        os.kill(pid, signal.SIGSTOP)
        assert comes_to(pid, "T")
        execution = reap(pid, hold=mode)
        assert execution.outcome is not None
        assert execution.outcome.outcome == "exited"
        assert execution.evidence is not None
        assert execution.evidence.mrelease == 0

    def test_a_seized_process_gets_its_signals_and_stops_and_goes_on(self) -> None:
        """Every one of them, as if nobody traced it, and its end is seen."""
        with subprocess.Popen(
            [sys.executable, "-S", "-c", ANSWERS], stdout=subprocess.PIPE
        ) as process:
            assert next_line(process) == "ready"
            held = hold.Hold(process.pid, lambda: True, threading.Semaphore(1), 1)
            assert held.seize()
            try:
                for number in [signal.SIGUSR1, signal.SIGCHLD] * 10:
                    process.send_signal(number)
                    assert next_line(process) == number.name
                for _ in range(3):
                    process.send_signal(signal.SIGSTOP)
                    assert comes_to(process.pid, "Tt")
                    process.send_signal(signal.SIGUSR1)
                    assert next_line(process, 0.02) is None, "a stop is kept"
                    process.send_signal(signal.SIGCONT)
                    assert next_line(process) == "SIGUSR1", "and ends"
                assert not held.stopped
            finally:
                process.kill()
                held.join(2)
            assert not held.is_alive()
            assert held.stopped
            assert process.wait(2) == -signal.SIGKILL

    def test_a_storm_of_signals_does_not_break_the_hold(self, script: Script, reap: Reap) -> None:
        codes = []
        for _ in range(12):
            victim = script(ANSWERS, "silent")
            storm = script(STORM, victim.pid)
            evidence = reap(victim.pid, hold="always").evidence
            codes.append(evidence and evidence.mrelease)
            storm.kill()
        assert codes == [0] * 12

    def test_a_hold_on_who_is_gone_says_so(self, sleeper: Callable[[], int]) -> None:
        pid = sleeper()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        held = hold.Hold(pid, lambda: True, threading.Semaphore(0), 1)
        assert not held.seize()
        assert held.error == "No such process"

    def test_every_thread_can_be_the_one_that_is_held(self, script: Script, reap: Reap) -> None:
        """The leader has left: another thread has the mm."""
        victim = script(LEADER_LEAVES)
        execution = reap(victim.pid, hold="always")
        assert execution.outcome is not None
        assert execution.outcome.outcome == "exited"
        assert execution.evidence is not None
        assert execution.evidence.mrelease == 0
        assert not Path(f"/proc/{victim.pid}/task/{victim.pid}/maps").read_text()
