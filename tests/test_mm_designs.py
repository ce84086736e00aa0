"""What was said of each design is what comes out; every property can be broken."""

from collections.abc import Callable
from functools import cache

import pytest

from memreap.check.operation import Memory, Steps, operation
from memreap.check.search import Exploration
from memreap.mm import fork
from memreap.mm.designs import DESIGNS
from memreap.mm.designs.of_2017 import GateRetry
from memreap.mm.designs.pre_4_14 import Pre414
from memreap.mm.kernel import Kernel
from memreap.mm.mm_struct import MMF_OOM_SKIP, MmStruct
from memreap.mm.mmap import remove_vmas
from memreap.mm.mmap_lock import set_bit
from memreap.mm.properties import PROPERTIES
from memreap.mm.scenarios import ACTORS, SCENARIOS, Scenario
from memreap.proof.matrix import found_in

SAFE = ("torn-tree", "pgtables-in-use", "double-free", "refcount")
HOLDS, BROKEN = True, False


@cache
def explored(design: str, scenario: str) -> Exploration:
    return found_in(DESIGNS[design], SCENARIOS[scenario])


def holds(design: str, scenario: str, prop: str) -> bool:
    found = explored(design, scenario)
    assert prop in found.space.model.kinds(), f"{prop} is not asked in {scenario}"
    assert found.complete
    return prop not in found.broken


# design, scenario, property, and what was said of it (kernel history, by the mails and commits).
SAID = [
    ("pre-4.14", "lone", "needless-kill-at-once", BROKEN),  # 1 to 4 extra processes an OOM on 4.12
    ("pre-4.14", "aio-never", "hung-exit", BROKEN),
    ("pre-4.14", "aio-never", "released", HOLDS),  # hidden, though nothing is freed
    ("gate-retry", "lone", "needless-kill", HOLDS),
    ("gate-retry", "aio-completes", "released", HOLDS),
    ("gate-retry", "aio-never", "released", BROKEN),
    ("gate-retry", "numa", "released", BROKEN),
    ("gate-retry", "reader", "needless-kill-at-once", BROKEN),  # off the list, not yet free
    ("gate-retry", "small", "needless-kill", HOLDS),
    ("always-lock", "aio-never", "kill-after-relief", BROKEN),  # it drops oom_lock
    ("always-lock", "aio-never", "hung-exit", HOLDS),
    ("always-lock", "reader", "torn-tree", HOLDS),
    ("test-and-set", "reader", "torn-tree", HOLDS),
    ("test-and-set", "lone", "needless-kill-at-once", HOLDS),
    ("test-and-set-unlocked", "lone", "needless-kill-at-once", BROKEN),
    ("merged-4.14", "lone", "torn-tree", HOLDS),
    ("merged-4.14", "reader", "torn-tree", BROKEN),  # 4837fe37adff
    ("merged-4.14", "threads", "stale-tlb", BROKEN),  # CVE-2017-18202
    ("4.15", "reader", "torn-tree", HOLDS),
    ("4.15", "threads", "stale-tlb", HOLDS),
    ("4.15", "mlock", "munlock", BROKEN),  # CVE-2018-1000200
    ("4.17", "mlock", "munlock", HOLDS),
    ("4.17", "aio-never", "kill-after-relief", HOLDS),
    ("4.19", "aio-never", "kill-after-relief", BROKEN),  # af5679fbc669, accepted
    ("rientjes-2018", "lone", "needless-kill", HOLDS),
    ("rientjes-2018", "lone", "freed-after-skip", HOLDS),
    ("rientjes-2018", "lone", "kill-after-relief", HOLDS),  # under oom_lock
    ("rientjes-2018", "aio-never", "hung-exit", HOLDS),
    ("handover-2018", "lone", "needless-kill-at-once", HOLDS),
    ("5.15-rc", "mrelease", "pgtables-in-use", BROKEN),  # 337546e83fc7
    ("5.15", "mrelease", "pgtables-in-use", HOLDS),
    ("5.15", "mrelease-aio", "hostage", BROKEN),
    ("5.18", "mrelease", "pgtables-in-use", HOLDS),
    ("5.18", "frozen", "deadlock", BROKEN),
    ("6.0", "reader", "torn-tree", HOLDS),
    ("6.0", "frozen", "deadlock", BROKEN),  # until 59d4d36158ba
    ("current", "frozen", "deadlock", HOLDS),
    ("current", "lone", "freed-after-skip", BROKEN),  # SKIP precedes the last flush
    ("current", "lone", "needless-kill", BROKEN),  # and so the killer may be too early
    ("current", "lone", "needless-kill-at-once", HOLDS),
    ("current", "small", "needless-kill-at-once", BROKEN),  # all of it in one gather
    ("current", "aio-notifier", "hung-exit", BROKEN),  # busy, ten times
    ("current", "lock-stuck", "released", HOLDS),  # by giving up
    ("current", "robust-list", "robust-list", HOLDS),
    ("current", "mrelease-aio", "hung-exit", BROKEN),  # ESRCH: the exit was first
    ("current", "mrelease-held", "hung-exit", HOLDS),  # what memreap's hold is for
    ("current", "mrelease-robust-list", "robust-list", BROKEN),  # no delay there
    ("current", "mrelease-held-robust-list", "robust-list", BROKEN),  # nor with a hold
]


