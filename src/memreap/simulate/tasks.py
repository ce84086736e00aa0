"""The model's tasks, run on the clock instead of in every order.

1. A task is a generator of operations, the same that ``check`` explores. Each costs CPU time, and
   is then done to the one shared memory.
2. What cannot be done now waits for the variables that it looked at, and is tried again when one of
   them has changed, in the order of waiting. Who was woken has what it waited for at once, and goes
   on after the latency of a wake-up.
3. An operation that stands for time, and may happen at any moment for the checker, is a Wait: from
   when it is ready it takes so long.
4. A task that becomes itself goes round because it got nowhere, and sleeps before it does.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

from memreap.check.operation import BLOCK, AnyOf, Become, Memory, Operation, Steps, Var
from memreap.simulate.cpus import Burst, Cpus
from memreap.simulate.loop import Loop
from memreap.simulate.trace import Trace


class Watched(Memory):
    """The shared variables, and which of them were written since somebody looked."""

    __slots__ = ("written",)

    def __init__(self, values: Iterable[Any] = ()) -> None:
        """``values``: of all variables, in order."""
        super().__init__(values)
        self.written: list[int] = []

    def __setitem__(self, index: Any, value: Any) -> None:
        """Note it, if it is another value."""
        if self[index] != value:
            self.written.append(int(index))
        super().__setitem__(index, value)


class _Reads:
    """The memory as one who only looks sees it: notes at what."""

    __slots__ = ("seen", "values")

    def __init__(self, values: Memory) -> None:
        self.values = values
        self.seen: dict[int, None] = {}

    def __getitem__(self, index: int) -> Any:
        self.seen[int(index)] = None
        return self.values[index]

    def breaks(self, prop: str, why: str) -> None:
        """It is tried again, and told then."""


class Wait:
    """An operation that takes time of the clock.

    ``ready``: from when on; ``delay``: how long then; ``reply``: the result, where it is not the
    operation's own to give.
    """

    __slots__ = ("delay", "ready", "reply")

    def __init__(
        self,
        delay: Callable[[Operation], float] = lambda _: 0.0,
        ready: Callable[[Memory, Operation], bool] | None = None,
        reply: Callable[[Operation], Any] | None = None,
    ) -> None:
        """Without any: at once."""
        self.delay, self.ready, self.reply = delay, ready, reply


class Task:
    """One thread of control."""

    __slots__ = ("burst", "does", "is_over", "name", "parked_on", "retry_s", "steps", "weight")

    def __init__(self, name: str, does: tuple[Callable[..., Steps], tuple[Any, ...]]) -> None:
        """Not begun."""
        self.name, self.does = name, does
        self.steps = does[0](*does[1])
        self.weight = 0.0
        self.retry_s = 0.0
        self.burst: Burst | None = None
        self.parked_on: tuple[int, ...] = ()
        self.is_over = False


class Tasks:
    """All tasks, their memory, and who waits for what."""

    def __init__(
        self,
        loop: Loop,
        cpus: Cpus,
        values: Iterable[Any],
        *,
        cost: Callable[[Operation], float],
        cost_after: Callable[[Operation, Any], float],
        wakeup_s: float,
        trace: Trace,
    ) -> None:
        """``cost``: seconds of CPU before an operation is done, ``cost_after``: by its result."""
        self.s = Watched(values)
        self.waits: dict[str, Wait] = {}
        self.on_write: dict[int, Callable[[Any], object]] = {}
        self._loop, self._cpus = loop, cpus
        self._cost, self._cost_after, self._wakeup_s = cost, cost_after, wakeup_s
        self._trace = trace
        self._parked: dict[int, dict[Task, Callable[[], object]]] = {}
        self._is_draining = False

    def spawn(
        self,
        name: str,
        weight: float,
        function: Callable[..., Steps],
        *args: Any,
        retry_s: float = 0.0,
    ) -> Task:
        """Begin a task, at once. ``retry_s``: how long it sleeps before it goes round."""
        task = Task(name, (function, args))
        task.weight, task.retry_s = weight, retry_s
        self._go(task, None)
        return task

    def reweigh(self, task: Task, weight: float) -> None:
        """Another weight, from now on."""
        task.weight = weight
        if task.burst is not None:
            self._cpus.reweigh(task.burst, weight)

    def write(self, var: Var, value: Any) -> None:
        """What is no task's step: the machine's own doing."""
        self.s[var] = value
        self._drain()

    # A task goes on.

    def _go(self, task: Task, result: Any) -> None:
        """Send a result, and begin what comes next."""
        task.burst = None
        try:
            operation = task.steps.send(result)
        except StopIteration as stop:
            self._end(task, stop.value)
            return
        wait = self.waits.get(operation.name)
        if wait is not None:
            self._wait(task, operation, wait)
            return
        cost_s = self._cost(operation)
        task.burst = self._cpus.run(cost_s, task.weight, partial(self._apply, task, operation))

    def _end(self, task: Task, value: Any) -> None:
        if not isinstance(value, Become):
            task.is_over = True
            return
        goes_round = (value.function, value.args) == task.does
        task.does = value.function, value.args
        task.steps = value.function(*value.args)
        if goes_round and task.retry_s:
            self._loop.after(task.retry_s, self._go, task, None)
        else:
            self._go(task, None)

    def _apply(self, task: Task, operation: Operation) -> None:
        task.burst = None
        result = operation.function(self.s, *operation.args)
        if result is BLOCK:
            self._block(task, operation)
            return
        self._told(task, operation, result)
        self._drain()
        self._finish(task, operation, result)

    def _finish(self, task: Task, operation: Operation, result: Any) -> None:
        more_s = self._cost_after(operation, result)
        if more_s:
            task.burst = self._cpus.run(more_s, task.weight, partial(self._go, task, result))
        else:
            self._go(task, result)

    def _told(self, task: Task, operation: Operation, result: Any) -> None:
        assert not isinstance(result, AnyOf), f"{operation}: nothing is left open on the clock"
        self._trace.add(self._loop.now_s, task.name, operation.name, result)

    # A task waits for the clock.

    def _wait(self, task: Task, operation: Operation, wait: Wait) -> None:
        ready = wait.ready
        if ready is not None and not ready(self.s, operation):
            self._park(task, partial(self._wait, task, operation, wait), ready, operation)
            return
        self._loop.after(wait.delay(operation), self._fire, task, operation, wait)

    def _fire(self, task: Task, operation: Operation, wait: Wait) -> None:
        if wait.reply is None:
            self._apply(task, operation)
            return
        result = wait.reply(operation)
        self._told(task, operation, result)
        self._go(task, result)

    # A task waits for others.

    def _block(self, task: Task, operation: Operation) -> None:
        def asks(s: Memory, one: Operation) -> Any:
            return one.function(s, *one.args)

        self._park(task, partial(self._try_again, task, operation), asks, operation)

    def _try_again(self, task: Task, operation: Operation) -> None:
        result = operation.function(self.s, *operation.args)
        if result is BLOCK:
            self._block(task, operation)
            return
        self._told(task, operation, result)
        self._loop.after(self._wakeup_s, self._finish, task, operation, result)

    def _park(
        self,
        task: Task,
        again: Callable[[], object],
        asks: Callable[[Memory, Operation], Any],
        operation: Operation,
    ) -> None:
        reads = _Reads(self.s)
        asks(cast(Memory, reads), operation)
        task.parked_on = tuple(reads.seen)
        for index in task.parked_on:
            self._parked.setdefault(index, {})[task] = again

    def _drain(self) -> None:
        """Tell everyone who is concerned of what was written; they may write more."""
        if self._is_draining:
            return
        self._is_draining = True
        while self.s.written:
            written = list(dict.fromkeys(self.s.written))
            self.s.written.clear()
            for index in written:
                if index in self.on_write:
                    self.on_write[index](self.s[index])
                self._wake(index)
        self._is_draining = False

    def _wake(self, index: int) -> None:
        for task, again in list(self._parked.get(index, {}).items()):
            if self._parked[index].get(task) is not again:
                continue  # it was woken by another variable meanwhile
            for parked_on in task.parked_on:
                self._parked[parked_on].pop(task, None)
            task.parked_on = ()
            again()
