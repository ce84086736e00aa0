"""What a domain uses and may use, as the core reads it: on kept descriptors, never waiting.

Only figures live here. Every domain is told as one number against one line, so that its life can
be the same whatever runs out: ``limit_bytes - usage_bytes`` is how far the line is away.
Where RAM and swap can both run out, the domain is over its line when both are.
"""

import contextlib
import os
import select
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from memreap.guard.settings import Kind, Scope
from memreap.linux.cgroups import CgroupMemory, Events, Threshold
from memreap.linux.meminfo import Meminfo
from memreap.linux.numa import Node
from memreap.linux.pressure import Pressure, Trigger
from memreap.linux.procfs import Procfs

TRIGGER_STALL_US = 100_000
TRIGGER_WINDOW_US = 1_000_000
# Where v1's bell is hung, in shares of the way to the line.
BELLS = (0.5, 0.75, 0.9, 1.0)
AVERAGE_S = 10.0  # what the kernel's avg10 looks back on
TELLING_S = 2.0  # a share of less time says little
LIMIT_AGE_MAX_S = 5.0
MUTED_S = 0.2
BOUND_AGE_MAX_S = 5.0
DEFAULT_CGROUP_SHARE = 0.95
DEFAULT_NODE_SHARE = 0.97


class Gone(Exception):  # noqa: N818 - an answer, not an error
    """The domain is not there any more, or cannot be had; and why."""


class Figures(NamedTuple):
    """One reading."""

    usage_bytes: int
    limit_bytes: int
    whole_bytes: int  # what oom_score_adj is a share of
    stall_share: float | None  # of the last 10 s, in which everything stood still for memory
    details: dict[str, float]
    end_bytes: int | None = None  # the most that can be in use, where that is not the whole


class Gauge(Protocol):
    """Reads one domain."""

    means: list[str]  # what it lacks here
    alarms: dict[int, int]  # descriptor -> what to poll it for

    def read(self, now_s: float) -> Figures | None:
        """The figures now; None where they are brought by the scout. Raises Gone."""
        ...

    def restart(self, now_s: float) -> None:
        """A victim was released, or the machine slept: stalls are counted anew."""
        ...

    def glance(self) -> int:
        """At least what is in use, as cheaply as can be. Raises OSError."""
        ...

    def ring(self, fd: int) -> str:
        """Silence an alarm that rang; what people should know of it."""
        ...

    def rests(self, usage_bytes: int) -> bool:
        """Whether an alarm will wake us before the line is near: no need to look often."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class Stalls:
    """Time lost to memory, and the kernel's alarm on it, where there are such."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        """``path``: of a pressure file; without one, nothing is known."""
        self.missing = ""
        self.trigger: Trigger | None = None
        self._pressure: Pressure | None = None
        self._restart_s, self._total_us = -1e9, -1
        try:
            if path is None:
                raise FileNotFoundError(2, "no such file")
            self._pressure = Pressure(path)
            try:
                self.trigger = Trigger(path, "some", TRIGGER_STALL_US, TRIGGER_WINDOW_US)
            except OSError as error:
                self.missing = (
                    f"no PSI alarm ({error.strerror}): stalls are seen only near the line"
                )
        except OSError as error:
            self.missing = f"no PSI ({error.strerror}): stalls are not seen, only the counters"

    def share(self, now_s: float) -> float | None:
        """Of the last 10 s, or since ``restart``; None where that is not known, or too short."""
        if self._pressure is None:
            return None
        try:
            stall = self._pressure.read()
        except OSError:
            return None
        since_s = now_s - self._restart_s
        if since_s >= AVERAGE_S:
            return stall.full_avg10 / 100
        if self._total_us < 0:
            self._total_us = stall.full_total_us
        if since_s < TELLING_S:
            return None
        return (stall.full_total_us - self._total_us) / 1e6 / since_s

    def restart(self, now_s: float) -> None:
        """Count anew: what stood still before a victim's release says nothing of the time after."""
        self._restart_s, self._total_us = now_s, -1

    @property
    def alarms(self) -> dict[int, int]:
        """What to poll."""
        return {self.trigger.fileno(): select.POLLPRI} if self.trigger else {}

    def close(self) -> None:
        """Let go of it."""
        for kept in (self._pressure, self.trigger):
            if kept is not None:
                kept.close()
        self._pressure = self.trigger = None


