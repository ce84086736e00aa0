"""How often the scout measures a tree: far from its line seldom, and a victim's release often."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from memreap.decide.policy import Policy
from memreap.guard.reading import Mark
from memreap.guard.scout import BRANCH_AWAITED_S, Scout
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Line

LIMIT_BYTES = 8 << 30
TAKES_64_MIB = "import time; held = bytearray(64 << 20); print('full', flush=True); time.sleep(600)"


class Told:
    """A line that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def say(self, message: dict[str, Any], fds: list[int] | None = None) -> None:
        del fds
        self.said.append(message)


@pytest.fixture
def victim() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", TAKES_64_MIB], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"full\n"
        try:
            yield child.pid
        finally:
            child.kill()


def test_a_tree_is_measured_often_while_a_victim_of_it_is_waited_for(victim: int) -> None:
    told = Told()
    scout = Scout(cast("Line", told), Policy(), Mark(), os.getpid())
    ward = {
        "name": "tree:1",
        "kind": "tree",
        "pid": victim,
        "uid": 0,
        "path": "",
        "members": [],
        "limit_bytes": LIMIT_BYTES,
        "whole_bytes": LIMIT_BYTES,
        "start_ticks": Procfs().stat(victim).start_ticks,
    }
    scout._obey({"ward": ward})
    scout._measure("tree:1")
    assert told.said[-1]["next_s"] > 4 * BRANCH_AWAITED_S, "far from its line"

    scout._obey({"doomed": [victim]})
    assert scout._branch_due["tree:1"] <= time.monotonic() + BRANCH_AWAITED_S
    scout._measure("tree:1")
    assert told.said[-1]["victim_bytes"] > 0
    assert told.said[-1]["next_s"] <= BRANCH_AWAITED_S

    scout._obey({"settled": [victim]})
    scout._measure("tree:1")
    assert told.said[-1]["next_s"] > 4 * BRANCH_AWAITED_S, "its memory is back"
    scout._obey({"forget": "tree:1"})
