"""What the machine refuses is said in a line, and the next best thing is done."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memreap.linux import syscalls
from memreap.linux.worker import Line, Worker
from memreap.reap import survey
from memreap.reap.execution import Execution
from memreap.reap.survey import _Reader
from memreap.reap.target import Pids
from memreap.reap.victim import identify
from memreap.reap.volley import Volley

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

MIB = 1 << 20
NOBODY = 65534
Reap = Callable[..., Execution]
Finish = Callable[[Execution], Execution]
Done = subprocess.CompletedProcess[str]

LIMITED = """
import resource, sys
limit, value = getattr(resource, sys.argv[1]), int(sys.argv[2])
resource.setrlimit(limit, (value, value))
sys.argv[1:] = sys.argv[3:]
from memreap.cli import main
main()
"""


def check_said_clearly(done: Done) -> None:
    """One line, and a code of the contract."""
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 3), done.stderr
    if done.returncode == 3:
        assert len((done.stderr or done.stdout).splitlines()) == 1, done.stderr


def is_alive(pid: int) -> bool:
    return os.waitpid(pid, os.WNOHANG) == (0, 0)


def test_gone_between_look_up_and_signal(sleeper: Callable[[], int], finish: Finish) -> None:
    pid = sleeper()
    execution = Execution(identify(pid), "always", 2.0)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    start_s = time.monotonic()
    execution.start(start_s)
    outcome = finish(execution).outcome
    execution.victim.close()
    assert outcome is not None
    assert outcome.outcome == "exited"
    assert time.monotonic() - start_s < 0.5


def test_one_of_several_gone_before_the_shot(sleeper: Callable[[], int]) -> None:
    pids = [sleeper() for _ in range(3)]
    victims = [identify(pid) for pid in pids]
    os.kill(pids[1], signal.SIGKILL)
    os.waitpid(pids[1], 0)
    start_s = time.monotonic()
    volley = Volley(victims, "auto", 2.0)
    volley.fire()
    while volley.pending:
        volley.advance(time.monotonic())
    assert time.monotonic() - start_s < 1.0
    for victim in victims:
        victim.close()
    assert [outcome.outcome for outcome in volley.outcomes] == ["exited"] * 3


@pytest.mark.parametrize("limit", [4, 5, 6, 7, 8, 9, 10, 12, 16])
def test_few_descriptors(limit: int, sleeper: Callable[[], int]) -> None:
    pid = sleeper()
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "RLIMIT_NOFILE", str(limit), "kill", "--json", str(pid)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if "memreap" not in done.stderr and "No module" in done.stderr:
        pytest.skip("Python itself does not start")
    check_said_clearly(done)
    assert is_alive(pid) is (done.returncode == 3)


def test_more_victims_than_descriptors(sleeper: Callable[[], int]) -> None:
    pids = [sleeper() for _ in range(40)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "RLIMIT_NOFILE", "32", "kill", "--quiet", *map(str, pids)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    check_said_clearly(done)
    assert done.returncode == 3 or not any(is_alive(pid) for pid in pids)


@pytest.mark.parametrize("hold", ["never", "always"])
def test_a_kernel_without_mrelease_still_kills(
    hold: str, nursery: Callable[[int], int], reap: Reap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syscalls, "_NR_MRELEASE", ctypes.c_long(4095))
    outcome = reap(nursery(64 * MIB), hold=hold).outcome
    assert outcome is not None
    assert (outcome.outcome, outcome.attempts) == ("exited", 1)
    assert "5.15" in outcome.reason
    assert outcome.released_bytes >= 64 * MIB


def test_no_process_left(as_nobody: Callable[..., Done]) -> None:
    with subprocess.Popen(["/bin/sleep", "300"], user=NOBODY, group=NOBODY) as own:
        try:
            done = as_nobody("-c", LIMITED, "RLIMIT_NPROC", 1, "kill", own.pid)
            check_said_clearly(done)
            assert (done.returncode, own.poll()) == (3, None)
            assert done.stderr.startswith("memreap: ")
        finally:
            own.kill()


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("several", [False, True])
def test_room_for_few_tasks(
    most: int,
    several: bool,
    nursery: Callable[[int], int],
    cgroup: Callable[[str], Path],
) -> None:
    """Where a worker or one of its threads cannot be made, the kill is made all the same."""
    pids = cgroup("pids")
    victims = [nursery(40 * MIB) for _ in range(3 if several else 1)]
    command = f"echo $$ > {pids}/cgroup.procs; exec '{sys.executable}' -m memreap kill --json"
    (pids / "pids.max").write_text(str(most))
    start_s = time.monotonic()
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} --hold always --timeout 3 {' '.join(map(str, victims))}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert time.monotonic() - start_s < 5
    check_said_clearly(done)
    if most > 1:
        assert done.returncode == 0, done.stdout
    left = [pid for pid in victims if Path(f"/proc/{pid}").exists()]
    assert left == ([] if done.returncode == 0 else victims)


def test_a_survey_whose_worker_dies_does_not_pass_for_a_whole_one(
    sleeper: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine kills it for its memory, halfway."""
    pids = [sleeper() for _ in range(3)]
    say = _Reader.say

    def dies_at_the_second(self: _Reader, pid: int, line: Line, more: dict[str, object]) -> object:
        if pid == pids[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return say(self, pid, line, more)

    monkeypatch.setattr(_Reader, "say", dies_at_the_second)
    seen = survey.survey(Pids(tuple(pids)))
    for found in seen.found:
        os.close(found.pidfd)
    assert seen.errors or seen.unreadable


def test_a_worker_that_cannot_be_forked_leaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", no_more)
    with pytest.raises(OSError, match="temporarily"):
        Worker(lambda _line: None)


def test_a_worker_that_fails_says_so_and_is_gone() -> None:
    def fails(_line: Line) -> None:
        raise KeyError("on purpose")

    worker = Worker(fails)
    said = [message for message, _ in worker.hear_within(2.0)]
    assert said == [{"error": "KeyError: 'on purpose'"}]
    assert worker.ended
    worker.close()


def test_a_worker_is_given_up_at_once() -> None:
    worker = Worker(lambda _line: time.sleep(300))
    start_s = time.monotonic()
    worker.give_up()
    assert time.monotonic() - start_s < 0.5
