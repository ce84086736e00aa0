"""journald's native protocol. See systemd.io/JOURNAL_NATIVE_PROTOCOL, systemd.journal-fields(7).

Only the sending of one entry lives here.
"""

import contextlib
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
TIMEOUT_S = 1.0  # a journal that takes nothing for so long is not waited for

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_LENGTH = struct.Struct("<Q")
_MFD_NOEXEC_SEAL = 0x0008  # linux/memfd.h; from 6.3 on
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def encode(fields: Mapping[str, str]) -> bytes:
    """One entry; values with newlines in the binary form. Raises ValueError for a field's name."""
    parts: list[bytes] = []
    for name, value in fields.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a journal field: {name!r}")
        raw = os.fsencode(value)
        if b"\n" in raw:
            parts.append(name.encode() + b"\n" + _LENGTH.pack(len(raw)) + raw + b"\n")
        else:
            parts.append(name.encode() + b"=" + raw + b"\n")
    return b"".join(parts)


def send(fields: Mapping[str, str], path: str = SOCKET) -> bool:
    """Write one entry; False where no journal takes it. May wait for ``TIMEOUT_S``.

    Raises ValueError for a field's name that journald would drop.
    """
    raw = encode(fields)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.settimeout(TIMEOUT_S)
        try:
            end.sendto(raw, path)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                return False
        else:
            return True
        with contextlib.suppress(OSError):
            _send_memfd(end, raw, path)
            return True
    return False


def _send_memfd(end: socket.socket, raw: bytes, path: str) -> None:
    """Too large for a datagram: in a file without a name, that nobody can change any more."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("journal-entry", flags | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create("journal-entry", flags)
    try:
        left = memoryview(raw)
        while left:
            left = left[os.write(fd, left) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", fd))]
        end.sendmsg([b""], rights, 0, path)
    finally:
        os.close(fd)
