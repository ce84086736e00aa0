"""The kernel's OOM killer, followed: stories of events made by hand, then real victims."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.guarding import Hog, keeping, limited

from memreap.evidence import following as following_
from memreap.evidence import oom_words
from memreap.evidence.oom import DELAY_NS, GRACE_NS, PATIENCE_NS, Attempt, Followed, Follower
from memreap.evidence.oom_folder import Folder
from memreap.evidence.oom_rss import ACCOUNTS_MAX, Memory
from memreap.evidence.oom_scope import CLONE_INTO_CGROUP, CLONE_THREAD, Group, Scope
from memreap.linux.tracing import PREFIX, Event, Instance, TracingError, tracefs
from memreap.victims import stage

MIB = 1 << 20
MS = 1_000_000
NOW, REAPER, HUNGRY, VICTIM = 10**18, 33, 500, 4711  # NOW: long after everything
MM, OTHER_MM = 0xFFFF_8880_0000_1000, 0xFFFF_8880_0000_2000
ANON, FILE = 1, 0
NOBODYS = 1 << 30  # a pid that nobody can have here


class Story:
    """Events, written as they are told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, at_ms: float, pid: int, name: str, /, **fields: Any) -> None:
        """One thing that happened in the context of ``pid``."""
        self.events.append(Event(round(at_ms * MS), 0, pid, name, fields))

    def mark(self, at_ms: float = 0, pid: int = VICTIM, by: int = HUNGRY, mib: int = 100) -> None:
        """As since Linux 6.9."""
        told = {"anon_rss": mib << 10, "file_rss": 4 << 10, "shmem_rss": 0}
        self(at_ms, by, "mark_victim", pid=pid, comm="hog", uid=7, oom_score_adj=9, **told)

    def exits(self, at_ms: float, tid: int = VICTIM, *, last: bool = True) -> None:
        self(at_ms, tid, "sched_process_exit", pid=tid, comm="hog", group_dead=int(last))

    def left(
        self, at_ms: float, tid: int, mib: float, *, mm_id: int = 1, member: int = ANON
    ) -> None:
        size = round(mib * MIB)
        self(at_ms, tid, "rss_stat", mm_id=mm_id, curr=0, member=member, size=size)

    def torn_down(self, at_ms: float, tid: int = VICTIM, mm: int = MM) -> None:
        self(at_ms, tid, "exit_mmap", mm=mm, mt=mm + 64)

    def dead(self, at_ms: float, tid: int = VICTIM) -> None:
        self(at_ms, tid, "sched_switch", prev_pid=tid, prev_state=32)

    def freed(self, at_ms: float, tid: int = VICTIM) -> None:
        self(at_ms, 14, "sched_process_free", pid=tid)

    def woken(self, at_ms: float, tid: int = VICTIM) -> None:
        self(at_ms, 0, "wake_reaper", pid=tid)

    def locks(self, at_ms: float, success: bool, *, who: int = REAPER, mm: int = MM) -> None:
        told = {"mm": mm, "write": 0, "success": int(success)}
        self(at_ms, who, "mmap_lock_acquire_returned", **told)

    def reaps(self, at_ms: float, until_ms: float, tid: int = VICTIM) -> None:
        self.locks(at_ms, True)
        self(at_ms, REAPER, "start_task_reaping", pid=tid)
        self.left(at_ms + 1, REAPER, 50)
        self.left(at_ms + 2, REAPER, 0)
        self(until_ms, REAPER, "finish_task_reaping", pid=tid)

    def skips(self, at_ms: float, *, success: bool | None, tid: int = VICTIM) -> None:
        if success is not None:
            self.locks(at_ms, success)
        self(at_ms, REAPER, "skip_task_reaping", pid=tid)


def follow(
    story: Story, scope: Scope | None = None, *, exits_first: bool = True, now_ns: int = NOW
) -> list[Followed]:
    """Everyone, as told at the end."""
    follower = Follower(scope or Scope({}), exits_first=exits_first)
    for event in story.events:
        follower.take(event)
    told = [victim for victim, _ in follower.settled(now_ns)]
    return [*told, *follower.untold()]


def marked(**more: Any) -> Followed:
    """As ``Story.mark`` marks it, and what came of it."""
    told: dict[str, Any] = {
        "pid": VICTIM,
        "tid": VICTIM,
        "marked_ns": 0,
        "marked_by": HUNGRY,
        "comm": "hog",
        "uid": 7,
        "oom_score_adj": 9,
        "held_bytes": {"MM_FILEPAGES": 4 * MIB, "MM_ANONPAGES": 100 * MIB, "MM_SHMEMPAGES": 0},
    }
    return Followed(**told | more)


def exited() -> Story:
    story = Story()
    story.mark()
    story.exits(1)
    story.left(2, VICTIM, 3, member=FILE)
    story.left(2, VICTIM, 60)
    story.left(3, VICTIM, 0)
    story.left(3, VICTIM, 0, member=FILE)
    story.torn_down(4)
    story.dead(5)
    story.freed(30)
    return story


def hung() -> Story:
    """It comes to its exit, and no further; the reaper does it all."""
    story = Story()
    story.mark()
    story.exits(1)
    story.woken(2004)
    story.reaps(2008, 2015)
    return story


HUNG = {
    "exits_ns": 1 * MS,
    "woken_ns": 2004 * MS,
    "attempts": [Attempt(2008 * MS, "reaped", 2015 * MS)],
    "freed_bytes": {"oom_reaper": 100 * MIB},
}


