"""What several test files need: victims, ways to run memreap, and proof that nothing is left."""

import contextlib
import gc
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import settings
from tests.guarding import Guard, Hog, alive, wait_for_exec
from vmtest import cache, emulator, guest, roots

from memreap.linux import cgroups, scheduling
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Worker
from memreap.reap.execution import Execution
from memreap.reap.victim import identify
from memreap.victims import kinds_possible

NOBODY = 65534
PROC = Procfs()

# Reads a size a line, answers with the pid of a child that holds so much; takes leave of the dead.
NURSERY = """
import ctypes, mmap, os, signal, sys
libc = ctypes.CDLL(None)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while line := sys.stdin.readline():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        libc.prctl(1, signal.SIGKILL)
        memory = mmap.mmap(-1, int(line), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, len(memory))
        os.write(write, b"!")
        while True:
            signal.pause()
    os.read(read, 1)
    os.close(read)
    os.close(write)
    print(pid, flush=True)
"""


# On a busy machine any example may take long.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


def children() -> set[int]:
    return set(PROC.children(os.getpid()))


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No child, zombie, descriptor or scheduling policy stays with the process that tested."""
    gc.collect()
    offspring, fds, policy = children(), os.listdir("/proc/self/fd"), scheduling.current()
    yield
    deadline_s = time.monotonic() + 5
    while Worker.bury() and time.monotonic() < deadline_s:  # given up, and not gone yet
        time.sleep(0.01)
    left, workers = children() - offspring, set(Worker.living)
    for pid in left:  # the next test is not to suffer for it
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    Worker.living.clear()
    assert (left, workers) == (set(), set())
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == len(fds)
    assert scheduling.current() == policy


@pytest.fixture(scope="session")
def possible() -> dict[str, str | None]:
    """Kinds of victims, and why this machine cannot make them (None: it can)."""
    return kinds_possible()


@pytest.fixture
def cgroup() -> Iterator[Callable[[str], Path]]:
    """Make a cgroup of the test's own with this controller; gone at the end."""
    with contextlib.ExitStack() as stack:

        def make(controller: str) -> Path:
            name = f"memreap-test-{os.getpid()}-{time.monotonic_ns()}"
            try:
                return stack.enter_context(cgroups.temporary(controller, name, PROC))
            except OSError as error:
                pytest.skip(f"no {controller} cgroup: {error}")

        yield make


@pytest.fixture
def finish() -> Callable[[Execution], Execution]:
    """Drive an execution to its outcome, as the command does."""

    def drive(execution: Execution) -> Execution:
        while execution.outcome is None:
            poll = select.poll()
            for fd in execution.fds():
                poll.register(fd, select.POLLIN)
            deadline_s = execution.deadline_s
            assert deadline_s is not None
            poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000 + 1)
            execution.advance(time.monotonic())
        return execution

    return drive


@pytest.fixture
def reap(finish: Callable[[Execution], Execution]) -> Callable[..., Execution]:
    """Identify, kill and reap one process from here; all descriptors are closed again."""

    def run(pid: int, *, hold: Any = "auto", timeout_s: float = 5.0) -> Execution:
        execution = Execution(identify(pid), hold, timeout_s)
        try:
            with scheduling.watching():
                execution.start(time.monotonic())
                return finish(execution)
        finally:
            execution.victim.close()

    return run


@pytest.fixture
def memreap() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command to its end."""

    def run(*args: object, timeout_s: float = 30, **popen: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "memreap", *map(str, args)],
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="surrogateescape",
            timeout=timeout_s,
            check=False,
        )

    return run


@pytest.fixture
def nursery() -> Iterator[Callable[[int], int]]:
    """Sleeping victims of a given size, a few milliseconds each."""
    with subprocess.Popen(
        [sys.executable, "-S", "-c", NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as host:
        stdin, stdout = host.stdin, host.stdout
        assert stdin is not None
        assert stdout is not None

        def born(size_bytes: int) -> int:
            stdin.write(f"{size_bytes}\n")
            stdin.flush()
            return int(stdout.readline())

        try:
            yield born
        finally:
            host.kill()


@pytest.fixture
def script() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python script and wait for its first line, which ``first_line`` then holds."""
    with contextlib.ExitStack() as stack:

        def start(source: str, *args: object, **popen: Any) -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", source, *map(str, args)],
                    stdout=subprocess.PIPE,
                    stdin=subprocess.DEVNULL,
                    text=True,
                    **popen,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            process.first_line = process.stdout.readline().strip()  # type: ignore[attr-defined]
            return process

        yield start


