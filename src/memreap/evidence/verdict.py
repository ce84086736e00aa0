"""What was found of a trace, and how it is told.

A trace that the model does not allow is told step by step, to the event that no run of the model
shows: who did what until there, who could have done what instead, who waited, and how the model's
variables stood.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memreap.check.counterexample import shown
from memreap.evidence.alphabet import Letter, Observed, Seen
from memreap.evidence.cast import Assumed
from memreap.evidence.language import Language, States
from memreap.evidence.reading import Kill, Line
from memreap.evidence.trace import Trace
from memreap.printing import Paper

STEPS_SHOWN = 24
AT_HOME = "what it does before exit_mm"
VARIABLES = ("mmap_lock", "mm_users", "flags", "tree", "writers")


@dataclass(frozen=True, slots=True)
class Step:
    """An event that counts, or several alike in a row. ``after_s``: since the first of all."""

    number: int
    after_s: float
    who: str
    what: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Refusal:
    """An event that no run of the model shows, and where it came.

    ``may``: by who it is, what the model allows next; ``waits``: what somebody is about to do, and
    cannot yet. ``state``: each variable's values, in the states in which the model may be.
    ``has_lock``: who was seen to get mmap_lock, and not to let it go.
    """

    step: Step
    before: tuple[Step, ...]
    may: dict[str, list[str]]
    waits: dict[str, list[str]]
    state: dict[str, list[str]]
    has_lock: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one trace. ``unknown``: why nothing can be said. ``events``: how many counted."""

    design: str
    events: int = 0
    states: int = 0
    assuming: tuple[Assumed, ...] = ()
    swaps: bool = False
    refusal: Refusal | None = None
    unknown: str = ""

    @property
    def conforms(self) -> bool:
        """Whether some run of the model shows it."""
        return self.refusal is None and not self.unknown

    def __str__(self) -> str:
        """In words."""
        if self.unknown:
            return f"cannot be told: {self.unknown}"
        if self.refusal:
            return f"event {self.refusal.step.number} is not allowed"
        told = ["conforms"]
        if self.swaps:
            told.append("with events of two CPUs in another order than their clocks say")
        told += [f"if {one}" for one in self.assuming]
        return ", ".join(told)


def refusal(trace: Trace, kill: Kill, language: Language, number: int, states: States) -> Refusal:
    """``number``: of the act that is not allowed; ``states``: where the model may be before it."""
    names = _names(trace, kill)
    steps = list(_steps(kill.lines[: number + 1], names))
    may: dict[str, list[str]] = {}
    for letter in sorted(language.letters(states)):
        may.setdefault(_name(letter.who, names), []).append(_what(letter, names))
    homely = {_name(who, names) for who in _at_home(language.letters(states))}
    may = {who: [AT_HOME] if who in homely else what for who, what in may.items()}
    return Refusal(
        steps[-1],
        tuple(steps[:-1]),
        may,
        _waits(language, states, names),
        dict(_state(language, states)),
        tuple(names[who] for who in _holders(kill.lines[:number])),
    )


def _names(trace: Trace, kill: Kill) -> dict[str, str]:
    """What each who takes part is called."""
    callers = {act.letter.who for act in kill.lines if act.letter.seen is Seen.ENTERS}
    heads = {pid for name, pid in kill.pids.items() if name.startswith("process")}
    names = {}
    for name, pid in kill.pids.items():
        if name.startswith("thread"):
            kind = "sharer" if pid in heads else "thread"
            names[name] = f"{'victim' if pid == trace.victim.pid else kind} {pid}"
        elif name.startswith("passer"):
            names[name] = f"{'mrelease' if name in callers else 'task'} {pid}"
        else:
            names[name] = str(pid) if name.startswith("process") else name
    return names


def _name(who: str, names: dict[str, str]) -> str:
    return "somebody" if who.startswith("process") else names.get(who, who)


def _what(letter: Letter, names: dict[str, str]) -> str:
    if letter.seen is Seen.SIGNALLED:
        return f"{letter} to {names.get(letter.who, letter.who)}"
    return str(letter)


