"""The mail of 25 July 2017, claim by claim, and what the model is asked about each. One table.

A claim says what must come out if it is right; whether it does is found out, not written here.
``docs/thread.md`` walks through it.
"""

from dataclasses import dataclass, replace
from typing import Literal

from memreap.mm.designs import DESIGNS
from memreap.mm.kernel import Kernel
from memreap.mm.scenarios import SCENARIOS, Scenario

Outcome = Literal["holds", "violated"]

LONE, NEVER = SCENARIOS["lone"], SCENARIOS["aio-never"]
EXIT_ALONE = Scenario(
    "exit-alone", "Killed, and nobody reaps.", ("killed victim",), frozenset(), ("hung-exit",)
)
ORDINARY_EXIT = Scenario(
    "ordinary-exit", "No OOM: a task ends, and that is all.", ("exiting task",)
)
AFTER_THE_KILL = Scenario(
    "after-the-kill",
    "From the kill on: the exit path and the reaper, without the allocator.",
    ("killed victim", "oom_reaper"),
)
LOCK_STUCK = replace(  # beyond every design, so the matrix does not ask for the memory
    SCENARIOS["lock-stuck"], name="lock-stuck-memory", also=("hung-exit",)
)
SAFETY = ("torn-tree", "pgtables-in-use", "double-free", "refcount")


@dataclass(frozen=True, slots=True)
class Ask:
    """A property of a design in a scenario, and what comes out if the claim is right."""

    design: type[Kernel]
    scenario: Scenario
    prop: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Claim:
    """``text``: what is said, in our words. ``finding``: what it means if all came out."""

    name: str
    who: str
    text: str
    asks: tuple[Ask, ...]
    finding: str


def _asks(
    designs: str, scenarios: str | tuple[Scenario, ...], props: str, outcome: Outcome
) -> tuple[Ask, ...]:
    if isinstance(scenarios, str):
        scenarios = tuple(SCENARIOS[name] for name in scenarios.split())
    return tuple(
        Ask(DESIGNS[design], scenario, prop, outcome)
        for design in designs.split()
        for scenario in scenarios
        for prop in props.split()
    )


