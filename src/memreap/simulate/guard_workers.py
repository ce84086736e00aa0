"""The guard's children on a machine of choices: scouts, scribes, reapers; and how each may fail.

A worker here is what ``memreap.linux.worker.Worker`` is to its parent: told, heard, given up. What
its child does is done at once or later, by the machine's clock. Messages pass through JSON, as they
do on a real socket.
"""

import errno
import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol

from memreap.decide import pace
from memreap.linux.procfs import PAGE_SIZE_BYTES, Memory
from memreap.reap.facts import Facts
from memreap.simulate.guard_machine import Fate, Process
from memreap.simulate.guard_world import World

LOOK_S = (0.001, 0.004, 0.02, 0.12)
STRIKE_S = (0.0002, 0.002, 0.03)
REAP_S = (0.001, 0.01, 0.05)
WRITE_S = (0.001, 0.05, 3.0)
AWAITED_S = 0.05
MEASURE_FLOOR_S = 0.02  # a tree near its line; the real scout goes down to 2 ms, which costs turns


class Role(Protocol):
    """What the child does."""

    def obey(self, message: dict[str, Any], fds: list[int]) -> None:
        """Take a message."""
        ...

    def begin(self) -> None:
        """It was forked."""
        ...


class SimWorker:
    """The parent's side. ``ended``: it has heard that the child is gone."""

    living: ClassVar[set[int]] = set()

    def __init__(self, world: World, make: Callable[["SimWorker"], Role], name: str) -> None:
        """Fork. Raises OSError."""
        if world.faulty("fork fails", 6):
            world.machine.tell(f"no {name} can be forked")
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.world, self.name = world, name
        self._said: deque[tuple[object, list[Any]]] = deque()
        self.is_gone = False  # the child is
        self.ended = self.closed = False
        self.pid = next(world.worker_pids)
        self._fd = world.machine.open(self)
        self.role = make(self)
        self.role.begin()

    # As a descriptor.

    def is_ready(self) -> bool:
        """A message waits, or it is gone."""
        return bool(self._said) or self.is_gone

    def fileno(self) -> int:
        """What to poll."""
        return self._fd

    # As the parent sees it.

    def tell(self, message: object, fds: list[int] | None = None) -> bool:
        """Send; False where it is gone, or full."""
        if self.closed or self.is_gone:
            return False
        if self.world.faulty("lines are full", 40):
            return False
        heard = json.loads(json.dumps(message))
        self.role.obey(heard, list(fds or []))
        return True

    def hear(self) -> Iterator[tuple[object, list[int]]]:
        """What waits; descriptors are opened as they are received, if there is room."""
        while not self.ended:
            if not self._said:
                self.ended = self.is_gone
                return
            message, held = self._said.popleft()
            yield message, self._received(held)

    def _received(self, held: list[Any]) -> list[int]:
        fds = []
        for process in held:
            try:
                fds.append(self.world.machine.open(process))
            except OSError:
                break  # the kernel gives the first ones, and drops the rest
        return fds

    def hear_within(self, timeout_s: float) -> Iterator[tuple[object, list[int]]]:
        """Wait: the core may do so only where it parts with somebody."""
        machine = self.world.machine
        until_s = machine.now_s + timeout_s
        while not self.ended and machine.now_s < until_s:
            machine.wait(until_s, self.is_ready)
            yield from self.hear()

    def give_up(self) -> None:
        """SIGKILL, and never wait."""
        self.is_gone = True
        self.close()

    def part(self, timeout_s: float) -> None:
        """Let it go by itself."""
        del timeout_s
        self.give_up()

    def close(self) -> None:
        """Let go."""
        if not self.closed:
            self.ended = self.closed = True
            self.world.machine.close(self._fd)

    # As the child does it.

    def say(self, message: object, held: list[Process] | None = None) -> None:
        """A message to the parent."""
        self.post(json.loads(json.dumps(message)), held)

    def post(self, message: object, held: list[Process] | None = None) -> None:
        """One that is as JSON makes it already: looks are many, and large."""
        if not self.is_gone:
            self._said.append((message, list(held or [])))

    def die(self, why: str) -> None:
        """The child is gone."""
        if not self.is_gone:
            self.world.machine.tell(f"a {self.name} is lost: {why}")
            self.is_gone = True


class SimMark:
    """Whom a scout reads."""

    def __init__(self) -> None:
        """Nobody."""
        self._at = (0, False)

    def set(self, pid: int, *, waits: bool = False) -> None:
        """Note it."""
        self._at = (pid, waits)

    def get(self) -> tuple[int, bool]:
        """(pid or 0, whether a file that waits is read)."""
        return self._at


