"""Bugs of the real kernel: found without their fix, gone with it, and not found with fewer."""

import pytest

from memreap.mm.bugs import BUGS, Bug
from memreap.proof.bugs import hunt
from memreap.proof.matrix import found_in

CVES = {"CVE-2017-18202", "CVE-2018-1000200"}
NEED_THREE = {"687cb0884a71", "4837fe37adff", "6b31d5955cb2", "9bcdeb51bd7d"}


@pytest.mark.parametrize("commit", BUGS)
def test_found_without_the_fix_and_gone_with_it(commit: str) -> None:
    found = hunt(commit)
    assert found.steps, "not found"
    assert found.is_gone, "still there"
    assert found.told is not None
    assert len(found.told.steps) == found.steps
    assert found.told.prop == BUGS[commit].prop


@pytest.mark.parametrize(
    ("bug", "actor"),
    [(bug, actor) for bug in BUGS.values() for actor in bug.needs],
    ids=lambda value: value.commit if isinstance(value, Bug) else value.replace(" ", "-"),
)
def test_not_found_with_an_actor_less(bug: Bug, actor: str) -> None:
    assert bug.prop not in found_in(bug.before, bug.scenario.without(actor)).broken


def test_the_ones_that_need_three_actors() -> None:
    assert {bug.commit for bug in BUGS.values() if len(bug.needs) >= 3} == NEED_THREE


def test_both_cves_are_there_and_ten_more() -> None:
    assert {bug.cve for bug in BUGS.values() if bug.cve} == CVES
    assert len(BUGS) >= 12
