"""The table of ``memreap trace exits``.

Where it is printed is handed in.
"""

from collections.abc import Iterator

from memreap.evidence.exits import WAITED_NS, Exits
from memreap.evidence.spread import Spread
from memreap.printing import Column, Paper

COLUMNS: tuple[Column, ...] = (
    ("exit_mmap's write lock", False),
    ("exits", True),
    ("share", True),
    ("median", True),
    ("p99", True),
    ("max", True),
)


def show(found: Exits, facts: str, lost: int, paper: Paper) -> None:
    """All of it. ``facts``: on which kernel, in what time."""
    paper.out(f"{found.count:,} exits {facts}; {lost} events lost")
    if found.count:
        rows = [
            _row("from wanted to had", found, found.wait),
            _row(f"  more than {nanoseconds(WAITED_NS)}: it waited", found, found.waited),
            _row("from had to released", found, found.held),
            _row(f"the whole exit, from {_begin(found)}", found, found.whole),
        ]
        paper.show(COLUMNS, rows)
        paper.out()
        for line in _sentences(found):
            paper.out(line)
    for line in _apart(found):
        paper.out(line)
    if lost:
        paper.out(f"{lost} events were lost: these are the exits that were seen whole all the same")


def _begin(found: Exits) -> str:
    return "exit_mm" if found.late else "sched_process_exit"


def _row(what: str, found: Exits, spread: Spread) -> list[str]:
    times = [nanoseconds(spread.median), nanoseconds(spread.quantile(0.99))]
    highest = nanoseconds(spread.highest if spread.count else None)
    return [what, f"{spread.count:,}", percent(found.of_exits(spread.count)), *times, highest]


def _sentences(found: Exits) -> Iterator[str]:
    share = percent(found.of_exits(found.unnecessary))
    yield f"Unnecessary: {share} of exits got it without waiting, and nobody else wanted it then."
    if found.waited.count:
        yield (
            f"Waited: {found.met:,} of {found.waited.count:,} with somebody else seen at that "
            "lock. The rest was interrupted"
        )
        yield "just then, or waited for somebody who got it by trylock, which is not traced."
    middle = found.share.median
    yield (
        f"Cost: waiting and holding took {percent(None if middle is None else middle / 1e6)} of an "
        "exit in the median. It is less: what is done"
    )
    yield "under the lock is to be done without it too. Of all their time, long exits included,"
    wait, held = found.of_time(found.wait.total), found.of_time(found.held.total)
    yield f"waiting took {percent(wait)}, holding {percent(held)}."


def _apart(found: Exits) -> Iterator[str]:
    """What is not among the exits."""
    several = {
        "torn down at an exec": found.torn_at_exec,
        "of the dead torn down by somebody else": found.torn_by_others,
        "torn down otherwise (failed forks and execs)": found.torn_otherwise,
    }
    told = [f"{many:,} {what}" for what, many in several.items() if many]
    if told:
        yield f"Not counted, memory: {', '.join(told)}."
    if found.left:
        yield f"Not counted, processes: {found.left:,} that others shared their memory with."
    if found.half_seen:
        yield f"Not counted, exits seen in part: {found.half_seen:,}."


def nanoseconds(value_ns: int | None) -> str:
    """Three figures, and a unit."""
    if value_ns is None:
        return "-"
    for unit, factor in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if value_ns >= 0.9995 * factor:
            return f"{value_ns / factor:.3g} {unit}"
    return f"{value_ns} ns"


def percent(share: float | None) -> str:
    """Two decimals; what is not none, and not all, is never shown as that."""
    if share is None:
        return "-"
    if share in (0, 1):
        return f"{100 * share:.0f} %"
    return f"{100 * min(max(share, 0.0001), 0.9999):.2f} %"
