"""Where results are kept while they come: a file, one JSON object a line.

1. A result is there once its line is, with its end; a line without one is the last, and is dropped.
2. A header says what the results hang on: version, costs, scenarios. Whoever goes on with a file
   must have the same; a scenario that was not there before adds a header of its own.
3. One result that is there is worked out again, and must be the same to the last bit: so a file of
   another model is refused, whatever its version says.
4. One sweep at a time writes a file.
"""

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from hashlib import blake2b
from typing import Any

from memreap import __version__
from memreap.simulate import costs as costs_
from memreap.simulate import trial
from memreap.simulate.costs import Costs
from memreap.simulate.scenario import Scenario
from memreap.simulate.trial import Job, NodeResult, Result

FSYNC_S = 2.0
HEADER = b'{"memreap"'


class JournalError(ValueError):
    """A file that cannot be gone on with; one line."""


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


def header(costs: Costs, scenarios: Mapping[str, Scenario]) -> dict[str, Any]:
    """What results hang on."""
    figures = replace(costs, machine="", kernel="", source="")  # nothing hangs on the words
    return {
        "memreap": __version__,
        "costs": _digest(costs_.dumps(figures)),
        "scenarios": {name: _digest(repr(one)) for name, one in scenarios.items()},
    }


def loads(line: str) -> Result:
    """A result from its line. Raises ValueError."""
    raw = json.loads(line)
    try:
        if set(raw) != {one.name for one in fields(Result)}:
            raise ValueError("not a result")
        nodes = tuple(NodeResult(**one) for one in raw["nodes"])
        return Result(**{**raw, "victims": tuple(raw["victims"]), "nodes": nodes})
    except TypeError as error:
        raise ValueError("not a result") from error


def job(result: Result) -> Job:
    """What it is the result of."""
    return Job(result.scenario, result.strategy, result.seed)


class Journal:
    """The file, while it is written."""

    def __init__(self, path: str, costs: Costs, scenarios: Mapping[str, Scenario]) -> None:
        """Nothing is opened yet."""
        self.path, self._costs, self._scenarios = path, costs, dict(scenarios)
        self.done: dict[Job, Result] = {}
        self._fd = -1
        self._synced_s = 0.0

    def open(self, *, resume: bool) -> None:
        """Read what is there, and be ready to append. Raises JournalError."""
        try:
            self._fd = os.open(
                self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666
            )
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise JournalError(f"{self.path}: another sweep writes it") from error
        except OSError as error:
            self.close()
            raise JournalError(f"{self.path}: {error.strerror}") from error
        try:
            self._begin(resume=resume)
        except OSError as error:
            self.close()
            raise JournalError(f"{self.path}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def _begin(self, *, resume: bool) -> None:
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            raise JournalError(f"{self.path}: no regular file")
        with open(self._fd, "rb", closefd=False) as file:
            text = file.read()
        whole = text.rpartition(b"\n")[0]
        if not resume:
            if text and (b"\n" in whole or not text.startswith(HEADER)):
                raise JournalError(f"{self.path}: is there: --resume goes on with it")
            os.ftruncate(self._fd, 0)  # nothing, or nothing but a header
            text = whole = b""
        known = self._read(whole.decode(errors="replace").splitlines()) if whole else {}
        self._spot_check()
        if len(text) != len(whole) + bool(whole):
            os.ftruncate(self._fd, len(whole) + bool(whole))  # a torn last line
        new = {name: one for name, one in self._scenarios.items() if name not in known}
        if new:
            self._write([json.dumps(header(self._costs, new))])

    def _read(self, lines: list[str]) -> dict[str, str]:
        """The results that are there; the scenarios they are of."""
        mine = header(self._costs, self._scenarios)
        known: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            try:
                if number == 1 or line.encode().startswith(HEADER):
                    raw = json.loads(line)
                    self._same(raw, mine)
                    known |= raw["scenarios"]
                    continue
                result = loads(line)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                if isinstance(error, JournalError):
                    raise
                what = "no results of memreap simulate" if number == 1 else "no result"
                raise JournalError(f"{self.path}:{number}: {what}") from error
            self.done[job(result)] = result
        return known

    def _same(self, raw: dict[str, Any], mine: dict[str, Any]) -> None:
        """Whether results under a header can stand beside ours."""
        if raw["memreap"] != mine["memreap"]:
            why = f"made by memreap {raw['memreap']}, this is {mine['memreap']}"
        elif raw["costs"] != mine["costs"]:
            why = "made with other costs"
        else:
            changed = [
                name
                for name, digest in raw["scenarios"].items()
                if mine["scenarios"].get(name, digest) != digest
            ]
            if not changed:
                return
            why = f"its scenario {changed[0]} was another one"
        raise JournalError(f"{self.path}: {why}: begin another file")

    def _spot_check(self) -> None:
        """The last result of a scenario that is at hand, worked out again."""
        for one in reversed(self.done):
            if one.scenario in self._scenarios:
                again = trial.run(one, self._costs, self._scenarios[one.scenario])
                if again != self.done[one]:
                    raise JournalError(
                        f"{self.path}: {one.scenario}, {one.strategy}, seed {one.seed} comes out"
                        f" otherwise today: begin another file"
                    )
                return

    def add(self, results: Iterable[Result]) -> None:
        """They are in the file when this returns, and now and then on the disk.

        Raises JournalError.
        """
        told = list(results)
        self._write([json.dumps(one.as_dict()) for one in told])
        self.done.update((job(one), one) for one in told)
        if time.monotonic() - self._synced_s >= FSYNC_S:
            self._sync()

    def _write(self, lines: list[str]) -> None:
        data = "".join(f"{line}\n" for line in lines).encode()
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise JournalError(f"cannot write {self.path}: {error.strerror}") from error

    def _sync(self) -> None:
        with contextlib.suppress(OSError):  # told when something is written
            os.fsync(self._fd)
        self._synced_s = time.monotonic()

    def close(self) -> None:
        """On the disk, and closed."""
        if self._fd >= 0:
            self._sync()
            os.close(self._fd)
            self._fd = -1
