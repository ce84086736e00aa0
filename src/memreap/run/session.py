"""One run: reads what happened, asks the domain what to do, and does it.

Only the loop and the tying of the others live here. One thread, one poll: its timeout is the pace,
so there is no timer; what may wait is done in workers.
"""

import errno
import resource
import select
import time
from signal import Signals

from memreap.decide import badness, pace
from memreap.decide.domain import Domain, Phase, Rules
from memreap.decide.events import (
    AskCandidates,
    Candidate,
    Candidates,
    Effect,
    Event,
    Identity,
    Kill,
    Measured,
    Report,
    Skip,
    Term,
    Tick,
    VictimExited,
    VictimRefused,
    VictimReleased,
    VictimStuck,
    What,
)
from memreap.guard.killing import Killing, Termination
from memreap.linux import syscalls
from memreap.linux.procfs import PAGE_SIZE_BYTES, Procfs
from memreap.run import snapshot
from memreap.run.command import EXIT_OWN_TROUBLE, Command, NotStarted
from memreap.run.group import Group, NoGroup
from memreap.run.killing import Doomed, ask_to_go
from memreap.run.narrator import Narrator, count
from memreap.run.options import RunOptions
from memreap.run.tree import Tree
from memreap.run.usage import Meter, TreeMeter
from memreap.run.voice import say

DOMAIN = "run"
BUSY_INTERVAL_S = 0.005  # while something is under way
HELPLESS_INTERVAL_S = 0.1
DESCRIPTORS_MIN = 32
LAST_WORDS_S = 1.0  # how long to wait, at the end, for what became of the last victim


def run(options: RunOptions) -> int:
    """Run a command under a budget: its exit code, or 125 to 127 as env(1) has them."""
    try:
        _check_descriptors()
        session = Session(options)
    except NotStarted as failure:
        say(f"cannot run {options.command[0]}: {failure}")
        return failure.code
    except OSError as error:
        say(f"cannot start: {error}")
        return EXIT_OWN_TROUBLE
    try:
        return session.run()
    except OSError as error:  # no descriptor, no memory: better said than dragged on
        say(f"trouble of its own, the command goes on unguarded: {error}")
        return EXIT_OWN_TROUBLE
    finally:
        session.close()


