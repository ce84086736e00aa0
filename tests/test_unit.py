"""The units that are shipped: what systemd thinks of them, and a guard at work in their sandbox."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import sandboxing
from tests.guarding import NOBODY, Guard, Hog, alive, limited
from tests.sandboxing import Sandbox, values

from memreap.victims import stage

SYSTEMD = Path(__file__).parents[1] / "systemd"
UNIT, SLICE = SYSTEMD / "memreap.service", SYSTEMD / "memreap.slice"
USER_UNIT = SYSTEMD / "user" / "memreap.service"
NOTIFY, METRICS = SYSTEMD / "examples" / "notify.conf", SYSTEMD / "examples" / "metrics.conf"
EXPOSURE_MAX = 2.0
# What systemd 252 and older say of the one line that they do not know.
OF_OLDER_ONES = re.compile(r"Failed to parse service type, ignoring: notify-reload")
MIB = 1 << 20
Start = Callable[..., Guard]
StartHog = Callable[..., Hog]
MakeCgroup = Callable[[str], Path]
Possible = dict[str, str | None]

needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze"
)
kernel = pytest.mark.kernel


@pytest.fixture(scope="module")
def sandboxes() -> None:
    """Skip where none can be made."""
    if why := sandboxing.lacking():
        pytest.skip(why)


def analyze(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", "--no-pager", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )


STRANGER = """
import ctypes, mmap, sys
sys.stdin.readline()
memory = mmap.mmap(-1, int(sys.argv[1]) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, len(memory))
sys.stdin.read()
"""
# What a call that is not permitted, or not there, is said to be.
TROUBLE = re.compile(r"not permitted|not implemented|Permission denied|Read-only|was lost|broke")


@contextlib.contextmanager
def stranger(directory: Path, mib: int) -> Iterator[int]:
    """Somebody else's process in a cgroup, with so much memory; its pid."""

    process = subprocess.Popen(
        ["/usr/bin/python3", "-S", "-c", STRANGER, str(mib)],
        stdin=subprocess.PIPE,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
    )
    try:
        (directory / "cgroup.procs").write_text(str(process.pid))
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def assert_no_trouble(one: Guard, *but: str) -> None:
    lines = [line for line in one.log.splitlines() if not any(word in line for word in but)]
    # Not every root may do that, and in the unit systemd has done it.
    lines = [line for line in lines if "oom_score_adj -1000 is not permitted" not in line]
    assert [line for line in lines if TROUBLE.search(line)] == []


# What systemd thinks of them.


@needs_analyze
@pytest.mark.parametrize("drop_in", [None, NOTIFY, METRICS], ids=["alone", "notify", "metrics"])
def test_systemd_understands_every_line(tmp_path: Path, drop_in: Path | None) -> None:
    unit = tmp_path / UNIT.name
    command = f"={sys.executable} -m memreap guard"
    unit.write_text(UNIT.read_text().replace("=memreap guard", command))
    shutil.copy(SLICE, tmp_path)
    if drop_in:
        folder = tmp_path / f"{UNIT.name}.d"
        folder.mkdir()
        shutil.copy(drop_in, folder)
    said = analyze("verify", "--man=no", unit).stderr.splitlines()
    said += analyze("verify", "--man=no", tmp_path / SLICE.name).stderr.splitlines()
    assert [line for line in said if not OF_OLDER_ONES.search(line)] == []


@needs_analyze
def test_systemd_understands_the_user_s_unit(tmp_path: Path) -> None:
    unit = tmp_path / USER_UNIT.name
    command = f"={sys.executable} -m memreap guard"
    unit.write_text(USER_UNIT.read_text().replace("=memreap guard", command))
    said = analyze("verify", "--man=no", unit).stderr.splitlines()
    assert [line for line in said if not OF_OLDER_ONES.search(line)] == []


