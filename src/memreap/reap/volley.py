"""Many victims: all are killed first, then reaped in parallel.

Only the order of many lives here; what happens to one is ``execution``'s.
"""

import contextlib
import os
import select
import time
from collections.abc import Sequence

from memreap.linux.procfs import Procfs
from memreap.linux.worker import Worker
from memreap.reap import facts
from memreap.reap import hold as hold_
from memreap.reap.execution import Execution
from memreap.reap.outcome import Outcome
from memreap.reap.survey import Found
from memreap.reap.target import Target
from memreap.reap.victim import Rules, Victim

REAPERS_MAX = 32  # at a time; the largest victims first
READY_WAIT_S = 0.25  # how long the kill may wait until all reapers are prepared
LATE_REAPER_S = 0.25  # a victim without a reaper that has not exited by then gets one
SWEEPS_MAX = 1000


class Volley:
    """One shot at many victims. ``fire`` once, then ``advance`` until ``pending`` is empty."""

    def __init__(self, victims: Sequence[Victim], hold: hold_.Mode, timeout_s: float) -> None:
        """Nothing is done yet."""
        self._hold, self._timeout_s = hold, timeout_s
        self.pending = [Execution(victim, hold, timeout_s) for victim in victims]
        self.outcomes: list[Outcome] = []
        self._unreaped: list[Execution] = []
        self._unsaid: list[Outcome] = []  # of newcomers that were refused

    def fire(self) -> None:
        """Kill every victim; returns when all have their SIGKILL, not when they are gone."""
        now_s = time.monotonic()
        if len(self.pending) == 1:
            self._start_one(self.pending[0], now_s)
            return
        by_size = sorted(self.pending, key=lambda ex: -ex.victim.memory.rss_bytes)
        reaped, self._unreaped = by_size[:REAPERS_MAX], by_size[REAPERS_MAX:]
        go, shut = os.pipe()
        try:
            for execution in reaped:
                # Out of processes, memory or descriptors: killed without a reaper of its own.
                with contextlib.suppress(OSError):
                    execution.prepare(now_s, go, shut)
            self._wait_ready([ex for ex in reaped if ex.reaper_alive], now_s + READY_WAIT_S)
            for execution in self.pending:
                execution.kill()
        finally:
            os.close(shut)  # the reapers reap; where nobody was killed, they undo the boost
            os.close(go)

    def _start_one(self, execution: Execution, now_s: float) -> None:
        try:
            execution.start(now_s)
        except OSError:  # no worker can be had: killed without one
            execution.kill()

    def _wait_ready(self, executions: list[Execution], deadline_s: float) -> None:
        poll = select.poll()
        for execution in executions:
            for fd in execution.fds():
                poll.register(fd, select.POLLIN)
        while not all(ex.ready or not ex.reaper_alive for ex in executions):
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0 or not poll.poll(remaining_s * 1000):
                return
            for execution in executions:
                execution.advance(time.monotonic())

    def sweep(self, target: Target, rules: Rules, known: set[int]) -> None:
        """Kill who joined the target since: forks that the first shot could not know.

        ``known``: whom not to look at again: victims, and those that were refused.
        """
        known |= {pid for ex in self.pending for pid in ex.victim.pids}
        known |= Worker.living | rules.spared
        for _ in range(SWEEPS_MAX):
            fresh = target.newcomers(known, Procfs())
            if not fresh:
                return
            for pid in fresh:
                known.add(pid)
                self._shoot_newcomer(pid, target, rules)

    def _shoot_newcomer(self, pid: int, target: Target, rules: Rules) -> None:
        """Kill one at once, by what can be read of a live process without pinning anything."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, pidfd)
            # Only now that the pidfd is open is the number sure to mean a member.
            if pid not in target.newcomers(set(), Procfs()):
                return
            try:
                found = Found(facts.quick(pid, Procfs()), pidfd)
            except OSError:
                return
            reason = rules.refusal(found)
            if reason:
                self._unsaid.append(Outcome(pid, found.facts.comm, "refused", reason))
                return
            stack.pop_all()
            execution = Execution(Victim(found.facts, pidfd, (), rules), "never", self._timeout_s)
            execution.kill()
            self.pending.append(execution)

    @property
    def outcomes_waiting(self) -> bool:
        """Whether ``advance`` has something to tell at once."""
        return bool(self._unsaid)

    def fds(self) -> list[int]:
        """What to poll for reading."""
        return [fd for execution in self.pending for fd in execution.fds()]

    @property
    def deadline_s(self) -> float | None:
        """When to call ``advance`` at the latest (CLOCK_MONOTONIC, s)."""
        deadlines = [ex.deadline_s for ex in self.pending if ex.deadline_s is not None]
        deadlines += [ex.killed_s + LATE_REAPER_S for ex in self._unreaped if ex.killed_s]
        return min(deadlines, default=None)

    def advance(self, now_s: float) -> list[Outcome]:
        """Take in what happened; gives the outcomes that are new. Never blocks."""
        fresh, self._unsaid = self._unsaid, []
        for execution in list(self.pending):
            execution.advance(now_s)
            if execution.outcome is not None:
                self.pending.remove(execution)
                fresh.append(execution.outcome)
        self._send_late_reapers(now_s)
        self.outcomes.extend(fresh)
        return fresh

    def _send_late_reapers(self, now_s: float) -> None:
        busy = sum(execution.reaper_alive for execution in self.pending)
        for execution in list(self._unreaped):
            late = execution.killed_s is not None and now_s >= execution.killed_s + LATE_REAPER_S
            if execution.outcome is not None:
                self._unreaped.remove(execution)
            elif late and busy < REAPERS_MAX:
                self._unreaped.remove(execution)
                with contextlib.suppress(OSError):
                    execution.start(now_s)
                    busy += 1

    def give_up(self, reason: str) -> list[Outcome]:
        """End now: every pending victim is recorded as it stands."""
        ended = [*self._unsaid, *(execution.give_up(reason) for execution in self.pending)]
        self._unsaid = []
        self.pending.clear()
        self.outcomes.extend(ended)
        return ended