def test_one_that_exits_needs_no_reaper() -> None:
    (victim,) = follow(exited())
    assert victim == marked(
        exits_ns=1 * MS, torn_down_ns=4 * MS, gone_ns=5 * MS, freed_bytes={"exit": 104 * MIB}
    )
    assert (victim.outcome, victim.reaper) == ("exited", "not needed")


def test_one_that_hangs_is_reaped() -> None:
    (victim,) = follow(hung())
    assert victim == marked(**HUNG)
    assert (victim.outcome, victim.reaper) == ("reaped", "reaped")


def test_one_that_hung_is_told_of_again_when_it_is_gone() -> None:
    story, follower = hung(), Follower(Scope({}))
    told = []
    for event in story.events:
        follower.take(event)
    assert list(follower.settled(2015 * MS + GRACE_NS)) == [], "it may still exit"
    assert follower.is_busy(2015 * MS)
    told += list(follower.settled(2016 * MS + GRACE_NS))
    assert told == [(marked(**HUNG), False)]
    assert (list(follower.settled(NOW)), follower.untold()) == ([], [])
    assert not follower.is_busy(NOW)
    later = Story()
    later.torn_down(9000)
    later.dead(9001)
    for event in later.events:
        follower.take(event)
    gone = HUNG | {"freed_bytes": {"oom_reaper": 100 * MIB, "exit": 4 * MIB}}
    again = marked(**gone, torn_down_ns=9000 * MS, gone_ns=9001 * MS)
    assert list(follower.settled(NOW)) == [(again, True)]
    assert (again.outcome, again.reaper) == ("exited", "reaped")
    assert (list(follower.settled(NOW)), follower.victims, follower.seen) == ([], [], 1)


def test_reaper_and_exit_share_the_work() -> None:
    story = Story()
    story.mark()
    story.exits(1990)
    story.left(1995, VICTIM, 90)
    story.woken(2000)
    story.locks(2001, True)
    story(2001, REAPER, "start_task_reaping", pid=VICTIM)
    story.left(2002, REAPER, 50)
    story.left(2003, VICTIM, 20)
    story(2004, REAPER, "finish_task_reaping", pid=VICTIM)
    story.torn_down(2005)
    story.dead(2006)
    (victim,) = follow(story)
    assert victim == marked(
        exits_ns=1990 * MS,
        woken_ns=2000 * MS,
        attempts=[Attempt(2001 * MS, "reaped", 2004 * MS)],
        torn_down_ns=2005 * MS,
        gone_ns=2006 * MS,
        # What was left at exit_mmap's end, file pages among it, exit_mmap has taken.
        freed_bytes={"exit": (10 + 30 + 20 + 4) * MIB, "oom_reaper": 40 * MIB},
    )


def test_a_reaper_that_comes_late_turns_away() -> None:
    story = Story()
    story.mark()
    story.exits(1999)
    story.woken(2000)
    story.skips(2001, success=True)
    (victim,) = follow(story)
    assert victim == marked(
        exits_ns=1999 * MS,
        woken_ns=2000 * MS,
        attempts=[Attempt(2001 * MS, "skipped", 2001 * MS)],
    )
    assert (victim.outcome, victim.reaper) == ("stuck", "skipped"), "exit_mmap is not done yet"


def test_a_reaper_that_never_gets_the_lock_gives_up_and_the_next_one_dies() -> None:
    story = Story()
    story.mark()
    story.woken(2000)
    for number in range(10):
        story.skips(2001 + 100 * number, success=False)
    story.mark(3000, pid=VICTIM + 1, by=VICTIM + 1, mib=50)
    first, second = follow(story)
    tries = [2001 + 100 * number for number in range(10)]
    assert first == marked(
        woken_ns=2000 * MS, attempts=[Attempt(at * MS, "locked", at * MS) for at in tries]
    )
    assert (first.outcome, first.reaper) == ("stuck", "gave up")
    assert second == marked(
        pid=VICTIM + 1,
        tid=VICTIM + 1,
        marked_ns=3000 * MS,
        marked_by=VICTIM + 1,
        held_bytes={"MM_FILEPAGES": 4 * MIB, "MM_ANONPAGES": 50 * MIB, "MM_SHMEMPAGES": 0},
        before=(VICTIM,),
    )
    assert (second.outcome, second.reaper) == ("stuck", "not due")


def test_nine_tries_are_not_given_up_and_what_is_not_traced_is_not_known() -> None:
    story = Story()
    story.mark()
    for number in range(9):
        story.skips(2001 + 100 * number, success=None)
    (victim,) = follow(story)
    assert victim.reaper == "refused"
    assert {one.how for one in victim.attempts} == {"refused"}


def test_anybody_may_be_called_oom_reaper() -> None:
    story = Story()
    story.mark()
    story.locks(1999, True)
    story.locks(2000, False, who=666, mm=OTHER_MM)
    story(2001, REAPER, "skip_task_reaping", pid=VICTIM)
    story.locks(2100, True)
    story.locks(2101, False, who=666, mm=OTHER_MM)
    story(2102, REAPER, "skip_task_reaping", pid=VICTIM)
    (victim,) = follow(story)
    # Who it is is known from its first word on.
    assert [one.how for one in victim.attempts] == ["refused", "skipped"]


