"""Processes that want the CPU: what a victim, and a killer, have to compete with.

Only CPU-bound bystanders live here. They hold no memory to speak of and are never victims.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# One byte says that it runs; by then it also ends with the thread that started it.
_SPIN = """
import ctypes, os
ctypes.CDLL(None).prctl(1, 9)
os.write(1, b"!")
while True: pass
"""


@contextmanager
def neighbours(count: int) -> Iterator[tuple[int, ...]]:
    """Keep ``count`` processes spinning; their pids. They are gone when the block is left."""
    with ExitStack() as stack:
        running = [stack.enter_context(_spinning()) for _ in range(count)]
        for process in running:
            assert process.stdout is not None
            if process.stdout.read(1) != b"!":
                raise RuntimeError("a busy neighbour did not start")
        yield tuple(process.pid for process in running)


@contextmanager
def _spinning() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-S", "-c", _SPIN],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
