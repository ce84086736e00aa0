"""Whoever shares a victim's memory dies with it, and nobody else does."""

import contextlib
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memreap.linux import cgroups, syscalls
from memreap.linux.procfs import Procfs
from memreap.reap import facts, survey
from memreap.reap.execution import Execution
from memreap.reap.reaper import Reaper
from memreap.reap.sharers import sharers
from memreap.reap.survey import survey as look
from memreap.reap.target import Pids
from memreap.reap.victim import Refused, Rules, admit, identify
from memreap.victims import Staged, stage

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
PROC = Procfs()
Reap = Callable[..., Execution]
Finish = Callable[[Execution], Execution]


@pytest.fixture
def memory(cgroup: Callable[[str], Path]) -> Path:
    return cgroup("memory")


class NoRoom:
    """Not one more descriptor can be had, until it is closed."""

    def __init__(self, limits: tuple[int, int]) -> None:
        self._limits = limits
        probe = os.dup(0)
        os.close(probe)
        resource.setrlimit(resource.RLIMIT_NOFILE, (probe, limits[1]))

    def close(self) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)


@pytest.fixture
def shared(memory: Path) -> Iterator[Staged]:
    with stage("shared", SIZE_BYTES, cgroups=[memory]) as staged:
        yield staged


def used_bytes(folder: Path) -> int:
    return int(cgroups.usage_file(folder).read_text())


