"""``memreap trace kill``: one kill, told as a table, as JSON, as a picture, or kept as a trace.

Only what a person asked for, and how it is answered, lives here.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memreap.evidence import page, picture
from memreap.evidence.killing import How, RefusedError, kill_traced
from memreap.evidence.starting import started
from memreap.evidence.steps import as_dict, steps, summary
from memreap.evidence.timeline import Timeline, timeline
from memreap.evidence.trace import Trace
from memreap.linux.procfs import printable
from memreap.linux.tracing import TracingError
from memreap.size import show
from memreap.telling import paper
from memreap.victims import stage

EXIT_OK, EXIT_STUCK, EXIT_USAGE, EXIT_REFUSED = 0, 1, 2, 3
COLUMNS = (("after", True), ("who", False), ("what", False), ("left", True))


@dataclass(frozen=True, slots=True)
class TraceKillOptions:
    """The command line. ``named``: a pid, or a command; or nothing, and ``victim`` a kind."""

    named: tuple[str, ...] = ()
    victim: str | None = None
    size_bytes: int = 512 << 20
    alone: bool = False
    after_s: float | None = None
    timeout_s: float = 10.0
    save: str | None = None
    svg: str | None = None
    html: str | None = None
    json: bool = False


def trace_kill(options: TraceKillOptions) -> int:
    """Kill and tell; the exit code."""
    several = len(options.named) > 1 and all(map(str.isdecimal, options.named))
    if several or bool(options.named) == (options.victim is not None):
        paper.err("name one victim: a PID, --victim KIND, or -- COMMAND")
        return EXIT_USAGE
    for path in filter(None, (options.save, options.svg, options.html)):
        if not os.access(Path(path).resolve().parent, os.W_OK):  # nobody dies for nothing
            paper.err(f"{path}: cannot be written there")
            return EXIT_USAGE
    try:
        if options.svg or options.html:
            picture.check()
        with _victim(options) as pid:
            trace = kill_traced(pid, How(reap=not options.alone, timeout_s=options.timeout_s))
    except (TracingError, RefusedError, picture.NoPictureError, RuntimeError) as error:
        paper.err(str(error))
        return EXIT_REFUSED
    return _told(trace, options)


@contextlib.contextmanager
def _victim(options: TraceKillOptions) -> Iterator[int]:
    if options.victim is not None:
        with stage(options.victim, options.size_bytes) as staged:
            yield staged.pid
    elif options.named[0].isdecimal():
        yield int(options.named[0])
    else:
        with started(options.named, options.after_s) as pid:
            yield pid


def _told(trace: Trace, options: TraceKillOptions) -> int:
    made = timeline(trace)
    try:
        _write(trace, made, options)
    except OSError as error:
        paper.err(f"{error.filename}: {error.strerror}")
        return EXIT_USAGE
    if options.json:
        told: dict[str, Any] = {"kernel": trace.kernel, "victim": asdict(trace.victim)}
        told |= {"outcome": trace.outcome, "lost": trace.lost, "missing": trace.missing}
        paper.out(json.dumps(told | as_dict(made)))
    else:
        _show(trace, made)
    stuck = trace.outcome.get("outcome") == "stuck"
    return paper.finish(EXIT_STUCK if stuck else EXIT_OK)


def _write(trace: Trace, made: Timeline, options: TraceKillOptions) -> None:
    if options.save:
        Path(options.save).write_text("\n".join([*trace.lines(), ""]), encoding="utf-8")
    if not (options.svg or options.html):
        return
    drawn = picture.svg(made, _title(trace))
    if options.svg:
        Path(options.svg).write_text(drawn, encoding="utf-8")
    if options.html:
        text = page.page(made, _title(trace), _facts(trace), drawn)
        Path(options.html).write_text(text, encoding="utf-8")


def _show(trace: Trace, made: Timeline) -> None:
    paper.out(f"{_title(trace)}. {_facts(trace)}")
    rows = [
        (f"{step.at_s * 1000:.3f} ms", step.who, step.what, show(step.left_bytes))
        for step in steps(made)
    ]
    paper.show(COLUMNS, rows)
    paper.out("")
    for line in [*summary(made), *_warnings(trace)]:
        paper.out(line)


def _title(trace: Trace) -> str:
    victim = trace.victim
    held = show(sum(victim.rss_bytes.values()))
    threads = f", {len(victim.tids)} threads" if len(victim.tids) > 1 else ""
    return f"{printable(victim.comm)} ({victim.pid}), {held}{threads}"


def _facts(trace: Trace) -> str:
    outcome = trace.outcome
    told = f"Linux {trace.kernel}; {outcome['outcome']}: {printable(str(outcome['reason']))}"
    return f"{told}; {len(trace.events):,} events, {trace.lost} lost"


def _warnings(trace: Trace) -> list[str]:
    told = []
    if trace.lost:
        told.append(f"{trace.lost} events were lost: what is missing may be in them")
    if trace.missing:
        told.append(
            f"this kernel does not have {', '.join(trace.missing)}: what they tell is missing"
        )
    return told
