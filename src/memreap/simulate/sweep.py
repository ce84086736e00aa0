"""Many trials at once, on any ``concurrent.futures.Executor``; the same results whatever it is.

1. A task to a worker is some jobs, of which it does as many as fit in BATCH_S; what it did not get
   to comes back, and is given out again. So a task lasts as long whatever a trial takes.
2. A job is done when its result is here. What a lost worker had is given out again, to a new
   executor where the old one broke; a job whose workers are lost again and again ends the sweep.
3. Whoever stops asking for results ends the sweep: nobody is waited for.
"""

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil
from multiprocessing import connection, parent_process

from memreap.simulate import trial
from memreap.simulate.costs import Costs
from memreap.simulate.scenario import Scenario
from memreap.simulate.trial import Job, Result

BATCH_S = 0.2
JOBS_MAX = 64  # in a task
AHEAD = 2  # tasks for each worker, so that none waits for the next
LOSSES_MAX = 3


class LostError(RuntimeError):
    """Workers, or the executor, were lost for good."""


@dataclass(frozen=True, slots=True)
class Team:
    """Who does the work. ``make``: a new executor; ``end``: at once, whatever it is doing.

    ``gone``: what is raised where there is nobody any more, beside what every executor raises.
    """

    workers: int
    make: Callable[[], Executor]
    end: Callable[[Executor], None]
    gone: tuple[type[Exception], ...] = ()


def processes(workers: int) -> Team:
    """So many processes of this machine."""
    return Team(
        workers, lambda: ProcessPoolExecutor(workers, initializer=_in_worker), _kill, (OSError,)
    )


def _in_worker() -> None:
    """Ctrl-C is the parent's to answer; whom it leaves behind ends as well."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _kill(executor: Executor) -> None:
    for process in list((getattr(executor, "_processes", None) or {}).values()):
        process.kill()
    executor.shutdown(cancel_futures=True)


def work(
    jobs: tuple[Job, ...], costs: Costs, scenarios: Mapping[str, Scenario], batch_s: float = BATCH_S
) -> list[Result]:
    """In a worker: the first of them, and as many more as there is time for."""
    until_s = time.monotonic() + batch_s
    results: list[Result] = []
    for job in jobs:
        if results and time.monotonic() >= until_s:
            break
        results.append(trial.run(job, costs, scenarios[job.scenario]))
    return results


@dataclass(slots=True)
class Sweep:
    """What is to be done, and what is under way."""

    costs: Costs
    scenarios: Mapping[str, Scenario]
    team: Team
    todo: deque[Job] = field(default_factory=deque)
    flying: dict[Future[list[Result]], tuple[Job, ...]] = field(default_factory=dict)
    losses: Counter[Job] = field(default_factory=Counter)
    in_vain: int = 0  # losses since the last result

    def run(self, jobs: Iterable[Job]) -> Generator[list[Result], None, None]:
        """Results as they come. Raises LostError."""
        self.todo.extend(jobs)
        executor = self.team.make()
        try:
            while self.todo or self.flying:
                results: list[Result] = []
                try:
                    self._submit(executor)
                    for future in wait(self.flying, return_when=FIRST_COMPLETED).done:
                        results += self._land(future)
                except BrokenExecutor as error:
                    results += self._after_a_loss(error)
                    self.team.end(executor)
                    executor = self.team.make()
                except self.team.gone as error:
                    raise LostError(f"the workers are gone: {error}") from error
                if results:
                    self.in_vain = 0
                    yield results
        finally:
            self.flying.clear()
            self.team.end(executor)

    def _submit(self, executor: Executor) -> None:
        while self.todo and len(self.flying) < AHEAD * self.team.workers:
            size = min(JOBS_MAX, ceil(len(self.todo) / (AHEAD * self.team.workers)))
            jobs = tuple(self.todo.popleft() for _ in range(size))
            known = {job.scenario: self.scenarios[job.scenario] for job in jobs}
            try:
                with _no_interrupt():
                    future = executor.submit(work, jobs, self.costs, known)
            except BaseException:
                self.todo.extendleft(reversed(jobs))
                raise
            self.flying[future] = jobs

    def _land(self, future: Future[list[Result]]) -> list[Result]:
        """What came back; the rest is to be done again."""
        try:
            results = future.result()
        except CancelledError as error:
            raise LostError("what was given to the workers was cancelled: they are gone") from error
        jobs = self.flying.pop(future)
        self.todo.extendleft(reversed(jobs[len(results) :]))
        return results

    def _after_a_loss(self, error: BrokenExecutor) -> list[Result]:
        """A worker has died, and all that was under way with it; unless it was through."""
        results: list[Result] = []
        for future in list(self.flying):
            if future.done() and not future.cancelled() and future.exception() is None:
                results += self._land(future)
                continue
            jobs = self.flying.pop(future)
            self.losses.update(jobs)
            self.todo.extendleft(reversed(jobs))
        self.in_vain += not results
        worst = max(self.losses.values(), default=0)
        if not worst and self.in_vain > LOSSES_MAX:
            raise LostError(f"no worker lives long enough to begin: {error}") from error
        if worst > LOSSES_MAX:
            job = next(job for job, losses in self.losses.items() if losses == worst)
            raise LostError(
                f"{worst} times a worker was lost that had {job.scenario}, {job.strategy}, seed"
                f" {job.seed}, or one beside it"
            ) from error
        return results


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """A process that is made here has no interrupt before it knows what to do with one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
