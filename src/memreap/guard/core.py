"""The core: decides and acts. Nothing that it does can wait.

1. One thread, one poll. What may wait is done by a scout, a scribe or a reaper, forked before.
2. It reads system-wide files, cgroup files, oom_score, and whose a newborn is (see chase); never
   what pins or locks another's mm.
3. Nothing is imported, mapped or looked up late: all memory is locked and touched at the start.
4. Whom it signals it holds by a pidfd that was open before anything was read of that process.
"""

import gc
import os
import select
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

from memreap import size
from memreap.decide import pace
from memreap.decide.domain import Phase
from memreap.decide.events import (
    AskCandidates,
    Candidates,
    Effect,
    Event,
    Identity,
    Kill,
    Measured,
    Report,
    Skip,
    Term,
    VictimExited,
    VictimRefused,
    VictimReleased,
    What,
)
from memreap.decide.realm import EXITING, Realm
from memreap.guard.crew import Scouts, Scribes
from memreap.guard.gauges import Figures, Gone, NodeGauge, TreeGauge, gauge
from memreap.guard.hands import Deed, Hands
from memreap.guard.look import Look
from memreap.guard.post import FRESH_S, Post, pids_of
from memreap.guard.reload import Reload
from memreap.guard.settings import Kind, Scope, Settings
from memreap.guard.status import domain_status
from memreap.guard.turns import Turns, record_of
from memreap.linux import clock, memlock, numa, siginfo
from memreap.linux.notify import Notify, watchdog_interval_s
from memreap.linux.procfs import Procfs, printable

BUSY_INTERVAL_S = 0.005  # between readings while something is under way
# A domain whose victim makes no progress is read less often, to a twentieth of that time: the
# victim's reaper and its pidfd tell of its end at once, and patience is far longer.
WAITING_SHARE = 0.05
WAITING_INTERVAL_MAX_S = 0.05
HELPLESS_INTERVAL_S = 0.25
# Of a CPU, at most, for readings: on a slow machine, where a turn takes milliseconds, more would
# be taken from the very processes whose end is awaited.
TURNS_SHARE = 0.2
LOOK_WAIT_S = 0.1  # how long a choice waits for a fresh look, beyond twice what one takes
UNSEEN_WAIT_S = 2.0
ASKED = 1  # the number of a look that was asked for; a scout's own have none
DISCOVER_S = 10.0
NOT_THERE = f"not there; looked for every {DISCOVER_S:g} s"
QUIET_S = 2.0  # after the last incident, before spares are made anew
STATUS_AGE_MAX_S = 2.0
STATUS_WAIT_S = 0.5
STATUS_NAMES_MAX = 8
STATUS_LOOKS_MAX = 8  # the scout has better to do than to look at all for somebody's curiosity
GAUGES_S = 5.0
SLEEP_MAX_S = 10.0
TREE_SILENCE_S = (
    0.25  # a scout that brings no usage of a tree for so long is asked whether it lives
)
LAST_WORDS_S = 1.0
NEVER_S = float("inf")

# What is said of somebody who was killed, or asked to go, or waited for: real, whatever a reload
# has made of the settings since.
REAL = (What.SHARED, What.RELEASED, What.SKIPPED, What.SPARED)
# Phases in which nothing is under way.
AT_EASE = (Phase.CALM, Phase.UNEASY)