def is_alive(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return not select.select([pidfd], [], [], 0)[0]
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("hold", ["never", "always"])
@pytest.mark.parametrize("named", ["the first", "the second"])
def test_a_sharer_is_found_and_dies(
    shared: Staged, named: str, hold: str, memory: Path, reap: Reap
) -> None:
    pair = (shared.pid, *shared.sharers)
    victim, sharer = pair if named == "the first" else pair[::-1]
    outcome = reap(victim, hold=hold).outcome
    assert outcome is not None
    assert (outcome.pid, outcome.outcome, outcome.sharers) == (victim, "exited", (sharer,))
    assert not is_alive(victim)
    assert not is_alive(sharer)
    assert used_bytes(memory) < SIZE_BYTES // 100


@pytest.mark.parametrize("hold", ["auto", "never", "always"])
def test_a_sharer_that_came_after_the_survey_is_found_and_dies(
    shared: Staged, hold: str, memory: Path, reap: Reap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "sharers", lambda *_args, **_more: iter(()))
    outcome = reap(shared.pid, hold=hold).outcome
    assert outcome is not None
    assert not is_alive(shared.sharers[0]), outcome
    assert outcome.sharers == shared.sharers
    assert outcome.outcome == "exited"
    assert used_bytes(memory) < SIZE_BYTES // 100


def test_a_parent_that_shares_is_found_once_and_without_a_wait_for_exec(
    shared: Staged, monkeypatch: pytest.MonkeyPatch
) -> None:
    (child,) = shared.sharers
    known = facts.read(child, PROC)
    assert known.ppid == shared.pid

    def no_sleep(_seconds: float) -> None:
        raise AssertionError("it is in no vfork, and the kernel says so")

    monkeypatch.setattr(time, "sleep", no_sleep)
    assert list(sharers([known], PROC, [shared.pid, shared.pid])) == [(child, shared.pid)]


def test_without_a_descriptor_for_a_sharer_both_die_and_the_memory_is_known_to_be_back(
    shared: Staged, memory: Path, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops a descriptor that there is no room for: the reaper, though, has its own."""
    (sharer,) = shared.sharers
    monkeypatch.setattr(survey, "sharers", lambda *_args, **_more: iter(()))
    execution = Execution(identify(shared.pid), "always", 5.0)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    execution.start(time.monotonic())
    try:
        with contextlib.closing(NoRoom(limits)):
            outcome = finish(execution).outcome
    finally:
        execution.victim.close()
    assert outcome is not None
    assert execution.unheld == [sharer]
    assert outcome.outcome in ("exited", "reaped"), outcome.reason
    assert outcome.sharers == (sharer,)
    assert not is_alive(shared.pid)
    deadline_s = time.monotonic() + 5
    while is_alive(sharer):  # nobody of us holds it, and so nobody waits for its very end
        assert time.monotonic() < deadline_s
    assert used_bytes(memory) < 4 * MIB


def test_a_spared_sharer_that_came_late_makes_the_victim_refused(
    shared: Staged, memory: Path, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sharer,) = shared.sharers
    monkeypatch.setattr(survey, "sharers", lambda *_args, **_more: iter(()))
    victim = replace(identify(shared.pid), rules=Rules(spared=frozenset({sharer})))
    execution = Execution(victim, "always", 1.0)
    execution.start(time.monotonic())
    outcome = finish(execution).outcome
    execution.victim.close()
    assert outcome is not None
    assert (outcome.outcome, outcome.released_bytes) == ("refused", 0)
    assert str(sharer) in outcome.reason
    assert is_alive(shared.pid)
    assert is_alive(sharer)


@pytest.mark.parametrize("hold", ["never", "always"])
def test_memory_that_a_spared_sharer_keeps_is_not_called_released(
    shared: Staged, hold: Any, memory: Path, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that came after the very last look, so that only the kernel's EINVAL tells of it."""
    (sharer,) = shared.sharers
    monkeypatch.setattr(Reaper, "_join_latecomers", lambda *_args: False)
    monkeypatch.setattr(survey, "sharers", lambda *_args, **_more: iter(()))
    victim = replace(identify(shared.pid), rules=Rules(spared=frozenset({sharer})))
    execution = Execution(victim, hold, 1.0)
    execution.start(time.monotonic())
    outcome = finish(execution).outcome
    execution.victim.close()
    assert is_alive(sharer)
    assert used_bytes(memory) >= SIZE_BYTES
    assert outcome is not None
    assert (outcome.outcome, outcome.released_bytes) == ("stuck", 0), outcome.reason
    assert outcome.seconds_to_release is None
    assert "shares its memory" in outcome.reason
    if hold == "always":  # the mm is still there to compare with
        assert str(sharer) in outcome.reason


def test_a_protected_sharer_protects(shared: Staged, protecting: Callable[[int], Procfs]) -> None:
    (sharer,) = shared.sharers
    with pytest.raises(Refused, match=f"shares its memory with pid {sharer}: .*-1000"):
        identify(shared.pid, protecting(sharer))
    identify(shared.pid).close()


def test_a_sharer_that_may_not_be_killed_makes_the_victim_refused(shared: Staged) -> None:
    (sharer,) = shared.sharers
    target = Pids((shared.pid,))
    seen = look(target)
    seen.ancestors |= {sharer}
    victims, (refusal,) = admit(seen, target, force=False)
    assert victims == []
    assert refusal.pid == shared.pid
    assert refusal.reason.startswith(f"shares its memory with pid {sharer}: ")
    for found in [*seen.found, *seen.sharers[shared.pid]]:
        with contextlib.suppress(OSError):  # whoever refuses may have let go already
            os.close(found.pidfd)


@pytest.mark.parametrize("order", [1, -1])
def test_two_targets_that_share_one_mm_are_one_victim(shared: Staged, order: int) -> None:
    target = Pids((shared.pid, *shared.sharers)[::order])
    victims, refusals = admit(look(target), target, force=False)
    assert refusals == []
    (victim,) = victims
    assert sorted(victim.pids) == sorted(target.numbers)
    victim.close()


def test_the_same_target_twice_is_one_victim(
    sleeper: Callable[[], int], memreap: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    pid = sleeper()
    done = memreap("kill", "--json", pid, pid)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


LEADER_GONE = """
import ctypes, os, platform, signal, threading, time
def live_on():
    while open(f"/proc/self/task/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.001)
    print("alone", flush=True)
    time.sleep(300)
threading.Thread(target=live_on).start()
ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)
"""


def test_the_dead_share_nothing_with_kernel_threads_or_the_leaderless(
    script: Callable[..., subprocess.Popen[str]], sleeper: Callable[[], int]
) -> None:
    """None of them has an mm: having none is not sharing one."""
    bystander = script(LEADER_GONE)
    pid = sleeper()
    known = facts.read(pid, PROC)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert bystander.poll() is None
    assert list(sharers([known], PROC)) == []


def test_a_process_without_its_leader_is_compared_by_a_thread_that_lives(
    script: Callable[..., subprocess.Popen[str]],
) -> None:
    bystander = script(LEADER_GONE)
    known = facts.read(bystander.pid, PROC)
    assert known.state == "Z"
    assert not known.dead
    assert known.living_tid != bystander.pid
    assert syscalls.kcmp_vm(known.living_tid, known.living_tid) == 0


def test_a_process_without_its_leader_is_killed_and_reaped(
    script: Callable[..., subprocess.Popen[str]], reap: Reap
) -> None:
    bystander = script(LEADER_GONE)
    outcome = reap(bystander.pid, hold="always").outcome
    assert outcome is not None
    assert outcome.outcome == "exited"
    assert bystander.wait(2) == -signal.SIGKILL


IN_VFORK = """
import os, sys
print("ready", flush=True)
# posix_spawn shares the mm until its child has done this open, and called exec.
wait = (os.POSIX_SPAWN_OPEN, 9, sys.argv[1], os.O_RDONLY, 0)
pid = os.posix_spawn("/bin/sleep", ["sleep", "300"], os.environ, file_actions=[wait])
print("spawned", pid, flush=True)
os.waitpid(pid, 0)
print("mourned", flush=True)
"""


def test_a_parent_in_vfork_is_spared(
    tmp_path: Path,
    script: Callable[..., subprocess.Popen[str]],
    reap: Reap,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("memreap.reap.sharers.VFORK_PATIENCE_S", 0.8)  # for a slow machine
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    parent = script(IN_VFORK, fifo)
    deadline_s = time.monotonic() + 2
    while not (offspring := PROC.children(parent.pid)):
        assert time.monotonic() < deadline_s
    (child,) = offspring
    assert syscalls.kcmp_vm(parent.pid, child) == 0
    with subprocess.Popen(["/bin/sh", "-c", f"sleep 0.02; : > {fifo}"]):
        outcome = reap(child).outcome
    assert outcome is not None
    assert (outcome.outcome, outcome.sharers) == ("exited", ())
    assert parent.stdout is not None
    assert parent.stdout.read().split() == ["spawned", str(child), "mourned"]
    assert parent.wait(2) == 0