def test_an_old_kernel_tells_a_pid_and_an_exit_after_the_mm_is_gone() -> None:
    story = Story()
    story(0, HUNGRY, "mark_victim", pid=VICTIM)
    story.left(2, VICTIM, 90)
    story.left(3, VICTIM, 0)
    story.torn_down(4)
    story(5, VICTIM, "sched_process_exit", pid=VICTIM, comm="hog", prio=120)
    story.freed(30)
    (victim,) = follow(story, exits_first=False)
    assert victim == Followed(
        VICTIM,
        VICTIM,
        0,
        HUNGRY,
        comm="hog",
        torn_down_ns=4 * MS,
        gone_ns=30 * MS,
        freed_bytes={"exit": 90 * MIB},  # what went before the first word of it is not known
    )


def test_a_process_of_several_threads_is_one_victim() -> None:
    scope = Scope({VICTIM: VICTIM, 4712: VICTIM, 4713: VICTIM, HUNGRY: 400})
    story = Story()
    story(0, 4712, "task_newtask", pid=4714, clone_flags=CLONE_THREAD)
    story.mark(1, pid=4713)
    story.mark(2, pid=4714, by=4714)
    for tid in (4713, VICTIM, 4714):
        story.exits(3, tid, last=False)
        story.dead(4, tid)
    story.exits(5, 4712)
    story.left(6, 4712, 0)
    story.torn_down(7, 4712)
    story.dead(8, 4712)
    (victim,) = follow(story, scope)
    assert victim == marked(
        tid=4713,
        marked_ns=1 * MS,
        marked_by=400,
        marks=2,
        exits_ns=5 * MS,
        torn_down_ns=7 * MS,
        gone_ns=8 * MS,
        freed_bytes={"exit": 104 * MIB},
    )


def test_what_somebody_else_releases_is_told_as_theirs() -> None:
    story = Story()  # process_mrelease by 900, ahead of the exit
    story.mark()
    story.left(1, 900, 70)
    story.exits(2)
    story.left(3, VICTIM, 40)
    story.left(4, 900, 30)
    story.torn_down(5)
    story.dead(6)
    (victim,) = follow(story)
    assert victim.freed_bytes == {"exit": (30 + 30 + 4) * MIB, "pid 900": 40 * MIB}


def test_somebody_else_may_be_the_last_one_out() -> None:
    story = Story()  # 900 reads something of it, and drops the last mm_users
    story.mark()
    story.exits(1)
    story.dead(2)
    story.woken(2000)
    story.reaps(2001, 2010)
    story.torn_down(3000, 900)
    (victim,) = follow(story)
    assert victim == marked(
        exits_ns=1 * MS,
        woken_ns=2000 * MS,
        attempts=[Attempt(2001 * MS, "reaped", 2010 * MS)],
        torn_down_ns=3000 * MS,
        gone_ns=2 * MS,
        freed_bytes={"oom_reaper": 100 * MIB, "pid 900": 4 * MIB},
    )


def test_one_whose_mm_others_keep_is_not_done_when_it_is_gone() -> None:
    story = Story()
    story.mark()
    story.exits(1)
    story.dead(2)
    follower = Follower(Scope({}))
    for event in story.events:
        follower.take(event)
    assert list(follower.settled(DELAY_NS + GRACE_NS)) == [], "the reaper may come"
    (told,) = follower.settled(DELAY_NS + GRACE_NS + 1)
    assert told == (marked(exits_ns=1 * MS, gone_ns=2 * MS), False)
    assert told[0].outcome == "exited", "it came not, so there was nothing left for it"
    follower = Follower(Scope({}))
    for event in [*story.events, Event(DELAY_NS, 0, 0, "wake_reaper", {"pid": VICTIM})]:
        follower.take(event)
    assert list(follower.settled(PATIENCE_NS)) == []
    (told,) = follower.settled(PATIENCE_NS + 1)
    assert (told[0].outcome, told[0].reaper) == ("stuck", "due")


def test_what_a_parent_copied_before_the_mark_is_not_its_doing() -> None:
    story = Story()
    story.mark(0, pid=1000)  # so that pages are told of
    story.left(1, 600, 1)  # 600 forks the victim-to-be: its mm grows
    story.left(2, 600, 80)
    story.mark(10)
    story.exits(11)
    story.left(12, VICTIM, 98)
    story.torn_down(13)
    story.dead(14)
    _, victim = follow(story)
    assert victim.freed_bytes == {"exit": 104 * MIB}


def test_a_fork_that_fails_is_not_the_end_of_the_parent() -> None:
    story = Story()
    story.mark()
    story.left(1, VICTIM, 30, mm_id=2)  # the child's copy goes again
    story.torn_down(2, mm=OTHER_MM)
    assert follow(story) == [marked()]
    story.exits(3)
    story.left(4, VICTIM, 10)
    story.torn_down(5)
    story.dead(6)
    (victim,) = follow(story)
    assert (victim.torn_down_ns, victim.freed_bytes) == (5 * MS, {"exit": 104 * MIB})
    (victim,) = follow(story, exits_first=False)  # what comes last is right
    assert (victim.torn_down_ns, victim.freed_bytes) == (5 * MS, {"exit": 104 * MIB})


def test_an_mm_id_that_is_used_again_begins_anew() -> None:
    story = Story()
    story.mark()
    story.exits(1)
    story.left(2, VICTIM, 10)
    story.torn_down(3)
    story.exits(4, 800)  # a stranger
    story.left(5, 800, 70)
    story.left(6, 800, 0)
    story.torn_down(7, 800, mm=OTHER_MM)
    story.mark(10, pid=801)
    story.exits(11, 801)
    story.left(12, 801, 50)
    story.torn_down(13, 801)
    story.dead(14, 801)
    first, second = follow(story)
    assert first.freed_bytes == second.freed_bytes == {"exit": 104 * MIB}


