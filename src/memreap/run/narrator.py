"""What a person, and a file, are told of a run.

Only words and records live here. They may be lost (a full disk, a closed terminal): the run goes
on.
"""

import json

from memreap import size
from memreap.decide.events import Candidate, Choice, Report, What
from memreap.guard.killing import Killing
from memreap.linux.procfs import PAGE_SIZE_BYTES, printable
from memreap.run.incident import Death, Incident
from memreap.run.options import RunOptions
from memreap.run.voice import Ledger, finish, say
from memreap.size import seconds


def whom(victim: Candidate) -> str:
    """A victim, in words."""
    name = printable(victim.name)
    if len(victim.members) > 1:
        return f"{name} ({len(victim.members)} processes)"
    return f"{name} (pid {victim.identity.pid})"


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 incident``, ``no incidents``."""
    word = noun if number == 1 else plural or f"{noun}s"
    return f"{number or 'no'} {word}"


class Narrator:
    """Keeps the incidents of one run, and tells of them."""

    def __init__(self, options: RunOptions, means: str) -> None:
        """Nothing to tell yet. Raises OSError where the incidents cannot be written."""
        self.peak_bytes = 0
        self._options = options
        self.means = means
        self.command_pid = 0
        self._incidents: list[Incident] = []
        self._open: Incident | None = None
        self.killed_command = False
        self._unwritten: list[Incident] = []
        self._ledger = Ledger(options.json_path) if options.json_path else None

    def tell(self, report: Report) -> None:
        """Take one turn of an incident."""
        match report.what:
            case What.PRESSED:
                self._begin(report)
            case What.CHOSEN:
                self._chosen(report)
            case What.HELPLESS:
                self._helpless(report)
            case What.RELIEVED:
                self._relieved(report)
            case _:
                self._ended(report)

    def doomed(self, killing: Killing) -> None:
        """Take note of who dies."""
        self.killed_command |= self.command_pid in killing.everyone

    def insists(self, victim: Candidate) -> None:
        """A victim that was asked to go did not, or not in time."""
        say(f"{whom(victim)}: still there after SIGTERM: killing")

    def follow(self, killing: Killing) -> None:
        """Take what became of a victim's processes, which may be later than the release."""
        for incident in self._incidents:
            for death in incident.deaths:
                if death.victim == killing.victim:
                    death.members = [outcome.as_dict() for outcome in killing.outcomes]
                    death.released_bytes = killing.released_bytes
                    kinds = [outcome.outcome for outcome in killing.outcomes]
                    if killing.finished and len(set(kinds)) == 1:
                        death.outcome = kinds[0]

    def end(self, code: int, killed: bool, left: int) -> None:
        """Sum up."""
        self._open = None
        self.write()
        if self.killed_command and killed:
            say(f"the command itself was the victim: over its budget; exit code {code}")
        hanging = [m for d in self._deaths() for m in d.members if m["outcome"] == "reaped"]
        for member in hanging:
            say(f"pid {member['pid']} still hangs in the kernel, its memory released")
        if left:
            say(f"{count(left, 'process', 'processes')} of its tree left running, unguarded")
        if not self._options.quiet:
            self._sum_up()
        finish()
        if self._ledger:
            self._ledger.close()

    def _deaths(self) -> list[Death]:
        return [death for incident in self._incidents for death in incident.deaths]

    def _begin(self, report: Report) -> None:
        if self._open:
            return  # still the same incident: one more victim
        self._open = Incident(
            number=len(self._incidents) + 1,
            budget_bytes=self._options.budget_bytes,
            usage_bytes=report.usage_bytes,
            began_s=report.at_s,
            means=self.means,
        )

    def _chosen(self, report: Report) -> None:
        assert self._open, "a choice belongs to an incident"
        assert report.victim, "somebody was chosen"
        assert report.choice, "by comparison"
        self._keep()
        self._open.deaths.append(
            Death(report.victim, report.choice, report.usage_bytes, report.at_s)
        )
        eligible = sum(r.score_pages is not None for r in report.choice.ranked)
        budget = size.show(self._options.budget_bytes)
        how = "asking to go" if self._options.on_limit == "term" else "killing"
        used, held = size.show(report.usage_bytes), report.victim.pages * PAGE_SIZE_BYTES
        why = f"the highest badness of {eligible}" if eligible > 1 else "the only candidate"
        say(
            f"over budget, {used} of {budget}: {how} {whom(report.victim)}, "
            f"{size.show(held)}, {why}"
        )

    def _keep(self) -> None:
        """An incident counts from the first decision: pressure may pass by itself."""
        if self._open and self._open not in self._incidents:
            self._incidents.append(self._open)
            self._unwritten.append(self._open)

    def _helpless(self, report: Report) -> None:
        assert self._open, "helpless in an incident"
        self._keep()
        if self._open.helpless is None:
            self._open.helpless = report.choice
            why = f": {report.reason}" if report.reason else _why(report.choice)
            say(f"over budget, {size.show(report.usage_bytes)}: nobody may be killed{why}")

    def _ended(self, report: Report) -> None:
        assert self._open, "a victim belongs to an incident"
        assert report.victim, "which one"
        death = self._open.deaths[-1]
        death.outcome, death.reason = report.what.value, report.reason
        took_s = report.at_s - death.chosen_s
        if report.what is not What.RELEASED:
            say(f"{whom(report.victim)}: {report.what}{': ' * bool(report.reason)}{report.reason}")
            return
        death.seconds_to_release = took_s
        asked = self._options.on_limit == "term"
        if asked and not death.members and not death.released_bytes:
            death.outcome, death.reason = "exited", "left on SIGTERM"
            say(f"{whom(report.victim)}: left on SIGTERM after {seconds(took_s)}")
        else:
            back = size.show(death.released_bytes) if death.released_bytes else "nothing of its own"
            say(f"{whom(report.victim)}: {back} back {seconds(took_s)} after the decision")

    def _relieved(self, report: Report) -> None:
        if self._open:
            self._open.relieved_s = report.at_s
        self._open = None

    def write(self) -> None:
        """Write every incident that is over; when nobody's end is waited for any more."""
        over = [i for i in self._unwritten if i is not self._open]
        self._unwritten = [i for i in self._unwritten if i is self._open]
        if self._ledger is None:
            return
        for incident in over:
            try:
                self._ledger.append(json.dumps(incident.as_dict()))
            except OSError as error:
                say(f"cannot write the record: {error.strerror}")

    def _sum_up(self) -> None:
        peak = f"peak seen {size.show(self.peak_bytes)} of {size.show(self._options.budget_bytes)}"
        say(f"{peak}; {count(len(self._incidents), 'incident')}, measured by {self.means}")
        gone = [d for d in self._deaths() if d.seconds_to_release is not None]
        if gone:
            killed = sum(max(1, len(d.members)) for d in gone)
            back = size.show(sum(d.released_bytes for d in gone))
            slowest = seconds(max(d.seconds_to_release or 0.0 for d in gone))
            say(f"{count(killed, 'process', 'processes')} ended, {back} back, slowest {slowest}")


def _why(choice: Choice | None) -> str:
    """Why nobody: each reason once, in the order of the ranking."""
    reasons = dict.fromkeys(r.why_not for r in choice.ranked) if choice else {}
    return f" ({', '.join(reasons)})" if reasons else ""
