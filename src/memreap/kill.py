"""``memreap kill``: from what the user named to an exit code.

Asks the rooms below in their order (survey, admit, term, volley) and prints what they say.
"""

import contextlib
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from memreap import report
from memreap.linux import cgroups, scheduling
from memreap.linux.command_lines import command_lines
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Worker
from memreap.reap import hold as hold_
from memreap.reap import term
from memreap.reap.outcome import Outcome, refused
from memreap.reap.survey import survey
from memreap.reap.target import Cgroup, Match, Pids, Target, Tree
from memreap.reap.victim import Refused, Rules, Victim, admit
from memreap.reap.volley import Volley

PROGRESS_AFTER_S = 2.0

EXIT_RELEASED = 0
EXIT_STUCK = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_NO_PROCESS = 4
EXIT_INTERRUPTED = 130


class UsageError(Exception):
    """What was asked for cannot be meant; one line that says what to do."""


@dataclass(frozen=True, slots=True)
class KillOptions:
    """What the command line said."""

    pids: tuple[int, ...] = ()
    cgroups: tuple[str, ...] = ()
    matches: tuple[str, ...] = ()
    trees: tuple[int, ...] = ()
    term_first_s: float | None = None
    timeout_s: float = 10.0
    hold: hold_.Mode = "auto"
    force: bool = False
    dry_run: bool = False
    json: bool = False
    quiet: bool = False


def kill(options: KillOptions) -> int:
    """Kill, reap and see the memory come back; gives the exit code. Raises UsageError."""
    targets = _targets(options)
    _lift_descriptor_limit()
    try:
        with scheduling.watching():  # a fork bomb must not outrun those who look
            group = Group.of(targets, force=options.force)
    except KeyboardInterrupt:
        print("memreap: interrupted before anything was signalled", file=sys.stderr)
        return EXIT_INTERRUPTED
    printer = report.Printer(as_json=options.json, quiet=options.quiet)
    outcomes: list[Outcome] = []
    interrupted = False
    if options.dry_run:
        lines = command_lines([victim.pid for victim in group.victims], Procfs())
        for victim in group.victims:
            printer.intent(_intent(victim, lines))
    else:
        outcomes, interrupted = _end_all(group, options, printer)
    for refusal in [*group.refusals, *group.doubts]:
        printer.outcome(refused(refusal))
    printer.end()
    return EXIT_INTERRUPTED if interrupted else _exit_code(outcomes, group)


@dataclass(slots=True)
class Group:
    """All that the user named, looked at."""

    targets: list[Target]
    force: bool
    victims: list[Victim] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    doubts: list[Refused] = field(default_factory=list)  # who may have been meant
    spared: frozenset[int] = frozenset()
    incomplete: bool = False

    @classmethod
    def of(cls, targets: list[Target], *, force: bool) -> "Group":
        """Survey every target; a process that two of them name is one victim."""
        group = cls(targets, force)
        for target in targets:
            group.add(target)
        return group

    @property
    def rules(self) -> Rules:
        """For whoever comes later."""
        return Rules(self.spared | Worker.living, self.force)

    @property
    def known(self) -> set[int]:
        """Everyone who was looked at."""
        refused_pids = {refusal.pid for refusal in self.refusals}
        return refused_pids | {pid for victim in self.victims for pid in victim.pids}

    def add(self, target: Target) -> None:
        """Survey one target, and say what could not be looked at."""
        seen = survey(target)
        self.spared |= seen.ancestors
        self.incomplete |= bool(seen.errors)
        for error in seen.errors:
            print(f"memreap: {error}", file=sys.stderr)
        admitted, turned_away = admit(seen, target, force=self.force)
        known = self.known
        for victim in admitted:
            if known.intersection(victim.pids):
                victim.close()
            else:
                self.victims.append(victim)
        for refusal in turned_away:
            if isinstance(target, Match) and refusal.pid in seen.unreadable:
                doubt = f"may match or not: {refusal.reason}"
                self.doubts.append(Refused(refusal.pid, "", doubt))
            elif refusal.pid not in known:
                self.refusals.append(refusal)
        if not admitted and not turned_away and not seen.errors:
            print(f"memreap: no process: {target}", file=sys.stderr)

    def look_again(self, stayed: list[Victim]) -> None:
        """After a while: the same processes with what they are now, and who joined a cgroup."""
        before = {victim.pid: victim.facts.start_ticks for victim in stayed}
        self.victims = []
        again: list[Target] = [Pids(tuple(before))] if before else []
        for target in [*again, *(t for t in self.targets if isinstance(t, Cgroup))]:
            seen = survey(target)
            self.incomplete |= bool(seen.errors)
            for victim in admit(seen, target, force=self.force)[0]:
                start_ticks = before.get(victim.pid, victim.facts.start_ticks)
                if start_ticks == victim.facts.start_ticks and victim.pid not in self.known:
                    self.victims.append(victim)
                else:
                    victim.close()
        for victim in stayed:
            victim.close()