def test_the_late_last_word_of_one_who_was_before_is_not_its_end() -> None:
    story = Story()
    story.mark()
    story.freed(1)
    assert follow(story) == [marked()]


def test_swap_is_no_memory_and_faults_are_none_that_frees() -> None:
    story = Story()
    story.mark()
    story.exits(1)
    story.left(2, VICTIM, 30, member=2)
    story.left(3, VICTIM, 0, member=2)
    story(4, VICTIM, "rss_stat", mm_id=1, curr=1, member=ANON, size=0)
    story(5, VICTIM, "rss_stat", mm_id=1, curr=0, member=9, size=0)
    (victim,) = follow(story)
    assert victim.freed_bytes == {}


@given(
    falls=st.lists(st.tuples(st.sampled_from([VICTIM, REAPER, 900]), st.integers(1, 9)), min_size=1)
)
def test_what_is_freed_is_told_to_the_last_page_whoever_did_it(
    falls: list[tuple[int, int]],
) -> None:
    total = sum(mib for _, mib in falls)
    story = Story()
    story(0, HUNGRY, "mark_victim", pid=VICTIM, comm="hog", anon_rss=total << 10)
    story.exits(0)
    story.locks(1, True)
    story(1, REAPER, "start_task_reaping", pid=VICTIM)
    left = total
    for number, (who, mib) in enumerate(falls):
        left -= mib
        story.left(2 + number, who, left)
    (victim,) = follow(story)
    if all(who == 900 for who, _ in falls):
        assert victim.freed_bytes == {}, "whose it is was never seen"
        return
    names = {VICTIM: "exit", REAPER: "oom_reaper", 900: "pid 900"}
    by_whom = {names[w]: sum(m for who, m in falls if who == w) * MIB for w, _ in falls}
    assert victim.freed_bytes == by_whom


def test_mms_of_strangers_do_not_pile_up() -> None:
    memory = Memory()
    memory.take(0, "MM_ANONPAGES", 5, tid=1, who=1)
    memory.own(0, 1)
    for mm_id in range(1, 3 * ACCOUNTS_MAX):
        memory.take(mm_id, "MM_ANONPAGES", 1, tid=mm_id + 1, who=mm_id + 1)
    assert len(memory._accounts) <= ACCOUNTS_MAX
    assert memory.freed_by(1, {"MM_ANONPAGES": 7}) == {1: 2}


# Who is meant.

ROOT, INSIDE, BELOW, OUTSIDE = 4, 70, 71, 99


def attach(story: Story, pid: int, group: int, *, root: int = ROOT) -> None:
    story(0, 1, "cgroup_attach_task", dst_root=root, dst_id=group, pid=pid)


def scope_of(*members: int, threads: dict[int, int] | None = None) -> Scope:
    return Scope(threads or {}, Group(ROOT, {INSIDE, BELOW}, set(members)))


def after(story: Story, scope: Scope) -> tuple[set[int], bool]:
    for event in story.events:
        scope.take(event)
    assert scope.group is not None
    return scope.group.members, scope.unsure


def test_children_are_where_their_parents_are() -> None:
    story = Story()
    story(0, 10, "task_newtask", pid=11, clone_flags=0)
    story(1, 11, "task_newtask", pid=12, clone_flags=CLONE_THREAD)
    story(2, 12, "task_newtask", pid=13, clone_flags=0)
    story(3, 50, "task_newtask", pid=51, clone_flags=0)
    story.exits(4, 12)
    story.freed(4, 12)
    scope = scope_of(10)
    assert after(story, scope) == ({10, 11, 13}, False)
    story.exits(5, 11)
    story.freed(5, 11)
    assert after(story, scope) == ({10, 13}, False)
    assert (scope.covers(13), scope.covers(51), Scope({}).covers(51)) == (True, False, True)


def test_a_number_that_is_used_again_is_somebody_else() -> None:
    story = Story()
    story.freed(0, 10)  # of one who was before, long ago
    story(1, 10, "task_newtask", pid=11, clone_flags=0)
    story.exits(2, 11)
    story(3, 10, "task_newtask", pid=11, clone_flags=CLONE_THREAD)  # and the free is still to come
    story.freed(4, 11)
    scope = scope_of(10)
    assert after(story, scope) == ({10}, False)
    assert (scope.process(11), scope.is_freed(11)) == (10, False)
    story.exits(5, 11)
    story(6, 50, "task_newtask", pid=11, clone_flags=0)
    story.exits(7, 11)
    story(8, 10, "task_newtask", pid=11, clone_flags=0)
    story.freed(9, 11)
    story.exits(10, 11)
    assert after(story, scope := scope_of(10)) == ({10, 11}, False)
    assert not scope.is_freed(11), "one is still to come"
    story.freed(11, 11)
    assert after(story, scope := scope_of(10)) == ({10, 11}, False)
    assert scope.is_freed(11)
    story.freed(12, 11)
    assert after(story, scope := scope_of(10)) == ({10}, False)
    story(13, 50, "task_newtask", pid=10, clone_flags=0)
    assert after(story, scope_of(10)) == (set(), False)


def test_who_moves_in_is_meant_and_who_moves_out_is_not() -> None:
    story = Story()
    attach(story, 20, INSIDE)
    attach(story, 21, BELOW)
    attach(story, 22, INSIDE, root=ROOT + 1)  # a number of another hierarchy's
    assert after(story, scope_of(10)) == ({10, 20, 21}, False)
    attach(story, 20, OUTSIDE)
    assert after(story, scope_of(10)) == ({10, 21}, True), "or below, made now"


