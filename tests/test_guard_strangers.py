"""Who dies by another's hand: the guard waits for that memory, too, before anybody else goes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from tests.guarding import Guard, Hog, alive, leaderless, limited

from memreap.decide.events import Candidate, Identity
from memreap.decide.policy import Policy, Rule, Verdict
from memreap.guard.core import Core
from memreap.guard.gauges import Figures
from memreap.guard.look import Look, Seen
from memreap.guard.post import Post
from memreap.guard.reading import Mark, Reader
from memreap.guard.scout import LISTED_MAX, Scout
from memreap.guard.settings import Kind, Scope
from memreap.guard.wards import Node
from memreap.linux.numa import numa_maps
from memreap.linux.procfs import PF_EXITING, Procfs, Stat
from memreap.linux.rss import Statm
from memreap.victims import Staged, stage

MIB = 1 << 20
live = [pytest.mark.kernel, pytest.mark.skipif("os.geteuid() != 0", reason="needs root")]
Start = Callable[..., Guard]
StartHog = Callable[..., Hog]
MakeCgroup = Callable[[str], Path]


@contextmanager
def hung(possible: dict[str, str | None], directory: Path) -> Iterator[Staged]:
    """A process of 200 MiB that hangs in its exit, with all of it, until this is left."""
    if why := possible["hung-aio"]:
        pytest.skip(f"no hung-aio victim here: {why}")
    with stage("hung-aio", 200 * MIB, cgroups=(directory,)) as victim:
        os.kill(victim.pid, signal.SIGKILL)
        deadline_s = time.monotonic() + 10
        while Procfs().resident_pages(victim.pid):
            assert time.monotonic() < deadline_s, "it keeps its mm"
            time.sleep(0.001)
        yield victim


@pytest.fixture
def place(cgroup: MakeCgroup) -> Path:
    return limited(cgroup("memory"), 600)


class TestLive:
    pytestmark = live

    def test_nobody_else_dies_while_it_exits(
        self,
        guard: Start,
        hog: StartHog,
        place: Path,
        possible: dict[str, str | None],
        memreap: Callable[..., Any],
    ) -> None:
        small = hog(place, 60)
        small.wait_full()
        with ExitStack() as stack:
            victim = stack.enter_context(hung(possible, place))
            one = guard("--cgroup", place, "--limit", "150M", "--patience", "20")
            shared = one.wait_for_turn("shared")
            assert shared["victim"]["pids"] == [victim.pid]
            time.sleep(0.5)
            assert one.turns("chosen", "released", "skipped") == []
            stack.close()
        one.wait_for_turn("released")
        one.wait_for_turn("relieved")
        assert one.turns("chosen") == []
        assert alive(small.pid)
        assert "exiting already, by another's hand" in one.log
        told = memreap("explain", "--database", one.database).stdout
        assert f"(pid {victim.pid})" in told
        assert "was chosen" not in told
        assert "another's death" in memreap("incidents", "--database", one.database).stdout

    def test_one_that_never_exits_is_waited_for_once(
        self, guard: Start, hog: StartHog, place: Path, possible: dict[str, str | None]
    ) -> None:
        small, smaller = hog(place, 80), hog(place, 40)
        for each in (small, smaller):
            each.wait_full()
        with hung(possible, place) as victim:
            one = guard("--cgroup", place, "--limit", "190M", "--patience", "0.5")
            one.wait_for(lambda: small.was_killed and smaller.was_killed)
            first = one.wait_for_turn("killed")
            assert one.wait_for_turn("skipped")["victim"]["pids"] == [victim.pid]
            (shared,) = one.turns("shared")
            assert first["at_s"] - shared["at_s"] > 0.5

    def test_a_process_that_exits_in_no_time_is_not_waited_for(
        self, guard: Start, hog: StartHog, place: Path
    ) -> None:
        one = guard("--cgroup", place, "--limit", "300M", "--patience", "20")
        for _ in range(3):
            hog(place, 30).end()
        big = hog(place, 400, 1500)
        one.wait_for(lambda: big.was_killed)
        one.wait_for_turn("relieved")
        assert one.turns("shared") == []


@pytest.mark.parametrize(
    ("name", "parent", "ours"),
    [
        ("memreap-scout", 10, True),  # a worker of the core, 10
        ("memreap-trace", 20, True),  # and of the scribe, 20
        ("sh", 10, True),
        ("sh", 20, False),  # what the scribe runs for others
        ("memreap-trace", 30, False),
        ("memreap-trace", 40, False),  # whose parent is gone
    ],
)
def test_the_guards_own_workers_are_neither_waited_for_nor_killed(
    name: str, parent: int, ours: bool
) -> None:
    here = replace(Procfs().stat(os.getpid()), flags=PF_EXITING, state="D")
    stats = {
        20: replace(here, pid=20, ppid=10),
        30: replace(here, pid=30, ppid=1),
        50: replace(here, pid=50, ppid=parent, comm=name),
    }
    procfs = Procfs()
    with mock.patch.object(Procfs, "stat", lambda _, pid: found(stats, pid)):
        reader = Reader(procfs, Policy(), Mark(), 10)
        assert (reader.exiting(50) is None) == ours
        own = reader._own(stats[50])
        assert (own is not None and own.barred == "memreap itself") == ours


def found(stats: dict[int, Stat], pid: int) -> Stat:
    if pid not in stats:
        raise ProcessLookupError
    return stats[pid]


class TestLeaderless:
    """A process whose first thread has ended: /proc/PID shows no mm, and the others have it."""

    pytestmark = live

    def test_it_is_read_like_any_other(self) -> None:
        reader = Reader(Procfs(), Policy(), Mark(), 1)
        with leaderless("", 80) as hog:
            read = reader.read(hog.pid)
            assert read is not None
            assert read.pages > 80 * 256
            assert "-S -c" in read.command
            assert os.path.basename(reader._exe(read.stat)).startswith("python")  # noqa: PTH119
            assert reader.weight(hog.pid, 1 << 20, swapping=False) >= 80 * 256  # type: ignore[operator]
            facts = reader.facts(read)
            assert facts is not None
            assert facts.living_tid != hog.pid
            here = numa_maps(hog.pid, Procfs()).bytes_by_node
            assert not here or sum(here.values()) > 80 * MIB, "where the kernel knows of nodes"

    def test_rules_know_its_cgroup(self, cgroup: MakeCgroup) -> None:
        """Though v1 names the root for a thread that has ended."""
        place = limited(cgroup("memory"), 600)
        rule = Rule(Verdict.PROTECT, cgroup=f"*/{place.name}")
        reader = Reader(Procfs(), Policy(rules=(rule,)), Mark(), 1)
        with leaderless(place, 20) as hog:
            read = reader.read(hog.pid)
            assert read is not None
            assert read.cgroup.endswith(f"/{place.name}")
            assert read.judgement.barred
            facts = reader.facts(read)
            assert facts is not None
            assert (facts.usage_file or "").startswith(f"{place}/")

    def test_the_end_of_a_thread_is_not_that_of_its_process(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        procfs = Procfs()
        with leaderless("", 20) as hog:
            statm = Statm(hog.pid, procfs)
            assert statm.read()[1] > 20 * 256
            monkeypatch.setattr(Procfs, "living_thread", lambda *_: hog.pid + (1 << 21))
            again = Statm(hog.pid, procfs)
            assert again.read() == (0, 0, 0)
            assert procfs.memory(hog.pid).rss_bytes == 0
            monkeypatch.undo()
            assert again.read()[1] > 20 * 256
            for each in (statm, again):
                each.close()

    def test_it_is_the_one_who_dies(self, guard: Start, hog: StartHog, cgroup: MakeCgroup) -> None:
        place = limited(cgroup("memory"), 600)
        small = hog(place, 60)
        small.wait_full()
        with leaderless(place, 200) as large:
            one = guard("--cgroup", place, "--limit", "150M")
            one.wait_for_turn("relieved")
            assert large.wait(10) == -signal.SIGKILL
            chosen = [turn["victim"]["pids"] for turn in one.turns("chosen")]
        assert chosen == [[large.pid]]
        assert alive(small.pid)

    def test_it_is_waited_for_while_it_exits(self) -> None:
        """Where the leader is a zombie, and the others are in their exit, without an mm."""
        stat = replace(Procfs().stat(os.getpid()), flags=PF_EXITING, state="Z", num_threads=2)
        assert stat.is_exiting
        assert not replace(stat, num_threads=1).is_exiting


def test_who_is_waited_for_is_gone_when_its_pidfd_says_so(hog: StartHog) -> None:
    """Not when a look shows it no more: one scout may have known it, and the next one not."""
    leaver = hog("", 1)
    post = Post(Scope(Kind.CGROUP, "cgroup:/x", path="/x"), mock.Mock())
    identity = Identity(leaver.pid, Procfs().stat(leaver.pid).start_ticks)
    one = Candidate((identity,), "leaver")
    first = Look("cgroup:/x", 1, 0.0, 0.01, (), exiting=(one,))
    post.hot.take(first, {identity: os.pidfd_open(leaver.pid)})
    post.await_leaving(identity)
    assert not post.has_left()
    post.hot.take(Look("cgroup:/x", 1, 1.0, 0.01, ()), {})
    assert not post.has_left()
    leaver.end()
    assert post.has_left()
    post.part_with_leaving()
    assert not post.has_left(), "nobody is waited for"


def figures(usage_bytes: int) -> Figures:
    return Figures(usage_bytes, 100 * MIB, 200 * MIB, None, {})


def seen(pid: int, mib: int) -> Seen:
    return Seen(Candidate((Identity(pid, 1),), f"hog{pid}", rss_pages=mib * 256, barred="held"))


def core_of_one(asked_s: float, usage_bytes: int) -> tuple[Core, mock.Mock]:
    """A core that asked who is there; whether it answers is told by the mock."""
    post = Post(Scope(Kind.CGROUP, "cgroup:/x", path="/x"), mock.Mock())
    for read_s in (asked_s - 0.1, asked_s + 0.02):
        post.take(read_s, figures(usage_bytes))
    post.asked_s = asked_s
    core = Core.__new__(Core)
    core._posts = {post.name: post}
    core._read_one = mock.Mock()  # type: ignore[method-assign]
    core._answer = answered = mock.Mock()  # type: ignore[method-assign]
    return core, answered


@pytest.mark.parametrize(
    ("began_s", "mib", "is_answer"),
    [
        (9.95, 20, False),  # who took the other 100 MiB came since
        (9.95, 80, True),
        (10.01, 20, True),  # the rest is nobody's, or nobody's who can be seen
    ],
)
def test_a_look_from_before_that_explains_little_is_no_answer(
    began_s: float, mib: int, is_answer: bool
) -> None:
    core, answered = core_of_one(10.0, 120 * MIB)
    look = Look("cgroup:/x", 1, began_s, 0.01, (seen(7, mib),), full_s=began_s)
    core._take_look(look, {}, 10.03)
    assert answered.called is is_answer


def test_whoever_is_leaving_travels_with_a_look() -> None:
    one = Candidate((Identity(8, 2),), "going", rss_pages=70)
    look = Look("cgroup:/x", 1, 9.9, 0.01, (seen(7, 10),), exiting=(one,))
    assert Look.from_message(look.as_message()["look"]) == look


@pytest.mark.parametrize("others", [2, 2 * LISTED_MAX])
def test_whom_cgroup_procs_hides_while_it_exits_is_looked_at(others: int) -> None:
    scout = Scout.__new__(Scout)
    scout._hot, scout._exiting, scout._others = {"x": {9: 900, 8: 700}}, {}, {}
    scout._there = {}
    scout._doomed, scout._procfs, scout._many_are_born = {}, Procfs(), False
    scout._reader = mock.Mock(avoided=set())
    scout._reader.exiting = lambda pid: pid == 9 or None  # 8 has moved elsewhere, and lives
    scout._reader.weight = lambda *_: 1
    place = mock.Mock(totalpages=10_000)
    place.name = "x"
    place.pids.return_value = list(range(100, 100 + others))
    found = scout._everyone(place, newest_pid=50)
    assert 9 in found
    assert 8 not in found


def test_who_moves_in_between_two_looks_at_everyone_is_looked_at() -> None:
    """It may be older than whoever was there: a shell joins a cgroup long after its birth."""
    scout = Scout.__new__(Scout)
    scout._hot, scout._exiting, scout._doomed = {"x": {300: 900}}, {}, {}
    scout._reader = mock.Mock(avoided={50})
    scout._there = {"x": frozenset({200, 300})}
    place = mock.Mock()
    place.name = "x"
    place.pids.return_value = [50, 100, 200, 300, 400]
    assert scout._newcomers(place) == [300, 100, 400]


def test_what_a_file_asks_for_is_not_taken_for_a_group_that_was_found() -> None:
    wanted = Scope(Kind.CGROUP, "cgroup:/late", path="/nowhere")
    core = Core.__new__(Core)
    core._posts, core._absent = {}, {wanted.name: wanted}
    core._take_up = taken = mock.Mock()  # type: ignore[method-assign]
    system = mock.Mock(scope=Scope(Kind.SYSTEM, "system"))
    core._take_subgroups(system, [["cgroup:/late", "/nowhere"]])
    assert not taken.called


def test_only_who_may_have_held_much_is_waited_for() -> None:
    """Of those without an mm: known to be large, or too young to be known."""
    scout = Scout.__new__(Scout)
    scout._hot, scout._exiting = {"x": {10: 900, 11: 20}}, {"x": {13: 0}}
    scout._reader = mock.Mock()
    scout._reader.exiting = lambda pid: mock.Mock(start_ticks=pid, comm=str(pid))
    place = mock.Mock(totalpages=10_000)
    place.name = "x"
    node = Node("x", 10_000, Procfs(), 1)
    node.holders = {10}
    pids = [10, 11, 12, 13, 200]
    with mock.patch("os.pidfd_open", return_value=-1):
        found, on_node = (scout._leaving(where, pids, newest_pid=100) for where in (place, node))
    assert [(one.identity.pid, one.pages) for one in found] == [(10, 900), (13, 0), (200, 0)]
    assert [one.identity.pid for one in on_node] == [10, 13], "who leaves holds it still"
