"""What happened in one incident, put together from its turns.

Pure: it reads turns, and says nothing about them.
"""

from dataclasses import dataclass, field
from typing import Any

from memreap.records.archive import Recorded
from memreap.records.turn import Turn, figure, pid_of


@dataclass(slots=True)
class Death:
    """One victim: the decision, what was done, what came of it."""

    victim: Turn
    chosen_s: float
    chosen: Turn | None = None
    asked_s: float | None = None
    killed_s: float | None = None
    released_s: float | None = None
    released_bytes: int = 0
    born: int = 0  # of a crowd while it died; killed as well
    ended_as: str = ""  # released, skipped, spared
    reason: str = ""
    outcomes: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_dry(self) -> bool:
        """Whether it was only said that this one would be killed."""
        signalled = self.asked_s is not None or self.killed_s is not None
        return bool(self.chosen and self.chosen.get("dry_run")) and not signalled

    @property
    def outcome(self) -> str:
        """In one word: what a person wants to know first."""
        kinds = {str(o.get("outcome")) for o in self.outcomes}
        for worst in ("stuck", "refused"):
            if worst in kinds and self.ended_as != "released":
                return worst
        if self.ended_as == "released":
            if "reaped" in kinds:
                return "reaped"
            was_only_asked = self.asked_s is not None and self.killed_s is None and not kinds
            return "left on SIGTERM" if was_only_asked else "exited"
        if self.is_dry:
            return "dry run"
        return self.ended_as or ("killed" if self.killed_s is not None else "chosen")

    @property
    def seconds(self) -> float | None:
        """From decision to release."""
        return None if self.released_s is None else self.released_s - self.chosen_s

    @property
    def hanging(self) -> list[dict[str, Any]]:
        """Those of its processes whose memory is back, though they never exited."""
        return [
            o
            for o in self.outcomes
            if o.get("outcome") == "reaped" and o.get("seconds_to_exit") is None
        ]


@dataclass(slots=True)
class Story:
    """An incident as it went."""

    incident: Recorded
    began_s: float
    deaths: list[Death] = field(default_factory=list)
    helpless: list[Turn] = field(default_factory=list)
    shared: list[Turn] = field(default_factory=list)

    @property
    def state(self) -> str:
        """relieved, dry run, goes on, or unfinished: the guard ended before it was over."""
        if self.incident.dry_run:
            return "dry run"
        if self.incident.ended_s is not None:
            return "relieved"
        return "goes on" if self.incident.guard_lives else "unfinished"

    @property
    def outcome(self) -> str:
        """In one line of a table."""
        ends = list(dict.fromkeys(death.outcome for death in self.deaths if not death.is_dry))
        if not ends:
            waited = "another's death" if self.shared else "passed by itself"
            ends = ["nobody to kill" if self.helpless else waited]
        if self.state != "relieved":
            told = self.helpless or any(not death.is_dry for death in self.deaths)
            ends = [self.state, *ends] if told else [self.state]
        return ", ".join(ends)

    @classmethod
    def of(cls, incident: Recorded) -> "Story":
        """Read every turn, in order."""
        story = cls(incident, incident.began_s)
        for turn in incident.turns:
            story._take(turn)
        return story

    def _take(self, turn: Turn) -> None:
        match turn["what"]:
            case "helpless":
                self.helpless.append(turn)
            case "shared":
                self.shared.append(turn)
            case "outcome":
                self._outcome(turn)
            case "chosen" | "asked" | "killed" | "released" | "skipped" | "spared":
                if turn.get("victim"):
                    self._death(turn)

    def _death(self, turn: Turn) -> None:
        what, at_s, death = turn["what"], turn["at_s"], self._last(turn["victim"])
        if death is None and what in ("released", "skipped") and self._only_waited_for(turn):
            return
        if death is None or (what == "chosen" and death.ended_as):
            death = Death(turn["victim"], at_s)
            self.deaths.append(death)
        match what:
            case "chosen":
                death.chosen, death.chosen_s = turn, at_s
            case "asked":
                death.asked_s = at_s
            case "killed":
                death.killed_s, death.born = at_s, int(figure(turn, "born") or 0)
            case "released":
                death.released_s, death.ended_as = at_s, what
                death.released_bytes = int(figure(turn, "released_bytes") or 0)
                if (took_s := figure(turn, "seconds")) is not None:
                    death.chosen_s = min(death.chosen_s, at_s - took_s)
            case _:
                death.ended_as, death.reason = what, str(turn.get("reason") or "")

    def _outcome(self, turn: Turn) -> None:
        outcome = dict(turn.get("outcome") or {}, at_s=turn["at_s"])
        pid, victim = outcome.get("pid"), turn.get("victim")
        for death in reversed(self.deaths):
            if pid in death.victim["pids"] or (victim and pid_of(victim) in death.victim["pids"]):
                death.outcomes.append(outcome)
                return
        if self.deaths:  # one who shared the last victim's memory
            self.deaths[-1].outcomes.append(outcome)

    def _only_waited_for(self, turn: Turn) -> bool:
        """Whether this one was no victim of this incident."""
        pid = pid_of(turn["victim"])
        return any(pid_of(t["victim"]) == pid for t in self.shared if t.get("victim"))

    def _last(self, victim: Turn) -> Death | None:
        pid = pid_of(victim)
        return next((d for d in reversed(self.deaths) if pid_of(d.victim) == pid), None)
