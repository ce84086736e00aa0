"""A unit's sandbox without its manager: what can be had of it by system calls alone.

Only what systemd would do between fork and exec lives here: see systemd.exec(5). Lists of system
calls come from systemd itself, the filter from the library with which it makes its own.
"""

import ctypes
import errno
import os
import re
import resource
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from memreap.linux import capabilities

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
NAMESPACES = 0x7E020080  # CLONE_NEW*, but the time namespace, which clone() cannot make
MS_SLAVE, MS_REC, MS_BIND = 1 << 19, 1 << 14, 1 << 12
NR_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, RDONLY = 442, -100, 0x8000, 1
PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
AF_MAX = 46
ALLOW, NE, MASKED_EQ = 0x7FFF0000, 1, 7
UNKNOWN = -1  # __NR_SCMP_ERROR

_libc = ctypes.CDLL(None, use_errno=True)


class Compare(ctypes.Structure):
    """struct scmp_arg_cmp of libseccomp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def refuse(code: int) -> int:
    """SCMP_ACT_ERRNO."""
    return 0x00050000 | code


@cache
def library() -> ctypes.CDLL | None:
    """libseccomp, None where it is not installed."""
    try:
        made = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError:
        return None
    made.seccomp_init.restype = ctypes.c_void_p
    return made


class Filter:
    """One seccomp filter in the making. Several that are loaded hold together."""

    def __init__(self, default: int) -> None:
        """``default``: for calls without a rule."""
        found = library()
        assert found is not None, "ask library() first"
        self._lib = found
        self._context = ctypes.c_void_p(found.seccomp_init(ctypes.c_uint32(default)))

    def rule(self, action: int, name: str, *compares: Compare) -> None:
        """For one system call; one that this library does not know is passed over."""
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN:
            return
        array = (Compare * max(1, len(compares)))(*compares)
        code = self._lib.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(compares), array
        )
        if code:
            raise OSError(-code, f"{name}: {os.strerror(-code)}")

    def load(self) -> None:
        """From here on it holds, for what is executed as well."""
        if code := self._lib.seccomp_load(self._context):
            raise OSError(-code, os.strerror(-code))


def values(unit: Path, key: str, *drop_ins: Path) -> list[str]:
    """Every value that a unit, then its drop-ins give a key."""
    found = []
    for file in (unit, *drop_ins):
        found += re.findall(rf"^{key}=(.*)$", file.read_text(), re.MULTILINE)
    return found


@cache
def members(group: str) -> frozenset[str]:
    """What an @group of system calls stands for, by systemd's own word."""
    if not group.startswith("@"):
        return frozenset([group])
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", group],
        capture_output=True,
        text=True,
        check=True,
    )
    words = [line.strip() for line in done.stdout.splitlines() if line.startswith("    ")]
    inner = [word for word in words if not word.startswith("#") and word != group]
    return frozenset().union(*map(members, inner))


def allowed(filters: list[str]) -> frozenset[str]:
    """SystemCallFilter=, line by line: the first one says what list it is."""
    names: frozenset[str] = frozenset()
    for line in filters:
        listed: frozenset[str] = frozenset().union(*map(members, line.lstrip("~").split()))
        names = names - listed if line.startswith("~") else names | listed
    # What each process of systemd may call in any case.
    return names | members("@default")


