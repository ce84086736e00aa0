"""What exit and reaper did to each other: stories by hand, then real kills."""

import json
import os
from pathlib import Path

import pytest

from memreap.evidence import picture
from memreap.evidence.killing import How, RefusedError, kill_traced
from memreap.evidence.page import page
from memreap.evidence.steps import as_dict, short, steps, summary
from memreap.evidence.timeline import Fall, Hold, Reap, Timeline, timeline
from memreap.evidence.trace import Trace, TraceError, Victim, loads, without_addresses
from memreap.linux.tracing import Event, TracingError
from memreap.victims import kinds_possible, stage

MIB = 1 << 20
US = 1000
T0 = 5_000_000
MM, OTHER = 1, 2
FILE, ANON = 0, 1
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="tracefs needs root")


def event(at_us: int, by: int, name: str, /, **fields: object) -> Event:
    return Event(T0 + at_us * US, by % 2, by, name, fields)


def lock(at_us: int, pid: int, what: str, *, write: bool = False, mm: int = MM) -> Event:
    names = {"asks": "start_locking", "gets": "acquire_returned", "frees": "released"}
    fields: dict[str, object] = {"mm": mm, "write": int(write), "memcg_id": 1}
    fields |= {"success": 1} if what == "gets" else {}
    return event(at_us, pid, f"mmap_lock_{names[what]}", **fields)


def rss(
    at_us: int, pid: int, mib: int, *, curr: int = 0, mm_id: int = 77, member: int = ANON
) -> Event:
    return event(at_us, pid, "rss_stat", mm_id=mm_id, curr=curr, member=member, size=mib * MIB)


VICTIM = Victim(
    10,
    "hog",
    (10, 11),
    {"MM_FILEPAGES": 0, "MM_ANONPAGES": 100 * MIB, "MM_SWAPENTS": 0, "MM_SHMEMPAGES": 0},
)
# 10 and 11 are the victim, 20 kills and reaps, 30 is a stranger who looks at it meanwhile.
EVENTS = (
    rss(-5, 10, 100, curr=1),
    event(0, 20, "signal_generate", sig=9, pid=10, comm="hog"),
    event(2, 20, "sys_enter_process_mrelease", pidfd=5),
    lock(3, 20, "asks"),
    lock(4, 20, "gets"),
    event(5, 10, "signal_deliver", sig=9),
    rss(10, 20, 3, curr=1, mm_id=5),  # the reaper's own
    rss(20, 20, 70),
    event(25, 10, "sched_process_exit", pid=10, group_dead=0),
    event(30, 11, "sched_process_exit", pid=11, group_dead=1),
    lock(31, 11, "asks"),
    lock(32, 11, "gets"),
    rss(40, 11, 60),
    lock(45, 30, "asks"),
    lock(46, 30, "gets"),
    lock(47, 30, "frees"),
    lock(50, 11, "frees"),
    lock(51, 11, "asks", write=True),
    rss(60, 20, 0),
    lock(100, 20, "frees"),
    event(101, 20, "sys_exit_process_mrelease", ret=0),
    lock(110, 11, "gets", write=True),
    event(120, 11, "exit_mmap", mm=MM),
    lock(121, 11, "frees", write=True),
    lock(122, 20, "asks", mm=OTHER),
    event(130, 10, "sched_switch", prev_pid=10, prev_state=16),
    event(131, 11, "sched_switch", prev_pid=11, prev_state=32),
)
TRACE = Trace("6.18", VICTIM, EVENTS, outcome={"outcome": "exited", "reason": "by both"})


def us(at_us: float) -> float:
    return pytest.approx(at_us / 1e6, abs=1e-12)  # type: ignore[return-value]


def test_a_healthy_victim_is_emptied_from_both_ends() -> None:
    assert timeline(TRACE) == Timeline(
        held_bytes=100 * MIB,
        signalled_s=0.0,
        delivered_s=us(5),
        exits_s=us(30),
        torn_down_s=us(120),
        gone_s=us(131),
        holds=(
            Hold("reaper", False, us(3), us(4), us(100)),
            Hold("exit", False, us(31), us(32), us(50)),
            Hold("pid 30", False, us(45), us(46), us(47)),
            Hold("exit", True, us(51), us(110), us(121), after="reaper"),
        ),
        falls=(
            Fall(us(20), "reaper", 30 * MIB, 70 * MIB),
            Fall(us(40), "exit", 10 * MIB, 60 * MIB),
            Fall(us(60), "reaper", 60 * MIB, 0),
        ),
        reaps=(Reap("reaper", us(2), us(101), 0),),
        others={"pid 30": 1},
    )