@pytest.fixture(scope="session")
def as_nobody() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run Python code or modules as a user who may do nothing, from a copy that he may read."""
    with tempfile.TemporaryDirectory(prefix="memreap-test-") as folder:
        Path(folder).chmod(0o755)
        source = Path(__file__).parents[1] / "src" / "memreap"
        shutil.copytree(
            source, Path(folder, "memreap"), ignore=shutil.ignore_patterns("__pycache__")
        )
        env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join([folder, str(Path(click.__file__).parents[1])]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

        def run(python: str, *args: object, **more: Any) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [python, *map(str, args)],
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                cwd="/",
                env=env,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
                **more,
            )

        for python in (sys.executable, "/usr/bin/python3"):
            with contextlib.suppress(OSError):
                if run(python, "-c", "import memreap.cli, rich").returncode == 0:
                    break
        else:
            pytest.skip("no Python and packages that an unprivileged user may read, or not root")
        yield lambda *args, **more: run(python, *args, **more)


@pytest.fixture
def starved_of_descriptors() -> Iterator[Callable[[int], None]]:
    """Occupy every descriptor below a number."""
    was = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def occupy(below: int) -> None:
        if was[1] < below * 2:
            pytest.skip(f"the hard limit of {was[1]} descriptors is too low")
        resource.setrlimit(resource.RLIMIT_NOFILE, (was[1], was[1]))
        taken.append(os.open("/dev/null", os.O_RDONLY))
        while taken[-1] < below:
            taken.append(os.dup(taken[0]))

    yield occupy
    for fd in taken:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, was)


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., guest.Result]]:
    """Run a script in a guest; skip where there can be none."""
    kernel = os.environ.get("MEMREAP_VM_KERNEL", "")
    try:
        if kernel:
            roots.ready(kernel)
        else:
            cache.newest()
        emulator.ready()
    except cache.NotReadyError as error:
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:  # consoles of guests that died stay in there
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("guests")))
        yield partial(guest.run, kernel=kernel)


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Callable[..., Guard]]:
    """Start a guard as a user would; ended, and everything it started gone, afterwards."""
    started: list[Guard] = []

    def start(*args: object, **popen: Any) -> Guard:
        folder = tmp_path / f"guard{len(started)}"
        folder.mkdir()
        started.append(Guard(folder, [str(arg) for arg in args], **popen))
        return started[-1]

    yield start
    children = [
        pid
        for one in started
        if one.process.poll() is None
        for pids in one.children().values()
        for pid in pids
    ]
    for one in started:
        if one.process.poll() is None:
            one.stop()
    deadline_s = time.monotonic() + 5
    while (left := [pid for pid in children if alive(pid)]) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == [], "a guard that ended left processes behind"


@pytest.fixture
def hog(cgroup: Callable[[str], Path]) -> Iterator[Callable[..., Hog]]:
    """Start processes that take memory; gone afterwards, before the cgroups that they are in."""
    del cgroup
    hogs: list[Hog] = []

    def start(*args: Any) -> Hog:
        hogs.append(Hog(*args))
        return hogs[-1]

    yield start
    for one in hogs:
        one.end()


@pytest.fixture
def sleeper() -> Iterator[Callable[[], int]]:
    """A small process that sleeps; its pid. A child of the test, who reaps it."""
    pids: list[int] = []

    def start() -> int:
        pids.append(os.posix_spawn("/bin/sleep", ["sleep", "300"], os.environ))
        wait_for_exec(pids[-1], "sleep")
        return pids[-1]

    yield start
    for pid in pids:
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@pytest.fixture
def protecting(tmp_path: Path) -> Callable[[int], Procfs]:
    """A /proc in which this process has an oom_score_adj of -1000; not every root may set it."""

    def view(pid: int) -> Procfs:
        root = tmp_path / "proc"
        (root / str(pid)).mkdir(parents=True)
        for real in Path("/proc").iterdir():
            if real.name != str(pid):
                (root / real.name).symlink_to(real)
        for real in Path(f"/proc/{pid}").iterdir():
            if real.name != "oom_score_adj":
                (root / str(pid) / real.name).symlink_to(real)
        (root / str(pid) / "oom_score_adj").write_text("-1000\n")
        return Procfs(str(root))

    return view
