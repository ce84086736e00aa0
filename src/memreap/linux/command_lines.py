"""The command lines of many processes. Reading one waits for its mmap_lock, for ever if need be.

So a worker reads them, one after another, and whoever makes it hang is passed over.
"""

from functools import partial
from typing import cast

from memreap.linux.procfs import Procfs
from memreap.linux.worker import Line, Worker

TIMEOUT_S = 0.5  # of one process


def command_lines(pids: list[int], procfs: Procfs) -> dict[int, str]:
    """By pid; empty for one that is gone, missing for one that hangs or may not be read.

    Raises OSError where no worker can be made.
    """
    lines: dict[int, str] = {}
    todo = list(pids)
    while todo:
        worker = Worker(partial(_say, pids=todo, procfs=procfs))
        for message, _ in worker.hear_within(TIMEOUT_S):
            pid, text = cast("tuple[int, str]", message)
            lines[pid] = text
        finished = worker.ended
        worker.give_up()
        if finished:
            break
        # Whoever comes first among those that were not said made it hang.
        todo = [pid for pid in todo if pid not in lines][1:]
    return lines


def _say(line: Line, pids: list[int], procfs: Procfs) -> None:
    for pid in pids:
        try:
            line.say((pid, procfs.cmdline(pid)))
        except (FileNotFoundError, ProcessLookupError):
            line.say((pid, ""))
        except PermissionError:
            continue
