"""Sweeps: the same results whoever works, in whatever order, and whoever is lost meanwhile."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from memreap.simulate import executors, journal, scenario, sweep, trial
from memreap.simulate.costs import calibrated
from memreap.simulate.executors import BadNameError, NoExecutorError
from memreap.simulate.journal import Journal, JournalError
from memreap.simulate.sweep import LostError, Sweep, Team
from memreap.simulate.trial import Job, Result

SCENARIOS = ("held-lock", "two-hogs", "raw-io")
STRATEGIES = ("kernel", "guard-2", "patience-0.1")

needs_dask = pytest.mark.skipif(
    find_spec("distributed") is None, reason="distributed is not installed: pip install '.[dask]'"
)


def jobs(seeds: int = 3) -> list[Job]:
    return [Job(a, b, seed) for seed in range(seeds) for a in SCENARIOS for b in STRATEGIES]


def known() -> dict[str, scenario.Scenario]:
    return {name: scenario.load(name) for name in SCENARIOS}


def swept(team: Team, todo: list[Job]) -> dict[Job, Result]:
    found: dict[Job, Result] = {}
    for results in Sweep(calibrated(), known(), team).run(todo):
        for one in results:
            assert journal.job(one) not in found, "each job is done once"
            found[journal.job(one)] = one
    return found


@pytest.fixture(scope="module")
def alone() -> dict[Job, Result]:
    """One after the other, with nobody's help."""
    return {job: trial.run(job) for job in jobs()}


class Inline(Executor):
    """Works when it is asked, in this thread; ``before`` sees each task."""

    def __init__(self, before: Callable[[int], object] = abs) -> None:
        self.tasks: deque[int] = deque()
        self.before = before

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks.append(len(args[0]))
        future: Future[Any] = Future()
        try:
            self.before(len(self.tasks))
            future.set_result(fn(*args, **kwargs))
        except BrokenProcessPool as error:
            future.set_exception(error)
        return future


def team(make: Callable[[], Executor], workers: int = 2) -> Team:
    return Team(workers, make, lambda executor: executor.shutdown())


# Whoever works.


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_results_are_the_same_whoever_works(workers: int, alone: dict[Job, Result]) -> None:
    assert swept(sweep.processes(workers), jobs()) == alone


def test_the_results_are_the_same_in_any_order(alone: dict[Job, Result]) -> None:
    assert swept(team(lambda: ThreadPoolExecutor(3), 3), jobs()[::-1]) == alone


def test_a_task_lasts_as_long_whatever_a_trial_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("memreap.simulate.sweep.time.monotonic", lambda: now_s[0])

    def slow(job: Job, *rest: Any) -> Any:
        now_s[0] += 0.06 if job.scenario == "raw-io" else 5.0
        return job

    monkeypatch.setattr(trial, "run", slow)
    many = tuple(Job("raw-io", "kernel", seed) for seed in range(64))
    assert len(sweep.work(many, calibrated(), known())) == 4
    assert len(sweep.work((Job("two-hogs", "kernel", 0),) * 3, calibrated(), known())) == 1


def test_what_a_task_did_not_get_to_is_done_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BATCH_S", 0.0)
    monkeypatch.setattr(sweep.work, "__defaults__", (0.0,))
    made = Inline()
    todo = jobs(1)
    assert list(swept(team(lambda: made), todo)) != []
    assert len(made.tasks) == len(todo), "one job a task"
    assert max(made.tasks) > 1, "though more were offered"


# Whoever is lost.


def test_a_killed_worker_loses_no_result(alone: dict[Job, Result]) -> None:
    """For real: SIGKILL to a process that is working."""
    found: dict[Job, Result] = {}
    pools: list[Any] = []
    base = sweep.processes(2)

    def make() -> Executor:
        pools.append(base.make())
        return pools[-1]  # type: ignore[no-any-return]

    killed = False
    for results in Sweep(calibrated(), known(), replace(base, make=make)).run(jobs()):
        found.update((journal.job(one), one) for one in results)
        if not killed:
            assert len(found) < len(jobs()), "in the middle"
            os.kill(next(iter(pools[0]._processes)), signal.SIGKILL)
            killed = True
    assert len(pools) == 2, "the pool that broke was replaced"
    assert found == alone


def test_what_is_lost_again_and_again_ends_the_sweep() -> None:
    def fails(number: int) -> None:
        raise BrokenProcessPool("gone")

    made: list[Inline] = []

    def make() -> Executor:
        made.append(Inline(fails))
        return made[-1]

    with pytest.raises(LostError, match=r"4 times a worker was lost that had held-lock, kernel"):
        swept(team(make), jobs(1))
    assert len(made) == 4