def _targets(options: KillOptions) -> list[Target]:
    targets: list[Target] = [Pids(options.pids)] if options.pids else []
    for name in options.cgroups:
        try:
            targets.append(Cgroup(cgroups.find(name, Procfs())))
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(str(error)) from None
    targets += [Match(regex) for regex in options.matches]
    targets += [Tree(pid) for pid in options.trees]
    if not targets:
        raise UsageError("name a target: a PID, --cgroup, --match or --tree")
    return targets


def _end_all(
    group: Group, options: KillOptions, printer: report.Printer
) -> tuple[list[Outcome], bool]:
    """SIGTERM where asked for, then SIGKILL and reap: (what became of each, interrupted)."""
    with _interrupts() as interrupt:
        left: list[Outcome] = []
        if options.term_first_s is not None and group.victims:
            asked = term.ask(group.victims, options.term_first_s, interrupt)
            left = asked.left
            if asked.interrupted:
                reason = "interrupted after SIGTERM, before SIGKILL"
                left += [refused(Refused(v.pid, v.facts.comm, reason)) for v in asked.stayed]
            else:
                group.look_again(asked.stayed)
            for outcome in left:
                printer.outcome(outcome)
            if asked.interrupted:
                return left, True
        volley = Volley(group.victims, options.hold, options.timeout_s)
        with scheduling.watching():
            volley.fire()
            for target in group.targets:
                if isinstance(target, Cgroup):
                    volley.sweep(target, group.rules, group.known)
            interrupted = _watch(volley, interrupt, printer)
        return [*left, *volley.outcomes], interrupted


def _watch(volley: Volley, interrupt: int, printer: report.Printer) -> bool:
    """Advance until everyone has an outcome; True where the user broke it off."""
    start_s = time.monotonic()
    while volley.pending or volley.outcomes_waiting:
        poll = select.poll()
        for fd in {interrupt, *volley.fds()}:
            poll.register(fd, select.POLLIN)
        now_s = time.monotonic()
        wait_s = PROGRESS_AFTER_S if volley.deadline_s is None else volley.deadline_s - now_s
        ready = poll.poll(max(0.0, min(wait_s, PROGRESS_AFTER_S)) * 1000 + 1)
        if any(fd == interrupt for fd, _ in ready):
            for outcome in volley.give_up("interrupted before its end was seen"):
                printer.outcome(outcome)
            return True
        for outcome in volley.advance(time.monotonic()):
            printer.outcome(outcome)
        if volley.pending and time.monotonic() - start_s > PROGRESS_AFTER_S:
            printer.progress([ex.victim.pid for ex in volley.pending])
    return False


@contextlib.contextmanager
def _interrupts() -> Iterator[int]:
    """A descriptor that is readable once the user has asked to stop: no half-done kill."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(number: int, frame: object) -> None:
        del number, frame
        with contextlib.suppress(BlockingIOError):
            os.write(write, b"!")

    was = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield read
    finally:
        for number, handler in was.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def _lift_descriptor_limit() -> None:
    """Each victim costs some descriptors: take as many as this process may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _intent(victim: Victim, lines: dict[int, str]) -> report.Intent:
    memory = victim.facts.memory
    return report.Intent(
        victim.pid,
        victim.facts.comm,
        held_bytes=memory.rss_bytes + memory.swap_bytes,
        command=lines.get(victim.pid),
        sharers=tuple(found.facts.pid for found in victim.sharers),
    )


def _exit_code(outcomes: list[Outcome], group: Group) -> int:
    """The worst that happened, of those that matter most first."""
    kinds = {outcome.outcome for outcome in outcomes}
    if "stuck" in kinds:
        return EXIT_STUCK
    unkilled = "refused" in kinds or any(not refusal.missing for refusal in group.refusals)
    if unkilled or group.incomplete:
        return EXIT_REFUSED
    if group.refusals or not (outcomes or group.victims):
        return EXIT_REFUSED if group.doubts else EXIT_NO_PROCESS
    return EXIT_RELEASED
