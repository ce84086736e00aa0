"""Many young processes of one program: who makes a crowd, and that it dies as one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.guarding import Guard, Hog, limited, wait_for_exec

from memreap.decide.events import Identity, Tier
from memreap.decide.policy import Judgement, Policy, Rule, Verdict
from memreap.guard import crowd
from memreap.guard.chase import Chase
from memreap.guard.reading import YOUNG_S, Read
from memreap.linux.procfs import CLOCK_TICKS_PER_S, PAGE_SIZE_BYTES, Memory, Procfs, Stat

MIB = 1 << 20
UID = 61234  # nobody's here
MEMBERS = 60


def now_ticks(ago_s: float = 0.0) -> int:
    return int((time.clock_gettime(time.CLOCK_BOOTTIME) - ago_s) * CLOCK_TICKS_PER_S)


def read(pid: int, name: str = "bomb", ago_s: float = 1.0, uid: int = 1000) -> Read:
    stat = Stat(pid, name, "S", 1, 0, 1, now_ticks(ago_s))
    memory = Memory(rss_anon_bytes=8 * MIB, rss_file_bytes=6 * MIB, uid=uid)
    identity = Identity(pid, stat.start_ticks)
    return Read(identity, stat, memory, 0, "/app.scope", "", "app.scope", "user", Judgement())


def test_a_crowd_is_many_of_one_kind() -> None:
    many = [read(pid) for pid in range(100, 100 + crowd.LEAST)]
    assert [kind.name for kind in crowd.found(many)] == ["bomb"]
    assert not crowd.found(many[1:])
    assert not crowd.found([*many[1:], read(99, "other"), read(98, uid=0)])


def test_those_who_have_been_there_for_long_are_no_crowd() -> None:
    workers = [read(pid, "postgres", ago_s=YOUNG_S + 1) for pid in range(100, 200)]
    assert not crowd.found(workers)
    young = [read(pid, "postgres") for pid in range(200, 200 + crowd.LEAST)]
    (kind,) = crowd.found([*workers, *young])
    assert [crowd.kind(one) == kind for one in (workers[0], young[0])] == [False, True]


@pytest.mark.parametrize(
    "judgement",
    [Judgement(barred="protected"), Judgement(tier=Tier.AVOID), Judgement(together="cgroup:/x")],
)
def test_whom_policy_speaks_of_is_in_no_crowd(judgement: Judgement) -> None:
    many = [replace(read(pid), judgement=judgement) for pid in range(100, 200)]
    assert not crowd.found(many)


def test_what_a_crowd_shares_is_counted_once_and_it_holds_no_more_than_there_is() -> None:
    many = [read(pid) for pid in range(100, 120)]
    assert crowd.resident_pages(many, 1 << 30) == (20 * 8 + 6) * MIB // PAGE_SIZE_BYTES
    assert crowd.resident_pages(many, 1000) == 1000


def test_a_crowd_may_be_where_many_are_born_or_nothing_is_known() -> None:
    births = crowd.Births()
    assert births.note(100.0, 5000), "nothing is known"
    assert not births.note(101.0, 5000 + crowd.LEAST - 1)
    assert births.note(102.0, 5000 + crowd.LEAST)
    assert not births.note(113.0, 5000 + crowd.LEAST + 1), "those were born long ago"
    assert births.note(114.0, 300), "pids began anew"


def test_a_rule_that_name_user_and_cgroup_do_not_decide_forbids_the_chase() -> None:
    named = Rule(Verdict.PROTECT, name="sshd")
    assert crowd.may_be_chased(Policy(rules=(named, Rule(Verdict.AVOID, command="x"))))
    assert not crowd.may_be_chased(Policy(rules=(Rule(Verdict.PROTECT, command="important"),)))
    assert not crowd.may_be_chased(Policy(rules=(Rule(Verdict.PROTECT, exe="/opt/*"),)))


@pytest.fixture
def sleepers() -> Iterator[Callable[..., int]]:
    with contextlib.ExitStack() as stack:

        def start(*argv: str, uid: int | None = None) -> int:
            argv = argv or ("sleep", "60")
            process = stack.enter_context(subprocess.Popen(argv, user=uid))
            stack.callback(process.kill)
            wait_for_exec(process.pid, argv[0])
            return process.pid

        yield start


def caught(chase: Chase) -> list[int]:
    found = [one for born in chase.rounds() for one in born]
    for _, pidfd in found:
        os.close(pidfd)
    return [pid for pid, _ in found]


@pytest.mark.kernel
@pytest.mark.skipif("os.geteuid() != 0", reason="needs root, to be somebody else")
def test_only_newborn_of_its_kind_are_chased(
    sleepers: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = sleepers()
    kin, spared, stranger, unkillable = sleepers(), sleepers(), sleepers(uid=UID), sleepers()
    named = sleepers("tail", "-f", "/dev/null")
    adj = Procfs.oom_score_adj
    monkeypatch.setattr(
        Procfs, "oom_score_adj", lambda self, pid: -1000 if pid == unkillable else adj(self, pid)
    )
    everyone = (old, kin, spared, stranger, unkillable, named, 1 << 21)
    (tmp_path / "cgroup.procs").write_text("\n".join(map(str, everyone)))
    uid = Path(f"/proc/{kin}").stat().st_uid
    assert caught(Chase(str(tmp_path), "sleep", uid, old, {spared})) == [kin]
    assert caught(Chase(str(tmp_path / "gone"), "sleep", uid, old, {spared})) == []


# Every member takes memory, and goes on making others for as long as it lives.
BOMB = f"""
import ctypes, os, resource, signal, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
ctypes.CDLL(None).prctl(15, b"bomb")
resource.setrlimit(resource.RLIMIT_NPROC, ({MEMBERS}, {MEMBERS}))
os.setresgid({UID}, {UID}, {UID}); os.setresuid({UID}, {UID}, {UID})
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("lit", flush=True)
until = time.monotonic() + 60
memory = bytearray(6 << 20)
while time.monotonic() < until:
    time.sleep(0.03)
    try:
        if os.fork() == 0:
            memory = bytearray(6 << 20)
    except OSError:
        pass
