"""Where the real guard meets a machine of choices: every name by which it reaches the kernel.

The guard's own code runs as it is: ``core``, ``crew``, ``hands``, ``killing``, ``post``, ``turns``,
``reap.execution`` and all of ``decide``. Nothing else of it is replaced than what stands in
``seam``; a test holds that no other name of these modules reaches the kernel.
"""

import contextlib
import errno
import os
import signal
import types
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest import mock

from memreap.guard.gauges import Figures, Gone, TreeGauge
from memreap.guard.settings import Kind, Scope
from memreap.simulate.guard_machine import TURN_S
from memreap.simulate.guard_workers import SimMark, SimReaper, SimScout, SimScribe, SimWorker
from memreap.simulate.guard_world import World

POLLIN, POLLPRI = 1, 2
SIGNALS_FD = 3
LATE_S = (0.0, 0.01, 0.2, 1.5)
CORE_PID = 99


class SimPoll:
    """``select.poll``: where time passes."""

    def __init__(self, world: World) -> None:
        """Nothing is registered."""
        self._world = world
        self._fds: list[int] = []

    def register(self, fd: int, mask: int = POLLIN) -> None:
        """Wait for this one, too."""
        del mask
        self._fds.append(fd)

    def _ready(self) -> list[tuple[int, int]]:
        ready, signals = self._world.machine.is_ready, self._world.signals
        return [(fd, POLLIN) for fd in self._fds if (signals if fd == SIGNALS_FD else ready(fd))]

    def _is_ready(self) -> bool:
        if self._world.signals:
            return True
        table = self._world.machine.table
        for fd in self._fds:  # by hand: this is asked after everything that happens
            what = table.get(fd)
            if (what is None and fd != SIGNALS_FD) or (what is not None and what.is_ready()):
                return True
        return False

    def poll(self, timeout_ms: float | None = None) -> list[tuple[int, int]]:
        """Until something is ready, or the time is up."""
        world, machine = self._world, self._world.machine
        world.laws.is_polling(world.late_s)
        world.late_s = 0.0
        machine.now_s += TURN_S
        timeout_s = 1e9 if timeout_ms is None else timeout_ms / 1000
        machine.wait(machine.now_s + timeout_s, self._is_ready)
        if world.faulty("the core is late", 30):
            late_s = world.choices.pick(LATE_S)
            world.away_until_s = machine.now_s + late_s
            machine.wait(world.away_until_s, lambda: False)
            world.late_s = late_s
        world.laws.note_progress()
        world.laws.has_polled()
        return self._ready()


class SimGauge:
    """A domain that is read by the core."""

    def __init__(self, world: World, scope: Scope) -> None:
        """Raises Gone where it is not there."""
        self._world, self._place = world, world.places[scope.name]
        self.means: list[str] = []
        self.alarms: dict[int, int] = {}
        if not self._place.is_there:
            raise Gone(f"{scope.name} is not there")

    def read(self, now_s: float) -> Figures:
        """Now."""
        del now_s
        if not self._place.is_there:
            raise Gone(f"{self._place.name} is gone")
        place = self._place
        return Figures(self.glance(), place.limit_bytes, place.whole_bytes, None, {})

    def glance(self) -> int:
        """Only the usage."""
        if not self._place.is_there:
            raise OSError(2, "no such file or directory")
        return self._world.usage_bytes(self._place.name)

    def restart(self, now_s: float) -> None:
        """There are no stalls here."""

    def ring(self, fd: int) -> str:
        """Nor alarms."""
        del fd
        return ""

    def rests(self, usage_bytes: int) -> bool:
        """Nothing will wake us."""
        del usage_bytes
        return False

    def close(self) -> None:
        """There is nothing to let go of."""


class SimClapper:
    """When SIGKILL was sent."""

    def __init__(self, world: World) -> None:
        """Not yet."""
        self._world = world
        self.killed_s: float | None = None
        self.called_off = False

    def clap(self) -> None:
        """Now."""
        if self.killed_s is None:
            self.killed_s = self._world.machine.now_s

    def call_off(self) -> None:
        """Nobody dies."""
        self.killed_s, self.called_off = self.killed_s or None, True


