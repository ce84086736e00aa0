"""A file of which no read ever returns: a FUSE server that stays silent. See linux/fuse.h.

Only the hung file lives here: its mount and the few answers it gives. It is attached to no folder,
so that nothing is visible to others and nothing can be left behind.

A request that was read and not answered makes whoever waits for it unkillable. The way out is
the kernel's own: when the last descriptor of /dev/fuse is closed, by whatever end of its holder,
the connection is aborted and all who wait for it are let go. So exactly one process may hold it.
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct

from memreap.linux.mounting import mount_detached

FILE_SIZE_BYTES = 1 << 20

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000  # linux/sched.h

LOOKUP, FORGET, GETATTR, OPEN, READ, INIT, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 15, 26, 36, 42
ASYNC_DIO = 1 << 15  # without it io_submit(2) itself waits for the answer
FOPEN_DIRECT_IO = 1
NO_ANSWER_EXPECTED = {FORGET, INTERRUPT, BATCH_FORGET}
ROOT, FILE = 1, 2  # node ids: the folder, and the one file in it, whatever name is asked for
VALID_S = 86400

MAX_WRITE_BYTES = 4096
REQUEST_MAX_BYTES = 1 << 17  # the kernel refuses to hand requests to a reader with less room

_IN = struct.Struct("=IIQQIIIHH")  # len opcode unique nodeid uid gid pid extlen pad
_OUT = struct.Struct("=IiQ")  # len error unique
_INIT_OUT = struct.Struct("=4I2H2I2H2IH22x")  # major minor readahead flags ... max_write ...
_ATTR = struct.Struct("=6Q10I")  # ino size blocks times nanoseconds mode nlink uid gid ...
_ATTR_OUT = struct.Struct("=QII")  # valid_s valid_ns pad, then attr
_ENTRY_OUT = struct.Struct("=4Q2I")  # nodeid generation entry_s attr_s entry_ns attr_ns, attr
_OPEN_OUT = struct.Struct("=QII")  # fh flags pad


class HungFile:
    """The mount with the file, and its server.

    ``device`` belongs to the server alone; ``folder`` and ``reads`` (an eventfd that counts the
    reads which now hang) to the victim.
    """

    def __init__(self) -> None:
        """Mount it. OSError, with what was tried in its ``filename``, where that is refused."""
        try:
            self.device, self.folder = _mount()
        except PermissionError:
            # May be all that is missing is a user namespace in which we may mount.
            _enter_user_namespace()
            self.device, self.folder = _mount()
        self.reads = os.eventfd(0)

    def open(self, flags: int) -> int:
        """Open the file; with O_DIRECT, the server makes it bypass the page cache altogether."""
        return os.open("hung", flags | os.O_CLOEXEC, dir_fd=self.folder)

    def wait_for_read(self) -> None:
        """Return as soon as a read has reached the server: from then on it cannot be undone."""
        os.eventfd_read(self.reads)

    def release(self) -> None:
        """Close the server's end and abort the connection, if no one else holds the device."""
        if self.device >= 0:
            os.close(self.device)
            self.device = -1

    def serve(self) -> bool:
        """Take one request and answer it, if it is not a read; False once none will come."""
        if self.device < 0:
            return False
        try:
            request = os.read(self.device, REQUEST_MAX_BYTES)
        except OSError as error:
            # The one who asked may be killed before we read what he asked: nothing to do then.
            # ENODEV: no one has the mount any more.
            return error.errno in (errno.EAGAIN, errno.ENOENT)
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode == READ:
            os.eventfd_write(self.reads, 1)
        elif opcode not in NO_ANSWER_EXPECTED:
            code, body = _answer(opcode, node, request[_IN.size :])
            head = _OUT.pack(_OUT.size + len(body), -code, unique)
            with contextlib.suppress(FileNotFoundError):  # the one who asked is gone
                os.write(self.device, head + body)
        return True


def _answer(opcode: int, node: int, argument: bytes) -> tuple[int, bytes]:
    """(errno, what follows the header) for a request that does get an answer."""
    if opcode == INIT:
        (major,) = struct.unpack_from("=I", argument)
        return 0, _INIT_OUT.pack(major, 31, 0, ASYNC_DIO, 0, 0, MAX_WRITE_BYTES, 1, 0, 0, 0, 0, 0)
    if opcode == LOOKUP:
        return 0, _ENTRY_OUT.pack(FILE, 0, VALID_S, VALID_S, 0, 0) + _attributes(FILE)
    if opcode == GETATTR:
        return 0, _ATTR_OUT.pack(VALID_S, 0, 0) + _attributes(node)
    if opcode == OPEN:
        (flags,) = struct.unpack_from("=I", argument)
        return 0, _OPEN_OUT.pack(0, FOPEN_DIRECT_IO if flags & os.O_DIRECT else 0, 0)
    return errno.ENOSYS, b""


def _attributes(node: int) -> bytes:
    mode = stat.S_IFDIR | 0o700 if node == ROOT else stat.S_IFREG | 0o600
    size = 0 if node == ROOT else FILE_SIZE_BYTES
    times, owner = (0,) * 6, (os.getuid(), os.getgid())
    return _ATTR.pack(node, size, size // 512, *times, mode, 1, *owner, 0, 4096, 0)


def _mount() -> tuple[int, int]:
    """(/dev/fuse, the root folder of a mount that it serves)."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    settings = {
        "fd": str(device),
        "rootmode": f"{stat.S_IFDIR:o}",
        "user_id": str(os.getuid()),
        "group_id": str(os.getgid()),
    }
    try:
        return device, mount_detached("fuse", settings)
    except OSError as error:
        os.close(device)
        error.filename = "a FUSE mount"
        raise


def _enter_user_namespace() -> None:
    """Become one who may mount: in namespaces of our own, as the user we are."""
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "a FUSE mount without root or a user namespace")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
