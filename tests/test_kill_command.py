"""``memreap kill``: its contract with scripts, whom it means, and that it always comes back."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memreap.linux import cgroups, scheduling
from memreap.linux.procfs import Procfs
from memreap.victims import Staged, stage

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
PROC = Procfs()
KEYS = {
    "pid": (int,),
    "comm": (str,),
    "outcome": (str,),
    "reason": (str,),
    "released_bytes": (int,),
    "seconds_to_release": (float, type(None)),
    "seconds_to_exit": (float, type(None)),
    "attempts": (int,),
    "sharers": (list,),
}
Done = subprocess.CompletedProcess[str]
Memreap = Callable[..., Done]
Script = Callable[..., subprocess.Popen[str]]


def records(done: Done | str) -> list[dict[str, Any]]:
    """Every line of the output, each checked against the contract."""
    lines = (done if isinstance(done, str) else done.stdout).splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for record in found:
        assert list(record) == list(KEYS)
        assert all(type(record[key]) in kinds for key, kinds in KEYS.items()), record
        assert all(type(pid) is int for pid in record["sharers"])
        assert record["outcome"] in ("exited", "reaped", "stuck", "refused")
        assert record["reason"]
    return found


def outcomes(done: Done) -> dict[int, str]:
    return {record["pid"]: record["outcome"] for record in records(done)}


def is_alive(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        return not select.select([pidfd], [], [], 0)[0]
    finally:
        os.close(pidfd)


def need(possible: dict[str, str | None], kind: str) -> None:
    if reason := possible[kind]:
        pytest.skip(reason)


@pytest.fixture
def stuck(possible: dict[str, str | None]) -> Iterator[Staged]:
    need(possible, "hung-mmap-lock")
    with stage("hung-mmap-lock", 16 * MIB) as staged:
        yield staged


def absent_pid() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text()) + 1


class TestContract:
    def test_exited(self, nursery: Callable[[int], int], memreap: Memreap) -> None:
        pid = nursery(SIZE_BYTES)
        done = memreap("kill", "--json", pid)
        (record,) = records(done)
        assert (done.returncode, done.stderr) == (0, "")
        assert (record["pid"], record["outcome"], record["sharers"]) == (pid, "exited", [])
        assert SIZE_BYTES <= record["released_bytes"] < 2 * SIZE_BYTES
        assert 0 < record["seconds_to_release"] <= record["seconds_to_exit"] < 2
        assert record["attempts"] >= 1
        assert not is_alive(pid)

    def test_reaped(self, possible: dict[str, str | None], memreap: Memreap) -> None:
        need(possible, "hung-aio")
        with stage("hung-aio", SIZE_BYTES) as staged:
            done = memreap("kill", "--json", staged.pid)
            (record,) = records(done)
            assert is_alive(staged.pid)
        assert done.returncode == 0
        assert (record["outcome"], record["seconds_to_exit"]) == ("reaped", None)
        assert record["released_bytes"] >= SIZE_BYTES

    def test_stuck(self, stuck: Staged, memreap: Memreap) -> None:
        done = memreap("kill", "--json", "--timeout", 0.3, stuck.pid)
        (record,) = records(done)
        assert done.returncode == 1
        assert (record["outcome"], record["released_bytes"]) == ("stuck", 0)
        assert (record["seconds_to_release"], record["seconds_to_exit"]) == (None, None)

    def test_shared(self, memreap: Memreap) -> None:
        with stage("shared", SIZE_BYTES) as staged:
            (record,) = records(memreap("kill", "--json", staged.pid))
        assert record["sharers"] == list(staged.sharers)

    def test_refused(self, memreap: Memreap) -> None:
        done = memreap("kill", "--json", 1, 2)
        assert done.returncode == 3
        assert outcomes(done) == {1: "refused", 2: "refused"}
        assert all(record["released_bytes"] == 0 for record in records(done))

    def test_no_such_process(self, memreap: Memreap) -> None:
        done = memreap("kill", "--json", absent_pid())
        (record,) = records(done)
        assert (done.returncode, record["reason"]) == (4, "no such process")

    @pytest.mark.parametrize(
        "args", [("--match", "no such command line, I am sure"), ("--tree", 2**22 + 5)]
    )
    def test_nobody_meant_is_said(self, args: tuple[object, ...], memreap: Memreap) -> None:
        done = memreap("kill", *args)
        assert done.returncode == 4
        assert (done.stdout + done.stderr).strip()

    @pytest.mark.parametrize(
        "args",
        [
            (),
            ("0",),
            ("-1",),
            ("x",),
            ("--match", "("),
            ("--cgroup", "/no/such/cgroup"),
            ("--cgroup", "/"),
            ("--timeout", "0", "1"),
            ("--timeout", "nan", "1"),
            ("--term-first", "nan", "1"),
            ("--match", "", "--dry-run"),
            ("--term-first", "-1", "1"),
            ("--hold", "maybe", "1"),
            ("--no-such-option", "1"),
        ],
    )
    def test_usage(self, args: tuple[str, ...], memreap: Memreap) -> None:
        done = memreap("kill", *args)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()

    def test_the_worst_counts(
        self, sleeper: Callable[[], int], stuck: Staged, memreap: Memreap
    ) -> None:
        assert memreap("kill", sleeper(), absent_pid()).returncode == 4
        assert memreap("kill", sleeper(), absent_pid(), 1).returncode == 3
        args = ("kill", "--timeout", 0.3, sleeper(), absent_pid(), 1, stuck.pid)
        assert memreap(*args).returncode == 1

    def test_a_number_that_is_no_pid_does_not_save_the_others(
        self, sleeper: Callable[[], int], memreap: Memreap
    ) -> None:
        pid = sleeper()
        done = memreap("kill", "--json", 2**40, pid)
        assert outcomes(done).get(pid) == "exited"
        assert done.returncode == 4

    def test_a_timeout_that_is_over_at_once_still_kills(
        self, nursery: Callable[[int], int], memreap: Memreap
    ) -> None:
        pid = nursery(SIZE_BYTES)
        (record,) = records(memreap("kill", "--json", "--timeout", 1e-6, pid))
        assert record["outcome"] in ("stuck", "exited")
        deadline_s = time.monotonic() + 1
        while is_alive(pid) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert not is_alive(pid), record

    @pytest.mark.parametrize("option", ["--timeout", "--term-first"])
    @pytest.mark.parametrize("seconds", ["1e12", "inf"])
    def test_a_time_that_no_clock_can_hold_is_no_crash(
        self, option: str, seconds: str, sleeper: Callable[[], int], memreap: Memreap
    ) -> None:
        done = memreap("kill", option, seconds, sleeper())
        assert "Traceback" not in done.stderr
        assert done.returncode in (0, 2)

    def test_dry_run_signals_nobody(self, sleeper: Callable[[], int], memreap: Memreap) -> None:
        pid = sleeper()
        done = memreap("kill", "--dry-run", "--json", pid)
        record = json.loads(done.stdout)
        assert list(record)[: len(KEYS)] == list(KEYS)
        assert (done.returncode, record["pid"]) == (0, pid)
        assert (record["outcome"], record["command"]) == ("would be killed", "sleep 300")
        assert record["held_bytes"] > 0
        shown = memreap("kill", "--dry-run", "--match", "^sleep 300$", "--tree", pid).stdout
        assert "WOULD BE KILLED" in shown
        assert any(f"{pid} " in row and "sleep 300" in row for row in shown.splitlines())
        assert memreap("kill", "--dry-run", pid, 1).returncode == 3
        assert is_alive(pid)
        assert scheduling.current(pid).policy == os.SCHED_OTHER

    def test_quiet_prints_nothing(self, sleeper: Callable[[], int], memreap: Memreap) -> None:
        pid = sleeper()
        for args, code in (((pid,), 0), ((1,), 3), ((absent_pid(),), 4)):
            done = memreap("kill", "--quiet", *args)
            assert (done.returncode, done.stdout, done.stderr) == (code, "", "")
        assert not is_alive(pid)

    def test_the_table_says_the_same(self, nursery: Callable[[int], int], memreap: Memreap) -> None:
        pid = nursery(SIZE_BYTES)
        heading, row = memreap("kill", pid).stdout.splitlines()
        assert heading.split()[:4] == ["PID", "NAME", "OUTCOME", "RELEASED"]
        assert row.split()[0] == str(pid)
        assert "exited" in row

    @pytest.mark.parametrize("way", ["full disk", "closed pipe", "no stdout"])
    def test_a_kill_does_not_depend_on_its_output(
        self, way: str, sleeper: Callable[[], int]
    ) -> None:
        """The refusal comes first, and cannot be written."""
        pid = sleeper()
        command = f"exec '{sys.executable}' -m memreap kill --json 1 {pid}"
        redirect = {"full disk": ">/dev/full", "closed pipe": "", "no stdout": ">&-"}[way]
        read, write = os.pipe()
        os.close(read)
        subprocess.run(["/bin/sh", "-c", f"{command} {redirect}"], stdout=write, check=False)
        os.close(write)
        assert not is_alive(pid)


class TestMatch:
    def test_the_whole_command_line_counts(self, script: Script, memreap: Memreap) -> None:
        tag = f"a-long-name-beyond-fifteen-characters-{os.getpid()}-{time.monotonic_ns()}"
        pid = script("import time; print(); time.sleep(300)", "x" * 200, tag).pid
        done = memreap("kill", "--json", "--match", tag + "$")
        assert (done.returncode, outcomes(done)) == (0, {pid: "exited"})

    def test_itself_and_its_ancestors_are_spared(self) -> None:
        tag = f"memreap-match-{time.monotonic_ns()}"
        command = f": {tag}; '{sys.executable}' -m memreap kill --json --match {tag}; echo $?"
        done = subprocess.run(
            ["/bin/sh", "-c", command], capture_output=True, text=True, timeout=20, check=False
        )
        assert (done.stdout, done.returncode) == ("4\n", 0)

    def test_a_regex_that_never_ends_is_bounded_and_named(
        self, script: Script, memreap: Memreap
    ) -> None:
        patient = script("import time; print(); time.sleep(300)", "a" * 60 + "!").pid
        marked = script("import time; print(); time.sleep(300)", "b" * 60).pid
        start_s = time.monotonic()
        done = memreap("kill", "--json", "--match", "(?:a+)+$|b{60}")
        assert time.monotonic() - start_s < 10
        found = outcomes(done)
        assert found[marked] == "exited"
        assert found[patient] == "refused"
        assert is_alive(patient)
        assert done.returncode == 0, "a doubt is named, and is no failure"

    def test_a_command_line_that_cannot_be_read_is_named_and_the_others_killed(
        self, stuck: Staged, script: Script, memreap: Memreap
    ) -> None:
        tag = f"beside-the-stuck-{time.monotonic_ns()}"
        pids = {script("import time; print(); time.sleep(300)", tag).pid for _ in range(2)}
        start_s = time.monotonic()
        done = memreap("kill", "--json", "--match", tag)
        assert time.monotonic() - start_s < 6
        found = {record["pid"]: record for record in records(done)}
        assert found.keys() == pids | {stuck.pid}
        assert {found[pid]["outcome"] for pid in pids} == {"exited"}
        assert found[stuck.pid]["outcome"] == "refused"
        assert "hangs" in found[stuck.pid]["reason"]
        assert is_alive(stuck.pid)
        assert done.returncode == 0, "a doubt is named, and is no failure"

    def test_only_doubts_are_a_refusal(self, stuck: Staged, memreap: Memreap) -> None:
        done = memreap("kill", "--json", "--match", f"nobody-{time.monotonic_ns()}")
        assert outcomes(done) == {stuck.pid: "refused"}
        assert done.returncode == 3

    def test_a_command_line_of_hostile_bytes(self, script: Script, memreap: Memreap) -> None:
        tag = f"hostile-{time.monotonic_ns()}"
        name = b"\xff\x1b[2J\n" + tag.encode()
        pid = script("import time; print(); time.sleep(300)", os.fsdecode(name)).pid
        done = memreap("kill", "--match", tag)
        assert done.returncode == 0
        assert "\x1b" not in done.stdout
        assert not is_alive(pid)


TREE = """
import os, signal
read, write = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        if os.fork() == 0:
            os.write(write, b"!")
            signal.pause()
        os.setsid()
        os.write(write, b"!")
        signal.pause()
