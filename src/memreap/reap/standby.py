"""A reaper in waiting: forked while there is time, so that nothing has to be made at the kill.

Only the waiting lives here, and how an order reaches it: as a message, with the pidfds beside it.
"""

import contextlib
from collections import deque
from functools import partial
from typing import Any, cast

from memreap.linux import scheduling, syscalls
from memreap.linux.worker import Line, Worker, go_by
from memreap.reap.facts import Facts
from memreap.reap.reaper import Clapper, Order, Reaper
from memreap.reap.survey import Found
from memreap.reap.victim import Rules, Victim

NOBODY = -1


class Standby:
    """One reaper that waits for its order."""

    def __init__(self) -> None:
        """Fork it. Raises OSError where no worker can be had."""
        self.clapper = Clapper()
        self.worker = Worker(partial(_wait, self.clapper))

    def employ(self, order: Order) -> Worker | None:
        """Give it its one order; None where it is not there any more."""
        victim = order.victim
        go = [order.go[0]] if order.go else []
        told = self.worker.tell(_message(order), [*victim.pidfds, *go])
        return self.worker if told else None


class Standbys:
    """So many reapers in waiting, made anew in quiet moments."""

    def __init__(self, number: int) -> None:
        """Nobody waits yet."""
        self._number = number
        self._waiting: deque[Standby] = deque()

    def refill(self) -> None:
        """Fork who is missing; where that fails, the kill forks, or does without."""
        for standby in [s for s in self._waiting if _has_left(s)]:
            self._waiting.remove(standby)
            standby.worker.close()
        while len(self._waiting) < self._number:
            try:
                self._waiting.append(Standby())
            except OSError:
                return

    def take(self) -> Standby | None:
        """One of them, for good; None where nobody waits."""
        return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """Send all away."""
        for standby in self._waiting:
            standby.worker.give_up()
        self._waiting.clear()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)


def _has_left(standby: Standby) -> bool:
    """Whether it ended, or was killed, while it waited: it says nothing before its order."""
    list(standby.worker.hear())
    return standby.worker.ended


def _message(order: Order) -> dict[str, object]:
    rules = order.victim.rules
    return {
        "facts": order.victim.facts.as_message(),
        "sharers": [found.facts.as_message() for found in order.victim.sharers],
        "rules": {
            "spared": sorted(rules.spared),
            "protected": sorted(rules.protected),
            "force": rules.force,
        },
        "hold": order.hold,
        "several": order.several,
        "timeout_s": order.timeout_s,
        "among": order.among,
        "since_s": order.since_s,
        "go": order.go is not None,
    }


def _order(message: dict[str, Any], fds: list[int], clapper: Clapper) -> Order:
    facts = Facts.from_message(message["facts"])
    others = [Facts.from_message(raw) for raw in message["sharers"]]
    sharers = tuple(Found(f, fd) for f, fd in zip(others, fds[1:], strict=False))
    rules = message["rules"]
    spared, protected = frozenset(rules["spared"]), frozenset(rules["protected"])
    victim = Victim(facts, fds[0], sharers, Rules(spared, rules["force"], protected))
    go = (fds[-1], NOBODY) if message["go"] else None
    return Order(
        victim,
        message["hold"],
        message["several"],
        clapper,
        message["timeout_s"],
        go,
        message["among"],
        message["since_s"],
    )


def _wait(clapper: Clapper, line: Line) -> None:
    """The worker: be ready, take one order, and carry it out."""
    go_by("memreap-reaper")
    scheduling.hurry(0, scheduling.REAPER_PRIORITY)
    with contextlib.suppress(OSError):  # not permitted: it may be swapped out while it waits
        syscalls.mlockall(syscalls.MCL_CURRENT | syscalls.MCL_ONFAULT)
    syscalls.kill_and_mrelease([NOBODY])  # EBADF; what the kill needs is in memory from here on
    try:
        heard = line.hear(None)
    except EOFError:
        return
    assert heard is not None, "without a time limit there is no silence"
    message, fds = heard
    Reaper(_order(cast("dict[str, Any]", message), fds, clapper)).run(line)
