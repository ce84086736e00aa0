"""Every run of a model that differs in more than the order of steps that do not touch each other.

A second engine, independent of the search: source sets with sleep sets, after Abdulla, Aronsson,
Jonsson and Sagonas (POPL 2014, JACM 2017). It keeps the one run that it is on and no states, and
goes back on it to where two steps that conflict could have come the other way round.

What it may be believed, in a model without cycles:

1. Each Mazurkiewicz trace is run to its end exactly once. So AT_END and NO_DEADLOCK, which are
   functions of the end, are broken here where they are broken at all.
2. A step does the same in each run of a trace. So are STEP properties.
3. Not every state is passed, so ALWAYS needs help: steps that write what a predicate reads are
   taken to conflict. Then what it reads takes on every combination that it ever does. What it
   reads is found on the way; when that grows, all begins anew. The more a predicate reads, the
   more runs there are.
4. CAN and EVENTUALLY need the graph. They are left open, and named as such.

The published algorithm overlooks runs where tasks block, and where what an operation touches
depends on what was done before it. Three things are done about it:

a. Going back, only an event before which the pending operation could have been done is turned
   round with it. Others are passed over, and the way back goes on.
b. Where a run ends, the operations of blocked tasks go back as well, though they were never done.
c. Leaving out an event may show that, without it, the operation touches something else: that is
   gone back for, too; and once more where the run ends, when what came later but need not have is
   known.

With a and b alone, four random programs in a thousand lose runs, those that have operations like
"wait for either"; with all three, none in 60,000 did (``tests/test_check_engines.py``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Any

from memreap.check.attempts import Attempt, Attempts, CyclicModelError, State, Step
from memreap.check.footprint import Footprint, read_by
from memreap.check.model import Asked, Kind, Model
from memreap.check.operation import Memory

DEPTH_MAX = 10_000


class TooDeepError(ValueError):
    """A run that is longer than was allowed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run to where nothing can happen any more."""

    schedule: tuple[int, ...]  # the task of each step, by its number in the model
    results: tuple[Any, ...]  # of each step
    memory: tuple[Any, ...]  # at the end
    waiting: tuple[int, ...]  # the tasks that have not ended


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a property was first seen broken: after the last step of a schedule."""

    prop: str
    why: str
    schedule: tuple[int, ...]
    results: tuple[Any, ...]  # which one, where an operation left it open


@dataclass(slots=True)
class Found:
    """What was found.

    ``complete`` and ``deadlocked`` are exact numbers of traces (see :mod:`memreap.check.oracle`)
    unless ALWAYS is asked, which tells more runs apart. ``blocked`` runs were left on the way,
    because whatever could have come next had been seen.
    """

    complete: int = 0
    deadlocked: int = 0
    blocked: int = 0
    steps: int = 0
    broken: dict[str, Fault] = field(default_factory=dict)  # by property, the first
    left_open: tuple[str, ...] = ()  # properties that cannot be told from runs


class Mend(Flag):
    """What is done about the faults of the published algorithm; tests leave some of it out."""

    PASS_OVER = auto()  # a
    AT_THE_END = auto()  # b
    ELSEWHERE = auto()  # c


ALL = Mend.PASS_OVER | Mend.AT_THE_END | Mend.ELSEWHERE


def runs(
    model: Model,
    *,
    depth_max: int = DEPTH_MAX,
    each: Callable[[Run], None] | None = None,
    _mend: Mend = ALL,
) -> Found:
    """Run a model in every way that matters; ``each`` is called with every run to an end.

    Where ALWAYS is asked it may be called with a run again. Raises CyclicModelError where a state
    can be come back to, TooDeepError where a run has more steps than ``depth_max``.
    """
    attempts = Attempts(model)
    always = [_Always(asked) for asked in model.asked if asked.kind is Kind.ALWAYS]
    while True:
        explorer = _Explorer(model, attempts, always, depth_max=depth_max, each=each, mend=_mend)
        try:
            explorer.explore()
        except _ReadsMoreError:
            continue
        return explorer.found


class _ReadsMoreError(Exception):
    """A predicate reads a variable by which steps were not told apart so far."""


@dataclass(slots=True)
class _Always:
    """What must always be true, and the variables that it was ever seen to read."""

    asked: Asked
    reads: int = 0


@dataclass(slots=True)
class _Pending:
    """A task's next operation, as tried in some state. Sets of events are bits."""

    task: int
    place: int
    attempt: Attempt
    bound: int  # the events that come before the task's last one, which is one of them
    elsewhere: bool = False  # without some event it touches something else, or is blocked


@dataclass(frozen=True, slots=True)
class _Event:
    """A step that was done."""

    pending: _Pending
    step: Step
    before: int  # the events that it must come after, and itself

    @property
    def task(self) -> int:
        """Whose step it is."""
        return self.pending.task

    @property
    def footprint(self) -> Footprint:
        """What it touched."""
        return self.pending.attempt.footprint


