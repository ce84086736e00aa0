"""The current kernel, written by hand for two other checkers: all see the same states."""

from pathlib import Path

import pytest
from bench import checkers
from bench.models import current

from memreap.check.search import explore

FLAGS = ("-O1",)  # quick to compile
SIZES = ((1, 1), (3, 1), (2, 2))  # readers, threads

needs_rumur = pytest.mark.skipif(
    checkers.missing("rumur") is not None, reason=checkers.missing("rumur") or ""
)
needs_spin = pytest.mark.skipif(
    checkers.missing("spin") is not None, reason=checkers.missing("spin") or ""
)


@needs_rumur
@pytest.mark.parametrize(("readers", "threads"), SIZES)
def test_rumur_sees_the_same_states_and_steps(readers: int, threads: int, tmp_path: Path) -> None:
    ours = explore(current(readers, threads))
    theirs = checkers.rumur(tmp_path, readers, threads, flags=FLAGS).run()
    assert (theirs.states, theirs.transitions) == (ours.states, ours.transitions)


@needs_rumur
def test_rumur_sees_the_same_states_with_symmetry(tmp_path: Path) -> None:
    """Not as many steps: of readers in one place, it moves each, and ours one of them."""
    ours = explore(current(3, 2), symmetry=True)
    theirs = checkers.rumur(tmp_path, 3, 2, symmetry=True, flags=FLAGS).run()
    assert theirs.states == ours.states
    assert theirs.transitions > ours.transitions


@needs_rumur
def test_rumur_judges_the_same(tmp_path: Path) -> None:
    """What holds of the design is asserted there, what does not is covered."""
    ours = explore(current(2, 1))
    theirs = checkers.rumur(tmp_path, 2, 1, flags=FLAGS).run()
    came_by = {message.partition(":")[0] for message, count in theirs.covered.items() if count}
    assert came_by == set(ours.broken)


@needs_spin
@pytest.mark.parametrize(("readers", "threads"), SIZES)
def test_spin_sees_the_same_states_and_steps(readers: int, threads: int, tmp_path: Path) -> None:
    ours = explore(current(readers, threads))
    theirs = checkers.spin(tmp_path, readers, threads, flags=FLAGS).run()
    assert (theirs.states, theirs.transitions) == (ours.states, ours.transitions)


@needs_spin
def test_partial_order_reduction_leaves_nothing_out(tmp_path: Path) -> None:
    """Every step is on shared variables, so that SPIN has nothing to reduce by."""
    ours = explore(current(2, 1))
    theirs = checkers.spin(tmp_path, 2, 1, reduction=True, flags=FLAGS).run()
    assert (theirs.states, theirs.transitions) == (ours.states, ours.transitions)
