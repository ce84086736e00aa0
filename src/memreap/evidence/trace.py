"""One kill as it was traced: who died, and all that happened, in the order of time.

1. A trace is a value: it can be written to a file, read again, and told by whoever has it.
2. A file is JSON lines: a head, then one event a line. It may be edited by hand; nothing in it is
   believed but its form.
3. No address of the kernel's is in it: an mm is a number, in the order in which they appear.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memreap.linux.tracing import Event

VERSION = 1


class TraceError(ValueError):
    """No trace, or not one of ours; one line for people."""


@dataclass(frozen=True, slots=True)
class Victim:
    """Who died, as it was before. Bytes are those of /proc/PID/status."""

    pid: int
    comm: str
    tids: tuple[int, ...]
    rss_bytes: dict[str, int]  # by member, as rss_stat names them


@dataclass(frozen=True, slots=True)
class Trace:
    """``events``: in the order of time; ``at_ns`` is CLOCK_MONOTONIC."""

    kernel: str
    victim: Victim
    events: tuple[Event, ...]
    lost: int = 0
    missing: tuple[str, ...] = ()  # events that this kernel does not have
    outcome: dict[str, Any] = field(default_factory=dict)  # what memreap kill said of it

    def lines(self) -> Iterator[str]:
        """As a file."""
        yield json.dumps(
            {
                "memreap trace": VERSION,
                "kernel": self.kernel,
                "victim": asdict(self.victim),
                "lost": self.lost,
                "missing": self.missing,
                "outcome": self.outcome,
            }
        )
        for event in self.events:
            own = {"at_ns": event.at_ns, "cpu": event.cpu, "pid": event.pid, "event": event.name}
            yield json.dumps(own | {"fields": event.fields})


def without_addresses(events: Iterable[Event]) -> Iterator[Event]:
    """The same, each mm a number."""
    numbers: dict[int, int] = {}
    for event in events:
        if "mm" in event.fields:
            number = numbers.setdefault(event.fields["mm"], len(numbers) + 1)
            fields = {name: value for name, value in event.fields.items() if name != "mt"}
            event = event._replace(fields=fields | {"mm": number})  # noqa: PLW2901
        yield event


def loads(lines: Iterable[str]) -> Trace:
    """The inverse of ``Trace.lines``. Raises TraceError."""
    rows = enumerate(lines, 1)
    number, head = next(rows, (1, ""))
    raw = _object(number, head)
    if raw.get("memreap trace") != VERSION:
        raise TraceError("line 1: not a trace of memreap's, or of another version")
    try:
        who = raw["victim"]
        rss = {str(name): int(size) for name, size in who["rss_bytes"].items()}
        victim = Victim(int(who["pid"]), str(who["comm"]), tuple(map(int, who["tids"])), rss)
        events = tuple(_event(n, line) for n, line in rows if line.strip())
        missing = tuple(map(str, raw["missing"]))
        outcome = dict(raw.get("outcome") or {})
        return Trace(str(raw["kernel"]), victim, events, int(raw["lost"]), missing, outcome)
    except (KeyError, TypeError, AttributeError) as error:
        raise TraceError(f"line 1: the head of the trace lacks or garbles {error}") from error


def load(path: str) -> Trace:
    """From a file. Raises TraceError."""
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return loads(file)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from error


def _event(number: int, line: str) -> Event:
    raw = _object(number, line)
    try:
        own = (int(raw["at_ns"]), int(raw["cpu"]), int(raw["pid"]), str(raw["event"]))
        fields = dict(raw["fields"])
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"line {number}: no event: it lacks or garbles {error}") from error
    return Event(*own, fields)


def _object(number: int, line: str) -> dict[str, Any]:
    try:
        raw = json.loads(line)
    except ValueError as error:
        raise TraceError(f"line {number}: not JSON") from error
    if not isinstance(raw, dict):
        raise TraceError(f"line {number}: no JSON object")
    return raw