@dataclass(slots=True)
class _Node:
    """A state on the way, and what is still to be done from it. Sets of tasks are bits."""

    state: State
    tried: list[Attempt | None]
    able: int
    sleep: int  # whatever can begin with one of these has been seen
    backtrack: int = 0
    pending: _Pending | None = None  # what is being done
    before: int = 0  # the events that it must come after
    still: int = 0  # the tasks that sleep on beyond it
    steps: list[Step] = field(default_factory=list)  # its results that are left


class _Explorer:
    def __init__(
        self,
        model: Model,
        attempts: Attempts,
        always: list[_Always],
        *,
        depth_max: int,
        each: Callable[[Run], None] | None,
        mend: Mend,
    ) -> None:
        self.model = model
        self.attempts = attempts
        self.always = always
        self.depth_max = depth_max
        self.each = each
        self.mend = mend
        self.nodes: list[_Node] = []
        self.events: list[_Event] = []  # the k-th leads on from the k-th node
        self.passed: set[State] = set()
        self.looked_at: set[int] = set()  # memories of which ALWAYS was asked
        self.found = Found(left_open=_left_open(model))

    def explore(self) -> None:
        """Depth first, with a stack of our own: a run may be longer than Python's."""
        self._look(self.attempts.initial.memory)
        self._enter(self.attempts.initial, 0)
        while self.nodes:
            node = self.nodes[-1]
            if node.steps or self._next_task(node):
                self._enter(self._do(node), node.still)
            else:
                self.nodes.pop()
                self.passed.remove(node.state)
                del self.events[len(self.nodes) - 1 :]

    def _enter(self, state: State, sleep: int) -> None:
        """Go on from a state; or, where nothing is left to do, note that and go back."""
        if state in self.passed:
            raise CyclicModelError
        tried = [self._marked(attempt) for attempt in self.attempts.all_at(state)]
        able = sum(1 << task for task, attempt in enumerate(tried) if attempt and attempt.steps)
        node = _Node(state, tried, able, sleep, backtrack=_lowest(able & ~sleep))
        if not node.backtrack:
            self._at_the_end(node)
            del self.events[-1:]
            return
        if len(self.events) >= self.depth_max:
            raise TooDeepError(f"a run has more than {self.depth_max} steps")
        self.passed.add(state)
        self.nodes.append(node)

    def _marked(self, attempt: Attempt | None) -> Attempt | None:
        """An attempt that also writes what stands for each predicate whose variables it writes."""
        if attempt is None or not self.always:
            return attempt
        reads, writes = attempt.footprint
        first = len(self.model.variables)
        for number, always in enumerate(self.always):
            if always.reads & attempt.footprint.writes:
                writes |= 1 << first + number
        return Attempt(attempt.steps, Footprint(reads, writes))

    def _next_task(self, node: _Node) -> bool:
        """Turn to the next task that is to be done here, and go back for its races."""
        if node.pending:
            node.sleep |= 1 << node.pending.task
        left = node.backtrack & ~node.sleep
        if not left:
            return False
        node.pending = pending = self._pending(node, _lowest(left).bit_length() - 1)
        footprint = pending.attempt.footprint
        node.steps = list(reversed(pending.attempt.steps))
        node.still = sum(
            1 << task
            for task, other in enumerate(node.tried)
            if other and node.sleep >> task & 1 and not other.footprint.conflicts(footprint)
        )
        node.before = pending.bound
        for number in self._latest(self._everything() & ~pending.bound, footprint):
            node.before |= self.events[number].before
        self._races(pending, self._everything())
        return True

    def _pending(self, node: _Node, task: int) -> _Pending:
        """What a task does next, where we are."""
        attempt = node.tried[task]
        assert attempt, "a task that has not ended"
        mine = (event.before for event in reversed(self.events) if event.task == task)
        return _Pending(task, node.state.places[task], attempt, next(mine, 0))

    def _everything(self) -> int:
        return (1 << len(self.events)) - 1

    def _do(self, node: _Node) -> State:
        assert node.pending
        step = node.steps.pop()
        self.events.append(_Event(node.pending, step, node.before | 1 << len(self.events)))
        self.found.steps += 1
        for prop, why in step.broken:
            self._breaks(prop, why)
        self._look(step.memory)
        return node.state.after(node.pending.task, step)

    def _breaks(self, prop: str, why: str) -> None:
        if prop not in self.found.broken:
            self.found.broken[prop] = Fault(prop, why, self._schedule(), self._results())

    def _schedule(self) -> tuple[int, ...]:
        return tuple(event.task for event in self.events)

    def _results(self) -> tuple[Any, ...]:
        return tuple(event.step.result for event in self.events)

    def _look(self, memory: int) -> None:
        """What must always be true, of a memory that was not looked at yet."""
        if not self.always or memory in self.looked_at:
            return
        self.looked_at.add(memory)
        grown = False
        for always in self.always:
            assert always.asked.holds is not None
            holds, reads = read_by(always.asked.holds, self.attempts.memories[memory])
            grown |= bool(reads & ~always.reads)
            always.reads |= reads
            if not holds:
                self._breaks(always.asked.prop, always.asked.why)
        if grown:
            raise _ReadsMoreError

    def _at_the_end(self, node: _Node) -> None:
        """Of a run: go back once more, and say how it ended."""
        waiting = tuple(task for task, attempt in enumerate(node.tried) if attempt)
        if Mend.AT_THE_END in self.mend:
            for task in waiting:
                if not node.able >> task & 1:
                    self._races(self._pending(node, task), self._everything())
        for number, event in enumerate(self.events):
            if event.pending.elsewhere:
                self._races(event.pending, self._everything() & ~self._followers(number))
        if node.able:
            self.found.blocked += 1
            return
        memory = self.attempts.memories[node.state.memory]
        stuck = self.attempts.stuck(node.state)
        self.found.deadlocked += bool(stuck)
        self.found.complete += not stuck
        self._judge(memory, stuck)
        if self.each:
            self.each(Run(self._schedule(), self._results(), memory, waiting))

    def _judge(self, memory: tuple[Any, ...], stuck: list[str]) -> None:
        """What is asked where nothing can happen any more."""
        for asked in self.model.asked:
            if asked.kind is Kind.NO_DEADLOCK and stuck:
                self._breaks(asked.prop, f"for ever waiting: {', '.join(stuck)}")
            if asked.kind is Kind.AT_END:
                assert asked.holds is not None
                if not asked.holds(Memory(memory)):
                    self._breaks(asked.prop, asked.why)

    def _races(self, pending: _Pending, kept: int) -> None:
        """Go back for the events that a pending operation could have come before.

        ``kept`` are those after which it is tried. It conflicts with the latest of them in its
        way; each is left out, with all that must follow it. Is the operation blocked then, or does
        it touch something else, this goes on from there. (To go on when it is not blocked is
        caution: no program is known that needs it.)
        """
        todo = [(kept, pending.attempt)]
        seen = set()
        while todo:
            kept, tried = todo.pop()
            for number in self._latest(kept & ~pending.bound, tried.footprint):
                fewer = kept & ~self._followers(number)
                if fewer in seen:
                    continue
                seen.add(fewer)
                if Mend.PASS_OVER not in self.mend:
                    self._turn_round(fewer, pending.task, pending.attempt)
                    continue
                there = self._after(fewer, pending)
                if there.steps:
                    self._turn_round(fewer, pending.task, there)
                if Mend.ELSEWHERE in self.mend:
                    pending.elsewhere |= there.footprint != pending.attempt.footprint
                    if not there.steps or there.footprint != tried.footprint:
                        todo.append((fewer, there))
                elif not there.steps:
                    todo.append((fewer, pending.attempt))

    def _latest(self, events: int, footprint: Footprint) -> list[int]:
        """Those of a set of events that conflict, but for those that must come before another."""
        found = []
        while events:
            number = events.bit_length() - 1
            events ^= 1 << number
            event = self.events[number]
            if event.footprint.conflicts(footprint):
                found.append(number)
                events &= ~event.before
        return found

    def _followers(self, number: int) -> int:
        """An event, and all that must come after it."""
        return sum(
            1 << other
            for other in range(number, len(self.events))
            if self.events[other].before >> number & 1
        )

    def _after(self, kept: int, pending: _Pending) -> Attempt:
        """A pending operation, tried after some of the events; each has all that it follows."""
        left_out = _lowest(~kept).bit_length() - 1
        memory = self.nodes[left_out].state.memory
        for number in range(left_out + 1, len(self.events)):
            if kept >> number & 1:
                event = self.events[number]
                again = self.attempts.at(event.task, event.pending.place, memory)
                assert again, "what does not follow an event is done without it as well"
                memory = next(s.memory for s in again.steps if s.result == event.step.result)
        attempt = self._marked(self.attempts.at(pending.task, pending.place, memory))
        assert attempt, "an operation that is pending has not ended"
        return attempt

    def _turn_round(self, kept: int, task: int, there: Attempt) -> None:
        """See to it that a task's operation is done after some of the events.

        What leads there begins at the node before the first event that is left out: with one of
        the kept events that follow no other, or with the operation itself.
        """
        left_out = _lowest(~kept).bit_length() - 1
        node = self.nodes[left_out]
        later = kept >> left_out << left_out
        first = 0
        alone = True
        for number in range(left_out + 1, len(self.events)):
            if later >> number & 1:
                event = self.events[number]
                if event.before & later == 1 << number:
                    first |= 1 << event.task
                if event.task == task or event.footprint.conflicts(there.footprint):
                    alone = False
        if alone:
            first |= 1 << task
        if not first & (node.backtrack | node.sleep):
            able = first & node.able
            assert able or Mend.PASS_OVER not in self.mend, "what comes first in it can be first"
            node.backtrack |= _lowest(able)


def _lowest(bits: int) -> int:
    """The lowest bit that is set."""
    return bits & -bits


def _left_open(model: Model) -> tuple[str, ...]:
    kinds = {Kind.CAN, Kind.EVENTUALLY}
    return tuple(asked.prop for asked in model.asked if asked.kind in kinds)
