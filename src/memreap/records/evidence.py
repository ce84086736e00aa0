"""What the kernel did to each victim, kept beside its incident: asked of the recorder.

1. The recorder is a child of this scribe's, made at the beginning, when there is memory for it.
2. It traces from a warning or the pressure on, for a while after the last; else it costs nothing.
3. Where it cannot be had, or is lost, incidents are recorded without it; said once to whom asked
   for it.
"""

import json
import select
import time
from collections.abc import Callable

from memreap.linux.worker import Worker
from memreap.records import recorder
from memreap.records.outlet import Outlet
from memreap.records.trouble import Trouble
from memreap.records.turn import Course, Turn, held_bytes, pid_of

PART_S = 0.5
AWAKE_S = 60.0  # after the last sign of an incident
SIGNS = ("warned", "pressed", "chosen", "killed", "shared")

Keep = Callable[[int, int, str], None]  # the incident's number, the victim's pid, JSON


class Evidence(Outlet):
    """Asks for the trace of each victim, once its outcome is known."""

    name = "trace"

    def __init__(self, keep: Keep, trouble: Trouble, *, aloud: bool) -> None:
        """Fork the recorder. ``aloud``: say where it cannot trace. Raises OSError."""
        self._keep, self._trouble, self._aloud = keep, trouble, aloud
        self._rest_s: float | None = None
        self._worker: Worker | None = Worker(recorder.run)

    def take(self, turn: Turn, course: Course | None) -> None:
        """Wake the recorder, or ask it."""
        del course
        if self._worker is None or turn.get("dry_run"):
            return
        if turn["what"] in SIGNS:
            self._wake()
        elif turn["what"] == "outcome" and turn.get("incident") is not None:
            self._ask(turn)

    def fds(self) -> dict[int, int]:
        """The recorder's, while it is there."""
        return {self._worker.fileno(): select.POLLIN} if self._worker else {}

    def attend(self, ready: dict[int, int], now_s: float) -> None:
        """Keep what it tells; let it rest when nothing happens any more."""
        if self._worker is not None and self._worker.fileno() in ready:
            self._hear(self._worker)
        if self._worker is not None and self._rest_s is not None and now_s >= self._rest_s:
            self._rest_s = None
            self._worker.tell({"arm": False})

    def due_s(self) -> float | None:
        """When it may rest."""
        return self._rest_s

    def close(self) -> None:
        """Send it away; it removes its instance."""
        if self._worker is not None:
            self._worker.part(PART_S)
        self._worker = None

    def _wake(self) -> None:
        assert self._worker is not None, "asked only while it is there"
        if self._rest_s is None:
            self._worker.tell({"arm": True})
        self._rest_s = time.monotonic() + AWAKE_S

    def _ask(self, turn: Turn) -> None:
        assert self._worker is not None, "asked only while it is there"
        outcome, victim = turn.get("outcome") or {}, turn.get("victim") or {}
        if outcome.get("outcome") in (None, "refused"):
            return
        pid = int(outcome["pid"])
        held = held_bytes(victim) if pid == pid_of(victim) else 0
        order = {"tell": pid, "incident": turn["incident"], "comm": outcome["comm"]}
        self._worker.tell({**order, "held_bytes": held})

    def _hear(self, worker: Worker) -> None:
        for message, _ in worker.hear():
            match message:
                case {"incident": int(incident), "evidence": dict(told)}:
                    self._keep(incident, int(told["pid"]), json.dumps(told))
                case {"cannot": str(why)} if self._aloud:
                    self._trouble.note(self.name, f"what the kernel does is not recorded: {why}")
                case {"error": str(error)}:
                    self._trouble.note(self.name, f"the recorder broke: {error}")
        if worker.ended:
            self.close()
