"""The worker that kills one victim and reaps it: boost, hold, SIGKILL, process_mrelease.

It runs in a process of its own, because process_mrelease may wait for the victim's mmap_lock for
ever, and only the death of the caller ends that wait. All is prepared first; then SIGKILL and the
reap follow each other at once, from SCHED_FIFO where permitted.

A large mm gets a second hand: two reaps of one mm do not repeat each other's work, since the pages
that one has unmapped are freed outside of the page-table lock, where the other goes on. It stands
below the victim: it works where the victim's own exit does not.
"""

import contextlib
import errno
import mmap
import os
import signal
import struct
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from memreap.linux import scheduling, syscalls
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Line, has_exited
from memreap.reap import facts, release
from memreap.reap import hold as hold_
from memreap.reap.boost import Boost
from memreap.reap.release import Evidence
from memreap.reap.sharers import sharers
from memreap.reap.survey import Found
from memreap.reap.victim import Victim

SECOND_HAND_BYTES_MIN = 32 << 20  # below, the reap is done before a second hand has begun
SECOND_HAND_NAP_S = 0.0002
RETRY_NAP_S = 0.002
LATE_S = 0.1  # since the order: from then on the kill comes before what only helps it
WITNESS_NAP_S = 0.0003
WITNESS_WAIT_S = 0.05
_STATE = struct.Struct("d?")  # when SIGKILL was sent; whether it was called off


class Clapper:
    """When SIGKILL was sent, told through memory: the reaper may never speak again."""

    def __init__(self) -> None:
        """Shared with every process forked from here on."""
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    def clap(self) -> None:
        """Note the time (CLOCK_MONOTONIC, s) right before the first kill."""
        if self.killed_s is None:
            _STATE.pack_into(self._memory, 0, time.monotonic(), False)

    def call_off(self) -> None:
        """The kill was not permitted: nobody dies."""
        _STATE.pack_into(self._memory, 0, self.killed_s or 0.0, True)

    @property
    def killed_s(self) -> float | None:
        """When; None if not yet."""
        at_s, _ = _STATE.unpack_from(self._memory, 0)
        return at_s or None

    @property
    def called_off(self) -> bool:
        """Whether the victim lives on."""
        _, off = _STATE.unpack_from(self._memory, 0)
        return bool(off)


@dataclass(frozen=True, slots=True)
class Order:
    """What a reaper is to do."""

    victim: Victim
    hold: hold_.Mode
    several: bool  # whether others die at the same time
    clapper: Clapper
    timeout_s: float
    go: tuple[int, int] | None  # a pipe whose end says that somebody else killed; None: kill
    among: list[int] | None  # who may share the memory; None: anybody
    since_s: float  # when it was given (CLOCK_MONOTONIC)


class SecondHand(threading.Thread):
    """Reaps beside the reaper, once the victim is dying."""

    def __init__(self, order: Order, begun: threading.Semaphore) -> None:
        """``begun``: released right before the first call."""
        super().__init__(daemon=True)
        self._order, self._begun = order, begun

    def run(self) -> None:
        """Wait for the kill, then reap; what comes of it, the reaper sees too."""
        with contextlib.suppress(OSError):
            scheduling.realtime(0, scheduling.SECOND_HAND_PRIORITY)
        while self._order.clapper.killed_s is None:
            time.sleep(SECOND_HAND_NAP_S)
        time.sleep(SECOND_HAND_NAP_S)
        self._begun.release()
        for _ in range(10):
            # EINVAL: the kill is not through yet. EAGAIN: part is left.
            if syscalls.process_mrelease(self._order.victim.pidfd) not in _AGAIN:
                return
            time.sleep(SECOND_HAND_NAP_S)


_AGAIN = (errno.EINVAL, errno.EAGAIN)


