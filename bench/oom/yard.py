"""Where workloads and bystanders live, in the guest, and the ways in which they take memory.

As on a desktop or a shared host: a user's manager (user@1000.service) with a scope for each
program in its app.slice; a database as a service of the system's. The groups below those are made
by hand, so that starting a program costs a fork and not a dialogue with systemd. Everybody is
treated alike: one's own group, and oom_score_adj 0. That holds for the user's manager, too, which
Debian gives 100, and would give more to what it starts: it does not start what runs here.
"""

import contextlib
import ctypes
import mmap
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from vmtest import inside

UID = 1000
MANAGER = "user.slice/user-1000.slice/user@1000.service"
APPS = f"{MANAGER}/app.slice"
WORKLOAD = f"{APPS}/workload.scope"
SYSTEMD = Path("/run/systemd/system")
FAIRNESS = Path("/etc/systemd/system/user@.service.d/10-bench.conf")
MIB = 1 << 20
TICK_S = 0.01
_MAP_NORESERVE = 0x4000
_PR_SET_NAME = 15
_CLONE_VM = 0x100
_STACK_BYTES = 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)

# Who has done nothing: (name, group, what it holds).
BYSTANDERS = (
    ("database", "system.slice/database.service", 48 * MIB),
    ("editor", f"{APPS}/editor.scope", 30 * MIB),
    ("shell", f"{APPS}/shell.scope", 3 * MIB),
)


@dataclass
class Yard:
    """The workload's own group, and who was started there."""

    group: inside.Cgroup
    left_bytes: int
    """What is left until the line when the workload begins."""
    line_bytes: int
    pids: list[int] = field(default_factory=list)

    def start(self, name: str, act: Callable[[], object], group: str = WORKLOAD) -> int:
        """A process of this name."""
        pid = start(name, act, group)
        self.pids.append(pid)
        return pid


def start(name: str, act: Callable[[], object], group: str) -> int:
    """A user's process in a group, once it is there: its pid. It ends with what it does."""
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(there)
        _become(name, act, inside.CGROUPS / group, here)
    os.close(here)
    os.read(there, 1)
    os.close(there)
    return pid


def _become(name: str, act: Callable[[], object], group: Path, here: int) -> NoReturn:
    code = 1
    try:
        (group / "cgroup.procs").write_text("0")
        Path("/proc/self/oom_score_adj").write_text("0")
        os.setsid()
        call_oneself(name)
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        os.close(here)
        act()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def call_oneself(name: str) -> None:
    """As ps shows it."""
    _libc.prctl(_PR_SET_NAME, name.encode())


def execute(*argv: str) -> Callable[[], object]:
    """Become a program."""
    return lambda: os.execvp(argv[0], argv)


