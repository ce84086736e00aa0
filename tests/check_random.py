"""Small random models, and two slow ways of exploring them that are too simple to be wrong.

A program is a tuple of instructions, so that it can be printed, compared and made again from its
seed. An instruction is an operation, the values it is given, and how many of the next to skip
where its result is false.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from memreap.check.footprint import watch
from memreap.check.model import Kind, Model
from memreap.check.operation import (
    BLOCK,
    BOOL,
    AnyOf,
    Memory,
    Operation,
    Steps,
    Var,
    operation,
)

VALUES = (0, 1, 2)


@operation()
def write(s: Memory, x: Var, value: int) -> None:
    s[x] = value


@operation()
def copy(s: Memory, x: Var, y: Var) -> None:
    s[x] = s[y]


@operation()
def add(s: Memory, x: Var) -> None:
    s[x] = (s[x] + 1) % len(VALUES)


@operation(BOOL)
def is_value(s: Memory, x: Var, value: int) -> bool:
    return bool(s[x] == value)


@operation(BOOL)
def cas(s: Memory, x: Var, old: int, new: int) -> bool:
    if s[x] != old:
        return False
    s[x] = new
    return True


@operation()
def lock(s: Memory, x: Var) -> Any:
    """Taken is 1; any other value is free."""
    if s[x] == 1:
        return BLOCK
    s[x] = 1
    return None


@operation(BOOL)
def trylock(s: Memory, x: Var) -> bool:
    if s[x] == 1:
        return False
    s[x] = 1
    return True


@operation()
def down(s: Memory, x: Var) -> Any:
    if s[x] == 0:
        return BLOCK
    s[x] -= 1
    return None


@operation()
def up(s: Memory, x: Var) -> None:
    s[x] = min(s[x] + 1, VALUES[-1])


@operation()
def wait(s: Memory, x: Var, value: int) -> Any:
    return None if s[x] == value else BLOCK


@operation()
def wait_not(s: Memory, x: Var, value: int) -> Any:
    return BLOCK if s[x] == value else None


@operation()
def wait_both(s: Memory, x: Var, y: Var, value: int) -> Any:
    """Looks at the second only where the first is right."""
    return None if s[x] == value and s[y] == value else BLOCK


@operation()
def take_either(s: Memory, x: Var, y: Var, value: int) -> Any:
    """Looks at the second only where the first is wrong; takes what it found."""
    if s[x] == value:
        s[x] = 0
    elif s[y] == value:
        s[y] = 0
    else:
        return BLOCK
    return None


@operation(BOOL)
def wait_either(s: Memory, x: Var, y: Var, value: int) -> Any:
    """Looks at the second only where the first is wrong; says which it was."""
    if s[x] == value:
        return True
    return False if s[y] == value else BLOCK


@operation(BOOL)
def toss(s: Memory) -> AnyOf:
    return AnyOf(BOOL)


@operation(BOOL)
def toss_and_write(s: Memory, x: Var, value: int) -> AnyOf:
    """Looks, too: where it is so already, nothing is open."""
    if s[x] == value:
        return AnyOf((True,))
    s[x] = value
    return AnyOf(BOOL)


@operation()
def must_be(s: Memory, x: Var, value: int) -> None:
    if s[x] != value:
        s.breaks("step", f"{x} is {s[x]}")


PLAIN = (write, copy, add, is_value, cas, must_be)
BLOCKING = (lock, down, wait, wait_not, wait_both, take_either, wait_either)
OTHERS = (trylock, up, write, toss, toss_and_write)
WANTS: dict[Any, str] = {
    **dict.fromkeys((write, is_value, wait, wait_not, must_be, toss_and_write), "xv"),
    **dict.fromkeys((add, lock, trylock, down, up), "x"),
    **dict.fromkeys((wait_both, take_either, wait_either), "xxv"),
    copy: "xx",
    cas: "xvv",
    toss: "",
}


@dataclass(frozen=True)
class Instruction:
    make: Callable[..., Operation]
    args: tuple[Any, ...]
    skip: int

    def __repr__(self) -> str:
        return f"{self.make.__name__}{self.args} or skip {self.skip}"


Program = tuple[Instruction, ...]


def task(program: Program) -> Steps:
    place = 0
    while place < len(program):
        mine = program[place]
        result = yield mine.make(*mine.args)
        place += 1 + (mine.skip if result is False else 0)


def random_program(random: Random, variables: list[Var], length: int) -> Program:
    made = []
    for _ in range(length):
        kind = random.choice((PLAIN, BLOCKING, BLOCKING, OTHERS))
        make = random.choice(kind)
        args = tuple(random.choice(variables if want == "x" else VALUES) for want in WANTS[make])
        made.append(Instruction(make, args, random.choice((0, 1, 1, 2))))
    return tuple(made)


def random_model(random: Random, *, always: bool = False, alike: bool = False) -> Model:
    """Two to four tasks, eight steps at most, and something asked of every kind."""
    model = Model()
    variables = [
        model.var(name, random.choice((0, 0, 1, 2))) for name in "xyz"[: random.choice((1, 2, 3))]
    ]
    lengths = random.choice(((4, 4), (2, 3, 3), (3, 3), (2, 2, 2), (2, 2, 2, 2), (1, 2, 4), (6, 2)))
    programs = [random_program(random, variables, length) for length in lengths]
    for number in range(len(programs)):
        does = programs[random.randrange(2) if alike else number]
        waits = random.choice(({}, {}, {"may_wait": True}, {"waits_in": ("lock", "wait")}))
        model.task(f"t{number}", task, does, **({} if alike else waits))
    x, y, value = random.choice(variables), random.choice(variables), random.choice(VALUES)
    model.ask("step")
    model.ask("no deadlock", Kind.NO_DEADLOCK)
    model.ask("at end", Kind.AT_END, lambda s: bool(s[x] == value or s[y] == 0))
    if always:
        a, b = random.sample(variables, 2) if len(variables) > 1 else variables * 2
        other = random.choice(VALUES)
        model.ask("always", Kind.ALWAYS, lambda s: not (s[a] == value and s[b] == other))
    return model


Event = tuple[int, Any]  # a task, and the result it was sent


@dataclass(frozen=True)
class End:
    """Where one run ended."""

    memory: tuple[Any, ...]
    waiting: tuple[int, ...]


def pending(model: Model, events: list[Event], task_number: int) -> Operation | None:
    """The task's next operation: its code is run again, from the beginning."""
    one = model.tasks[task_number]
    steps = one.function(*one.args)
    try:
        reached = next(steps)
        for mine, result in events:
            if mine == task_number:
                reached = steps.send(result)
    except StopIteration:
        return None
    return reached


