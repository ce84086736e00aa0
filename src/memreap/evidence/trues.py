"""/bin/true, many thousand times: the load by which the write lock was measured in 2017.

Only how it is made lives here: a worker for each CPU, each starting one after another as fast as
it can. A worker never outlives whoever made it.
"""

import os
import select
import shutil
import time
from typing import Self

from memreap.linux.worker import Line, Worker

PATH = "/bin:/usr/bin"
TOLD_EVERY = 50


class TruesError(OSError):
    """They cannot be run here, and why; one line for people."""


class Trues:
    """So many of them, done by workers who wait until they are let go."""

    def __init__(self, count: int) -> None:
        """Make the workers, before anything is opened that they should not have. Raises OSError."""
        found = shutil.which("true", path=PATH)
        if found is None:
            raise TruesError(f"no program true in {PATH}")
        self.count, self.done = count, 0
        self.began_s = self.ended_s = 0.0
        self._program = found
        self._workers: list[Worker] = []
        many = min(count, len(os.sched_getaffinity(0)))
        try:
            for number in range(many):
                share = (count + number) // many
                self._workers.append(Worker(lambda line, share=share: self._work(line, share)))  # type: ignore[misc]
        except OSError:
            self.close()
            raise

    def go(self) -> None:
        """Begin."""
        self.began_s = time.monotonic()
        for worker in self._workers:
            worker.tell("go")

    def is_over(self, wait_s: float) -> bool:
        """Whether all are done; waits so long at the most. Raises TruesError if one failed."""
        poll = select.poll()
        working = [worker for worker in self._workers if not worker.ended]
        for worker in working:
            poll.register(worker.fileno(), select.POLLIN)
        poll.poll(wait_s * 1000)
        for worker in working:
            for said, _ in worker.hear():
                if not isinstance(said, int):
                    raise TruesError(f"{self._program} cannot be run: {said}")
                self.done += said
        is_over = all(worker.ended for worker in self._workers)
        if is_over and not self.ended_s:
            self.ended_s = time.monotonic()
        return is_over

    @property
    def seconds(self) -> float:
        """That they took, or have taken so far."""
        return (self.ended_s or time.monotonic()) - self.began_s

    def close(self) -> None:
        """No worker is left."""
        for worker in self._workers:
            worker.give_up()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End them."""
        self.close()

    def _work(self, line: Line, share: int) -> None:
        line.hear()
        told = 0
        for number in range(1, share + 1):
            os.waitpid(os.posix_spawn(self._program, ["true"], {}), 0)
            if number % TOLD_EVERY == 0 or number == share:
                line.say(number - told)
                told = number