@pytest.mark.parametrize(("design", "scenario", "prop", "expected"), SAID)
def test_what_was_said_of_a_design(design: str, scenario: str, prop: str, expected: bool) -> None:
    assert holds(design, scenario, prop) is expected


@pytest.mark.parametrize("scenario", [s for s in SCENARIOS if SCENARIOS[s].lets(Kernel)])
def test_todays_kernel_is_safe(scenario: str) -> None:
    found = explored("current", scenario)
    asked = set(found.space.model.kinds()) & {*SAFE, "deadlock", "stale-tlb", "munlock"}
    assert asked
    assert not asked & set(found.broken)


# Kernels that nobody proposed: each breaks a property that no design here breaks in its place.


class NoPteLocks(Kernel):
    """Pages are taken out of page tables without the table's lock."""

    name = "no-pte-locks"
    takes_pte_locks = False


class DropsTwice(Kernel):
    """The exit path drops its reference to the struct a second time."""

    name = "drops-twice"

    def mmput_end(self, mm: MmStruct) -> Steps:
        """Once too often."""
        yield fork.mmdrop(mm)


@operation()
def forget_to_drop(s: Memory, mm: MmStruct) -> None:
    s[mm.mm_count] += 1


class Leaks(Kernel):
    """The exit path keeps the struct."""

    name = "leaks"

    def mmput_end(self, mm: MmStruct) -> Steps:
        """Takes one more."""
        yield forget_to_drop(mm)


class KsmDoesNotWait(Pre414):
    """ksm_exit does not wait for ksmd, and nothing after it does."""

    name = "ksm-does-not-wait"
    ksm_exit_waits = False


class SkipFirst(GateRetry):
    """MMF_OOM_SKIP before anything is unmapped."""

    name = "skip-first"

    def exit_mm(self, tsk: object) -> Steps:
        """Far too early."""
        yield set_bit(MMF_OOM_SKIP, self.mms[0])
        yield from super().exit_mm(tsk)  # type: ignore[arg-type]


class TearsFirst(Kernel):
    """The areas are freed before the lock is taken."""

    name = "tears-first"

    def mmu_notifier_release(self, mm: MmStruct) -> Steps:
        """Far too early."""
        yield remove_vmas(mm, False)


MUTANTS: list[tuple[type[Kernel], str, str]] = [
    (NoPteLocks, "lone", "double-free"),
    (DropsTwice, "lone", "refcount"),
    (Leaks, "lone", "refcount"),
    (KsmDoesNotWait, "ksm", "torn-tree"),
    (KsmDoesNotWait, "ksm", "pgtables-in-use"),
    (SkipFirst, "lone", "needless-kill-at-once"),
    (SkipFirst, "lone", "freed-after-skip"),
    (TearsFirst, "lone", "torn-tree"),
]


@pytest.mark.parametrize(("kernel", "scenario", "prop"), MUTANTS)
def test_a_mutant_is_caught(kernel: type[Kernel], scenario: str, prop: str) -> None:
    base = kernel.__bases__[0]
    assert prop in found_in(kernel, SCENARIOS[scenario]).broken
    assert prop not in found_in(base, SCENARIOS[scenario]).broken, "or the mutant shows nothing"


def test_every_property_is_broken_by_somebody_and_held_by_somebody() -> None:
    broken = {prop for _, _, prop, expected in SAID if not expected}
    broken |= {prop for _, _, prop in MUTANTS}
    broken |= {
        "secondary-mmu",
        "zeroes",
        "partial-tree",
        "queued-once",
        "robust-list",
    }  # test_mm_bugs
    assert set(PROPERTIES) - broken == set()


@pytest.mark.parametrize("scenario", list(SCENARIOS.values()), ids=list(SCENARIOS))
def test_a_scenario_is_made_of_what_is_there(scenario: Scenario) -> None:
    assert set(scenario.cast) <= set(ACTORS)
    assert set(scenario.also) <= set(PROPERTIES)
    model = scenario.model(Kernel)
    assert [asked.prop for asked in model.asked] == list(scenario.asks)
    assert len({task.name for task in model.tasks}) == len(model.tasks), "names tell tasks apart"


@pytest.mark.parametrize("scenario", list(SCENARIOS.values()), ids=list(SCENARIOS))
def test_every_actor_of_a_scenario_gets_to_its_end_somewhere(scenario: Scenario) -> None:
    """A task that is stuck from the start would make whatever is asked hold for nothing."""
    found = explored("current", scenario.name)
    model = found.space.model
    ended: set[str] = set()
    for part in found.space.components:
        if any(part.automaton.operations[part.at(s)[0]] is None for s in found.parents):
            ended.add(model.tasks[part.members[0]].name)
    # The last one is not queued again, since the mm is queued once.
    for_ever = ("oom_reaper", "hung thread", "thread that keeps mmap_lock", "timer of thread 2")
    hung = {"victim", "victim 0", "victim 1", "held victim"} if scenario.hangs else set()
    hung |= {"filesystem"} if scenario.hangs else set()
    if not scenario.lets(Kernel):
        pytest.skip("not of this kernel")
    missing = {task.name for task in model.tasks if not task.name.startswith(for_ever)} - ended
    assert missing <= hung


@pytest.mark.parametrize("design", DESIGNS)
def test_a_design_says_who_and_when(design: str) -> None:
    kernel = DESIGNS[design]
    own: Callable[[str], object] = vars(kernel).get
    assert own("__doc__")
    assert own("name") == design
    assert own("who")
    assert own("when")
