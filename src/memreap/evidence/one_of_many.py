"""One victim's trace, out of what was traced of everybody. Pure.

Nobody says which mm a call of process_mrelease is about, nor which threads were the victim's: both
follow from who sent the SIGKILL and whose pages fell. Whoever empties the victim's mm and is no
caller of process_mrelease is one of its threads.
"""

from collections.abc import Sequence

from memreap.evidence.events import MEMBERS
from memreap.evidence.timeline import reaped_ids
from memreap.evidence.trace import Trace, Victim
from memreap.linux.tracing import Event

SIGKILL = 9


def trace_of(
    events: Sequence[Event], pid: int, comm: str, held_bytes: int, kernel: str
) -> Trace | None:
    """``held_bytes``: what it held before, by its record; None where its SIGKILL was not seen."""
    begin = next((at for at, event in enumerate(events) if _kills(event, pid)), None)
    if begin is None:
        return None
    killer, later = events[begin].pid, events[begin:]
    ids = _ids(later, pid, killer)
    callers = {e.pid for e in later if e.name == "sys_enter_process_mrelease"}
    hands = {e.pid for e in later if e.name == "rss_stat" and e.fields["mm_id"] in ids}
    tids = {pid, *(hands - callers)}
    reapers = (callers & hands) | (callers & {killer})
    chosen = [e for e in later if _concerns(e, pid, tids, reapers, ids)]
    rss_bytes = _rss_bytes(chosen, held_bytes)
    return Trace(kernel, Victim(pid, comm, tuple(sorted(tids)), rss_bytes), tuple(chosen))


def _kills(event: Event, pid: int) -> bool:
    is_signal = event.name == "signal_generate" and event.fields.get("sig") == SIGKILL
    return is_signal and event.fields.get("pid") == pid


def _ids(events: Sequence[Event], pid: int, killer: int) -> set[int]:
    """The victim's mm in ``rss_stat``: what its killer reaps, or what its own exit empties."""
    by_killer = reaped_ids([e for e in events if e.pid == killer])
    return by_killer or {e.fields["mm_id"] for e in events if e.name == "rss_stat" and e.pid == pid}


def _concerns(event: Event, pid: int, tids: set[int], reapers: set[int], ids: set[int]) -> bool:
    if event.name == "rss_stat":
        return event.fields["mm_id"] in ids
    if event.name == "signal_generate":
        return _kills(event, pid)
    if event.name.endswith("process_mrelease"):
        return event.pid in reapers
    if event.name == "sched_switch":
        return event.fields["prev_pid"] in tids
    return event.pid in tids


def _rss_bytes(events: Sequence[Event], held_bytes: int) -> dict[str, int]:
    """By member: what was first told of it; the rest of what it held was anonymous."""
    first: dict[str, int] = {}
    for event in events:
        if event.name == "rss_stat":
            first.setdefault(MEMBERS[event.fields["member"]], max(0, event.fields["size"]))
    others = sum(size for name, size in first.items() if name != "MM_ANONPAGES")
    anon = max(first.get("MM_ANONPAGES", 0), held_bytes - others if first else 0)
    return first | {"MM_ANONPAGES": anon}
