"""The mail's claims come out; the table says so because it was asked."""

from dataclasses import replace

import pytest

from memreap.mm import argument
from memreap.mm.argument import CLAIMS
from memreap.mm.designs import DESIGNS
from memreap.proof.claims import judge, locking


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_comes_out(name: str) -> None:
    judged = judge(name)
    assert [f for f in judged.findings if f.found != f.expected] == []
    assert judged.stands
    assert len(judged.findings) == len(CLAIMS[name].asks)


def test_a_claim_that_is_wrong_does_not_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written down: what is claimed is only compared."""
    right = CLAIMS["skip-hides"]
    wrong = replace(right, asks=tuple(replace(ask, outcome="holds") for ask in right.asks))
    monkeypatch.setitem(argument.CLAIMS, "skip-hides", wrong)
    judged = judge("skip-hides")
    assert not judged.stands
    assert {f.found for f in judged.findings} == {"violated"}
    assert judged.as_dict()["stands"] is False


def test_how_often_the_lock_is_taken_and_waited_for() -> None:
    always, trick, nothing = map(locking, ("always-lock", "test-and-set", "pre-4.14"))
    assert (always.takes_ordinary, always.takes) == (1.0, 1.0)
    assert trick.takes_ordinary == 0.0, "this is what the trick is for"
    assert 0.0 < trick.waits < trick.takes <= 1.0
    assert (nothing.takes, nothing.waits) == (0.0, 0.0)
    assert 0.0 < always.waits < 1.0, "beside a reaper the lock is waited for, but not always"


def test_every_design_that_is_counted_is_one() -> None:
    assert set(argument.LOCKING) <= set(DESIGNS)
