"""The kernel's own killer on the clock: who allocates, stalls, and calls the OOM killer.

``mm.page_alloc`` has it for one victim and the next; here it chooses among all, by badness and
behind the same gate. What it does once it has chosen is ``mm.oom_kill``'s, unchanged. Of all that
stall at a node one does it, since ``oom_lock`` lets one in at a time. It does not poll: who found
that nothing can be done waits until something has changed, and then to the next jiffy.
"""

from typing import TYPE_CHECKING, Literal

from memreap.check.operation import BLOCK, Block, Memory, Steps, Var, operation
from memreap.decide.badness import OOM_SCORE_ADJ_MIN
from memreap.mm.mm_struct import MMF_OOM_SKIP
from memreap.mm.mmap_lock import mutex_trylock, mutex_unlock
from memreap.mm.oom_kill import do_send_sig_info, mark_oom_victim, oom_evaluate_task, thawed
from memreap.simulate.costs import SMALL_BYTES
from memreap.simulate.cpus import NORMAL_WEIGHT
from memreap.simulate.process import Process

if TYPE_CHECKING:
    from memreap.simulate.world import World

ABORT, NOBODY = -1, -2


class KernelKiller:
    """An allocator at each node."""

    def begin(self, world: "World") -> None:
        """They wait until somebody stalls."""
        for number, node in enumerate(world.setup.nodes):
            world.tasks.spawn(
                f"allocator of {node.name}", NORMAL_WEIGHT, alloc_pages_slowpath, world, number
            )

    def changed(self, world: "World") -> None:
        """They see it by the shared variables."""


def alloc_pages_slowpath(world: "World", node: int) -> Steps:
    """Again and again, whenever somebody stalls."""
    k, stalled = world.k, world.stalled[node]
    while True:
        yield wait_for_a_stall(stalled)
        if (yield mutex_trylock(k.oom_lock)):
            found = yield from out_of_memory(world, node)
            if found >= 0 and world.sleeps_under_oom_lock:
                yield schedule_timeout_killable()
            yield mutex_unlock(k.oom_lock)
            if found == ABORT:
                yield wait_at_the_gate(world, node)
            elif found == NOBODY:
                yield wait_for_relief(stalled)
        else:
            yield wait_for_oom_lock(k.oom_lock)
        yield schedule_timeout_uninterruptible()


def out_of_memory(world: "World", node: int) -> Steps:
    """Choose and kill; who was chosen, or why nobody."""
    found = yield select_bad_process(world, node)
    if found < 0:
        return found
    k, victim = world.k, world.processes[found]
    dying = yield task_will_free_mem(victim)
    if dying >= 0:
        thread = (*victim.threads, *victim.others)[dying]
        yield mark_oom_victim(thread, k.marks_the_mm, thawed(k, thread))
        yield from k.queue_oom_reaper(thread)
        return found
    if not world.may_kill(node):
        return NOBODY
    victim.doomed_on = node
    yield from k.oom_kill_process(victim.main)
    for sharer in victim.signals[1:]:
        yield do_send_sig_info(sharer)
    return found


@operation(())
def wait_for_a_stall(s: Memory, stalled: Var) -> Block | None:
    """Until there is something to do."""
    return None if s[stalled] else BLOCK


@operation(())
def wait_for_relief(s: Memory, stalled: Var) -> Block | None:
    """Nobody is left to be killed: until nobody stalls."""
    return BLOCK if s[stalled] else None


@operation(())
def wait_for_oom_lock(s: Memory, oom_lock: Var) -> Block | None:
    """Somebody else is at it."""
    return BLOCK if s[oom_lock] else None


@operation(())
def wait_at_the_gate(s: Memory, world: "World", node: int) -> Block | None:
    """While an earlier victim may still bring memory, and somebody stalls."""
    if not s[world.stalled[node]]:
        return None
    victims = [one for one in world.eligible(node) if s[one.main.signal.sigkill]]
    return BLOCK if any(_evaluate(s, one) == "abort" for one in victims) else None


@operation(())
def schedule_timeout_killable(s: Memory) -> None:
    """The killer sleeps with ``oom_lock`` held, so that its victim can exit; before 4.19."""
    del s


@operation(())
def schedule_timeout_uninterruptible(s: Memory) -> None:
    """A jiffy."""
    del s


@operation(())
def select_bad_process(s: Memory, world: "World", node: int) -> int:
    """The highest badness, ties to the later; ABORT at the gate, NOBODY where all are gone."""
    if not s[world.stalled[node]]:
        return ABORT  # memory came meanwhile: ALLOC_WMARK_HIGH, with oom_lock held
    best, best_pages = NOBODY, -1
    for process in world.eligible(node):
        if process.setup.oom_score_adj == OOM_SCORE_ADJ_MIN:
            continue
        found = _evaluate(s, process)
        if found == "abort":
            return ABORT
        pages = badness_pages(world, process)
        if found == "select" and pages >= best_pages:
            best, best_pages = process.number, pages
    return best


def badness_pages(world: "World", process: Process) -> int:
    """As ``oom_badness`` counts."""
    pages = int(world.bytes_of(process)) // SMALL_BYTES
    return max(0, pages + process.setup.oom_score_adj * (total_pages(world) // 1000))


def total_pages(world: "World") -> int:
    """RAM and swap."""
    ram = sum(one.size_bytes for one in world.setup.nodes)
    return (ram + world.setup.swap_bytes) // SMALL_BYTES


@operation(())
def task_will_free_mem(s: Memory, process: Process) -> int:
    """The first of its threads that is dying and has its mm; -1 where it was not killed yet.

    Where it was, a sharer that outlives the victim, or who ends by itself, nobody need be killed.
    """
    for number, thread in enumerate((*process.threads, *process.others)):
        if s[thread.mm] and s[thread.signal.sigkill]:
            return number
    return -1


def _evaluate(s: Memory, process: Process) -> Literal["select", "abort", "next"]:
    """``oom_evaluate_task`` and the flags that ``oom_badness`` heeds; of all who use the mm."""
    found: Literal["select", "abort", "next"] = "next"
    for thread in (*process.threads, *process.others):
        one = oom_evaluate_task(thread)
        verdict: Literal["select", "abort", "next"] = one.function(s, *one.args)
        if verdict == "abort":
            return verdict
        if verdict == "select" and not s[process.mm.flags] & MMF_OOM_SKIP:
            found = verdict
    return found