class Seam:
    """Every replacement. They stand once for any number of worlds, one after another.

    An interpreter that compiles what it runs would have to begin anew if they changed.
    """

    def __init__(self) -> None:
        """Set ``world`` before each run: what everything is answered by."""
        self.world: World
        self._depth = 0

    def names(self) -> dict[str, Any]:
        """``module.name`` -> what stands there in the guard's world."""
        clock = types.SimpleNamespace(
            monotonic=lambda: self.world.machine.now_s,
            time=lambda: self.world.machine.now_s + self.world.machine.wall_offset_s,
            sleep=self._sleep,
            thread_time=lambda: 0.0,
            strftime=lambda _: "00:00:00",
        )
        system = types.SimpleNamespace(
            close=self._close,
            dup=lambda fd: self.world.machine.open(self.world.machine.process(fd)),
            getpid=lambda: CORE_PID,
            pidfd_open=self._pidfd_open,
            pipe2=self._pipe,
            O_CLOEXEC=os.O_CLOEXEC,
            strerror=os.strerror,
            path=types.SimpleNamespace(isdir=lambda name: self.world.places[name].is_there),
        )
        guard, reap = "memreap.guard", "memreap.reap"
        syscalls = types.SimpleNamespace(pidfd_kill=self._pidfd_kill)
        signals = types.SimpleNamespace(
            pidfd_send_signal=self._send, SIGTERM=signal.SIGTERM, SIGCONT=signal.SIGCONT
        )
        procfs = lambda: types.SimpleNamespace(  # noqa: E731
            oom_score=self._oom_score, meminfo=lambda: {"MemTotal": 1 << 34, "SwapTotal": 0}
        )
        path = lambda name: types.SimpleNamespace(exists=lambda: self._is_there(str(name)))  # noqa: E731
        clapper = lambda: SimClapper(self.world)  # noqa: E731
        return {
            f"{guard}.core.time": clock,
            f"{guard}.core.os": system,
            f"{guard}.core.select": types.SimpleNamespace(
                poll=lambda: SimPoll(self.world), POLLIN=POLLIN, POLLPRI=POLLPRI
            ),
            f"{guard}.core.Path": path,
            f"{guard}.core.Procfs": procfs,
            f"{guard}.core.clock": types.SimpleNamespace(
                slept_s=lambda: self.world.machine.slept_s
            ),
            f"{guard}.core.memlock": types.SimpleNamespace(lock_all=lambda: True),
            f"{guard}.core.gc": types.SimpleNamespace(collect=lambda: 0),
            f"{guard}.core.numa": types.SimpleNamespace(nodes=lambda: [0]),
            f"{guard}.core.siginfo": types.SimpleNamespace(read=self._signals),
            f"{guard}.core.Notify": self._notify,
            f"{guard}.core.watchdog_interval_s": lambda: 0.0,
            f"{guard}.core.Reload": self._reload,
            f"{guard}.core.gauge": self._gauge,
            f"{guard}.crew.os": system,
            f"{guard}.crew.Path": path,
            f"{guard}.crew.Procfs": procfs,
            f"{guard}.crew.Mark": SimMark,
            f"{guard}.crew.Worker": self._worker,
            f"{guard}.hands.os": system,
            f"{guard}.hands.time": clock,
            f"{guard}.hands.LastPid": lambda _: types.SimpleNamespace(
                read=lambda: self.world.newest_pid
            ),
            f"{guard}.hands.Procfs": procfs,
            f"{guard}.hands.Worker": SimWorker,
            f"{guard}.hands.has_exited": self._has_exited,
            f"{guard}.post.os": system,
            f"{guard}.post.has_exited": self._has_exited,
            f"{guard}.turns.time": clock,
            f"{guard}.killing.os": system,
            f"{guard}.killing.time": clock,
            f"{guard}.killing.signal": signals,
            f"{guard}.killing.syscalls": syscalls,
            f"{guard}.killing.has_exited": self._has_exited,
            f"{reap}.execution.time": clock,
            f"{reap}.execution.os": system,
            f"{reap}.execution.syscalls": syscalls,
            f"{reap}.execution.has_exited": self._has_exited,
            f"{reap}.execution.Worker": self._worker,
            f"{reap}.execution.Procfs": procfs,
            f"{reap}.execution.Clapper": clapper,
            f"{reap}.standby.Worker": self._worker,
            f"{reap}.standby.Clapper": clapper,
            f"{reap}.victim.os": system,
            f"{reap}.victim._forbidden": lambda _: None,
        }

    @contextlib.contextmanager
    def replaced(self) -> Iterator[None]:
        """For the time of a run, or of many."""
        with contextlib.ExitStack() as stack:
            if not self._depth:
                for name, stands in self.names().items():
                    stack.enter_context(mock.patch(name, stands))
            self._depth += 1
            stack.callback(self._leave)
            yield

    def _leave(self) -> None:
        self._depth -= 1

    # What a worker is, by what it was forked for.

    def _worker(self, body: Any, *, setsid: bool = False) -> SimWorker:
        del setsid
        name = body.func.__name__ if isinstance(body, partial) else body.__name__
        if name == "_scout":
            mark = body.keywords["mark"]
            return SimWorker(self.world, lambda worker: SimScout(worker, mark), "scout")
        if name == "_scribe":
            return SimWorker(self.world, SimScribe, "scribe")
        made = SimWorker(self.world, SimReaper, "reaper")
        if name == "_wait":
            self.world.clappers[made.pid] = body.args[0]
        else:  # Reaper(order).run: forked with its order
            order = body.__self__._order
            self.world.clappers[made.pid] = order.clapper
            held = [self.world.machine.process(fd) for fd in order.victim.pidfds]
            facts = [order.victim.facts, *(found.facts for found in order.victim.sharers)]
            role = made.role
            assert isinstance(role, SimReaper)
            role.take(held, facts, by_owner=order.go is not None)
        return made

    # What the core does itself.

    def _pidfd_kill(self, fd: int) -> int:
        process = self.world.machine.process(fd)
        self.world.laws.is_ordered([process], [])
        if process.exited_s is not None:
            return errno.ESRCH
        if process.refused:
            return errno.EPERM
        self.world.machine.kill(process)
        return 0

    def _send(self, fd: int, number: int) -> None:
        machine, process = self.world.machine, self.world.machine.process(fd)
        self.world.laws.is_signalled(process)
        if number == signal.SIGTERM and not process.ignores_term:
            machine.tell(f"SIGTERM to {process.comm} ({process.pid})")
            machine.after(0.1, lambda: machine.kill(process, by_guard=False))

    def _pidfd_open(self, pid: int) -> int:
        process = self.world.machine.processes.get(pid)
        if process is None:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return self.world.machine.open(process)

    def _close(self, fd: int) -> None:
        self.world.machine.close(fd)

    def _has_exited(self, pidfd: int) -> bool:
        return self.world.machine.is_ready(pidfd)

    def _sleep(self, seconds: float) -> None:
        machine = self.world.machine
        machine.wait(machine.now_s + seconds, lambda: False)

    def _oom_score(self, pid: int) -> int:
        return 500 if pid in self.world.machine.processes else 0

    def _is_there(self, path: str) -> bool:
        return int(path.rpartition("/")[2] or 0) in self.world.machine.processes

    def _pipe(self, flags: int) -> tuple[int, int]:
        del flags
        return self.world.machine.open(_Pipe()), self.world.machine.open(_Pipe())

    def _signals(self, fd: int) -> Iterator[Any]:
        del fd
        while self.world.signals:
            number = self.world.signals.pop(0)
            yield types.SimpleNamespace(signal=number)

    def _notify(self) -> Any:
        return types.SimpleNamespace(send=lambda *_: None, reloading=lambda: None)

    def _reload(self, argv: list[str]) -> Any:
        del argv
        return self.world.reload

    def _gauge(self, scope: Scope, procfs: object) -> SimGauge | TreeGauge:
        del procfs
        return TreeGauge(scope) if scope.kind is Kind.TREE else SimGauge(self.world, scope)


class _Pipe:
    def is_ready(self) -> bool:
        """Nobody asks."""
        return False
