"""Who belongs to the tree, and what they use: on real processes that do no harm."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from tests.guarding import leaderless

from memreap.linux import syscalls
from memreap.linux.kin import LastPid, kin, parse_kin
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Worker
from memreap.run.snapshot import candidates
from memreap.run.tree import Member, Tree
from memreap.run.usage import Shares, TreeMeter, distinct

MIB = 1 << 20


@pytest.fixture
def tree() -> Iterator[Tree]:
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    it = Tree(Procfs())
    it.raise_descriptor_limit()
    it.refresh(time.monotonic())
    yield it
    it.close()
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 0)


def pids(tree: Tree) -> set[int]:
    tree.refresh(time.monotonic())
    return set(tree.members)


def test_a_member_whose_first_thread_has_ended_counts(tree: Tree) -> None:
    meter = TreeMeter(tree, 1 << 40)
    before = meter.read(time.monotonic())
    assert before is not None
    with leaderless("", 90) as hog:
        usage = meter.read(time.monotonic())
        assert usage is not None
        assert usage - before > 90 * MIB
        (member,) = (m for m in tree if m.pid == hog.pid)
        assert member.statm.tid != hog.pid
        (candidate,) = (c for c in candidates(tree) if c.identity.pid == hog.pid)
        assert candidate.has_mm
        assert candidate.pages > 90 * 256
        precise = TreeMeter(tree, usage - before - 20 * MIB)  # between the bounds, or above both
        deadline_s = time.monotonic() + 5
        while (found := precise.read(time.monotonic())) is None:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        assert found > 90 * MIB
        precise.close()
    meter.close()


def test_children_grandchildren_and_orphans_belong(tree: Tree) -> None:
    others = tree.alive()  # what other tests left, a guest for example
    with subprocess.Popen(
        [
            "sh",
            "-c",
            "(sleep 30 & echo $!) ; setsid sleep 30 >/dev/null & echo $!; read x; kill $!",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        orphan, other = int(child.stdout.readline()), int(child.stdout.readline())
        time.sleep(0.05)
        found = pids(tree)
        assert {child.pid, orphan, other} <= found
        assert os.getpid() not in found
        os.kill(orphan, 9)
        child.communicate("\n")
    deadline_s = time.monotonic() + 5
    tree.bury(spared=0)
    while tree.alive() > others or orphan in pids(tree):
        assert time.monotonic() < deadline_s
        tree.bury(spared=0)


def test_strangers_and_our_own_helpers_do_not_belong(tree: Tree) -> None:
    helper = Worker(lambda _: time.sleep(5))
    assert kin(helper.pid, Procfs()).birthmark == kin(os.getpid(), Procfs()).birthmark
    assert helper.pid not in pids(tree)
    assert 1 not in pids(tree)
    helper.give_up()


def test_a_quiet_machine_is_one_read(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(tree, "_adopt", asked.append)
    tree._full_look_owed = False
    newest = tree._last_pid.read()
    tree._seen_from = tree._seen_to = newest
    tree.refresh(time.monotonic())
    if tree._last_pid.read() != newest:
        pytest.skip("the machine is not quiet")
    assert not asked, "nobody was born"


def test_pids_that_go_around_are_new(tree: Tree) -> None:
    tree._seen_from = 32000
    assert tree._is_new(32001, 400)
    assert tree._is_new(400, 400)
    assert not tree._is_new(401, 400)
    assert not tree._is_new(32000, 400)


def test_hostile_names_do_not_confuse_kinship() -> None:
    fields = b" ".join(b"%d" % n for n in range(3, 53)).replace(b"3", b"S", 1)
    found = parse_kin(b"77 (a) R 1 (b\n) " + fields)
    assert (found.pid, found.ppid, found.start_ticks) == (77, 4, 22)
    assert found.birthmark == (28, 48, 49, 50, 51)


def settle(meter: TreeMeter) -> int:
    for _ in range(1000):
        usage = meter.read(time.monotonic())
        if usage is not None:
            return usage
        time.sleep(0.005)
    raise AssertionError("no verdict")


FORKS = """
import os, time, sys
x = bytearray(40 << 20)
for _ in range(4):
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
print("ready", flush=True)
sys.stdin.read()
os.killpg(0, 9)
"""


def test_shared_pages_count_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        meter = TreeMeter(tree, 100 * MIB)
        assert 35 * MIB < settle(meter) < 90 * MIB
        assert meter.pss_readings >= 1
        # Within the sum, and over it, no shares are needed.
        wide, narrow = TreeMeter(tree, 1000 * MIB), TreeMeter(tree, 20 * MIB)
        assert settle(wide) > 200 * MIB
        assert settle(narrow) > 40 * MIB
        assert wide.pss_readings == narrow.pss_readings == 0
        monkeypatch.setattr(tree, "stillness", lambda: lambda: True)
        assert wide.stillness() is not None
        assert meter.stillness() is None, "what is shared may become one's own, and no size moves"
        meter.close()
        child.communicate(b"")
    time.sleep(0.05)
    tree.bury(spared=0)


class Telling:
    """A worker that says one share after another."""

    ended = False

    def __init__(self) -> None:
        self.says: list[tuple[int, int, float]] = []

    def hear(self) -> Iterator[tuple[object, list[int]]]:
        said, self.says = self.says, []
        yield said, []

    def give_up(self) -> None:
        self.ended = True


def test_who_dies_while_shares_are_read_is_not_counted_twice() -> None:
    worker, hog = Telling(), SimpleNamespace(pid=1, dying_bytes=None)
    others = [SimpleNamespace(pid=pid, dying_bytes=None) for pid in (2, 3)]
    meter = TreeMeter.__new__(TreeMeter)
    meter._limit_bytes, meter._tree = 150, cast("Tree", [hog, *others])
    meter._shares = Shares(worker=cast("Worker", worker), missing={1: 120, 2: 60, 3: 60})
    worker.says = [(1, 120, 0.0)]
    meter._hear(0.0, dying=0)
    hog.dying_bytes = 120
    worker.says = [(2, 25, 0.0)]
    meter._hear(0.01, dying=110)
    meter._tree = cast("Tree", others)  # it is gone, and its memory back
    worker.says = [(3, 25, 0.0)]
    meter._hear(0.02, dying=0)
    assert meter._shares.pss_bytes == 50


def test_only_the_dying_are_settled(tree: Tree) -> None:
    with subprocess.Popen(["sleep", "30"]) as child, contextlib.ExitStack() as stack:
        stack.callback(child.kill)
        assert child.pid in pids(tree)
        TreeMeter(tree, MIB).read(time.monotonic())
        tree.settle(child.pid)
        assert tree.members[child.pid].dying_bytes is None, "another one of its number"
        tree.doom(child.pid)
        assert tree.members[child.pid].dying_bytes
        tree.settle(child.pid)
        assert tree.members[child.pid].dying_bytes == 0


def test_a_hung_reading_is_given_up(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memreap.run.usage.read_shares", lambda *_: time.sleep(30))
    monkeypatch.setattr("memreap.run.usage.SILENCE_S", 0.05)
    with subprocess.Popen(
        [sys.executable, "-c", FORKS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        meter = TreeMeter(tree, 100 * MIB)
        assert settle(meter) > 200 * MIB
        assert meter.hung_readings == 1
        meter.close()
        child.communicate(b"")
    time.sleep(0.05)
    tree.bury(spared=0)


def test_what_shares_cost_is_cpu_time_and_not_others_turns() -> None:
    """Else on a busy machine they would be read so rarely that nobody is caught."""
    worker = Telling()
    meter = TreeMeter.__new__(TreeMeter)
    meter._limit_bytes, meter._tree = 150, cast("Tree", [SimpleNamespace(pid=1, dying_bytes=None)])
    meter._shares = Shares(worker=cast("Worker", worker), missing={1: 120})
    worker.says = [(1, 100, 0.002)]
    meter._hear(0.4, dying=0)
    assert meter._shares.cost_s == 0.002
    assert meter._shares.is_due(0.4 + 0.3, within=True)


def test_threads_of_one_mm_count_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    members = [
        Member(member_id(pid), SimpleNamespace(tid=pid))  # type: ignore[arg-type]
        for pid in (10, 11, 12)
    ]
    for member in members:
        member.resident = member.size = 10_000
    mm = {10: 1, 11: 2, 12: 1}

    def kcmp(a: int, b: int) -> int:
        return 0 if mm[a] == mm[b] else 1 if mm[a] < mm[b] else 2

    monkeypatch.setattr(syscalls, "kcmp_vm", kcmp)
    assert sorted(mm[m.pid] for m in distinct(members)) == [1, 2]


def member_id(pid: int):  # type: ignore[no-untyped-def]
    from memreap.decide.events import Identity

    return Identity(pid, 1)


def test_growth_since_the_last_shares_is_taken_as_real() -> None:
    shares = Shares(pss_bytes=50, upper_bytes=200)
    assert shares.estimate_bytes(200) == 50
    assert shares.estimate_bytes(230) == 80
    assert shares.estimate_bytes(30) == 30
    assert Shares().estimate_bytes(30) is None


def test_a_still_tree_is_still_until_somebody_is_born_or_killed(tree: Tree) -> None:
    with subprocess.Popen(["sleep", "60"]) as child, contextlib.ExitStack() as stack:
        stack.callback(child.kill)
        meter = TreeMeter(tree, 1 << 30)
        last_pid, newest = LastPid(Procfs()), 0
        quiet_s = began_s = time.monotonic()
        is_still = None
        while not (is_still and is_still()):
            now_s = time.monotonic()
            if last_pid.read() != newest:
                newest, quiet_s = last_pid.read(), now_s
            assert now_s - quiet_s < 10, "nobody was born, and it is not still"
            if now_s - began_s > 20:
                pytest.skip("others on this machine fork all the time")
            time.sleep(0.05)
            meter.read(time.monotonic())
            is_still = meter.stillness()
        subprocess.run(["true"], check=True)
        assert not is_still(), "somebody was born"
        tree.doom(child.pid)
        assert tree.stillness() is None, "nothing of it may be read any more, not even to tell"
        child.kill()