class SystemGauge:
    """The machine, for everybody or for one user: RAM and swap together."""

    def __init__(self, scope: Scope, procfs: Procfs) -> None:
        """Open it. Raises OSError."""
        self._scope = scope
        self._meminfo = Meminfo(procfs)
        self._stalls = Stalls(f"{procfs.root}/pressure/memory")
        self.means = [self._stalls.missing] if self._stalls.missing else []
        self.alarms = self._stalls.alarms

    def read(self, now_s: float) -> Figures:
        """From /proc/meminfo."""
        memory, scope = self._meminfo.read(), self._scope
        spare = memory.available_bytes - scope.available_min.of(memory.total_bytes)
        beyond = scope.available_min.of(memory.total_bytes)
        limit_bytes = memory.total_bytes - beyond
        if memory.swap_total_bytes:
            swap_min = scope.swap_free_min.of(memory.swap_total_bytes)
            spare = max(spare, memory.swap_free_bytes - swap_min)
            beyond = min(beyond, swap_min)  # of which something is left as long as of either
        details: dict[str, float] = {
            "available_bytes": memory.available_bytes,
            "swap_free_bytes": memory.swap_free_bytes,
            "tmpfs_bytes": memory.tmpfs_bytes,
            "zram_bytes": memory.zram_bytes,
        }
        whole = memory.total_bytes + memory.swap_total_bytes
        stall = self._stalls.share(now_s)
        usage_bytes, end_bytes = max(0, limit_bytes - spare), limit_bytes + beyond
        return Figures(usage_bytes, limit_bytes, whole, stall, details, end_bytes)

    def glance(self) -> int:
        """The same: it is one read."""
        return self.read(0.0).usage_bytes

    def restart(self, now_s: float) -> None:
        """Count stalls anew."""
        self._stalls.restart(now_s)

    def ring(self, fd: int) -> str:
        """A trigger silences itself."""
        del fd
        return ""

    def rests(self, usage_bytes: int) -> bool:
        """A stall comes late: never."""
        del usage_bytes
        return False

    def close(self) -> None:
        """Let go of everything."""
        self._meminfo.close()
        self._stalls.close()


class CgroupGauge:
    """A memory cgroup: what it holds and cannot give back, against its own limit or ours."""

    def __init__(self, scope: Scope, procfs: Procfs) -> None:
        """Open it. Raises OSError, or Gone where it has no limit and none was given."""
        self._scope = scope
        self._memory = CgroupMemory(Path(scope.path))
        self._system = Meminfo(procfs)
        self._limit_s = -1e9
        self._limit_bytes = self._whole_bytes = 0
        self._high_bytes: int | None = None
        self._bells: list[Threshold] = []
        self._bell_marks: tuple[int, ...] = ()
        self._events: Events | None = None
        self._kernel_kills: int | None = None
        self._muted_s = -1e9
        self._stalls = Stalls(self._memory.pressure_path())
        self.means = [self._stalls.missing] if self._stalls.missing else []
        self.alarms: dict[int, int] = {}
        try:
            self._settle_limit(0.0)
        except BaseException:
            self.close()
            raise
        with contextlib.suppress(OSError):
            self._events = Events(Path(scope.path))
            self._kernel_kills = self._events.read().get("oom_kill", 0)
            self.alarms[self._events.fileno()] = select.POLLPRI
        self.alarms |= self._stalls.alarms

    def read(self, now_s: float) -> Figures:
        """Cheaply while it is far from its line; what can be reclaimed is asked for near it."""
        if self._events is not None and now_s - self._muted_s > MUTED_S:
            self.alarms[self._events.fileno()] = select.POLLPRI
        try:
            if now_s - self._limit_s > LIMIT_AGE_MAX_S:
                self._settle_limit(now_s)
            usage, limit = self._memory.usage_bytes(), self._limit_bytes
            details: dict[str, float] = {"charged_bytes": usage}
            if self._high_bytes is not None:
                details["high_bytes"] = self._high_bytes
            near = usage > min(limit, self._high_bytes or limit) * BELLS[0]
            if near:
                reclaimable = self._memory.reclaimable_bytes()
                details["reclaimable_bytes"] = reclaimable
                usage = max(0, usage - reclaimable)
            if usage > limit and (room := self._swap_room_bytes()) > 0:
                details["swap_room_bytes"] = room
                usage = max(0, limit - room)
        except OSError as error:
            raise Gone(f"{self._scope.path}: {error.strerror}") from error
        stall = self._stalls.share(now_s) if near else None
        return Figures(usage, limit, self._whole_bytes, stall, details)

    def glance(self) -> int:
        """What is charged to it."""
        return self._memory.usage_bytes()

    def restart(self, now_s: float) -> None:
        """Count stalls anew."""
        self._stalls.restart(now_s)

    def ring(self, fd: int) -> str:
        """Silence a bell, or read the events."""
        for bell in self._bells:
            if bell.fileno() == fd:
                bell.drain()
        if self._events is not None and self._events.fileno() == fd:
            # A group that lives at its limit rings all the time: heard again a little later.
            self._muted_s = time.monotonic()
            self.alarms.pop(fd, None)
            try:
                kills = self._events.read().get("oom_kill", 0)
            except OSError as error:
                raise Gone(f"{self._scope.path}: {error.strerror}") from error
            before, self._kernel_kills = self._kernel_kills, kills
            if before is not None and kills > before:
                return f"the kernel's own OOM killer was faster here ({kills} killed in all)"
        return ""

    def rests(self, usage_bytes: int) -> bool:
        """Below the first bell."""
        return bool(self._bell_marks) and usage_bytes < self._bell_marks[0]

    def close(self) -> None:
        """Let go of everything."""
        self._memory.close()
        self._system.close()
        self._stalls.close()
        for kept in (*self._bells, self._events):
            if kept is not None:
                kept.close()
        self._bells, self._events = [], None

    def _settle_limit(self, now_s: float) -> None:
        """Read its limit anew; somebody may have changed it."""
        total = self._system.read().total_bytes
        own = self._memory.limit_bytes(total)
        wanted = self._scope.limit
        if own is None and (wanted is None or wanted.bytes is None):
            raise Gone(f"{self._scope.path} has no memory limit: give one (--limit 4G, limit = )")
        self._whole_bytes = total if own is None else own
        share = wanted.of(self._whole_bytes) if wanted else 0
        limit = share or int(self._whole_bytes * DEFAULT_CGROUP_SHARE)
        if own is None:
            self._whole_bytes = limit
        self._limit_s = now_s
        self._high_bytes = self._memory.high_bytes()
        if limit != self._limit_bytes:
            self._limit_bytes = limit
            self._hang_bells()

    def _hang_bells(self) -> None:
        for bell in self._bells:
            self.alarms.pop(bell.fileno(), None)
            bell.close()
        self._bells, marks = [], tuple(int(share * self._limit_bytes) for share in BELLS)
        with contextlib.suppress(OSError):
            for mark in marks:
                self._bells.append(Threshold(Path(self._scope.path), mark))
        self._bell_marks = marks if len(self._bells) == len(marks) else ()
        self.alarms |= {bell.fileno(): select.POLLIN for bell in self._bells}

    def _swap_room_bytes(self) -> int:
        """What could still be swapped out before swap counts as full."""
        system = self._system.read()
        if not system.swap_total_bytes:
            return 0
        free = system.swap_free_bytes
        total, own = system.swap_total_bytes, self._memory.swap_left_bytes()
        if own is not None:
            total, free = min(total, own.limit_bytes), min(free, own.left_bytes)
        return free - self._scope.swap_free_min.of(total)


