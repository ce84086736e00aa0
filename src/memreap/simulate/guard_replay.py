"""A recorded incident once more, under another configuration: what would have happened.

The guard's real code runs on a machine that is put together from the record: who was compared, what
each held, how fast the domain grew, what became of who was killed. What the record does not say is
assumed, and said to be: that the one with the highest badness is the one that grows, and that who
was not killed would have exited at once if it had been.
"""

from dataclasses import dataclass, replace
from typing import Any

from memreap.decide.policy import Policy, Subject, judge
from memreap.guard.settings import Amount, Kind, Records, Scope, Settings
from memreap.records.archive import Recorded
from memreap.simulate.choices import Choices
from memreap.simulate.guard_machine import Fate, Mm, Process
from memreap.simulate.guard_trial import Finding, live
from memreap.simulate.guard_world import Place, World

EXIT_S = 0.03  # of who was not killed, and so nothing is known of
WALL_SHARE = 1.05  # of the line, or of what was used: more than that there was not
GROWS_MAX_S = 60.0  # so long at most it is taken to go on growing
FATES = {"exited": Fate.HEALTHY, "reaped": Fate.HUNG, "stuck": Fate.STUCK}


class NoReplayError(ValueError):
    """The record does not say enough."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it: then, or in the replay. ``killed``: (name, pid, bytes held)."""

    killed: tuple[tuple[str, int, int], ...]
    seconds_to_relief: float | None
    skipped: int
    helpless: bool

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "killed": [{"name": n, "pid": p, "held_bytes": b} for n, p, b in self.killed],
            "seconds_to_relief": self.seconds_to_relief,
            "skipped": self.skipped,
            "helpless": self.helpless,
        }


def recorded(incident: Recorded) -> Replayed:
    """What did happen."""
    return _what_came(incident.turns, incident.seconds_to_relief)


def replayed(incident: Recorded, settings: Settings) -> Replayed:
    """What would have happened. Raises NoReplayError."""
    choice = next((t for t in incident.turns if t.get("choice")), None)
    if choice is None or not choice["choice"]["candidates"]:
        raise NoReplayError("nobody was compared in it, so there is nobody to choose from")
    world = World(Choices())
    place = _place(incident, choice, settings)
    world.places = {place.name: place}
    world.options = replace(world.options, patience_s=settings.patience_s, dry_run=settings.dry_run)
    told = replace(
        settings,
        scopes=(_scope(place),),
        records=Records(journal=False),
        quiet=True,
    )
    finding = Finding(None, world.options, world.choices.made)
    live(world, told, lambda: _populate(world, place, incident, choice, settings.policy), finding)
    assert not finding.broken, f"the guard breaks a law of its own: {finding.broken}"
    turns = [turn for turn in world.laws.turns if turn["domain"] == place.name]
    began = next((t["at_s"] for t in turns if t["what"] == "pressed"), None)
    ended = next((t["at_s"] for t in reversed(turns) if t["what"] == "relieved"), None)
    took_s = None if began is None or ended is None else ended - began
    return _what_came(turns, took_s)


def _what_came(turns: list[dict[str, Any]], took_s: float | None) -> Replayed:
    killed = [t for t in turns if t["what"] == "killed" and t["victim"]]
    return Replayed(
        tuple((v["name"], v["pids"][0], _held(v)) for v in (t["victim"] for t in killed)),
        took_s,
        sum(turn["what"] == "skipped" for turn in turns),
        any(turn["what"] == "helpless" for turn in turns),
    )


def _held(candidate: dict[str, Any]) -> int:
    parts = ("rss_bytes", "swap_bytes", "page_table_bytes")
    return sum(int(candidate[part]) for part in parts)


def _place(incident: Recorded, choice: dict[str, Any], settings: Settings) -> Place:
    """The domain: its line as it was, or as the settings have it now."""
    limit = int(choice["limit_bytes"])
    for scope in settings.scopes:
        if scope.name == incident.domain and scope.limit and scope.limit.bytes:
            limit = scope.limit.bytes
    usage = int(choice["usage_bytes"])
    base = max(0, usage - sum(map(_held, choice["choice"]["candidates"])))
    return Place(incident.domain, "cgroup", limit, int(max(usage, limit) * WALL_SHARE), base)


def _scope(place: Place) -> Scope:
    limit = Amount(bytes=place.limit_bytes)
    return Scope(
        Kind.CGROUP, place.name, path=place.name, limit=limit, subgroups=False, nodes=False
    )


def _populate(
    world: World, place: Place, incident: Recorded, choice: dict[str, Any], policy: Policy
) -> None:
    ends = {
        turn["victim"]["pids"][0]: turn["outcome"]
        for turn in incident.turns
        if turn.get("outcome") and turn.get("victim")
    }
    growth = max(0.0, float(choice["figures"].get("growth_bytes_per_s", 0)))
    people = choice["choice"]["candidates"]
    grows = max(people, key=lambda one: one.get("score_pages") or 0)
    for one in people:
        rate = growth if one is grows else 0.0
        held = float(_held(one))
        mm = Mm(held, world.machine.now_s, rate, held + rate * GROWS_MAX_S)
        process = world.machine.start(
            one["name"], mm, frozenset({place.name}), pid=int(one["pids"][0])
        )
        _take_up(process, one, policy, ends.get(process.pid))


def _take_up(
    process: Process, one: dict[str, Any], policy: Policy, end: dict[str, Any] | None
) -> None:
    process.oom_score_adj = int(one["oom_score_adj"])
    process.exit_s = EXIT_S
    if end is not None:
        process.fate = FATES.get(str(end["outcome"]), Fate.HEALTHY)
        process.exit_s = float(end["seconds_to_exit"] or EXIT_S)
    subject = Subject(
        name=one["name"],
        exe="",
        command=one["command"] or None,
        cgroup=one["cgroup"],
        uid=int(one["uid"]),
        user=one["user"],
        unit=one["unit"],
        oomd_preference="",
        oom_group="",
        session=0,
        process_group=0,
    )
    judged = judge(policy, subject)
    process.tier = int(judged.tier)
    if judged.barred:
        process.protected, process.why = True, judged.barred
