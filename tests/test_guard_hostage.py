"""Who hangs takes nobody along: scouts and reapers are lost to victims, the guard goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.guarding import HOG, Guard, Hog, alive, keeping, limited, usage_bytes

from memreap.linux.procfs import Procfs
from memreap.linux.worker import has_exited
from memreap.telling.asking import ask
from memreap.victims import Staged, stage

pytestmark = [pytest.mark.kernel, pytest.mark.skipif("os.geteuid() != 0", reason="needs root")]

MIB = 1 << 20
Start = Callable[..., Guard]
StartHog = Callable[..., Hog]
MakeCgroup = Callable[[str], Path]
Possible = dict[str, str | None]
WATCHED_S = 0.3  # a look at a domain above its line is due several times within this

# One more kind of victim, for the host that stages them: see memreap.victims.kinds.
MORE_KINDS = """
import ctypes, mmap, os, runpy, sys, threading
from memreap.victims import kinds
from memreap.victims.scene import address, sleep_for_ever

def hung_shared(scene):
    "Hangs, and its memory is of the sort that no reap can take."
    memory = mmap.mmap(-1, scene.order.size_bytes)
    ctypes.memset(address(memory), 1, len(memory))
    fd = scene.hung.open(os.O_RDONLY | os.O_DIRECT)
    page = memoryview(memory)[:4096]
    threading.Thread(target=os.preadv, args=(fd, [page], 0), daemon=True).start()
    scene.hung.wait_for_read()
    scene.report()
    sleep_for_ever()