class Silent:
    """A gauge that nothing wakes, and that knows of no stalls."""

    def restart(self, now_s: float) -> None:
        """There are none to count anew."""

    def ring(self, fd: int) -> str:
        """There is no alarm."""
        del fd
        return ""


class NodeGauge(Silent):
    """A NUMA node. Full is not enough: it counts only while somebody may use no other node."""

    def __init__(self, scope: Scope, number: int) -> None:
        """Open it. Raises OSError."""
        self._limit = scope.limit
        self._node = Node(number)
        self.number = number
        self.means: list[str] = []
        self.alarms: dict[int, int] = {}
        self.bound_s = -1e9  # when a look last found somebody who is bound to it

    def read(self, now_s: float) -> Figures:
        """From the node's meminfo."""
        try:
            memory = self._node.read()
        except OSError as error:
            raise Gone(f"node {self.number}: {error.strerror}") from error
        whole = memory.total_bytes
        limit = (self._limit.of(whole) if self._limit else 0) or int(whole * DEFAULT_NODE_SHARE)
        usage = whole - memory.available_bytes
        details: dict[str, float] = {"available_bytes": memory.available_bytes}
        if usage > limit and now_s - self.bound_s > BOUND_AGE_MAX_S:
            details["unbound_usage_bytes"] = usage
            usage = limit
        return Figures(usage, limit, whole, None, details)

    def glance(self) -> int:
        """The same: it is one read."""
        memory = self._node.read()
        return memory.total_bytes - memory.available_bytes

    def rests(self, usage_bytes: int) -> bool:
        """There is no alarm."""
        del usage_bytes
        return False

    def close(self) -> None:
        """Let go of it."""
        self._node.close()


class TreeGauge(Silent):
    """A process tree: read by the scout, since its files pin an mm."""

    def __init__(self, scope: Scope) -> None:
        """Nothing was brought yet."""
        self.limit_bytes = scope.limit.bytes or 0 if scope.limit else 0
        self.means: list[str] = []
        self.alarms: dict[int, int] = {}

    def read(self, now_s: float) -> None:
        """It is brought, not read."""
        del now_s

    def brought(self, usage_bytes: int) -> Figures:
        """What the scout read."""
        return Figures(usage_bytes, self.limit_bytes, self.limit_bytes, None, {})

    def glance(self) -> int:
        """Nothing: the scout looks."""
        return 0

    def rests(self, usage_bytes: int) -> bool:
        """The scout looks."""
        del usage_bytes
        return True

    def close(self) -> None:
        """There is nothing to let go of."""


AnyGauge = SystemGauge | CgroupGauge | NodeGauge | TreeGauge


def node_number(name: str) -> int:
    """Of a domain named ``node1``."""
    return int(name.removeprefix("node"))


def gauge(scope: Scope, procfs: Procfs) -> AnyGauge:
    """Make a scope's gauge. Raises Gone, with a reason for people, where that cannot be."""
    try:
        match scope.kind:
            case Kind.SYSTEM | Kind.OWN:
                return SystemGauge(scope, procfs)
            case Kind.CGROUP:
                return CgroupGauge(scope, procfs)
            case Kind.NODE:
                return NodeGauge(scope, node_number(scope.name))
            case Kind.TREE:
                return TreeGauge(scope)
    except OSError as error:
        raise Gone(f"{scope.name}: {error.filename or ''} {error.strerror}") from error
