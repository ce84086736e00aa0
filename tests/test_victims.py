"""The victims are what they say, hang as they say, and leave nothing behind."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memreap.linux import syscalls
from memreap.linux.procfs import Procfs
from memreap.victims import Staged, kinds_possible, stage

pytestmark = pytest.mark.kernel

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
PROC = Procfs()
KINDS = [
    "busy",
    "fork-bomb",
    "fork-hog",
    "hung-aio",
    "hung-mmap-lock",
    "hung-thread",
    "idle",
    "ignores-term",
    "leaves-on-term",
    "shared",
    "sleeping",
    "threads",
]
HUNG = [kind for kind in KINDS if kind.startswith("hung-")]


@pytest.fixture(scope="module")
def possible() -> dict[str, str | None]:
    return kinds_possible()


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No FUSE mount that others see, no temporary file, however the test ends."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = fuse_mounts()
    yield
    assert fuse_mounts() <= before
    assert list(tmp_path.iterdir()) == []


def fuse_mounts() -> set[str]:
    return {line for line in Path("/proc/self/mounts").read_text().splitlines() if "fuse" in line}


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A memory cgroup of the test's own; its counter is the one that does not lag."""
    for root in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        folder = root / f"memreap-test-{os.getpid()}-{time.monotonic_ns()}"
        with contextlib.suppress(OSError):
            folder.mkdir()
            break
    else:
        pytest.skip("cannot make a cgroup")
    try:
        if not any(
            (folder / name).exists() for name in ("memory.usage_in_bytes", "memory.current")
        ):
            pytest.skip("no memory controller for a new cgroup")
        yield folder
    finally:
        folder.rmdir()


def charged_bytes(folder: Path) -> int:
    for name in ("memory.usage_in_bytes", "memory.current"):
        with contextlib.suppress(FileNotFoundError):
            return int((folder / name).read_text())
    raise AssertionError("the fixture looked for one of them")


def need(possible: dict[str, str | None], kind: str) -> None:
    if reason := possible[kind]:
        pytest.skip(reason)


def exited(pidfd: int, timeout_s: float) -> bool:
    return bool(select.select([pidfd], [], [], timeout_s)[0])


def session_of(staged: Staged) -> list[int]:
    """Who of the tree is there and has not ended (what ended may be init's to reap)."""
    alive = []
    for pid in PROC.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == staged.session:
                pidfd = os.pidfd_open(pid)
                alive += [] if exited(pidfd, 0) else [pid]
                os.close(pidfd)
    return alive


def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def killed(staged: Staged) -> Iterator[int]:
    """Its pidfd, right after SIGKILL and nothing else."""
    pidfd = os.pidfd_open(staged.pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        yield pidfd
    finally:
        os.close(pidfd)


def test_every_kind_is_possible_or_says_why_not(possible: dict[str, str | None]) -> None:
    assert sorted(possible) == KINDS
    assert all(reason is None or reason for reason in possible.values())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fork-bomb"])
def test_holds_its_memory_and_leaves_nothing(possible: dict[str, str | None], kind: str) -> None:
    need(possible, kind)
    with stage(kind, SIZE_BYTES) as staged:
        assert staged.size_bytes == SIZE_BYTES
        assert PROC.memory(staged.pid).rss_anon_bytes >= SIZE_BYTES
        assert staged.pid in session_of(staged)
    assert session_of(staged) == []


def test_an_exception_in_the_block_clears_away_too() -> None:
    with pytest.raises(KeyboardInterrupt), stage("sleeping", SIZE_BYTES) as staged:
        raise KeyboardInterrupt
    assert session_of(staged) == []


def test_a_victim_that_cannot_be_made_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match="cgroup"),
        stage("sleeping", SIZE_BYTES, cgroups=["/no/such/cgroup"]),
    ):
        pass


def test_a_victim_that_died_already_is_no_trouble() -> None:
    with stage("sleeping", SIZE_BYTES) as staged, killed(staged) as pidfd:
        assert exited(pidfd, 2)
        assert until(lambda: not Path(f"/proc/{staged.pid}").exists()), "the host reaps it"
    assert session_of(staged) == []


def test_charges_the_cgroup_it_was_put_into(cgroup: Path) -> None:
    with stage("sleeping", SIZE_BYTES, cgroups=[cgroup]) as staged:
        assert (cgroup / "cgroup.procs").read_text().split() == [str(staged.pid)]
        assert charged_bytes(cgroup) >= SIZE_BYTES


def test_huge_pages_only_if_asked_for() -> None:
    if not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        pytest.skip("no transparent huge pages")
    for huge in (False, True):
        with stage("sleeping", SIZE_BYTES, huge=huge) as staged:
            rollup = Path(f"/proc/{staged.pid}/smaps_rollup").read_text()
            has_huge = int(rollup.split("AnonHugePages:")[1].split()[0]) > 0
            assert has_huge <= huge, "the kernel may have none to give, but never unasked"


def test_threads() -> None:
    with stage("threads", SIZE_BYTES, threads=7) as staged:
        assert len(PROC.threads(staged.pid)) == 8


