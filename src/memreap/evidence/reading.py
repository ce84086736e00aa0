"""A trace, read: who takes part in the kill, what each did, and what may be assumed.

Whoever acts has a number instead of a pid, in the order in which they act, so that kills of one
kind are one.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from memreap.evidence.acts import LOCKS_SEEN, Act, acts, last_one, lookers
from memreap.evidence.alphabet import EVENTS, SECOND, Letter, Seen
from memreap.evidence.cast import REAPER, Assumed, Cast
from memreap.evidence.subject import EAGAIN, Subject
from memreap.evidence.trace import Trace


@dataclass(frozen=True, slots=True)
class Line:
    """One letter of a trace, and when, where, in whose context."""

    number: int
    at_ns: int
    cpu: int
    doer: int
    letter: Letter


@dataclass(frozen=True, slots=True)
class Kill:
    """What a trace tells of the victim's address space. ``pids``: of each who takes part.

    ``may_assume``: what there are signs of; it may have been so.
    """

    cast: Cast
    lines: tuple[Line, ...]
    pids: dict[str, int]
    may_assume: tuple[Assumed, ...] = ()

    def assuming(self, assumed: frozenset[Assumed]) -> Cast:
        """The cast if all this was so."""
        began = _had_begun(self.lines, self.cast) if Assumed.HAD_LOCK in assumed else {}
        may_end = {Assumed.OWN_END, Assumed.KILLED} & assumed
        return replace(
            self.cast,
            assuming=assumed,
            began=frozenset(began.items()),
            own_ends=frozenset(_own_ends(self.lines, self.cast) if may_end else ()),
            left=frozenset(_idle(self.lines, self.cast) if Assumed.HAD_LEFT in assumed else ()),
        )


def kill(trace: Trace) -> Kill:
    """Read it."""
    subject = Subject(trace)
    found = acts(subject)
    processes = _processes(subject, found)
    names = {pid: f"process {n}" for n, pid in enumerate(processes)}
    threads = [pid for one in processes.values() for pid in one]
    others = {act.pid for act in found} - set(threads) - subject.reapers
    passers = [pid for pid in dict.fromkeys(act.pid for act in found) if pid in others]
    actors = {pid: f"thread {n}" for n, pid in enumerate(threads)}
    actors |= {pid: f"passer {n}" for n, pid in enumerate(passers)}
    actors |= dict.fromkeys(subject.reapers, REAPER)
    of_process = {tid: names[pid] for pid, one in processes.items() for tid in one}
    lines = tuple(_line(act, of_process if act.seen is Seen.SIGNALLED else actors) for act in found)
    signalled = {line.letter.who for line in lines if line.letter.seen is Seen.SIGNALLED}
    is_busy = any(act.result == EAGAIN for act in found)
    cast = Cast(
        threads=tuple(map(len, processes.values())),
        passers=len(passers),
        lookers=frozenset(actors[pid] for pid in lookers(subject, found) if pid in others),
        last=actors.get(last_one(subject, found), ""),
        pages=1 + _walks(subject, found) + is_busy,
        spared=frozenset(list(names.values())[1:]) - signalled,
        has_reaper=bool(subject.reapers),
        ends_late=subject.ends_late,
        is_busy=is_busy,
        hidden=frozenset(seen for event in trace.missing for seen in EVENTS.get(event, ())),
    )
    pids = {name: pid for pid, name in (*actors.items(), *names.items())}
    return Kill(cast, lines, pids, tuple(_signs(lines, cast)))


def _line(act: Act, names: dict[int, str]) -> Line:
    letter = Letter(names[act.pid], act.seen, act.result)
    return Line(act.number, act.event.at_ns, act.event.cpu, act.event.pid, letter)


def _processes(subject: Subject, found: list[Act]) -> dict[int, list[int]]:
    """The threads of each process, in the order in which they act; the victim's first."""
    heads = {subject.pid, *subject.sharers}
    heads |= {act.pid for act in found if act.seen is Seen.SIGNALLED}
    processes: dict[int, list[int]] = {subject.pid: []}
    of: dict[int, int] = {}
    head = subject.pid
    for tid in subject.tids:  # those of each process come behind its first one
        head = tid if tid in heads else head
        of[tid] = head
    for tid in sorted(subject.users - of.keys()):
        of[tid] = tid if tid in heads or subject.is_child(tid) else subject.pid
    acting = dict.fromkeys(act.pid for act in found if act.pid in of)
    for tid in (*acting, *(tid for tid in of if tid not in acting)):
        processes.setdefault(of[tid], []).append(tid)
    return processes


def _walks(subject: Subject, found: list[Act]) -> int:
    """How many walks of reapers took pages."""
    fell = {act.number for act in found if act.seen is Seen.FALLS}
    by_reaper = any(act.pid in subject.reapers for act in found if act.number in fell)
    return sum(any(number in fell for number, _ in call) for call in subject.calls) + by_reaper


# What may be assumed.


def _signs(lines: Sequence[Line], cast: Cast) -> Iterator[Assumed]:
    """What may have been so, though no event tells of it."""
    seen = Counter(line.letter.seen for line in lines)
    downs = [line.letter.who for line in lines if line.letter.seen is Seen.TORN_DOWN]
    by_who = Counter(one.letter.who for one in lines if one.letter.seen is Seen.STARTS_WRITE)
    if downs and by_who[downs[0]] > 1:
        yield Assumed.KHUGEPAGED
    if _own_ends(lines, cast) and seen[Seen.SIGNALLED]:
        yield Assumed.OWN_END
    if _idle(lines, cast):
        yield Assumed.HAD_LEFT
    if not seen[Seen.SIGNALLED]:
        yield Assumed.KILLED
    if _had_begun(lines, cast):
        yield Assumed.HAD_LOCK
    if not downs and (seen[Seen.LEAVES] or seen[Seen.FREED]):
        yield Assumed.UNSEEN


def _own_ends(lines: Sequence[Line], cast: Cast) -> set[str]:
    """Threads that end and got no SIGKILL."""
    ends = {line.letter.who for line in lines if line.letter.seen is Seen.ENDS}
    delivered = {line.letter.who for line in lines if line.letter.seen is Seen.DELIVERED}
    return ends.intersection(cast.names) - delivered


def _idle(lines: Sequence[Line], cast: Cast) -> set[str]:
    """Threads that do nothing."""
    return set(cast.names) - {line.letter.who for line in lines}


def _had_begun(lines: Sequence[Line], cast: Cast) -> dict[str, Seen]:
    """Threads that were at the lock before the trace began: what each does first.

    A writer who never lets it go is known by the reaper that does not get it.
    """
    first: dict[str, Seen] = {}
    for line in lines:
        if line.letter.seen in LOCKS_SEEN:
            first.setdefault(line.letter.who, line.letter.seen)
    begun = {who: first[who] for who in cast.names if first.get(who) in SECOND}
    seen = {line.letter.seen for line in lines}
    if Seen.READ_FAILS in seen and Seen.SKIPS in seen and Seen.STARTS_WRITE not in seen:
        begun |= dict.fromkeys([w for w in cast.names if w not in first][:1], Seen.WRITE_ENDS)
    return begun
