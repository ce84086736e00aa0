"""What is seen of the model's operations: one table, and letters.

1. The alphabet is what the tracepoints tell of one address space; a letter says who, and what.
2. An operation that is not in SEEN is silent: it happens, and no event tells of it.
3. A lock is traced after it was got, and before it is let go: what is traced lies inside of what
   is held. So who excludes each other in the kernel does so in a trace, and an operation on the
   lock may be taken to happen at its event.
4. An operation that is PROMPT is silent, and nobody minds how early it comes: only what the model
   asserts depends on it. It is taken at once, and so multiplies no states.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from memreap.check.operation import BLOCK, Block, Memory, Operation, Outcome, operation


class Seen(StrEnum):
    """What a tracepoint tells."""

    SIGNALLED = "SIGKILL is sent"
    DELIVERED = "SIGKILL is delivered"
    ENDS = "sched_process_exit"
    FREED = "sched_process_free"
    STARTS_READ = "asks for mmap_lock, to read"
    LEAVES = "asks for mmap_lock, to read, for the last time"
    READS = "has mmap_lock, to read"
    READ_FAILS = "does not get mmap_lock, to read"
    READ_ENDS = "lets go of mmap_lock, to read"
    STARTS_WRITE = "asks for mmap_lock, to write"
    WRITES = "has mmap_lock, to write"
    WRITE_FAILS = "does not get mmap_lock, to write"
    WRITE_ENDS = "lets go of mmap_lock, to write"
    FALLS = "unmaps pages"
    TOUCHES = "faults pages in, or out"
    TORN_DOWN = "exit_mmap is done"
    ENTERS = "calls process_mrelease"
    RETURNS = "process_mrelease returns"
    WAKES_REAPER = "wake_reaper"
    SKIPS = "skip_task_reaping"
    REAPS = "start_task_reaping"
    REAPED = "finish_task_reaping"


SECOND = {
    Seen.READS,
    Seen.READ_FAILS,
    Seen.READ_ENDS,
    Seen.WRITES,
    Seen.WRITE_FAILS,
    Seen.WRITE_ENDS,
}
"""What nobody does at the lock first, but after something else."""

EVENTS = {
    "signal/signal_generate": {Seen.SIGNALLED},
    "signal/signal_deliver": {Seen.DELIVERED},
    "sched/sched_process_exit": {Seen.ENDS},
    "sched/sched_process_free": {Seen.FREED},
    "mmap_lock/mmap_lock_start_locking": {Seen.STARTS_READ, Seen.LEAVES, Seen.STARTS_WRITE},
    "mmap_lock/mmap_lock_acquire_returned": {
        Seen.READS,
        Seen.READ_FAILS,
        Seen.WRITES,
        Seen.WRITE_FAILS,
    },
    "mmap_lock/mmap_lock_released": {Seen.READ_ENDS, Seen.WRITE_ENDS},
    "kmem/rss_stat": {Seen.FALLS, Seen.TOUCHES},
    "mmap/exit_mmap": {Seen.TORN_DOWN},
    "syscalls/sys_enter_process_mrelease": {Seen.ENTERS},
    "syscalls/sys_exit_process_mrelease": {Seen.RETURNS},
    "oom/wake_reaper": {Seen.WAKES_REAPER},
    "oom/skip_task_reaping": {Seen.SKIPS},
    "oom/start_task_reaping": {Seen.REAPS},
    "oom/finish_task_reaping": {Seen.REAPED},
}
"""What each tracepoint may tell: what a kernel does not have is silent."""


class Letter(NamedTuple):
    """Somebody did something. ``result``: of process_mrelease."""

    who: str
    seen: Seen
    result: int | None = None

    def __str__(self) -> str:
        """In words."""
        return self.seen if self.result is None else f"{self.seen} {self.result}"


@dataclass(frozen=True, slots=True)
class How:
    """How an operation is seen.

    ``before``: an event of its own precedes it. ``on``: the event that it is, by its result.
    ``after``: after this result, this event may be seen as often as it likes.
    """

    before: Seen | None = None
    on: tuple[tuple[Any, Seen], ...] = ()
    after: tuple[Any, Seen] | None = None


SEEN = {
    "do_send_sig_info": How(on=((None, Seen.SIGNALLED),)),
    "get_signal": How(on=((None, Seen.DELIVERED),)),
    "mmap_read_lock": How(Seen.STARTS_READ, ((None, Seen.READS),)),
    "mmap_read_trylock": How(Seen.STARTS_READ, ((True, Seen.READS), (False, Seen.READ_FAILS))),
    "mmap_read_unlock": How(on=((None, Seen.READ_ENDS),)),
    "mmap_write_lock": How(Seen.STARTS_WRITE, ((None, Seen.WRITES),)),
    "mmap_write_unlock": How(on=((None, Seen.WRITE_ENDS),)),
    # A page of the model stands for all pages that one walk takes: the trace has hundreds of falls.
    "zap_pte_range": How(after=(True, Seen.FALLS)),
    "pte_clear": How(after=(None, Seen.FALLS)),
    # A step in the model, in the kernel a stretch under mmap_lock: ``actors.leaves`` makes it one.
    "clear_current_mm": How(Seen.LEAVES),
    "remove_vmas": How(on=((None, Seen.TORN_DOWN),)),
    "enqueue": How(on=((None, Seen.WAKES_REAPER),)),
}
"""By the operation's name. All others are silent."""

