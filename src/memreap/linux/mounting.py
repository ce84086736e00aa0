"""A file system that is mounted and attached nowhere: only its holder's descriptor leads to it.

It is gone with the last descriptor, by whatever end of its holder, so nothing can be left behind,
and nobody else sees it. See fsopen(2), fsmount(2), linux/mount.h.
"""

import ctypes
import os
from collections.abc import Mapping

from memreap.linux import syscalls

NR_FSOPEN, NR_FSCONFIG, NR_FSMOUNT = 430, 431, 432  # the same everywhere, like all from 424 on
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 1, 6
MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 2, 4, 8


def mount_detached(kind: str, settings: Mapping[str, str] | None = None) -> int:
    """A descriptor of its root folder. Raises OSError."""
    context = syscalls.syscall(
        NR_FSOPEN, ctypes.c_char_p(kind.encode()), ctypes.c_uint(FSOPEN_CLOEXEC)
    )
    try:
        for key, value in (settings or {}).items():
            _configure(context, FSCONFIG_SET_STRING, key.encode(), value.encode())
        _configure(context, FSCONFIG_CMD_CREATE, None, None)
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC
        cloexec = ctypes.c_uint(FSMOUNT_CLOEXEC)
        return syscalls.syscall(
            NR_FSMOUNT, ctypes.c_int(context), cloexec, ctypes.c_uint(attributes)
        )
    finally:
        os.close(context)


def _configure(context: int, command: int, key: bytes | None, value: bytes | None) -> None:
    fd, what, aux = ctypes.c_int(context), ctypes.c_uint(command), ctypes.c_int(0)
    syscalls.syscall(NR_FSCONFIG, fd, what, ctypes.c_char_p(key), ctypes.c_char_p(value), aux)
