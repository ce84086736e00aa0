"""When SIGKILL was really sent, by whoever sent it: the signal_generate tracepoint.

An instance of its own in tracefs, on CLOCK_MONOTONIC, removed at the end. See
Documentation/trace/ftrace.rst.
"""

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
_EVENT = re.compile(r"(\d+\.\d+): signal_generate: sig=9 .* comm=(.*) pid=(\d+) grp=1")


class Tracer:
    """SIGKILLs sent to processes, in order."""

    def __init__(self, instance: Path) -> None:
        """``instance``: made and enabled."""
        self._instance = instance

    def kills(self) -> list[tuple[float, int]]:
        """(CLOCK_MONOTONIC, s; pid in the first namespace) of every SIGKILL so far."""
        trace = (self._instance / "trace").read_text(errors="replace")
        return [(float(m[1]), int(m[3])) for m in _EVENT.finditer(trace)]

    def clear(self) -> None:
        """Forget what was seen."""
        (self._instance / "trace").write_text("")


@contextlib.contextmanager
def tracer() -> Iterator[Tracer]:
    """Trace SIGKILLs for a while. Raises OSError without tracefs or the right to use it."""
    with _tracefs() as root:
        instance = root / "instances" / f"memreap-bench-{os.getpid()}"
        instance.mkdir()
        try:
            (instance / "trace_clock").write_text("mono")
            event = instance / "events" / "signal" / "signal_generate"
            (event / "filter").write_text("sig == 9")
            (event / "enable").write_text("1")
            yield Tracer(instance)
        finally:
            instance.rmdir()


@contextlib.contextmanager
def _tracefs() -> Iterator[Path]:
    """Where tracefs is mounted; for a while, where it was not."""
    if (TRACEFS / "instances").exists():
        yield TRACEFS
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tracefs", "tracefs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
