"""A machine, its kernel and its processes, on one clock. It ties the rooms' pieces together.

1. The kernel is a design of ``memreap.mm``, unchanged: with ten attempts of the reaper instead of
   two, and with a clock instead of patience.
2. A process's memory is as many pages of the model as it has chunks; a page that becomes free there
   is so many bytes that become free on the machine.
3. A process has tasks from its SIGKILL on; before that it is only somebody who holds memory.
4. Who kills is a Killer, told of every change. A world may be told that a killer kills no more on a
   node after so many: what would have been without the next victim?
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from memreap.check.model import Model
from memreap.check.operation import Memory, Operation, Steps, Var
from memreap.mm import fork
from memreap.mm.actors import let_go_of_the_lock, stay_for_ever
from memreap.mm.designs.pre_4_14 import Pre414
from memreap.mm.designs.since_4_15 import V419
from memreap.mm.kernel import Kernel
from memreap.mm.mm_struct import MmStruct, Page, TaskStruct
from memreap.mm.oom_kill import kill_next
from memreap.simulate import devices
from memreap.simulate.costs import Costs
from memreap.simulate.cpus import FIFO, NORMAL_WEIGHT, Cpus
from memreap.simulate.loop import Loop
from memreap.simulate.machine import Machine
from memreap.simulate.process import Process, chunks, features
from memreap.simulate.setup import Hang, ProcessSetup, Setup
from memreap.simulate.tasks import Tasks, Wait
from memreap.simulate.trace import Trace

MAX_OOM_REAP_RETRIES = 10
SETTLE_S = 5.0
"""Relief that does not last so long is none: whoever was killed for it bought nothing."""
HORIZON_S = 60.0
"""After the first stall. Nobody waits longer for a machine that stands still."""
QUIET_S = 3600.0
"""A scenario in which nobody stalls until then has no incident."""


class Killer(Protocol):
    """Whoever kills."""

    def begin(self, world: "World") -> None:
        """Before anything happens."""

    def changed(self, world: "World") -> None:
        """Memory came or went, somebody stalls or goes on, somebody was killed."""


@dataclass(frozen=True, slots=True)
class Kill:
    """One that was done."""

    at_s: float
    node: int  # for which
    process: Process
    is_strictly_needless: bool
    is_leniently_needless: bool


def on_the_clock(design: type[Kernel], pages: list[int]) -> type[Kernel]:
    """The design with the kernel's own number of attempts, and each mm with its own pages."""

    def mm(self: Kernel, number: int, has: frozenset[str]) -> MmStruct:
        self.pages = pages[number]
        return Kernel._mm(self, number, has)

    members = {"reap_retries": MAX_OOM_REAP_RETRIES, "_mm": mm}
    return type(design.__name__, (design,), members)