for _ in range(4):
    os.read(read, 1)
print("grown", flush=True)
signal.pause()
"""


def test_a_tree_goes_with_all_its_branches(script: Script, memreap: Memreap) -> None:
    root = script(TREE)
    children = PROC.children(root.pid)
    family = [root.pid, *children, *(pid for child in children for pid in PROC.children(child))]
    assert len(family) == 5
    done = memreap("kill", "--json", "--tree", root.pid)
    assert outcomes(done) == dict.fromkeys(family, "exited")
    assert done.returncode == 0


class TestCgroup:
    @pytest.fixture(params=["v1", "v2"])
    def group(self, request: pytest.FixtureRequest) -> Iterator[Path]:
        kind = {"v1": "cgroup", "v2": "cgroup2"}[request.param]
        roots = [
            root
            for root, mounted, options in cgroups.mounts(PROC)
            if mounted == kind and (kind == "cgroup2" or "memory" in options)
        ]
        if not roots:
            pytest.skip(f"no cgroup {request.param} hierarchy")
        folder = roots[0] / f"memreap-test-{os.getpid()}-{time.monotonic_ns()}"
        try:
            folder.mkdir()
        except OSError as error:
            pytest.skip(f"may not make a cgroup: {error}")
        try:
            yield folder
        finally:
            cgroups.remove(folder)

    def test_a_fork_bomb_is_gone(self, group: Path, memreap: Memreap) -> None:
        with stage("fork-bomb", 100 * MIB, cgroups=[group]) as staged:
            deadline_s = time.monotonic() + 3
            while len(cgroups.members(group)) < 40:
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
            done = memreap("kill", "--json", "--cgroup", group)
            left = [pid for pid in cgroups.members(group) if is_alive(pid)]
            ended = records(done)
            assert left == []
        assert done.returncode == 0, (done.stderr, ended)
        assert staged.pid in {record["pid"] for record in ended}
        assert {record["outcome"] for record in ended} == {"exited"}

    def test_by_the_name_that_proc_gives_it(
        self, group: Path, script: Script, memreap: Memreap
    ) -> None:
        process = script("import time; print(); time.sleep(300)")
        (group / "cgroup.procs").write_text(str(process.pid))
        done = memreap("kill", "--json", "--cgroup", f"/{group.name}")
        assert outcomes(done) == {process.pid: "exited"}

    def test_groups_below_go_too(self, group: Path, script: Script, memreap: Memreap) -> None:
        process = script("import time; print(); time.sleep(300)")
        (group / "below").mkdir()
        try:
            (group / "below" / "cgroup.procs").write_text(str(process.pid))
            assert outcomes(memreap("kill", "--json", "--cgroup", group)) == {process.pid: "exited"}
        finally:
            process.kill()
            process.wait()
            cgroups.remove(group / "below")

    def test_an_empty_one_has_no_process(self, group: Path, memreap: Memreap) -> None:
        assert memreap("kill", "--cgroup", group).returncode == 4

    def test_what_a_member_leaves_behind_on_sigterm_is_ended(
        self, group: Path, script: Script, memreap: Memreap
    ) -> None:
        process = script(BEQUEATHS)
        (group / "cgroup.procs").write_text(str(process.pid))
        memreap("kill", "--json", "--term-first", 2, "--cgroup", group)
        left = cgroups.members(group)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert left == []

    def test_memreap_inside_kills_the_others_and_says_who_it_spared(
        self, group: Path, sleeper: Callable[[], int]
    ) -> None:
        pid = sleeper()
        (group / "cgroup.procs").write_text(str(pid))
        command = f"echo $$ > {group}/cgroup.procs; exec '{sys.executable}' -m memreap kill"
        with subprocess.Popen(
            ["/bin/sh", "-c", f"{command} --json --cgroup {group}"],
            stdout=subprocess.PIPE,
            text=True,
        ) as memreap:
            said, _ = memreap.communicate(timeout=20)
        assert {r["pid"]: r["outcome"] for r in records(said)} == {
            pid: "exited",
            memreap.pid: "refused",
        }

    def test_an_ordinary_folder_is_no_cgroup(
        self, tmp_path: Path, sleeper: Callable[[], int], memreap: Memreap
    ) -> None:
        pid = sleeper()
        (tmp_path / "cgroup.procs").write_text(f"{pid}\n")
        assert memreap("kill", "--cgroup", tmp_path).returncode == 2
        assert is_alive(pid)


BEQUEATHS = """
import os, signal, time
def leave(number, frame):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(20)
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
while True:
    time.sleep(300)