class Reaper:
    """One victim's end, told in messages to whoever forked this."""

    def __init__(self, order: Order) -> None:
        """Nothing is done yet."""
        self._order = order
        self._proc = Procfs()
        self._processes = order.victim.processes
        self._begun = threading.Semaphore(0)
        self._hold: hold_.Hold | None = None
        self._second: SecondHand | None = None
        self._because: str | None = None  # why the victim is to be held
        self._told = False  # whether who shares the mm was found after the kill
        self._shared = False  # whether the kernel said that a live process has the mm

    def run(self, line: Line) -> None:
        """The whole life of the worker."""
        order = self._order
        if order.go is not None:
            with contextlib.suppress(OSError):  # one in waiting has none
                os.close(order.go[1])  # the owner's copy must be the last one
        how = scheduling.hurry(0, scheduling.REAPER_PRIORITY)
        self._because = hold_.wanted(
            order.hold,
            order.victim.facts,
            several=order.several,
            realtime=how == "fifo",
            aio_nr=self._proc.aio_nr(),
        )
        usage_bytes = self._usage_bytes()
        if self._join_latecomers(line):
            return
        hands = 1 if self._late else self._call_second_hand()
        held = "not held: there was no time" if self._late else self._seize(hands)
        boost = Boost(self._processes, self._proc)
        if order.go is not None and not self._wait_for_kill(order.go[0], line):
            boost.undo()
            return
        kills, code = self._strike()
        if any(number not in (0, errno.ESRCH) for number in kills):
            boost.undo()
        line.say({"kills": kills, "held": held, "reaper": how, "boost": sorted(boost.how)})
        attempts, code = self._retry(code, line)
        if self._second and code == 0:
            self._second.join(order.timeout_s)
        # ESRCH, once those who shared it were found and killed: all of them are on their way out.
        kept = self._shared and (code == errno.EINVAL or (code != 0 and not self._told))
        line.say({"mrelease": code, "shared": kept})
        fell_bytes = self._witness(usage_bytes) if code == 0 else self._fell(usage_bytes)
        evidence = Evidence(
            mrelease=code,
            attempts=attempts,
            released_s=time.monotonic(),
            oom_score=self._oom_score(),
            usage_fell_bytes=fell_bytes,
        )
        line.say({"evidence": asdict(evidence)})

    @property
    def _late(self) -> bool:
        """Whether the machine is so slow that the kill must not wait any longer."""
        return self._order.go is None and time.monotonic() - self._order.since_s > LATE_S

    def _join_latecomers(self, line: Line) -> bool:
        """Let die with it who came to share the mm since the survey; True if one must not."""
        known = {pid for pid, _ in self._processes}
        facts_ = [self._order.victim.facts]
        for _, pid in sharers(facts_, self._proc, self._order.among):
            if pid in known:
                continue
            with contextlib.suppress(OSError):
                found = Found(facts.quick(pid, self._proc), os.pidfd_open(pid))
                reason = self._order.victim.rules.refusal(found)
                if reason:
                    line.say({"refused": f"shares its memory with pid {pid}: {reason}"})
                    return True
                self._processes.append((pid, found.pidfd))
                line.say({"sharer": found.facts.as_message()}, [found.pidfd])
        return False

    def _call_second_hand(self) -> int:
        """How many hands there will be."""
        if self._order.victim.memory.rss_anon_bytes < SECOND_HAND_BYTES_MIN:
            return 1
        second = SecondHand(self._order, self._begun)
        try:
            second.start()
        except RuntimeError:  # no thread left
            return 1
        self._second = second
        return 2

    def _seize(self, hands: int) -> str:
        if not self._because:
            return "not held"
        pid, pidfd = self._processes[0]
        tid = self._order.victim.facts.living_tid

        def is_its_own() -> bool:
            return tid in self._proc.threads(pid) and not has_exited(pidfd)

        # Where the exit may hang, the second hand must have begun as well; else it is not needed.
        hung = self._because in (hold_.HANGS, hold_.MAY_HANG)
        self._hold = hold_.Hold(tid, is_its_own, self._begun, hands if hung else 1)
        if self._hold.seize():
            return f"held: {self._because}"
        return f"could not be held: {self._hold.error}"

    def _wait_for_kill(self, go: int, line: Line) -> bool:
        """Wait until the owner has killed; False where it did not, or is gone."""
        # The end of the pipe tells of the owner's end too, and then a boost must be undone.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
        line.say({"ready": True})
        os.read(go, 1)
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        clapper = self._order.clapper
        return clapper.killed_s is not None and not clapper.called_off

    def _witness(self, before_bytes: int | None) -> int | None:
        """Look at the cgroup's counter until it has fallen: what the exit gathered comes late."""
        deadline_s = time.monotonic() + WITNESS_WAIT_S
        while True:
            fell_bytes = self._fell(before_bytes)
            seen = release.witnessed(self._order.victim.memory, fell_bytes)
            if seen or fell_bytes is None or time.monotonic() > deadline_s:
                return fell_bytes
            time.sleep(WITNESS_NAP_S)

    def _strike(self) -> tuple[list[int], int]:
        self._begun.release()
        pidfds = [pidfd for _, pidfd in self._processes]
        if self._order.go is None:
            self._order.clapper.clap()
            return syscalls.kill_and_mrelease(pidfds)
        return [0] * len(pidfds), syscalls.process_mrelease(pidfds[0])

    def _retry(self, code: int, line: Line) -> tuple[int, int]:
        """Call again while that can help: (calls made, the last errno)."""
        attempts, deadline_s = 1, time.monotonic() + self._order.timeout_s
        while code in _AGAIN and time.monotonic() < deadline_s:
            if code == errno.EINVAL and not self._shared:
                self._shared = True
                self._tell_sharers(line)
            time.sleep(RETRY_NAP_S)
            code = syscalls.process_mrelease(self._processes[0][1])
            attempts += 1
        return attempts, code

    def _tell_sharers(self, line: Line) -> None:
        """A live process has the mm: say who, as long as a hold keeps the mm comparable."""
        if self._hold:
            self._hold.busy = True
        known = {pid for pid, _ in self._processes}
        victim = self._order.victim.facts
        # Everyone is asked now: the shortlist, if there was one, does not tell.
        for _, pid in sharers([victim], self._proc, every_thread=True):
            if pid not in known:
                with contextlib.suppress(OSError):
                    found = facts.quick(pid, self._proc).as_message()
                    line.say({"sharer": found}, [os.pidfd_open(pid)])
                    self._told = True
        if self._hold:
            self._hold.busy = False

    def _oom_score(self) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return self._proc.oom_score(self._order.victim.pid)
        return None

    def _usage_bytes(self) -> int | None:
        file = self._order.victim.facts.usage_file
        if file is not None:
            with contextlib.suppress(OSError, ValueError):
                return int(Path(file).read_text())
        return None

    def _fell(self, before_bytes: int | None) -> int | None:
        after_bytes = self._usage_bytes()
        if before_bytes is None or after_bytes is None:
            return None
        return before_bytes - after_bytes
