"""The real guard on a machine of choices: its laws under faults, and relief once they stop."""

import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from memreap.decide.patience import Patience
from memreap.decide.realm import Realm
from memreap.guard import core, crew, hands, killing, post, turns
from memreap.guard.core import Core
from memreap.guard.crew import Scouts, Scribes
from memreap.guard.hands import Hands
from memreap.guard.killing import Killing
from memreap.guard.post import HotSet, Post
from memreap.reap import execution, standby, victim
from memreap.simulate import guard_soak
from memreap.simulate.choices import Choices, shrunk
from memreap.simulate.guard_seam import Seam
from memreap.simulate.guard_trial import Finding, run
from memreap.simulate.guard_world import World

SEEDS = int(os.environ.get("MEMREAP_GUARD_SEEDS", "5000"))
FIRST = int(os.environ.get("MEMREAP_GUARD_FIRST", "0"))
FOUND_WITHIN = 2000
SWAPPED = (core, crew, hands, killing, post, turns, execution, standby, victim)
KERNEL = ("os", "time", "select", "signal", "socket", "gc")


@pytest.mark.timeout(0)  # a million of them take hours
def test_the_laws_hold_under_faults_and_relief_comes_when_they_stop() -> None:
    cpus = len(os.sched_getaffinity(0))
    broken = [one for done in guard_soak.parts(FIRST, SEEDS, cpus) for one in done.broken]
    assert broken == [], "python -m memreap.simulate.guard_story SEED tells one"


def test_a_soak_counts_what_its_runs_came_to(capsys: pytest.CaptureFixture[str]) -> None:
    assert guard_soak.main(["450", "7"]) == 0
    each = [run(seed) for seed in range(7, 457)]
    out = capsys.readouterr().out
    incidents, kills = (sum(getattr(one, what) for one in each) for what in ("incidents", "kills"))
    assert f"450 seeds from 7, {incidents:,} incidents, {kills:,} kills: 0 broke a law" in out


