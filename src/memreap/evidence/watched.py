"""The model of one kill, its tasks watched.

Only who takes part is put together here. The first page stands for all that a reaper leaves alone
(shared, hugetlb), so that the exit path always has something to unmap; each of the others for all
that one reaper took.
"""

from collections.abc import Iterator

from memreap.check.model import Model
from memreap.evidence.actors import (
    Phase,
    at_home,
    reads,
    to_be_killed,
    waits_to_read,
    waits_to_write,
    writes,
)
from memreap.evidence.alphabet import Seen
from memreap.evidence.cast import ANYBODY, REAPER, Assumed, Cast
from memreap.evidence.reapers import reaping, timer
from memreap.evidence.scene import Actor, Scene
from memreap.mm import mm_slot
from memreap.mm.actors import use_for_a_while
from memreap.mm.kernel import Kernel
from memreap.mm.mm_struct import MmapLock, MmStruct, TaskStruct

LEFT_ALONE = 0
MAX_OOM_REAP_RETRIES = 10


def model(kernel: type[Kernel], cast: Cast) -> Model:
    """The tasks of a kill."""
    made = Model(f"{kernel.name}, watched")
    has = frozenset({"notifier"} if cast.is_busy else ())
    has |= frozenset({"khugepaged"} if Assumed.KHUGEPAGED in cast.assuming else ())
    k = _leaving_alone(kernel)(made, [has], cast.pages)
    k.is_patient = False
    k.processes = tuple(k.signal(f"process {n}") for n in range(len(cast.threads)))
    writers = made.var("writers", 0)
    w = Scene(cast, k, k.mms[0], writers, k.processes, tuple(_threads(k, cast)))
    for process in range(len(cast.threads)):
        made.task(f"process {process}", to_be_killed, w, process)
    for process, threads in enumerate(w.threads):
        for tsk in threads:
            _thread(w, tsk, is_spared=f"process {process}" in cast.spared)
    for number in range(cast.passers):
        _passer(w, f"passer {number}")
    if cast.has_reaper:
        _reaper(w)
    _unseen(w)
    return made


def _leaving_alone(kernel: type[Kernel]) -> type[Kernel]:
    """The same kernel, whose reapers leave a page alone, and try as often as the real one."""

    def areas_to_reap(k: Kernel, mm: MmStruct) -> list[int]:
        return [area for area in kernel.areas_to_reap(k, mm) if area != LEFT_ALONE]

    own = {"areas_to_reap": areas_to_reap, "reap_retries": MAX_OOM_REAP_RETRIES}
    return type(kernel.__name__, (kernel,), own)


def _threads(k: Kernel, cast: Cast) -> Iterator[tuple[TaskStruct, ...]]:
    """Of each process; numbered through."""
    number = 0
    for signal, count in zip(k.processes, cast.threads, strict=True):
        names = [f"thread {n}" for n in range(number, number + count)]
        yield tuple(k.thread(name, k.mms[0], signal) for name in names)
        number += count


BEGUN = {
    Seen.READS: waits_to_read,
    Seen.READ_FAILS: waits_to_read,
    Seen.READ_ENDS: reads,
    Seen.WRITES: waits_to_write,
    Seen.WRITE_FAILS: waits_to_write,
    Seen.WRITE_ENDS: writes,
}
"""What somebody was about, who does this first."""


def _thread(w: Scene, tsk: TaskStruct, *, is_spared: bool) -> None:
    made, name = w.kernel.model, tsk.comm
    if Assumed.KILLED in w.cast.assuming:
        made.begin_with(tsk.signal.sigkill, True)
    if name in w.cast.left:
        made.begin_with(tsk.mm, False)
        made.begin_with(w.mm.mm_users, w.mm.mm_users.initial - 1)
        return
    first = dict(w.cast.began).get(name)
    begins = BEGUN[first] if first else at_home
    if begins is reads:
        made.begin_with(w.mm.mmap_lock, MmapLock(w.mm.mmap_lock.initial + 1))
    elif begins is writes:
        made.begin_with(w.mm.mmap_lock, MmapLock(-1))
    if begins in (writes, waits_to_write):
        made.begin_with(w.writers, w.writers.initial + 1)
    is_spared |= name in w.cast.own_ends
    phase = Phase.SPARED if is_spared else Phase.ALIVE
    made.task(name, begins, w, Actor(name, tsk, w.cast.last in (name, ANYBODY)), phase)


def _passer(w: Scene, name: str) -> None:
    made, begins = w.kernel.model, Phase.PASSING
    passer = Actor(name, w.kernel.kernel_task(name, w.mm), w.cast.last in (name, ANYBODY))
    if name == w.cast.last:
        made.begin_with(w.mm.mm_users, w.mm.mm_users.initial + 1)
        begins = Phase.HOLDING
    made.task(name, at_home, w, passer, begins)


def _reaper(w: Scene) -> None:
    """The victim was chosen by the kernel, and its time runs."""
    k, made, victim = w.kernel, w.kernel.model, w.threads[0][0]
    made.begin_with(victim.signal.oom_mm, True)
    made.begin_with(w.mm.mm_count, w.mm.mm_count.initial + 1)
    reaper = Actor(REAPER, k.kernel_task(REAPER, w.mm))
    if k.has_reaper_delay:
        made.begin_with(k.timers[victim.comm], True)
        made.task("timer", timer, w, reaper, victim)
    else:
        made.begin_with(k.oom_reaper_list, (victim.comm,))
    made.task(REAPER, reaping, w, reaper, k.oom_reaper, ())


def _unseen(w: Scene) -> None:
    """Who leaves no events."""
    k, made = w.kernel, w.kernel.model
    if Assumed.UNSEEN in w.cast.assuming:
        unseen = k.kernel_task("unseen", w.mm)
        made.task("unseen", use_for_a_while, k, w.threads[0][0], unseen)
    if Assumed.KHUGEPAGED in w.cast.assuming:
        made.task("khugepaged", mm_slot.khugepaged, w.mm)
