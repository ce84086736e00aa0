"""What a person, and a file, are told of a run.

Only words and records live here. They may be lost (a full disk, a closed terminal): the run goes
on.
"""

import contextlib
import sys

from memreap import size
from memreap.decide.events import Candidate, Choice, Report, What
from memreap.linux.procfs import PAGE_SIZE_BYTES, printable
from memreap.run.incident import Death, Incident
from memreap.run.killing import Killing
from memreap.run.options import RunOptions
from memreap.size import seconds


def say(line: str) -> None:
    """One line to the person at the terminal, whatever has become of it."""
    with contextlib.suppress(OSError, ValueError):
        print(f"memreap: {line}", file=sys.stderr, flush=True)


def whom(victim: Candidate) -> str:
    """A victim, in words."""
    name, held = printable(victim.name), size.show(victim.pages * PAGE_SIZE_BYTES)
    if len(victim.members) > 1:
        return f"{name} ({len(victim.members)} processes, {held})"
    return f"{name} (pid {victim.identity.pid}, {held})"


class Narrator:
    """Keeps the incidents of one run, and tells of them."""

    def __init__(self, options: RunOptions, means: str, command_pid: int) -> None:
        """Nothing to tell yet."""
        self.peak_bytes = 0
        self._options = options
        self._means = means
        self._command_pid = command_pid
        self._incidents: list[Incident] = []
        self._open: Incident | None = None
        self._killed_command = False
        self._unwritten: list[Incident] = []

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

    def follow(self, killing: Killing) -> None:
        """Take what became of a victim's processes, which may be later than the release."""
        for incident in self._incidents:
            for death in incident.deaths:
                if death.victim == killing.victim:
                    death.members = [outcome.as_dict() for outcome in killing.outcomes]
                    kinds = [outcome.outcome for outcome in killing.outcomes]
                    if killing.finished and len(set(kinds)) == 1:
                        death.outcome = kinds[0]

    def end(self, code: int, killed: bool, left: int) -> None:
        """Sum up."""
        self._open = None
        self.write()
        if self._killed_command and killed:
            say(f"the command itself was the victim: over its budget; exit code {code}")
        if left:
            say(f"{left} process{'es' if left > 1 else ''} of its tree left running, unguarded")
        if not self._options.quiet:
            self._sum_up()

    def _begin(self, report: Report) -> None:
        if self._open:
            return  # still the same incident: one more victim
        self._open = Incident(
            number=len(self._incidents) + 1,
            budget_bytes=self._options.budget_bytes,
            usage_bytes=report.usage_bytes,
            began_s=report.at_s,
            means=self._means,
        )

    def _chosen(self, report: Report) -> None:
        assert self._open, "a choice belongs to an incident"
        assert report.victim, "somebody was chosen"
        assert report.choice, "by comparison"
        self._keep()
        self._open.deaths.append(
            Death(report.victim, report.choice, report.usage_bytes, report.at_s)
        )
        self._killed_command |= any(m.pid == self._command_pid for m in report.victim.members)
        eligible = sum(r.score_pages is not None for r in report.choice.ranked)
        budget = size.show(self._options.budget_bytes)
        how = "asking to go" if self._options.on_limit == "term" else "killing"
        used = size.show(report.usage_bytes)
        say(
            f"over budget, {used} of {budget}: {how} {whom(report.victim)}, "
            f"the highest badness of {eligible}"
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
        if report.what is What.RELEASED:
            death.seconds_to_release = took_s
            say(f"{whom(report.victim)}: memory back {seconds(took_s)} after the decision")
        else:
            say(f"{whom(report.victim)}: {report.what}{': ' * bool(report.reason)}{report.reason}")

    def _relieved(self, report: Report) -> None:
        if self._open:
            self._open.relieved_s = report.at_s
        self._open = None

    def write(self) -> None:
        """Write every incident that is over; when nobody's end is waited for any more."""
        over = [i for i in self._unwritten if i is not self._open]
        self._unwritten = [i for i in self._unwritten if i is self._open]
        if self._options.json_path is None:
            return
        for incident in over:
            try:
                incident.append_to(self._options.json_path)
            except OSError as error:
                say(f"cannot write the record: {error}")

    def _sum_up(self) -> None:
        deaths = [death for incident in self._incidents for death in incident.deaths]
        peak = f"peak {size.show(self.peak_bytes)} of {size.show(self._options.budget_bytes)}"
        say(
            f"{peak}; {len(self._incidents) or 'no'} incident{'s' * (len(self._incidents) != 1)}, "
            f"measured by {self._means}"
        )
        released = [d for d in deaths if d.seconds_to_release is not None]
        if released:
            total = sum(d.victim.pages for d in released) * PAGE_SIZE_BYTES
            slowest = seconds(max(d.seconds_to_release or 0.0 for d in released))
            say(f"{len(released)} killed, {size.show(total)} back, the slowest after {slowest}")


def _why(choice: Choice | None) -> str:
    """Why nobody: each reason once, in the order of the ranking."""
    reasons = dict.fromkeys(r.why_not for r in choice.ranked) if choice else {}
    return f" ({', '.join(reasons)})" if reasons else ""
