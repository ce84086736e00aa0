"""Who is to die: a process that is there, a command that is started for it, or a staged victim.

Only the victim's coming lives here. What was started is waited for until its memory stands still,
and is gone at the end, whatever happens.
"""

import contextlib
import subprocess
import time
from collections.abc import Iterator, Sequence

from memreap.evidence.killing import RefusedError
from memreap.linux.procfs import PAGE_SIZE_BYTES, Procfs
from memreap.linux.rss import Statm

STEADY_S = 0.5
STEADY_BYTES = 1 << 20
GROWS_MAX_S = 30.0
LOOK_S = 0.05


@contextlib.contextmanager
def started(command: Sequence[str], after_s: float | None) -> Iterator[int]:
    """Its pid, once it is time to kill it: ``after_s``, or when its memory has stood still.

    Raises RefusedError where it cannot be started, or ends before.
    """
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    except OSError as error:
        raise RefusedError(f"{command[0]}: {error.strerror}") from error
    try:
        if after_s is None:
            _stands_still(child)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(after_s)
        if child.poll() is not None:
            raise RefusedError(f"{command[0]} ended before it could be killed: {child.returncode}")
        yield child.pid
    finally:
        child.kill()  # nothing, where it has ended
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may hang: that is what we show
            child.wait(1.0)


def _stands_still(child: subprocess.Popen[bytes]) -> None:
    statm = Statm(child.pid, Procfs(), keep=False)
    begin_s = steady_s = time.monotonic()
    most = 0
    while child.poll() is None:
        now_s, held = time.monotonic(), statm.read()[1] * PAGE_SIZE_BYTES
        if held > most + STEADY_BYTES:
            most, steady_s = held, now_s
        if now_s - steady_s > STEADY_S or now_s - begin_s > GROWS_MAX_S:
            return
        time.sleep(LOOK_S)
