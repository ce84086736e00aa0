"""Who sent a signal. See signalfd(2), struct signalfd_siginfo, sigaction(2) on si_code.

Only the reading of a signalfd lives here.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from signal import Signals

SIGINFO_BYTES = 128
SI_KERNEL = 0x80
_HEAD = struct.Struct("=IiiI")  # ssi_signo, ssi_errno, ssi_code, ssi_pid


@dataclass(frozen=True, slots=True)
class Siginfo:
    """One signal, and where it came from."""

    signal: Signals
    code: int
    sender: int

    @property
    def from_kernel(self) -> bool:
        """The kernel's own: from the terminal, it went to the whole foreground group."""
        return self.code == SI_KERNEL


def read(fd: int) -> Iterator[Siginfo]:
    """Every signal that waits on a signalfd now."""
    while True:
        try:
            raw = os.read(fd, SIGINFO_BYTES * 16)
        except BlockingIOError:
            return
        for at in range(0, len(raw), SIGINFO_BYTES):
            signo, _, code, sender = _HEAD.unpack_from(raw, at)
            yield Siginfo(Signals(signo), code, sender)