def test_a_thread_that_moves_alone_takes_nobody_with_it() -> None:
    story = Story()
    attach(story, 11, OUTSIDE)
    attach(story, 12, INSIDE)
    assert after(story, scope_of(10, threads={11: 10, 12: 50})) == ({10}, False)


def test_who_is_born_elsewhere_is_looked_for() -> None:
    story = Story()
    story(0, 10, "task_newtask", pid=11, clone_flags=CLONE_INTO_CGROUP)
    scope = scope_of(10)
    assert after(story, scope) == ({10}, True)
    assert scope.group is not None
    scope.group.members.add(11)
    assert scope.covers(11)


def test_victims_elsewhere_are_not_followed() -> None:
    story = Story()
    story.mark(0, pid=600)
    story.mark(1, pid=VICTIM)
    story.exits(2, 600)
    story.torn_down(3, 600)
    story.woken(4, 600)
    story.skips(5, success=True, tid=600)
    assert follow(story, scope_of(VICTIM)) == [marked(marked_ns=1 * MS)]


def test_a_cgroup_that_goes_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("12\n7\n0\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "memory.oom_control").write_text("oom_kill 4\n")
    folder = Folder(tmp_path)
    ids = {tmp_path.stat().st_ino, (tmp_path / "below").stat().st_ino}
    assert (folder.group, folder.killed()) == (Group(0, ids, {7, 12}), 7)
    (tmp_path / "memory.events").write_text("oom 9\noom_kill 5\noom_group_kill 0\n")
    (tmp_path / "memory.oom_control").unlink()
    (tmp_path / "below" / "memory.events").write_text("oom_kill 5\n")
    assert folder.killed() == 5, "v2 counts those below as well"
    gone = Folder(tmp_path / "gone")
    assert (gone.group, gone.killed()) == (Group(0, set(), set()), 0)


# What is said.


def test_a_paragraph_tells_what_happened_in_the_order_of_time() -> None:
    assert list(oom_words.lines(follow(exited())[0], "12:00")) == [
        "12:00  hog (4711), 104 MiB, oom_score_adj 9: exited",
        "        0 ms  marked as pid 500 wanted memory",
        "        1 ms  its last thread begins to exit",
        "        4 ms  exit_mmap is done",
        "        5 ms  gone",
        "              freed: exit 104 MiB (100%); the reaper was not needed",
    ]
    assert list(oom_words.lines(follow(hung())[0], "12:00")) == [
        "12:00  hog (4711), 104 MiB, oom_score_adj 9: reaped; it has not got through its exit",
        "        0 ms  marked as pid 500 wanted memory",
        "        1 ms  its last thread begins to exit",
        "         2 s  the reaper is woken",
        "      2.01 s  the reaper begins",
        "      2.02 s  the reaper is done, in 7 ms",
        "              freed: oom_reaper 100 MiB (100%)",
    ]


def test_a_paragraph_of_one_that_is_stuck() -> None:
    tries = [Attempt((2000 + 100 * n) * MS, "locked", (2000 + 100 * n) * MS) for n in range(10)]
    stuck = marked(comm="a\nb", woken_ns=2000 * MS, attempts=tries, before=(5, 6), marks=2)
    assert list(oom_words.lines(stuck, "12:00")) == [
        "12:00  a\\nb (4711), 104 MiB, oom_score_adj 9: STUCK: its memory is not back",
        "        0 ms  marked as pid 500 wanted memory (2 times), "
        "before exit_mmap of 5, 6 was done",
        "         2 s  the reaper is woken",
        "         2 s  the reaper turns away: mmap_lock is held for writing (10 times)",
        "       2.9 s  the reaper gives up, and sets MMF_OOM_SKIP",
        "              nothing was freed; the reaper gave up, and it is passed over: "
        "the next OOM kills somebody else",
    ]
    gone = marked(gone_ns=5000 * MS)
    assert list(oom_words.lines(gone, "12:00", again=True)) == [
        "12:00  hog (4711): told of before, and gone after 5 s"
    ]
    bare = Followed(VICTIM, VICTIM, 0, VICTIM, gone_ns=5 * MS)
    assert list(oom_words.lines(bare, "12:00")) == [
        "12:00  pid 4711: exited",
        "        0 ms  marked as it wanted memory",
        "        5 ms  gone",
        "              who freed it was not seen; the reaper was not needed",
    ]


@pytest.mark.parametrize(
    ("more", "headline"),
    [
        ({"torn_down_ns": MS}, "exited, but for its last steps"),
        ({**HUNG, "torn_down_ns": MS}, "reaped"),
        ({**HUNG, "torn_down_ns": MS, "gone_ns": MS}, "reaped, and gone by now"),
        ({**HUNG, "gone_ns": MS}, "reaped; it is gone, and somebody else keeps its mm"),
        ({**HUNG, "exits_ns": None}, "reaped; it is not gone yet"),
        ({"woken_ns": MS}, "STUCK: its memory is not back"),
    ],
)
def test_how_it_stands_in_a_line(more: dict[str, Any], headline: str) -> None:
    assert oom_words.headline(marked(**more)) == headline


def test_an_object_for_scripts() -> None:
    assert json.loads(json.dumps(oom_words.as_dict(follow(hung())[0], 12.5))) == {
        "pid": VICTIM,
        "comm": "hog",
        "uid": 7,
        "oom_score_adj": 9,
        "held_bytes": 104 * MIB,
        "marked_wall_s": 12.5,
        "marked_by": HUNGRY,
        "before": [],
        "marks": 1,
        "outcome": "reaped",
        "reaper": "reaped",
        "exits_s": 0.001,
        "woken_s": 2.004,
        "attempts": [{"at_s": 2.008, "until_s": 2.015, "how": "reaped"}],
        "torn_down_s": None,
        "gone_s": None,
        "freed_bytes": {"oom_reaper": 100 * MIB},
    }


# How it is read.


class Told:
    """In the place of an instance: what it was asked for, and batches of events."""

    def __init__(self, *batches: list[Event], missing: tuple[str, ...] = ()) -> None:
        self.asked: list[tuple[str, str]] = []
        self.lost, self.pages_max = 0, 2
        self._batches, self._missing = list(batches), missing

    def enable_all(self, events: tuple[tuple[str, str], ...]) -> list[str]:
        return [event for event, _ in events if event in self._missing]

    def arm(self, event: str, *_: str) -> bool:
        return event not in self._missing

    def enable(self, event: str) -> bool:
        self.asked.append(("enable", event))
        return True

    def rest(self, event: str) -> None:
        self.asked.append(("rest", event))

    def start(self) -> None:
        pass

    stop = start

    def format(self, *_: str) -> Any:
        return SimpleNamespace(fields=(SimpleNamespace(name="group_dead"),))

    def pages(self) -> list[tuple[int, list[Event]]]:
        batch = self._batches.pop(0) if self._batches else []
        return [(cpu, [one for one in batch if one.cpu == cpu]) for cpu in (0, 1)]

    def decode(self, cpu: int, page: list[Event]) -> list[Event]:
        return [event._replace(cpu=cpu) for event in page]


@pytest.fixture
def from_told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., following_.Following]:
    here = Path("/proc/self/ns/pid").stat().st_ino  # which may be a container's
    monkeypatch.setattr(following_, "INITIAL_PID_NAMESPACE", here)

    def begin(told: Told, folder: Folder | None = None) -> following_.Following:
        dear = Told(missing=told._missing)
        dear.asked = told.asked
        instances: Any = told, dear
        return following_.Following(instances, folder)

    return begin


