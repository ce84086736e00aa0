"""New settings for a running guard: read and checked by a command of its own, never by the core.

Only the asking lives here. The command prints settings as JSON, or what is wrong with them.
"""

import json
from functools import partial
from typing import Any, cast

from memreap.guard.settings import Settings
from memreap.linux.worker import Line, Worker

TIMEOUT_S = 30.0
FAULTS_MAX = 2000  # characters


class Reload:
    """One reading at a time."""

    def __init__(self, argv: list[str]) -> None:
        """``argv``: the command."""
        self._argv = argv
        self._worker: Worker | None = None
        self._again = False

    def begin(self) -> None:
        """Ask; another time if it is being asked already."""
        if self._worker is not None:
            self._again = True
            return
        try:
            self._worker = Worker(partial(_ask, argv=self._argv))
        except OSError:
            self._again = True

    def fileno(self) -> int:
        """What to poll; -1 while nothing was asked."""
        return self._worker.fileno() if self._worker else -1

    def hear(self) -> Settings | str | None:
        """New settings, or what is wrong with them; None where there is nothing new."""
        if self._worker is None:
            if self._again:
                self._again = False
                self.begin()
            return None
        for raw, _ in self._worker.hear():
            self._worker.give_up()
            self._worker = None
            return _answer(cast("dict[str, Any]", raw))
        if self._worker.ended:
            self._worker.close()
            self._worker = None
            return "whoever read it was lost"
        return None

    def close(self) -> None:
        """Ask no more."""
        if self._worker is not None:
            self._worker.give_up()


def _answer(message: dict[str, Any]) -> Settings | str:
    match message:
        case {"settings": dict(settings)}:
            try:
                return Settings.from_message(settings)
            except (TypeError, KeyError, ValueError):
                return "it was read by another version of memreap: restart the guard"
        case {"faults": str(faults)}:
            return faults
    return str(message.get("error", message))


def _ask(line: Line, argv: list[str]) -> None:
    import subprocess  # noqa: PLC0415 - in the worker alone: the core has no use for it

    done = subprocess.run(  # noqa: S603 - our own argv
        argv, capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode == 0:
        line.say({"settings": json.loads(done.stdout)})
    else:
        faults = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        line.say({"faults": faults[:FAULTS_MAX]})
