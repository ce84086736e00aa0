"""Where a kill is played: the model's steps, each with all that is seen of it.

The table in ``alphabet`` says what that is. Whoever is not the one who takes the address space down
drops its reference at once: it may do so later, and that makes no difference to anybody.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from memreap.check.operation import BLOCK, Block, Memory, Operation, Steps, Var, operation
from memreap.evidence.alphabet import PROMPT, SEEN, Choice, How, Letter, Seen, nothing, observed
from memreap.evidence.cast import Cast
from memreap.mm.actors import wait_for_ever
from memreap.mm.kernel import Kernel
from memreap.mm.mm_struct import MMF_UNSTABLE, MmStruct, SignalStruct, TaskStruct

Next = Callable[..., Steps]
"""What a task becomes."""


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """Where they act. ``writers``: who has the lock for writing, or waits for it."""

    cast: Cast
    kernel: Kernel
    mm: MmStruct
    writers: Var
    processes: tuple[SignalStruct, ...]
    threads: tuple[tuple[TaskStruct, ...], ...]  # of each


@dataclass(frozen=True, eq=False, slots=True)
class Actor:
    """One thread of control. ``tears_down``: it may be who drops the last reference."""

    name: str
    task: TaskStruct
    tears_down: bool = False

    def seen(self, seen: Seen, operation: Operation | None = None, on: Any = None) -> Choice:
        """An operation, or nothing, and what is seen where it gives ``on``."""
        return Choice(operation or nothing(), ((on, Letter(self.name, seen)),))


def see(w: Scene, who: Actor, op: Operation) -> Steps:
    """One operation, with all that is seen of it; its result."""
    how = SEEN.get(op.name, How())
    if how.before:
        writes = how.before is Seen.STARTS_WRITE
        yield observed(who.seen(how.before, asks(w.writers, writes)))
    result = yield from _do(w, who, op, how)
    if how.after and how.after[0] == result:
        yield observed(Choice(nothing()), stays=frozenset({Letter(who.name, how.after[1])}))
    if op.name == "mmap_write_unlock":
        yield writer_goes(w.writers)
    if op.name == "mmput_testzero" and result and not who.tears_down:
        yield wait_for_ever()  # another one does, so this is not how it went
    return result


def _do(w: Scene, who: Actor, op: Operation, how: How) -> Steps:
    if not how.on and not is_prompt(who, op):
        return (yield op)
    choices = [Choice(op, tuple((result, Letter(who.name, seen)) for result, seen in how.on))]
    if op.name == "mmap_read_trylock":
        choices.append(who.seen(Seen.READ_FAILS, fails_for_writers(w.writers), on=False))
    return (yield observed(*choices, is_prompt=not how.on, is_one=True))


def is_prompt(who: Actor, op: Operation) -> bool:
    """Whether it may be taken at once."""
    if op.name == "mmput_testzero":
        return not who.tears_down
    if op.name == "set_bit":
        return op.args[0] is MMF_UNSTABLE
    return op.name in PROMPT


def watched(w: Scene, who: Actor, steps: Steps) -> Steps:
    """Steps of the model's, seen; what they return."""
    result = None
    while True:
        try:
            op = steps.send(result)
        except StopIteration as stop:
            return stop.value
        result = yield from see(w, who, op)


@operation()
def asks(s: Memory, writers: Var, writes: bool) -> None:
    """To wait for the lock."""
    s[writers] += writes


@operation()
def writer_goes(s: Memory, writers: Var) -> None:
    """It has let the lock go, some time after the event that tells so."""
    s[writers] -= 1


@operation((False,))
def fails_for_writers(s: Memory, writers: Var) -> Literal[False] | Block:
    """``down_read_trylock``: in the kernel it fails for a writer that waits, too."""
    return False if s[writers] else BLOCK
