"""A timeline as steps that people read: when, who, what, and how much was left. Pure."""

import errno
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from memreap.evidence.timeline import EXIT, Fall, Hold, Reap, Timeline
from memreap.size import seconds, show

LONG_S = 1e-4  # a hold that is shorter, had not to wait and freed nothing is only counted
_WHY = {
    errno.ESRCH: "no thread has the mm any more",
    errno.EINVAL: "another live process shares the mm",
    errno.EAGAIN: "part of it could not be reaped yet",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the table."""

    at_s: float
    who: str
    what: str
    left_bytes: int


def steps(timeline: Timeline) -> list[Step]:
    """In the order of time."""
    found = [*_ends(timeline), *_reaps(timeline), *_holds(timeline)]
    found.sort(key=lambda one: one[0])
    return [Step(at_s, who, what, _left(timeline, at_s)) for at_s, who, what in found]


def summary(timeline: Timeline) -> list[str]:
    """What it comes to, in sentences."""
    freed = timeline.freed_bytes
    total = sum(freed.values())
    lines = []
    if total:
        shares = [f"{who} {show(n)} ({n / total:.0%})" for who, n in _by_size(freed)]
        lines.append(f"freed {show(total)}: {', '.join(shares)}")
    for hold in timeline.holds:
        if hold.who == EXIT and hold.write and hold.got_s is not None:
            waited = (
                f"waited {short(hold.waited_s)} for" if hold.had_to_wait else "did not wait for"
            )
            held = _for(hold)
            lines.append(f"exit_mmap {waited} the lock for writing, and held it{held}")
    if timeline.hangs_in:
        lines.append(f"the exit hangs in {' <- '.join(timeline.hangs_in)}")
    if timeline.others:
        named = ", ".join(f"{who} ({n} times)" for who, n in sorted(timeline.others.items()))
        lines.append(f"others who locked the mm: {named}")
    return lines


def as_dict(timeline: Timeline) -> dict[str, Any]:
    """Everything, for those who script."""
    told = asdict(timeline)
    told["freed_bytes"] = timeline.freed_bytes
    told["left_bytes"] = timeline.left_bytes
    told["steps"] = [asdict(step) for step in steps(timeline)]
    return told


def short(duration_s: float) -> str:
    """Three figures, down to microseconds."""
    return f"{duration_s * 1e6:.3g} us" if duration_s < 1e-3 else seconds(duration_s)


def _for(hold: Hold) -> str:
    if hold.got_s is None or hold.released_s is None:
        return " to the end of the trace"
    return f" for {short(hold.released_s - hold.got_s)}"


def _by_size(freed: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(freed.items(), key=lambda one: -one[1])


def _ends(timeline: Timeline) -> Iterator[tuple[float, str, str]]:
    told = (
        (timeline.signalled_s, "killer", "SIGKILL sent"),
        (timeline.delivered_s, EXIT, "SIGKILL delivered"),
        (timeline.exits_s, EXIT, "the last thread begins to exit"),
        (timeline.torn_down_s, EXIT, "exit_mmap done: page tables and areas are gone"),
        (timeline.gone_s, EXIT, "gone"),
    )
    for at_s, who, what in told:
        if at_s is not None:
            yield at_s, who, what


def _reaps(timeline: Timeline) -> Iterator[tuple[float, str, str]]:
    for reap in timeline.reaps:
        yield reap.entered_s, reap.who, "process_mrelease"
        if reap.returned_s is not None:
            yield reap.returned_s, reap.who, _returned(reap)


def _returned(reap: Reap) -> str:
    if not reap.code:
        return "process_mrelease is back: 0"
    name = errno.errorcode.get(reap.code, str(reap.code))
    return f"process_mrelease is back: {name}, {_WHY.get(reap.code, os.strerror(reap.code))}"


def _holds(timeline: Timeline) -> Iterator[tuple[float, str, str]]:
    short: Counter[str] = Counter()
    first_s: dict[str, float] = {}
    for hold in timeline.holds:
        freed = sum(fall.freed_bytes for fall in _within(timeline.falls, hold))
        lasted_s = (hold.released_s or 0.0) - (hold.got_s or 0.0)
        if not (hold.had_to_wait or hold.write or freed or lasted_s > LONG_S):
            short[hold.who] += 1
            at_s = next(s for s in (hold.asked_s, hold.got_s, hold.released_s) if s is not None)
            first_s.setdefault(hold.who, at_s)
            continue
        yield from _hold(hold, freed)
    for who, times in short.items():
        yield first_s[who], who, f"takes mmap_lock for an instant ({times} times from here on)"


def _hold(hold: Hold, freed_bytes: int) -> Iterator[tuple[float, str, str]]:
    how = "writing" if hold.write else "reading"
    if hold.had_to_wait and hold.asked_s is not None:
        yield hold.asked_s, hold.who, f"wants mmap_lock for {how}, and waits"
    if hold.got_s is not None:
        waited = f" after {short(hold.waited_s)}" if hold.had_to_wait else ""
        after = f", let go by {hold.after}" if hold.after else ""
        yield hold.got_s, hold.who, f"has mmap_lock for {how}{waited}{after}"
    if hold.released_s is not None:
        freed = f"; freed {show(freed_bytes)} meanwhile" if freed_bytes else ""
        yield hold.released_s, hold.who, f"lets mmap_lock go{_after(hold)}{freed}"


def _after(hold: Hold) -> str:
    return f" after {short(hold.released_s - hold.got_s)}" if hold.released_s and hold.got_s else ""


def _within(falls: tuple[Fall, ...], hold: Hold) -> list[Fall]:
    begin_s = hold.got_s if hold.got_s is not None else 0.0
    end_s = hold.released_s if hold.released_s is not None else float("inf")
    return [fall for fall in falls if fall.who == hold.who and begin_s <= fall.at_s <= end_s]


def _left(timeline: Timeline, at_s: float) -> int:
    before = [fall.left_bytes for fall in timeline.falls if fall.at_s <= at_s]
    return before[-1] if before else timeline.held_bytes
