"""What the threads of a victim and those who pass by do, and what a tracepoint tells of it.

1. What the exit path does is the model's, operation by operation.
2. What a thread does before it exits, and what a passer-by does, the model does not have: they take
   mmap_lock and fault pages in as they like, by the lock's rules. So do the steps of ``do_exit``
   before ``exit_mm`` that read user memory (acct, futexes, clear_child_tid); to write nobody takes
   it there.
3. Another process with the same mm has a SIGKILL of its own; without one, it leaves by execve or
   ends by itself.
4. Which of a thread's stretches under the lock is the one of ``exit_mm`` is known of all threads
   but the one that takes the address space down: it is their last, if they leave at all (``acts``).
   Were it guessed of each, there would be twice as many states for each thread.
5. A passer-by who takes it down has had a reference from the beginning: it may have got it later,
   and that makes no difference to anybody.

Whoever may go round for ever becomes a function anew: its place is known by all results since.
"""

from enum import StrEnum

from memreap.check.operation import BLOCK, Block, Memory, Steps, become, choose, operation
from memreap.evidence.alphabet import Choice, Letter, Seen, nothing, observed
from memreap.evidence.reapers import mrelease
from memreap.evidence.scene import (
    Actor,
    Next,
    Scene,
    asks,
    see,
    watched,
    writer_goes,
)
from memreap.mm.actors import wait_for_ever
from memreap.mm.exit import exit_with_a_signal, get_signal
from memreap.mm.mm_struct import MmapLock, MmStruct, Page, Tree
from memreap.mm.mmap_lock import (
    mmap_read_lock,
    mmap_read_unlock,
    mmap_write_lock,
    mmap_write_unlock,
)
from memreap.mm.oom_kill import do_send_sig_info


class Phase(StrEnum):
    """How far somebody is."""

    ALIVE = "alive"
    SPARED = "spared"  # alive, and no SIGKILL will come
    DYING = "dying"  # it knows
    ENDED = "ended"  # sched_process_exit was seen
    PASSING = "passing"  # no victim
    HOLDING = "holding"  # the same, with a reference


def to_be_killed(w: Scene, process: int) -> Steps:
    """A process until its SIGKILL; further ones change nothing."""
    sent = Letter(f"process {process}", Seen.SIGNALLED)
    yield observed(Choice(do_send_sig_info(w.processes[process]), ((None, sent),)))
    yield observed(Choice(wait_for_ever()), stays=frozenset({sent}))


def at_home(w: Scene, who: Actor, phase: Phase) -> Steps:
    """A thread in its own life, or what is left of it; a passer-by."""
    options: dict[Next | Phase, Choice] = {at_home: who.seen(Seen.TOUCHES, faults_in(w.mm))}
    if phase is not Phase.PASSING:
        options[waits_to_read] = who.seen(Seen.STARTS_READ, asks(w.writers, False))
    if phase in (Phase.ALIVE, Phase.SPARED, Phase.HOLDING):
        options[waits_to_write] = who.seen(Seen.STARTS_WRITE, asks(w.writers, True))
    passes = phase in (Phase.PASSING, Phase.HOLDING)
    options |= _of_passers(w, who, phase) if passes else _of_threads(w, who, phase)
    chosen = yield from pick(options)
    if isinstance(chosen, Phase):
        return become(at_home, w, who, chosen)
    return become(chosen, w, who, phase)


def _of_passers(w: Scene, who: Actor, phase: Phase) -> dict[Next | Phase, Choice]:
    options: dict[Next | Phase, Choice] = {calls: who.seen(Seen.ENTERS)}
    if phase is Phase.HOLDING:
        options[drops] = Choice(nothing())
    elif who.name in w.cast.lookers:
        options[Phase.HOLDING] = Choice(uses(w.mm))
    return options


def drops(w: Scene, who: Actor, phase: Phase) -> Steps:
    """It drops its reference, which may be the last one."""
    del phase
    yield from watched(w, who, w.kernel.mmput(w.mm, who.task))
    return become(at_home, w, who, Phase.PASSING)


def _of_threads(w: Scene, who: Actor, phase: Phase) -> dict[Next | Phase, Choice]:
    """``exit_mm`` comes after sched_process_exit; before 6.16, that comes last.

    Who is spared may leave by execve, without either.
    """
    options: dict[Next | Phase, Choice] = {}
    if phase is Phase.ALIVE:
        options[Phase.DYING] = who.seen(Seen.DELIVERED, get_signal(who.task))
    elif phase is Phase.SPARED or (phase is Phase.DYING and not w.cast.ends_late):
        options[Phase.ENDED] = who.seen(Seen.ENDS)
    if phase in (Phase.SPARED, Phase.ENDED) or (phase is Phase.DYING and w.cast.ends_late):
        options[leaves] = who.seen(Seen.STARTS_READ if who.tears_down else Seen.LEAVES)
    return options


