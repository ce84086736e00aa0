"""Traces of kills against the model: which it allows, which forgeries it does not."""

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memreap.check.operation import Steps
from memreap.evidence import events
from memreap.evidence.alphabet import EVENTS, Letter, Observed, Seen
from memreap.evidence.cast import ANYBODY, Assumed, Cast
from memreap.evidence.conform import ConformOptions, UsageError, conform, judge
from memreap.evidence.killing import How, kill_traced
from memreap.evidence.language import Language
from memreap.evidence.order import SKEW_NS
from memreap.evidence.reading import kill
from memreap.evidence.trace import Trace, Victim
from memreap.evidence.watched import model
from memreap.linux.tracing import Event, TracingError, tracefs
from memreap.mm.designs import DESIGNS
from memreap.mm.fork import mmdrop
from memreap.mm.kernel import Kernel
from memreap.mm.memory import free_pgtables, unmap_vmas
from memreap.mm.mm_struct import MMF_OOM_SKIP, MmStruct, TaskStruct
from memreap.mm.mmap import remove_vmas
from memreap.mm.mmap_lock import mmap_read_lock, mmap_read_unlock, set_bit
from memreap.mm.mmu_gather import tlb_finish_mmu, tlb_gather_mmu_fullmm
from memreap.telling import paper
from memreap.victims import stage

STEP_NS = 10_000  # between two events: far more than clocks differ
KILLER, REAPER, SECOND, READER, OOM_REAPER = 10, 11, 12, 13, 33
VICTIM, THREAD, SHARER, CHILD = 100, 101, 200, 300
CPUS = {
    KILLER: 3,
    REAPER: 0,
    SECOND: 2,
    READER: 3,
    OOM_REAPER: 1,
    VICTIM: 1,
    THREAD: 2,
    SHARER: 3,
    CHILD: 0,
}
MM, OTHER_MM, MM_ID = 1, 2, 4711

Line = tuple[int, str, dict[str, Any]]
"""Who, what, fields."""
Story = list[Line]


# Stories, by hand.


def killed(pid: int = VICTIM) -> Story:
    fields = {"sig": 9, "errno": 0, "code": 0, "pid": pid, "group": 1, "result": 0, "comm": "v"}
    return [(KILLER, "signal_generate", fields)]


def delivered(pid: int = VICTIM) -> Story:
    return [(pid, "signal_deliver", {"sig": 9, "errno": 0, "code": 0})]


def lock(pid: int, write: int = 0, mm: int = MM) -> Story:
    return [
        (pid, "mmap_lock_start_locking", {"mm": mm, "memcg_id": 1, "write": write}),
        (pid, "mmap_lock_acquire_returned", {"mm": mm, "write": write, "success": 1}),
    ]


def unlock(pid: int, write: int = 0, mm: int = MM) -> Story:
    return [(pid, "mmap_lock_released", {"mm": mm, "memcg_id": 1, "write": write})]


def looks(pid: int, mm: int = MM) -> Story:
    return [*lock(pid, mm=mm), *unlock(pid, mm=mm)]


def falls(pid: int, times: int = 1) -> Story:
    return [(pid, "rss_stat", {"mm_id": MM_ID, "curr": 0, "member": 1, "size": 4096})] * times


def faults(pid: int) -> Story:
    return [(pid, "rss_stat", {"mm_id": MM_ID, "curr": 1, "member": 1, "size": 8192})]


def enters(pid: int = REAPER) -> Story:
    return [(pid, "sys_enter_process_mrelease", {"pidfd": 5, "flags": 0})]


def returns(pid: int = REAPER, ret: int = 0) -> Story:
    return [(pid, "sys_exit_process_mrelease", {"ret": ret})]


def ends(pid: int = VICTIM, group_dead: int = 1) -> Story:
    return [(pid, "sched_process_exit", {"pid": pid, "group_dead": group_dead, "comm": "v"})]


def dies(pid: int = VICTIM) -> Story:
    """Up to its last look at the mm."""
    return [*delivered(pid), *looks(pid), *ends(pid), *looks(pid)]


def unmaps(pid: int = VICTIM) -> Story:
    return [*lock(pid), *falls(pid, 3), *unlock(pid)]


def tears_down(pid: int = VICTIM) -> Story:
    return [*lock(pid, 1), (pid, "exit_mmap", {"mm": MM}), *unlock(pid, 1)]


def reaps(pid: int = REAPER, times: int = 3) -> Story:
    return [*enters(pid), *lock(pid), *falls(pid, times), *unlock(pid), *returns(pid)]