def _check_descriptors() -> None:
    """Refuse to start where the guard could not do its work later on."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS_MIN:
        raise OSError(errno.EMFILE, f"needs {DESCRIPTORS_MIN} descriptors (ulimit -n), has {hard}")


class Session:
    """A command, its tree, and the domain that they are."""

    def __init__(self, options: RunOptions) -> None:
        """Start the command. Raises NotStarted or OSError, with nothing left behind."""
        self._options = options
        self._procfs = Procfs()
        # Before the command: no orphan escapes.
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        self._tree = Tree(self._procfs)
        self._narrator = Narrator(options, "")
        group = self._group()
        self._meter: Meter = group or TreeMeter(self._tree, options.budget_bytes)
        try:
            self._command = Command(options.command, group.enter if group else None)
        except BaseException:
            self._meter.close()
            self._tree.close()
            raise
        self._tree.raise_descriptor_limit()
        self._domain = Domain(DOMAIN, self._rules())
        self._narrator.means, self._narrator.command_pid = self._meter.means, self._command.pid
        self._killings: list[Killing] = []
        self._termination: Termination | None = None
        self._protected: frozenset[Identity] = frozenset()
        self._last = (time.monotonic(), 0)
        self._look_s = 0.0
        self._done = False

    def close(self) -> None:
        """Leave nothing behind but what the command left."""
        for killing in self._killings:
            killing.close()
        if self._termination:
            self._termination.close()
        self._meter.close()
        self._command.close()
        self._tree.close()

    def run(self) -> int:
        """Guard until the command, or with ``wait_tree`` everyone, has ended; the exit code."""
        while not self._done:
            self._doze()
            self._wait(self._timeout_s())
            self._hear_signals()
            now_s = time.monotonic()
            self._advance(now_s)
            if now_s >= self._look_s:
                self._take(now_s, self._meter.read(now_s))
            if self._domain.deadline_s is not None:
                self._step(now_s, Tick(DOMAIN))
        left = self._hear_last_words()
        if isinstance(self._meter, TreeMeter) and self._meter.hung_readings:
            hung = count(self._meter.hung_readings, "reading")
            say(f"{hung} of PSS hung: the sum of RSS stood in")
        assert self._command.code is not None, "the loop ends when the command has"
        self._narrator.end(self._command.code, self._command.killed, left)
        return self._command.code

    def _group(self) -> Group | None:
        if self._options.cgroup == "never":
            return None
        try:
            return Group(self._procfs, self._options.budget_bytes)
        except NoGroup:
            return None

    def _rules(self) -> Rules:
        budget_bytes = self._options.budget_bytes
        term = self._options.on_limit == "term"
        return Rules(
            limit_bytes=budget_bytes,
            totalpages=budget_bytes // PAGE_SIZE_BYTES,
            patience_s=self._options.patience_s,
            term_s=self._options.term_s if term else None,
            ceiling_bytes=2 * budget_bytes,
        )

    # What happened.

    def _doze(self) -> None:
        """Look on while nothing happens.

        A calm domain that is told of a usage within its limit does nothing: so it is not told.
        Most of a quiet run is spent here, where each look finds cold caches: few steps, no objects.
        """
        calm = self._domain.state.phase is Phase.CALM
        if not calm or self._killings or self._meter.fds() or self._command.code is not None:
            return
        poll = select.poll()
        poll.register(self._command.signalfd, select.POLLIN)
        read, limit_bytes, narrator = self._meter.read, self._options.budget_bytes, self._narrator
        before_s, before_bytes = self._last
        is_still, wait_ms = None, max(0.0, self._look_s - time.monotonic()) * 1000
        while not poll.poll(wait_ms):
            if is_still is not None and is_still():
                continue
            now_s = time.monotonic()
            usage = read(now_s)
            if usage is None or usage > limit_bytes or self._meter.fds():
                self._take(now_s, usage)
                return
            narrator.peak_bytes = max(narrator.peak_bytes, usage)
            growth = (usage - before_bytes) / max(now_s - before_s, 1e-6)
            self._last = before_s, before_bytes = now_s, usage
            interval_s = pace.interval_s(usage, limit_bytes, growth)
            self._look_s, wait_ms = now_s + interval_s, interval_s * 1000
            is_still = self._meter.stillness() if growth <= 0 else None

    def _wait(self, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(self._command.signalfd, select.POLLIN)
        others = [*self._meter.fds(), *(fd for k in self._killings for fd in k.fds())]
        for fd in others + (self._termination.fds() if self._termination else []):
            poll.register(fd, select.POLLIN)
        poll.poll(max(0.0, timeout_s) * 1000)

    def _timeout_s(self) -> float:
        due = [self._look_s, self._domain.deadline_s, *(k.deadline_s for k in self._killings)]
        return min(d for d in due if d is not None) - time.monotonic()

    def _hear_signals(self) -> None:
        for info in self._command.signals():
            if info.signal is Signals.SIGCHLD:
                self._tree.refresh(time.monotonic())
                self._tree.bury(spared=self._command.pid)
            elif self._command.code is None:
                self._command.pass_on(info)
            elif info.signal in (Signals.SIGINT, Signals.SIGTERM, Signals.SIGHUP):
                self._done = True  # nobody is left to be told but us
        if self._command.wait() and not self._options.wait_tree:
            self._done |= not self._narrator.killed_command or self._is_settled()

    def _is_settled(self) -> bool:
        """Whether the tree is within its budget, or nothing more can be done about it."""
        return self._domain.state.phase in (Phase.CALM, Phase.HELPLESS)

    def _advance(self, now_s: float) -> None:
        for killing in list(self._killings):
            killing.advance(now_s)
            if killing.released:
                self._narrator.follow(killing)
                self._look_s = now_s
                for pid in killing.everyone:
                    self._tree.settle(pid)
                self._step(now_s, self._fate(killing, now_s))
            elif killing.finished:
                self._step(now_s, VictimStuck(DOMAIN, killing.victim.identity))
            self._narrator.follow(killing)
            if killing.finished:
                killing.close()
                self._killings.remove(killing)
        if not self._killings:
            self._narrator.write()
        if self._termination and self._termination.exited:
            identity = self._termination.victim.identity
            self._end_termination()
            self._look_s = now_s
            self._step(now_s, VictimExited(DOMAIN, identity, now_s))

    def _fate(self, killing: Killing, now_s: float) -> Event:
        identity = killing.victim.identity
        if killing.refused:
            return VictimRefused(DOMAIN, identity, killing.refused)
        return VictimReleased(DOMAIN, identity, now_s)

    def _take(self, now_s: float, usage: int | None) -> None:
        """Take one reading, and settle when the next is due."""
        if usage is not None:
            self._narrator.peak_bytes = max(self._narrator.peak_bytes, usage)
            self._step(now_s, Measured(DOMAIN, now_s, usage, self._meter.victim_bytes))
        self._look_s = now_s + self._interval_s(now_s, usage)
        if self._command.code is not None and not self._tree.alive():
            self._done = True

    def _interval_s(self, now_s: float, usage: int | None) -> float:
        phase = self._domain.state.phase
        if phase is Phase.HELPLESS:
            return HELPLESS_INTERVAL_S
        if usage is None or phase is not Phase.CALM:
            return BUSY_INTERVAL_S
        before_s, before_bytes = self._last
        self._last = (now_s, usage)
        growth = (usage - before_bytes) / max(now_s - before_s, 1e-6)
        return pace.interval_s(usage, self._options.budget_bytes, growth)

    # What to do.

    def _step(self, now_s: float, event: Event) -> None:
        for effect in self._domain.step(now_s, event):
            self._do(now_s, effect)

    def _do(self, now_s: float, effect: Effect) -> None:
        match effect:
            case AskCandidates():
                self._step(now_s, self._snapshot(now_s))
            case Term():
                self._termination = ask_to_go(effect.victim, self._procfs)
            case Kill():
                self._kill(effect.victim)
            case Skip():
                self._end_termination()
            case Report():
                self._narrator.tell(effect)
                if effect.what is What.SPARED:
                    self._end_termination()

    def _snapshot(self, now_s: float) -> Candidates:
        self._tree.refresh(now_s)
        found = snapshot.candidates(self._tree)
        self._protected = snapshot.protected(found, self._options.protect, self._procfs)
        if self._options.on_limit == "kill-tree":
            found = badness.as_one(found, self._protected, "the whole tree")
        return Candidates(DOMAIN, found, self._protected)

    def _kill(self, victim: Candidate) -> None:
        if self._termination:
            self._narrator.insists(victim)
        self._end_termination()
        for member in victim.members:
            self._tree.doom(member.pid)
        everyone = list(self._tree.members)
        killing = Doomed(victim, self._protected, everyone, self._procfs).kill()
        for pid in killing.sharers:
            self._tree.doom(pid, shares_mm=True)
        self._killings.append(killing)
        self._narrator.doomed(killing)
        self._look_s = 0.0

    def _end_termination(self) -> None:
        if self._termination:
            self._termination.close()
            self._termination = None

    # The end.

    def _hear_last_words(self) -> int:
        """See the last victim off; how many of the tree are left."""
        deadline_s = time.monotonic() + LAST_WORDS_S
        while self._killings and time.monotonic() < deadline_s:
            self._wait(min(self._timeout_s(), 0.02))
            self._advance(time.monotonic())
        self._tree.refresh(time.monotonic())
        self._tree.bury(spared=self._command.pid)
        left = self._tree.alive()
        if left == 0:
            now_s = time.monotonic()
            self._step(now_s, Measured(DOMAIN, now_s, 0, 0))
        return left