def test_results_that_came_before_a_loss_are_kept(alone: dict[Job, Result]) -> None:
    """Of what was under way, what was through is not done again."""
    counted: list[int] = []

    def third_fails(number: int) -> None:
        counted.append(number)
        if len(counted) == 3:
            raise BrokenProcessPool("gone")

    assert swept(team(lambda: Inline(third_fails)), jobs()) == alone


def test_a_pool_whose_workers_never_begin_ends_the_sweep() -> None:
    class Dead(Inline):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            raise BrokenProcessPool(f"no worker for {fn}{args}{kwargs}")

    with pytest.raises(LostError, match="no worker lives long enough"):
        swept(team(Dead), jobs(1))


def test_who_stops_asking_waits_for_nobody() -> None:
    pools: list[Any] = []
    base = sweep.processes(2)

    def make() -> Executor:
        pools.append(base.make())
        return pools[-1]  # type: ignore[no-any-return]

    coming = Sweep(calibrated(), known(), replace(base, make=make)).run(jobs(50))
    next(coming)
    workers = list(pools[0]._processes)
    coming.close()
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = (
        "from memreap.simulate import sweep, scenario, costs\n"
        "from memreap.simulate.trial import Job\n"
        "team = sweep.processes(2); made = team.make()\n"
        "todo = [Job('two-hogs', 'kernel', n) for n in range(10**5)]\n"
        "known = {'two-hogs': scenario.load('two-hogs')}\n"
        "new = sweep.Team(2, lambda: made, team.end)\n"
        "for results in sweep.Sweep(costs.calibrated(), known, new).run(todo):\n"
        "    print(*made._processes, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert workers
    assert gone(workers, 5)


def gone(pids: list[int], within_s: float) -> bool:
    until_s = time.monotonic() + within_s
    left = set(pids)
    while left and time.monotonic() < until_s:
        left = {pid for pid in left if is_there(pid)}
        time.sleep(0.02)
    return not left


def is_there(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# Dask.


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def until(asked: Callable[[], bool], within_s: float, what: str) -> None:
    deadline_s = time.monotonic() + within_s
    while not asked():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


class Cluster:
    """A scheduler and two workers, each a process, on loopback."""

    def __init__(self, directory: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.directory = directory
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", self.address.rpartition(":")[2],
            "--no-dashboard", "--dashboard-address", "127.0.0.1:0",
        )  # fmt: skip
        until(self._answers, 20, "the scheduler does not listen")
        self.workers = [self.worker() for _ in range(2)]

    def worker(self) -> subprocess.Popen[bytes]:
        return self._start(
            "worker", f"tcp://{self.address}", "--nthreads", "1", "--no-nanny", "--no-dashboard",
            "--host", "127.0.0.1", "--memory-limit", "0",
            "--local-directory", str(self.directory),
        )  # fmt: skip

    def _start(self, what: str, *args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *args]
        log = (self.directory / f"{what}.log").open("ab")
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory)

    def _answers(self) -> bool:
        host, _, port = self.address.rpartition(":")
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 0.2):
            return True
        return False

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.end()


def ready(cluster: Cluster, workers: int) -> Team:
    """As soon as so many have come."""
    made: list[Team] = []

    def asked() -> bool:
        try:
            found = executors.team(f"dask://{cluster.address}", None)
        except NoExecutorError:
            return False
        if found.workers == workers:
            made.append(found)
            return True
        found.end(found.make())
        return False

    until(asked, 30, "the workers do not come")
    return made[0]


@needs_dask
def test_dask_gives_the_same_results_and_a_killed_worker_loses_none(
    cluster: Cluster, alone: dict[Job, Result]
) -> None:
    found: dict[Job, Result] = {}
    killed = False
    for results in Sweep(calibrated(), known(), ready(cluster, 2)).run(jobs()):
        found.update((journal.job(one), one) for one in results)
        if not killed:
            assert len(found) < len(jobs()), "in the middle"
            cluster.workers[0].send_signal(signal.SIGKILL)
            killed = True
    assert killed
    assert len(found) == len(jobs())
    assert found == alone


@needs_dask
def test_a_scheduler_that_goes_ends_the_sweep(cluster: Cluster) -> None:
    coming = Sweep(calibrated(), known(), ready(cluster, 2)).run(jobs(200))
    next(coming)
    cluster.end()
    with pytest.raises(LostError, match="gone"):
        deque(coming)


@needs_dask
def test_nobody_at_an_address_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 0.5)
    with pytest.raises(NoExecutorError, match="no Dask scheduler answers at 127"):
        executors.team(f"dask://127.0.0.1:{free_port()}", None)


def test_without_distributed_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(NoExecutorError, match=r"pip install 'memreap\[dask\]'"):
        executors.team("dask://127.0.0.1:8786", None)