ALONE = [*killed(), *dies(), *unmaps(), *tears_down()]
REAPED_FIRST = [*killed(), *reaps(), *dies(), *unmaps(), *tears_down()]
# Both at once: the exit asks for the lock to write, and waits until the reaper has left.
BOTH = [
    *killed(),
    *enters(),
    *delivered(),
    *lock(REAPER),
    *falls(REAPER),
    *ends(),
    *looks(VICTIM),
    *lock(VICTIM),
    *falls(VICTIM),
    *falls(REAPER),
    *falls(VICTIM),
    *unlock(VICTIM),
    *lock(VICTIM, 1)[:1],
    *falls(REAPER),
    *unlock(REAPER),
    *returns(),
    *lock(VICTIM, 1)[1:],
    (VICTIM, "exit_mmap", {"mm": MM}),
    *unlock(VICTIM, 1),
]
LATE = [*killed(), *dies(), *enters(), *returns(ret=-3), *unmaps(), *tears_down()]
THREADS = [*killed(), *dies(VICTIM), *reaps(), *dies(THREAD), *unmaps(THREAD), *tears_down(THREAD)]
SHARED = [
    *killed(SHARER),
    *killed(),
    *dies(),
    *reaps(),
    *dies(SHARER),
    *unmaps(SHARER),
    *tears_down(SHARER),
]
SHARER_LIVES = [*killed(), *enters(), *returns(ret=-22), *dies(), *looks(SHARER), *faults(SHARER)]
HUNG_AIO = [*killed(), *enters(), *dies(), *lock(REAPER), *falls(REAPER), *unlock(REAPER)]
HUNG_THREAD = [*killed(), *dies(THREAD), *reaps(), *enters(), *looks(REAPER), *returns()]
WAITS_IN_VAIN = [
    *killed(),
    *enters(),
    *lock(REAPER)[:1],
    (REAPER, "mmap_lock_acquire_returned", {"mm": MM, "write": 0, "success": 0}),
    *returns(ret=-4),
]
BY_KHUGEPAGED = [
    *killed(),
    *enters(),
    *lock(REAPER),
    *falls(REAPER),
    *dies(),
    *lock(VICTIM, 1)[:1],
    *unlock(REAPER),
    *returns(),
    *lock(VICTIM, 1)[1:],
    *unlock(VICTIM, 1),
    *lock(VICTIM),
    *unlock(VICTIM),
    *tears_down(),
]
BEFORE_THE_KILL = [*looks(READER), *lock(VICTIM, 1), *unlock(VICTIM, 1), *faults(VICTIM), *BOTH]
BY_A_READER = [
    *lock(READER),
    *killed(),
    *dies(),
    *unlock(READER),
    *unmaps(READER),
    *tears_down(READER),
]


def oom(name: str, pid: int = OOM_REAPER) -> Story:
    return [(pid, name, {"pid": VICTIM})]


BY_OOM_REAPER = [
    *killed(),
    *dies(),
    *oom("wake_reaper", KILLER),
    *lock(OOM_REAPER),
    *oom("start_task_reaping"),
    *falls(OOM_REAPER, 2),
    *oom("finish_task_reaping"),
    *unlock(OOM_REAPER),
    *unmaps(),
    *tears_down(),
]

STORIES: dict[str, Story] = {
    "SIGKILL alone": ALONE,
    "reaped first": REAPED_FIRST,
    "both at once": BOTH,
    "the reap comes late": LATE,
    "threads": THREADS,
    "another process shares the mm": SHARED,
    "one that shares it lives": SHARER_LIVES,
    "hung AIO": HUNG_AIO,
    "hung thread, reaped twice": HUNG_THREAD,
    "the reap is given up": WAITS_IN_VAIN,
    "life before the kill": BEFORE_THE_KILL,
    "a reader of /proc takes it down": BY_A_READER,
    "oom_reaper": BY_OOM_REAPER,
}


def trace(story: Story, *, step_ns: int = STEP_NS, **changes: Any) -> Trace:
    told = tuple(
        Event(1_000_000 + n * step_ns, CPUS[pid], pid, name, dict(fields))
        for n, (pid, name, fields) in enumerate(story)
    )
    tids = tuple({pid: None for pid, *_ in story if pid in (VICTIM, THREAD, SHARER)})
    victim = Victim(VICTIM, "v", (VICTIM, *(tid for tid in tids if tid != VICTIM)), {})
    sharers = [SHARER] if SHARER in tids else []
    return replace(Trace("6.18.0", victim, told, outcome={"sharers": sharers}), **changes)


@pytest.mark.parametrize("name", STORIES)
def test_the_model_allows_it(name: str) -> None:
    verdict = judge(trace(STORIES[name]))
    assert str(verdict) == "conforms"


@pytest.mark.parametrize("name", STORIES)
def test_a_trace_may_stop_anywhere(name: str) -> None:
    told = trace(STORIES[name])
    for length in range(1, len(told.events)):
        verdict = judge(replace(told, events=told.events[:length]))
        assert verdict.refusal is None, length


def test_khugepaged_makes_the_exit_wait_for_the_reap() -> None:
    assert str(judge(trace(BY_KHUGEPAGED))) == "conforms, if khugepaged had its cursor on it"
    refused = judge(trace(BY_KHUGEPAGED), strict=True).refusal
    assert refused is not None


# Forgeries.