def in_s(after_s: float, pid: int, name: str, /, **fields: Any) -> Event:
    return Event(time.monotonic_ns() + round(after_s * 1e9), 0, pid, name, fields)


def test_what_comes_while_it_is_read_waits_for_what_was_before(
    from_told: Callable[..., following_.Following],
) -> None:
    mark = in_s(-1, HUNGRY, "mark_victim", pid=NOBODYS)
    torn = in_s(60, NOBODYS, "exit_mmap", mm=MM)
    exits = in_s(50, NOBODYS, "sched_process_exit", pid=NOBODYS, group_dead=1)
    following = from_told(Told([torn, mark], [exits]))
    following.read()
    (victim,) = following.follower.victims
    assert (victim.exits_ns, victim.torn_down_ns) == (None, None)
    following.read(last=True)
    (victim,) = following.follower.victims
    assert (victim.exits_ns, victim.torn_down_ns) == (exits.at_ns, torn.at_ns)


def test_whoever_is_outrun_does_not_go_by_the_clock(
    from_told: Callable[..., following_.Following],
) -> None:
    mark = in_s(-20, HUNGRY, "mark_victim", pid=NOBODYS)
    dead = in_s(-5, NOBODYS, "sched_switch", prev_pid=NOBODYS, prev_state=32)._replace(cpu=1)
    told = Told([mark, dead])
    told.pages_max = 1  # so there is more on the first CPU
    following = from_told(told)
    following.read()
    assert following.until_ns == mark.at_ns
    assert list(following.follower.settled(following.until_ns)) == []
    following.read(last=True)
    assert [one.gone_ns for one, _ in following.follower.settled(NOW)] == [dead.at_ns]


