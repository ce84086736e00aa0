"""One run of the guard, by a seed or by choices: faults first, then none, and what came of it.

A run that breaks no law and brings relief is nothing; one that does not is a ``Finding``.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from signal import Signals

from memreap.decide.events import Candidate, Event, Identity
from memreap.decide.policy import Policy
from memreap.guard.core import Core
from memreap.guard.crew import Scouts, Scribes
from memreap.guard.gauges import Gone
from memreap.guard.hands import Hands
from memreap.guard.post import Post
from memreap.guard.settings import Amount, Kind, Records, Scope, Settings
from memreap.reap.standby import Standbys
from memreap.simulate.choices import Choices
from memreap.simulate.guard_laws import Broken, Laws
from memreap.simulate.guard_machine import Process
from memreap.simulate.guard_seam import SIGNALS_FD, Seam
from memreap.simulate.guard_world import Options, World

RELIEF_S = 45.0  # after the last fault: the longest backoff is 30 s
EACH_S = 12.0  # and for each process: a victim that is stuck is given up after 10 s
STEP_S = 0.5
STANDBYS = 2


@dataclass(slots=True)
class Finding:
    """What a run came to. ``broken``: empty where all was well."""

    seed: int | None
    options: Options
    choices: list[int]
    broken: str = ""
    law: int | None = None
    incidents: int = 0
    kills: int = 0
    hash: str = ""
    story: list[tuple[float, str]] = field(default_factory=list)


class SimReload:
    """Settings that are read anew: the same, or bad, or more of the same."""

    def __init__(self, world: World, settings: Settings) -> None:
        """Nothing was asked for."""
        self._world, self._settings = world, settings
        self._answers: list[Settings | str] = []

    def begin(self) -> None:
        """Ask."""
        answer: Settings | str = self._settings
        if self._world.choices.one_in(3):
            answer = "line 3: no such key"
        self._world.machine.after(0.05, lambda: self._answers.append(answer))

    def fileno(self) -> int:
        """Nothing to poll: it is heard at the next turn."""
        return -1

    def hear(self) -> Settings | str | None:
        """What came of it."""
        return self._answers.pop(0) if self._answers else None

    def close(self) -> None:
        """Ask no more."""


SEAM = Seam()


def runs(seeds: Iterable[int]) -> Iterator[Finding]:
    """Run one after another. Meanwhile the guard in this process lives on the simulated machine."""
    with SEAM.replaced():
        for seed in seeds:
            yield run(seed)


def run(seed: int | None = None, replay: Sequence[int] = ()) -> Finding:
    """Run once."""
    choices = Choices(seed, replay)
    world = World(choices)
    return live(world, _settings(world), world.populate, Finding(seed, world.options, choices.made))


def live(
    world: World, settings: Settings, populate: Callable[[], None], finding: Finding
) -> Finding:
    """The guard's life in a world, from its start until nothing is left to do."""
    laws = world.laws = Laws(world)
    world.reload = SimReload(world, settings)
    SEAM.world = world
    with SEAM.replaced():
        try:
            _live(world, settings, populate, finding)
            laws.are_explained()
        except Broken as broken:
            finding.broken, finding.law = broken.why, broken.law
        except (AssertionError, OSError, KeyError, ValueError, TypeError) as error:
            finding.broken, finding.law = f"{type(error).__name__}: {error}", 0
    finding.kills = len(laws.kills)
    finding.story = world.machine.story
    told = "\n".join(f"{at_s:.9f} {line}" for at_s, line in finding.story)
    finding.hash = hashlib.sha256(told.encode()).hexdigest()[:16]
    return finding


def _settings(world: World) -> Settings:
    scopes = []
    for place in world.places.values():
        kind = Kind(place.kind)
        limit = Amount(bytes=place.limit_bytes)
        scopes.append(
            Scope(
                kind, place.name, path=place.name, pid=1, limit=limit, subgroups=False, nodes=False
            )
        )
    options = world.options
    return Settings(
        tuple(scopes),
        Policy(),
        Records(journal=False),
        patience_s=options.patience_s,
        term_s=options.term_s,
        dry_run=options.dry_run,
    )


