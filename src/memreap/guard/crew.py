"""The core's side of its children: keeps a scout and a scribe at work, whatever becomes of them.

Nothing here waits for them. A scout that hangs is replaced by one that was forked before; a scribe
that is gone, or does not answer, is replaced, and told again what it had not written down.
"""

import contextlib
import os
import signal
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from memreap.decide.events import Identity
from memreap.decide.policy import Policy
from memreap.guard import scout as scout_
from memreap.guard.reading import Mark
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Line, Worker, go_by

SILENCE_S = 0.25  # a scout that was asked may take so long, or five times as long as it last took
SILENCE_FACTOR = 5
BACKOFF_S = (0.0, 0.1, 1.0, 5.0, 30.0)  # between one replacement and the next, while they fail
HEALTHY_S = 5.0  # who worked for so long may be replaced at once
UNSENT_MAX = 10_000
UNWRITTEN_MAX = 1000
WHOLE_MAX = 64  # of these, the newest, with everyone who was compared: the rest is locked memory
GUILTY_AT = 3  # scouts lost at a process that is alive
PART_S = 0.5  # what a scribe has to put away its socket and its files
DEAF_S = 10.0  # a scribe that has not written down anything for so long is replaced


class Backoff:
    """When somebody may be replaced again."""

    def __init__(self) -> None:
        """At once, the first time."""
        self._failures = 0
        self._due_s = self._began_s = 0.0

    def may(self, now_s: float) -> bool:
        """Whether it is time."""
        return now_s >= self._due_s

    def note(self, now_s: float) -> None:
        """Somebody was replaced just now."""
        if now_s - self._began_s > HEALTHY_S:
            self._failures = 0
        self._due_s = now_s + BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        self._began_s = now_s

    @property
    def due_s(self) -> float:
        """When."""
        return self._due_s


class Recruit:
    """One scout, and the mark that tells whom it reads."""

    def __init__(self, policy: Policy, core_pid: int) -> None:
        """Fork it. Raises OSError."""
        self.mark = Mark()
        body = partial(_scout, policy=policy, mark=self.mark, core_pid=core_pid)
        self.worker = Worker(body)


def _scout(line: Line, policy: Policy, mark: Mark, core_pid: int) -> None:
    _unblock_signals()
    scout_.run(line, policy, mark, core_pid)