@needs_analyze
def test_it_is_exposed_no_more_than_it_says() -> None:
    done = analyze("security", "--offline=yes", "--threshold=100", UNIT)
    found = re.search(r"Overall exposure level for memreap.service: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= EXPOSURE_MAX


@needs_analyze
def test_it_is_skipped_where_nothing_is_configured(tmp_path: Path) -> None:
    places = values(UNIT, "ConditionPathExists") + values(UNIT, "ConditionPathExistsGlob")
    assert all(place.startswith("|/") for place in places)
    for place in places:
        assert "memreap/memreap.toml" in place
    here = [place.replace("|/", f"|{tmp_path}/") for place in places]
    conditions = [f"ConditionPathExists{'Glob' if '*' in place else ''}={place}" for place in here]
    assert analyze("condition", *conditions).returncode == 1
    drop_ins = tmp_path / "usr/lib/memreap/memreap.toml.d"
    drop_ins.mkdir(parents=True)
    assert analyze("condition", *conditions).returncode == 1
    (drop_ins / "50-vendor.toml").touch()
    assert analyze("condition", *conditions).returncode == 0


def test_the_conditions_are_where_the_guard_looks() -> None:
    from memreap.config.places import DIRECTORIES, NAME

    assert values(UNIT, "ConditionPathExists") == [f"|{d}/{NAME}" for d in DIRECTORIES]
    globs = values(UNIT, "ConditionPathExistsGlob")
    assert globs == [f"|{d}/{NAME}.d/*.toml" for d in DIRECTORIES]


def test_both_units_refuse_the_same_calls() -> None:
    alike = "SystemCallFilter", "SystemCallErrorNumber", "Type", "WatchdogSec"
    for key in (*alike, "ExecStart", "ExecReload"):
        assert values(UNIT, key) == values(USER_UNIT, key)


# A guard at work in its sandbox.


@pytest.fixture
def sandboxed(guard: Start, tmp_path: Path, sandboxes: None) -> Callable[..., Guard]:
    """Start a guard as the unit would, as far as that goes without systemd."""

    def start(*args: object, without: frozenset[str] = frozenset(), **more: object) -> Guard:
        sandbox = Sandbox(UNIT, writable=(tmp_path,), without=without, **more)  # type: ignore[arg-type]
        return guard(*args, preexec_fn=sandbox.enter)

    return start


def configured(tmp_path: Path, directory: Path, more: str = "") -> Path:
    """A file for one cgroup, with a hook that writes down what it was told."""
    told = tmp_path / "told"
    file = tmp_path / "memreap.toml"
    file.write_text(
        f'[[cgroup]]\npath = "{directory}"\nlimit = "300M"\n'
        f'[[hook]]\non = "chosen"\nargv = ["/bin/sh", "-c", "cat >> {told}"]\n{more}'
    )
    return file


@kernel
def test_a_whole_incident(
    sandboxed: Callable[..., Guard], hog: StartHog, cgroup: MakeCgroup, tmp_path: Path
) -> None:
    directory = limited(cgroup("memory"), 800)
    one = sandboxed("--config", configured(tmp_path, directory))
    status = Path(f"/proc/{one.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "cannot be locked" not in one.log
    assert "is not permitted (CAP_SYS_NICE)" not in one.log
    big = hog(directory, 350, 500)
    one.wait_for(lambda: big.was_killed)
    outcome = one.wait_for_turn("outcome")["outcome"]
    assert (outcome["outcome"], outcome["pid"]) == ("exited", big.pid)
    assert outcome["released_bytes"] > 250 * MIB
    one.wait_for_turn("relieved")
    told = tmp_path / "told"
    one.wait_for(lambda: told.exists() and told.read_text().endswith("\n"))
    assert json.loads(told.read_text())["victim"]["pids"] == [big.pid]
    assert one.stop() == 0
    assert_no_trouble(one)


@kernel
def test_a_victim_that_hangs_in_aio_is_held_and_reaped(
    sandboxed: Callable[..., Guard],
    hog: StartHog,
    cgroup: MakeCgroup,
    tmp_path: Path,
    possible: Possible,
) -> None:
    if why := possible.get("hung-aio"):
        pytest.skip(why)
    directory = limited(cgroup("memory"), 800)
    one = sandboxed("--config", configured(tmp_path, directory))
    with stage("hung-aio", 250 * MIB, cgroups=[directory]) as victim:
        hog(directory, 100)
        outcome = one.wait_for_turn("outcome")["outcome"]
        assert outcome["pid"] == victim.pid
        assert outcome["outcome"] == "reaped"
        assert "; held: AIO contexts" in outcome["reason"]
        assert outcome["released_bytes"] > 200 * MIB
        one.wait_for_turn("relieved")
    assert_no_trouble(one)


@kernel
def test_a_stranger_s_process_is_read_held_boosted_and_killed(
    sandboxed: Callable[..., Guard], cgroup: MakeCgroup, tmp_path: Path
) -> None:
    """Of another user, so that everything takes a capability."""
    directory = limited(cgroup("memory"), 800)
    more = '[[protect]]\nexe = "/nowhere/*"\n'  # one whose exe cannot be read is protected by it
    one = sandboxed("--config", configured(tmp_path, directory, more))
    with stranger(directory, 350) as pid:
        outcome = one.wait_for_turn("outcome")["outcome"]
        assert (outcome["outcome"], outcome["pid"]) == ("exited", pid)
        one.wait_for_turn("relieved")
    assert_no_trouble(one)


def replaced(one: Guard, name: str) -> None:
    """Kill a child of that name; another one takes its place."""
    first = one.wait_for(lambda: one.children().get(name))[0]
    os.kill(first, signal.SIGKILL)
    one.wait_for(lambda: not alive(first))
    one.wait_for(lambda: set(one.children().get(name, [])) - {first})


@kernel
def test_scouts_scribes_and_settings_are_replaced(
    sandboxed: Callable[..., Guard], hog: StartHog, cgroup: MakeCgroup, tmp_path: Path
) -> None:
    directory = limited(cgroup("memory"), 800)
    file = configured(tmp_path, directory)
    one = sandboxed("--config", file)
    for name in ("memreap-scribe", "memreap-scout"):
        replaced(one, name)
    file.write_text(file.read_text().replace("300M", "250M"))
    one.process.send_signal(signal.SIGHUP)
    one.wait_for(lambda: "the configuration was reloaded" in one.log)
    big = hog(directory, 280, 500)
    one.wait_for(lambda: big.was_killed)
    one.wait_for_turn("relieved")
    assert one.stop() == 0
    assert_no_trouble(one, "a scout was lost")


# What breaks without each capability: if nothing does, the unit is to do without it.


@kernel
@pytest.mark.parametrize("name", ["cap_kill", "cap_sys_nice", "cap_sys_ptrace"])
def test_each_capability_is_needed(
    sandboxed: Callable[..., Guard], cgroup: MakeCgroup, tmp_path: Path, name: str
) -> None:
    directory = limited(cgroup("memory"), 800)
    more = '[[protect]]\nexe = "/nowhere/*"\n'
    one = sandboxed("--config", configured(tmp_path, directory, more), without=frozenset([name]))
    with stranger(directory, 350) as pid:
        if name == "cap_kill":
            outcome = one.wait_for_turn("outcome")["outcome"]
            assert outcome["outcome"] == "refused"
            assert alive(pid)
        elif name == "cap_sys_ptrace":  # its exe cannot be read: it may be protected
            one.wait_for_turn("helpless")
            assert alive(pid)
        else:
            assert "SCHED_FIFO is not permitted (CAP_SYS_NICE)" in one.log
            assert one.wait_for_turn("outcome")["outcome"]["outcome"] == "exited"


@kernel
def test_a_filter_that_does_not_know_the_reap_costs_the_reap_alone(
    sandboxed: Callable[..., Guard],
    hog: StartHog,
    cgroup: MakeCgroup,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a libseccomp from before 5.15."""
    known = sandboxing.allowed
    monkeypatch.setattr(sandboxing, "allowed", lambda f: known(f) - {"process_mrelease", "ptrace"})
    directory = limited(cgroup("memory"), 800)
    one = sandboxed("--config", configured(tmp_path, directory))
    big = hog(directory, 350, 500)
    one.wait_for(lambda: big.was_killed)
    assert one.wait_for_turn("outcome")["outcome"]["outcome"] == "exited"
    one.wait_for_turn("relieved")
    assert one.stop() == 0


# What the service manager is told.


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(10)
        yield end


def told(manager: socket.socket, *, but: str = "WATCHDOG=1") -> dict[str, str]:
    """The next message that is not ``but``."""
    while True:
        raw = manager.recv(4096).decode()
        if raw != but:
            return dict(line.split("=", 1) for line in raw.splitlines())


@pytest.fixture
def notifying(
    guard: Start, manager: socket.socket, cgroup: MakeCgroup, tmp_path: Path
) -> Callable[[int], Guard]:
    """A guard that a service manager started."""

    def start(watchdog_us: int) -> Guard:
        file = configured(tmp_path, limited(cgroup("memory"), 800))
        watchdog = {"WATCHDOG_USEC": str(watchdog_us)} if watchdog_us else {}
        env = {**os.environ, "NOTIFY_SOCKET": manager.getsockname(), **watchdog}
        return guard("--config", file, env=env)

    return start


needs_root = pytest.mark.skipif("os.geteuid() != 0", reason="needs root")


@kernel
@needs_root
def test_ready_reloading_ready_and_stopping(
    notifying: Callable[[int], Guard], manager: socket.socket, tmp_path: Path
) -> None:
    one = notifying(0)
    first = told(manager)
    assert first["READY"] == "1"
    assert first["STATUS"].startswith("guarding 1: cgroup:/")
    before_us = time.monotonic_ns() // 1000
    for good in (True, False):
        if not good:
            (tmp_path / "memreap.toml").write_text("[guard]\npatience = nonsense\n")
        one.process.send_signal(signal.SIGHUP)
        reloading = told(manager)
        assert reloading["RELOADING"] == "1"
        assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert told(manager)["READY"] == "1"
    one.wait_for(lambda: "the old one stays" in one.log)
    one.process.send_signal(signal.SIGTERM)
    assert told(manager) == {"STOPPING": "1"}
    assert one.process.wait(10) == 0


@kernel
@pytest.mark.slow
@needs_root
def test_the_watchdog_is_fed_in_time_and_not_by_a_core_that_stands_still(
    notifying: Callable[[int], Guard], manager: socket.socket
) -> None:
    one = notifying(3_000_000)
    told(manager)
    fed_s = []
    for _ in range(4):
        assert manager.recv(4096) == b"WATCHDOG=1"
        fed_s.append(time.monotonic())
    assert max(b - a for a, b in itertools.pairwise(fed_s)) < 3.0
    os.kill(one.pid, signal.SIGSTOP)
    manager.settimeout(0.2)
    with contextlib.suppress(TimeoutError):  # what was on its way
        manager.recv(4096)
    manager.settimeout(4)
    with pytest.raises(TimeoutError):
        manager.recv(4096)
    os.kill(one.pid, signal.SIGCONT)
    assert manager.recv(4096) == b"WATCHDOG=1"


# With the drop-ins that open what is closed.


def scraped(port: int) -> bytes:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}") as page:
        return bytes(page.read())
    return b""


@kernel
def test_metrics_are_served_with_their_drop_in_and_refused_aloud_without(
    sandboxed: Callable[..., Guard], cgroup: MakeCgroup, tmp_path: Path
) -> None:
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    more = f'[records]\nmetrics_listen = "127.0.0.1:{port}"\n'
    file = configured(tmp_path, limited(cgroup("memory"), 800), more)
    closed = sandboxed("--config", file)
    closed.wait_for(lambda: "metrics: cannot begin: " in closed.log)
    closed.stop()
    one = sandboxed("--config", file, drop_ins=(METRICS,))
    assert b"memreap_info" in one.wait_for(lambda: scraped(port))
    assert_no_trouble(one)


@pytest.fixture
def bus_of_nobody() -> Iterator[None]:
    """A session bus where systemd would have one; nobody shows notifications on it."""
    folder = Path(f"/run/user/{NOBODY}")
    if folder.exists() or os.geteuid() != 0 or shutil.which("dbus-daemon") is None:
        pytest.skip(f"needs root and dbus-daemon, and no {folder}")
    was_there = folder.parent.exists()
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    os.chown(folder, NOBODY, NOBODY)
    bus = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", f"--address=unix:path={folder}/bus"],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        stderr=subprocess.DEVNULL,
    )
    try:
        until_s = time.monotonic() + 5
        while not (folder / "bus").exists() and time.monotonic() < until_s:
            time.sleep(0.01)
        yield
    finally:
        bus.kill()
        bus.wait()
        shutil.rmtree(folder)
        if not was_there:
            folder.parent.rmdir()


@kernel
def test_a_victim_s_user_is_notified_with_the_drop_in(
    sandboxed: Callable[..., Guard], cgroup: MakeCgroup, tmp_path: Path, bus_of_nobody: None
) -> None:
    pytest.importorskip("jeepney")
    directory = limited(cgroup("memory"), 800)
    file = configured(tmp_path, directory, "[records]\nnotify = true\n")
    one = sandboxed("--config", file, drop_ins=(NOTIFY,))
    with stranger(directory, 350):
        one.wait_for_turn("relieved")
        # The bus itself answers: it was reached, as the user that it wants.
        one.wait_for(lambda: "org.freedesktop.Notifications was not provided" in one.log)
    assert_no_trouble(one)
