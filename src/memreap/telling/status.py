"""``memreap status``: the present, once or each second until interrupted."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memreap import size
from memreap.records.turn import held_bytes
from memreap.records.words import clipped, count, whom
from memreap.telling import paper
from memreap.telling.asking import SOCKET, NoGuardError, ask

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY_S = 1.0
BAR_WIDTH = 10
COLUMNS = (
    ("domain", False),
    ("phase", False),
    ("usage", False),
    ("headroom", True),
    ("stall", True),
    ("growth", True),
    ("victim or next", False),
)

Status = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StatusOptions:
    """The command line."""

    json: bool = False
    watch: bool = False
    socket: str = SOCKET


def status(options: StatusOptions) -> int:
    """Show it."""
    try:
        if options.watch:
            return paper.finish(_watch(options))
        _print(ask(options.socket), options)
    except NoGuardError as error:
        paper.err(str(error))
        return paper.EXIT_NO_GUARD
    except KeyboardInterrupt:
        return paper.finish(paper.EXIT_OK)
    return paper.finish(paper.EXIT_OK)


def _print(answer: Status, options: StatusOptions) -> None:
    if options.json:
        paper.dump(answer)
        return
    for line in header(answer):
        paper.out(line)
    paper.show(COLUMNS, [row(domain) for domain in answer.get("domains") or ()])


def _watch(options: StatusOptions) -> int:
    """Each second; a guard that is restarted meanwhile is waited for, once it was seen."""
    answer = ask(options.socket)
    if options.json or not paper.is_seen():
        while True:
            _print(answer, options)
            paper.finish(paper.EXIT_OK)
            time.sleep(EVERY_S)
            answer = ask(options.socket)
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    with Live(_picture(answer), console=paper.console(), auto_refresh=False) as live:
        while True:
            time.sleep(EVERY_S)
            try:
                live.update(_picture(ask(options.socket)), refresh=True)
            except NoGuardError as error:
                live.update(Text(clipped(error), "bold red"), refresh=True)


def _picture(answer: Status) -> "RenderableType":
    from rich.console import Group  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    rows = [row(domain) for domain in answer.get("domains") or ()]
    return Group(*(Text(line) for line in header(answer)), paper.table(COLUMNS, rows))


def header(answer: Status) -> Iterator[str]:
    """Who answers, since when, what it did, and what it cannot do."""
    uptime_s = max(0.0, time.time() - float(answer.get("started_wall_s") or time.time()))
    told = [f"memreap {clipped(answer.get('version'), 40)}, pid {answer.get('pid')}"]
    told.append(f"up {lasting(uptime_s)}")
    if answer.get("dry_run"):
        told.append("DRY RUN: nobody is killed")
    told.append(count(int(answer.get("incidents") or 0), "incident"))
    told.append(count(int(answer.get("kills") or 0), "kill"))
    for who in ("scout", "scribe"):
        if restarts := int((answer.get(who) or {}).get("restarts") or 0):
            told.append(f"{who} replaced {restarts} times" if restarts > 1 else f"{who} replaced")
    yield ", ".join(told)
    for means in answer.get("means") or ():
        yield f"  {clipped(means)}"
    yield ""


def lasting(value_s: float) -> str:
    """``42 s``, ``3 min``, ``5 h 12 min``, ``9 d 4 h``."""
    minutes, hours, days = int(value_s // 60), int(value_s // 3600), int(value_s // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(value_s)} s"


def bar(share: float, width: int = BAR_WIDTH) -> str:
    """A share as a bar."""
    full = round(min(1.0, max(0.0, share)) * width)
    return "█" * full + "░" * (width - full)


def row(domain: Status) -> tuple[str, ...]:
    """One domain."""
    used, limit = int(domain["usage_bytes"]), int(domain["limit_bytes"])
    share = used / limit if limit else 0.0
    stall, growth = domain.get("stall_share"), int(domain.get("growth_bytes_per_s") or 0)
    return (
        clipped(domain["name"], 200),
        clipped(domain.get("phase"), 20),
        f"{bar(share)} {size.show(used)} of {size.show(limit)}",
        size.show(limit - used),
        "-" if stall is None else f"{stall:.1%}",
        f"{growth:+d} B/s" if abs(growth) < 1024 else f"{'+' * (growth > 0)}{size.show(growth)}/s",
        _who(domain),
    )


def _who(domain: Status) -> str:
    skipped = (
        f"; {count(int(domain['skipped']), 'victim')} skipped" if domain.get("skipped") else ""
    )
    if victim := domain.get("victim"):
        return f"killing {whom(victim)}, {size.show(held_bytes(victim))}{skipped}"
    why = f": {clipped(domain['next_why'], 100)}" if domain.get("next_why") else ""
    if following := domain.get("next"):
        return f"{whom(following)}, {size.show(held_bytes(following))}{why}{skipped}"
    return f"nobody{why}{skipped}"