@dataclass
class Sandbox:
    """What a unit says of it, made ready to be entered after a fork."""

    unit: Path
    drop_ins: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()  # what StateDirectory= and RuntimeDirectory= would be
    without: frozenset[str] = frozenset()  # capabilities to go without, to see what breaks

    def __post_init__(self) -> None:
        """Everything that takes a program or a file is looked up now."""
        self._calls = allowed(self._values("SystemCallFilter"))
        words = " ".join(self._values("CapabilityBoundingSet")).lower().split()
        self.capabilities = frozenset(words) - self.without
        self._settle_memlock()
        self._families = {
            getattr(socket, name)
            for name in " ".join(self._values("RestrictAddressFamilies")).split()
        }
        self._umask = int(self._last("UMask"), 8)

    def _settle_memlock(self) -> None:
        """LimitMEMLOCK=infinity; who may not raise it gets the capability that does the same."""
        self._memlock = self._last("LimitMEMLOCK") == "infinity"
        _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if self._memlock and hard != resource.RLIM_INFINITY:
            self._memlock = "cap_sys_resource" in capabilities.effective()
            self.capabilities |= set() if self._memlock else {"cap_ipc_lock"}

    def _values(self, key: str) -> list[str]:
        return values(self.unit, key, *self.drop_ins)

    def _last(self, key: str) -> str:
        return (self._values(key) or [""])[-1]

    def enter(self) -> None:
        """In a child, before exec, in the order in which systemd does it."""
        os.umask(self._umask)
        if self._memlock:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)
        if self._last("PrivateNetwork") == "yes":
            _check(_libc.unshare(CLONE_NEWNET))
        if self._last("ProtectSystem") == "strict":
            self._mount()
        capabilities.drop_all_but(self.capabilities)  # and NoNewPrivileges=
        self._filter()

    def _mount(self) -> None:
        """ProtectSystem=strict, ProtectKernelTunables=, ProtectHome=."""
        _check(_libc.unshare(CLONE_NEWNS))
        _check(_libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None))
        for path in self.writable:
            raw = os.fsencode(path)
            _check(_libc.mount(raw, raw, None, MS_BIND | MS_REC, None))
        _remount("/", read_only=True)
        for place in ("/proc", "/dev", "/sys/fs/cgroup", *map(str, self.writable)):
            _remount(place, read_only=False)
        if self._last("ProtectHome") == "yes":
            for home in ("/home", "/root", "/run/user"):
                # The interpreter that runs these tests may live there.
                if Path(home).is_dir() and not os.path.realpath(sys.executable).startswith(home):
                    where = home.encode()
                    _check(_libc.mount(b"tmpfs", where, b"tmpfs", RDONLY, b"mode=000"))

    def _filter(self) -> None:
        known = Filter(refuse(errno.EPERM))
        for name in self._calls:
            known.rule(ALLOW, name)
        rest = Filter(ALLOW)
        _restrict_families(rest, self._families)
        if self._last("MemoryDenyWriteExecute") == "yes":
            both = PROT_WRITE | PROT_EXEC
            rest.rule(refuse(errno.EPERM), "mmap", Compare(2, MASKED_EQ, both, both))
            for name in ("mprotect", "pkey_mprotect"):
                compare = Compare(2, MASKED_EQ, PROT_EXEC, PROT_EXEC)
                rest.rule(refuse(errno.EPERM), name, compare)
            compare = Compare(2, MASKED_EQ, SHM_EXEC, SHM_EXEC)
            rest.rule(refuse(errno.EPERM), "shmat", compare)
        if self._last("RestrictNamespaces") == "yes":
            rest.rule(refuse(errno.ENOSYS), "clone3")
            rest.rule(refuse(errno.EPERM), "setns")
            for bit in (1 << n for n in range(32) if NAMESPACES >> n & 1):
                for name in ("unshare", "clone"):
                    rest.rule(refuse(errno.EPERM), name, Compare(0, MASKED_EQ, bit, bit))
        if self._last("LockPersonality") == "yes":
            rest.rule(refuse(errno.EPERM), "personality", Compare(0, NE, 0xFFFFFFFF))
        rest.load()
        known.load()


def _restrict_families(rest: Filter, families: set[int]) -> None:
    for family in set(range(AF_MAX)) - families:
        compare = Compare(0, MASKED_EQ, 0xFFFFFFFF, family)
        rest.rule(refuse(errno.EAFNOSUPPORT), "socket", compare)


def _remount(path: str, *, read_only: bool) -> None:
    """A mount and all below it. mount_setattr(2)"""
    attributes = (ctypes.c_uint64 * 4)(RDONLY * read_only, RDONLY * (not read_only), 0, 0)
    size = ctypes.sizeof(attributes)
    arguments = (AT_FDCWD, os.fsencode(path), AT_RECURSIVE, ctypes.byref(attributes), size)
    _check(_libc.syscall(NR_MOUNT_SETATTR, *arguments))


def _check(code: int) -> None:
    if code == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def lacking() -> str:
    """Why no sandbox can be made here; empty where it can."""
    if os.geteuid() != 0:
        return "needs root"
    if library() is None:
        return "no libseccomp"
    try:
        members("@default")
    except (OSError, subprocess.CalledProcessError):
        return "no systemd-analyze"
    pid = os.fork()
    if pid == 0:
        try:
            _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET))
            _check(_libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None))
        except OSError:
            os._exit(1)
        os._exit(0)
    return "no namespaces" if os.waitpid(pid, 0)[1] else ""