def _unblock_signals() -> None:
    """Whoever is started from here must not inherit what the core blocked for its signalfd."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


class Scouts:
    """The scout at work, and one in waiting."""

    def __init__(self, policy: Policy, core_pid: int) -> None:
        """Fork both. Raises OSError where not even the first can be had."""
        self._policy, self._core_pid = policy, core_pid
        self.restarts = 0
        self.heard_s = 0.0
        self.took_s = 0.0
        self.hostages: list[tuple[int, bool]] = []  # (pid, only its command line)
        self.lost_at = (0, False)  # the same, of the scout that was lost last; 0: at nobody
        self._suspects: Counter[int] = Counter()
        self._asked_s: float | None = None
        self._asked_mark = (0, False)
        self._held: dict[Identity, int] = {}
        self._unsent: deque[dict[str, Any]] = deque(maxlen=UNSENT_MAX)
        self._backoff = Backoff()
        self._now: Recruit | None = Recruit(policy, core_pid)
        self._spare: Recruit | None = None
        self.refill()

    def refill(self) -> None:
        """Fork the one in waiting, if it is not there."""
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = Recruit(self._policy, self._core_pid)

    def fileno(self) -> int:
        """What to poll; -1 while there is no scout."""
        return self._now.worker.fileno() if self._now else -1

    @property
    def pids(self) -> list[int]:
        """Of both."""
        return [post.worker.pid for post in (self._now, self._spare) if post]

    def tell(self, order: dict[str, Any], now_s: float, *, expects: bool = False) -> None:
        """Give an order; ``expects``: an answer must come."""
        self._unsent.append(order)
        self._flush()
        if self._unsent:
            expects = True  # its line is full, or it is gone: that is silence, too
        if expects and self._asked_s is None:
            self._asked_s = now_s
            self._asked_mark = self._now.mark.get() if self._now else (0, False)

    def _flush(self) -> bool:
        """Send what could not be sent before; whether any of it went."""
        sent = False
        while self._now is not None and self._unsent and self._now.worker.tell(self._unsent[0]):
            self._unsent.popleft()
            sent = True
        return sent

    def hear(self, now_s: float) -> list[tuple[dict[str, Any], dict[Identity, int]]]:
        """Everything it said: (message, pidfds; for a look alone)."""
        said: list[tuple[dict[str, Any], dict[Identity, int]]] = []
        if self._now is None:
            return said
        for raw, fds in self._now.worker.hear():
            message = cast("dict[str, Any]", raw)
            self.heard_s, self._asked_s = now_s, None
            match message:
                case {"held": list(who)}:
                    held_now = (Identity(*one) for one in who)
                    self._held.update(zip(held_now, fds, strict=False))
                case {"look": dict(look)}:
                    held, self._held = self._held, {}
                    self.took_s = float(look["took_s"])
                    said.append((message, held))
                case _:
                    said.append((message, {}))
        self._flush()
        return said

    @property
    def deadline_s(self) -> float | None:
        """When to ask ``is_lost`` at the latest."""
        if self._now is None:
            return self._backoff.due_s
        return None if self._asked_s is None else self._asked_s + self._patience_s

    @property
    def _patience_s(self) -> float:
        return max(SILENCE_S, self.took_s * SILENCE_FACTOR)

    def is_lost(self, now_s: float) -> bool:
        """Whether it ended, or hangs: silent though asked, and still at the same process."""
        if self._now is None or self._now.worker.ended:
            return True
        if self._asked_s is None or now_s < self._asked_s + self._patience_s:
            return False
        mark = self._now.mark.get()
        if self._flush() or mark != self._asked_mark:  # slow, not stuck
            self._asked_s, self._asked_mark = now_s, mark
            return False
        return True

    def replace(self, now_s: float) -> bool:
        """Give it up for the one in waiting; False where none can be had yet."""
        if self._now is not None:
            self.lost_at = pid, waits = self._now.mark.get()
            if pid and self.lost_at not in self.hostages and (waits or self._is_guilty(pid)):
                self.hostages = [*self.hostages[-63:], self.lost_at]
            self._now.worker.give_up()
            self._now = None
        self._drop_held()
        if self._spare is not None:
            self._now, self._spare = self._spare, None
        elif self._backoff.may(now_s):
            self._backoff.note(now_s)
            with contextlib.suppress(OSError):
                self._now = Recruit(self._policy, self._core_pid)
        if self._now is None:
            return False
        self.restarts += 1
        self._warn(now_s)
        return True

    def _warn(self, now_s: float) -> None:
        """Tell a new scout on whom others were lost, as far as they are still there."""
        self._unsent.clear()
        self.hostages = [h for h in self.hostages if Path(f"/proc/{h[0]}").exists()]
        for pid, waits in self.hostages:
            self.tell({"avoid": pid, "muted": waits}, now_s)

    def _is_guilty(self, pid: int) -> bool:
        """Whether a process is to be passed over, at which a scout was lost.

        What is read without waiting for its mmap_lock hangs on the exit of one that dies. One that
        lives, and may be the very hog, was probably only looked at when its scout had no CPU.
        """
        self._suspects[pid] += 1
        with contextlib.suppress(OSError, ValueError):
            if Procfs().oom_score(pid) > 0:
                return self._suspects[pid] >= GUILTY_AT
        return True

    def renew(self, policy: Policy, now_s: float) -> None:
        """Fork both anew, with another policy."""
        self.close()
        self._drop_held()
        self._policy = policy
        with contextlib.suppress(OSError):
            self._now = Recruit(policy, self._core_pid)
        self._warn(now_s)
        self.refill()

    def _drop_held(self) -> None:
        """Forget what the last one was asked for, and had begun to say."""
        for fd in self._held.values():
            os.close(fd)
        self._held, self._asked_s = {}, None

    def close(self) -> None:
        """Send both away."""
        for post in (self._now, self._spare):
            if post is not None:
                post.worker.give_up()
        self._now = self._spare = None


class Scribes:
    """The scribe at work, and what it has not written down yet."""

    def __init__(self, body: Callable[[Line], None]) -> None:
        """Fork it; one that cannot be had now is tried again later."""
        self._body = body
        self._settings: dict[str, Any] | None = None  # since a reload: others than it began with
        self._is_settled = True
        self.restarts = -1
        self._backoff = Backoff()
        self._unwritten: deque[dict[str, Any]] = deque(maxlen=UNWRITTEN_MAX)
        self._told = 0  # how many of these it was told
        self._oldest_s: float | None = None
        self._worker: Worker | None = None

    def start(self, now_s: float) -> None:
        """Fork it, if it is time."""
        if self._worker is not None or not self._backoff.may(now_s):
            return
        self._backoff.note(now_s)
        with contextlib.suppress(OSError):
            self._worker = Worker(partial(_scribe, body=self._body))
            self.restarts += 1
            self._told = 0
            self._is_settled = self._settings is None
            self._oldest_s = now_s if self._unwritten else None

    def fileno(self) -> int:
        """What to poll; -1 while there is no scribe."""
        return self._worker.fileno() if self._worker else -1

    @property
    def pids(self) -> list[int]:
        """Its pid, if it is there."""
        return [self._worker.pid] if self._worker else []

    def write(self, turn: dict[str, Any], now_s: float) -> None:
        """Have it written down, now or when somebody is there to do it."""
        full = len(self._unwritten) == UNWRITTEN_MAX
        self._unwritten.append(turn)
        if len(self._unwritten) > WHOLE_MAX:
            self._unwritten[-WHOLE_MAX] = _without_choice(self._unwritten[-WHOLE_MAX])
        self._told -= full and self._told > 0
        self._oldest_s = self._oldest_s or now_s
        self.flush()

    def settle(self, settings: dict[str, Any]) -> None:
        """Have it, and every one after it, keep other records from now on."""
        self._settings, self._is_settled = settings, False
        self.flush()

    def flush(self) -> None:
        """Tell what was not told yet: what to keep, then turns."""
        if self._worker is not None and not self._is_settled:
            try:
                self._is_settled = self._worker.tell({"settings": self._settings})
            except OSError:  # EMSGSIZE: so many hooks as no message can hold
                self._is_settled = True
            if not self._is_settled:
                return
        while self._worker is not None and self._told < len(self._unwritten):
            turn = self._unwritten[self._told]
            try:
                if not self._worker.tell(turn):
                    return
            except OSError:  # EMSGSIZE: the comparison is what can be so long
                self._unwritten[self._told] = _without_choice(turn)
                if turn.get("choice"):
                    continue
            self._told += 1

    def tell(self, message: dict[str, Any]) -> None:
        """Say something that may be lost."""
        while self._worker is not None:
            try:
                self._worker.tell(message)
            except OSError:  # EMSGSIZE: a status of so many domains
                shorter = _with_fewer_domains(message)
                if shorter is None:
                    return
                message = shorter
            else:
                return

    def hear(self, now_s: float) -> list[dict[str, Any]]:
        """Everything it said, but what it has written down."""
        said: list[dict[str, Any]] = []
        if self._worker is None:
            return said
        for raw, _ in self._worker.hear():
            message = cast("dict[str, Any]", raw)
            match message:
                case {"acked": int(seq)}:
                    self._written(seq, now_s)
                case {"waiting": int()}:  # its disk is full, or locked: replacing it would not help
                    self._oldest_s = now_s
                case _:
                    said.append(message)
        self.flush()
        return said

    def _written(self, seq: int, now_s: float) -> None:
        while self._unwritten and self._unwritten[0]["turn"] <= seq:
            self._unwritten.popleft()
            self._told = max(0, self._told - 1)
        self._oldest_s = now_s if self._unwritten else None

    def check(self, now_s: float) -> None:
        """Replace one that is gone or deaf."""
        worker = self._worker
        deaf = self._oldest_s is not None and now_s - self._oldest_s > DEAF_S
        if worker is not None and (worker.ended or deaf):
            worker.give_up()
            self._worker = None
        self.start(now_s)
        self.flush()

    @property
    def deadline_s(self) -> float | None:
        """When to check at the latest."""
        if self._worker is None:
            return self._backoff.due_s
        return None if self._oldest_s is None else self._oldest_s + DEAF_S

    def close(self, patience_s: float) -> None:
        """Let it write down what is left, for a while; then let it go."""
        if self._worker is not None:
            self.flush()
            for raw, _ in self._worker.hear_within(patience_s if self._unwritten else 0.0):
                match raw:
                    case {"acked": int(seq)}:
                        self._written(seq, 0.0)
                if not self._unwritten:
                    break
            self._worker.part(PART_S)
        self._worker = None


def _without_choice(turn: dict[str, Any]) -> dict[str, Any]:
    return {**turn, "choice": None}


def _with_fewer_domains(message: dict[str, Any]) -> dict[str, Any] | None:
    """Half of them, of those that are not calm as many as can be; None where that is no help."""
    for key in ("status", "gauges"):
        domains = message.get(key, {}).get("domains", ())
        if len(domains) > 1:
            domains = sorted(domains, key=lambda domain: domain["phase"] == "calm")
            return {**message, key: {**message[key], "domains": domains[: len(domains) // 2]}}
    return None


def _scribe(line: Line, body: Callable[[Line], None]) -> None:
    _unblock_signals()
    go_by("memreap-scribe")
    body(line)
