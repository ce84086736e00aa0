"""Who takes part. A scenario names its actors; each is a task, or a few that belong together.

Only the making of models lives here. The fewest actors that can show a thing are in a scenario:
every further one multiplies the states.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from memreap.check.model import Kind, Model
from memreap.mm import aio, fork, mm_slot, oom_kill
from memreap.mm.actors import (
    clock,
    die_allocating,
    hold_until_reaped,
    kill_held,
    let_go_of_the_lock,
    stay_for_ever,
    swapoff,
    tracer,
    use_for_a_while,
    write_file,
)
from memreap.mm.kernel import Kernel
from memreap.mm.mm_struct import TaskStruct
from memreap.mm.properties import PROPERTIES, Property

MM = "mm"


@dataclass(slots=True)
class Stage:
    """A model under way: the kernel, and the first thread of each victim."""

    kernel: Kernel
    victims: dict[int, TaskStruct] = field(default_factory=dict)
    hangs: bool = False  # an exit may wait for ever, and that is no deadlock

    @property
    def waits_in(self) -> tuple[str, ...]:
        """Where a task may wait for what never comes."""
        return ("wait_for_completion", "clear_current_mm") if self.hangs else ()

    @property
    def model(self) -> Model:
        """Where tasks go."""
        return self.kernel.model

    def name(self, what: str, number: int) -> str:
        """Numbered, where there are several victims."""
        return what if len(self.kernel.mms) == 1 else f"{what} {number}"

    def thread(self, what: str, number: int, *, running: bool = False) -> TaskStruct:
        """A thread of a victim."""
        mm, process = self.kernel.mms[number], self.kernel.processes[number]
        made = self.kernel.thread(self.name(what, number), mm, process, running=running)
        self.victims.setdefault(number, made)
        return made


Actor = Callable[[Stage, int], None]


def _victim(stage: Stage, number: int) -> None:
    k, tsk = stage.kernel, stage.thread("victim", number)
    stage.model.task(tsk.comm, k.do_exit, tsk, waits_in=stage.waits_in)


def _thread(stage: Stage, number: int) -> None:
    k, tsk = stage.kernel, stage.thread("thread 2", number)
    stage.model.task(tsk.comm, k.do_exit, tsk, waits_in=stage.waits_in)


def _running(stage: Stage, number: int) -> None:
    k, tsk = stage.kernel, stage.thread("running thread", number, running=True)
    stage.model.task(tsk.comm, k.do_exit, tsk, waits_in=stage.waits_in)


def _writer(stage: Stage, number: int) -> None:
    k, tsk = stage.kernel, stage.thread("thread in write(2)", number)
    stage.model.task(tsk.comm, write_file, k, tsk)


def _allocating(stage: Stage, number: int) -> None:
    k, tsk = stage.kernel, stage.thread("victim", number)
    stage.model.task(tsk.comm, die_allocating, k, tsk, 2)


def _allocating_too(stage: Stage, number: int) -> None:
    k, tsk = stage.kernel, stage.thread("thread 2", number)
    stage.model.task(tsk.comm, die_allocating, k, tsk, 1)


def _held(stage: Stage, number: int) -> None:
    k, tsk = stage.kernel, stage.thread("victim", number)
    stage.model.task(tsk.comm, hold_until_reaped, k, tsk, waits_in=stage.waits_in)


def _hung(stage: Stage, number: int) -> None:
    tsk = stage.thread("hung thread", number)
    stage.model.task(tsk.comm, stay_for_ever, waits_in=("wait_for_ever",))


def _exiting(stage: Stage, number: int) -> None:
    _victim(stage, number)
    stage.model.begin_with(stage.victims[number].signal.sigkill, True)


def _killed(stage: Stage, number: int) -> None:
    _victim(stage, number)
    stage.kernel.has_killed(stage.victims[number])


def _holds_the_lock(stage: Stage, number: int) -> None:
    tsk = stage.thread("thread that keeps mmap_lock", number)
    stage.model.task(tsk.comm, stay_for_ever, waits_in=("wait_for_ever",))


def _lets_go_of_the_lock(stage: Stage, number: int) -> None:
    k, tsk = stage.kernel, stage.thread("thread with mmap_lock", number)
    stage.model.task(tsk.comm, let_go_of_the_lock, k, tsk)


def _killer(stage: Stage, number: int) -> None:
    k, name = stage.kernel, stage.name("allocator", number)
    victim = stage.victims[number]
    stage.model.task(name, k.alloc_pages_slowpath, victim)
    if k.has_reaper_delay:
        for tsk in k.threads_of(victim):
            timer = "timer" if len(k.timers) == 1 else f"timer of {tsk.comm}"
            if tsk is victim or "dies allocating" in victim.address_space.has:
                stage.model.task(timer, k.wake_oom_reaper, tsk, waits_in=("timer_expires",))


def _reaper(stage: Stage, number: int) -> None:
    del number
    k = stage.kernel
    stage.model.task("oom_reaper", k.oom_reaper, waits_in=("dequeue",))
    if k.uses_kworker:
        kworker = k.kernel_task("kworker", k.mms[0])
        waits_in = ("wait_for_work", *stage.waits_in)
        stage.model.task("kworker", fork.mmput_async_fn, k, kworker, waits_in=waits_in)


def _reader(stage: Stage, number: int) -> None:
    k, task = stage.kernel, stage.victims[number]
    reader = k.kernel_task("reader", task.address_space)
    stage.model.task("reader", use_for_a_while, k, task, reader, waits_in=stage.waits_in)


def _mrelease(stage: Stage, number: int) -> None:
    k, task = stage.kernel, stage.victims[number]
    current = k.kernel_task("mrelease", task.address_space)
    is_held = "hold" in task.address_space.has
    run = kill_held if is_held else oom_kill.kill_and_release
    stage.model.task("mrelease", run, k, task, current, waits_in=stage.waits_in)
    if is_held:
        stage.model.task("tracer", tracer, k, task)


def _device(stage: Stage, number: int) -> None:
    stage.model.task(stage.name("device", number), aio.device, stage.kernel.mms[number])


def _filesystem(stage: Stage, number: int) -> None:
    k = stage.kernel
    stage.model.task("filesystem", aio.filesystem, k, k.mms[number], waits_in=("wait_for_a_page",))


def _ksmd(stage: Stage, number: int) -> None:
    stage.model.task("ksmd", mm_slot.ksmd, stage.kernel.mms[number])


def _khugepaged(stage: Stage, number: int) -> None:
    stage.model.task("khugepaged", mm_slot.khugepaged, stage.kernel.mms[number])


def _clock(stage: Stage, number: int) -> None:
    k = stage.kernel
    k.delay_ticks = 2
    stage.model.task("clock", clock, k, k.processes[number], waits_in=("tick",))


def _fork(stage: Stage, number: int) -> None:
    k, mm = stage.kernel, stage.kernel.mms[number]
    k.model.begin_with(mm.mm_users, 1)
    parent = k.kernel_task("fork", mm)
    stage.model.task("fork", fork.copy_mm, k, mm, parent)


def _swapoff(stage: Stage, number: int) -> None:
    k, mm = stage.kernel, stage.kernel.mms[number]
    stage.model.task("swapoff", swapoff, k, mm, k.kernel_task("swapoff", mm))


ACTORS: dict[str, Actor] = {
    "victim": _victim,
    "exiting task": _exiting,  # by itself; nobody ran out of memory
    "killed victim": _killed,  # on the reaper's list already
    "thread": _thread,  # a second one, asleep
    "running thread": _running,  # in user mode on another CPU, when SIGKILL comes
    "thread in write(2)": _writer,
    "allocating thread": _allocating,
    "second allocating thread": _allocating_too,
    "held victim": _held,  # by memreap, in its ptrace exit stop
    "hung thread": _hung,  # in the kernel, and never back
    "thread that keeps mmap_lock": _holds_the_lock,
    "thread with mmap_lock": _lets_go_of_the_lock,
    "allocator": _killer,
    "oom_reaper": _reaper,
    "reader": _reader,
    "mrelease": _mrelease,
    "device": _device,
    "filesystem": _filesystem,
    "ksmd": _ksmd,
    "khugepaged": _khugepaged,
    "clock": _clock,
    "fork": _fork,
    "swapoff": _swapoff,
}
"""By name, threads first: each makes its tasks. A killer needs the thread that it is to kill."""

SAFETY = ("torn-tree", "pgtables-in-use", "double-free", "refcount", "deadlock")
KILLING = (
    "released",
    "needless-kill-at-once",
    "needless-kill",
    "kill-after-relief",
    "freed-after-skip",
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """``cast``: actors, in the order of ACTORS, of every victim. ``has``: what its mm has.

    ``hangs``: something in it never comes, and who waits for that is not deadlocked.
    ``is_patient``: timeouts are long enough for whatever comes by itself.
    """

    name: str
    says: str
    cast: tuple[str, ...]
    has: frozenset[str] = frozenset()
    also: tuple[str, ...] = ()  # properties, beside those that are always asked
    hangs: bool = False
    is_patient: bool = True
    victims: int = 1
    pages: int = 3

    @property
    def asks(self) -> tuple[str, ...]:
        """The properties that are asked, in the order of their table."""
        killing = KILLING if "allocator" in self.cast else ()
        asked = {*SAFETY, *killing, *self.also}
        if self.hangs:
            asked -= {"refcount"}  # who hangs keeps what it has
        return tuple(prop for prop in PROPERTIES if prop in asked)

    def lets(self, kernel: type[Kernel]) -> bool:
        """Whether a kernel has what the actors need."""
        if "fork" in self.cast and not kernel.has_partial_trees:
            return False
        return kernel.has_mrelease or "mrelease" not in self.cast

    def without(self, *actors: str) -> "Scenario":
        """The same with fewer actors."""
        assert set(actors) <= set(self.cast), f"{self.name} has not all of {actors}"
        return replace(
            self,
            name=f"{self.name} without {', '.join(actors)}",
            cast=tuple(actor for actor in self.cast if actor not in actors),
        )

    def model(self, kernel: type[Kernel], own: Iterable[Property] = ()) -> Model:
        """A kernel in this scenario, ready to be explored. ``own``: more that is asked."""
        model = Model(f"{kernel.name} / {self.name}")
        k = kernel(model, [self.has] * self.victims, self.pages)
        names = ["victim"] if self.victims == 1 else [f"victim {n}" for n in range(self.victims)]
        k.is_patient = self.is_patient
        k.processes = tuple(k.signal(name) for name in names)
        stage = Stage(k, hangs=self.hangs)
        for actor, act in ACTORS.items():
            if actor in self.cast:
                for number in range(1 if actor == "oom_reaper" else self.victims):
                    act(stage, number)
        for prop in (*(PROPERTIES[name] for name in self.asks), *own):
            _ask(model, k, prop)
        return model


NOT_SO = {
    Kind.ALWAYS: "from here on it is not so",
    Kind.AT_END: "nothing can happen any more, and it is not so",
    Kind.CAN: "from here on no way leads to it",
    Kind.EVENTUALLY: "it never comes to that",
}


def _ask(model: Model, k: Kernel, prop: Property) -> None:
    holds = prop.holds
    if holds is None:
        model.ask(prop.name, prop.kind, why=prop.says)
    else:
        model.ask(prop.name, prop.kind, lambda s: holds(s, k), NOT_SO[prop.kind])


def _has(*features: str) -> frozenset[str]:
    return frozenset(features)


OOM = ("victim", "allocator", "oom_reaper")
SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("lone", "A victim of one thread; the killer and its reaper.", OOM),
        Scenario(
            "small",
            "The same, and the victim is smaller than one batch of an mmu_gather.",
            OOM,
            pages=1,
        ),
        Scenario(
            "reader",
            "A third holder of mm_users: a reader of /proc, swapoff, an I/O worker.",
            (*OOM, "reader"),
        ),
        Scenario(
            "threads",
            "A second thread, in user mode on another CPU when SIGKILL comes.",
            (*OOM, "running thread"),
            frozenset(),
            ("stale-tlb",),
        ),
        Scenario(
            "aio-completes",
            "I/O in flight that completes, soon or late.",
            (*OOM, "device"),
            _has("aio"),
        ),
        Scenario(
            "aio-never",
            "I/O in flight that never completes.",
            OOM,
            _has("aio"),
            ("hung-exit",),
            hangs=True,
        ),
        Scenario(
            "aio-notifier",
            "The same, and a secondary MMU maps the pages, which may be busy when it is told.",
            OOM,
            _has("aio", "notifier"),
            ("hung-exit",),
            hangs=True,
        ),
        Scenario(
            "aio-needs-memory",
            "I/O of a filesystem, which completes only after it was given memory.",
            (*OOM, "filesystem"),
            _has("aio"),
            ("hung-exit",),
            hangs=True,
        ),
        Scenario(
            "thread-hung",
            "A second thread hangs in the kernel, and never comes back.",
            (*OOM, "hung thread"),
            _has("hung thread"),
            ("hung-exit",),
            hangs=True,
        ),
        Scenario(
            "lock-held",
            "A thread that has mmap_lock for writing; the reaper may give up before it lets go.",
            (*OOM, "thread with mmap_lock"),
            _has("locked"),
            is_patient=False,
        ),
        Scenario(
            "lock-stuck",
            "A thread that has mmap_lock for writing, and never lets it go.",
            (*OOM, "thread that keeps mmap_lock"),
            _has("locked", "stuck lock"),
            hangs=True,
        ),
        Scenario("ksm", "ksmd is about to scan the victim.", (*OOM, "ksmd"), _has("ksm")),
        Scenario(
            "khugepaged",
            "khugepaged is about to scan the victim.",
            (*OOM, "khugepaged"),
            _has("khugepaged"),
        ),
        Scenario("mlock", "The victim's memory is locked.", OOM, _has("mlock"), ("munlock",)),
        Scenario(
            "notifier",
            "A secondary MMU maps the victim's pages, as KVM does.",
            OOM,
            _has("notifier"),
            ("secondary-mmu",),
        ),
        Scenario(
            "write",
            "A thread of the victim is in the middle of write(2).",
            (*OOM, "thread in write(2)"),
            frozenset(),
            ("zeroes",),
        ),
        Scenario(
            "robust-list",
            "The victim has robust futexes; a clock ticks, in each tick of which it takes a step.",
            (*OOM, "clock"),
            _has("robust list"),
            ("robust-list",),
        ),
        Scenario(
            "dies-allocating",
            "Two threads of the victim find themselves chosen while they allocate.",
            ("allocating thread", "second allocating thread", "allocator", "oom_reaper"),
            _has("dies allocating"),
            ("queued-once",),
        ),
        Scenario(
            "frozen",
            "A victim of two threads, both in the freezer.",
            (*OOM, "thread"),
            _has("frozen"),
        ),
        Scenario(
            "fork-fails",
            "fork(2) fails in the middle of the child's tree; swapoff walks all trees.",
            ("fork", "swapoff"),
            frozenset(),
            ("partial-tree",),
        ),
        Scenario(
            "numa",
            "Two nodes run out at once, each with a victim whose I/O never completes.",
            OOM,
            _has("aio"),
            ("hung-exit",),
            hangs=True,
            victims=2,
            pages=1,
        ),
        Scenario(
            "mrelease",
            "Killed from user space, which then calls process_mrelease; no OOM killer.",
            ("victim", "thread", "mrelease"),
        ),
        Scenario(
            "mrelease-reader",
            "The same, a third holder of mm_users, and I/O that never completes.",
            ("victim", "mrelease", "reader"),
            _has("aio"),
            ("hostage",),
            hangs=True,
        ),
        Scenario(
            "mrelease-aio",
            "Killed from user space, with I/O that never completes.",
            ("victim", "mrelease"),
            _has("aio"),
            ("hung-exit", "hostage"),
            hangs=True,
        ),
        Scenario(
            "mrelease-held",
            "The same as memreap does it: held by ptrace until process_mrelease has the mm.",
            ("held victim", "mrelease"),
            _has("aio", "hold"),
            ("hung-exit", "hostage"),
            hangs=True,
        ),
        Scenario(
            "mrelease-held-robust-list",
            "Held by memreap, with robust futexes.",
            ("held victim", "mrelease"),
            _has("hold", "robust list"),
            ("robust-list",),
        ),
        Scenario(
            "mrelease-robust-list",
            "Killed from user space and released at once, with robust futexes.",
            ("victim", "mrelease"),
            _has("robust list"),
            ("robust-list",),
        ),
        Scenario(
            "mrelease-oom",
            "The kernel's OOM killer and a daemon of user space take the same victim.",
            (*OOM, "mrelease"),
        ),
    )
}
"""By name."""
