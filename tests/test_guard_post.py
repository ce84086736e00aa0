"""What the core keeps of a domain's processes."""

from memreap.decide.events import Candidate, Identity
from memreap.guard.look import Look, Seen
from memreap.guard.post import HotSet
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
