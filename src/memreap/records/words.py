"""A turn in words: one line for a person, harmless for any terminal or log.

Only words live here; where they go is the affair of whoever asks for them.
"""

from memreap import size
from memreap.linux.procfs import printable
from memreap.records.turn import Course, Turn, figure, held_bytes, pid_of, reasons

NAME_MAX = 64
REASON_MAX = 300


def clipped(text: object, most: int = REASON_MAX) -> str:
    """A stranger's text: printable, and no longer than ``most``."""
    raw = str(text)
    shown = printable(raw[: most + 1])  # no work for what is not shown
    return shown if len(shown) <= most else shown[: most - 3] + "..."


def whom(candidate: Turn) -> str:
    """A candidate: name and pid, or how many they are."""
    name, pids = clipped(candidate.get("name") or "?", NAME_MAX), candidate.get("pids") or []
    many = f"{len(pids)} processes" if len(pids) > 1 else f"pid {pid_of(candidate)}"
    return f"{name} ({many})"


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 incident``, ``no incidents``, ``9,968 processes``."""
    word = noun if number == 1 else plural or f"{noun}s"
    return f"{number:,} {word}" if number else f"no {word}"


def usage(turn: Turn) -> str:
    """How much of how much."""
    return f"{size.show(turn['usage_bytes'])} of {size.show(turn['limit_bytes'])}"


def pressure(turn: Turn) -> str:
    """What ran out: the line was crossed, or everything stands still for memory."""
    if turn["usage_bytes"] >= turn["limit_bytes"]:
        return f"over its line, {usage(turn)}"
    stall = figure(turn, "stall_share")
    if stall:
        return f"standing still for memory {stall:.0%} of the time, {usage(turn)}"
    return f"under pressure, {usage(turn)}"


def comparison(turn: Turn) -> str:
    """Against how many the victim was chosen."""
    choice = turn.get("choice") or {}
    eligible = [r for r in choice.get("candidates") or [] if r.get("score_pages") is not None]
    number = len(eligible) + int(choice.get("others") or 0)
    if number <= 1:
        return "the only candidate"
    tiers = [r.get("tier") for r in eligible[:2]]
    if len(tiers) > 1 and tiers[0] == "prefer" != tiers[1]:
        return f"preferred by the configuration, of {number:,}"
    if len(tiers) > 1 and tiers[1] == "avoid" != tiers[0]:
        return f"the highest badness of {number:,} but for those whom the configuration avoids"
    return f"the highest badness of {number:,}"


def line(turn: Turn, course: Course | None = None) -> str:
    """The turn in one line, with its domain; "" for one that another line tells as well."""
    told = _TELLERS.get(str(turn.get("what")), _other)(turn, course)
    dry = "dry run: " if turn.get("dry_run") and told else ""
    return f"{clipped(turn['domain'], 200)}: {dry}{told}" if told else ""


def _because(turn: Turn) -> str:
    return f": {clipped(turn['reason'])}" if turn.get("reason") else ""


def _victim(turn: Turn) -> str:
    return whom(turn.get("victim") or {})


def _untold(turn: Turn, course: Course | None) -> str:
    del turn, course
    return ""


def _other(turn: Turn, course: Course | None) -> str:
    del course
    victim = f" {_victim(turn)}" if turn.get("victim") else ""
    return f"{clipped(turn.get('what'), NAME_MAX)}{victim}{_because(turn)}"


def _chosen(turn: Turn, course: Course | None) -> str:
    del course
    doing = "would kill" if turn.get("dry_run") else "killing"
    held = size.show(held_bytes(turn.get("victim") or {}))
    return f"{pressure(turn)}: {doing} {_victim(turn)}, {held}, {comparison(turn)}"


def _asked(turn: Turn, course: Course | None) -> str:
    del course
    doing = "would ask" if turn.get("dry_run") else "asked"
    return f"{doing} {_victim(turn)} to go (SIGTERM)"


def _outcome(turn: Turn, course: Course | None) -> str:
    del course
    outcome = turn.get("outcome") or {}
    who = f"{clipped(outcome.get('comm') or '?', NAME_MAX)} (pid {outcome.get('pid')})"
    why = f": {clipped(outcome['reason'])}" if outcome.get("reason") else ""
    match outcome.get("outcome"):
        case "stuck":
            return f"{who}: killed, but its memory did not come back{why}"
        case "refused":
            return f"{who}: not killed{why}"
        case "reaped":
            return f"{who}: still hangs in the kernel, its memory released"
    return ""


def _released(turn: Turn, course: Course | None) -> str:
    back, took_s = figure(turn, "released_bytes"), figure(turn, "seconds")
    if took_s is None and course and course.chosen_s is not None:
        took_s = turn["at_s"] - course.chosen_s
    if course and course.only_awaited(turn.get("victim") or {}):
        return f"{_victim(turn)}: gone" + (f" after {size.seconds(took_s)}" if took_s else "")
    amount = size.show(int(back)) if back else "nothing of its own"
    after = f" {size.seconds(took_s)} after the decision" if took_s is not None else ""
    return f"{_victim(turn)}: {amount} back{after}"


def _skipped(turn: Turn, course: Course | None) -> str:
    del course
    return f"{_victim(turn)}: passed over from now on{_because(turn)}"


def _spared(turn: Turn, course: Course | None) -> str:
    del course
    return f"{_victim(turn)}: spared{_because(turn) or ': no longer needed'}"


def _shared(turn: Turn, course: Course | None) -> str:
    del course
    return f"waits for {_victim(turn)}, {turn['reason']}: it holds memory here, too"


def _helpless(turn: Turn, course: Course | None) -> str:
    if course and course.helpless:
        return ""  # told once an incident
    choice = turn.get("choice") or {}
    why = reasons(choice.get("candidates") or [])
    shown = f" ({', '.join(clipped(r, 80) for r in why[:5])})" if why else ""
    return f"{pressure(turn)}: nobody may be killed{_because(turn) or shown}"


def _relieved(turn: Turn, course: Course | None) -> str:
    if course is None:
        return f"relieved, {usage(turn)}"
    if course.is_whole and not (course.victims or course.awaited or course.helpless):
        return ""  # it passed by itself before anything was decided
    after = f"relieved after {size.seconds(turn['at_s'] - course.began_s)}"
    return f"{after}: {turn['reason']}" if turn.get("reason") else f"{after}, {usage(turn)}"


def _warned(turn: Turn, course: Course | None) -> str:
    del course
    return f"nearing its line, {usage(turn)}{_because(turn)}"


def _eased(turn: Turn, course: Course | None) -> str:
    del course
    return f"eased, {usage(turn)}"


_TELLERS = {
    "pressed": _untold,  # the choice tells it, or it passes by itself
    "killed": _untold,  # as the choice said
    "chosen": _chosen,
    "asked": _asked,
    "outcome": _outcome,
    "released": _released,
    "skipped": _skipped,
    "spared": _spared,
    "shared": _shared,
    "helpless": _helpless,
    "relieved": _relieved,
    "warned": _warned,
    "eased": _eased,
}
