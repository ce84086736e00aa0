"""A core that lost its CPU for a while: what it finds then is old, and comes all at once."""

import os
import subprocess
from typing import Any, cast
from unittest import mock

from memreap.decide.events import Identity
from memreap.guard.core import Core
from memreap.guard.hands import Deed, Hands
from memreap.guard.killing import Killing
from memreap.guard.look import Look
from memreap.guard.post import Post
from memreap.reap.standby import Standbys
from memreap.simulate import guard_seam, guard_workers
from memreap.simulate.choices import Choices
from memreap.simulate.guard_machine import Mm, Process
from memreap.simulate.guard_trial import Finding, live
from memreap.simulate.guard_trial import _settings as settings_of
from memreap.simulate.guard_world import World


class LateOnce(World):
    """When a look at the domain is on its way, the core stands still, and the hog goes."""

    def __init__(self) -> None:
        super().__init__(Choices())
        self.was_late = False

    def faulty(self, fault: str, one_in: int) -> bool:
        pressed = any(turn["what"] == "pressed" for turn in self.laws.turns)
        if fault != "the core is late" or self.was_late or not pressed:
            return super().faulty(fault, one_in)
        self.was_late = True
        hog = next(p for p in self.machine.processes.values() if p.comm == "hog0")
        self.machine.after(0.001, lambda: self.machine.exit(hog))
        return True

    def populate(self) -> None:
        super().populate()
        place = next(iter(self.places.values()))
        mm = Mm(place.limit_bytes * 0.2, self.machine.now_s)
        self.machine.start("innocent", mm, frozenset(self.places))


def test_a_core_that_comes_late_kills_nobody_by_figures_from_before() -> None:
    world = LateOnce()
    finding = Finding(None, world.options, world.choices.made)
    with (
        mock.patch.object(guard_seam, "LATE_S", (1.5,)),
        mock.patch.object(guard_workers, "LOOK_S", (0.2,)),
    ):
        live(world, settings_of(world), world.populate, finding)
    assert world.was_late
    assert finding.broken == ""
    assert finding.kills == 0


class Over:
    """A killing whose end and whose sharer come to light in the same moment."""

    sharers = (7, 8, 9)
    unheld: tuple[int, ...] = ()
    born: tuple[int, ...] = ()
    doomed: tuple[int, ...] = (1, 7, 8)  # 9 is gone: its number may be another one's
    finished = released = True
    refused = ""
    lingering: tuple[tuple[int, int], ...] = ()
    victim = mock.Mock()

    def advance(self, now_s: float) -> list[Any]:
        del now_s
        return []

    def close(self) -> None:
        """Nothing is held."""


def test_sharers_that_are_found_with_the_end_are_told_all_the_same() -> None:
    hands = Hands(Standbys(0), frozenset())
    hands.deeds.append(Deed(cast("Post", mock.Mock()), cast("Killing", Over()), 1))
    assert len(list(hands.advance(0.0))) == 1
    assert hands.deeds == []
    assert list(hands.joined()) == [[7, 8]]
    assert list(hands.joined()) == []


def test_who_was_born_of_a_crowd_meanwhile_is_told_of_as_well() -> None:
    hands = Hands(Standbys(0), frozenset())
    over = Over()
    over.born, over.doomed = (10, 11), (1, 7, 8, 10)
    hands.deeds.append(Deed(cast("Post", mock.Mock()), cast("Killing", over), 1))
    list(hands.advance(0.0))
    assert list(hands.joined()) == [[7, 8, 10]]


def test_who_is_gone_is_doomed_no_more() -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as living,
        subprocess.Popen(["true"], stdout=subprocess.DEVNULL) as gone,
    ):
        pids = (gone.pid, living.pid)
        pidfds = [os.pidfd_open(pid) for pid in pids]
        gone.wait()
        killing = Killing.__new__(Killing)
        killing.victim = mock.Mock(members=[Identity(pid, 0) for pid in pids])
        killing.born = []
        killing._executions = [
            mock.Mock(unheld=[], victim=mock.Mock(pids=(pid,), processes=[(pid, pidfd)]))
            for pid, pidfd in zip(pids, pidfds, strict=True)
        ]
        assert killing.doomed == [living.pid]
        living.kill()
        for pidfd in pidfds:
            os.close(pidfd)


def test_a_kill_that_is_refused_spares_nobody_whom_another_one_kills() -> None:
    hands = Hands(Standbys(0), frozenset())
    refused, other = mock.Mock(doomed=[7, 8, 9]), mock.Mock(doomed=[8])
    deeds = [Deed(mock.Mock(), killing, 1) for killing in (refused, other)]
    hands.deeds += deeds
    hands._ghosts[9] = -1
    assert hands.spared(deeds[0]) == [7]