def test_the_story_says_who_waited_for_whom_and_who_freed_what() -> None:
    made = timeline(TRACE)
    told = [(step.who, step.what, step.left_bytes // MIB) for step in steps(made)]
    assert told[0] == ("killer", "SIGKILL sent", 100)
    assert ("exit", "wants mmap_lock for writing, and waits", 60) in told
    assert ("exit", "has mmap_lock for writing after 59 us, let go by reaper", 0) in told
    assert ("reaper", "lets mmap_lock go after 96 us; freed 90 MiB meanwhile", 0) in told
    assert told[-1] == ("exit", "gone", 0)
    assert [step.at_s for step in steps(made)] == sorted(step.at_s for step in steps(made))
    assert summary(made) == [
        "freed 100 MiB: reaper 90 MiB (90%), exit 10 MiB (10%)",
        "exit_mmap waited 59 us for the lock for writing, and held it for 11 us",
        "others who locked the mm: pid 30 (1 times)",
    ]


def test_one_that_hangs_says_where_and_nothing_is_made_up() -> None:
    stack = [
        "__schedule",
        "schedule",
        "schedule_timeout",
        "wait_for_completion",
        "exit_aio",
        "__mmput",
        "do_exit",
        "get_signal",
    ]
    events = (*EVENTS[:10], event(33, 11, "kernel_stack", stack=stack), *EVENTS[18:19])
    made = timeline(Trace("6.18", VICTIM, events))
    assert made.hangs_in == ("wait_for_completion", "exit_aio", "__mmput", "do_exit")
    assert (made.torn_down_s, made.gone_s) == (None, None)
    assert made.reaps == (Reap("reaper", us(2)),), "it is not back"
    assert made.holds == (Hold("reaper", False, us(3), us(4), None),)
    assert made.left_bytes == 0


def test_two_reapers_and_the_kernels_own_have_names() -> None:
    events = (
        *EVENTS[:3],
        event(3, 21, "sys_enter_process_mrelease", pidfd=5),
        event(4, 40, "start_task_reaping", pid=10),
        rss(5, 21, 90),
        rss(6, 40, 80),
        event(7, 21, "sys_exit_process_mrelease", ret=-11),
    )
    made = timeline(Trace("6.18", VICTIM, events))
    assert [fall.who for fall in made.falls] == ["reaper 2", "oom_reaper"]
    assert made.reaps[1] == Reap("reaper 2", us(3), us(7), 11)
    assert any("EAGAIN" in step.what for step in steps(made))


def test_an_empty_trace_is_an_empty_timeline() -> None:
    made = timeline(Trace("6.18", VICTIM, ()))
    assert made == Timeline(held_bytes=100 * MIB, signalled_s=None)
    assert (steps(made), summary(made)) == ([], [])


def test_durations_are_short() -> None:
    assert [short(s) for s in (1.5e-7, 0.000059, 0.0123, 2.0)] == [
        "0.15 us",
        "59 us",
        "12.3 ms",
        "2 s",
    ]


def test_a_trace_survives_a_file_and_holds_no_address() -> None:
    raw = tuple(
        e._replace(fields=e.fields | {"mm": 0xFFFF8880_00000000 + e.fields["mm"], "mt": 7})
        if "mm" in e.fields
        else e
        for e in EVENTS
    )
    trace = Trace(
        "6.18", VICTIM, tuple(without_addresses(raw)), 3, ("mmap/exit_mmap",), {"outcome": "exited"}
    )
    text = "\n".join(trace.lines())
    assert loads(text.splitlines()) == trace
    assert timeline(trace).falls == timeline(TRACE).falls
    assert "18446" not in text
    json.dumps(as_dict(timeline(trace)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1"),
        ("{}", "not a trace of memreap's"),
        ('{"memreap trace": 1}', "lacks or garbles"),
        ("\n".join([next(TRACE.lines()), '{"at_ns": 1}']), "line 2: no event"),
        ("\n".join([next(TRACE.lines()), "nonsense"]), "line 2: not JSON"),
        ("\n".join([next(TRACE.lines()), "[1]"]), "line 2: no JSON object"),
    ],
)
def test_what_is_no_trace_is_told_by_its_line(text: str, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        loads(text.splitlines())


def test_a_picture_has_a_lane_for_each_and_a_page_escapes_names() -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    made = timeline(TRACE)
    drawn = picture.svg(made, "hog <b>")
    assert drawn == picture.svg(made, "hog <b>"), "the same trace draws the same"
    for lane in ("exit", "reaper", "process_mrelease", "exit_mmap done", "us after the SIGKILL"):
        assert f">{lane}<" in drawn
    told = page(made, "hog <b>", "<script>", drawn)
    assert "<script>" not in told
    assert "hog &lt;b&gt;" in told


# On the live kernel.


def traced(kind: str, *, reap: bool = True, size_bytes: int = 128 * MIB) -> Timeline:
    if (why := kinds_possible().get(kind)) is not None:
        pytest.skip(f"{kind}: {why}")
    with stage(kind, size_bytes) as staged:
        try:
            trace = kill_traced(staged.pid, How(reap=reap, timeout_s=3.0))
        except TracingError as error:
            pytest.skip(str(error))
    assert trace.lost == 0
    assert list(trace.lines())
    return timeline(trace)


@pytest.mark.kernel
@needs_root
def test_a_real_one_that_is_healthy() -> None:
    made = traced("threads")
    assert made.left_bytes == 0
    assert sum(made.freed_bytes.values()) == made.held_bytes
    assert made.freed_bytes.get("exit", 0) < made.held_bytes, "the reaper had a hand in it"
    assert made.torn_down_s is not None
    assert made.gone_s is not None
    assert 0 < made.torn_down_s <= made.gone_s
    assert [hold for hold in made.holds if hold.write and hold.who == "exit"]


@pytest.mark.kernel
@needs_root
def test_a_real_one_that_can_never_exit_is_emptied_by_the_reaper_alone() -> None:
    made = traced("hung-aio")
    assert "exit_aio" in made.hangs_in
    assert "exit" not in made.freed_bytes
    assert made.left_bytes < made.held_bytes / 20
    assert (made.torn_down_s, made.gone_s) == (None, None)


@pytest.mark.kernel
@needs_root
def test_sigkill_alone_leaves_it_all_to_the_exit() -> None:
    made = traced("sleeping", reap=False)
    assert made.reaps == ()
    assert set(made.freed_bytes) == {"exit"}
    assert made.left_bytes == 0


@pytest.mark.kernel
@needs_root
def test_who_may_not_be_killed_is_not() -> None:
    with pytest.raises(RefusedError, match="init"):
        kill_traced(1)
    with pytest.raises(RefusedError, match="no such process"):
        kill_traced(2**22 + 7)
    assert Path("/proc/1").exists()