class Core:
    """Everything that the guard is, but what may wait."""

    def __init__(
        self,
        settings: Settings,
        crew: tuple[Scouts, Scribes],
        hands: Hands,
        signals: int,
        *,
        reload_argv: list[str],
        version: str,
    ) -> None:
        """``signals``: a signalfd; ``reload_argv``: a command that prints settings as JSON."""
        self._settings, self._version = settings, version
        self._scouts, self._scribes = crew
        self._hands, self._signals = hands, signals
        self._procfs = Procfs()
        self._realm = Realm()
        self._turns = Turns()
        self._posts: dict[str, Post] = {}
        self._absent: dict[str, Scope] = {}  # asked for, and not there
        self._events: deque[Event] = deque()
        self._notify = Notify()
        self._watchdog_s = watchdog_interval_s()
        self._reload = Reload(reload_argv)
        self._said: list[str] = []
        self._lacking: list[str] = []
        self._statuses: list[tuple[int, float]] = []
        self._slept_s = clock.slept_s()
        self._turn_s = 0.0  # of CPU time that a turn takes, of late
        self._polled: dict[int, int] = {}  # what the poller waits for
        self._poller = select.poll()
        self._quiet_s = self._pet_s = self._discover_s = self._gauges_s = 0.0
        self._began_wall_s = time.time()
        self._done = False

    def begin(self) -> None:
        """Take up every scope; a cgroup may come later. Raises Gone where another cannot be."""
        for scope in self._settings.scopes:
            if _may_come(scope):
                self._absent[scope.name] = scope
            else:
                self._take_up(scope)
        now_s = time.monotonic()
        for post in self._posts.values():
            self._brief(post, now_s)
            # Who is there is known before anything happens.
            self._scouts.tell(_look(post), now_s, expects=True)
        self._scribes.start(now_s)

    def say(self, line: str) -> None:
        """One line for people, once."""
        if line not in self._said:
            self._said = [*self._said[-99:], line]
            self._scribes.tell({"say": line})

    def lack(self, line: str) -> None:
        """Say what cannot be done here, and remember it."""
        self._lacking.append(line)
        self.say(line)

    @property
    def means(self) -> list[str]:
        """What cannot be done here."""
        of_gauges = (m for post in self._posts.values() for m in post.gauge.means)
        absent = (f"{s.name}: {NOT_THERE}" for s in self._absent.values() if _may_come(s))
        return list(dict.fromkeys([*self._lacking, *absent, *of_gauges]))

    @property
    def what(self) -> str:
        """What is guarded, and how, in words."""
        shown = [
            f"{post.name} ({size.show(post.figures.limit_bytes)})" if post.figures else post.name
            for post in list(self._posts.values())[:STATUS_NAMES_MAX]
        ]
        more = len(self._posts) - len(shown)
        told = ", ".join(shown) + (f" and {more} more" if more > 0 else "") or "nothing yet"
        return told + ("; dry run: nobody is signalled" if self._settings.dry_run else "")

    def run(self) -> None:
        """Guard until a signal says otherwise, or nothing is left to guard."""
        self._tell_ready()
        for line in self.means:
            self.say(line)
        while not self._done and (self._posts or self._absent):
            self._doze()
            rang = self._wait()
            now_s, began_s = time.monotonic(), time.thread_time()
            self._note_sleep(now_s)
            self._answer_alarms(rang, now_s)
            self._hear_signals(now_s)
            self._hear_scout(now_s)
            self._hear_scribe(now_s)
            self._follow(now_s)
            self._read(now_s)
            self._tick(now_s)
            self._keep(now_s)
            self._turn_s += (time.thread_time() - began_s - self._turn_s) / 8
        self._end()

    def _tell_ready(self) -> None:
        """With few names: systemd ignores a message of more than 4 kB."""
        names = printable(", ".join(list(self._posts)[:STATUS_NAMES_MAX]))[:300]
        self._notify.send("READY=1", f"STATUS=guarding {len(self._posts)}: {names}")

    # What happened.

    def _doze(self) -> None:
        """Glance on while nothing happens.

        Nearly all of a guard's life is spent here, where each wake-up finds cold caches: few
        steps, no objects.
        """
        posts = list(self._posts.values())
        calm = not (self._hands.deeds or self._hands.asked or self._statuses or self._quiet_s)
        if not calm or self._realm.deadline_s is not None or not all(map(self._is_calm, posts)):
            return
        glances = [(post.gauge.glance, post.rests_below_bytes) for post in posts]
        if not all(below for _, below in glances):
            return
        poll, until_s = self._poll(), self._chores_s()
        now_s = time.monotonic()
        # What is due within the second waits for its end: no wake-up is made for it alone.
        tick_s = min(pace.CEILING_S, self._watchdog_s or pace.CEILING_S)
        while now_s < until_s and not poll.poll(tick_s * 1000):
            now_s = time.monotonic()
            try:
                if any(glance() >= below for glance, below in glances):
                    break
            except OSError:
                break
        for post in posts:
            if not isinstance(post.gauge, TreeGauge):  # what is brought is not due for a wake-up
                post.due_s = min(post.due_s, now_s)

    def _is_calm(self, post: Post) -> bool:
        phase = self._realm.domain(post.name).state.phase
        return phase is Phase.CALM and post.figures is not None and post.watch_s is None

    def _chores_s(self) -> float:
        """When something has to be done that is not about memory."""
        due = [self._discover_s, self._scouts.deadline_s, self._scribes.deadline_s]
        # A tree's usage that is not brought is missed.
        due += [p.due_s for p in self._posts.values() if isinstance(p.gauge, TreeGauge)]
        if self._watchdog_s:
            due.append(self._pet_s)
        if self._settings.records.wants_gauges:
            due.append(self._gauges_s)
        return min(d for d in due if d is not None)

    def _wait(self) -> set[int]:
        """Until something happens or is due; the descriptors that are ready."""
        timeout_s = min(max(0.0, self._due_s() - time.monotonic()), SLEEP_MAX_S)
        return {fd for fd, _ in self._poll().poll(timeout_s * 1000)}

    def _poll(self) -> select.poll:
        """Everything that may have something to say."""
        wanted = dict.fromkeys(self._hands.fds(), select.POLLIN)
        wanted[self._signals] = select.POLLIN
        for fd in (self._scouts.fileno(), self._scribes.fileno(), self._reload.fileno()):
            if fd >= 0:
                wanted[fd] = select.POLLIN
        for post in self._posts.values():
            wanted |= post.gauge.alarms
        if wanted != self._polled:
            self._polled, self._poller = wanted, select.poll()
            for fd, mask in wanted.items():
                self._poller.register(fd, mask)
        return self._poller

    def _due_s(self) -> float:
        due_s = self._discover_s
        for kept in (self._realm, self._hands, self._scouts, self._scribes):
            if (kept_s := kept.deadline_s) is not None and kept_s < due_s:
                due_s = kept_s
        for post in self._posts.values():
            due_s = min(due_s, post.due_s)
            if (until_s := self._patience_for(post)) is not None and until_s < due_s:
                due_s = until_s
        for _, answer_s in self._statuses:
            due_s = min(due_s, answer_s)
        if self._quiet_s and not self._hands.deeds:
            due_s = min(due_s, self._quiet_s)
        return min(due_s, self._pet_s) if self._watchdog_s else due_s

    def _answer_alarms(self, rang: set[int], now_s: float) -> None:
        for post in list(self._posts.values()):
            for fd in rang.intersection(post.gauge.alarms):
                try:
                    note = post.gauge.ring(fd)
                    post.due_s = now_s
                    if note:
                        self.say(f"{post.name}: {note}")
                except Gone as gone:
                    self._give_up(post, str(gone))
                    break

    def _hear_signals(self, now_s: float) -> None:
        for info in siginfo.read(self._signals):
            if info.signal is Signals.SIGHUP:
                self._notify.reloading()
                self._reload.begin()
            else:
                self._done = True
        answer = self._reload.hear()
        if answer is not None:
            self._take_settings(answer, now_s)

    def _hear_scout(self, now_s: float) -> None:
        for message, pidfds in self._scouts.hear(now_s):
            match message:
                case {"look": dict(raw)}:
                    self._take_look(Look.from_message(raw), pidfds, now_s)
                case {"usage": str(name)} if name in self._posts:
                    self._take_usage(self._posts[name], message, now_s)
                case {"discovered": str(name), "groups": list(groups)} if name in self._posts:
                    self._take_subgroups(self._posts[name], groups)
                case {"lost": str(name), "why": str(why)} if name in self._posts:
                    self._give_up(self._posts[name], why)
                case {"error": str(error)}:
                    self.say(f"a scout broke: {error}")

    def _take_look(self, look: Look, pidfds: dict[Identity, int], now_s: float) -> None:
        post = self._posts.get(look.domain)
        if post is None:
            for fd in pidfds.values():
                os.close(fd)
            return
        if look.bound and isinstance(post.gauge, NodeGauge):
            post.gauge.bound_s = post.due_s = now_s
        post.see(look, pidfds)
        if post.asked_s is None or now_s - look.read_s - look.took_s > FRESH_S:
            return  # nobody asked; or it lay here while the core had no CPU, and a fresh one comes
        asked_s = post.asked_s
        self._read_one(post, now_s)  # whoever went while they looked is in both, or in neither
        if post.name not in self._posts:
            return
        if look.full_s >= asked_s or not post.leaves_doubt(now_s):
            self._answer(post, now_s)
        elif look.number == ASKED and look.read_s >= asked_s:
            self._scouts.tell(_look(post, quick=False), now_s, expects=True)

    def _take_usage(self, post: Post, message: dict[str, Any], now_s: float) -> None:
        assert isinstance(post.gauge, TreeGauge), "only a tree is read by the scout"
        if message["empty"]:
            if post.figures is not None or not Path(f"/proc/{post.scope.pid}").exists():
                self._give_up(post, "nobody of it is left")
            return
        post.due_s = now_s + message["next_s"] + TREE_SILENCE_S
        if message["members"] is not None:
            post.meet([Identity(*member) for member in message["members"]])
        post.victim_bytes = message["victim_bytes"]
        if post.victim_bytes and now_s < post.settles_s:
            return  # measured before it was known there that this memory is back
        figures = post.gauge.brought(message["usage_bytes"])
        self._measure(post, message["read_s"], now_s, figures)

    def _hear_scribe(self, now_s: float) -> None:
        for message in self._scribes.hear(now_s):
            match message:
                case {"status": int(number)}:
                    self._statuses.append((number, now_s + STATUS_WAIT_S))
                    for post in self._foremost(STATUS_LOOKS_MAX):
                        if post.hot.age_s(now_s) > STATUS_AGE_MAX_S:
                            self._scouts.tell(_look(post), now_s, expects=True)
                case {"error": str(error)}:
                    self._notify.send(f"STATUS={error}")

    def _hurry(self, deed: Deed, now_s: float) -> None:
        """Read at once who may have waited for this one; a tree is brought, not read."""
        for post in self._posts.values():
            waits = post is deed.post or self._realm.domain(post.name).state.phase is Phase.DRAINING
            if waits and not isinstance(post.gauge, TreeGauge):
                post.due_s = now_s

    def _follow(self, now_s: float) -> None:
        """What became of victims."""
        self._hands.hold_sharers()
        if not (self._hands.deeds or self._hands.asked or self._events):
            return
        self._events.extend(self._hands.departed(now_s))
        for deed in self._hands.struck(now_s):
            self._write_killed(deed)
        for deed, fate, outcomes in self._hands.advance(now_s):
            if deed.is_struck_after(fate, outcomes):
                self._write_killed(deed)
            self._tell_joined(now_s)
            if isinstance(fate, VictimReleased):
                self._scouts.tell({"settled": deed.killing.everyone}, now_s)
                for post in self._posts.values():
                    post.settles_s = now_s + TREE_SILENCE_S
            elif isinstance(fate, VictimRefused):
                self._scouts.tell({"spared": self._hands.spared(deed)}, now_s)
            if fate is not None:
                self._events.append(fate)
                self._run_events(now_s)
            self._hurry(deed, now_s)
            for outcome in outcomes:
                turn = self._turns.of_outcome(
                    deed.post, deed.killing.victim, outcome, deed.incident
                )
                self._scribes.write(turn, now_s)
        self._tell_joined(now_s)
        self._run_events(now_s)

    def _tell_joined(self, now_s: float) -> None:
        for pids in self._hands.joined():
            self._scouts.tell({"doomed": pids}, now_s)

    # What is read.

    def _read(self, now_s: float) -> None:
        for post in list(self._posts.values()):
            self._settle_leaving(post, now_s)
            if now_s >= post.due_s and not self._read_one(post, now_s):
                # It should have been brought: is the scout still there?
                post.due_s = now_s + TREE_SILENCE_S
                self._scouts.tell(_look(post), now_s, expects=True)

    def _settle_leaving(self, post: Post, now_s: float) -> None:
        """One of whose death we only heard has nobody else who tells that it is over."""
        identity = post.leaving
        if identity is not None and post.has_left():
            post.part_with_leaving()
            post.due_s = now_s
            self._step(now_s, VictimExited(post.name, identity, now_s))

    def _read_one(self, post: Post, now_s: float) -> bool:
        """Take a reading, or give up what is gone; False where it is brought, not read."""
        try:
            figures = post.gauge.read(now_s)
        except Gone as gone:
            self._give_up(post, str(gone))
            return True
        if figures is not None:
            self._measure(post, now_s, now_s, figures)
        return figures is not None

    def _measure(self, post: Post, read_s: float, now_s: float, figures: Figures) -> None:
        before = post.figures
        post.take(read_s, figures)
        if before is None or _measures(before) != _measures(figures):
            self._realm.set_rules(post.name, post.rules(self._settings, figures))
            if before is not None and before.whole_bytes != figures.whole_bytes:
                self._brief(post, now_s)
        stalled = post.is_stalled(figures)
        self._step(
            now_s,
            Measured(post.name, read_s, figures.usage_bytes, post.victim_bytes, stalled=stalled),
        )
        if not isinstance(post.gauge, TreeGauge):
            post.due_s = now_s + max(self._interval_s(post, now_s), self._turn_s / TURNS_SHARE)
        self._settle_watch(post, now_s)

    def _interval_s(self, post: Post, now_s: float) -> float:
        state = self._realm.domain(post.name).state
        if state.phase in AT_EASE:
            return post.interval_s(len(self._posts))
        if state.phase in (Phase.HELPLESS, Phase.REHEARSED):
            return HELPLESS_INTERVAL_S
        if state.phase is Phase.RELEASING and state.patience is not None:
            waited_s = now_s - state.patience.since_s
            return min(max(BUSY_INTERVAL_S, waited_s * WAITING_SHARE), WAITING_INTERVAL_MAX_S)
        return BUSY_INTERVAL_S

    def _settle_watch(self, post: Post, now_s: float) -> None:
        """Have the scout keep the hot set warm, or let it rest."""
        wanted_s = post.watch_wanted_s(now_s, self._realm.domain(post.name).state.phase)
        if wanted_s != post.watch_s:
            post.watch_s = wanted_s
            self._scouts.tell(_watch(post), now_s, expects=wanted_s is not None)
        full = post.figures is not None and "unbound_usage_bytes" in post.figures.details
        if full and post.hot.age_s(now_s) > STATUS_AGE_MAX_S:
            # Full is not enough: is there somebody who may use no other node?
            self._scouts.tell(_look(post), now_s, expects=True)

    # What is decided, and done.

    def _step(self, now_s: float, event: Event) -> None:
        self._events.append(event)
        self._run_events(now_s)

    def _run_events(self, now_s: float) -> None:
        while self._events:
            for effect in self._realm.step(now_s, self._events.popleft()):
                self._do(now_s, effect)

    def _do(self, now_s: float, effect: Effect) -> None:
        post = self._posts.get(effect.domain)
        if post is None:
            return
        match effect:
            case AskCandidates():
                post.asked_s = now_s
                in_doubt = post.leaves_doubt(now_s)
                if post.hot.age_s(now_s) <= FRESH_S and not in_doubt:
                    self._answer(post, now_s)
                else:
                    self._scouts.tell(_look(post, quick=not in_doubt), now_s, expects=True)
            case Kill():
                self._kill(post, effect, now_s)
            case Term():
                event = self._hands.ask(post, effect.victim)
                self._note(event)
                self._write(post, "asked", now_s)
            case Skip():
                self._hands.part(post.name)
            case Report():
                self._report(post, effect, now_s)

    def _note(self, event: Event | None) -> None:
        if event is not None:
            self._events.append(event)

    def _kill(self, post: Post, effect: Kill, now_s: float) -> None:
        protected = frozenset(
            member
            for other in self._posts.values()
            for seen in (other.hot.look.seen if other.hot.look else ())
            if seen.candidate.barred
            for member in seen.candidate.members
        )
        event = self._hands.kill(post, effect.victim, protected)
        post.deciding_s = time.monotonic() - post.answered_s
        if event is None:
            # Right behind the order, before the reaper can have struck.
            self._scouts.tell({"doomed": pids_of(effect.victim.members)}, now_s)
            self._quiet_s = now_s + QUIET_S
            post.killed_in = post.incident
        self._note(event)
        post.due_s = now_s

    def _answer(self, post: Post, now_s: float) -> None:
        """Tell the domain who is in it, as far as they are still there and held."""
        post.asked_s, post.answered_s = None, time.monotonic()
        hot, look = post.hot, post.hot.look
        if look is None:
            self._step(now_s, Candidates(post.name, ()))
            return
        self._step(
            now_s,
            Candidates(
                post.name,
                hot.there(),
                others=look.others,
                others_pages=look.others_pages,
                exiting=hot.leaving(),
            ),
        )

    def _patience_for(self, post: Post) -> float | None:
        """Until when a choice waits for a fresh look."""
        if post.asked_s is None:
            return None
        if post.looks_outdated(post.asked_s):
            return post.asked_s + UNSEEN_WAIT_S
        return post.asked_s + LOOK_WAIT_S + 2 * self._scouts.took_s

    def _report(self, post: Post, report: Report, now_s: float) -> None:
        if report.what is What.PRESSED:
            self._turns.begin_incident(post)
        self._note_victim(post, report, now_s)
        is_dry = self._settings.dry_run and report.what not in REAL
        is_dry &= report.what is not What.RELIEVED or post.killed_in != post.incident
        turn = self._turns.of_report(post, report, dry_run=is_dry)
        if report.what is What.HELPLESS:  # tried again and again: everyone is named once
            if post.helpless_told == post.incident:
                turn["choice"] = None
            post.helpless_told = post.incident
        if report.what is What.RELEASED:
            back = sum(
                deed.killing.released_bytes
                for deed in self._hands.deeds
                if report.victim and deed.killing.victim.identity == report.victim.identity
            )
            turn["figures"] |= {"released_bytes": back, "seconds": report.at_s - post.chosen_s}
        self._scribes.write(turn, now_s)
        if report.what in (What.RELEASED, What.SKIPPED):
            post.gauge.restart(now_s)
        if report.what is What.SPARED:
            self._hands.part(post.name)
        if report.what is What.RELIEVED:
            post.incident = None
            self._quiet_s = now_s + QUIET_S

    def _note_victim(self, post: Post, report: Report, now_s: float) -> None:
        victim = report.victim
        if report.what in (What.CHOSEN, What.SHARED) and victim is not None:
            post.chosen_s = now_s
            if report.what is What.CHOSEN:
                post.hot.remember(victim)
            elif report.reason == EXITING:
                post.await_leaving(victim.identity)
        elif report.what in (What.RELEASED, What.SKIPPED):
            post.part_with_leaving()
            post.unseen_pages = None  # what is back may have been counted as nobody's

    def _write(self, post: Post, what: str, now_s: float) -> None:
        victim = self._realm.domain(post.name).state.victim
        record = record_of(victim, post.hot) if victim else None
        self._scribes.write(self._turns.turn(post, what, now_s, victim=record), now_s)

    def _write_over(self, post: Post, why: str, usage_bytes: int | None = None) -> None:
        """A service's cgroup often goes with its only process: that ends the incident, too."""
        now_s = time.monotonic()
        more = {} if usage_bytes is None else {"usage_bytes": usage_bytes}
        self._scribes.write(self._turns.turn(post, "relieved", now_s, reason=why, **more), now_s)

    def _write_killed(self, deed: Deed) -> None:
        at_s = deed.killing.killed_s
        assert at_s is not None, "it was struck"
        record = record_of(deed.killing.victim, deed.post.hot)
        turn = self._turns.turn(
            deed.post,
            "killed",
            at_s,
            victim=record,
            incident=deed.incident,
            figures={"deciding_s": deed.post.deciding_s} | _born(deed),
        )
        self._scribes.write(turn, at_s)

    def _tick(self, now_s: float) -> None:
        deadline_s = self._realm.deadline_s
        if deadline_s is not None and now_s >= deadline_s:
            for effect in self._realm.tick(now_s):
                self._do(now_s, effect)
            self._run_events(now_s)
        for post in list(self._posts.values()):
            until_s = self._patience_for(post)
            if until_s is not None and now_s >= until_s:
                self._answer(post, now_s)  # with what is known

    # What is kept going.

    def _note_sleep(self, now_s: float) -> None:
        """Before anything is read: the first averages after a suspend are the stalest."""
        slept_s = clock.slept_s()
        if slept_s - self._slept_s > 1:
            for post in self._posts.values():
                post.gauge.restart(now_s)
        self._slept_s = slept_s

    def _keep(self, now_s: float) -> None:
        if self._scouts.is_lost(now_s):
            self._replace_scout(now_s)
        self._scribes.check(now_s)
        if self._watchdog_s and now_s >= self._pet_s:
            self._notify.send("WATCHDOG=1")
            self._pet_s = now_s + self._watchdog_s
        if self._quiet_s and now_s >= self._quiet_s and not self._hands.deeds:
            self._quiet_s = 0.0
            self._hands.rest()
            self._scouts.refill()
            gc.collect()
            memlock.lock_all()  # a fork shares every page again; the copies are made now
        if now_s >= self._discover_s:
            self._discover_s = now_s + DISCOVER_S
            self._look_for_absent(now_s)
            for post in self._posts.values():
                if post.scope.subgroups and post.scope.kind in (Kind.SYSTEM, Kind.CGROUP):
                    self._scouts.tell({"discover": post.name}, now_s)
        self._tell_status(now_s)

    def _replace_scout(self, now_s: float) -> None:
        if not self._scouts.replace(now_s):
            return
        pid, command_only = self._scouts.lost_at
        what = "the command line of " if command_only else ""
        self.say(f"a scout was lost{f' reading {what}pid {pid}' if pid else ''}: replaced")
        self._quiet_s = now_s + QUIET_S
        for post in self._posts.values():
            self._brief(post, now_s)
            if post.watch_s is not None:
                self._scouts.tell(_watch(post), now_s)
            if post.asked_s is not None:
                self._scouts.tell(_look(post), now_s, expects=True)

    def _brief(self, post: Post, now_s: float) -> None:
        if doomed := self._hands.doomed:  # first: a tree is not to take them for living
            self._scouts.tell({"doomed": doomed}, now_s)
        self._scouts.tell({"ward": post.order()}, now_s)

    def _tell_status(self, now_s: float) -> None:
        if self._statuses:
            foremost = self._foremost(STATUS_LOOKS_MAX)
            fresh = all(post.hot.age_s(now_s) <= STATUS_AGE_MAX_S for post in foremost)
            due = [number for number, due_s in self._statuses if fresh or now_s >= due_s]
            self._statuses = [s for s in self._statuses if s[0] not in due]
            for number in due:
                self._scribes.tell({"status": self._status(now_s), "id": number})
        records = self._settings.records
        if records.wants_gauges and now_s >= self._gauges_s:
            self._gauges_s = now_s + GAUGES_S
            self._scribes.tell({"gauges": self._status(now_s)})

    def _foremost(self, most: int) -> list[Post]:
        """Those who are nearest to their lines."""

        def way(post: Post) -> float:
            figures = post.figures
            return figures.usage_bytes / max(1, figures.limit_bytes) if figures else 1.0

        return sorted(self._posts.values(), key=way, reverse=True)[:most]

    def _status(self, now_s: float) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "version": self._version,
            "started_wall_s": self._began_wall_s,
            "dry_run": self._settings.dry_run,
            "means": self.means,
            "scout": {
                "restarts": self._scouts.restarts,
                "age_s": now_s - self._scouts.heard_s if self._scouts.heard_s else None,
            },
            "scribe": {"restarts": self._scribes.restarts},
            "incidents": self._turns.incidents,
            "kills": self._hands.kills,
            "domains": [domain_status(post, self._realm) for post in self._posts.values()],
        }

    # What is guarded.

    def _take_up(self, scope: Scope) -> None:
        post = Post(scope, gauge(scope, self._procfs))
        figures = post.gauge.read(time.monotonic())
        if figures is None:
            assert isinstance(post.gauge, TreeGauge), "every other gauge reads"
            figures = post.gauge.brought(0)
        else:
            post.figures = figures
        self._posts[scope.name] = post
        self._realm.add(scope.name, post.rules(self._settings, figures))
        if scope.kind is Kind.SYSTEM and scope.nodes and len(numbers := numa.nodes()) > 1:
            for number in numbers:
                self._take_up(_node_scope(scope, number))
                self._posts[f"node{number}"].origin = scope.name

    def _take_subgroups(self, post: Post, groups: list[list[str]]) -> None:
        for name, path in groups:
            if name in self._posts or name in self._absent or path == post.scope.path:
                continue
            limit = post.scope.limit if post.scope.limit and post.scope.limit.share else None
            scope = replace(
                post.scope, kind=Kind.CGROUP, name=name, path=path, limit=limit, subgroups=False
            )
            try:
                self._take_up(scope)
            except Gone:
                continue
            self._posts[name].origin = post.name
            self._brief(self._posts[name], time.monotonic())

    def _look_for_absent(self, now_s: float) -> None:
        """A service that restarts makes its cgroup anew."""
        for name, scope in list(self._absent.items()):
            if name not in self._posts:
                try:
                    self._take_up(scope)
                except Gone as gone:
                    if not _may_come(scope):
                        self.say(f"{name}: not guarded: {gone}")
                    continue
                self._brief(self._posts[name], now_s)
                self._scouts.tell(_look(self._posts[name]), now_s, expects=True)
                self.say(f"{name}: there, and guarded ({time.strftime('%H:%M:%S')})")
                self._tell_ready()
            del self._absent[name]

    def _give_up(self, post: Post, why: str, *, for_good: bool = False) -> None:
        """Guard it no longer: it is gone."""
        if not for_good and post.scope in self._settings.scopes and post.scope.kind is Kind.CGROUP:
            self._absent[post.name] = post.scope
            why += f"; looked for every {DISCOVER_S:g} s"
        if post.incident is not None:
            self._write_over(post, *((why,) if for_good else ("it is gone", 0)))
        self._realm.remove(post.name)
        self._posts.pop(post.name, None)
        self._scouts.tell({"forget": post.name}, time.monotonic())
        self._hands.part(post.name)
        post.close()
        self.say(f"{post.name}: guarded no longer: {why}")

    def _take_settings(self, answer: "Settings | str", now_s: float) -> None:
        """Go on with new settings, or with the old ones where the new are bad."""
        if isinstance(answer, str):
            self.say(f"the configuration was not reloaded, the old one stays: {answer}")
        else:
            self._change(answer, now_s)
        self._tell_ready()

    def _change(self, settings: Settings, now_s: float) -> None:
        old, self._settings = self._settings, settings
        self._change_scopes(old, settings)
        for post in self._posts.values():
            if post.figures is not None:
                self._realm.set_rules(post.name, post.rules(settings, post.figures))
        if settings.policy != old.policy:
            self._scouts.renew(settings.policy, now_s)
            for post in self._posts.values():
                post.forget()
        for post in self._posts.values():
            self._brief(post, now_s)
            if post.watch_s is not None:  # a scout that is new, or takes it on anew, forgot
                self._scouts.tell(_watch(post), now_s)
            self._scouts.tell(_look(post), now_s, expects=True)
        self._scribes.settle(settings.as_message()["records"])
        self.say(f"the configuration was reloaded ({time.strftime('%H:%M:%S')}): {self.what}")

    def _change_scopes(self, old: Settings, new: Settings) -> None:
        wanted = {scope.name: scope for scope in new.scopes}
        known = {scope.name: scope for scope in old.scopes}
        changed = {name for name in known if wanted.get(name) != known[name]}
        for name, post in list(self._posts.items()):
            # What was found below goes with it, or when it is asked for by itself.
            if name in changed or (post.origin and (post.origin in changed or name in wanted)):
                self._give_up(post, "the configuration changed", for_good=True)
        self._discover_s = 0.0
        self._absent = {s.name: s for s in new.scopes if s.name not in self._posts and _may_come(s)}
        for scope in new.scopes:
            if scope.name not in self._posts and scope.name not in self._absent:
                try:
                    self._take_up(scope)
                except Gone as gone:
                    self.say(f"{scope.name}: not guarded: {gone}")

    def _end(self) -> None:
        """See the last victims off, and leave nothing behind."""
        self._notify.send("STOPPING=1")
        if self._hands.deeds:
            self.say(f"ends, with {len(self._hands.deeds)} victims on their way")
        deadline_s = time.monotonic() + LAST_WORDS_S
        while self._hands.deeds and time.monotonic() < deadline_s:
            time.sleep(BUSY_INTERVAL_S)
            self._follow(time.monotonic())
        for post in list(self._posts.values()):
            post.close()
        self._hands.close()
        self._scouts.close()
        self._scribes.close(LAST_WORDS_S)
        self._reload.close()


def _may_come(scope: Scope) -> bool:
    """Whether it is a cgroup that is not there: a service that starts makes its own."""
    return scope.kind is Kind.CGROUP and not os.path.isdir(scope.path)  # noqa: PTH112


def _born(deed: Deed) -> dict[str, int]:
    """How many were born of a crowd while it died, and died as well."""
    return {"born": len(deed.killing.born)} if deed.killing.born else {}


def _measures(figures: Figures) -> tuple[float, ...]:
    """What its rules are made from: its limit, its whole, its memory.high."""
    return (*figures[1:3], figures.details.get("high_bytes", 0))


def _look(post: Post, *, quick: bool = True) -> dict[str, Any]:
    # Pressed: no command line of a young one is waited for.
    pressed = post.asked_s is not None
    return {"look": post.name, "number": ASKED, "quick": quick, "pressed": pressed}


def _watch(post: Post) -> dict[str, Any]:
    if post.watch_s is None:
        return {"rest": post.name}
    return {"watch": post.name, "every_s": post.watch_s}


def _node_scope(scope: Scope, number: int) -> Scope:
    return replace(scope, kind=Kind.NODE, name=f"node{number}", limit=None, nodes=False)