def core_that_asked(*, doubts: bool) -> tuple[Core, mock.Mock, mock.Mock]:
    """A core whose domain has waited since 10.0: (it, whether it answers, what it tells scouts)."""
    core = Core.__new__(Core)
    post = mock.Mock(asked_s=10.0, leaves_doubt=lambda _: doubts)
    post.name = "tree:1"
    core._posts = {"tree:1": post}
    core._read_one = mock.Mock()  # type: ignore[method-assign]
    core._answer = answered = mock.Mock()  # type: ignore[method-assign]
    core._scouts = scouts = mock.Mock()
    return core, answered, scouts


def test_a_look_that_lay_around_is_no_answer() -> None:
    core, answered, _ = core_that_asked(doubts=False)
    slow = Look("tree:1", 1, read_s=9.0, took_s=1.1, seen=())  # and no sooner than it could be
    core._take_look(slow, {}, 10.15)
    assert answered.call_count == 1
    stale = Look("tree:1", 1, read_s=9.0, took_s=0.1, seen=())
    core._take_look(stale, {}, 10.15)
    assert answered.call_count == 1


def test_a_look_of_before_is_no_answer_where_it_leaves_a_doubt() -> None:
    """Of a domain that grew meanwhile; one at everyone, begun when it was asked for, always is."""
    core, answered, scouts = core_that_asked(doubts=True)
    core._take_look(Look("tree:1", 0, read_s=9.99, took_s=0.02, seen=(), full_s=9.99), {}, 10.02)
    assert (answered.call_count, scouts.tell.call_count) == (0, 0)
    core._take_look(Look("tree:1", 1, read_s=10.01, took_s=0.01, seen=(), full_s=9.9), {}, 10.03)
    assert (answered.call_count, scouts.tell.call_count) == (0, 1)
    assert scouts.tell.call_args.args[0]["quick"] is False
    core._take_look(Look("tree:1", 1, read_s=10.03, took_s=0.01, seen=(), full_s=10.03), {}, 10.05)
    assert (answered.call_count, scouts.tell.call_count) == (1, 1)


def test_who_hangs_is_remembered_though_no_descriptor_is_left() -> None:
    hands = Hands(Standbys(0), frozenset())
    over = mock.Mock(
        wraps=Over(), finished=True, lingering=[(7, 3)], doomed=[7], sharers=(), born=()
    )
    hands.deeds.append(Deed(cast("Post", mock.Mock()), cast("Killing", over), 1))
    with mock.patch("os.dup", side_effect=OSError(24, "Too many open files")):
        list(hands.advance(0.0))
    over.close.assert_not_called()
    assert hands.doomed == [7]
    over.lingering = []
    assert hands.doomed == []
    over.close.assert_called_once()


def test_a_sharer_without_a_descriptor_is_held_as_soon_as_there_is_one() -> None:
    hands = Hands(Standbys(0), frozenset())
    with subprocess.Popen(["sleep", "60"]) as sharer:
        over = mock.Mock(wraps=Over(), finished=True, refused="", lingering=[], doomed=[], born=[])
        over.sharers = over.unheld = [sharer.pid]
        hands.deeds.append(Deed(cast("Post", mock.Mock()), cast("Killing", over), 1))
        with mock.patch("os.pidfd_open", side_effect=OSError(24, "Too many open files")):
            list(hands.advance(0.0))
            assert hands.deeds == []
            assert hands.doomed == [sharer.pid], "though its deed is done"
        hands.hold_sharers()
        assert hands.doomed == [sharer.pid]
        sharer.kill()
    assert hands.doomed == [], "whoever has its number now is read again"


def test_a_sharer_who_has_gone_meanwhile_is_not_looked_for() -> None:
    hands = Hands(Standbys(0), frozenset())
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    hands._unheld.add(gone.pid)
    hands.hold_sharers()
    assert hands.doomed == []


def test_a_sharer_whom_nobody_killed_after_all_is_read_again() -> None:
    hands = Hands(Standbys(0), frozenset())
    over = mock.Mock(wraps=Over(), finished=True, refused="not permitted", lingering=[], doomed=[])
    over.sharers = over.unheld = [os.getpid()]
    over.born = []
    hands.deeds.append(Deed(cast("Post", mock.Mock()), cast("Killing", over), 1))
    list(hands.advance(0.0))
    assert hands.doomed == []


class Service(World):
    """A cgroup that goes with its only process, as a service's does."""

    def __init__(self) -> None:
        super().__init__(Choices())
        self.machine.on_exit = self._vanish

    def _vanish(self, process: Process) -> None:
        del process
        for place in self.places.values():
            place.is_there = False


def test_an_incident_ends_with_the_cgroup_it_was_in() -> None:
    world = Service()
    finding = Finding(None, world.options, world.choices.made)
    live(world, settings_of(world), world.populate, finding)
    told = [(turn["what"], turn["reason"]) for turn in world.laws.turns if turn["incident"] == 1]
    assert ("killed", "") in told
    assert ("relieved", "it is gone") in told
    assert told.count(("relieved", "it is gone")) == 1