class World:
    """All of it."""

    def __init__(
        self,
        setup: Setup,
        design: type[Kernel],
        killer: Killer,
        costs: Costs,
        allow: Mapping[int, int] | None = None,
    ) -> None:
        """``allow``: on these nodes no more than so many are killed."""
        self.setup, self.costs, self.killer = setup, costs, killer
        self.allow = dict(allow or {})
        self.kills: list[Kill] = []
        self.trace = Trace()
        self.loop = Loop()
        self.cpus = Cpus(self.loop, setup.cpus)
        self.sleeps_under_oom_lock = issubclass(design, Pre414) and not issubclass(design, V419)
        model = Model(design.name)
        plan = [chunks(one, setup) for one in setup.processes]
        has = [features(one) for one in setup.processes]
        self.k = on_the_clock(design, plan)(model, has)
        self.k.is_patient = False
        self.processes = [self._process(n, one) for n, one in enumerate(setup.processes)]
        self.k.processes = tuple(one.signals[0] for one in self.processes)
        self.by_mm = {one.mm: one for one in self.processes}
        # Of every node, as its allocators' tasks see it.
        self.stalled = [model.var(f"{one.name}->stalled", False) for one in setup.nodes]
        self.full = [model.var(f"{one.name}->full", False) for one in setup.nodes]
        self.tasks = Tasks(
            self.loop,
            self.cpus,
            model.initial,
            cost=self._cost,
            cost_after=self._cost_after,
            wakeup_s=costs.wakeup_s,
            trace=self.trace,
        )
        self._watch()
        self.machine = Machine(self.loop, setup, self._changed, self._grown)
        if setup.busy:
            self.cpus.loops(setup.busy, NORMAL_WEIGHT)
        retry_s = costs.reap_retry_s
        self.tasks.spawn("oom_reaper", NORMAL_WEIGHT, self.k.oom_reaper, retry_s=retry_s)
        killer.begin(self)

    def _process(self, number: int, setup: ProcessSetup) -> Process:
        k, mm = self.k, self.k.mms[number]
        own = k.signal(setup.name)
        threads = tuple(
            k.thread(f"{setup.name}/{one}" if one else setup.name, mm, own)
            for one in range(setup.threads)
        )
        others = []
        for one in range(setup.sharers):
            name = f"{setup.name} sharer {one + 1}"
            others.append(k.thread(name, mm, k.signal(name)))
        signals = (own, *(one.signal for one in others))
        return Process(number, setup, mm, signals, threads, tuple(others), setup.weight)

    # Running.

    def run(self, until_s: float | None = None) -> None:
        """Until relief has settled, nothing can happen any more, or it takes too long."""
        while True:
            next_s = self.loop.next_s
            limit_s = self._limit_s() if until_s is None else min(until_s, self._limit_s())
            if next_s is None or next_s > limit_s:
                break
            self.loop.step()
        self.loop.pass_to(limit_s)
        self.machine.advance()

    def _limit_s(self) -> float:
        first_s, relieved_s = self.machine.first_stall_s, self.machine.relieved_s
        if relieved_s is not None:
            return relieved_s + SETTLE_S
        return QUIET_S if first_s is None else first_s + HORIZON_S

    def _changed(self) -> None:
        machine = self.machine
        for node, stalled, full in zip(machine.nodes, self.stalled, self.full, strict=True):
            self.tasks.write(stalled, bool(node.stalled))
            self.tasks.write(full, node.is_full)
        self.killer.changed(self)

    # Killing, by whomever.

    def eligible(self, node: int) -> list[Process]:
        """Whose death may help a node: who may use it."""
        setups = enumerate(self.setup.processes)
        return [self.processes[n] for n, one in setups if not one.bound or one.node == node]

    def bytes_of(self, process: Process) -> float:
        """What it holds now, swap included."""
        self.machine.advance()
        return self.machine.holdings[process.number].bytes

    def may_kill(self, node: int) -> bool:
        """Whether one more may be killed for a node."""
        done = sum(kill.node == node for kill in self.kills)
        return done < self.allow.get(node, len(self.processes))

    def is_back(self, process: Process) -> bool:
        """Whether all its memory is."""
        return process.mm.all_free(self.tasks.s)

    def boost(self, process: Process) -> None:
        """SCHED_FIFO for every thread that is to exit."""
        process.weight = FIFO
        for task in process.tasks:
            self.tasks.reweigh(task, FIFO)

    def record(self, process: Process, node: int) -> None:
        """Somebody is killed: was memory of an earlier victim of this node coming?"""
        s, before = self.tasks.s, [kill.process for kill in self.kills if kill.node == node]
        broken: set[str] = set()
        for earlier in before:
            told = len(s.broken)
            one = kill_next(earlier.mm, self.k.killed_next)
            one.function(s, *one.args)
            broken |= {prop for prop, _ in s.broken[told:]}
        strictly, leniently = "needless-kill" in broken, "needless-kill-at-once" in broken
        self.kills.append(Kill(self.loop.now_s, node, process, strictly, leniently))
        self.trace.add(self.loop.now_s, "killer", "kill", process.name)

    def _killed(self, process: Process, is_pending: bool) -> None:
        """SIGKILL is pending: by a killer, or because it ends by itself."""
        if not is_pending or process.killed_s is not None:
            return
        if process.doomed_on is not None:
            self.record(process, process.doomed_on)
        process.killed_s = self.loop.now_s
        self.machine.stop(process.number)
        process.stop_bytes = self.machine.holdings[process.number].stop_bytes
        io = devices.completes(self.k, process.mm, process.setup.io)
        if io is not None:
            self.tasks.spawn(f"I/O of {process.name}", FIFO, lambda: io)
        exits_s = self.costs.wakeup_s + process.hold_s
        self.loop.after(exits_s, self._exits, process, process.threads)

    def _exits(self, process: Process, threads: tuple[TaskStruct, ...]) -> None:
        """Its threads have come to know it."""
        for thread in threads:
            does, args = self._way_out(process, thread)
            task = self.tasks.spawn(thread.comm, process.weight, does, *args)
            process.tasks.append(task)

    def _way_out(self, process: Process, thread: TaskStruct) -> tuple[Any, tuple[Any, ...]]:
        hangs = process.setup.hangs
        if thread is not process.threads[-1] or hangs is Hang.NONE:
            return self.k.do_exit, (thread,)
        if hangs is Hang.LOCK_HELD:
            return let_go_of_the_lock, (self.k, thread)
        return stay_for_ever, ()

    def _sharer_killed(self, process: Process, thread: TaskStruct, is_pending: bool) -> None:
        if is_pending:
            self.loop.after(self.costs.wakeup_s, self._exits, process, (thread,))

    def _grown(self, number: int) -> None:
        stays_s = self.setup.processes[number].stays_s
        if stays_s is not None:
            self.loop.after(stays_s, self._ends, self.processes[number])

    def _ends(self, process: Process) -> None:
        """By itself, with all who share its memory."""
        if self.machine.holdings[process.number].is_stopped:
            return
        for signal in process.signals:
            self.tasks.write(signal.sigkill, True)

    # What the model's variables and operations are on the clock.

    def _watch(self) -> None:
        for process in self.processes:
            own, *others = process.signals
            self._on(own.sigkill, partial(self._killed, process))
            for signal, thread in zip(others, process.others, strict=True):
                self._on(signal.sigkill, partial(self._sharer_killed, process, thread))
            for page in process.mm.pages:
                self._on(page, partial(self._freed, process))
            for thread in (*process.threads, *process.others):
                self._on(self.k.timers[thread.comm], partial(self._timer, thread))
        self._on(self.k.work, self._work)
        costs = self.costs
        self.tasks.waits = {
            "timer_expires": Wait(lambda _: costs.reaper_delay_s),
            "schedule_timeout_idle": Wait(lambda _: costs.reap_retry_s),
            "enqueue_last": Wait(lambda _: costs.reap_retry_s),
            "schedule_timeout_killable": Wait(lambda _: costs.killer_sleep_s),
            "schedule_timeout_uninterruptible": Wait(lambda _: costs.jiffy_s),
            "oom_free_timeout": Wait(reply=self._is_overdue),
            "aio_complete": Wait(lambda one: self._of(one).setup.io_s),
            "give_up_the_lock": Wait(lambda one: self._of(one).setup.lock_s),
            "wait_for_a_page": Wait(ready=self._has_room, reply=lambda _: None),
        }

    def _on(self, var: Var, function: Any) -> None:
        self.tasks.on_write[int(var)] = function

    def _of(self, operation: Operation) -> Process:
        return self.by_mm[operation.args[0]]

    def _freed(self, process: Process, page: Page) -> None:
        if page is Page.FREE:
            self.machine.give_back(process.number, 1 / len(process.mm.pages))

    def _timer(self, thread: TaskStruct, is_set: bool) -> None:
        if is_set:
            self.tasks.spawn(f"timer of {thread.comm}", FIFO, self.k.wake_oom_reaper, thread)

    def _work(self, number: int | None) -> None:
        """``schedule_work``: one of many kworkers takes it, so none waits behind one that hangs."""
        if number is None:
            return
        self.tasks.s[self.k.work] = None
        self.loop.after(self.costs.wakeup_s, self._kworker, self.k.mms[number])

    def _kworker(self, mm: MmStruct) -> None:
        """What ``mmput_async_fn`` does, for one address space."""
        nobody = TaskStruct("kworker", self.k.nobody, self.k.held, self.k.held, mm)
        self.tasks.spawn("kworker", NORMAL_WEIGHT, _take_down, self.k, mm, nobody)

    def _is_overdue(self, operation: Operation) -> bool:
        killed_s = self._of(operation).killed_s
        assert killed_s is not None, "only a victim is on the reaper's list"
        return self.loop.now_s - killed_s >= self.costs.free_timeout_s

    def _has_room(self, s: Memory, operation: Operation) -> bool:
        del operation
        return any(not s[full] for full in self.full)

    def _cost(self, operation: Operation) -> float:
        cost_s = self.costs.step(operation.name)
        match operation.name:
            case "get_signal":
                cost_s += self.costs.exit_s
            case "vma_first" if operation.args[1:] == (True,):  # of an exit
                cost_s += 0.0 if self._of(operation).is_huge else self.costs.start_s
            case "find_lock_task_mm":
                return self.costs.step_s  # what a reap begins with comes once it has the mm
            case "select_bad_process":
                return cost_s + self.costs.scan_s * len(self.processes)
            case "tlb_flush_mmu":
                process, chunks_freed = self._of(operation), len(operation.args[1])
                page_s = self.costs.page(process.setup.page_bytes).free_s
                pages = process.chunk_pages * chunks_freed
                return cost_s + pages * page_s * self._together(process)
            case "free_pgtables":
                process = self._of(operation)
                page_s = self.costs.page(process.setup.page_bytes).tables_s
                return cost_s + page_s * process.chunk_pages * len(process.mm.pages)
        return cost_s

    def _cost_after(self, operation: Operation, result: Any) -> float:
        """Who finds a page unmapped has nothing to do there."""
        if operation.name == "find_lock_task_mm" and result == "reap":
            return self.costs.step(operation.name)
        if operation.name != "zap_pte_range" or not result:
            return 0.0
        process = self._of(operation)
        page_s = self.costs.page(process.setup.page_bytes).zap_s
        return process.chunk_pages * page_s * self._together(process)

    def _together(self, process: Process) -> float:
        return self.costs.together if self.tasks.s[process.mm.walkers] > 1 else 1.0


def _take_down(k: Kernel, mm: MmStruct, current: TaskStruct) -> Steps:
    yield from fork.__mmput(k, mm, current)
