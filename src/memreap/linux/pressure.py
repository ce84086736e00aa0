"""Pressure stall information: time lost to waiting. See Documentation/accounting/psi.rst.

Only the counters of one pressure file and the kernel's alarm on it live here; the file is
/proc/pressure/memory or a cgroup's memory.pressure.
"""

import errno
import os
from typing import NamedTuple

BYTES_MAX = 512
# What the kernel lets an unprivileged trigger have: multiples of its own averaging period.
UNPRIVILEGED_WINDOW_US = 2_000_000
WINDOW_MAX_US = 10_000_000


class Stall(NamedTuple):
    """How long some task waited, or all that wanted to run did (``full``)."""

    some_total_us: int
    full_total_us: int
    full_avg10: float
    some_avg10: float


def parse(raw: bytes) -> Stall:
    """Parse a pressure file; before 5.13 cpu has no ``full`` line: 0."""
    field = raw.split()
    if len(field) < 10:
        return Stall(int(field[4][6:]), 0, 0.0, float(field[1][6:]))
    return Stall(
        some_total_us=int(field[4][6:]),
        full_total_us=int(field[9][6:]),
        full_avg10=float(field[6][6:]),
        some_avg10=float(field[1][6:]),
    )


class Pressure:
    """One pressure file, on a kept descriptor."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open it, and read it once: with psi=0 the file may be there and say EOPNOTSUPP.

        Raises OSError where there is no PSI, or no such cgroup.
        """
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.read()
        except (OSError, IndexError, ValueError) as error:
            self.close()
            if isinstance(error, OSError):
                raise
            raise OSError(errno.ENOTSUP, f"no pressure figures in {os.fspath(path)}") from None

    def read(self) -> Stall:
        """The counters now. Raises OSError (ENODEV) once the cgroup is gone."""
        return parse(os.pread(self._fd, BYTES_MAX, 0))

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Trigger:
    """An alarm of the kernel's: poll it for POLLPRI; POLLERR says that the cgroup has gone.

    It rings at most once a window. ``means`` says what was got: a window that is no multiple of
    2 s needs CAP_SYS_RESOURCE; without it a trigger is checked only when the averages are renewed,
    every 2 s, and so rings up to 2 s late. It may ring later still where someone reads the same
    file often: a read renews the averages too, and checks no trigger. psi_show()
    """

    def __init__(
        self, path: str | os.PathLike[str], kind: str, stall_us: int, window_us: int
    ) -> None:
        """Arm it: ``kind`` ("some" or "full") stalls of ``stall_us`` within ``window_us``.

        Raises OSError where there is no PSI, or the kernel permits no trigger at all.
        """
        if kind not in ("some", "full"):
            raise ValueError(f"no such kind of stall: {kind}")
        if window_us <= 0:
            raise ValueError(f"no window: {window_us} us")
        self.stall_us, self.window_us = stall_us, window_us
        try:
            self._fd = _arm(path, kind, stall_us, window_us)
            self.means = f"{kind} {stall_us / 1000:g} ms in {window_us / 1000:g} ms"
        except OSError as error:
            multiple_us = _multiple(window_us)
            if error.errno not in (errno.EINVAL, errno.EPERM) or multiple_us == window_us:
                raise
            self.stall_us = max(1, stall_us * multiple_us // window_us)
            self.window_us = multiple_us
            self._fd = _arm(path, kind, self.stall_us, self.window_us)
            self.means = (
                f"{kind} {self.stall_us / 1000:g} ms in {self.window_us / 1000:g} ms, checked "
                f"every 2 s: no CAP_SYS_RESOURCE for {stall_us / 1000:g} ms in "
                f"{window_us / 1000:g} ms"
            )

    def fileno(self) -> int:
        """What to poll for POLLPRI."""
        return self._fd

    def close(self) -> None:
        """Disarm it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _multiple(window_us: int) -> int:
    """The least window that everyone may have and that is as long, or the longest there is."""
    periods = -(-max(window_us, 1) // UNPRIVILEGED_WINDOW_US)
    return min(periods * UNPRIVILEGED_WINDOW_US, WINDOW_MAX_US)


def _arm(path: str | os.PathLike[str], kind: str, stall_us: int, window_us: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        # The kernel wants the string's zero as well.
        os.write(fd, f"{kind} {stall_us} {window_us}\0".encode())
    except BaseException:
        os.close(fd)
        raise
    return fd