def test_idle_runs_at_sched_idle_and_is_cleared_beside_neighbours() -> None:
    with stage("idle", SIZE_BYTES, neighbours=4) as staged:
        assert os.sched_getscheduler(staged.pid) == os.SCHED_IDLE
    assert session_of(staged) == []


def test_a_sharer_keeps_the_memory_of_a_dead_victim(cgroup: Path) -> None:
    with stage("shared", SIZE_BYTES, cgroups=[cgroup]) as staged:
        (sharer,) = staged.sharers
        assert syscalls.kcmp_vm(staged.pid, sharer) == 0
        with killed(staged) as pidfd:
            assert exited(pidfd, 2)
            assert charged_bytes(cgroup) >= SIZE_BYTES
        os.kill(sharer, signal.SIGKILL)
        assert until(lambda: charged_bytes(cgroup) < SIZE_BYTES)


def test_the_hog_is_the_child_and_its_parent_small() -> None:
    with stage("fork-hog", SIZE_BYTES) as staged:
        assert PROC.stat(staged.pid).ppid == staged.parent_pid != staged.session
        assert PROC.memory(staged.parent_pid).rss_bytes < SIZE_BYTES // 2


def test_sigterm() -> None:
    for kind, leaves in (("ignores-term", False), ("leaves-on-term", True)):
        with stage(kind, SIZE_BYTES) as staged:
            pidfd = os.pidfd_open(staged.pid)
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            assert not exited(pidfd, 0.1)
            assert exited(pidfd, 5.0 if leaves else 0.5) is leaves
            os.close(pidfd)


def test_a_fork_bomb_survives_its_first_member_and_not_the_clean_up() -> None:
    with stage("fork-bomb", SIZE_BYTES) as staged:
        assert until(lambda: len(session_of(staged)) > 40)
        with killed(staged) as pidfd:
            assert exited(pidfd, 10)
        for pid in session_of(staged)[1:40]:  # the host is the first: it has the lowest pid
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert until(lambda: len(session_of(staged)) > 40), "any that is left breeds the others"
        assert len(session_of(staged)) <= 51, "50 places, and the host"
    assert session_of(staged) == []


@pytest.mark.parametrize("kind", HUNG)
def test_hung_kinds_keep_all_their_memory_for_ever(
    possible: dict[str, str | None], kind: str, cgroup: Path
) -> None:
    need(possible, kind)
    with stage(kind, SIZE_BYTES, cgroups=[cgroup]) as staged, killed(staged) as pidfd:
        assert not exited(pidfd, 1.0)
        assert charged_bytes(cgroup) >= SIZE_BYTES
        states = [PROC.thread_state(staged.pid, tid) for tid in PROC.threads(staged.pid)]
        assert "D" in states
        if kind == "hung-aio" and os.geteuid() == 0:
            assert "exit_aio" in Path(f"/proc/{staged.pid}/stack").read_text()
    assert session_of(staged) == []
    assert charged_bytes(cgroup) < SIZE_BYTES


@pytest.mark.parametrize("kind", ["hung-thread", "hung-mmap-lock"])
def test_mmap_lock_is_held_by_the_one_kind_only(possible: dict[str, str | None], kind: str) -> None:
    need(possible, kind)
    with stage(kind, SIZE_BYTES) as staged:
        reader = subprocess.Popen(["cat", f"/proc/{staged.pid}/cmdline"], stdout=subprocess.DEVNULL)
        try:
            reader.wait(0.5)
            blocked = False
        except subprocess.TimeoutExpired:
            blocked = True
        finally:
            reader.kill()
        assert blocked is (kind == "hung-mmap-lock")
        assert reader.wait(2) == (-signal.SIGKILL if blocked else 0), "it waits killably"


@pytest.mark.parametrize("kind", HUNG)
def test_the_end_of_the_host_is_the_end_of_the_hang(
    possible: dict[str, str | None], kind: str
) -> None:
    need(possible, kind)
    with stage(kind, SIZE_BYTES) as staged, killed(staged) as pidfd:
        assert not exited(pidfd, 0.3)
        os.kill(staged.session, signal.SIGKILL)
        assert exited(pidfd, 5.0)


CALLER = """
import sys, time
from memreap.victims import stage
with stage(sys.argv[1], 64 << 20) as staged:
    print(staged.pid, staged.session, *staged.sharers, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "fork-bomb"])
def test_nothing_survives_a_caller_that_was_killed(
    possible: dict[str, str | None], kind: str
) -> None:
    need(possible, kind)
    with subprocess.Popen([sys.executable, "-c", CALLER, kind], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        pidfds = [os.pidfd_open(int(pid)) for pid in caller.stdout.readline().split()]
        if kind in HUNG:
            signal.pidfd_send_signal(pidfds[0], signal.SIGKILL)
            assert not exited(pidfds[0], 0.2)
        caller.kill()
    for pidfd in pidfds:
        assert exited(pidfd, 5.0)
        os.close(pidfd)


def test_neighbours_run_in_the_victims_session_and_go_with_it() -> None:
    with stage("sleeping", SIZE_BYTES, neighbours=3) as staged:
        pids = [pid for pid in session_of(staged) if pid not in (staged.session, staged.pid)]
        assert len(pids) == 3
        assert {PROC.stat(pid).state for pid in pids} == {"R"}
    assert session_of(staged) == []
