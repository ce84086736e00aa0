"""``memreap incidents``: what was recorded, an incident a line."""

import re
import time
from dataclasses import dataclass

from memreap import size
from memreap.records import schema
from memreap.records.archive import Archive, NoArchiveError, Recorded
from memreap.records.turn import held_bytes
from memreap.records.words import whom
from memreap.telling import paper
from memreap.telling.story import Story

VICTIMS_SHOWN_MAX = 4
COLUMNS = (
    ("id", True),
    ("when", False),
    ("domain", False),
    ("victims", False),
    ("back", True),
    ("to relief", True),
    ("outcome", False),
)
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SINCE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])", re.ASCII)


@dataclass(frozen=True, slots=True)
class IncidentsOptions:
    """The command line."""

    json: bool = False
    limit: int = 20
    since_s: float | None = None
    database: str = schema.PATH


def ago_s(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``2h``, ``1.5d``, ``1w``. Raises ValueError."""
    match = _SINCE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"not a time ago: {text!r} (say 30m, 2h or 7d)")
    return float(match[1]) * _UNITS_S[match[2]]


def incidents(options: IncidentsOptions) -> int:
    """List them, the newest first."""
    since = None if options.since_s is None else time.time() - options.since_s
    try:
        archive = Archive(options.database)
        found = archive.newest(options.limit, since)
        archive.close()
    except NoArchiveError as error:
        paper.err(str(error))
        return paper.EXIT_NO_DATABASE
    if options.json:
        for incident in found:
            paper.dump(_as_dict(incident))
    elif found:
        paper.show(COLUMNS, [_row(Story.of(incident)) for incident in found])
    else:
        paper.err(f"no incidents{' since then' * (since is not None)}, looked in {archive.path}")
    return paper.finish(paper.EXIT_OK)


def when(wall_s: float) -> str:
    """Local time, as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(wall_s))


def _row(story: Story) -> tuple[str, ...]:
    incident = story.incident
    victims = [
        f"{'would be ' if d.is_dry else ''}{whom(d.victim)} {size.show(held_bytes(d.victim))}"
        for d in story.deaths
    ]
    more = len(victims) - VICTIMS_SHOWN_MAX
    shown = victims[:VICTIMS_SHOWN_MAX] + [f"and {more} more"] * (more > 0)
    back = incident.released_bytes
    return (
        str(incident.id),
        when(incident.began_wall_s),
        incident.domain,
        ", ".join(shown) or "-",
        size.show(back) if back else "-",
        size.seconds(incident.seconds_to_relief),
        story.outcome,
    )


def _as_dict(incident: Recorded) -> dict[str, object]:
    story, fields = Story.of(incident), incident.as_dict()
    del fields["turns"]
    fields["state"], fields["outcome"] = story.state, story.outcome
    fields["would_be"] = [dict(death.victim) for death in story.deaths if death.is_dry]
    fields["deaths"] = [
        {
            "victim": dict(death.victim),
            "outcome": death.outcome,
            "reason": death.reason,
            "released_bytes": death.released_bytes,
            "seconds_to_release": death.seconds,
        }
        for death in story.deaths
        if not death.is_dry
    ]
    return fields
