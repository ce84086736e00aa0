"""Victims as context managers: there while the block runs, gone without trace behind it.

Only the caller's side lives here: spawning a host, waiting for its victim, clearing away. Each
staged tree is a session of its own. A session id is not reused while any member is left, so who
belongs to it can be told without doubt, and without reading anything of a dying process.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from memreap.linux.procfs import Procfs
from memreap.linux.worker import has_exited

CLEAR_TIMEOUT_S = 5.0
HOST_GRACE_S = 2.0  # then the host is not asked again but killed
TICK_S = 0.005


@dataclass(frozen=True, slots=True)
class Staged:
    """A victim that is ready to be killed."""

    kind: str
    pid: int
    sharers: tuple[int, ...]
    """Other processes with the same mm."""
    parent_pid: int
    size_bytes: int
    """What it holds; of a fork bomb, what all its members hold together."""
    session: int
    """Of the whole tree that was made for it, its host first."""


@contextmanager
def stage(
    kind: str,
    size_bytes: int,
    *,
    huge: bool = False,
    threads: int = 4,
    cgroups: Sequence[str | Path] = (),
    neighbours: int = 0,
    ready_timeout_s: float = 60,
) -> Iterator[Staged]:
    """Make a victim, with busy neighbours if wanted, and leave nothing of it behind.

    It dies with the *thread* that staged it at the latest (PR_SET_PDEATHSIG). RuntimeError where
    it cannot be made, and where something of it could not be cleared away.
    """
    args = [kind, "--size", str(size_bytes), "--threads", str(threads)]
    args += ["--neighbours", str(neighbours), *(["--huge"] if huge else [])]
    for cgroup in cgroups:
        args += ["--cgroup", str(cgroup)]
    host = _spawn(args)
    try:
        yield _ready(host, kind, ready_timeout_s)
    finally:
        _clear(host)


def kinds_possible() -> dict[str, str | None]:
    """Each kind, and why this machine does not allow it; None where it does."""
    host = _spawn([])
    try:
        said, complaint = host.communicate(timeout=30)
    finally:
        _clear(host)
    if host.returncode != 0:
        raise RuntimeError(f"cannot tell which victims are possible: {complaint.decode().strip()}")
    possible: dict[str, str | None] = json.loads(said)
    return possible


def _spawn(args: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start ``python -m memreap.victims``, the same package as this, in a session of its own."""
    root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([root, inherited] if inherited else [root])
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-S", "-m", "memreap.victims", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _ready(host: subprocess.Popen[bytes], kind: str, timeout_s: float) -> Staged:
    """Wait for the one line that says who the victim is."""
    assert host.stdout is not None
    poller = select.poll()
    poller.register(host.stdout, select.POLLIN)
    line = os.read(host.stdout.fileno(), 4096) if poller.poll(timeout_s * 1000) else None
    if line is None:
        raise RuntimeError(f"the {kind} victim was not ready within {timeout_s:g} s")
    if not line:
        raise RuntimeError(f"cannot make a {kind} victim: {_complaint(host)}")
    said = json.loads(line)
    return Staged(
        kind=kind,
        pid=said["pid"],
        sharers=tuple(said["sharers"]),
        parent_pid=said["parent"],
        size_bytes=said["size_bytes"],
        session=host.pid,
    )


def _complaint(host: subprocess.Popen[bytes]) -> str:
    """The last line of what a failing host wrote to its stderr."""
    assert host.stderr is not None
    with contextlib.suppress(subprocess.TimeoutExpired):
        host.wait(1)
    os.set_blocking(host.stderr.fileno(), False)
    lines = (host.stderr.read() or b"").decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it ended without a word"


def _clear(host: subprocess.Popen[bytes]) -> None:
    """Kill the whole session, again and again as a bomb breeds, and see that it is gone."""
    start = time.monotonic()
    while left := _members(host):
        waited_s = time.monotonic() - start
        if waited_s > CLEAR_TIMEOUT_S:
            raise RuntimeError(f"victims that could not be cleared away: {left}")
        for pid in left:
            if pid != host.pid:
                _kill_member(pid, host.pid)
        # The host ends the hang, and reaps what we kill; so it goes last, and by itself.
        host.send_signal(signal.SIGTERM if waited_s < HOST_GRACE_S else signal.SIGKILL)
        time.sleep(TICK_S)
    for stream in (host.stdout, host.stderr):
        if stream:
            stream.close()


def _members(host: subprocess.Popen[bytes]) -> list[int]:
    """Who is left of the session; ``getsid`` looks at no mm. Reaps the host.

    Zombies count while the host is there to reap them; after it they are init's affair.
    """
    host_is_gone = host.poll() is not None
    left = []
    for pid in Procfs().pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == host.pid and not (host_is_gone and _has_ended(pid)):
                left.append(pid)
    return left


def _has_ended(pid: int) -> bool:
    """All threads of it have exited, whether it was reaped or not."""
    pidfd = os.pidfd_open(pid)
    try:
        return has_exited(pidfd)
    finally:
        os.close(pidfd)


def _kill_member(pid: int, session: int) -> None:
    """SIGKILL a process, if it still is of the session once we hold it."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if os.getsid(pid) == session:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                if os.sched_getscheduler(pid) == os.SCHED_IDLE:
                    # Beside busy neighbours it would take many seconds to die.
                    with contextlib.suppress(PermissionError):  # not root's, and RLIMIT_NICE
                        os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))
        finally:
            os.close(pidfd)