def naive_runs(model: Model) -> Iterator[tuple[tuple[Event, ...], End]]:
    """Every interleaving, one by one. Neither automata nor anything else is remembered."""

    def go_on(
        events: list[Event], memory: tuple[Any, ...]
    ) -> Iterator[tuple[tuple[Event, ...], End]]:
        ended = True
        operations = [pending(model, events, number) for number in range(len(model.tasks))]
        for number, operation_ in enumerate(operations):
            for outcome in operation_.outcomes(memory) if operation_ else ():
                ended = False
                yield from go_on([*events, (number, outcome.result)], outcome.after)
        if ended:
            waiting = tuple(n for n, operation_ in enumerate(operations) if operation_)
            yield tuple(events), End(memory, waiting)

    yield from go_on([], model.initial)


Trace = frozenset[tuple[tuple[int, int, Any], tuple[int, int, Any]]]


def trace(model: Model, events: tuple[Event, ...]) -> Trace:
    """A run's events, and in which order those stand that conflict: one value for each class."""
    memory = model.initial
    done: list[tuple[tuple[int, int, Any], Any]] = []
    counts: Counter[int] = Counter()
    order = set()
    for k, (number, result) in enumerate(events):
        does = pending(model, list(events[:k]), number)
        assert does
        outcomes, footprint = watch(does, memory)
        memory = next(outcome.after for outcome in outcomes if outcome.result == result)
        me = (number, counts[number], result)
        counts[number] += 1
        order.add((me, me))
        order |= {(other, me) for other, its in done if its.conflicts(footprint)}
        done.append((me, footprint))
    return frozenset(order)
