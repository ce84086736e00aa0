"""Kills one process under tracing, and brings its trace.

1. Only what the victim's threads do is traced, and what we do ourselves: nobody else is watched.
2. Whoever is killed is killed as by ``memreap kill``: looked at, admitted, boosted, held, reaped.
3. After the kill nothing is read of the victim.
"""

import os
import select
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass

from memreap.evidence import events
from memreap.evidence.trace import Trace, Victim, without_addresses
from memreap.linux import scheduling
from memreap.linux.kallsyms import Symbols
from memreap.linux.tracing import Event, Instance, TracingError, tracefs
from memreap.linux.worker import has_exited
from memreap.reap.outcome import Outcome
from memreap.reap.survey import survey
from memreap.reap.target import Pids
from memreap.reap.victim import Victim as Admitted
from memreap.reap.victim import admit
from memreap.reap.volley import Volley

LINGER_S = 0.05  # after its end: what is told late still belongs to it
TIMEOUT_S = 10.0
# Where a thread of the victim's falls asleep for good: its stack.
SLEEP = "prev_state == 2"


class RefusedError(Exception):
    """The victim may not be killed, or is not there; one line for people."""


@dataclass(frozen=True, slots=True)
class How:
    """``reap``: as ``memreap kill``; else SIGKILL alone. ``timeout_s``: for its end."""

    reap: bool = True
    timeout_s: float = TIMEOUT_S


def kill_traced(pid: int, how: How | None = None) -> Trace:
    """Kill it, and tell all that happened. Raises TracingError, RefusedError."""
    how = how or How()
    with ExitStack() as stack:
        instance = stack.enter_context(Instance(stack.enter_context(tracefs())))
        missing = _take_up(instance)
        with scheduling.watching():
            admitted = _admitted(pid)
        stack.callback(admitted.close)
        victim = _victim(admitted)
        instance.follow([*victim.tids, os.getpid()])
        for tid in victim.tids[:8]:  # a filter may only be so long, and all hang alike
            instance.trigger("sched/sched_switch", f"stacktrace if prev_pid == {tid} && {SLEEP}")
        instance.start()
        outcome = _end(admitted, how)
        time.sleep(LINGER_S)
        instance.stop()
        traced, lost = _named(instance.events()), instance.lost
    return Trace(
        os.uname().release,
        victim,
        tuple(without_addresses(traced)),
        lost,
        tuple(missing),
        outcome.as_dict(),
    )


def _take_up(instance: Instance) -> list[str]:
    missing = instance.enable_all(events.KILL)
    needed = [event for event in missing if event in events.NEEDED["kill"]]
    if needed:
        raise TracingError(f"this kernel has no {', '.join(needed)}")
    return missing


def _admitted(pid: int) -> Admitted:
    target = Pids((pid,))
    victims, refusals = admit(survey(target), target, force=False)
    if len(victims) != 1:
        reason = refusals[0].reason if refusals else "no such process"
        raise RefusedError(f"pid {pid}: {reason}")
    return victims[0]


def _victim(admitted: Admitted) -> Victim:
    facts, memory = admitted.facts, admitted.facts.memory
    rss = (memory.rss_file_bytes, memory.rss_anon_bytes, memory.swap_bytes, memory.rss_shmem_bytes)
    rss_bytes = dict(zip(events.MEMBERS, rss, strict=True))
    everyone = (facts, *(sharer.facts for sharer in admitted.sharers))
    tids = tuple(tid for one in everyone for tid in one.tids)
    return Victim(facts.pid, facts.comm, tids, rss_bytes)


def _end(victim: Admitted, how: How) -> Outcome:
    """Kill it, and see its end."""
    if not how.reap:
        return _sigkill(victim, how.timeout_s)
    volley = Volley([victim], "auto", how.timeout_s)
    with scheduling.watching():
        volley.fire()
        while volley.pending:
            poll = select.poll()
            for fd in volley.fds():
                poll.register(fd, select.POLLIN)
            due_s = volley.deadline_s
            wait_s = 0.1 if due_s is None else max(0.0, due_s - time.monotonic())
            poll.poll(wait_s * 1000 + 1)
            volley.advance(time.monotonic())
    return volley.outcomes[0]


def _sigkill(victim: Admitted, timeout_s: float) -> Outcome:
    """What kill(1) does."""
    began_s = time.monotonic()
    for pidfd in victim.pidfds:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    left = list(victim.pidfds)
    while left and (remains_s := began_s + timeout_s - time.monotonic()) > 0:
        poll = select.poll()
        for pidfd in left:
            poll.register(pidfd, select.POLLIN)
        poll.poll(remains_s * 1000 + 1)
        left = [pidfd for pidfd in left if not has_exited(pidfd)]
    took_s = None if left else time.monotonic() - began_s
    return Outcome(
        victim.pid,
        victim.facts.comm,
        "stuck" if left else "exited",
        "SIGKILL alone, no reap",
        seconds_to_release=took_s,
        seconds_to_exit=took_s,
    )


def _named(traced: list[Event]) -> list[Event]:
    """The same, stacks as the names of functions."""
    if not any(event.name == "kernel_stack" for event in traced):
        return traced
    symbols = Symbols()
    return [
        event._replace(fields={"stack": list(symbols.stack(event.fields["caller"]))})
        if event.name == "kernel_stack"
        else event
        for event in traced
    ]