def _steps(lines: Sequence[Line], names: dict[str, str]) -> Iterator[Step]:
    """The acts, those that repeat themselves as one; the last one always by itself."""
    held: Step | None = None
    for place, act in enumerate(lines):
        after_s = (act.at_ns - lines[0].at_ns) / 1e9
        step = Step(act.number, after_s, _name(act.letter.who, names), _what(act.letter, names))
        is_last = place == len(lines) - 1
        if held and not is_last and (held.who, held.what) == (step.who, step.what):
            held = Step(held.number, held.after_s, held.who, held.what, held.times + 1)
            continue
        if held:
            yield held
        held = step
    if held:
        yield held


def _at_home(letters: set[Letter]) -> set[str]:
    """Who is not in exit_mm yet, nor in process_mrelease: there are too many things it may do."""
    faults = {one.who for one in letters if one.seen is Seen.TOUCHES}
    return {one.who for one in letters if one.seen is Seen.STARTS_READ and one.who in faults}


def _waits(language: Language, states: States, names: dict[str, str]) -> dict[str, list[str]]:
    """What is ahead of somebody, and cannot happen in any of these states."""
    can = language.letters(states)
    found: dict[str, set[str]] = {}
    for state in states:
        for part in language.space.components:
            ahead = part.automaton.operations[part.at(state)[0]]
            for letter in ahead.letters() - can if isinstance(ahead, Observed) else ():
                found.setdefault(_name(letter.who, names), set()).add(_what(letter, names))
    return {who: sorted(what) for who, what in found.items()}


def _state(language: Language, states: States) -> Iterator[tuple[str, list[str]]]:
    memories = [language.space.memory(state) for state in states]
    for var in language.space.model.variables:
        name = var.name.removeprefix("mm->")
        if name in VARIABLES or name.startswith("page"):
            yield name, sorted({shown(memory[var]) for memory in memories})


def _holders(lines: Sequence[Line]) -> dict[str, Seen]:
    """Who has the lock after these."""
    holders: dict[str, Seen] = {}
    for act in lines:
        if act.letter.seen in (Seen.READS, Seen.WRITES):
            holders[act.letter.who] = act.letter.seen
        elif act.letter.seen in (Seen.READ_ENDS, Seen.WRITE_ENDS):
            holders.pop(act.letter.who, None)
    return holders


# Told to people.


def tell(path: str, verdict: Verdict, paper: Paper) -> None:
    """Why a trace is refused."""
    told = verdict.refusal
    assert told is not None
    paper.out("")
    paper.out(f"{path}: what the model ({verdict.design}) allows, up to event {told.step.number}:")
    left_out = max(0, len(told.before) - STEPS_SHOWN)
    if left_out:
        paper.out(f"({left_out} steps before these)")
    rows = [_row(step) for step in told.before[left_out:]]
    rows.append((*_row(told.step)[:3], f"{told.step.what}: NOT ALLOWED"))
    paper.show((("event", True), ("after", True), ("who", False), ("what", False)), rows)
    paper.out("")
    paper.out("What the model allows there instead:")
    paper.show(
        (("who", False), ("may", False), ("waits to", False)),
        [
            (who, "; ".join(told.may.get(who, [])), "; ".join(told.waits.get(who, [])))
            for who in dict.fromkeys((*told.may, *told.waits))
        ],
    )
    paper.out("")
    paper.out("Where it is then: " + ", ".join(_values(told.state)))
    if told.has_lock:
        paper.out("Who has mmap_lock: " + ", ".join(told.has_lock))


def _row(step: Step) -> tuple[str, str, str, str]:
    times = f" ({step.times} times)" if step.times > 1 else ""
    return str(step.number), f"{step.after_s * 1e3:.4f} ms", step.who, step.what + times


def _values(state: dict[str, list[str]]) -> Iterator[str]:
    for name, values in state.items():
        yield f"{name} {' or '.join(values)}"
