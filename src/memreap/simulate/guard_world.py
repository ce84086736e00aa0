"""What a run of the guard is made of: its options, its domains, and the faults that are on.

1. Every option is a choice, drawn first; the first of each is the quiet one.
2. Each run switches a random set of faults off (swarm testing): some show only without others.
3. After a while all faults stop, and the guard must relieve what can be relieved.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from memreap.guard.settings import Kind
from memreap.reap.facts import Facts
from memreap.simulate.choices import Choices
from memreap.simulate.guard_machine import BEGIN_S, MIB, Fate, Machine, Mm, Process

if TYPE_CHECKING:
    from memreap.simulate.guard_laws import Laws

FAULTS = (
    "fork fails",
    "scouts die",
    "scouts are slow",
    "scribes die",
    "scribes are deaf",
    "disks are slow",
    "lines are full",
    "reapers die",
    "reapers hang",
    "reapers are slow",
    "reaps are slow",
    "kills are not permitted",
    "others kill",
    "no process_mrelease",
    "the core is late",
    "the clock jumps",
    "the machine sleeps",
    "settings are reloaded",
    "cgroups vanish",
    "descriptors are scarce",
)
FUTILE_SHARE = 0.055  # a little more than the guard's own, which reads a moment before
FAULTY_S = (2.0, 4.0, 8.0)


@dataclass(frozen=True, slots=True)
class Options:
    """What a seed draws, before anything runs. Printed first where a run fails."""

    kinds: tuple[str, ...]  # of domains
    limit_mib: int
    hogs: int
    bystanders: int
    protected_hog: bool
    fates: tuple[Fate, ...]  # of the hogs
    pace: float  # of the hogs: shares of the line a second
    shares: bool  # a bystander uses a hog's mm
    forks: bool  # a hog has children that grow, too
    tarpit: bool  # whoever reads a bystander hangs
    pid_reuse: bool
    in_two_domains: bool
    term_s: float | None
    ignores_term: bool
    patience_s: float
    dry_run: bool
    faulty_s: float
    faults: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def draw(choices: Choices) -> Options:
    """Every option; of the faults, some are off."""
    kinds = choices.pick(
        (("cgroup",), ("system",), ("tree",), ("cgroup", "cgroup"), ("cgroup", "system"))
    )
    hogs = 1 + choices.choose(3)
    fates = (Fate.HEALTHY, Fate.HEALTHY, Fate.HUNG, Fate.STUCK)
    return Options(
        kinds=kinds,
        limit_mib=choices.pick((1024, 256, 8192)),
        hogs=hogs,
        bystanders=choices.choose(5),
        protected_hog=choices.one_in(6),
        fates=tuple(choices.pick(fates) for _ in range(hogs)),
        pace=choices.pick((0.4, 0.1, 3.0)),
        shares=choices.one_in(5),
        forks=choices.one_in(5),
        tarpit=choices.one_in(4),
        pid_reuse=choices.one_in(4),
        in_two_domains=choices.one_in(3),
        term_s=choices.pick((None, None, 1.0)),
        ignores_term=choices.one_in(2),
        patience_s=choices.pick((2.0, 0.5, 5.0)),
        dry_run=choices.one_in(25),
        faulty_s=choices.pick(FAULTY_S),
        faults=tuple(fault for fault in FAULTS if choices.one_in(3)),
    )


@dataclass(slots=True)
class Place:
    """A domain: where its line is, and what it holds without anybody."""

    name: str
    kind: str
    limit_bytes: int
    whole_bytes: int
    base_bytes: int
    is_there: bool = True


class World:
    """The machine with its people, and what is wrong with it."""

    def __init__(self, choices: Choices) -> None:
        """Draw the options, and begin."""
        self.choices = choices
        self.options = draw(choices)
        scarce = "descriptors are scarce" in self.options.faults
        self.machine = Machine(descriptors=12 + choices.choose(30) if scarce else 1 << 16)
        self.has_faults = True
        self.worker_pids = count(1_000_000)
        self.clappers: dict[int, Any] = {}
        self.places: dict[str, Place] = {}
        self.laws: Laws
        self.permitted = True
        self.signals: list[Any] = []
        self.late_s = 0.0
        self.away_until_s = 0.0  # when a core that was made late is back
        self.relief_missing = ""
        self.pressed_s: float | None = None  # since when relief is waited for, the faults over
        self.reload: Any = None
        for number, kind in enumerate(self.options.kinds):
            self._place(kind, number)

    def _place(self, kind: str, number: int) -> None:
        limit = self.options.limit_mib * MIB
        name = {"system": "system", "tree": "tree:1"}.get(kind, f"cgroup:/{number}")
        self.places[name] = Place(name, kind, limit, int(limit * 1.1), int(limit * 0.02))

    @property
    def heals_s(self) -> float:
        """When all faults stop."""
        return BEGIN_S + self.options.faulty_s

    # Faults.

    def may(self, fault: str) -> bool:
        """Whether a fault is on."""
        return self.has_faults and fault in self.options.faults

    def faulty(self, fault: str, one_in: int) -> bool:
        """Whether it strikes now."""
        return self.may(fault) and self.choices.one_in(one_in)

    def heal(self) -> None:
        """From now on nothing goes wrong any more; what hangs stays as it is."""
        self.has_faults = False
        self.machine.descriptors = 1 << 16
        self.machine.tell("the faults stop")

    # People.

    def populate(self) -> None:
        """Hogs and bystanders, each in a domain or two."""
        options, choices = self.options, self.choices
        if options.pid_reuse:
            self.machine.on_exit = self._reuse_pid
        names = list(self.places)
        for number in range(options.hogs):
            home = names[number % len(names)]
            domains = frozenset(names) if options.in_two_domains else frozenset({home})
            place = self.places[home]
            mm = Mm(
                place.limit_bytes * 0.05,
                self.machine.now_s,
                place.limit_bytes * options.pace / (1 + number),
                place.limit_bytes * (1.1 - 0.2 * choices.choose(4)),
            )
            hog = self.machine.start(f"hog{number}", mm, domains)
            hog.fate = options.fates[number]
            hog.protected = options.protected_hog and number == 0
            hog.ignores_term = options.ignores_term
            hog.exit_s = choices.pick((0.03, 0.4, 3.0))
            if options.shares and number == options.hogs - 1:
                self.machine.start("sharer", mm, domains)
            # Of one that is protected, hangs, and shares its memory, nobody could make anything.
            if not hog.protected and self.faulty("others kill", 2):
                self.machine.after(0.2 + choices.choose(30) / 10, self._murder(hog))
            if options.forks:
                self.machine.after(0.5 + choices.choose(8), self._fork(hog))
        for number in range(options.bystanders):
            place = self.places[names[number % len(names)]]
            size = place.limit_bytes * 0.02 * (1 + choices.choose(4))
            mm = Mm(size, self.machine.now_s)
            one = self.machine.start(f"small{number}", mm, frozenset({place.name}))
            one.protected = choices.one_in(4)
            one.tarpit = options.tarpit and number == 0

    def _fork(self, parent: Process) -> Callable[[], None]:
        def fork() -> None:
            if parent.killed_s is None and parent.exited_s is None:
                half = parent.mm.at(self.machine.now_s) * 0.3
                mm = Mm(half, self.machine.now_s, parent.mm.rate / 2, parent.mm.cap)
                child = self.machine.start(f"{parent.comm}'s child", mm, parent.domains)
                child.fate, child.exit_s = parent.fate, parent.exit_s

        return fork

    def _murder(self, hog: Process) -> Callable[[], None]:
        """SIGKILL by the kernel's own OOM killer, or by anybody."""
        return lambda: self.machine.kill(hog, by_guard=False)

    def is_exiting(self, process: Process, name: str) -> bool:
        """Whether it shows no memory any more, though its domain still counts it."""
        by_another = process.killed_s is not None and not process.by_guard
        return by_another and self.places[name].kind != Kind.TREE and not process.mm.users

    def _reuse_pid(self, dead: Process) -> None:
        """Somebody else has the number of one who is gone."""
        there = [name for name in dead.domains if self.places[name].is_there]
        if there and dead.pid not in self.machine.processes and dead.comm != "innocent":
            mm = Mm(8 * MIB, self.machine.now_s)
            self.machine.start("innocent", mm, frozenset(there), pid=dead.pid)

    @property
    def newest_pid(self) -> int:
        """The pid that was given out last."""
        return max(self.machine.processes, default=0)

    def facts(self, process: Process) -> Facts:
        """What is known of one."""
        from memreap.simulate.guard_workers import facts_of  # noqa: PLC0415

        return facts_of(process, int(process.mm.at(self.machine.now_s)))

    def seen(self, process: Process) -> dict[str, Any]:
        """How a scout tells of one."""
        from memreap.simulate.guard_workers import seen_of  # noqa: PLC0415

        held = int(process.mm.at(self.machine.now_s))
        sharers = tuple(sorted(process.mm.users - {process.pid}))
        barred = process.why if process.protected else ""
        if not barred and self.is_spared(process):
            barred = "shares its memory with somebody who is protected"
        return seen_of(process, held, sharers, barred)

    # What the gauges read.

    def usage_bytes(self, name: str) -> int:
        """What a domain uses: never more than there is."""
        place = self.places[name]
        return int(min(place.whole_bytes, place.base_bytes + self.machine.usage_bytes(name)))

    def is_over(self, name: str) -> bool:
        """Whether it is over its line, in truth."""
        return self.usage_bytes(name) > self.places[name].limit_bytes

    def killable(self, name: str) -> list[Process]:
        """Who could still be killed for it."""
        return [
            p
            for p in self.machine.processes.values()
            if name in p.domains
            and p.killed_s is None
            and not (p.refused or p.shunned)  # it is not tried again, or not looked at
            and not self.is_spared(p)
        ]

    def is_helpless(self, name: str) -> bool:
        """Whether nobody could be killed for it who would be a help: less than 5 % of it all."""
        held = sum(p.mm.at(self.machine.now_s) for p in self.killable(name))
        return held < self.places[name].whole_bytes * FUTILE_SHARE

    def is_spared(self, process: Process) -> bool:
        """Whether it, or one who would have to die with it, is protected."""
        users = (self.machine.processes.get(pid) for pid in process.mm.users)
        return process.protected or any(user.protected for user in users if user)