@pytest.mark.parametrize("name", ["threads", "dask://", "dask://host", "dask://:1", "dask:h:1"])
def test_what_is_no_executor_is_refused(name: str) -> None:
    with pytest.raises(BadNameError, match="no executor"):
        executors.team(name, None)


# The file.


def written(path: Path, results: list[Result]) -> None:
    one = Journal(str(path), calibrated(), known())
    one.open(resume=True)
    one.add(results)
    one.close()


def reopened(path: Path, **changes: Any) -> dict[Job, Result]:
    given: dict[str, Any] = {"costs": calibrated(), "scenarios": known()} | changes
    one = Journal(str(path), **given)
    one.open(resume=True)
    one.close()
    return one.done


def test_what_is_written_is_there_again(tmp_path: Path, alone: dict[Job, Result]) -> None:
    file = tmp_path / "results.jsonl"
    written(file, list(alone.values())[:5])
    written(file, list(alone.values())[5:])
    assert reopened(file) == alone
    first, *lines = file.read_text().splitlines()
    assert set(json.loads(first)) == {"memreap", "costs", "scenarios"}
    assert len(lines) == len(alone)


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_a_torn_last_line_is_dropped(tmp_path: Path, alone: dict[Job, Result], cut: int) -> None:
    file = tmp_path / "results.jsonl"
    written(file, list(alone.values()))
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    found = reopened(file)
    assert len(found) == len(alone) - 1
    written(file, [one for job, one in alone.items() if job not in found])
    assert file.read_bytes() == whole


def test_a_torn_header_is_none(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    written(file, [])
    file.write_bytes(file.read_bytes()[:-9])
    assert reopened(file) == {}
    assert file.read_bytes().endswith(b"}}\n")


def test_a_file_of_other_settings_is_refused(tmp_path: Path, alone: dict[Job, Result]) -> None:
    file = tmp_path / "results.jsonl"
    written(file, list(alone.values()))
    before = file.read_bytes()
    for changes, why in (
        ({"costs": replace(calibrated(), step_s=1.0)}, "made with other costs"),
        (
            {"scenarios": {**known(), "raw-io": replace(known()["raw-io"], cpus=3)}},
            "its scenario raw-io was another one",
        ),
    ):
        with pytest.raises(JournalError, match=why):
            reopened(file, **changes)
    file.write_bytes(before.replace(b'{"memreap": "', b'{"memreap": "9.', 1))
    with pytest.raises(JournalError, match=r"made by memreap 9\."):
        reopened(file)
    file.write_bytes(before.replace(b'"relief_s": ', b'"relief_s": 1'))
    with pytest.raises(JournalError, match="comes out otherwise today"):
        reopened(file)


def test_costs_in_other_words_are_the_same(tmp_path: Path, alone: dict[Job, Result]) -> None:
    file = tmp_path / "results.jsonl"
    written(file, list(alone.values())[:1])
    assert reopened(file, costs=replace(calibrated(), source="in other words"))


def test_a_new_scenario_goes_on_with_the_file(tmp_path: Path, alone: dict[Job, Result]) -> None:
    file = tmp_path / "results.jsonl"
    written(file, list(alone.values())[:1])
    more = {**known(), "short-peak": scenario.load("short-peak")}
    assert len(reopened(file, scenarios=more)) == 1
    assert len(reopened(file, scenarios={"short-peak": more["short-peak"]})) == 1
    with pytest.raises(JournalError, match="its scenario short-peak was another one"):
        reopened(file, scenarios={"short-peak": replace(more["short-peak"], busy=9)})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("hello\n", "results.jsonl:1: no results of memreap simulate"),
        ("[]\n", "results.jsonl:1: no results of memreap simulate"),
        ("{HEADER}\n{}\n", "results.jsonl:2: no result"),
        ("{HEADER}\nnull\n{}\n", "results.jsonl:2: no result"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "results.jsonl"
    told = text.replace("{HEADER}", json.dumps(journal.header(calibrated(), known())))
    file.write_text(told)
    with pytest.raises(JournalError, match=why):
        reopened(file)
    assert file.read_text() == told, "and left as it is"


def test_results_are_not_written_over(tmp_path: Path, alone: dict[Job, Result]) -> None:
    file = tmp_path / "results.jsonl"
    written(file, list(alone.values())[:1])
    one = Journal(str(file), calibrated(), known())
    with pytest.raises(JournalError, match="is there: --resume goes on with it"):
        one.open(resume=False)
    assert len(reopened(file)) == 1


def test_one_sweep_at_a_time_writes_a_file(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    one = Journal(str(file), calibrated(), known())
    one.open(resume=False)
    with pytest.raises(JournalError, match="another sweep writes it"):
        reopened(file)
    one.close()
    assert reopened(file) == {}