def test_what_is_dear_is_traced_while_there_is_a_victim_and_a_while_after(
    from_told: Callable[..., following_.Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following_, "GRACE_NS", 100 * MS)
    mark = in_s(-1, HUNGRY, "mark_victim", pid=NOBODYS)
    end = [
        in_s(-0.9, NOBODYS, "sched_process_exit", pid=NOBODYS, group_dead=1),
        in_s(-0.8, NOBODYS, "exit_mmap", mm=MM),
        in_s(-0.7, 14, "sched_process_free", pid=NOBODYS),
    ]
    told = Told([], [mark], [], end, missing=("sched/sched_switch",))
    following = from_told(told)
    dear = ["kmem/rss_stat", "mmap_lock/mmap_lock_acquire_returned"]
    following.read()
    assert told.asked == [], "the kernel arms them by itself"
    following.read()
    following.read()
    assert told.asked == [("enable", event) for event in dear], "should it have been undone"
    following.read()
    told.asked.clear()
    list(following.follower.settled(time.monotonic_ns()))
    following.read()
    assert told.asked == []
    time.sleep(0.12)
    following.read()
    following.read()
    assert told.asked == [("rest", event) for event in dear]
    assert list(following.shortcomings()) == [
        "this kernel does not have sched/sched_switch: what they tell is missing"
    ]


def test_what_was_lost_and_who_was_not_seen_is_told(
    from_told: Callable[..., following_.Following], tmp_path: Path
) -> None:
    (tmp_path / "cgroup.procs").write_text(f"{NOBODYS}\n")
    kills = tmp_path / "memory.events"
    kills.write_text("oom_kill 2\n")
    told = Told([in_s(-1, HUNGRY, "mark_victim", pid=NOBODYS)])
    following = from_told(told, Folder(tmp_path))
    following.read()
    kills.write_text("oom_kill 3\n")
    assert list(following.shortcomings()) == []
    kills.write_text("oom_kill 5\n")
    told.lost = 1234
    assert list(following.shortcomings()) == [
        "1,234 events were lost: whoever is missing may be in them",
        "by its own count, the kernel killed 3 there, and 1 were seen",
    ]


def test_where_it_cannot_be_done_is_told(
    from_told: Callable[..., following_.Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TracingError, match="this kernel has no oom/mark_victim"):
        from_told(Told(missing=("oom/mark_victim",)))
    monkeypatch.setattr(following_, "INITIAL_PID_NAMESPACE", 1)
    with pytest.raises(TracingError, match="initial PID namespace"):
        from_told(Told())


# The running kernel.

COMMAND = ("-m", "memreap", "trace", "oom", "--json")
LIMIT_MIB = 128


def on_kernel(test: Callable[..., None]) -> Callable[..., None]:
    """A test that has the kernel kill, in a cgroup of its own."""
    why = "tracefs needs root"
    for mark in (
        pytest.mark.kernel,
        pytest.mark.skipif(os.geteuid() != 0, reason=why),
        pytest.mark.usefixtures("nothing_left"),
    ):
        test = mark(test)
    return test


class Following:
    """``trace oom`` at work, as a process."""

    def __init__(self, root: Path, *args: object) -> None:
        argv = [sys.executable, *COMMAND, *map(str, args)]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        own = root / "instances" / f"{PREFIX}{self.process.pid}-0"
        # An instance is born tracing, without any event: the last that is told tells all.
        ready = (own / "events/oom/mark_victim/enable", own / "tracing_on")
        deadline_s = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline_s:
            with contextlib.suppress(OSError):
                if all(file.read_text().startswith("1") for file in ready):
                    return
            time.sleep(0.01)
        assert self.process.poll() is not None, "not ready in time"

    def row(self) -> dict[str, Any]:
        """The next victim."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.end()
        row: dict[str, Any] = json.loads(line)
        return row

    def end(self, number: int = signal.SIGINT) -> tuple[int, list[dict[str, Any]], str]:
        """(exit code, what it told beside, what it complained of)."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, list[dict[str, Any]], str]:
        """The same, once it ends by itself."""
        try:
            out, err = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            raise AssertionError(self.process.communicate(timeout=30)) from None
        rows = [json.loads(line) for line in out.decode().splitlines()]
        return self.process.returncode, rows, err.decode()


@pytest.fixture
def tracing() -> Iterator[Path]:
    try:
        with tracefs() as root:
            yield root
    except TracingError as error:
        pytest.skip(str(error))


@pytest.fixture
def following(tracing: Path) -> Iterator[Callable[..., Following]]:
    """Start it; gone afterwards, as is what it traced with."""
    started: list[Following] = []

    def start(*args: object) -> Following:
        started.append(Following(tracing, *args))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end()
        for stream in (one.process.stdout, one.process.stderr):
            if stream is not None:
                stream.close()
        assert list(tracing.glob(f"instances/{PREFIX}{one.process.pid}-*")) == []


def needs_v1(directory: Path) -> Path:
    if not (directory / "memory.limit_in_bytes").exists():
        pytest.skip("no v1 memory cgroup")
    return limited(directory, LIMIT_MIB)


@on_kernel
def test_a_real_victim_that_exits(
    cgroup: Callable[[str], Path], following: Callable[..., Following]
) -> None:
    group = needs_v1(cgroup("memory"))
    follower = following("--cgroup", group)
    with keeping(hog := Hog(group, 200)):
        row = follower.row()
        hog.process.wait()
        assert hog.was_killed
    assert (row["pid"], row["marked_by"], row["comm"]) == (hog.pid, hog.pid, row["comm"])
    assert (row["outcome"], row["reaper"], row["attempts"]) == ("exited", "not needed", [])
    assert 0 < row["exits_s"] < row["torn_down_s"] < row["gone_s"] < 2
    assert row["held_bytes"] > (LIMIT_MIB - 8) * MIB
    assert list(row["freed_bytes"]) == ["exit"]
    assert row["freed_bytes"]["exit"] == pytest.approx(row["held_bytes"], abs=4 * MIB)
    assert abs(row["marked_wall_s"] - time.time()) < 10
    assert follower.end() == (0, [], "")


@on_kernel
@pytest.mark.slow
def test_a_real_victim_that_hangs_is_reaped_after_two_seconds(
    cgroup: Callable[[str], Path],
    following: Callable[..., Following],
    possible: dict[str, str | None],
) -> None:
    if reason := possible["hung-aio"]:
        pytest.skip(reason)
    group = needs_v1(cgroup("memory"))
    follower = following("--cgroup", group)
    with stage("hung-aio", 96 * MIB, cgroups=[group]) as victim, keeping(hog := Hog(group, 64)):
        hog.wait_full()  # which is only possible with the memory of the hung one
        row = follower.row()
        assert (row["pid"], row["marked_by"]) == (victim.pid, hog.pid)
        assert (row["outcome"], row["reaper"]) == ("reaped", "reaped")
        assert 1.9 < row["woken_s"] < 3
        (attempt,) = row["attempts"]
        assert row["woken_s"] < attempt["at_s"] < attempt["until_s"] < 6
        assert (row["torn_down_s"], row["gone_s"]) == (None, None)
        assert list(row["freed_bytes"]) == ["oom_reaper"]
        assert row["freed_bytes"]["oom_reaper"] > 0.95 * row["held_bytes"] > 90 * MIB
    again = follower.row()
    assert again["pid"] == victim.pid
    assert again["outcome"] == "exited", "let go, it is gone"
    assert again["gone_s"] > attempt["until_s"]
    assert follower.end() == (0, [], "")


@on_kernel
@pytest.mark.slow
def test_a_real_victim_whose_lock_is_held_costs_another_ones_life(
    cgroup: Callable[[str], Path],
    following: Callable[..., Following],
    possible: dict[str, str | None],
) -> None:
    if reason := possible["hung-mmap-lock"]:
        pytest.skip(reason)
    group = needs_v1(cgroup("memory"))
    follower = following("--cgroup", group)
    with stage("hung-mmap-lock", 96 * MIB, cgroups=[group]) as victim:
        with keeping(hog := Hog(group, 64)):
            hog.process.wait()
            assert hog.was_killed
        rows = {row["pid"]: row for row in (follower.row(), follower.row())}
    other, stuck = rows[hog.pid], rows[victim.pid]
    assert (other["pid"], other["before"], other["outcome"]) == (hog.pid, [victim.pid], "exited")
    assert (stuck["pid"], stuck["outcome"], stuck["reaper"]) == (victim.pid, "stuck", "gave up")
    assert [one["how"] for one in stuck["attempts"]] == ["locked"] * 10
    assert (stuck["freed_bytes"], stuck["exits_s"]) == ({}, None)
    assert follower.end()[0] == 0


@on_kernel
def test_real_victims_of_other_cgroups_are_not_told(
    cgroup: Callable[[str], Path], following: Callable[..., Following]
) -> None:
    group, other = needs_v1(cgroup("memory")), needs_v1(cgroup("memory"))
    follower, of_all = following("--cgroup", group), following()
    with keeping(stranger := Hog(other, 200)):
        stranger.process.wait()
    below = group / "below"
    below.mkdir()  # made while it is followed
    try:
        shell = 'echo $$ > "$1/cgroup.procs"; sleep 0.3; shift; "$@"; true'
        command = [sys.executable, "-S", "-c", f"x = bytearray({200 * MIB})"]
        subprocess.run(["/bin/sh", "-c", shell, "sh", below, *command], check=True)
        row = follower.row()
    finally:
        deadline_s = time.monotonic() + 5
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError):
                below.rmdir()
                break
            time.sleep(0.01)
    assert row["outcome"] == "exited"
    assert follower.end() == (0, [], "")
    code, rows, err = of_all.end()
    told = [one["pid"] for one in rows if one["pid"] in (stranger.pid, row["pid"])]
    assert (code, told, err) == (0, [stranger.pid, row["pid"]], "")


@on_kernel
def test_it_ends_with_the_command_and_keeps_stdout_for_itself(
    cgroup: Callable[[str], Path], following: Callable[..., Following]
) -> None:
    group = needs_v1(cgroup("memory"))
    shell = f'echo $$ > {group}/cgroup.procs; echo hello; exec "$@"'
    hog = [sys.executable, "-S", "-c", f"x = bytearray({200 * MIB})"]
    command = ["/bin/sh", "-c", shell, "sh", *hog]
    code, rows, err = following("--cgroup", group, "--", *command).wait()
    assert (code, [row["outcome"] for row in rows]) == (0, ["exited"])
    assert err.splitlines() == ["hello", "memreap: /bin/sh ended with -9"]


@on_kernel
def test_it_ends_after_so_many_victims_or_so_long_and_ends_the_command(
    cgroup: Callable[[str], Path], following: Callable[..., Following]
) -> None:
    group = needs_v1(cgroup("memory"))
    follower = following("--cgroup", group, "--count", 1)
    with keeping(hog := Hog(group, 200)):
        assert [row["pid"] for row in follower.wait()[1]] == [hog.pid]
    began_s = time.monotonic()
    code, rows, err = following("--seconds", 0.5, "--", "sleep", 60).wait()
    assert (code, err) == (0, "")
    assert [row for row in rows if row["pid"] == hog.pid] == []
    assert 0.5 < time.monotonic() - began_s < 10


@on_kernel
def test_what_cannot_be_followed_is_refused(following: Callable[..., Following]) -> None:
    assert following("--cgroup", "/no/such").wait() == (
        2,
        [],
        "memreap: no such cgroup: /no/such\n",
    )
    code, _, err = following("--cgroup", "/sys/fs/cgroup/memory").wait()
    assert (code, "root of its hierarchy" in err or "no such cgroup" in err) == (2, True)
    code, _, err = following("--", "/no/such").wait()
    assert (code, err) == (2, "memreap: /no/such: No such file or directory\n")


@pytest.mark.kernel
def test_whoever_may_not_is_told_so_in_a_line(
    as_nobody: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = as_nobody(*COMMAND)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith("memreap: tracefs is not mounted, or not for this user")


@on_kernel
def test_an_armed_event_is_taken_up_by_the_kernel_itself_and_left_again(tracing: Path) -> None:
    event, at = "syscalls/sys_enter_getppid", "syscalls/sys_enter_personality"
    libc = ctypes.CDLL(None)
    with Instance(tracing) as instance:
        assert not instance.arm("no/such", at)
        assert instance.arm(event, at, f"common_pid == {os.getpid()}")
        instance.start()
        os.getppid()
        assert instance.events() == []
        libc.personality(0xFFFFFFFF)  # only asks
        os.getppid()
        assert {one.pid for one in instance.events()} == {os.getpid()}
        instance.rest(event)
        instance.events()
        os.getppid()
        assert [one for one in instance.events() if one.pid == os.getpid()] == []
        instance.enable(event)
        os.getppid()
        assert instance.events()
        instance.rest("sched/sched_switch")  # not armed: nothing happens
