"""What the core keeps of a domain's processes."""

from unittest import mock

import pytest

from memreap.decide.events import Candidate, Identity
from memreap.guard.gauges import SystemGauge
from memreap.guard.look import Look, Seen
from memreap.guard.post import HotSet, ceiling_bytes
from memreap.guard.settings import Amount, Kind, Scope
from memreap.guard.turns import record_of


def candidate(pid: int) -> Candidate:
    return Candidate(members=(Identity(pid, 7),), name=f"hog{pid}", rss_pages=pid)


def look(*seen: Seen) -> Look:
    return Look("system", 1, 0.0, 0.001, seen)


def test_a_victim_is_told_of_as_it_was_seen_though_no_later_look_has_it() -> None:
    hot = HotSet()
    victim, other = candidate(10), candidate(11)
    hot.take(look(Seen(victim, uid=1000, user="ann", command="hog --big"), Seen(other, uid=5)), {})
    hot.remember(victim)
    hot.take(look(Seen(other, uid=5)), {})
    record = record_of(victim, hot)
    assert (record["uid"], record["user"], record["command"]) == (1000, "ann", "hog --big")
    assert record_of(other, hot)["uid"] == 5
    assert record_of(candidate(12), hot)["uid"] == -1, "of whom nothing was seen nothing is told"


def test_what_a_look_in_a_hurry_leaves_out_is_known_from_the_one_before() -> None:
    hot = HotSet()
    hot.take(look(Seen(candidate(10), command="hog --big"), Seen(candidate(11))), {})
    hot.take(look(Seen(candidate(10)), Seen(candidate(11)), Seen(candidate(12))), {})
    assert hot.look is not None
    assert [seen.command for seen in hot.look.seen] == ["hog --big", "", ""]


@pytest.mark.parametrize("swap", [0, 8 << 30])
def test_the_ceiling_of_the_machine_can_be_reached(swap: int) -> None:
    """With swap, it is full when RAM or swap still has what the lines leave: usage ends there."""
    total = 8 << 30
    scope = Scope(Kind.SYSTEM, "system", available_min=Amount(share=0.1))
    gauge = SystemGauge.__new__(SystemGauge)
    gauge._scope, gauge._stalls = scope, mock.Mock(share=lambda _: None)
    empty = mock.Mock(total_bytes=total, available_bytes=0, tmpfs_bytes=0, zram_bytes=0)
    empty.swap_total_bytes, empty.swap_free_bytes = swap, 0
    gauge._meminfo = mock.Mock(read=lambda: empty)
    figures = gauge.read(0.0)
    assert figures.usage_bytes == figures.end_bytes
    assert figures.limit_bytes < ceiling_bytes(figures) < figures.usage_bytes
