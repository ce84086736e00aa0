"""Turns as entries of the systemd journal, with fields of their own. See systemd.journal-fields(7).

Only which fields there are lives here. Strangers' strings stay whole in their fields; MESSAGE is
printable.
"""

import os
import time

from memreap.linux import journal
from memreap.linux.procfs import printable
from memreap.records.narration import is_wrong
from memreap.records.outlet import Outlet
from memreap.records.turn import Course, Turn, figure, pid_of
from memreap.records.words import line
from memreap.run.voice import say

# One a kind of message, for ever: journalctl MESSAGE_ID=..., and catalogues.
MESSAGE_IDS = {
    "warned": "375aad23bfd4460db03aa5682b8d0dbf",
    "eased": "53a2e905113e43bca333c31aaa5d4a80",
    "chosen": "ffebc0f72a5a4acc8ce83a009692d694",
    "asked": "230610f2b8ef4acca8fb6a3fa5d01219",
    "outcome": "1778c2141cfd48189a7c504bddfcb4d3",
    "released": "e6558e5860474a908c735cea701cda4a",
    "skipped": "56141a3f84ab4cb19b6a7dd3c4836bdb",
    "spared": "ad8cdee1c6264e8d9e8d8b19208b23e9",
    "shared": "90743f3de823463ab4fb47d79758bc57",
    "helpless": "c4611872b4904b77bc8d55d7458bb3d7",
    "relieved": "996bd0b610ea4a81a0eee784431d0c2b",
}
HUNG_S, PAUSE_S = 0.5, 10.0

WARNING, NOTICE, INFO, CRITICAL = "4", "5", "6", "2"
PRIORITIES = {
    "warned": WARNING,
    "eased": INFO,
    "chosen": WARNING,
    "released": NOTICE,
    "skipped": WARNING,
    "helpless": CRITICAL,
    "relieved": NOTICE,
}


def fields(turn: Turn, course: Course | None = None) -> dict[str, str]:
    """The entry; {} for a turn that is none."""
    message = line(turn, course)
    if not message:
        return {}
    what = str(turn.get("what"))
    entry: dict[str, object] = {
        "MESSAGE": message,
        "PRIORITY": WARNING if is_wrong(turn) and what == "outcome" else PRIORITIES.get(what, INFO),
        "SYSLOG_IDENTIFIER": "memreap",
        "MESSAGE_ID": MESSAGE_IDS.get(what),
        "MEMREAP_WHAT": what,
        "MEMREAP_DOMAIN": turn["domain"],
        "MEMREAP_KIND": turn.get("kind"),
        "MEMREAP_INCIDENT": turn.get("incident"),
        "MEMREAP_TURN": turn.get("turn"),
        "MEMREAP_USAGE_BYTES": turn.get("usage_bytes"),
        "MEMREAP_LIMIT_BYTES": turn.get("limit_bytes"),
        "MEMREAP_REASON": turn.get("reason"),
        "MEMREAP_DRY_RUN": "1" if turn.get("dry_run") else None,
        **_victim(turn),
        **_end(turn, course),
    }
    return {name: _value(value) for name, value in entry.items() if value not in (None, "")}


def _value(value: object) -> str:
    """Whole, if it came from bytes; what never was bytes is made printable."""
    text = str(value)
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return printable(text)
    return text


def _victim(turn: Turn) -> dict[str, object]:
    victim = turn.get("victim")
    if not victim:
        return {}
    ranked = (turn.get("choice") or {}).get("candidates") or []
    pid = pid_of(victim)
    return {
        "MEMREAP_VICTIM_PID": pid,
        "MEMREAP_VICTIM_PIDS": " ".join(map(str, victim.get("pids") or ())),
        "MEMREAP_VICTIM_COMM": victim.get("name"),
        "MEMREAP_VICTIM_COMMAND": victim.get("command"),
        "MEMREAP_VICTIM_CGROUP": victim.get("cgroup"),
        "MEMREAP_VICTIM_UNIT": victim.get("unit"),
        "MEMREAP_VICTIM_UID": victim.get("uid"),
        "MEMREAP_USER": victim.get("user"),
        "MEMREAP_RSS_BYTES": victim.get("rss_bytes"),
        "MEMREAP_SWAP_BYTES": victim.get("swap_bytes"),
        "MEMREAP_OOM_SCORE_ADJ": victim.get("oom_score_adj"),
        "MEMREAP_SCORE": next((r.get("score_pages") for r in ranked if pid_of(r) == pid), None),
    }


def _end(turn: Turn, course: Course | None) -> dict[str, object]:
    outcome, seconds = turn.get("outcome") or {}, figure(turn, "seconds")
    if turn.get("what") == "relieved" and course:
        seconds = turn["at_s"] - course.began_s
    released = figure(turn, "released_bytes")
    return {
        "MEMREAP_OUTCOME": outcome.get("outcome"),
        "MEMREAP_OUTCOME_REASON": outcome.get("reason"),
        "MEMREAP_RELEASED_BYTES": outcome.get(
            "released_bytes", None if released is None else int(released)
        ),
        "MEMREAP_SECONDS": outcome.get(
            "seconds_to_release", None if seconds is None else round(seconds, 6)
        ),
    }


class Journal(Outlet):
    """Sends entries; where the journal does not take one, stderr does."""

    name = "journal"

    def __init__(self, aloud: bool, quiet: bool) -> None:
        """``aloud``: stderr is told by somebody else already."""
        self._aloud, self._quiet = aloud, quiet
        self._hung_until_s = 0.0

    def take(self, turn: Turn, course: Course | None) -> None:
        """Send it."""
        entry = fields(turn, course)
        if not entry or self._send(entry) or self._aloud:
            return
        if not self._quiet or is_wrong(turn):
            say(entry["MESSAGE"])

    def _send(self, entry: dict[str, str]) -> bool:
        """Send it; a journal that hangs is left alone for a while."""
        began_s = time.monotonic()
        if began_s < self._hung_until_s:
            return False
        sent = journal.send(entry, journal.SOCKET)
        ended_s = time.monotonic()
        if not sent and ended_s - began_s > HUNG_S:
            self._hung_until_s = ended_s + PAUSE_S
        return sent