class SimScout:
    """Looks when it is told to, and from time to time by itself."""

    def __init__(self, worker: SimWorker, mark: SimMark) -> None:
        """Knows nobody."""
        self._worker, self._world, self._mark = worker, worker.world, mark
        self._wards: dict[str, dict[str, Any]] = {}
        self._every: dict[str, float] = {}
        self._doomed: dict[int, Process] = {}  # a number that passes on is free again
        self._avoided: set[int] = set()
        self._turns: dict[str, object] = {}  # of trees: which order to measure is in force
        self._usage: dict[str, int] = {}  # of trees: the last
        self._paced: dict[str, float] = {}  # and how long ago it was measured when the next one is
        self._busy = False
        self._wanted: deque[str] = deque()
        self._asked: set[str] = set()  # of those, whose look was asked for

    def begin(self) -> None:
        """It may be short-lived."""
        if self._world.faulty("scouts die", 8):
            self._world.machine.after(self._world.choices.choose(20) * 0.1, self._die)

    def _die(self) -> None:
        if self._world.has_faults:
            self._worker.die("killed")

    def obey(self, message: dict[str, Any], fds: list[int]) -> None:
        """An order."""
        del fds
        match message:
            case {"ward": dict(raw)}:
                self._wards[str(raw["name"])] = raw
                if raw["kind"] == "tree":
                    self._measure_after(str(raw["name"]), 0.002)
            case {"forget": str(name)}:
                self._wards.pop(name, None)
                self._every.pop(name, None)
            case {"look": str(name)} if name in self._wards:
                self._asked.add(name)
                self._want(name)
            case {"watch": str(name), "every_s": every_s}:
                began = name not in self._every
                self._every[name] = float(every_s)
                if began:
                    self._again(name)
            case {"rest": str(name)}:
                self._every.pop(name, None)
            case _:
                self._learn(message)

    def _learn(self, message: dict[str, Any]) -> None:
        match message:
            case {"doomed": list(pids)}:
                there = self._world.machine.processes
                self._doomed.update({pid: there[pid] for pid in pids if pid in there})
                for name in self._turns:
                    self._measure_after(name, AWAITED_S)
            case {"spared": list(pids)}:
                for pid in pids:
                    self._doomed.pop(pid, None)
            case {"avoid": int(pid)}:
                self._avoided.add(pid)

    def _again(self, name: str) -> None:
        every_s = self._every.get(name)
        if every_s is None or self._worker.is_gone:
            return
        self._want(name)
        self._world.machine.after(max(every_s, 0.02), lambda: self._again(name))

    def _want(self, name: str) -> None:
        if name not in self._wanted:
            self._wanted.append(name)
        self._next()

    def _next(self) -> None:
        if self._busy or not self._wanted or self._worker.is_gone:
            return
        world, name = self._world, self._wanted.popleft()
        self._busy = True
        began_s = world.machine.now_s
        there = [p for p in world.machine.processes.values() if name in p.domains]
        read = [p for p in there if p.pid not in self._avoided and self._doomed.get(p.pid) is not p]
        for process in read:
            world.laws.is_read(process, self._worker)
            if process.tarpit and world.has_faults:
                self._mark.set(process.pid, waits=True)
                process.shunned = True
                world.machine.tell(f"a scout hangs on {process.comm} ({process.pid})")
                return  # for ever
        took_s = world.choices.pick(LOOK_S) if world.may("scouts are slow") else LOOK_S[0]
        world.machine.after(took_s, lambda: self._tell(name, read, began_s, took_s))

    def _tell(self, name: str, read: list[Process], began_s: float, took_s: float) -> None:
        self._busy = False
        if name in self._wards and not self._worker.is_gone:
            living = [p for p in read if p.exited_s is None]
            exiting = [p for p in living if self._world.is_exiting(p, name)]
            there = [p for p in living if p not in exiting]
            held = [p for p in there if not self._world.is_spared(p)]
            held += exiting
            self._worker.post({"held": [list(p.identity) for p in held], "of": 1}, held)
            look = {
                "domain": name,
                "number": 1,
                "read_s": began_s,
                "took_s": took_s,
                "seen": [self._world.seen(p) for p in there],
                "others": 0,
                "others_pages": 0,
                "full_s": began_s,
                "newest_pid": self._world.newest_pid,
                "bound": False,
                "exiting": [self._world.seen(p)["candidate"] for p in exiting],
            }
            if name in self._asked and self._wards[name]["kind"] == "tree":
                turn = self._turns[name] = object()
                self._measure(name, turn)
            self._asked.discard(name)
            self._worker.post({"look": look})
        self._next()

    def _measure_after(self, name: str, delay_s: float) -> None:
        turn = self._turns[name] = object()
        self._world.machine.after(delay_s, lambda: self._measure(name, turn))

    def _measure(self, name: str, turn: object) -> None:
        ward, machine = self._wards.get(name), self._world.machine
        if ward is None or self._worker.is_gone or self._turns.get(name) is not turn:
            return
        usage_bytes = self._world.usage_bytes(name)
        limit_bytes = self._world.places[name].limit_bytes
        growth = (usage_bytes - self._usage.get(name, usage_bytes)) / self._paced.get(name, 1.0)
        next_s = pace.interval_s(usage_bytes, limit_bytes, growth)
        dying = {p.mm for p in self._doomed.values() if name in p.domains}
        victim_bytes = int(sum(mm.at(machine.now_s) for mm in dying)) if dying else None
        if victim_bytes:
            next_s = min(next_s, AWAITED_S)
        next_s = max(next_s, MEASURE_FLOOR_S)
        self._usage[name], self._paced[name] = usage_bytes, next_s
        if not (self._busy and self._mark.get()[0]):  # one that hangs brings nothing
            members = [
                list(p.identity)
                for p in machine.processes.values()
                if name in p.domains and p.killed_s is None
            ]
            self._worker.post(
                {
                    "usage": name,
                    "read_s": machine.now_s,
                    "next_s": next_s,
                    "usage_bytes": usage_bytes,
                    "victim_bytes": victim_bytes,
                    "members": members,
                    "empty": False,
                }
            )
        machine.after(next_s, lambda: self._measure(name, turn))