"""


def members(directory: Path) -> set[int]:
    found = set()
    for pid in map(int, (directory / "cgroup.procs").read_text().split()):
        with contextlib.suppress(FileNotFoundError):  # whoever is gone meanwhile is no member
            if Path(f"/proc/{pid}").stat().st_uid == UID:
                found.add(pid)
    return found


@contextlib.contextmanager
def bomb(directory: Path) -> Iterator[None]:
    argv = [sys.executable, "-S", "-c", BOMB, str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        try:
            assert first.stdout.readline() == b"lit\n"
            yield
        finally:
            deadline_s = time.monotonic() + 20
            while left := members(directory):
                assert time.monotonic() < deadline_s, left
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


@pytest.mark.kernel
@pytest.mark.skipif("os.geteuid() != 0", reason="needs root")
@pytest.mark.parametrize("run", range(3))
def test_a_fork_bomb_dies_as_one_to_the_last(
    run: int,
    guard: Callable[..., Guard],
    hog: Callable[..., Hog],
    cgroup: Callable[[str], Path],
) -> None:
    directory = limited(cgroup("memory"), 900)
    one = guard("--cgroup", directory, "--limit", "260M")
    bystander = hog(directory, 60)  # larger than any of them
    bystander.wait_full()
    with bomb(directory):
        one.wait_for_turn("relieved")
        one.wait_for(lambda: not members(directory), 10)
        time.sleep(0.5)
        assert not members(directory), "one was left, and others came"
    assert bystander.process.poll() is None
    (chosen,) = one.turns("chosen")
    assert chosen["victim"]["name"] == "bomb"
    assert chosen["victim"]["crowd"]
    assert len(chosen["victim"]["pids"]) >= crowd.LEAST


@pytest.mark.kernel
@pytest.mark.skipif("os.geteuid() != 0", reason="needs root")
def test_where_crowds_are_off_they_die_one_by_one(
    guard: Callable[..., Guard], cgroup: Callable[[str], Path], tmp_path: Path
) -> None:
    directory = limited(cgroup("memory"), 900)
    (tmp_path / "memreap.toml").write_text(
        f'[policy]\ncrowd = false\n[[cgroup]]\npath = "{directory}"\nlimit = "200M"\n'
    )
    one = guard("--config", tmp_path / "memreap.toml")
    with bomb(directory):
        chosen = one.wait_for_turn("chosen")
    assert len(chosen["victim"]["pids"]) == 1
