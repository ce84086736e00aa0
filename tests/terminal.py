"""What a person would see: a command run on a terminal of its own."""

import os
import pty
import select
import time
from collections.abc import Sequence

TIMEOUT_S = 30.0


def seen(command: Sequence[str], columns: int = 140) -> bytes:
    """Everything that it writes until it ends."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns))
        os.execv(command[0], list(command))
    written, until_s = b"", time.monotonic() + TIMEOUT_S
    try:
        while time.monotonic() < until_s:
            if not select.select([terminal], [], [], 1.0)[0]:
                continue
            try:
                got = os.read(terminal, 65536)
            except OSError:  # EIO: nobody has it open any more
                break
            if not got:
                break
            written += got
    finally:
        os.close(terminal)  # one that is still there gets SIGHUP
        os.waitpid(child, 0)
    return written
