"""What the core keeps of a domain's processes."""

from dataclasses import replace
from unittest import mock

import pytest

from memreap.decide.events import Candidate, Identity
from memreap.guard.gauges import Figures, SystemGauge
from memreap.guard.look import Look, Seen
from memreap.guard.post import HotSet, Post, ceiling_bytes
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


def watched(*readings: tuple[float, int]) -> Post:
    """A domain of 100,000 pages, as it was read so far: (when, pages)."""
    post = Post(Scope(Kind.SYSTEM, "system"), mock.Mock())
    for read_s, pages in readings:
        post.take(read_s, Figures(pages * 4096, 90_000 * 4096, 100_000 * 4096, None, {}))
    return post


def everyone(read_s: float, *seen: Seen) -> Look:
    """A look at all, and not only at those known to be large."""
    return Look("system", 1, read_s, 0.005, seen, full_s=read_s)


def holding(pid: int, pages: int) -> Seen:
    return Seen(Candidate(members=(Identity(pid, 7),), name=f"hog{pid}", rss_pages=pages))


@pytest.mark.parametrize(
    ("grown", "in_doubt"), [(0, False), (-30_000, False), (20_900, False), (21_100, True)]
)
def test_a_choice_is_in_doubt_once_more_grew_than_its_lead(grown: int, in_doubt: bool) -> None:
    post = watched((9.0, 20_000), (9.98, 60_000), (10.0, 60_000), (10.02, 60_000 + grown))
    seen = (holding(10, 40_000), holding(11, 20_000))
    with mock.patch.object(HotSet, "is_there", return_value=True):
        post.see(everyone(9.999, *seen), {})
        assert post.is_in_doubt() is in_doubt


def test_growth_of_who_is_looked_at_leaves_no_doubt_and_that_of_others_does() -> None:
    """A quick look shows those known to be large; a small one may have grown beside them."""
    post = watched((10.0, 60_000), (10.3, 80_000))
    with mock.patch.object(HotSet, "is_there", return_value=True):
        post.see(everyone(10.0, holding(10, 30_000), holding(11, 25_000)), {})
        assert post.is_in_doubt()
        quick = everyone(10.28, holding(10, 49_000), holding(11, 25_000))
        post.see(replace(quick, full_s=10.0), {})
        assert not post.is_in_doubt()
        quick = everyone(10.28, holding(10, 30_000), holding(11, 25_000))
        post.see(replace(quick, full_s=10.0), {})
        assert post.is_in_doubt()


def test_what_went_since_the_look_hides_no_growth() -> None:
    """A victim's memory is back, and as much is somebody else's already."""
    post = watched((10.0, 60_000), (10.02, 60_000))
    post.see(everyone(10.0, holding(10, 40_000), holding(11, 5_000), holding(12, 4_000)), {})
    with mock.patch.object(HotSet, "is_there", lambda _, s: s.candidate.identity.pid != 10):
        assert post.is_in_doubt()
    post.take(10.03, Figures(21_500 * 4096, 90_000 * 4096, 100_000 * 4096, None, {}))
    with mock.patch.object(HotSet, "is_there", lambda _, s: s.candidate.identity.pid != 10):
        assert not post.is_in_doubt()


def test_a_reading_from_before_the_look_leaves_a_doubt() -> None:
    """Of a tree, which the scout measures: whoever went while they looked still counts."""
    post = watched((10.0, 60_000))
    with mock.patch.object(HotSet, "is_there", return_value=True):
        post.see(everyone(10.001, holding(10, 60_000)), {})
        assert post.is_in_doubt()
        post.take(10.002, Figures(60_000 * 4096, 90_000 * 4096, 100_000 * 4096, None, {}))
        assert not post.is_in_doubt()


def test_what_grows_beside_a_crowd_is_its_newborn() -> None:
    post = watched((10.0, 60_000), (10.02, 85_000))
    crowd = replace(holding(10, 20_000), crowd=True)
    with mock.patch.object(HotSet, "is_there", return_value=True):
        post.see(everyone(9.999, crowd, holding(11, 10_000)), {})
        assert not post.is_in_doubt()
        post.unseen_pages = None
        assert not post.is_in_doubt()
        post.see(everyone(9.999, crowd, holding(11, 20_001)), {})
        assert post.is_in_doubt(), "it is not the one that would be chosen"


def test_what_was_never_seen_is_in_doubt() -> None:
    assert watched((10.0, 60_000)).is_in_doubt()


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