class SimScribe:
    """Writes down what it is told, sooner or later."""

    def __init__(self, worker: SimWorker) -> None:
        """Nothing is written."""
        self._worker, self._world = worker, worker.world
        self._is_deaf = False
        self._free_s = 0.0

    def begin(self) -> None:
        """It may be short-lived, or deaf."""
        world = self._world
        if world.faulty("scribes die", 6):
            world.machine.after(world.choices.choose(30) * 0.2, self._die)
        self._is_deaf = world.faulty("scribes are deaf", 10)

    def _die(self) -> None:
        if self._world.has_faults:
            self._worker.die("killed")

    def obey(self, message: dict[str, Any], fds: list[int]) -> None:
        """Something to be written down, or said."""
        del fds
        if "say" in message:
            self._world.laws.is_said(str(message["say"]), self._worker)
        if "turn" not in message:
            return
        world = self._world
        if self._is_deaf and world.has_faults:  # it hears all of it once the fault is over
            self._free_s = max(self._free_s, world.heals_s)
        delay_s = world.choices.pick(WRITE_S) if world.may("disks are slow") else WRITE_S[0]
        # One after another: what is acknowledged stands for all before it.
        self._free_s = max(self._free_s, world.machine.now_s) + delay_s
        world.machine.after(self._free_s - world.machine.now_s, lambda: self._write(message))

    def _write(self, turn: dict[str, Any]) -> None:
        if not self._worker.is_gone:
            self._world.laws.is_written(turn)
            self._worker.say({"acked": turn["turn"]})