LIVE = "lone small reader threads aio-completes lock-held ksm mlock notifier write robust-list"
CLAIMS = {
    claim.name: claim
    for claim in (
        Claim(
            "the-race",
            "Hocko, of Rientjes' report",
            "There is a race: between the last mmput and exit_mmap the reaper calls a victim done"
            " whose memory is still there, and more victims die than need be.",
            (
                *_asks("pre-4.14", "lone threads", "needless-kill-at-once", "violated"),
                *_asks("merged-4.14 current", "lone threads", "needless-kill-at-once", "holds"),
                *_asks("merged-4.14 current", "small", "needless-kill-at-once", "violated"),
                *_asks("gate-retry", "small", "needless-kill-at-once", "holds"),
                *_asks("gate-retry current", "reader", "needless-kill-at-once", "violated"),
            ),
            "Real: a second victim can die before a page of the first one is back, when the reaper"
            " comes between mm_users falling to 0 and the first page freed. What was merged ends"
            " that for a victim larger than one batch of a gather. A smaller one may still lie in a"
            " gather whole when the bit is set; and one whose mm a third holder keeps leaves the"
            " list of tasks before its memory is freed, so that no design's gate can see it.",
        ),
        Claim(
            "unnecessary",
            "Arcangeli",
            "Nearly always the down_write is unnecessary.",
            (
                *_asks("always-lock", (AFTER_THE_KILL,), " ".join(SAFETY), "holds"),
                *_asks("test-and-set", (AFTER_THE_KILL,), " ".join(SAFETY), "holds"),
            ),
            "Right of ordinary exits: to take it only for the reaper's sake is as safe, and there"
            " it is never taken. Beside a reaper at work it is needed, and often has to wait: the"
            " counts stand below the claims.",
        ),
        Claim(
            "not-finite",
            "Hocko",
            "It is not about exit_mmap alone: exit_aio may wait, and nothing says for how long.",
            (
                *_asks("pre-4.14 gate-retry gate-retry-1s", (NEVER,), "hung-exit", "violated"),
                *_asks("always-lock test-and-set current", (NEVER,), "hung-exit", "holds"),
                *_asks("current", "aio-notifier", "hung-exit", "violated"),
            ),
            "Right: with I/O that never completes the memory stays for ever, unless the reaper"
            " may work while the exit path waits. (Unless a secondary MMU that would have to wait"
            " maps it: that the reaper leaves alone.)",
        ),
        Claim(
            "exit-is-finite",
            "Arcangeli",
            "exit_mmap itself would be no issue: given CPU time it frees all, in finite time.",
            _asks("pre-4.14 merged-4.14 current", (EXIT_ALONE,), "hung-exit deadlock", "holds"),
            "Right, under fair scheduling. How much time that takes is no question for a model"
            " without a clock; a victim that is starved shows it on a real machine.",
        ),
        Claim(
            "only-good-point",
            "Arcangeli",
            "exit_aio that blocks is the only good point for reaper and exit_mmap at once.",
            (
                *_asks("gate-retry", LIVE, "released", "holds"),
                *_asks("gate-retry", "thread-hung", "hung-exit", "holds"),
                *_asks("gate-retry", "aio-never aio-needs-memory", "released", "violated"),
                *_asks("gate-retry", "lock-stuck", "released", "violated"),
                *_asks("gate-retry-1s", f"{LIVE} aio-never numa", "released", "holds"),
                *_asks("always-lock test-and-set current", (LOCK_STUCK,), "hung-exit", "violated"),
                *_asks("always-lock test-and-set current", "lock-stuck", "released", "holds"),
            ),
            "Right of what he had in view: without concurrency only hung I/O keeps a victim's"
            " memory for ever. A thread that hangs with mmap_lock does so too, but there"
            " concurrency brings no memory either: only giving up after some tries helps, as it"
            " does the killer, though not the memory, where I/O hangs.",
        ),
        Claim(
            "gate-retry-enough",
            "Arcangeli",
            "If not for exit_aio, returning false when mmget_not_zero fails and SKIP is not set"
            " would have been enough.",
            (
                *_asks("gate-retry", "lone small threads ksm", "needless-kill", "holds"),
                *_asks("gate-retry", "lone small threads ksm", "freed-after-skip", "holds"),
                *_asks("gate-retry", "lone reader threads ksm", "released", "holds"),
                *_asks("gate-retry", "lone reader threads ksm", " ".join(SAFETY), "holds"),
                *_asks("gate-retry-1s", "lone small threads ksm", "needless-kill", "holds"),
                *_asks("always-lock test-and-set merged-4.14", "lone", "needless-kill", "violated"),
                *_asks("gate-retry", "mlock", "needless-kill", "violated"),
            ),
            "Right, and better than that: of the designs of 2017 it alone has no needless kill even"
            " in the strict reading, since SKIP is set only when all is freed. It has where memory"
            " is locked: what the reaper may not touch it leaves, and calls the victim done.",
        ),
        Claim(
            "raw-io",
            "Arcangeli",
            "Raw I/O never needs memory to complete; through a filesystem it may depend on locks"
            " and tasks that wait for memory themselves.",
            (
                *_asks("gate-retry", "aio-completes", "released", "holds"),
                *_asks("gate-retry", "aio-needs-memory", "released", "violated"),
                *_asks("test-and-set current", "aio-needs-memory", "hung-exit", "holds"),
            ),
            "Right: I/O that needs memory to complete closes a circle, exit_aio waits for it, it"
            " for memory, memory for the exit path. The reaper opens it.",
        ),
        Claim(
            "numa",
            "Arcangeli",
            "With several OOMs at once, on NUMA, it may be better not to wait for all of a"
            " victim's memory before moving on, but a couple of seconds.",
            (
                *_asks("gate-retry", "numa", "released", "violated"),
                *_asks("gate-retry-1s", "numa", "released", "holds"),
                *_asks("gate-retry-1s", "numa", "hung-exit", "violated"),
                *_asks("test-and-set always-lock current", "numa", "hung-exit", "holds"),
            ),
            "Right: one reaper that waits for one node's victim keeps the other node waiting. With"
            " patience that ends both nodes go on, without that memory; where the reaper may work"
            " beside the exit path, both get it. How long to wait is a question for a clock.",
        ),
        Claim(
            "ksm-trick",
            "Arcangeli",
            "The simplest is the trick of ksm_exit: test_and_set_bit, and only who comes second"
            " takes the lock, and lets it go.",
            (
                *_asks("test-and-set", "lone reader ksm aio-never numa", "torn-tree", "holds"),
                *_asks(
                    "test-and-set", "lone reader ksm aio-never numa", "pgtables-in-use", "holds"
                ),
                *_asks("test-and-set", "lone reader ksm", "double-free refcount", "holds"),
                *_asks("test-and-set", (NEVER,), "hung-exit", "holds"),
            ),
            "Right: untested as it was, it is safe in every interleaving, a third holder of"
            " mm_users included, which what was merged is not.",
        ),
        Claim(
            "skip-hides",
            "Hocko",
            "The bit is not for locking alone: it also hides the mm from the killer, who then"
            " picks the next victim before the memory of the first is free.",
            _asks("test-and-set-unlocked", "lone", "needless-kill-at-once", "violated"),
            "Right, of the bit by itself: the reaper sets it, the killer sees it, and no page is"
            " free yet.",
        ),
        Claim(
            "oom-lock",
            "Arcangeli",
            "Reaper and killer both run under oom_lock, so that cannot happen.",
            (
                *_asks("test-and-set", "lone threads", "needless-kill-at-once", "holds"),
                *_asks("test-and-set", "aio-never", "kill-after-relief", "holds"),
                *_asks("always-lock", "aio-never", "kill-after-relief", "violated"),
                *_asks("test-and-set", "lone", "needless-kill", "violated"),
            ),
            "Right of the reaper, as long as it takes that lock, which the patch that the mail"
            " answers drops. The exit path sets the bit too, and not under oom_lock: with the last"
            " batch of pages still in its gather, so that the strict reading fails.",
        ),
        Claim(
            "oom-lock-dropped",
            "Hocko, Handa (2018)",
            "The reaper can do without oom_lock (af5679fbc669).",
            (
                *_asks("4.17", "aio-never", "kill-after-relief", "holds"),
                *_asks("4.19 current", "aio-never", "kill-after-relief", "violated"),
                *_asks("4.19 current", "lone", "needless-kill-at-once", "holds"),
            ),
            "It can, at the price of one kill too many when all memory comes back between the"
            " allocator's last look and the killer's scan: known, and accepted.",
        ),
        Claim(
            "as-merged",
            "Arcangeli, Hocko (4.14)",
            "It is enough that a task which is an OOM victim waits for the reaper.",
            (
                *_asks("merged-4.14", "lone", "torn-tree pgtables-in-use", "holds"),
                *_asks("merged-4.14", "reader", "torn-tree pgtables-in-use", "violated"),
                *_asks("4.15 current", "reader", "torn-tree pgtables-in-use", "holds"),
            ),
            "Not enough: the last mm_users may be dropped by somebody else, who does not wait"
            " (4837fe37adff). It must be asked of the mm, not of the task.",
        ),
        Claim(
            "always-in-the-end",
            "Baghdasaryan (2022)",
            "exit_mmap takes the lock for writing, always: what was refused in 2017.",
            (
                *_asks("5.15-rc", "mrelease", "pgtables-in-use", "violated"),
                *_asks("5.15", "mrelease-aio", "hostage", "violated"),
                *_asks("5.18 current", "mrelease mrelease-oom", " ".join(SAFETY), "holds"),
                *_asks("5.18 current", "mrelease-aio", "hostage", "holds"),
            ),
            "It came to that: with process_mrelease any process may be walked, victim or not, and"
            " the two cheaper ways were unsafe, or made the caller a hostage.",
        ),
    )
}
"""By name, in the order of the mail, and of what came of it."""

LOCKING = ("pre-4.14", "always-lock", "test-and-set", "merged-4.14", "4.17", "5.18", "current")
"""Designs of which it is counted how often their exit path takes the lock, and waits for it."""