def test_a_soak_says_which_seed_broke_what(capsys: pytest.CaptureFixture[str]) -> None:
    bad = guard_soak.Sum(3, 4, 5, [(8, 2, "two at a time")], "abc")
    with mock.patch.object(guard_soak, "parts", return_value=[bad, guard_soak.Sum(1, 1, 1)]):
        assert guard_soak.main(["4", "7"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first == "seed 8: law 2: two at a time"
    assert last.startswith("4 seeds from 7, 5 incidents, 6 kills: 1 broke a law")


@pytest.mark.parametrize("argv", [[], ["many"], ["1", "2", "3"], ["-5"]])
def test_a_soak_wants_numbers(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert guard_soak.main(argv) == 2
    assert "COUNT [FIRST]" in capsys.readouterr().err


def test_a_seed_is_one_run() -> None:
    for seed in range(40):
        first, second = run(seed), run(seed)
        assert first.hash == second.hash
        assert first.choices == second.choices
        assert first.options == second.options


def test_a_run_is_its_choices() -> None:
    for seed in range(40):
        first = run(seed)
        again = run(replay=first.choices)
        assert (again.hash, again.broken) == (first.hash, first.broken)


def test_without_choices_all_is_quiet() -> None:
    found = run(replay=())
    assert found.broken == ""
    assert found.options.faults == ()
    assert found.incidents == 1
    assert found.kills == 1


def test_seeds_differ_and_every_fault_is_on_in_some() -> None:
    drawn = [World(Choices(seed)).options for seed in range(200)]
    assert len(set(drawn)) > 190
    from memreap.simulate.guard_world import FAULTS

    for fault in FAULTS:
        share = sum(fault in options.faults for options in drawn) / len(drawn)
        assert 0.2 < share < 0.5, fault


# Each law with a mutation of the guard that breaks it.


def _drop(name: str) -> Callable[..., Any]:
    real = Scribes.write

    def write(self: Scribes, turn: dict[str, Any], now_s: float) -> None:
        if turn["what"] != name:
            real(self, turn, now_s)

    return write


def _say_again(self: Core, line: str) -> None:
    self._scribes.tell({"say": line})


def _rules_without_dry_run() -> Callable[..., Any]:
    from dataclasses import replace

    real = Post.rules
    return lambda self, settings, figures: replace(real(self, settings, figures), dry_run=False)


def _busy_keep() -> Callable[..., Any]:
    real = Core._keep

    def keep(self: Core, now_s: float) -> None:
        real(self, now_s)
        if self._hands.deeds:
            vars(core)["time"].sleep(0.7)  # the machine's, which stands there

    return keep


def _trees_are_always_due() -> Callable[..., Any]:
    real = Core._doze

    def doze(self: Core) -> None:
        real(self)
        for one in self._posts.values():
            one.due_s = min(one.due_s, vars(core)["time"].monotonic())

    return doze


def _nothing(*_: object) -> None:
    """Does nothing, whatever it is asked."""


def _never(*_: object) -> bool:
    return False


def _nobody(_: object) -> list[int]:
    return []


def _at_once(patience: Patience, _: float) -> float:
    return patience.since_s


MUTANTS: dict[str, tuple[int, object, str, Callable[[], object]]] = {
    "a dry run kills": (1, Post, "rules", _rules_without_dry_run),
    "no patience": (2, Patience, "ends_s", lambda: _at_once),
    "the kernel's victim is not waited for": (2, Realm, "_exiting", lambda: _nothing),
    "a new scout is not told": (3, Hands, "doomed", lambda: property(_nobody)),
    "the core waits": (4, Core, "_keep", _busy_keep),
    "the core spins": (4, Core, "_doze", _trees_are_always_due),
    "pidfds are kept": (5, HotSet, "close", lambda: _nothing),
    "nothing goes out": (6, Killing, "_execute", lambda: _nothing),
    "choices are not written": (7, Scribes, "write", lambda: _drop("chosen")),
    "everything is said again": (8, Core, "say", lambda: _say_again),
    "a lost scout is not missed": (4, Scouts, "is_lost", lambda: _never),
}


def first_broken(law: int) -> Iterator[Finding]:
    for seed in range(FOUND_WITHIN):
        found = run(seed)
        if found.broken and found.law == law:
            yield found


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutation_is_found(name: str) -> None:
    law, where, attribute, make = MUTANTS[name]
    with mock.patch.object(where, attribute, make()):
        found = next(first_broken(law), None)
        assert found is not None, f"not within {FOUND_WITHIN} seeds"
        again = run(replay=found.choices)
        assert (again.law, again.broken) == (found.law, found.broken), "it replays exactly"
    assert run(found.seed).broken == "", "and is the mutation's"


def test_a_failure_shrinks_to_the_choices_that_matter() -> None:
    with mock.patch.object(Hands, "doomed", property(_nobody)):
        found = next(first_broken(3))
        small = shrunk(found.choices, lambda choices: run(replay=choices).law == 3)
        again = run(replay=small)
    assert again.law == 3
    assert sum(map(bool, small)) < sum(map(bool, found.choices))
    assert len(again.options.faults) <= len(found.options.faults)


def test_every_way_to_the_kernel_is_swapped() -> None:
    """A name of these modules that reaches the kernel stands in the seam."""
    names = set(Seam().names())
    for module in SWAPPED:
        for name, value in vars(module).items():
            reaches = inspect.ismodule(value) and value.__name__ in KERNEL
            reaches |= getattr(value, "__module__", "").startswith("memreap.linux.worker")
            reaches |= inspect.ismodule(value) and value.__name__.startswith("memreap.linux.sys")
            if reaches and name not in ("Line", "go_by"):
                assert f"{module.__name__}.{name}" in names | ALLOWED, f"{module.__name__}.{name}"


ALLOWED = {
    "memreap.guard.crew.signal",  # in the child alone
    "memreap.reap.standby.syscalls",  # the same
    "memreap.reap.standby.scheduling",
    "memreap.reap.victim.signal",  # behind _forbidden, which is swapped
    "memreap.reap.victim.Worker",  # its pids alone
    "memreap.guard.core.gc",
}