ACQUIRED, RELEASED = "mmap_lock_acquire_returned", "mmap_lock_released"
START, EXIT = "mmap_lock_start_locking", "sys_exit_process_mrelease"


def at(story: Story, pid: int, name: str, nth: int = 0) -> int:
    """Where the nth event of this kind is."""
    return [n for n, line in enumerate(story) if line[:2] == (pid, name)][nth]


def put(story: Story, before: int, lines: Story) -> Story:
    return [*story[:before], *lines, *story[before:]]


def moved(story: Story, source: int, before: int) -> Story:
    """The same, one event before another one."""
    left = [*story[:source], *story[source + 1 :]]
    return put(left, before - (source < before), [story[source]])


def without(pid: int, name: str, nth: int = 0) -> Callable[[Story], Story]:
    def forge(story: Story) -> Story:
        number = at(story, pid, name, nth)
        return [*story[:number], *story[number + 1 :]]

    return forge


def moving(
    pid: int, name: str, nth: int, other: int, before: str, which: int = 0
) -> Callable[[Story], Story]:
    """The nth event of one kind before that of another."""

    def forge(story: Story) -> Story:
        return moved(story, at(story, pid, name, nth), at(story, other, before, which))

    return forge


def putting(lines: Story, other: int, before: str, which: int = 0) -> Callable[[Story], Story]:
    return lambda story: put(story, at(story, other, before, which), lines)


def adding(*lines: Line) -> Callable[[Story], Story]:
    return lambda story: [*story, *lines]


def _reaper_unmaps_after_the_teardown(story: Story) -> Story:
    leaves = at(story, REAPER, EXIT)
    return [*story[:leaves], *story[leaves + 1 :], *falls(REAPER), story[leaves]]


def _found_in_time_and_walks_too_late(story: Story) -> Story:
    early = put(story, at(story, VICTIM, "signal_deliver"), enters(SECOND))
    return [*early, *lock(SECOND), *falls(SECOND), *unlock(SECOND), *returns(SECOND)]


def _comes_when_all_is_unmapped(story: Story) -> Story:
    """Between the exit path's walk and its teardown there is nothing to unmap any more."""
    early = put(story, at(story, VICTIM, "signal_deliver"), enters(SECOND))
    return put(early, at(early, VICTIM, START, -1), [*lock(SECOND), *falls(SECOND)])


def _finds_what_nobody_has(story: Story) -> Story:
    return moved(story, at(story, REAPER, "sys_enter_process_mrelease"), at(story, REAPER, START))


