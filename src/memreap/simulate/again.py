"""``memreap simulate --incident``: what was, beside what another configuration would have done."""

from dataclasses import dataclass

from memreap import size
from memreap.config import command as configuration
from memreap.config.load import load, without_scopes
from memreap.config.options import Options
from memreap.config.places import Places
from memreap.records.archive import Archive, NoArchiveError
from memreap.records.words import clipped
from memreap.simulate.guard_replay import NoReplayError, Replayed, recorded, replayed
from memreap.telling import paper
from memreap.telling.incidents import when

EXIT_NO_REPLAY = 4
ASSUMED = (
    "Assumed, as no record says it: the candidate with the highest badness is the one that grows, "
    "and who was not killed would have exited at once."
)
SHOWN_MAX = 8


@dataclass(frozen=True, slots=True)
class AgainOptions:
    """The command line. ``config``: None for the files of this machine."""

    incident: int
    config: str | None
    database: str
    json: bool


def again(options: AgainOptions) -> int:
    """Tell it; the exit code."""
    loaded = load(Options(config=options.config), Places())
    if faults := without_scopes(loaded.faults):
        return configuration.tell(faults)
    try:
        archive = Archive(options.database)
        incident = archive.one(options.incident)
        archive.close()
    except NoArchiveError as error:
        return _cannot(str(error))
    if incident is None:
        return _cannot(f"no incident {options.incident}, looked in {archive.path}")
    try:
        was, would_be = recorded(incident), replayed(incident, loaded.settings)
    except NoReplayError as error:
        return _cannot(f"incident {options.incident} cannot be replayed: {error}")
    if options.json:
        told = {"incident": incident.id, "config": list(loaded.files)}
        paper.dump({**told, "was": was.as_dict(), "would_be": would_be.as_dict()})
        return paper.finish(paper.EXIT_OK)
    paper.out(f"Incident {incident.id}, {when(incident.began_wall_s)}: {clipped(incident.domain)}")
    paper.out()
    for title, came in (
        ("As it was:", was),
        (f"With {', '.join(map(clipped, loaded.files)) or 'the defaults'}:", would_be),
    ):
        paper.out(title)
        for line in _lines(came):
            paper.out(f"  {line}")
        paper.out()
    for row in paper.fold(ASSUMED):
        paper.out(row)
    return paper.finish(paper.EXIT_OK)


def _lines(came: Replayed) -> list[str]:
    lines = [
        f"killed    {clipped(name)} (pid {pid}), which held {size.show(held_bytes)}"
        for name, pid, held_bytes in came.killed[:SHOWN_MAX]
    ]
    if more := came.killed[SHOWN_MAX:]:
        lines.append(f"          and {len(more)} more")
    if came.skipped:
        lines.append(f"skipped   {came.skipped}, which made no progress")
    if came.helpless:
        lines.append("helpless  nobody was left who may be killed")
    took_s = came.seconds_to_relief
    lines.append(f"relieved  {'never' if took_s is None else f'after {size.seconds(took_s)}'}")
    return lines if came.killed else ["killed    nobody", *lines]


def _cannot(why: str) -> int:
    paper.err(why)
    return EXIT_NO_REPLAY
