"""The recorder: what the kernel did to a victim, traced in a child of the scribe's.

It traces only while a domain is near its line or over it, everybody's exits and reaps and nothing
else, and tells of one victim when it is asked to. It may be slow, and nobody waits for it.
"""

import os
import time
from collections import deque
from dataclasses import asdict
from typing import Any

from memreap.evidence.events import INCIDENT
from memreap.evidence.one_of_many import trace_of
from memreap.evidence.steps import steps, summary
from memreap.evidence.timeline import timeline
from memreap.linux.tracing import Event, Instance, TracingError, bytes_a_cpu, tracefs
from memreap.linux.worker import Line, go_by

BUFFER_BYTES_MAX, BUFFER_BYTES_MIN, BUFFERS_BYTES_MAX = 512 << 10, 64 << 10, 32 << 20
EVENTS_MAX = 100_000
KEPT_S = 60.0  # longer than any victim is waited for
DRAIN_S = 0.1
STEPS_MAX = 60  # of one victim, in its record


def run(line: Line) -> None:
    """Until the scribe is gone. What cannot be done here is said once, and that is all."""
    go_by("memreap-trace")
    try:
        each = bytes_a_cpu(BUFFERS_BYTES_MAX, BUFFER_BYTES_MIN, BUFFER_BYTES_MAX)
        with tracefs() as root, Instance(root, buffer_bytes=each) as instance:
            Recorder(line, instance).serve()
    except TracingError as error:
        line.say({"cannot": str(error)})
    except EOFError:
        pass


class Recorder:
    """See the module's first lines."""

    def __init__(self, line: Line, instance: Instance) -> None:
        """It is ready, and traces nothing yet. Raises TracingError."""
        self._line, self._instance = line, instance
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._is_armed = False
        self._missing = instance.enable_all(INCIDENT)
        instance.pause_all()

    def serve(self) -> None:
        """Do as told. Raises EOFError when the scribe is gone."""
        while True:
            heard = self._line.hear(DRAIN_S if self._is_armed else None)
            if heard is not None and isinstance(heard[0], dict):
                self._obey(heard[0])
            if self._is_armed:
                self._drain()

    def _obey(self, order: dict[str, Any]) -> None:
        match order:
            case {"arm": True} if not self._is_armed:
                self._instance.resume_all()
                self._instance.start()  # last: who sees it on knows that all are taken up
                self._is_armed = True
            case {"arm": False} if self._is_armed:
                self._instance.stop()
                self._instance.pause_all()
                self._events.clear()
                self._is_armed = False
            case {"tell": int(pid), "incident": int(incident)}:
                self._drain()
                told = self._told(pid, str(order.get("comm", "")), int(order["held_bytes"]))
                if told is not None:
                    self._line.say({"incident": incident, "evidence": told})

    def _drain(self) -> None:
        self._events.extend(self._instance.events())
        oldest_ns = time.monotonic_ns() - int(KEPT_S * 1e9)
        while self._events and self._events[0].at_ns < oldest_ns:
            self._events.popleft()

    def _told(self, pid: int, comm: str, held_bytes: int) -> dict[str, Any] | None:
        trace = trace_of(list(self._events), pid, comm, held_bytes, os.uname().release)
        if trace is None:
            return None
        made = timeline(trace)
        return {
            "pid": pid,
            "comm": comm,
            "kernel": trace.kernel,
            "lost": self._instance.lost,
            "missing": self._missing,
            "freed_bytes": made.freed_bytes,
            "summary": summary(made),
            "steps": [asdict(step) for step in steps(made)[:STEPS_MAX]],
        }