Forgery = tuple[Story, Callable[[Story], Story], int, Seen]
FORGERIES: dict[str, Forgery] = {
    "exit_mmap before the reaper has let go": (
        BOTH,
        moving(VICTIM, "exit_mmap", 0, REAPER, RELEASED),
        VICTIM,
        Seen.TORN_DOWN,
    ),
    "the writer has the lock and a reader too": (
        BOTH,
        moving(VICTIM, ACQUIRED, -1, REAPER, RELEASED),
        VICTIM,
        Seen.WRITES,
    ),
    "a reader has the lock and the writer too": (
        putting(enters(SECOND), VICTIM, "signal_deliver")(ALONE),
        putting(lock(SECOND), VICTIM, "exit_mmap"),
        SECOND,
        Seen.READS,
    ),
    "the reaper unmaps after exit_mmap": (
        BOTH,
        _reaper_unmaps_after_the_teardown,
        REAPER,
        Seen.FALLS,
    ),
    "the reaper unmaps once it has let go": (
        REAPED_FIRST,
        moving(REAPER, RELEASED, 0, REAPER, "rss_stat", -1),
        REAPER,
        Seen.FALLS,
    ),
    "the reaper unmaps before it has the lock": (
        REAPED_FIRST,
        moving(REAPER, "rss_stat", 0, REAPER, ACQUIRED),
        REAPER,
        Seen.FALLS,
    ),
    "the reaper finds pages where the exit path took all": (
        ALONE,
        _comes_when_all_is_unmapped,
        SECOND,
        Seen.FALLS,
    ),
    "a reaper that found it in time walks after the teardown": (
        ALONE,
        _found_in_time_and_walks_too_late,
        SECOND,
        Seen.FALLS,
    ),
    "a reaper finds it after the teardown": (
        ALONE,
        adding(*enters(SECOND), *lock(SECOND), *falls(SECOND), *unlock(SECOND)),
        SECOND,
        Seen.STARTS_READ,
    ),
    "a reaper finds what nobody has any more": (
        [*killed(), *enters(), *dies(), *lock(REAPER), *unlock(REAPER), *returns(), *unmaps()],
        _finds_what_nobody_has,
        VICTIM,  # so it had not left yet, and now it takes it down
        Seen.FALLS,
    ),
    "mrelease returns before it has let go": (
        REAPED_FIRST,
        moving(REAPER, EXIT, 0, REAPER, RELEASED),
        REAPER,
        Seen.RETURNS,
    ),
    "mrelease says that nobody is left": (
        REAPED_FIRST,
        lambda story: [*story[:1], *enters(), *returns(ret=-3), *story[1:]],
        REAPER,
        Seen.RETURNS,
    ),
    "mrelease says that it is not dying": (
        REAPED_FIRST,
        lambda story: [*story[:1], *enters(), *returns(ret=-22), *story[1:]],
        REAPER,
        Seen.RETURNS,
    ),
    "mrelease reaps one that has no SIGKILL": (
        REAPED_FIRST,
        moving(KILLER, "signal_generate", 0, REAPER, EXIT),
        REAPER,
        Seen.STARTS_READ,
    ),
    "mrelease reaps while another one that shares the mm lives": (
        SHARED,
        moving(KILLER, "signal_generate", 0, SHARER, "signal_deliver"),
        REAPER,
        Seen.STARTS_READ,
    ),
    "a lock is let go that was never had": (
        REAPED_FIRST,
        putting(unlock(REAPER), REAPER, EXIT),
        REAPER,
        Seen.READ_ENDS,
    ),
    "a lock is let go twice by the exit path": (
        ALONE,
        adding(*unlock(VICTIM, 1)),
        VICTIM,
        Seen.WRITE_ENDS,
    ),
    "the exit path unmaps before it has the lock": (
        ALONE,
        moving(VICTIM, "rss_stat", 0, VICTIM, START, 2),
        VICTIM,
        Seen.FALLS,
    ),
    "the exit path unmaps once it has let go": (
        ALONE,
        moving(VICTIM, RELEASED, 2, VICTIM, "rss_stat", -1),
        VICTIM,
        Seen.FALLS,
    ),
    "it is taken down while a thread still has it": (
        THREADS,
        lambda story: [line for line in story if line[0] != VICTIM or line in delivered()],
        THREAD,
        Seen.FALLS,
    ),
    "it is taken down while a reader has it": (
        [*looks(READER), *ALONE],
        moving(READER, RELEASED, 0, VICTIM, "exit_mmap"),
        VICTIM,
        Seen.FALLS,
    ),
    "it is taken down twice": (
        ALONE,
        adding(*unmaps(), *tears_down()),
        VICTIM,
        Seen.STARTS_READ,
    ),
    "the page tables go before the pages": (
        ALONE,
        lambda story: [*story[: at(story, VICTIM, START, 2)], *tears_down(), *unmaps()],
        VICTIM,
        Seen.STARTS_WRITE,
    ),
    "SIGKILL is delivered before it is sent": (
        ALONE,
        moving(KILLER, "signal_generate", 0, VICTIM, "sched_process_exit"),
        VICTIM,
        Seen.DELIVERED,
    ),
    "it is freed before it has left": (
        ALONE,
        putting([(READER, "sched_process_free", {"pid": VICTIM})], VICTIM, "exit_mmap"),
        VICTIM,
        Seen.FREED,
    ),
    "oom_reaper comes without being woken": (
        BY_OOM_REAPER,
        without(KILLER, "wake_reaper"),
        OOM_REAPER,
        Seen.STARTS_READ,
    ),
    "oom_reaper reaps after the teardown": (
        BY_OOM_REAPER,
        lambda story: (
            [*story[: at(story, OOM_REAPER, START)], *unmaps(), *tears_down()]
            + [line for line in story if line[0] == OOM_REAPER]
        ),
        OOM_REAPER,
        Seen.REAPS,
    ),
    "removed: the exit": (ALONE, without(VICTIM, "sched_process_exit"), VICTIM, Seen.FALLS),
    "removed: asking to read": (ALONE, without(VICTIM, START, 2), VICTIM, Seen.READS),
    "removed: asking to write": (ALONE, without(VICTIM, START, -1), VICTIM, Seen.WRITES),
    "removed: the lock, to read": (ALONE, without(VICTIM, ACQUIRED, 2), VICTIM, Seen.FALLS),
    "removed: the lock, to write": (ALONE, without(VICTIM, ACQUIRED, -1), VICTIM, Seen.TORN_DOWN),
    "removed: letting go to read": (ALONE, without(VICTIM, RELEASED, 2), VICTIM, Seen.STARTS_WRITE),
    "removed: exit_mmap": (ALONE, without(VICTIM, "exit_mmap"), VICTIM, Seen.WRITE_ENDS),
    "removed: calling mrelease": (
        REAPED_FIRST,
        without(REAPER, "sys_enter_process_mrelease"),
        REAPER,
        Seen.RETURNS,
    ),
    "removed: the reaper's letting go": (
        BOTH,
        without(REAPER, RELEASED),
        REAPER,
        Seen.RETURNS,
    ),
    "removed: the end of a reap": (
        BY_OOM_REAPER,
        without(OOM_REAPER, "finish_task_reaping"),
        OOM_REAPER,
        Seen.READ_ENDS,
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_refused_at_its_event(name: str) -> None:
    story, forge, who, seen = FORGERIES[name]
    assert judge(trace(story)).conforms
    refused = judge(trace(forge(story))).refusal
    assert refused is not None
    assert refused.step.who.split()[-1] == ("oom_reaper" if who == OOM_REAPER else str(who))
    assert refused.step.what.startswith(seen)


def test_without_the_signal_it_was_killed_by_somebody_else() -> None:
    forged = trace(without(KILLER, "signal_generate")(ALONE))
    assert str(judge(forged)) == f"conforms, if {Assumed.KILLED}"
    assert judge(forged, strict=True).refusal is not None


def test_without_its_delivery_it_ended_by_itself() -> None:
    forged = trace(without(VICTIM, "signal_deliver")(ALONE))
    assert str(judge(forged)) == f"conforms, if {Assumed.OWN_END}"
    refused = judge(forged, strict=True).refusal
    assert refused is not None
    assert refused.step.what == Seen.ENDS


def test_a_thread_that_does_nothing_may_have_left_before() -> None:
    told = trace(ALONE)
    forged = replace(told, victim=replace(told.victim, tids=(VICTIM, THREAD)))
    assert str(judge(forged)) == f"conforms, if {Assumed.HAD_LEFT}"
    assert judge(forged, strict=True).refusal is not None


def test_a_child_of_vfork_leaves_by_execve() -> None:
    execs = [*faults(CHILD), *looks(CHILD), *lock(CHILD, 1, OTHER_MM), *unlock(CHILD, 1, OTHER_MM)]
    assert str(judge(trace([*execs, *ends(CHILD), *BOTH]))) == "conforms"
    # While it is there, the victim is not reaped: it shares the mm, and is not dying.
    late = [*faults(CHILD), *reaps(), *execs[1:]]
    refused = judge(trace([*killed(), *late, *dies(), *unmaps(), *tears_down()])).refusal
    assert refused is not None
    assert refused.step.what == Seen.STARTS_READ


def test_without_any_end_somebody_else_took_it_down() -> None:
    freed = (READER, "sched_process_free", {"pid": VICTIM})
    forged = trace([*killed(), *dies(), freed])
    assert str(judge(forged)) == f"conforms, if {Assumed.UNSEEN}"


def test_a_lock_may_be_older_than_the_trace() -> None:
    story = [*killed(), *enters(), *lock(REAPER)[:1], *unlock(VICTIM, 1), *lock(REAPER)[1:]]
    assert str(judge(trace(story))) == f"conforms, if {Assumed.HAD_LOCK}"
    early = moved(story, at(story, REAPER, ACQUIRED), at(story, VICTIM, RELEASED))
    assert judge(trace(early)).refusal is not None


def test_calls_about_somebody_else_and_errors_do_not_count() -> None:
    other = [*enters(SECOND), *lock(SECOND, mm=OTHER_MM), *unlock(SECOND, mm=OTHER_MM)]
    story = [
        *enters(SECOND),
        *returns(SECOND, -9),
        *ALONE[:3],
        *other,
        *returns(SECOND),
        *ALONE[3:],
    ]
    assert str(judge(trace(story))) == "conforms"


def test_the_next_owner_of_its_memory_does_not_count() -> None:
    new = [*lock(READER, 1), *unlock(READER, 1), *falls(READER), (READER, "exit_mmap", {"mm": MM})]
    assert str(judge(trace([*ALONE, *new]))) == "conforms"


# Clocks.


def _swapped(story: Story, number: int, apart_ns: int) -> Trace:
    """Two events in a row change places, and are so far apart."""
    told = trace([*story[:number], story[number + 1], story[number], *story[number + 2 :]])
    moved_by = apart_ns - STEP_NS
    later = tuple(e._replace(at_ns=e.at_ns + moved_by) for e in told.events[number + 1 :])
    return replace(told, events=(*told.events[: number + 1], *later))


def test_clocks_of_two_cpus_may_differ_a_little() -> None:
    number = at(BOTH, REAPER, RELEASED)
    swapped = [*BOTH[: number + 1], *without(REAPER, EXIT)(BOTH)[number + 1 :]]
    verdict = judge(_swapped(swapped, number, SKEW_NS // 2))
    assert verdict.swaps
    assert "in another order" in str(verdict)
    assert judge(_swapped(swapped, number, SKEW_NS * 2)).refusal is not None


def test_one_cpu_has_one_clock() -> None:
    number = at(REAPED_FIRST, REAPER, RELEASED)  # and then mrelease returns
    assert judge(_swapped(REAPED_FIRST, number, SKEW_NS // 2)).refusal is not None


def test_a_thread_that_changes_its_cpu_keeps_its_order() -> None:
    number = at(REAPED_FIRST, REAPER, RELEASED)
    told = _swapped(REAPED_FIRST, number, SKEW_NS // 2)
    moved_on = told.events[number + 1]._replace(cpu=2)
    told = replace(told, events=(*told.events[: number + 1], moved_on, *told.events[number + 2 :]))
    assert judge(told).refusal is not None


# The check depends on the model.


class Unlocked(Kernel):
    """``exit_mmap`` without the ``down_write``."""

    name = "without down_write"

    def exit_mmap(self, mm: MmStruct, current: TaskStruct) -> Steps:
        del current
        yield mmap_read_lock(mm)
        tlb = tlb_gather_mmu_fullmm(mm)
        yield from unmap_vmas(self, tlb, mm)
        yield mmap_read_unlock(mm)
        yield set_bit(MMF_OOM_SKIP, mm)
        yield free_pgtables(mm)
        yield tlb_finish_mmu(mm, tlb)
        yield remove_vmas(mm, True)


class Asleep(Kernel):
    """A reaper that does not say when it is through: ``process_mrelease`` forgets the lock."""

    name = "mrelease without a lock"

    def process_mrelease(self, task: TaskStruct, current: TaskStruct) -> Steps:
        del current
        yield from self.oom_reap_vmas(task.address_space)
        yield mmdrop(task.address_space)


def test_without_the_write_lock_real_kills_are_refused_and_forged_ones_are_not() -> None:
    forged = trace([*killed(), *dies(), *unmaps(), (VICTIM, "exit_mmap", {"mm": MM})])
    assert judge(forged).refusal is not None
    assert judge(forged, Unlocked).conforms
    refused = judge(trace(ALONE), Unlocked).refusal
    assert refused is not None
    assert refused.step.what == Seen.STARTS_WRITE


def test_a_reaper_without_a_lock_is_another_language() -> None:
    forged = trace([*killed(), *enters(), *falls(REAPER, 3), *returns(), *dies(), *unmaps()])
    assert judge(forged).refusal is not None
    assert judge(forged, Asleep).conforms
    assert judge(trace(REAPED_FIRST), Asleep).refusal is not None


@pytest.mark.parametrize("name", ["pre-4.14", "merged-4.14", "5.15", "5.18"])
def test_older_designs_are_told_from_the_current_one(name: str) -> None:
    assert judge(trace(BOTH), DESIGNS[name]).refusal is not None


def test_the_other_end_cannot_be_seen() -> None:
    assert judge(trace(BOTH), DESIGNS["6.0"]).conforms


# Every run of the model is allowed, once it is written down as a trace.

FIELDS: dict[Seen, tuple[str, dict[str, Any]]] = {
    Seen.STARTS_READ: (START, {"write": 0}),
    Seen.STARTS_WRITE: (START, {"write": 1}),
    Seen.READS: (ACQUIRED, {"write": 0, "success": 1}),
    Seen.READ_FAILS: (ACQUIRED, {"write": 0, "success": 0}),
    Seen.WRITES: (ACQUIRED, {"write": 1, "success": 1}),
    Seen.WRITE_FAILS: (ACQUIRED, {"write": 1, "success": 0}),
    Seen.READ_ENDS: (RELEASED, {"write": 0}),
    Seen.WRITE_ENDS: (RELEASED, {"write": 1}),
    Seen.DELIVERED: ("signal_deliver", {}),
    Seen.TORN_DOWN: ("exit_mmap", {}),
    Seen.ENTERS: ("sys_enter_process_mrelease", {}),
    Seen.RETURNS: (EXIT, {}),
    Seen.FALLS: ("rss_stat", {"curr": 0}),
    Seen.TOUCHES: ("rss_stat", {"curr": 1}),
    Seen.ENDS: ("sched_process_exit", {"group_dead": 0}),
    Seen.FREED: ("sched_process_free", {}),
    Seen.SIGNALLED: ("signal_generate", {"result": 0}),
    Seen.WAKES_REAPER: ("wake_reaper", {}),
    Seen.SKIPS: ("skip_task_reaping", {}),
    Seen.REAPS: ("start_task_reaping", {}),
    Seen.REAPED: ("finish_task_reaping", {}),
}
OF_OOM = {"wake_reaper", "skip_task_reaping", "start_task_reaping", "finish_task_reaping"}
CASTS = {
    "threads and reapers": Cast((3,), 2, frozenset({"passer 0"}), ANYBODY, 3),
    "shared": Cast((2, 1), 1, last=ANYBODY, pages=2),
    "oom": Cast((2,), passers=1, last=ANYBODY, pages=3, has_reaper=True),
    "khugepaged": Cast((2,), 1, last=ANYBODY, assuming=frozenset({Assumed.KHUGEPAGED})),
    "a kernel before 6.16": Cast((2,), 1, last=ANYBODY, pages=2, ends_late=True),
    "a reaper that is to come again": Cast((2,), 1, last=ANYBODY, pages=3, is_busy=True),
}
SMALL = Cast((2,), 1, last=ANYBODY, pages=2)
RUN_STEPS = 400
RUNS = int(os.environ.get("MEMREAP_CONFORM_RUNS", "20"))
IDLE = {Seen.TOUCHES, Seen.STARTS_WRITE, Seen.SIGNALLED, Seen.READ_FAILS, Seen.FALLS}


def run_of(language: Language, rng: random.Random) -> Iterator[Letter]:
    """The letters of one run; somebody at home goes on to its end rather than round and round."""
    space = language.space
    state = space.initial
    for _ in range(RUN_STEPS):
        moves: list[tuple[Letter | None, int]] = []
        for part in space.components:
            ahead = part.automaton.operations[part.at(state)[0]]
            for stay in sorted(ahead.stays) if isinstance(ahead, Observed) else ():
                moves.append((stay, state))
            for move in space.moves_of(part, state):
                seen = ahead.letter(move.outcome.result) if isinstance(ahead, Observed) else None
                moves.append((seen, move.after))
        if not moves:
            return
        weights = [0.1 if seen and seen.seen in IDLE else 1.0 for seen, _ in moves]
        letter, state = rng.choices(moves, weights)[0]
        if letter:
            yield letter


def written(cast: Cast, letters: Iterator[Letter]) -> Trace:
    """A trace that tells this."""
    threads = {f"thread {n}": VICTIM + n for n in range(sum(cast.threads))}
    heads = {f"process {n}": VICTIM + sum(cast.threads[:n]) for n in range(len(cast.threads))}
    others = {f"passer {n}": REAPER + n for n in range(cast.passers)} | {"oom_reaper": OOM_REAPER}
    told = []
    for number, letter in enumerate(letters):
        name, fields = FIELDS[letter.seen]
        pid = doer = (threads | heads | others)[letter.who]
        if name in OF_OOM:
            pid, doer = VICTIM, KILLER if name == "wake_reaper" else OOM_REAPER
        elif letter.seen in (Seen.SIGNALLED, Seen.FREED):
            doer = KILLER
        own = {"mm": MM, "mm_id": MM_ID, "pid": pid, "ret": letter.result, **fields}
        if cast.ends_late:
            own.pop("group_dead", None)
        if letter.seen is Seen.TOUCHES and letter.who in others:
            own["curr"] = 0
        told.append(Event(number * STEP_NS, doer % 4, doer, name, own))
    sharers = [pid for name, pid in heads.items() if name != "process 0"]
    victim = Victim(VICTIM, "v", tuple(threads.values()), {})
    return Trace("6.18.0", victim, tuple(told), outcome={"sharers": sharers})


@pytest.mark.parametrize("name", CASTS)
def test_every_run_of_the_model_is_allowed(name: str) -> None:
    cast = CASTS[name]
    whole = Language(model(Kernel, cast))
    for seed in range(RUNS):
        told = written(cast, run_of(whole, random.Random(seed)))
        verdict = judge(told)
        assert verdict.refusal is None, (seed, verdict.refusal)


def distorted(word: list[Letter], rng: random.Random) -> list[Letter]:
    """One letter is in another place, is gone, or is there twice."""
    told, number = list(word), rng.randrange(len(word) - 1)
    letter = told.pop(number)
    near = rng.randrange(max(0, number - 10), min(len(told), number + 10))
    how = rng.randrange(3)
    if how == 1:
        told.insert(near, letter)
    elif how == 2:
        told[number:number] = [letter, letter]
    return told


def test_what_is_distorted_is_refused_where_the_whole_model_refuses_it() -> None:
    """The same, but for what is done to the next owner's mm, and for who unmaps in a call."""
    whole = Language(model(Kernel, SMALL))
    verdicts = []
    for seed in range(RUNS):
        rng = random.Random(seed)
        word = list(run_of(whole, rng))
        for _ in range(3):
            told = distorted(word, rng)
            passed = [whole.first]
            while len(passed) <= len(told) and passed[-1]:
                passed.append(whole.after(passed[-1], told[len(passed) - 1]))
            refused = None if passed[-1] else told[len(passed) - 2]
            is_late = Seen.TORN_DOWN in {one.seen for one in told[: len(passed)]}
            verdict = judge(written(SMALL, iter(told)), strict=True)
            verdicts.append(verdict.conforms)
            if verdict.conforms and refused is not None:
                assert "passer" in refused.who, seed
                assert is_late or refused.seen is Seen.TOUCHES, (seed, refused)
            else:
                assert verdict.conforms == (refused is None), (seed, verdict.refusal)
    assert {True, False} == set(verdicts)


# The command.


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., str]:
    def write(name: str, told: Trace) -> str:
        path = tmp_path / name
        path.write_text("\n".join([*told.lines(), ""]))
        return str(path)

    return write


def test_the_command_shows_what_is_refused_step_by_step(
    files: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    story, forge, *_ = FORGERIES["the writer has the lock and a reader too"]
    good, bad = files("good.jsonl", trace(BOTH)), files("bad.jsonl", trace(forge(story)))
    assert conform(ConformOptions((good, bad)), paper) == 1
    said = capsys.readouterr().out
    number = at(BOTH, REAPER, RELEASED)
    assert f"event {number} is not allowed" in said
    assert "has mmap_lock, to write: NOT ALLOWED" in said
    assert "mmap_lock 1 reader" in said
    waiting = next(line for line in said.splitlines() if "has mmap_lock, to write" in line)
    assert waiting
    assert conform(ConformOptions((good,)), paper) == 0


def test_the_command_as_json(files: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    story, forge, *_ = FORGERIES["removed: exit_mmap"]
    bad = files("bad.jsonl", trace(forge(story)))
    assert conform(ConformOptions((bad,), json=True), paper) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["conforms"]
    assert told["refusal"]["event"]["name"] == RELEASED
    assert told["refusal"]["step"]["what"] == Seen.WRITE_ENDS
    assert told["refusal"]["state"]["mmap_lock"] == ["written"]


def test_what_is_no_trace_or_not_a_whole_one(
    files: Callable[..., str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lossy = files("lossy.jsonl", trace(ALONE, lost=3))
    assert conform(ConformOptions((lossy,)), paper) == 2
    assert "3 events were lost" in capsys.readouterr().out
    assert conform(ConformOptions((str(tmp_path / "none"),)), paper) == 2
    (tmp_path / "text").write_text("no trace\n")
    assert conform(ConformOptions((str(tmp_path / "text"),)), paper) == 2
    empty = files("empty.jsonl", trace([]))
    assert conform(ConformOptions((empty,)), paper) == 2
    garbled = [(VICTIM, START, {}), *ALONE]
    assert conform(ConformOptions((files("g.jsonl", trace(garbled)),)), paper) == 2
    with pytest.raises(UsageError):
        conform(ConformOptions((lossy,), design="of tomorrow"), paper)


def test_what_a_kernel_does_not_tell_is_not_asked_for() -> None:
    story = [line for line in BOTH if line[1] != "exit_mmap"]
    assert judge(trace(story)).refusal is not None
    assert judge(trace(story, missing=("mmap/exit_mmap",))).conforms
    assert set(EVENTS) <= {event for event, _ in events.KILL}


# Real kills.

KILLS = int(os.environ.get("MEMREAP_CONFORM_KILLS", "40"))
SIZES_BYTES = (4 << 20, 16 << 20, 64 << 20)
REAL: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("sleeping", {}, True),
    ("sleeping", {}, False),
    ("threads", {}, True),
    ("threads", {"threads": 30}, True),
    ("threads", {}, False),
    ("shared", {}, True),
    ("shared", {}, False),
    ("hung-aio", {}, True),
    ("hung-aio", {}, False),
    ("hung-thread", {}, True),
    ("hung-mmap-lock", {}, True),
    ("busy", {}, True),
    ("sleeping", {"huge": True}, True),
)
"""Kind, how it is staged, whether it is reaped or gets SIGKILL alone."""
HUNG_TIMEOUT_S = 0.2


@pytest.fixture(scope="module")
def tracing() -> None:
    try:
        with tracefs():
            pass
    except TracingError as error:
        pytest.skip(str(error))


def kills(possible: dict[str, str | None]) -> Iterator[tuple[str, Trace]]:
    """Real ones, each kind in turn."""
    for number in range(KILLS):
        kind, how, reap = REAL[number % len(REAL)]
        if possible[kind]:
            continue
        with stage(kind, SIZES_BYTES[number % len(SIZES_BYTES)], **how) as victim:
            timeout_s = HUNG_TIMEOUT_S if kind.startswith("hung") else 10.0
            told = kill_traced(victim.pid, How(reap=reap, timeout_s=timeout_s))
        yield f"{number}: {kind} {how or ''}{'' if reap else ' alone'}", told


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.timeout(60 + KILLS * 20)
def test_the_running_kernel_does_what_the_model_allows(
    tracing: None, possible: dict[str, str | None], tmp_path: Path
) -> None:
    whole: list[tuple[str, Trace]] = []
    for name, told in kills(possible):
        verdict = judge(told)
        if verdict.refusal:  # to be looked at
            (tmp_path / "refused.jsonl").write_text("\n".join([*told.lines(), ""]))
        assert not verdict.refusal, (name, tmp_path, verdict.refusal)
        assert set(verdict.assuming) <= {Assumed.KHUGEPAGED}, name
        if not told.lost and len(whole) < len(REAL):
            whole.append((name, told))
    assert whole
    for name, told in whole:
        refused_when_forged(name, told)


def refused_when_forged(name: str, told: Trace) -> None:
    """Each event that somebody else's next one depends on is taken out, once."""
    for act in kill(told).lines:
        if act.letter.seen not in NEEDED:
            continue
        left = tuple(e for n, e in enumerate(told.events) if n != act.number)
        forged = judge(replace(told, events=left), strict=True)
        assert forged.refusal, (name, act)
        assert forged.refusal.step.number >= act.number


NEEDED = {Seen.TORN_DOWN, Seen.WRITES, Seen.STARTS_WRITE, Seen.ENTERS}
