"""Each victim is killed, and its memory seen to come back by its cgroup's own counter."""

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memreap.linux import cgroups, scheduling, syscalls
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Worker
from memreap.reap import reaper
from memreap.reap.boost import Boost
from memreap.reap.execution import STANDBY_PREPARE_S, Execution
from memreap.reap.standby import Standbys
from memreap.reap.victim import identify
from memreap.reap.volley import Volley
from memreap.victims import stage

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
KINDS = {
    "sleeping": "exited",
    "busy": "exited",
    "threads": "exited",
    "idle": "exited",
    "shared": "exited",
    "hung-thread": "reaped",
    "hung-aio": "reaped",
}
Reap = Callable[..., Execution]
Finish = Callable[[Execution], Execution]
MakeCgroup = Callable[[str], Path]


def used_bytes(memory: Path) -> int:
    return int(cgroups.usage_file(memory).read_text())


def has_exited(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


@contextlib.contextmanager
def opened(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def check_release(memory: Path, pid: int, kinds: set[str], reap: Reap) -> None:
    """Kill it; the counter says the same as the outcome, and a hung one hangs still."""
    before_bytes = used_bytes(memory)
    assert before_bytes >= SIZE_BYTES
    with opened(pid) as pidfd:
        outcome = reap(pid).outcome
        fell_bytes = before_bytes - used_bytes(memory)
        assert outcome is not None
        assert outcome.outcome in kinds, outcome.reason
        assert has_exited(pidfd) is (outcome.outcome == "exited")
    assert fell_bytes >= 0.99 * SIZE_BYTES, outcome.reason
    assert outcome.released_bytes >= 0.99 * SIZE_BYTES
    assert outcome.seconds_to_release is not None
    assert 0 < outcome.seconds_to_release < 2.0
    assert (outcome.seconds_to_exit is None) is (outcome.outcome == "reaped")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_memory_of_every_kind_comes_back(
    kind: str, possible: dict[str, str | None], cgroup: MakeCgroup, reap: Reap
) -> None:
    if reason := possible[kind]:
        pytest.skip(reason)
    memory = cgroup("memory")
    neighbours = 4 if kind == "idle" else 0
    with stage(kind, SIZE_BYTES, cgroups=[memory], neighbours=neighbours) as staged:
        check_release(memory, staged.pid, {KINDS[kind]}, reap)


def test_a_frozen_victim_gives_its_memory_back(cgroup: MakeCgroup, reap: Reap) -> None:
    memory, freezer = cgroup("memory"), cgroup("freezer")
    state = freezer / "freezer.state"
    if not state.exists():
        pytest.skip("no cgroup v1 freezer")
    with stage("sleeping", SIZE_BYTES, cgroups=[memory, freezer]) as staged:
        state.write_text("FROZEN")
        try:
            check_release(memory, staged.pid, {"reaped"}, reap)
        finally:
            state.write_text("THAWED")


def test_a_throttled_victim_gives_its_memory_back(cgroup: MakeCgroup, reap: Reap) -> None:
    memory, cpu = cgroup("memory"), cgroup("cpu")
    quota = cpu / "cpu.cfs_quota_us"
    if not quota.exists():
        pytest.skip("no cgroup v1 CPU bandwidth")
    with stage("busy", SIZE_BYTES, cgroups=[memory, cpu]) as staged:
        (cpu / "cpu.cfs_period_us").write_text("1000000")
        quota.write_text("1000")
        try:
            # SCHED_FIFO takes it out of the limit, but only where its group has real-time budget.
            check_release(memory, staged.pid, {"exited", "reaped"}, reap)
        finally:
            quota.write_text("-1")  # without its memory it would still take seconds to exit


def test_huge_pages_come_back(cgroup: MakeCgroup, reap: Reap) -> None:
    memory = cgroup("memory")
    with stage("sleeping", SIZE_BYTES, huge=True, cgroups=[memory]) as staged:
        check_release(memory, staged.pid, {"exited"}, reap)


def test_who_hangs_with_the_lock_held_is_stuck_and_bounds_the_wait(
    possible: dict[str, str | None], cgroup: MakeCgroup, reap: Reap
) -> None:
    if reason := possible["hung-mmap-lock"]:
        pytest.skip(reason)
    memory = cgroup("memory")
    with stage("hung-mmap-lock", SIZE_BYTES, cgroups=[memory]) as staged:
        start_s = time.monotonic()
        outcome = reap(staged.pid, timeout_s=0.5).outcome
        assert 0.5 <= time.monotonic() - start_s < 1.5
        assert outcome is not None
        assert (outcome.outcome, outcome.released_bytes) == ("stuck", 0)
        assert (outcome.seconds_to_release, outcome.seconds_to_exit) == (None, None)
        assert "mmap_lock" in outcome.reason
        assert used_bytes(memory) >= SIZE_BYTES


def test_an_empty_handed_victim_is_exited(sleeper: Callable[[], int], reap: Reap) -> None:
    outcome = reap(sleeper()).outcome
    assert outcome is not None
    assert (outcome.outcome, outcome.attempts) == ("exited", 1)


@pytest.mark.parametrize(("hold", "kills"), [("auto", 100), ("always", 40)])
def test_the_reap_has_the_memory_every_time(
    hold: str, kills: int, nursery: Callable[[int], int], reap: Reap
) -> None:
    if not scheduling.realtime_permitted():
        pytest.skip("SCHED_FIFO is not permitted")
    results = [reap(nursery(SIZE_BYTES), hold=hold).evidence for _ in range(kills)]
    assert [result.mrelease if result else None for result in results] == [0] * kills


def test_our_own_scheduling_is_as_before() -> None:
    was = scheduling.current()
    with scheduling.watching() as permitted:
        if permitted:
            assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_FIFO
    assert scheduling.current() == was
    assert scheduling.realtime_permitted() == permitted
    assert scheduling.current() == was


@pytest.mark.parametrize(
    ("policy", "nice"), [(os.SCHED_OTHER, 7), (os.SCHED_BATCH, 0), (os.SCHED_IDLE, 3)]
)
def test_a_boost_is_undone_to_the_letter(
    policy: int, nice: int, sleeper: Callable[[], int]
) -> None:
    pid = sleeper()
    os.sched_setscheduler(pid, policy, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    was = scheduling.current(pid)
    pidfd = os.pidfd_open(pid)
    boost = Boost([(pid, pidfd), (2**22 + 1, pidfd)], Procfs())
    assert scheduling.current(pid) != was
    boost.undo()
    os.close(pidfd)
    assert scheduling.current(pid) == was


def forbid_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if an LSM, or a change of credentials since the check, forbade every SIGKILL."""
    monkeypatch.setattr(syscalls, "pidfd_kill", lambda _pidfd: errno.EPERM)
    monkeypatch.setattr(
        syscalls, "kill_and_mrelease", lambda fds: ([errno.EPERM] * len(fds), errno.EINVAL)
    )


@pytest.mark.parametrize("hold", ["never", "always"])
def test_a_kill_that_is_refused_leaves_no_boost(
    hold: str, sleeper: Callable[[], int], reap: Reap, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = sleeper()
    was = scheduling.current(pid)
    forbid_kills(monkeypatch)
    outcome = reap(pid, hold=hold).outcome
    assert outcome is not None
    assert (outcome.outcome, outcome.reason) == ("refused", "not permitted to signal it")
    assert scheduling.current(pid) == was
    assert "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text()


def test_a_kill_of_many_that_is_refused_leaves_no_boost_and_no_worker(
    sleeper: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = [sleeper() for _ in range(3)]
    was = [scheduling.current(pid) for pid in pids]
    victims = [identify(pid) for pid in pids]
    forbid_kills(monkeypatch)
    volley = Volley(victims, "auto", 2.0)
    volley.fire()
    time.sleep(0.1)  # the reapers wake once the owner has tried
    while volley.pending:
        volley.advance(time.monotonic())
    for victim in victims:
        victim.close()
    assert {outcome.outcome for outcome in volley.outcomes} == {"refused"}
    assert [scheduling.current(pid) for pid in pids] == was
    assert Worker.living == set()


def test_a_killer_that_ends_before_its_shot_leaves_its_victims_as_they_were(
    sleeper: Callable[[], int], finish: Finish
) -> None:
    pid = sleeper()
    was = scheduling.current(pid)
    execution = Execution(identify(pid), "auto", 1.0)
    go, shut = os.pipe()
    execution.prepare(time.monotonic(), go, shut)
    while not execution.ready:
        execution.advance(time.monotonic())
    os.close(shut)  # as its death does
    os.close(go)
    deadline_s = time.monotonic() + 2
    while (boosted := scheduling.current(pid) != was) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    finish(execution)
    execution.victim.close()
    assert not boosted


def test_a_reaper_that_dies_at_once_saves_no_victim(
    sleeper: Callable[[], int], reap: Reap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine kills it for its memory, or gives it no thread."""
    monkeypatch.setattr(reaper.Reaper, "run", lambda _self, _line: os._exit(1))
    pid, start_s = sleeper(), time.monotonic()
    outcome = reap(pid, timeout_s=20.0).outcome
    assert outcome is not None
    assert outcome.outcome == "exited", outcome.reason
    assert time.monotonic() - start_s < 5, "its owner killed at once"


@pytest.mark.parametrize("late_s", [0.0, 0.3])
def test_a_reaper_in_waiting_that_is_late_leaves_out_what_only_helps(
    late_s: float, sleeper: Callable[[], int], finish: Finish
) -> None:
    standbys = Standbys(1)
    standbys.refill()
    standby = standbys.take()
    assert standby is not None
    deadline_s = time.monotonic() + 5
    while (stat := Procfs().stat(standby.worker.pid)).state != "S" or stat.comm != "memreap-reaper":
        assert time.monotonic() < deadline_s, "it never waited for its order"
    execution = Execution(identify(sleeper()), "always", 5.0)
    try:
        execution.start(time.monotonic() - late_s, standby)
        outcome = finish(execution).outcome
    finally:
        execution.victim.close()
        standbys.close()
    assert outcome is not None
    assert outcome.outcome == "exited"
    assert ("held: there was no time" in outcome.reason) is (late_s > reaper.LATE_S)
    assert "did not kill in time" not in outcome.reason


def test_a_reaper_in_waiting_that_does_not_come_at_all_saves_no_victim(
    sleeper: Callable[[], int], finish: Finish
) -> None:
    standbys = Standbys(1)
    standbys.refill()
    standby = standbys.take()
    assert standby is not None
    os.kill(standby.worker.pid, signal.SIGSTOP)
    execution = Execution(identify(sleeper()), "auto", 5.0)
    start_s = time.monotonic()
    try:
        execution.start(start_s, standby)
        outcome = finish(execution).outcome
    finally:
        execution.victim.close()
    assert outcome is not None
    assert outcome.outcome == "exited"
    assert "did not kill in time" in outcome.reason
    assert execution.killed_s is not None
    assert STANDBY_PREPARE_S <= execution.killed_s - start_s < 5.0


@pytest.mark.parametrize("permitted", [True, False])
def test_who_may_not_be_signalled_was_not_struck(
    permitted: bool,
    sleeper: Callable[[], int],
    finish: Finish,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though the time of the kill is noted before it: it is no kill, and not told as one."""
    if not permitted:
        refused = ([errno.EPERM], errno.EPERM)
        monkeypatch.setattr(syscalls, "kill_and_mrelease", lambda _: refused)
    pid = sleeper()
    execution, struck = Execution(identify(pid), "never", 5.0), []
    advance = execution.advance

    def watched(now_s: float) -> None:
        if (killed_s := execution.killed_s) is not None:
            struck.append(execution.has_struck(min(now_s, killed_s)))
        advance(now_s)
        struck.append(execution.has_struck(time.monotonic()))

    monkeypatch.setattr(execution, "advance", watched)
    execution.start(time.monotonic())
    try:
        finish(execution)
    finally:
        execution.victim.close()
    assert struck[-1] is permitted
    assert permitted or not any(struck)


def test_descriptors_beyond_1024_are_no_trouble(
    sleeper: Callable[[], int], reap: Reap, starved_of_descriptors: Callable[[int], None]
) -> None:
    starved_of_descriptors(1100)
    outcome = reap(sleeper()).outcome
    assert outcome is not None
    assert outcome.outcome == "exited"


def test_what_exited_unwatched_is_not_said_to_have_taken_no_time(
    sleeper: Callable[[], int],
) -> None:
    execution = Execution(identify(sleeper()), "never", 5.0)
    execution.start(time.monotonic())
    assert select.select([execution.victim.pidfd], [], [], 2.0)[0]
    time.sleep(0.5)  # for the reaper's last words
    outcome = execution.give_up("interrupted")
    execution.victim.close()
    assert outcome.outcome == "exited"
    assert outcome.seconds_to_exit is not None
    assert outcome.seconds_to_exit > 0


HANGS_IN_EXEC = """
import mmap, os, signal, threading
from memreap.victims.fuse import HungFile
hung = HungFile()
pid = os.fork()
if pid == 0:
    hung.release()
    memory = mmap.mmap(-1, 1 << 20)
    file = hung.open(os.O_RDONLY | os.O_DIRECT)
    threading.Thread(target=os.preadv, args=(file, [memory], 0), daemon=True).start()
    hung.wait_for_read()
    os.execv("/bin/sleep", ["sleep", "300"])
import select, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
end, announced, parent = time.monotonic() + 20, False, os.getppid()
poll = select.poll()
poll.register(hung.device, select.POLLIN)
try:
    while time.monotonic() < end and os.getppid() == parent:
        if poll.poll(100):
            hung.serve()
        elif not announced and ") D " in open(f"/proc/{pid}/stat").read():
            announced = True
            print(pid, flush=True)
finally:
    os.kill(pid, signal.SIGKILL)
    hung.release()
    os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("hold", ["never", "auto", "always"])
def test_a_victim_that_hangs_in_exec_cannot_be_held_but_is_killed(
    hold: str, possible: dict[str, str | None], script: Callable[..., object], reap: Reap
) -> None:
    """Its exec waits for a thread that cannot die, and keeps whoever would trace it waiting."""
    if reason := possible["hung-thread"]:
        pytest.skip(reason)
    host = script(HANGS_IN_EXEC)
    pid = int(host.first_line)  # type: ignore[attr-defined]
    try:
        outcome = reap(pid, hold=hold, timeout_s=2.0).outcome
        assert outcome is not None
        assert outcome.outcome == "reaped", outcome.reason
    finally:
        host.terminate()  # type: ignore[attr-defined]
        host.wait(5)  # type: ignore[attr-defined]


def test_one_that_hangs_in_exec_keeps_nobody_else_from_being_reaped(
    possible: dict[str, str | None], script: Callable[..., object]
) -> None:
    if reason := possible["hung-aio"]:
        pytest.skip(reason)
    host = script(HANGS_IN_EXEC)
    try:
        with stage("hung-aio", SIZE_BYTES) as staged:
            pids = [int(host.first_line), staged.pid]  # type: ignore[attr-defined]
            victims = [identify(pid) for pid in pids]
            volley = Volley(victims, "auto", 2.0)
            volley.fire()
            while volley.pending:
                time.sleep(0.005)
                volley.advance(time.monotonic())
            for victim in victims:
                victim.close()
            ended = {outcome.pid: outcome.outcome for outcome in volley.outcomes}
            assert ended == dict.fromkeys(pids, "reaped")
    finally:
        host.terminate()  # type: ignore[attr-defined]
        host.wait(5)  # type: ignore[attr-defined]


def test_a_reap_that_comes_after_the_exit_began_to_hang_says_so(
    possible: dict[str, str | None], finish: Finish
) -> None:
    if reason := possible["hung-aio"]:
        pytest.skip(reason)
    with stage("hung-aio", SIZE_BYTES) as staged:
        execution = Execution(identify(staged.pid), "never", 0.7)
        os.kill(staged.pid, signal.SIGKILL)
        deadline_s = time.monotonic() + 5
        while Procfs().oom_score(staged.pid):  # until it waits in exit_aio, and its mm is let go
            assert time.monotonic() < deadline_s
        try:
            execution.start(time.monotonic())
            outcome = finish(execution).outcome
        finally:
            execution.victim.close()
    assert outcome is not None
    assert outcome.outcome == "stuck"
    assert outcome.released_bytes == 0
    assert outcome.reason.startswith("the reap came too late")