def settle(path: str) -> inside.Cgroup:
    """The group, made with all above it, and with the controllers that count."""
    at = inside.CGROUPS
    for part in Path(path).parts:
        with contextlib.suppress(OSError):  # where systemd has set them, or nobody may
            (at / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        at /= part
        at.mkdir(exist_ok=True)
    return inside.Cgroup(at)


def set_up() -> None:
    """The user is there, and the manager no more likely to be killed; where there is systemd."""
    if not SYSTEMD.exists():
        return
    if f":{UID}:" not in Path("/etc/passwd").read_text():
        subprocess.run(["useradd", "--create-home", "--uid", str(UID), "user"], check=True)
    FAIRNESS.parent.mkdir(parents=True, exist_ok=True)
    FAIRNESS.write_text("[Service]\nOOMScoreAdjust=0\n")
    subprocess.run(["systemctl", "daemon-reload"], check=True)


def log_in() -> None:
    """The user's manager runs, again where it was killed."""
    if SYSTEMD.exists():
        subprocess.run(["systemctl", "start", f"user@{UID}.service"], check=True)


def empty(group: inside.Cgroup, timeout_s: float = 20) -> bool:
    """Everybody in there is killed; whether nobody is left."""
    deadline_s = time.monotonic() + timeout_s
    group.write("cgroup.kill", 1)
    while "populated 1" in group.read("cgroup.events"):
        if time.monotonic() > deadline_s:
            return False
        reap()
        time.sleep(TICK_S)
    reap()
    return True


def reap() -> None:
    """Take leave of the children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


class Bystanders:
    """They are there in every run; one that was killed is started anew for the next."""

    def __init__(self) -> None:
        """None yet."""
        self._pids: dict[str, int] = {}

    def ensure(self) -> None:
        """All are there, and hold what they hold."""
        for name, path, size_bytes in BYSTANDERS:
            if self._is_alive(name):
                continue
            group = settle(path)
            self._pids[name] = start(name, _using(size_bytes), path)
            wait_for(lambda group=group, size=size_bytes: group.usage_bytes >= size, 60)  # type: ignore[misc]

    def _is_alive(self, name: str) -> bool:
        reap()
        pid = self._pids.get(name)
        if pid is None:
            return False
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_for(what: Callable[[], bool], timeout_s: float) -> bool:
    """Whether it came true in time."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if what():
            return True
        time.sleep(TICK_S)
    return False


# Ways to take memory.


class Memory:
    """A mapping, filled from its begin. Not huge pages: those come and go in lumps of 2 MiB."""

    def __init__(self, size_bytes: int) -> None:
        """Nothing of it is taken yet. Unreserved: more than there is may be asked for."""
        self._map = mmap.mmap(
            -1,
            size_bytes,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE,
        )
        self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.size_bytes = size_bytes
        self.taken_bytes = 0

    def take(self, more_bytes: int, rate_bytes_per_s: float | None = None) -> None:
        """So much more of it, no faster than this."""
        began_s, before = time.monotonic(), self.taken_bytes
        end = min(before + more_bytes, self.size_bytes)
        while self.taken_bytes < end:
            step = min(MIB // 4, end - self.taken_bytes)
            ctypes.memset(self.address + self.taken_bytes, 1, step)
            self.taken_bytes += step
            if rate_bytes_per_s is not None:
                ahead_s = (self.taken_bytes - before) / rate_bytes_per_s
                time.sleep(max(0.0, began_s + ahead_s - time.monotonic()))

    def use(self) -> NoReturn:
        """Go on touching what is taken, a page at a time, as somebody who works with it."""
        at = 0
        while True:
            self._map[at] = (self._map[at] + 1) & 0xFF
            at = (at + 97 * mmap.PAGESIZE) % self.taken_bytes
            time.sleep(TICK_S)


def _using(size_bytes: int) -> Callable[[], object]:
    def act() -> None:
        memory = Memory(size_bytes)
        memory.take(size_bytes)
        memory.use()

    return act


def hog(
    size_bytes: int,
    rate_bytes_per_s: float | None = None,
    at_once_bytes: int = 0,
    before: Callable[[Memory], object] | None = None,
) -> Callable[[], object]:
    """Take the first at once, the rest at a rate, and keep it."""

    def act() -> None:
        memory = Memory(size_bytes)
        if before:
            before(memory)
        memory.take(at_once_bytes)
        memory.take(size_bytes, rate_bytes_per_s)
        while True:
            signal.pause()

    return act


def share(_memory: Memory) -> None:
    """A second process with this very mm: CLONE_VM. It waits in C; its stack is its own."""
    stack = mmap.mmap(-1, _STACK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    globals()["_stack"] = stack  # a mapping that nobody names is unmapped
    top = ctypes.addressof(ctypes.c_char.from_buffer(stack)) + len(stack)
    wait = ctypes.cast(_libc.pause, ctypes.c_void_p)
    pid = _libc.clone(wait, ctypes.c_void_p(top), _CLONE_VM | signal.SIGCHLD, None)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")


def bind(node: int) -> Callable[[Memory], object]:
    """All memory from now on comes from one node."""
    return lambda _memory: inside.bind_to_node(node)


def spin() -> NoReturn:
    """Want a CPU, always."""
    while True:
        pass


@contextlib.contextmanager
def own_group() -> Iterator[inside.Cgroup]:
    """The workload's, made; at the end everybody is gone who is no bystander."""
    group = settle(WORKLOAD)
    group.write("pids.max", "max")
    spared = {inside.CGROUPS / path for _, path, _ in BYSTANDERS}
    try:
        yield group
    finally:
        for path in (inside.CGROUPS / APPS).glob("*.scope"):
            if path not in spared:
                empty(inside.Cgroup(path))
