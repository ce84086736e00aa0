"""``memreap trace exits``: what was asked on the command line, and what is printed.

Only the order of things lives here: ``exiting`` reads, ``exits`` counts, ``exits_board`` shows.
"""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass

from memreap.evidence import exits_board
from memreap.evidence.exiting import buffer_bytes, watch
from memreap.evidence.exits import Exits
from memreap.evidence.occasions import (
    Command,
    CommandError,
    Interrupted,
    Occasion,
    Span,
    interruptible,
)
from memreap.evidence.trues import Trues, TruesError
from memreap.linux.tracing import Instance, TracingError, tracefs
from memreap.printing import Paper, progress

EXIT_OK, EXIT_USAGE, EXIT_NOT_HERE, EXIT_INTERRUPTED = 0, 2, 3, 130


@dataclass(frozen=True, slots=True)
class ExitsOptions:
    """The command line. Nothing of the first three: until Ctrl-C."""

    command: tuple[str, ...] = ()
    seconds: float | None = None
    true: int | None = None
    json: bool = False


def exits(options: ExitsOptions, paper: Paper) -> int:
    """Do it; the exit code: a command's own, where there is one."""
    if bool(options.command) + (options.seconds is not None) + (options.true is not None) > 1:
        paper.err("one of COMMAND, --seconds and --true says how long to trace")
        return EXIT_USAGE
    try:
        with interruptible() as interrupted:
            return paper.finish(_trace(options, interrupted, paper))
    except CommandError as error:
        paper.err(str(error))
        return error.code
    except (TracingError, TruesError) as error:
        paper.err(str(error))
        return EXIT_NOT_HERE


def _trace(options: ExitsOptions, interrupted: Interrupted, paper: Paper) -> int:
    if options.true is not None:
        with Trues(options.true) as trues, progress("/bin/true", options.true) as advance:
            seen = _see(_Shown(trues, advance, interrupted))
        _tell(seen, options, paper)
        return EXIT_OK if trues.done == trues.count else EXIT_INTERRUPTED
    if options.command:
        with Command(options.command, quiet_stdout=options.json) as command:
            seen = _see(command)
            _tell(seen, options, paper)
            return command.code
    _tell(_see(Span(options.seconds, interrupted)), options, paper)
    return EXIT_OK


class _Shown:
    """Many times /bin/true, with a bar, until Ctrl-C at the latest."""

    def __init__(
        self, trues: Trues, advance: Callable[[int], object], interrupted: Interrupted
    ) -> None:
        self._trues, self._advance, self._interrupted = trues, advance, interrupted

    def go(self) -> None:
        """They begin."""
        self._trues.go()

    def is_over(self, wait_s: float) -> bool:
        """Whether all are done, or it is enough."""
        before = self._trues.done
        is_done = self._trues.is_over(wait_s)
        self._advance(self._trues.done - before)
        return is_done or self._interrupted.is_so


@dataclass(frozen=True, slots=True)
class _Seen:
    found: Exits
    lost: int
    seconds: float


def _see(occasion: Occasion) -> _Seen:
    """Trace while it goes on. Raises TracingError."""
    size_bytes = buffer_bytes(os.cpu_count() or 1)
    with tracefs() as root, Instance(root, buffer_bytes=size_bytes) as instance:
        began_s = time.monotonic()
        found = watch(instance, occasion)
        return _Seen(found, instance.lost, time.monotonic() - began_s)


def _tell(seen: _Seen, options: ExitsOptions, paper: Paper) -> None:
    kernel, found = platform.release(), seen.found
    if options.json:
        head = {"kernel": kernel, "seconds": round(seen.seconds, 3), "lost": seen.lost}
        paper.dump(head | found.as_dict())
        return
    rate = found.count / seen.seconds
    facts = f"in {seen.seconds:.3g} s ({rate:,.0f} a second), Linux {kernel}"
    exits_board.show(found, facts, seen.lost, paper)