kinds.KINDS["hung-shared"] = kinds.Kind(hung_shared, hung_file=True)
sys.argv[0] = "memreap.victims"
runpy.run_module("memreap.victims", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def more_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kind above can be staged like any other."""
    module = sys.modules["memreap.victims.stage"]
    root = str(Path(str(module.__file__)).resolve().parents[2])

    def spawn(args: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-S", "-c", MORE_KINDS, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": root},
        )

    monkeypatch.setattr(module, "_spawn", spawn)


@contextlib.contextmanager
def staged(possible: Possible, kind: str, mib: int, *cgroups: Path) -> Iterator[Staged]:
    """A victim, if this machine allows it."""
    known = {"hung-shared": "hung-thread"}.get(kind, kind)
    if why := possible.get(known):
        pytest.skip(f"no {kind} victim here: {why}")
    with stage(kind, mib * MIB, cgroups=cgroups) as victim:
        yield victim


def scout_of(one: Guard) -> int:
    """The one at work: the elder, since the one in waiting was forked behind it."""
    pids: list[int] = one.wait_for(lambda: one.children().get("memreap-scout"))
    return min(pids, key=lambda pid: Procfs().stat(pid).start_ticks * (1 << 22) + pid)


def relieves(one: Guard, big: Hog) -> None:
    """That a hog dies of it, and the incident ends."""
    one.wait_for(lambda: big.was_killed)
    one.wait_for_turn("relieved")
    assert [turn["victim"]["pids"] for turn in one.turns("killed")] == [[big.pid]]


def test_a_scout_stuck_on_a_command_line_is_replaced_and_that_line_left_alone(
    guard: Start, hog: StartHog, cgroup: MakeCgroup, possible: Possible
) -> None:
    directory = limited(cgroup("memory"), 600)
    with staged(possible, "hung-mmap-lock", 50, directory) as hung:
        one = guard("--cgroup", directory, "--limit", "300M")
        one.wait_for(lambda: f"the command line of pid {hung.pid}: replaced" in one.log)
        time.sleep(1)  # the next one does not read it again
        assert one.log.count("a scout was lost") == 1
        relieves(one, hog(directory, 350, 500))
        assert alive(hung.pid)


def test_a_scout_that_stops_while_it_has_nothing_to_do_accuses_nobody(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    directory = limited(cgroup("memory"), 600)
    big = hog(directory, 250)
    big.wait_full()
    one = guard("--cgroup", directory, "--limit", "300M")
    time.sleep(WATCHED_S)
    os.kill(scout_of(one), signal.SIGSTOP)
    with keeping(more := Hog(directory, 80, 400)):
        one.wait_for(lambda: big.was_killed)
        one.wait_for_turn("relieved")
        one.wait_for(lambda: "a scout was lost" in one.log)
        assert not more.was_killed


def test_scouts_that_stop_again_and_again_in_the_midst_of_looks(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    """What a scout is that drops the last reference to a dying mm, and hangs in exit_aio with it.

    A reader of /proc/PID/cmdline was seen to be taken hostage so, but it is a race of microseconds
    that no test can win at will: FOLL_ANON keeps a page that never comes from holding the read
    (CVE-2018-1120), and a wait for mmap_lock ends with the reader. So scouts are stopped instead.
    """
    directory = limited(cgroup("memory"), 800)
    small = hog(directory, 30)
    small.wait_full()
    one = guard("--cgroup", directory, "--limit", "300M")
    slow = hog(directory, 400, 120)
    for _ in range(4):
        time.sleep(0.4)
        with contextlib.suppress(ProcessLookupError, ValueError, AssertionError):
            os.kill(scout_of(one), signal.SIGSTOP)
    one.wait_for(lambda: slow.was_killed)
    one.wait_for_turn("relieved")
    assert small.process.poll() is None


def test_a_tree_is_guarded_although_its_scout_stopped(guard: Start) -> None:
    parent = subprocess.Popen(
        [
            *(sys.executable, "-S", "-c"),
            "import subprocess, sys, time\n"
            "sys.stdin.readline()\n"
            f"hog = subprocess.Popen([sys.executable, '-S', '-c', {HOG!r}, '', '300', '400'],"
            " stdout=subprocess.DEVNULL)\n"
            "print(hog.wait(), flush=True)\n"
            "time.sleep(60)\n",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    try:
        one = guard("--tree", parent.pid, "--limit", "200M")
        time.sleep(WATCHED_S)
        os.kill(scout_of(one), signal.SIGSTOP)
        parent.stdin.write("go\n")
        parent.stdin.flush()
        one.wait_for(lambda: one.turns("killed"), 8)
        assert parent.stdout.readline().strip() == "-9"
        assert "a scout was lost" in one.log
    finally:
        os.killpg(parent.pid, signal.SIGKILL)
        parent.communicate()


def test_a_reap_that_waits_for_ever_is_passed_over_and_the_guard_answers_meanwhile(
    guard: Start, hog: StartHog, cgroup: MakeCgroup, possible: Possible
) -> None:
    directory = limited(cgroup("memory"), 800)
    with staged(possible, "hung-mmap-lock", 250, directory) as hung:
        one = guard("--cgroup", directory, "--limit", "300M", "--patience", "1")
        one.wait_for(lambda: f"the command line of pid {hung.pid}: replaced" in one.log)
        second, small = hog(directory, 120, 400), hog(directory, 20)
        first = one.wait_for_turn("killed")
        assert first["victim"]["pids"] == [hung.pid]
        answers = []
        while len(one.turns("skipped")) == 0:
            asked_s = time.monotonic()
            answers.append(ask(str(one.socket))["domains"][0]["phase"])
            assert time.monotonic() - asked_s < 2
        assert "releasing" in answers
        one.wait_for(lambda: second.was_killed)
        killed, skipped = one.wait_for_turn("killed", 2), one.turns("skipped")[0]
        assert "no progress for 1 s" in skipped["reason"]
        assert killed["at_s"] - first["at_s"] > 0.9
        # What is left of the first is all that is left over the line; nobody dies for the rest.
        time.sleep(0.5)
        assert small.process.poll() is None


@pytest.mark.parametrize("kind", ["hung-aio", "hung-thread"])
def test_memory_is_back_though_the_process_hangs(
    guard: Start, hog: StartHog, cgroup: MakeCgroup, possible: Possible, kind: str
) -> None:
    directory = limited(cgroup("memory"), 600)
    with staged(possible, kind, 250, directory) as hung:
        pidfd = os.pidfd_open(hung.pid)
        try:
            one = guard("--cgroup", directory, "--limit", "300M")
            other = hog(directory, 100, 400)
            one.wait_for_turn("relieved")
            assert not has_exited(pidfd)
            outcome = one.wait_for_turn("outcome")["outcome"]
            assert (outcome["outcome"], outcome["pid"]) == ("reaped", hung.pid)
            assert usage_bytes(directory) < 200 * MIB
            assert other.process.poll() is None
            assert len(one.turns("killed")) == 1
        finally:
            os.close(pidfd)


def test_shared_memory_that_comes_back_with_the_exit_is_waited_for(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    """The reap is done at once, since it leaves shared mappings alone; the exit frees them."""
    directory = limited(cgroup("memory"), 1000)
    source = (
        "import ctypes, mmap, time\n"
        f"open('{directory}/cgroup.procs', 'w').write('0')\n"
        "memory = mmap.mmap(-1, 600 << 20)\n"
        "ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 1, len(memory))\n"
        "print('full', flush=True)\n"
        "time.sleep(60)\n"
    )
    others = [hog(directory, 60) for _ in range(2)]
    for other in others:
        other.wait_full()
    one = guard("--cgroup", directory, "--limit", "500M")
    sharing = subprocess.Popen([sys.executable, "-S", "-c", source], stdout=subprocess.DEVNULL)
    try:
        one.wait_for_turn("relieved")
        assert sharing.wait(5) == -signal.SIGKILL
        assert [turn["victim"]["pids"] for turn in one.turns("killed")] == [[sharing.pid]]
        assert [other.process.poll() for other in others] == [None, None]
    finally:
        sharing.kill()
        sharing.wait()


def test_a_victim_whose_memory_nobody_can_take_is_followed_by_another(
    guard: Start, hog: StartHog, cgroup: MakeCgroup, possible: Possible, more_kinds: None
) -> None:
    """A thread that hangs keeps a shared mapping, which process_mrelease leaves alone."""
    directory = limited(cgroup("memory"), 800)
    with staged(possible, "hung-shared", 250, directory) as hung:
        one = guard("--cgroup", directory, "--limit", "300M", "--patience", "1")
        second = hog(directory, 120, 400)
        one.wait_for(lambda: second.was_killed)
        one.wait_for_turn("relieved")
        killed = one.turns("killed")
        assert [turn["victim"]["pids"] for turn in killed] == [[hung.pid], [second.pid]]
        assert one.turns("released", "skipped")[0]["victim"]["pids"] == [hung.pid]
        assert killed[1]["at_s"] - killed[0]["at_s"] >= 0.4
        assert usage_bytes(directory) > 240 * MIB


def test_one_that_shares_its_memory_with_a_protected_process_is_refused(
    guard: Start, hog: StartHog, cgroup: MakeCgroup, possible: Possible, tmp_path: Path
) -> None:
    directory = limited(cgroup("memory"), 800)
    kept = directory / "kept"
    kept.mkdir()
    config = tmp_path / "memreap.toml"
    config.write_text(f'[[protect]]\ncgroup = "/{directory.name}/kept"\n')
    try:
        with staged(possible, "shared", 250, directory) as victim:
            (kept / "cgroup.procs").write_text(str(victim.sharers[0]))
            one = guard("--config", config, "--cgroup", directory, "--limit", "300M")
            second = hog(directory, 120, 400)
            one.wait_for(lambda: second.was_killed)
            one.wait_for_turn("relieved")
            ranked = one.turns("chosen")[0]["choice"]["candidates"]
            whys = {one["pids"][0]: one["why_not"] for one in ranked}
            assert f"shares its memory with pid {victim.sharers[0]}" in whys[victim.pid]
            assert "protected" in whys[victim.pid]
            assert alive(victim.pid)
            assert alive(victim.sharers[0])
    finally:
        with contextlib.suppress(OSError):
            kept.rmdir()


def test_a_sharer_that_is_protected_in_another_cgroup_is_respected(
    guard: Start, hog: StartHog, cgroup: MakeCgroup, possible: Possible, tmp_path: Path
) -> None:
    directory, kept = limited(cgroup("memory"), 800), cgroup("memory")
    config = tmp_path / "memreap.toml"
    config.write_text(f'[[protect]]\ncgroup = "/{kept.name}"\n')
    with staged(possible, "shared", 250, directory) as victim:
        (kept / "cgroup.procs").write_text(str(victim.sharers[0]))
        one = guard("--config", config, "--cgroup", directory, "--limit", "300M")
        second = hog(directory, 120, 400)
        one.wait_for(lambda: second.was_killed)
        one.wait_for_turn("relieved")
        assert alive(victim.sharers[0])


def test_a_sharer_in_another_cgroup_dies_too_and_nobody_for_it(
    guard: Start, hog: StartHog, cgroup: MakeCgroup, possible: Possible
) -> None:
    directory, elsewhere = limited(cgroup("memory"), 800), cgroup("memory")
    with staged(possible, "shared", 250, directory) as victim:
        (elsewhere / "cgroup.procs").write_text(str(victim.sharers[0]))
        one = guard("--cgroup", directory, "--limit", "300M")
        second = hog(directory, 100, 400)
        one.wait_for_turn("relieved")
        one.wait_for(lambda: not alive(victim.sharers[0]))
        outcome = one.wait_for_turn("outcome")["outcome"]
        assert outcome["outcome"] != "stuck", outcome["reason"]
        assert [turn["victim"]["pids"] for turn in one.turns("killed")] == [[victim.pid]]
        assert second.process.poll() is None
