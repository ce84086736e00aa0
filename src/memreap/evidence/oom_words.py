"""A victim of the kernel's OOM killer, told in lines for people and as an object for scripts. Pure.

Times are seconds from the mark.
"""

from collections.abc import Iterator
from typing import Any

from memreap.evidence.oom import RETRIES_MAX, Attempt, Followed
from memreap.evidence.timeline import OOM_REAPER
from memreap.linux.procfs import printable
from memreap.size import seconds, show

_REAPER = {
    "not needed": "the reaper was not needed",
    "not due": "the reaper was not woken",
    "due": "the reaper was woken and did not come",
    "reaping": "the reaper has not finished",
    "reaped": "",
    "skipped": "the reaper came late: exit_mmap had unmapped all",
    "locked": "the reaper did not get mmap_lock",
    "refused": "the reaper turned away",
    "gave up": "the reaper gave up, and it is passed over: the next OOM kills somebody else",
}
_TRIES = {
    "skipped": "the reaper turns away: MMF_OOM_SKIP is set, as exit_mmap has unmapped all",
    "locked": "the reaper turns away: mmap_lock is held for writing",
    "refused": "the reaper turns away: MMF_OOM_SKIP is set, or mmap_lock is held for writing",
}


def lines(victim: Followed, when: str, *, again: bool = False) -> Iterator[str]:
    """A paragraph; where it was told of before, only how it ended."""
    named = f"{when}  {_whom(victim)}"
    if again:
        yield f"{named}: told of before, and gone after {_after(victim, victim.gone_ns)}"
        return
    adj = "" if victim.oom_score_adj is None else f", oom_score_adj {victim.oom_score_adj}"
    held = f", {show(sum(victim.held_bytes.values()))}" if victim.held_bytes else ""
    yield f"{named}{held}{adj}: {headline(victim)}"
    for at_ns, what in sorted(_steps(victim), key=lambda step: step[0]):
        yield f"  {_after(victim, at_ns):>10}  {what}"
    yield f"              {_sum(victim)}"


def headline(victim: Followed) -> str:
    """How it stands."""
    match victim.outcome:
        case "exited" if any(one.how == "reaped" for one in victim.attempts):
            return "reaped, and gone by now" if victim.gone_ns is not None else "reaped"
        case "exited":
            return "exited" if victim.gone_ns is not None else "exited, but for its last steps"
        case "reaped" if victim.gone_ns is not None:
            return "reaped; it is gone, and somebody else keeps its mm"
        case "reaped" if victim.exits_ns is not None:
            return "reaped; it has not got through its exit"
        case "reaped":
            return "reaped; it is not gone yet"
    return "STUCK: its memory is not back"


def as_dict(victim: Followed, marked_wall_s: float) -> dict[str, Any]:
    """For scripts. ``marked_wall_s``: when it was marked, by the wall clock."""
    return {
        "pid": victim.pid,
        "comm": victim.comm,
        "uid": victim.uid,
        "oom_score_adj": victim.oom_score_adj,
        "held_bytes": sum(victim.held_bytes.values()) if victim.held_bytes else None,
        "marked_wall_s": round(marked_wall_s, 6),
        "marked_by": victim.marked_by,
        "before": list(victim.before),
        "marks": victim.marks,
        "outcome": victim.outcome,
        "reaper": victim.reaper,
        "exits_s": _s(victim, victim.exits_ns),
        "woken_s": _s(victim, victim.woken_ns),
        "attempts": [_attempt(victim, one) for one in victim.attempts],
        "torn_down_s": _s(victim, victim.torn_down_ns),
        "gone_s": _s(victim, victim.gone_ns),
        "freed_bytes": victim.freed_bytes,
    }


def _attempt(victim: Followed, one: Attempt) -> dict[str, Any]:
    return {"at_s": _s(victim, one.at_ns), "until_s": _s(victim, one.until_ns), "how": one.how}


def _s(victim: Followed, at_ns: int | None) -> float | None:
    return None if at_ns is None else (at_ns - victim.marked_ns) / 1e9


def _after(victim: Followed, at_ns: int | None) -> str:
    return seconds(_s(victim, at_ns))


def _whom(victim: Followed) -> str:
    return f"{printable(victim.comm)} ({victim.pid})" if victim.comm else f"pid {victim.pid}"


def _steps(victim: Followed) -> Iterator[tuple[int, str]]:
    who = "it" if victim.marked_by == victim.pid else f"pid {victim.marked_by}"
    times = f" ({victim.marks} times)" if victim.marks > 1 else ""
    before = ", ".join(map(str, victim.before))
    yet = f", before exit_mmap of {before} was done" if before else ""
    told = (
        (victim.marked_ns, f"marked as {who} wanted memory{times}{yet}"),
        (victim.exits_ns, "its last thread begins to exit"),
        (victim.woken_ns, "the reaper is woken"),
        (victim.torn_down_ns, "exit_mmap is done"),
        (victim.gone_ns, "gone"),
    )
    yield from ((at_ns, what) for at_ns, what in told if at_ns is not None)
    yield from _tries(victim.attempts)


def _tries(attempts: list[Attempt]) -> Iterator[tuple[int, str]]:
    """Each reaping; those that were turned away for the same reason, one after another, as one."""
    before = ""
    for number, one in enumerate(attempts):
        if one.how in ("reaping", "reaped"):
            yield one.at_ns, "the reaper begins"
            if one.until_ns is not None:
                took = seconds((one.until_ns - one.at_ns) / 1e9)
                yield one.until_ns, f"the reaper is done, in {took}"
        elif one.how != before:
            times = _same(attempts[number:])
            yield one.at_ns, _TRIES[one.how] + (f" ({times} times)" if times > 1 else "")
            if number + times >= RETRIES_MAX and one.how != "skipped":
                yield attempts[-1].at_ns, "the reaper gives up, and sets MMF_OOM_SKIP"
        before = one.how


def _same(attempts: list[Attempt]) -> int:
    """How many of the first ones are alike."""
    different = (n for n, one in enumerate(attempts) if one.how != attempts[0].how)
    return next(different, len(attempts))


def _sum(victim: Followed) -> str:
    """Who freed it, and what the reaper came to."""
    total = sum(victim.freed_bytes.values())
    shares = [f"{who} {show(n)} ({n / total:.0%})" for who, n in victim.freed_bytes.items()]
    if shares:
        freed = f"freed: {', '.join(shares)}"
    elif victim.outcome == "stuck":
        freed = "nothing was freed"
    else:
        freed = "who freed it was not seen"
    reaper = "" if OOM_REAPER in victim.freed_bytes else _REAPER[victim.reaper]
    return f"{freed}; {reaper}" if reaper else freed
