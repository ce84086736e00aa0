"""Who shares the memory of those who are likely to die, wherever they live.

A process that uses a victim's mm dies with it. Those of the same domain stand in the look beside
it; those elsewhere are found here, by asking every process, which takes milliseconds a thousand of
them: so only for the foremost, and what was found is kept for a while.
"""

import contextlib
import time
from dataclasses import replace
from typing import NamedTuple

from memreap.decide.events import Identity
from memreap.guard.look import Seen
from memreap.guard.reading import Reader
from memreap.reap.sharers import sharers

FOREMOST = 3  # candidates, of a look
KEPT_S = 5.0


class Kin(NamedTuple):
    """What is known of one candidate."""

    pids: tuple[int, ...]
    barred: str  # why it must not die: somebody who is protected would have to go with it
    until_s: float


class Kinship:
    """Finds sharers, and remembers them."""

    def __init__(self, reader: Reader) -> None:
        """Nobody is known."""
        self._reader = reader
        self._kept: dict[Identity, Kin] = {}

    def tell(self, seen: Seen) -> Seen:
        """The same candidate, with those who would die with it."""
        if not seen.facts:
            return seen
        kin = self._kin(seen)
        barred = seen.candidate.barred or kin.barred
        return replace(seen, sharers=kin.pids, candidate=replace(seen.candidate, barred=barred))

    def _kin(self, seen: Seen) -> Kin:
        identity, now_s = seen.candidate.identity, time.monotonic()
        kept = self._kept.get(identity)
        if kept is not None and now_s < kept.until_s:
            return kept
        self._kept = {i: k for i, k in self._kept.items() if now_s < k.until_s}
        pids, barred = [], ""
        own = {member.pid for member in seen.candidate.members}
        with contextlib.suppress(OSError):
            for _, pid in sharers(list(seen.facts), self._reader.procfs):
                if pid not in own:
                    pids.append(pid)
                    barred = barred or self._why_not(pid)
        self._kept[identity] = kin = Kin(tuple(pids), barred, now_s + KEPT_S)
        return kin

    def _why_not(self, pid: int) -> str:
        read = self._reader.read(pid)
        if read is None or not read.judgement.barred:
            return ""
        return f"shares its memory with pid {pid}: {read.judgement.barred}"