PROMPT = frozenset(
    {
        "release_task",
        "mmdrop",
        "vma_last",
        "free_pgtables",
        "tlb_flush_mmu",
        "mmu_notifier_release",
        "mmu_notifier_invalidate_range",
    }
)
"""By the operation's name."""


class Choice(NamedTuple):
    """An operation, and what is seen of it by its result."""

    operation: Operation
    letters: tuple[tuple[Any, Letter], ...] = ()


@dataclass(frozen=True, slots=True)
class Observed(Operation):
    """One of several operations, whichever can happen: its result is (which, its own result).

    ``is_one``: they are one to the task, and the result is its own alone. ``stays``: what may be
    seen as often as it likes while a task stands here.
    """

    choices: tuple[Choice, ...] = ()
    stays: frozenset[Letter] = frozenset()
    is_prompt: bool = False
    is_one: bool = False

    def __str__(self) -> str:
        """Each, as it would be called."""
        return self.name

    def outcomes(self, shared: tuple[Any, ...]) -> Sequence[Outcome]:
        """Those of each."""
        return [
            Outcome(one.result if self.is_one else (number, one.result), one.after, one.broken)
            for number, choice in enumerate(self.choices)
            for one in choice.operation.outcomes(shared)
        ]

    def letter(self, result: Any) -> Letter | None:
        """What is seen when it comes to this; None: nothing."""
        choices = self.choices if self.is_one else (self.choices[result[0]],)
        own = result if self.is_one else result[1]
        return next((seen for one in choices for on, seen in one.letters if on == own), None)

    def letters(self) -> set[Letter]:
        """All that may be seen here."""
        return {seen for choice in self.choices for _, seen in choice.letters} | self.stays


def observed(
    *choices: Choice,
    stays: frozenset[Letter] = frozenset(),
    is_prompt: bool = False,
    is_one: bool = False,
) -> Observed:
    """Any one of these."""
    all_results = [(n, one) for n, choice in enumerate(choices) for one in choice.operation.results]
    results = tuple(dict.fromkeys(one if is_one else (n, one) for n, one in all_results))
    name = " or ".join(str(choice.operation) for choice in choices)
    return Observed(_none, (), results, name, choices, stays, is_prompt, is_one)


def _none(s: Memory) -> Block:
    del s
    return BLOCK


@operation()
def nothing(s: Memory) -> None:
    """What is seen changes nothing that the model has."""
    del s