def waits_to_read(w: Scene, who: Actor, phase: Phase) -> Steps:
    """It gets it, unless it is killed first, or would not wait (trylock)."""
    chosen = yield from pick(
        {
            reads: who.seen(Seen.READS, mmap_read_lock(w.mm)),
            lets_go: who.seen(Seen.READ_FAILS),
        }
    )
    return become(chosen, w, who, phase)


def waits_to_write(w: Scene, who: Actor, phase: Phase) -> Steps:
    """The same."""
    chosen = yield from pick(
        {
            writes: who.seen(Seen.WRITES, mmap_write_lock(w.mm)),
            has_written: who.seen(Seen.WRITE_FAILS),
        }
    )
    return become(chosen, w, who, phase)


def reads(w: Scene, who: Actor, phase: Phase) -> Steps:
    """It has the lock."""
    chosen = yield from pick(
        {
            lets_go: who.seen(Seen.READ_ENDS, mmap_read_unlock(w.mm)),
            reads: who.seen(Seen.TOUCHES, faults_in(w.mm)),
        }
    )
    return become(chosen, w, who, phase)


def writes(w: Scene, who: Actor, phase: Phase) -> Steps:
    """It has the lock, and lets others read with it, or lets it go."""
    chosen = yield from pick(
        {
            has_written: who.seen(Seen.WRITE_ENDS, mmap_write_unlock(w.mm)),
            has_downgraded: who.seen(Seen.READS, mmap_write_downgrade(w.mm)),
            writes: who.seen(Seen.TOUCHES, faults_in(w.mm)),
        }
    )
    return become(chosen, w, who, phase)


def has_written(w: Scene, who: Actor, phase: Phase) -> Steps:
    """A trylock of another one fails until here."""
    yield writer_goes(w.writers)
    return become(lets_go, w, who, phase)


def has_downgraded(w: Scene, who: Actor, phase: Phase) -> Steps:
    """The same, and it still reads."""
    yield writer_goes(w.writers)
    return become(reads, w, who, phase)


def lets_go(w: Scene, who: Actor, phase: Phase) -> Steps:
    """And goes on."""
    yield from ()
    return become(at_home, w, who, phase)


# Their exit.


def leaves(w: Scene, who: Actor, phase: Phase) -> Steps:
    """``exit_mm``, all of the model's: it has asked for the lock, to clear ``current->mm``.

    What is one step in the model is a stretch under the lock in the kernel.
    """
    del phase
    steps, result = exit_with_a_signal(w.kernel, who.task), None
    while True:
        try:
            op = steps.send(result)
        except StopIteration:
            break
        if op.name == "clear_current_mm":
            yield observed(who.seen(Seen.READS, mmap_read_lock(w.mm)))
            result = yield op
            yield observed(who.seen(Seen.READ_ENDS, mmap_read_unlock(w.mm)))
            continue
        if op.name == "release_task" and w.cast.ends_late:
            yield observed(who.seen(Seen.ENDS))
        result = yield from see(w, who, op)
    yield observed(who.seen(Seen.FREED))


def pick(options: dict[Next | Phase, Choice]) -> Steps:
    """Any of them; which."""
    number, _ = yield observed(*options.values())
    return list(options)[number]


def calls(w: Scene, who: Actor, phase: Phase) -> Steps:
    """process_mrelease, of whichever process the descriptor means."""
    which = (yield choose(len(w.threads), "pidfd")) if len(w.threads) > 1 else 0
    code = yield from mrelease(w, who, w.threads[which][0])
    returned = Letter(who.name, Seen.RETURNS, code)
    yield observed(Choice(nothing(), ((None, returned),)))
    return become(at_home, w, who, phase)


# Operations that the model does not have.


@operation()
def uses(s: Memory, mm: MmStruct) -> Block | None:
    """``mmget_not_zero``, of whoever goes on only when it succeeds."""
    if not s[mm.mm_users]:
        return BLOCK
    s[mm.mm_users] += 1
    return None


@operation()
def mmap_write_downgrade(s: Memory, mm: MmStruct) -> None:
    """From here on others may read, too."""
    s[mm.mmap_lock] = MmapLock(1)


@operation()
def faults_in(s: Memory, mm: MmStruct) -> Block | None:
    """``rss_stat`` of whoever is no reaper: a fault; or reclaim, until nothing is left of it."""
    if s[mm.tree] != Tree.LINKED:
        return BLOCK
    if s[mm.mm_users]:
        for page in mm.pages:
            s[page] = Page.MAPPED
    return None