def _live(world: World, settings: Settings, populate: Callable[[], None], finding: Finding) -> None:
    standbys = Standbys(STANDBYS)
    scribes = Scribes(partial(_nothing))
    scribes.start(world.machine.now_s)
    standbys.refill()
    try:
        scouts = Scouts(settings.policy, 1)
    except OSError:
        return  # the guard says so, and does not begin
    hands = _Watched(world, standbys)
    core = Core(
        settings,
        (scouts, scribes),
        hands,
        SIGNALS_FD,
        reload_argv=[],
        version="0",
    )
    populate()
    try:
        core.begin()
    except Gone:
        return
    _script(world, core)
    core.run()
    finding.incidents = core._turns.incidents
    if world.relief_missing:
        raise Broken(0, world.relief_missing)
    world.laws.is_bounded("orders to scouts", len(scouts._unsent))
    world.laws.is_bounded("turns for the scribe", len(scribes._unwritten))
    left = [what for what in world.machine.table.values() if isinstance(what, Process)]
    if left:
        names = ", ".join(f"{p.comm} ({p.pid})" for p in left)
        raise Broken(5, f"pidfds that are left when the guard has ended: {names}")


def _nothing(line: object) -> None:
    del line


def _script(world: World, core: Core) -> None:
    """What happens to the guard from outside: faults, until they stop; then it is asked to end."""
    machine, choices, options = world.machine, world.choices, world.options
    for what in ("the clock jumps", "the machine sleeps", "settings are reloaded"):
        if world.may(what):
            machine.after(choices.choose(10) * 0.3, partial(_strike, world, what))
    if world.may("cgroups vanish"):
        machine.after(1 + choices.choose(5), partial(_vanish, world))
    machine.after(options.faulty_s, world.heal)
    machine.after(options.faulty_s + STEP_S, partial(_look_for_relief, world, core))


def _strike(world: World, what: str) -> None:
    machine = world.machine
    machine.tell(what)
    if what == "the clock jumps":
        machine.wall_offset_s += world.choices.pick((0.0, 3600.0, -86400.0))
    elif what == "the machine sleeps":
        machine.slept_s += 100.0
    else:
        world.signals.append(Signals.SIGHUP)


def _vanish(world: World) -> None:
    """A cgroup goes, with everyone in it, and comes back after a while."""
    place = next((p for p in world.places.values() if p.kind == "cgroup"), None)
    if place is None:
        return
    world.machine.tell(f"{place.name} vanishes")
    place.is_there = False
    for process in list(world.machine.processes.values()):
        if place.name in process.domains:
            world.machine.exit(process)

    def back() -> None:
        place.is_there = True

    world.machine.after(3.0, back)


def _look_for_relief(world: World, core: Core) -> None:
    """End the run once nothing is left to do; or say that relief has not come."""
    machine = world.machine
    over = [name for name, place in world.places.items() if place.is_there and world.is_over(name)]
    growing = [
        p for p in machine.processes.values() if p.killed_s is None and _still_grows(world, p)
    ]
    world.pressed_s = (world.pressed_s or machine.now_s) if over else None
    bound_s = RELIEF_S + EACH_S * (len(machine.processes) + 2)
    late = world.pressed_s is not None and machine.now_s - world.pressed_s > bound_s
    helpless = all(world.is_helpless(name) for name in over) or world.options.dry_run
    quiet = not core._hands.asked and not core._scribes._unwritten
    quiet = quiet and all(domain.state.victim is None for domain in core._realm)
    if (quiet and not growing and (not over or helpless)) or late:
        if over and not helpless:
            who = ", ".join(f"{p.comm} ({p.pid})" for name in over for p in world.killable(name))
            world.relief_missing = f"{', '.join(over)} still over the line, with {who} to be had"
        world.signals.append(Signals.SIGTERM)
        return
    machine.after(STEP_S, partial(_look_for_relief, world, core))


def _still_grows(world: World, process: Process) -> bool:
    mm = process.mm
    return mm.rate > 0 and mm.at(world.machine.now_s) < mm.cap - 1


class _Watched(Hands):
    """The real hands, watched by the laws."""

    def __init__(self, world: World, standbys: Standbys) -> None:
        super().__init__(standbys, frozenset({1}))
        self._world = world

    def part(self, domain: str) -> None:
        """As the real ones."""
        self._world.laws.is_passed_over(domain)
        super().part(domain)

    def ask(self, post: Post, victim: Candidate) -> Event | None:
        """As the real ones."""
        self._world.laws.is_asked(post.name, victim)
        return super().ask(post, victim)

    def kill(self, post: Post, victim: Candidate, protected: frozenset[Identity]) -> Event | None:
        """As the real ones; before and after it, the laws are asked."""
        laws = self._world.laws
        laws.is_chosen(post.name, victim)
        before = laws.ordered
        event = super().kill(post, victim, protected)
        laws.is_told(event)
        laws.has_acted(post.name, before, event)
        return event
