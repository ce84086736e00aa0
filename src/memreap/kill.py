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
from dataclasses import dataclass

from memreap import report
from memreap.linux import cgroups, scheduling
from memreap.linux.procfs import Procfs
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
    printer = report.Printer(as_json=options.json, quiet=options.quiet)
    targets = _targets(options)
    _lift_descriptor_limit()
    try:
        victims, refusals = _admit_all(targets, force=options.force)
    except KeyboardInterrupt:
        print("memreap: interrupted before anything was signalled", file=sys.stderr)
        return EXIT_INTERRUPTED
    for refusal in refusals:
        printer.outcome(refused(refusal))
    if options.dry_run:
        for victim in victims:
            printer.outcome(_would(victim))
        printer.end()
        return _exit_code([], refusals, found=bool(victims))
    outcomes, interrupted = _end_all(victims, targets, options, printer)
    printer.end()
    if interrupted:
        return EXIT_INTERRUPTED
    return _exit_code(outcomes, refusals, found=bool(victims))


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


def _admit_all(targets: list[Target], *, force: bool) -> tuple[list[Victim], list[Refused]]:
    """Survey every target; a process that two of them name is one victim."""
    victims: dict[int, Victim] = {}
    refusals: list[Refused] = []
    for target in targets:
        seen = survey(target)
        for error in seen.errors:
            print(f"memreap: {error}", file=sys.stderr)
        admitted, turned_away = admit(seen, target, force=force)
        known = {pid for victim in victims.values() for pid in victim.pids}
        victims.update((v.pid, v) for v in admitted if not known.intersection(v.pids))
        refusals.extend(turned_away)
    return list(victims.values()), refusals


def _end_all(
    victims: list[Victim], targets: list[Target], options: KillOptions, printer: report.Printer
) -> tuple[list[Outcome], bool]:
    """SIGTERM where asked for, then SIGKILL and reap: (what became of each, interrupted)."""
    outcomes: list[Outcome] = []
    if options.term_first_s is not None and victims:
        try:
            left, victims = term.ask(victims, options.term_first_s)
        except KeyboardInterrupt:
            print("memreap: interrupted after SIGTERM, before SIGKILL", file=sys.stderr)
            return outcomes, True
        for outcome in left:
            printer.outcome(outcome)
        outcomes.extend(left)
    volley = Volley(victims, options.hold, options.timeout_s)
    with _interrupts() as interrupt, scheduling.watching():
        if victims:
            volley.fire()
            for target in targets:
                if isinstance(target, Cgroup):
                    _sweep(volley, target, victims)
        interrupted = _watch(volley, interrupt, printer)
    return [*outcomes, *volley.outcomes], interrupted


def _sweep(volley: Volley, target: Cgroup, victims: list[Victim]) -> None:
    """What was forked into the cgroup since: by the kernel at once where nobody is spared."""
    known = {pid for victim in victims for pid in victim.pids}
    if not target.newcomers(known, Procfs()):
        return
    volley.sweep(target, victims[0].rules if victims else Rules())


def _watch(volley: Volley, interrupt: int, printer: report.Printer) -> bool:
    """Advance until everyone has an outcome; True where the user broke it off."""
    start_s = time.monotonic()
    while volley.pending:
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


def _would(victim: Victim) -> Outcome:
    sharers = tuple(found.facts.pid for found in victim.sharers)
    return Outcome(
        victim.pid, victim.facts.comm, "refused", "dry run: would be killed", sharers=sharers
    )


def _exit_code(outcomes: list[Outcome], refusals: list[Refused], *, found: bool) -> int:
    """The worst that happened, of those that matter most first."""
    kinds = {outcome.outcome for outcome in outcomes}
    if "stuck" in kinds:
        return EXIT_STUCK
    if "refused" in kinds or any(not refusal.missing for refusal in refusals):
        return EXIT_REFUSED
    if refusals or not found:
        return EXIT_NO_PROCESS
    return EXIT_RELEASED
