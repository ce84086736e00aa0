"""All domains together: several may run out at once, and one process may hold memory in many.

1. Domains that share no victim know nothing of each other: each may have one of its own.
2. Where a victim under way holds memory here, too, it is waited for; nobody else dies for that.
3. So is whoever is exiting already, killed by somebody else.
4. What becomes of a victim reaches everyone who waits for it, by whomever it was killed.
5. Nobody is killed twice, nor tried again when it could not be killed.
"""

from collections.abc import Iterator
from dataclasses import replace

from memreap.decide.domain import REMEMBERED, Domain, Phase, Rules
from memreap.decide.events import (
    Candidate,
    Candidates,
    Effect,
    Event,
    Fate,
    Identity,
    Kill,
    Tick,
    VictimKilled,
    VictimRefused,
    VictimShared,
)

ALREADY_KILLED = "already killed"
BY_ANOTHER_DOMAIN = "killed by another domain"
ASKED_BY_ANOTHER_DOMAIN = "asked to go by another domain"
EXITING = "exiting already, by another's hand"


class Realm:
    """Every domain by its name; ``step`` takes what happened to one, and returns what to do."""

    def __init__(self) -> None:
        """Begin with none."""
        self._domains: dict[str, Domain] = {}
        self._spent: dict[Identity, str] = {}  # why never again; the last REMEMBERED

    def __iter__(self) -> Iterator[Domain]:
        """In the order of adding."""
        return iter(self._domains.values())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._domains)

    def __contains__(self, name: str) -> bool:
        """Whether there is one of this name."""
        return name in self._domains

    def domain(self, name: str) -> Domain:
        """The one of this name. Raises KeyError."""
        return self._domains[name]

    def add(self, name: str, rules: Rules) -> None:
        """Begin to guard one more, calm."""
        assert name not in self._domains, "a domain is added once"
        self._domains[name] = Domain(name, rules)

    def remove(self, name: str) -> None:
        """Forget one. Those who wait for its victim go on, and events of it still reach them."""
        del self._domains[name]

    def set_rules(self, name: str, rules: Rules) -> None:
        """Hold it to other rules from the next event on; where it stands, it stays."""
        self._domains[name].rules = rules

    @property
    def deadline_s(self) -> float | None:
        """When to call ``tick``, if nothing else happens."""
        due = [d.state.deadline_s for d in self._domains.values()]
        return min((due_s for due_s in due if due_s is not None), default=None)

    def tick(self, now_s: float) -> list[Effect]:
        """Let time pass in every domain, one after another."""
        return [effect for name in self._domains for effect in self.step(now_s, Tick(name))]

    def step(self, now_s: float, event: Event) -> list[Effect]:
        """Take one event. One of a domain that is no more reaches those who share its victim."""
        if isinstance(event, Fate):
            return self._fate(now_s, event)
        domain = self._domains.get(event.domain)
        if domain is None:
            return []
        if isinstance(event, Candidates):
            under_way = self._shared(domain, event) or self._exiting(domain, event)
            event = under_way or self._told(event)
        effects = domain.step(now_s, event)
        for effect in effects:
            if isinstance(effect, Kill):
                self._killed(now_s, effect)
        return effects

    def _fate(self, now_s: float, event: Fate) -> list[Effect]:
        effects: list[Effect] = []
        for domain in self:
            victim = domain.state.victim
            if victim is None or victim.identity != event.victim:
                continue
            if isinstance(event, VictimRefused):
                self._spend(victim, f"could not be killed: {event.reason}")
            effects += domain.step(now_s, replace(event, domain=domain.name))
        return effects

    def _shared(self, domain: Domain, event: Candidates) -> VictimShared | None:
        """Another domain's victim that holds memory in this one, if one is under way."""
        here = {member for c in event.candidates for member in c.members}
        for other in self:
            victim = other.state.victim
            if other is domain or victim is None or victim.identity in domain.state.skipped:
                continue
            if domain.name in victim.domains or any(m in here for m in victim.members):
                killed = other.state.phase is Phase.RELEASING
                why = BY_ANOTHER_DOMAIN if killed else ASKED_BY_ANOTHER_DOMAIN
                return VictimShared(domain.name, victim, killed, why)
        return None

    def _exiting(self, domain: Domain, event: Candidates) -> VictimShared | None:
        """One whom somebody else killed, say the kernel, and who was not waited for in vain yet."""
        for one in event.exiting:
            if one.identity not in domain.state.skipped and one.identity not in self._spent:
                return VictimShared(domain.name, one, killed=True, why=EXITING)
        return None

    def _told(self, event: Candidates) -> Candidates:
        """The same, where those who must not be chosen again say so."""
        return replace(event, candidates=tuple(self._marked(c) for c in event.candidates))

    def _marked(self, candidate: Candidate) -> Candidate:
        spent = [m for m in candidate.members if m in self._spent]
        if not spent or candidate.barred:
            return candidate
        rest = tuple(m for m in candidate.members if m not in self._spent)
        if rest:  # of a group, those who were not there when the others died
            return replace(candidate, members=rest)
        return replace(candidate, barred=self._spent[spent[0]])

    def _killed(self, now_s: float, kill: Kill) -> None:
        """One whom somebody killed is killed for all who wait for it."""
        self._spend(kill.victim, ALREADY_KILLED)
        for domain in self:
            if domain.name != kill.domain:
                domain.step(now_s, VictimKilled(domain.name, kill.victim.identity))

    def _spend(self, victim: Candidate, why: str) -> None:
        for member in victim.members:
            self._spent.pop(member, None)
            self._spent[member] = why
        for oldest in list(self._spent)[: max(0, len(self._spent) - REMEMBERED)]:
            del self._spent[oldest]