class SimReaper:
    """Kills and reaps one victim."""

    def __init__(self, worker: SimWorker) -> None:
        """Waits for its order."""
        self._worker, self._world = worker, worker.world
        self._victim: Process | None = None
        self._others: list[Process] = []
        self._clap: Callable[[], None] = lambda: None
        self._attempts = 0

    def begin(self) -> None:
        """Nothing happens before the order."""

    def obey(self, message: dict[str, Any], fds: list[int]) -> None:
        """The order, for one that waited."""
        processes = [self._world.machine.process(fd) for fd in fds[: 1 + len(message["sharers"])]]
        facts = [Facts.from_message(raw) for raw in (message["facts"], *message["sharers"])]
        self.take(processes, facts, by_owner=bool(message["go"]))

    def take(self, processes: list[Process], facts: list[Facts], *, by_owner: bool) -> None:
        """Who is to die. ``by_owner``: the core kills, this one only reaps."""
        world = self._world
        world.laws.is_ordered(processes, facts)
        self._victim, *self._others = processes
        if world.faulty("reapers die", 8):
            world.machine.after(0.0001, lambda: self._worker.die("killed before it could kill"))
            return
        delay_s = world.choices.pick(STRIKE_S) if world.may("reapers are slow") else STRIKE_S[0]
        if world.faulty("reapers hang", 12):
            return
        strike = self._wait_for_owner if by_owner else self._strike
        world.machine.after(delay_s, strike)

    def _wait_for_owner(self) -> None:
        assert self._victim is not None
        if self._worker.is_gone:
            return
        if self._victim.killed_s is None:
            self._world.machine.after(0.001, self._wait_for_owner)
            return
        self._worker.say({"kills": [0], "held": "not held"})
        self._reap()

    def _strike(self) -> None:
        world, victim = self._world, self._victim
        assert victim is not None
        if self._worker.is_gone:
            return
        refuses = world.faulty("kills are not permitted", 10)
        sharing = [
            p
            for p in world.machine.processes.values()
            if p.mm is victim.mm and p is not victim and p not in self._others
        ]
        if refuses:
            for process in (victim, *self._others, *sharing):
                process.refused = True
        for sharer in sharing:
            if sharer.protected:
                reason = f"shares its memory with pid {sharer.pid}: protected by policy"
                self._worker.say({"refused": reason})
                return
            self._others.append(sharer)
            self._worker.say({"sharer": world.facts(sharer).as_message()}, [sharer])
        world.clappers[self._worker.pid].clap()
        if refuses:
            self._worker.say({"kills": [errno.EPERM], "held": "not held"})
            return
        for process in (victim, *self._others):
            world.machine.kill(process)
        self._worker.say({"kills": [0] * (1 + len(self._others)), "held": "not held"})
        delay_s = world.choices.pick(REAP_S) if world.may("reaps are slow") else REAP_S[0]
        world.machine.after(delay_s, self._reap)

    def _reap(self) -> None:
        world, victim = self._world, self._victim
        assert victim is not None
        if self._worker.is_gone or (victim.fate is Fate.STUCK and victim.exited_s is None):
            return  # process_mrelease waits for mmap_lock, for ever
        self._attempts += 1
        code = errno.ENOSYS if world.may("no process_mrelease") else world.machine.reap(victim)
        if code == errno.EINVAL and self._attempts < 50:
            world.machine.after(0.01, self._reap)
            return
        self._worker.say({"mrelease": code, "shared": code == errno.EINVAL})
        evidence = {
            "mrelease": code,
            "attempts": self._attempts,
            "released_s": world.machine.now_s,
            "oom_score": None,
            "usage_fell_bytes": None,
        }
        self._worker.say({"evidence": evidence})
        self._worker.is_gone = True


def facts_of(process: Process, held_bytes: int) -> Facts:
    """What a scout knows of one before the kill."""
    return Facts(
        pid=process.pid,
        start_ticks=process.start_ticks,
        comm=process.comm,
        state="S",
        ppid=1,
        kernel_thread=False,
        tids=(process.pid,),
        thread_states="S",
        oom_score=0,
        oom_score_adj=0,
        memory=Memory(rss_anon_bytes=held_bytes),
        usage_file=None,
    )


def seen_of(
    process: Process, held_bytes: int, sharers: tuple[int, ...], barred: str
) -> dict[str, Any]:
    """How a scout tells of one: what ``Look.as_message`` makes of it, without making it."""
    pages = held_bytes // PAGE_SIZE_BYTES
    facts = {
        "pid": process.pid,
        "start_ticks": process.start_ticks,
        "comm": process.comm,
        "state": "S",
        "ppid": 1,
        "kernel_thread": False,
        "tids": [process.pid],
        "thread_states": "S",
        "oom_score": 0,
        "oom_score_adj": 0,
        "memory": {"rss_anon_bytes": held_bytes},
        "usage_file": None,
    }
    candidate = {
        "members": [list(process.identity)],
        "name": process.comm,
        "rss_pages": pages,
        "swap_pages": 0,
        "page_table_pages": 0,
        "oom_score_adj": process.oom_score_adj,
        "has_mm": True,
        "is_kernel_thread": False,
        "tier": process.tier,
        "barred": barred,
        "domains": sorted(process.domains),
    }
    return {
        "candidate": candidate,
        "facts": [] if barred else [facts],
        "sharers": list(sharers),
        "uid": 0,
        "user": "",
        "command": "",
        "cgroup": "",
        "unit": "",
    }
