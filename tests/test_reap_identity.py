"""A number is not a process: who is refused, and why; who is never touched."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memreap.linux import scheduling
from memreap.linux.procfs import Procfs
from memreap.reap.execution import Execution
from memreap.reap.victim import Refused, Victim, identify

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
TRIES = 500
NOBODY = 65534
PROC = Procfs()
Finish = Callable[[Execution], Execution]


def reborn(pid: int) -> None:
    """Start a process with this very number; a child of the test."""
    if not (LAST_PID.exists() and os.access(LAST_PID, os.W_OK)):
        pytest.skip("this kernel does not let us choose the next pid")
    for _ in range(TRIES):
        LAST_PID.write_text(str(pid - 1))
        again = os.posix_spawn("/bin/sleep", ["sleep", "300"], os.environ)
        if again == pid:
            return
        end(again)
    pytest.skip(f"others took pid {pid} first, {TRIES} times")


def end(pid: int) -> int:
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def check_untouched(pid: int, was: scheduling.Scheduling) -> None:
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it lives"
    assert scheduling.current(pid) == was
    assert "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text()


def execute(victim: Victim, hold: str, finish: Finish) -> Execution:
    execution = Execution(victim, hold, 2.0)  # type: ignore[arg-type]
    execution.start(time.monotonic())
    finish(execution)
    victim.close()
    return execution


@pytest.mark.parametrize("hold", ["never", "always"])
def test_a_process_that_was_given_the_number_since_is_not_touched(
    hold: str, sleeper: Callable[[], int], finish: Finish
) -> None:
    pid = sleeper()
    victim = identify(pid)
    end(pid)
    reborn(pid)
    was = scheduling.current(pid)
    try:
        outcome = execute(victim, hold, finish).outcome
        check_untouched(pid, was)
        assert outcome is not None
        assert outcome.outcome == "exited"
    finally:
        end(pid)


ONE_THREAD_LEAVES = """
import threading, time
leave = threading.Event()
thread = threading.Thread(target=leave.wait)
thread.start()
print(thread.native_id, flush=True)
input_ = open(0)
input_.readline()
leave.set()
time.sleep(300)
"""


@pytest.mark.parametrize("hold", ["never", "always"])
def test_a_process_that_was_given_the_number_of_a_thread_since_is_not_touched(
    hold: str, finish: Finish
) -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", ONE_THREAD_LEAVES],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        tid = int(process.stdout.readline())
        victim = identify(process.pid)
        assert tid in victim.facts.tids
        process.stdin.close()
        while tid in PROC.threads(process.pid):
            time.sleep(0.002)
        reborn(tid)
        was = scheduling.current(tid)
        try:
            outcome = execute(victim, hold, finish).outcome
            check_untouched(tid, was)
            assert outcome is not None
            assert outcome.outcome == "exited"
        finally:
            end(tid)


def test_a_start_time_that_was_noted_refuses_who_came_later(sleeper: Callable[[], int]) -> None:
    pid = sleeper()
    start_ticks = PROC.stat(pid).start_ticks
    identify(pid, start_ticks=start_ticks).close()
    end(pid)
    time.sleep(0.02)  # more than the 10 ms that the clock ticks
    reborn(pid)
    try:
        with pytest.raises(Refused, match="another process now"):
            identify(pid, start_ticks=start_ticks)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    finally:
        end(pid)


def kernel_thread() -> int:
    assert PROC.stat(2).is_kernel_thread, "kthreadd, where this pid namespace has it"
    return 2


def absent_pid() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text()) + 1


@pytest.mark.parametrize(
    ("pid", "reason", "missing"),
    [
        (lambda: 1, "init", False),
        (kernel_thread, "a kernel thread", False),
        (os.getpid, "memreap itself", False),
        (os.getppid, "an ancestor of memreap", False),
        (absent_pid, "no such process", True),
        (lambda: 2**31 - 1, "no such process", True),
        (lambda: 2**40, "no such process", True),
    ],
)
def test_refused_with_the_reason(pid: Callable[[], int], reason: str, missing: bool) -> None:
    with pytest.raises(Refused, match=re.escape(reason)) as refusal:
        identify(pid())
    assert (refusal.value.missing, refusal.value.pid) == (missing, pid())


def test_protected_by_its_adj_unless_forced(
    sleeper: Callable[[], int], protecting: Callable[[int], Procfs]
) -> None:
    pid = sleeper()
    Path(f"/proc/{pid}/oom_score_adj").write_text("500")
    identify(pid).close()
    proc = protecting(pid)
    with pytest.raises(Refused, match="oom_score_adj of -1000"):
        identify(pid, proc)
    identify(pid, proc, force=True).close()


def test_force_does_not_open_what_is_not_about_protection() -> None:
    for pid in (1, kernel_thread(), os.getpid(), os.getppid()):
        with pytest.raises(Refused):
            identify(pid, force=True)


def test_a_thread_is_no_process(script: Callable[..., subprocess.Popen[str]]) -> None:
    process = script(ONE_THREAD_LEAVES.replace("input_", "time.sleep(300) #"))
    tid = int(process.first_line)  # type: ignore[attr-defined]
    with pytest.raises(Refused, match=r"no such process|thread") as refusal:
        identify(tid)
    assert refusal.value.missing


def test_a_zombie_is_exited_already(sleeper: Callable[[], int], finish: Finish) -> None:
    pid = sleeper()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    victim, start_s = identify(pid), time.monotonic()
    outcome = execute(victim, "auto", finish).outcome
    assert time.monotonic() - start_s < 0.5
    assert outcome is not None
    assert (outcome.outcome, outcome.released_bytes) == ("exited", 0)


def test_strangers_processes_are_refused_to_nobody(
    sleeper: Callable[[], int], as_nobody: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    pid = sleeper()
    done = as_nobody("-m", "memreap", "kill", pid)
    assert (done.returncode, done.stderr) == (3, "")
    assert "not permitted" in done.stdout
    assert os.waitpid(pid, os.WNOHANG) == (0, 0)


def test_nobody_kills_his_own_without_any_privilege(
    as_nobody: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    with subprocess.Popen(["/bin/sleep", "300"], user=NOBODY, group=NOBODY) as own:
        done = as_nobody("-m", "memreap", "kill", "--json", own.pid)
        assert (done.returncode, done.stderr) == (0, "")
        assert '"outcome": "exited"' in done.stdout
        assert own.wait(2) == -signal.SIGKILL


def test_a_refusal_keeps_no_descriptor(
    sleeper: Callable[[], int], protecting: Callable[[int], Procfs]
) -> None:
    pid = sleeper()
    proc = protecting(pid)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(Refused):
            identify(pid, proc)
        with pytest.raises(Refused):
            identify(pid, start_ticks=1)
    assert len(os.listdir("/proc/self/fd")) == before