"""


class TestTermFirst:
    def test_who_leaves_is_not_killed(self, memreap: Memreap) -> None:
        with stage("leaves-on-term", SIZE_BYTES) as staged:
            start_s = time.monotonic()
            done = memreap("kill", "--json", "--term-first", 5, staged.pid)
            assert time.monotonic() - start_s < 3, "nobody waits for one that has left"
        (record,) = records(done)
        assert (done.returncode, record["outcome"], record["attempts"]) == (0, "exited", 0)
        assert "SIGTERM" in record["reason"]
        assert record["seconds_to_exit"] >= 0.2
        assert record["released_bytes"] >= SIZE_BYTES

    def test_who_stays_is_killed(self, memreap: Memreap) -> None:
        with stage("ignores-term", SIZE_BYTES) as staged:
            start_s = time.monotonic()
            done = memreap("kill", "--json", "--term-first", 0.5, staged.pid)
            assert time.monotonic() - start_s >= 0.5
            assert not is_alive(staged.pid)
        (record,) = records(done)
        assert (done.returncode, record["outcome"]) == (0, "exited")
        assert record["attempts"] >= 1
        assert "SIGTERM" not in record["reason"]

    def test_both_together(self, memreap: Memreap) -> None:
        with (
            stage("ignores-term", SIZE_BYTES) as stays,
            stage("leaves-on-term", SIZE_BYTES) as leaves,
        ):
            done = memreap("kill", "--json", "--term-first", 1, stays.pid, leaves.pid)
        assert outcomes(done) == {stays.pid: "exited", leaves.pid: "exited"}

    def test_an_interrupt_meanwhile_kills_nobody_and_tells_who_left(self) -> None:
        with (
            stage("ignores-term", 16 * MIB) as stays,
            stage("leaves-on-term", 16 * MIB) as leaves,
        ):
            with begun("--json", "--term-first", "20", str(stays.pid), str(leaves.pid)) as memreap:
                deadline_s = time.monotonic() + 5
                while is_alive(leaves.pid) and time.monotonic() < deadline_s:
                    time.sleep(0.01)
                time.sleep(0.1)
                memreap.send_signal(signal.SIGINT)
                said, complaint = memreap.communicate(timeout=5)
            assert is_alive(stays.pid)
        assert memreap.returncode == 130
        assert "Traceback" not in complaint
        found = {record["pid"]: record for record in records(said)}
        assert found[leaves.pid]["outcome"] == "exited"
        assert found[stays.pid]["outcome"] == "refused"
        assert "before SIGKILL" in found[stays.pid]["reason"]


class TestMany:
    def test_all_are_killed_before_anyone_is_waited_for(
        self, stuck: Staged, nursery: Callable[[int], int], memreap: Memreap
    ) -> None:
        pids = [nursery(16 * MIB) for _ in range(5)]
        done = memreap("kill", "--json", "--timeout", 0.5, stuck.pid, *pids)
        assert outcomes(done) == {stuck.pid: "stuck"} | dict.fromkeys(pids, "exited")
        assert records(done)[-1]["pid"] == stuck.pid, "each is told as it ends"
        assert done.returncode == 1

    def test_every_one_of_several_large_ones_is_reaped(
        self, nursery: Callable[[int], int], memreap: Memreap
    ) -> None:
        pids = [nursery(SIZE_BYTES) for _ in range(6)]
        ended = records(memreap("kill", "--json", *pids))
        assert {record["pid"]: record["outcome"] for record in ended} == dict.fromkeys(
            pids, "exited"
        )
        assert [record["attempts"] >= 1 for record in ended] == [True] * 6
        assert all(record["released_bytes"] >= SIZE_BYTES for record in ended)

    def test_more_than_there_are_reapers(
        self, sleeper: Callable[[], int], memreap: Memreap
    ) -> None:
        pids = [sleeper() for _ in range(45)]
        done = memreap("kill", "--json", *pids)
        assert outcomes(done) == dict.fromkeys(pids, "exited")
        assert len(records(done)) == 45
        assert done.returncode == 0

    def test_more_than_1024_descriptors_worth(
        self, sleeper: Callable[[], int], memreap: Memreap
    ) -> None:
        pids = [sleeper() for _ in range(1100)]
        done = memreap("kill", "--json", *pids, timeout_s=60)
        assert outcomes(done) == dict.fromkeys(pids, "exited"), done.stderr
        assert done.returncode == 0


@contextlib.contextmanager
def begun(*args: str) -> Iterator[subprocess.Popen[str]]:
    """The command at work, in a session of its own; nobody of that session outlives it."""
    memreap = subprocess.Popen(
        [sys.executable, "-m", "memreap", "kill", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield memreap
    finally:
        memreap.kill()
        memreap.communicate()
    deadline_s = time.monotonic() + 5
    while left := living_of(memreap.pid):
        assert time.monotonic() < deadline_s, left
        time.sleep(0.01)


def living_of(session: int) -> list[int]:
    return [pid for pid in PROC.pids() if session_of(pid) == session and is_alive(pid)]


def wait_for_kill(pid: int, timeout_s: float = 10.0) -> None:
    """Until SIGKILL was sent to one that cannot take it."""
    deadline_s = time.monotonic() + timeout_s
    mask = 1 << (signal.SIGKILL - 1)
    while not any(
        int(row.split()[1], 16) & mask
        for row in Path(f"/proc/{pid}/status").read_text().splitlines()
        if row.startswith(("SigPnd", "ShdPnd"))
    ):
        assert time.monotonic() < deadline_s, f"nobody killed {pid}"
        time.sleep(0.005)


def session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("several", [False, True])
def test_an_interrupt_ends_it_with_the_record(
    number: signal.Signals, several: bool, stuck: Staged, sleeper: Callable[[], int]
) -> None:
    other = [str(sleeper())] if several else []
    with begun("--json", "--timeout", "30", str(stuck.pid), *other) as memreap:
        wait_for_kill(stuck.pid)
        assert memreap.poll() is None
        start_s = time.monotonic()
        memreap.send_signal(number)
        said, complaint = memreap.communicate(timeout=20)
        assert time.monotonic() - start_s < 10, "not the 30 s that it was to wait"
    assert (memreap.returncode, complaint) == (130, "")
    ended = {record["pid"]: record for record in records(said)}
    assert ended.keys() == {stuck.pid, *map(int, other)}
    assert ended[stuck.pid]["outcome"] == "stuck"
    assert "interrupted" in ended[stuck.pid]["reason"]


def test_its_own_death_leaves_no_worker(stuck: Staged) -> None:
    with begun("--timeout", "30", str(stuck.pid)) as memreap:
        wait_for_kill(stuck.pid)
        memreap.kill()
        memreap.wait(5)
