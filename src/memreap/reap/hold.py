"""Keeping a dying victim's mm in place until the reap has begun.

A victim drops its mm (exit_mm) some microseconds after SIGKILL reaches it. If process_mrelease
comes later, it finds nothing to reap (ESRCH), and should the victim then hang in its exit
(exit_aio waits for I/O that never completes), its memory is lost until reboot. A hold is a ptrace
exit stop, which comes before exit_mm: one held thread keeps the mm of the whole process. It is let
go as soon as the reap is under way, so that the victim's exit and the reap work from both ends.

``auto`` holds when the race is likely to be lost or losing it would be final, judged by what can
be known before the kill without a read that could hang:
- an AIO context exists on the machine (/proc/sys/fs/aio-nr above 0): the exit may wait in exit_aio;
- a thread of the victim is in state D: it hangs already;
- the victim is one thread, asleep: woken by SIGKILL, it runs to exit_mm without a stop, and an
  interrupt on our side is enough to lose (one in some hundred kills on a virtual machine);
- several victims are killed at once: the last ones would be gone before their reap;
- SCHED_FIFO is not permitted: somebody may run between the kill and the reap.
"""

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from typing import Literal

from memreap.linux import ptrace, scheduling
from memreap.reap.facts import Facts

Mode = Literal["auto", "always", "never"]
HANGS = "a thread in state D"
MAY_HANG = "AIO contexts on this machine"
SEIZE_WAIT_S = 0.02  # a victim that hangs in execve holds what PTRACE_SEIZE waits for
BEGUN_WAIT_S = 0.005  # how long to wait for all reapers to have called process_mrelease
# From the call to the mm in hand: some 2 us. Until a refusal (EINVAL) is heard of: up to 0.3 ms.
UNDER_WAY_S = 0.0006
BUSY_WAIT_S = 0.05  # how long the reaper may look for sharers while the mm is held


def wanted(mode: Mode, facts: Facts, *, several: bool, realtime: bool, aio_nr: int) -> str | None:
    """Why this victim should be held; None where it should not."""
    if mode != "auto":
        return "asked for" if mode == "always" else None
    reasons = (
        ("D" in facts.thread_states, HANGS),
        (aio_nr > 0, MAY_HANG),
        (several, "several victims"),
        (not realtime, "SCHED_FIFO is not permitted"),
        (facts.thread_states in ("S", "I"), "one thread, asleep"),
    )
    return next((reason for holds, reason in reasons if holds), None)


class Hold(threading.Thread):
    """The thread that traces: it seizes, waits for the exit stop and lets go."""

    def __init__(
        self, tid: int, is_its_own: Callable[[], bool], begun: threading.Semaphore, hands: int
    ) -> None:
        """``begun``: released once by each of ``hands`` reapers right before its call.

        ``is_its_own``: whether the thread still is the victim's, asked once it is seized.
        """
        super().__init__(daemon=True)
        self._tid, self._is_its_own = tid, is_its_own
        self._begun, self._hands = begun, hands
        self.busy = False  # whether the reaper needs the mm in place for a while
        self._seized = threading.Event()
        self.error: str | None = None  # why there is no hold
        self.stopped = False  # whether the exit stop was seen

    def seize(self) -> bool:
        """Start, and wait until the victim is traced; False, and ``error``, where it cannot be."""
        try:
            self.start()
        except RuntimeError as error:  # no thread left
            self.error = str(error)
            return False
        if not self._seized.wait(SEIZE_WAIT_S):
            self.error = "not within the time"  # it may yet be: that does no harm
        return self.error is None

    def run(self) -> None:
        """Hold one task; see the module's first lines."""
        with contextlib.suppress(OSError):
            scheduling.hurry(0, scheduling.REAPER_PRIORITY)
        try:
            ptrace.seize_exit(self._tid)
            if not self._is_its_own():  # the end of this thread lets go of whoever it is
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        except OSError as error:
            self.error = error.strerror
            return
        finally:
            self._seized.set()
        with contextlib.suppress(OSError):
            self.stopped = ptrace.wait_exit_stop(self._tid)
            for _ in range(self._hands):
                self._begun.acquire(timeout=BEGUN_WAIT_S)
            time.sleep(UNDER_WAY_S)
            deadline_s = time.monotonic() + BUSY_WAIT_S
            while self.busy and time.monotonic() < deadline_s:
                time.sleep(UNDER_WAY_S)
            ptrace.let_go(self._tid)
