"""The guard's laws, as they can be seen from the machine that it runs on.

Each is asked where it can be broken; ``Broken`` names the law, by its number in the design. What
the guard believes does not count here: what the machine knows does.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from memreap.decide.events import Candidate, Event, VictimExited, VictimRefused
from memreap.guard.crew import WHOLE_MAX
from memreap.guard.killing import TIMEOUT_S
from memreap.reap.facts import Facts
from memreap.simulate.guard_machine import MIB, Process

if TYPE_CHECKING:
    from memreap.simulate.guard_world import World

GRACE_S = 0.5  # from a kill, or the core's return, until every scout must know of it
TURN_MAX_S = 0.5  # how long the core may be away from its poll, beyond what it is made late by
POLLS_MAX = 1500  # in a second: while somebody dies it looks every 5 ms, and is told things
PROGRESS_BYTES = MIB
SLACK_S = 0.1
# Whom somebody else killed: since when a decision must know of it, how much of the line counts, and
# what keeps it from being known.
KNOWN_S, COUNTS_SHARE = 0.5, 0.06
SIGHT = {"scouts die", "scouts are slow", "lines are full", "the core is late",
         "the machine sleeps", "descriptors are scarce", "settings are reloaded"}  # fmt: skip
SEEN_S = 0.06  # a little more than the guard's longest time between readings beside a victim
QUEUE_MAX = 10_000


class Broken(AssertionError):  # noqa: N818 - a finding, not an error
    """A law that was broken, and how."""

    def __init__(self, law: int, why: str) -> None:
        """``law``: 1 to 8; 0 for relief that did not come."""
        super().__init__(f"law {law}: {why}")
        self.law, self.why = law, why


class Laws:
    """Watches a run."""

    def __init__(self, world: "World") -> None:
        """Nothing has happened."""
        self._world = world
        self._said: dict[int, list[str]] = defaultdict(list)
        self.turns: list[dict[str, Any]] = []
        self.kills: list[tuple[float, str, Candidate]] = []  # when, for which domain, whom
        self._victims: dict[str, tuple[float, Candidate]] = {}  # by domain, the last
        self._asked: dict[str, Candidate] = {}  # by domain, who was asked to go
        self._done: dict[str, set[tuple[int, int]]] = defaultdict(set)  # told to the domain
        # By domain: when its usage last fell, to how much, and when it fell a look's age before.
        self._progress: dict[str, tuple[float, float, float]] = {}
        # By domain: when it fell lower than ever, and to how much, if that is not long ago.
        self._falling: dict[str, tuple[float, float]] = {}
        self.ordered = 0
        self._polled_s = world.machine.now_s
        self._second = self._polls = 0

    # Law 1: nobody who is protected, nobody who is somebody else.

    def is_ordered(self, processes: Sequence[Process], facts: Sequence[Facts]) -> None:
        """Somebody is about to be killed."""
        self.ordered += 1
        for process, known in zip(processes, facts, strict=False):
            self.is_signalled(process)
            if (known.pid, known.start_ticks) != process.identity and known.start_ticks:
                raise Broken(1, f"{process.comm} ({process.pid}) dies in another one's place")

    def is_signalled(self, process: Process) -> None:
        """A signal is sent by the core."""
        if self._world.options.dry_run and self._world.permitted:
            raise Broken(1, f"a dry run signals {process.comm} ({process.pid})")
        if process.protected:
            raise Broken(1, f"{process.comm} ({process.pid}) is protected, and signalled")

    # Law 2: one victim at a time.

    def is_asked(self, domain: str, victim: Candidate) -> None:
        """A domain asks somebody to go: it has chosen."""
        self._is_free(domain)
        self._asked[domain] = victim

    def is_chosen(self, domain: str, victim: Candidate) -> None:
        """A domain orders a kill."""
        now_s = self._world.machine.now_s
        asked = self._asked.pop(domain, None)
        if asked is None or asked.identity != victim.identity:
            self._is_free(domain)
        usage, place = self._world.usage_bytes(domain), self._world.places[domain]
        if usage < place.limit_bytes * 0.7 and not self._is_dead_already(victim):
            raise Broken(2, f"{domain} kills at {usage / place.limit_bytes:.0%} of its line")
        self._is_alone(domain, victim)
        self._victims[domain] = now_s, victim
        self._progress[domain] = now_s, float(usage), now_s
        self.kills.append((now_s, domain, victim))

    def _is_free(self, domain: str) -> None:
        """Whether its last victim gave its memory back, or was passed over."""
        if domain not in self._victims:
            return
        _, victim = self._victims[domain]
        if victim.identity in self._done[domain]:
            return
        if (held := self._held(victim)) >= PROGRESS_BYTES:
            raise Broken(
                2,
                f"{domain} chooses another one, with {held / MIB:.0f} MiB of {victim.name}"
                f" ({victim.identity.pid}) still to come, which it has not passed over",
            )

    def _is_dead_already(self, victim: Candidate) -> bool:
        """Whether somebody else has killed it meanwhile: to kill it once more does no harm."""
        processes = self._world.machine.processes
        found = [processes.get(member.pid) for member in victim.members]
        return all(one is None or one.killed_s is not None for one in found)

    def _is_alone(self, domain: str, victim: Candidate) -> None:
        """Whether nobody whom others killed had so much to give that it should be waited for."""
        world = self._world
        if SIGHT & set(world.options.faults):
            return  # it may not have been known in time
        now_s, limit_bytes = world.machine.now_s, world.places[domain].limit_bytes
        for process in world.machine.processes.values():
            if domain not in process.domains or not world.is_exiting(process, domain):
                continue
            if process.identity in victim.members or process.refused:
                continue  # to kill it once more does no harm; or that was tried, and not permitted
            if process.identity in self._done[domain]:
                continue  # it was the domain's own victim before, and waited for as such
            held, age_s = process.mm.at(now_s), now_s - (process.killed_s or 0.0)
            is_known = KNOWN_S < age_s < world.options.patience_s - SLACK_S
            if is_known and held > limit_bytes * COUNTS_SHARE:
                raise Broken(
                    2,
                    f"{domain} kills {victim.name} while {process.comm} ({process.pid}), whom"
                    f" somebody else killed, has {held / MIB:.0f} MiB to give back",
                )

    def is_passed_over(self, domain: str) -> None:
        """A domain waits no longer for its victim."""
        if domain not in self._victims:
            return
        killed_s, victim = self._victims[domain]
        if victim.identity in self._done[domain]:
            return
        self._done[domain].add(victim.identity)
        if (held := self._held(victim)) < PROGRESS_BYTES:
            return
        since_s = self._fell_s(domain)
        patience_s = self._world.options.patience_s
        now_s = self._world.machine.now_s
        waited_s = now_s - max(since_s, killed_s)
        # Its reapers' time is over at some point, whoever else makes the usage fall meanwhile.
        if waited_s < patience_s - SLACK_S and now_s < killed_s + TIMEOUT_S - SLACK_S:
            raise Broken(
                2,
                f"{domain} passes {victim.name} ({victim.identity.pid}) over {waited_s:.2f} s after"
                f" its usage last fell, with {held / MIB:.0f} MiB still to come;"
                f" its patience is {patience_s:g} s",
            )

    def _held(self, victim: Candidate) -> float:
        """What a victim still holds; nothing if it could not be killed, which is no waiting."""
        machine, held = self._world.machine, 0.0
        for member in victim.members:
            process = machine.processes.get(member.pid)
            if process is None or process.identity != tuple(member):
                continue
            if process.killed_s is None or process.refused:
                return 0.0
            held += process.mm.at(machine.now_s)
        return held

    def is_told(self, event: Event | None) -> None:
        """What a kill came to at once."""
        if isinstance(event, VictimExited | VictimRefused):
            self._done[event.domain].add(event.victim)

    def note_progress(self) -> None:
        """When did the usage of a domain with a victim last fall below all that was before?

        And stayed there: who reads 20 times a second need not see what lasts for less.
        """
        now_s = self._world.machine.now_s
        for domain in self._victims:
            usage = float(self._world.usage_bytes(domain))
            last_s, lowest, before_s = self._progress[domain]
            if usage <= lowest - PROGRESS_BYTES:
                self._progress[domain] = last_s, usage, before_s
                self._falling.setdefault(domain, (now_s, usage))
            fell_s, to_bytes = self._falling.get(domain, (now_s, usage))
            if usage > to_bytes:
                del self._falling[domain]
            elif now_s - fell_s >= SEEN_S:
                lowest = min(usage, self._progress[domain][1])
                self._progress[domain] = fell_s, lowest, self._fell_s(domain)
                del self._falling[domain]

    def _fell_s(self, domain: str) -> float:
        """When the usage last fell, as far as a look that has been answered can know."""
        last_s, _, before_s = self._progress[domain]
        return last_s if last_s <= self._world.machine.now_s - SLACK_S else before_s

    # Law 3: of who is dying nothing is read.

    def is_read(self, process: Process, scout: object) -> None:
        """A scout begins to look at a process."""
        del scout
        now_s, killed_s = self._world.machine.now_s, process.killed_s
        if not process.by_guard or killed_s is None or process.exited_s is not None:
            return
        if now_s > max(killed_s, self._world.away_until_s) + GRACE_S:
            raise Broken(3, f"{process.comm} ({process.pid}) is read {now_s - killed_s:.2f} s dead")

    # Law 4: nothing keeps the core.

    def is_polling(self, late_s: float) -> None:
        """The core comes to its poll; ``late_s``: what it was made late by."""
        now_s = self._world.machine.now_s
        away_s = now_s - self._polled_s - late_s
        if away_s > TURN_MAX_S:
            raise Broken(4, f"the core was away from its poll for {away_s:.2f} s")

    def has_polled(self) -> None:
        """And goes on. It does not go round and round."""
        self._polled_s = self._world.machine.now_s
        second = int(self._polled_s)
        self._polls = self._polls + 1 if second == self._second else 1
        self._second = second
        if self._polls > POLLS_MAX:
            raise Broken(4, f"the core polls more than {POLLS_MAX} times a second")

    # Law 5: nothing grows.

    def is_bounded(self, what: str, length: int) -> None:
        """How long a queue of the core's is."""
        if length > QUEUE_MAX:
            raise Broken(5, f"{what}: {length} wait")

    # Law 6: boost, SIGKILL and reap go out back to back.

    def has_acted(self, domain: str, ordered_before: int, event: Event | None) -> None:
        """A kill was ordered, and the core has done what it does about it."""
        if event is None and self.ordered == ordered_before:
            raise Broken(6, f"{domain} ordered a kill, and nothing went out")

    # Law 7: every decision can be explained afterwards.

    def is_written(self, turn: dict[str, Any]) -> None:
        """The scribe has written something down."""
        self.turns.append(turn)

    def are_explained(self) -> None:
        """Once all is over: is everyone who was killed in the record, and why?"""
        chosen = defaultdict(list)
        for turn in self.turns:
            if turn["what"] in ("chosen", "shared") and turn["victim"]:
                chosen[turn["victim"]["pids"][0]].append(turn)
        ends = ("released", "skipped", "outcome")
        ended = {t["victim"]["pids"][0] for t in self.turns if t["what"] in ends and t["victim"]}
        for _, domain, victim in self.kills:
            pid = victim.identity.pid
            told = chosen.get(pid, [])
            if not told:
                raise Broken(7, f"{domain} killed {pid}, and no choice is on record")
            # While no scribe can be had, the oldest turns let go of who was compared: law 5.
            is_old = self.turns and self.turns[-1]["turn"] - told[-1]["turn"] >= WHOLE_MAX
            if not is_old and not any(t["choice"] and t["choice"]["candidates"] for t in told):
                raise Broken(7, f"{domain} killed {pid}, and who else was there is not on record")
            if victim.identity not in self._done[domain] and pid not in ended:
                raise Broken(7, f"{domain} killed {pid}, and what became of it is not on record")

    # Law 8: what cannot be done is said once.

    def is_said(self, line: str, scribe: object) -> None:
        """A line for people."""
        said = self._said[id(scribe)]
        if line in said:
            raise Broken(8, f"said twice: {line!r}")
        said.append(line)
