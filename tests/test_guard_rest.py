"""A guard at rest costs next to nothing, whatever was asked of it before."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.guarding import Guard

from memreap.telling.asking import ask

pytestmark = pytest.mark.kernel


def switches(pid: int) -> int:
    """How often it was put on a CPU."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)


def test_a_tree_that_somebody_has_looked_at_is_at_rest_again(
    guard: Callable[..., Guard], sleeper: Callable[[], int]
) -> None:
    watching = guard("--tree", sleeper(), "--limit", "500M")
    assert ask(str(watching.socket))["domains"]
    time.sleep(1)
    before = switches(watching.process.pid)
    time.sleep(2)
    # It is told of the tree some nine times a second; asked on and on it was 1,800 times.
    assert (switches(watching.process.pid) - before) / 2 < 100
