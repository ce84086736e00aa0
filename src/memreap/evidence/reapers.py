"""process_mrelease and oom_reaper as they are seen from outside: what they return, what they tell.

What they do is the model's. Another process with the same mm is not in it; to ``process_mrelease``
it must be dying, too.
"""

from typing import Any

from memreap.check.operation import Become, Memory, Operation, Steps, become
from memreap.evidence.alphabet import Seen, observed
from memreap.evidence.scene import Actor, Next, Scene, see, watched
from memreap.mm.fork import mmdrop
from memreap.mm.mm_struct import MMF_OOM_SKIP, TaskStruct
from memreap.mm.mmap_lock import test_bit

ESRCH, EINTR, EAGAIN, EINVAL = -3, -4, -11, -22


def mrelease(w: Scene, who: Actor, task: TaskStruct) -> Steps:
    """The model's, and what it returns in the kernel."""
    code, result = 0, None
    steps = w.kernel.process_mrelease(task, who.task)
    while True:
        try:
            op = steps.send(result)
        except StopIteration:
            return code
        if op.name == "mmap_read_lock":  # killable
            yield observed(who.seen(Seen.STARTS_READ))
            got = (yield observed(who.seen(Seen.READS, op), who.seen(Seen.READ_FAILS)))[0] == 0
            if not got:
                yield from see(w, who, mmdrop(w.mm))
                return EINTR
            result = None
            continue
        if op.name == "find_lock_task_mm" and len(w.threads) > 1:
            op = _of_all(op, w.threads)
        result = yield from see(w, who, op)
        if result == "nobody":
            code = ESRCH
        elif result == "not dying":
            code = 0 if (yield test_bit(MMF_OOM_SKIP, w.mm)) else EINVAL
        elif op.name == "mmu_notifier_invalidate_range_start_nonblock" and result:
            code = EAGAIN


def timer(w: Scene, who: Actor, victim: TaskStruct) -> Steps:
    """Of the victim's, for the reaper."""
    yield from watched(w, who, w.kernel.wake_oom_reaper(victim))


def reaping(w: Scene, who: Actor, function: Next, args: tuple[Any, ...]) -> Steps:
    """oom_reaper, with the events of its own."""
    steps, result, has_begun = function(*args), None, False
    while True:
        try:
            op = steps.send(result)
        except StopIteration as stop:
            goes_on = stop.value
            break
        if op.name == "mmap_read_unlock" and has_begun:
            yield observed(who.seen(Seen.REAPED))
            has_begun = False
        result = yield from see(w, who, op)
        if op.name == "test_bit" and op.args[0] is MMF_OOM_SKIP:
            has_begun = not result
            yield observed(who.seen(Seen.SKIPS if result else Seen.REAPS))
        elif op.name == "mmap_read_trylock" and not result:
            yield observed(who.seen(Seen.SKIPS))
    if isinstance(goes_on, Become):
        return become(reaping, w, who, goes_on.function, goes_on.args)
    return None


def _of_all(op: Operation, threads: tuple[tuple[TaskStruct, ...], ...]) -> Operation:
    """``task_will_free_mem``: whoever shares the mm must be dying too."""
    return Operation(_find_of_all, (op, threads), op.results, op.name)


def _find_of_all(s: Memory, op: Operation, threads: tuple[tuple[TaskStruct, ...], ...]) -> Any:
    found = op.function(s, *op.args)
    sharing = [one[0].signal for one in threads if any(s[thread.mm] for thread in one)]
    dying = all(s[signal.sigkill] for signal in sharing)
    return "not dying" if found == "reap" and not dying else found
