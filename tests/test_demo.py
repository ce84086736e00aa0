"""The demo shows every scene, says what it measured, and leaves nothing behind."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memreap import size
from memreap.demo.measure import (
    RELEASED_SHARE,
    TICK_FIRST_S,
    TICK_MAX_S,
    TICK_MIN_S,
    Meter,
)
from memreap.demo.scenes import SCENES, left_out
from memreap.demo.show import ALONE_LIMIT_S
from memreap.linux import syscalls
from memreap.linux.procfs import Procfs
from memreap.size import seconds

DEMO = [sys.executable, "-m", "memreap", "demo"]
RUN_ROW = "a command that forks a hog"
CROWDED = "busy hog"  # the scene before: then come the neighbours
FROZEN = "memory shared by two processes"  # then comes the freezer
TIMEOUT_S = 60.0  # it says "under a minute"
GONE_WITHIN_S = 6.0
PROC = Procfs()


@pytest.fixture(scope="module")
def _inherits_orphans() -> Iterator[None]:
    """Whoever the demo leaves behind becomes a child of ours: nobody else's are looked at."""
    # A caller that ignores SIGINT, as a shell's background job does, would hand that down.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    yield
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 0)
    signal.signal(signal.SIGINT, handler)


def fuse_mounts() -> set[str]:
    return {line for line in Path("/proc/self/mounts").read_text().splitlines() if "fuse" in line}


def cgroups_of(pid: int) -> list[Path]:
    """Those that the demo with this pid has made, in v2 and in every hierarchy of v1."""
    root = Path("/sys/fs/cgroup")
    names = (f"memreap-*-{pid}", f"memreap-{pid}*")
    return [found for name in names for at in (name, f"*/{name}") for found in root.glob(at)]


class Before:
    """What there was before the demo, to tell what it left."""

    def __init__(self) -> None:
        self._children = set(PROC.children(os.getpid()))
        self._mounts = fuse_mounts()

    def states_left(self) -> dict[int, str]:
        """Pid -> state of each process that the demo left; those that have ended are reaped."""
        left = {}
        for pid in set(PROC.children(os.getpid())) - self._children:
            with contextlib.suppress(ChildProcessError, ProcessLookupError, FileNotFoundError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    left[pid] = PROC.stat(pid).state
        return left

    def assert_nothing_left(self, demo_pid: int) -> None:
        deadline_s = time.monotonic() + GONE_WITHIN_S
        while (left := self.states_left()) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        groups = cgroups_of(demo_pid)
        self._clear(left, groups)
        assert left == {}
        assert groups == []
        assert fuse_mounts() <= self._mounts

    def _clear(self, left: dict[int, str], groups: list[Path]) -> None:
        """The next test is not to suffer for it."""
        for group in groups:
            with contextlib.suppress(OSError):
                (group / "freezer.state").write_text("THAWED")
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        for group in groups:
            with contextlib.suppress(OSError):
                group.rmdir()


@dataclass(frozen=True, slots=True)
class Shown:
    """One demo, from its start to its end."""

    pid: int
    code: int
    took_s: float
    table: str
    progress: str
    records: list[dict[str, Any]]
    svg: Path
    before: Before

    @property
    def cells(self) -> dict[str, list[str]]:
        """First cell of each row -> its other cells."""
        rows = [re.split(r" {2,}", line.strip()) for line in self.table.splitlines()]
        return {row[0]: row[1:] for row in rows if len(row) == 4}


@pytest.fixture(scope="session")
def omitted(possible: dict[str, str | None]) -> dict[str, str]:
    """Scene -> why this machine cannot have it."""
    return left_out(possible)


@pytest.fixture(scope="module")
def shown(_inherits_orphans: None, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The whole demo, piped; once for all tests."""
    svg = tmp_path_factory.mktemp("demo") / "demo.svg"
    before, start_s = Before(), time.monotonic()
    with subprocess.Popen(
        [*DEMO, "--json", "--svg", str(svg)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            raise
    took_s = time.monotonic() - start_s
    lines = out.splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    table = "\n".join(line for line in lines if not line.startswith("{"))
    return Shown(process.pid, process.returncode, took_s, table, err, records, svg, before)


@pytest.mark.kernel
@pytest.mark.slow
def test_leaves_nothing_behind(shown: Shown) -> None:
    shown.before.assert_nothing_left(shown.pid)


@pytest.mark.kernel
@pytest.mark.slow
def test_every_possible_scene_is_shown_and_released(shown: Shown, omitted: dict[str, str]) -> None:
    assert shown.code == 0, shown.progress
    assert shown.took_s < TIMEOUT_S
    expected = [scene.name for scene in SCENES if scene.name not in omitted]
    assert [record["victim"] for record in shown.records] == expected
    assert set(shown.cells) >= {*expected, RUN_ROW}
    for name, why in omitted.items():
        assert f"left out: {name} ({why})" in shown.table
    for record in shown.records:
        assert record["memreap_seconds"] is not None, record
        assert record["memreap_released_bytes"] >= RELEASED_SHARE * record["size_bytes"], record


@pytest.mark.kernel
@pytest.mark.slow
def test_figures_are_those_of_the_table(shown: Shown) -> None:
    for record in shown.records:
        alone, memreap, _ = shown.cells[record["victim"]]
        held_bytes = record["size_bytes"]
        assert 0 < record["memreap_seconds"] < 3
        took = f"{size.show(held_bytes)} in {seconds(record['memreap_seconds'])}"
        assert memreap.removesuffix(", still hangs") == took
        if record["alone_seconds"] is None:
            share = max(0.0, min(1.0, record["alone_released_bytes"] / held_bytes))
            assert share < RELEASED_SHARE
            assert alone == f"{share:.0%} after {ALONE_LIMIT_S:g} s"
        else:
            assert alone == f"{size.show(held_bytes)} in {seconds(record['alone_seconds'])}"


@pytest.mark.kernel
@pytest.mark.slow
def test_verdict_counts_the_rows(shown: Shown) -> None:
    count = len(shown.records)
    alone = sum(record["alone_seconds"] is not None for record in shown.records)
    slowest = seconds(max((r["memreap_seconds"] for r in shown.records), default=0.0))
    assert (
        f"memreap: {count} of {count} released, the slowest in {slowest}; "
        f"SIGKILL alone: {alone} of {count} within {ALONE_LIMIT_S:g} s; the budget was kept."
    ) in shown.table
    assert "hog killed at" in shown.cells[RUN_ROW][1]


@pytest.mark.kernel
@pytest.mark.slow
def test_text_without_a_terminal_is_plain(shown: Shown) -> None:
    for text in (shown.table, shown.progress):
        assert "\x1b" not in text
        assert "\r" not in text
    names = [*(record["victim"] for record in shown.records), RUN_ROW]
    assert shown.progress.splitlines() == [f"{name}: done" for name in names]


@pytest.mark.kernel
@pytest.mark.slow
def test_picture_names_every_scene(shown: Shown) -> None:
    root = ET.parse(shown.svg).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    text = "".join(root.itertext()).replace("\xa0", " ")
    for name in [*(record["victim"] for record in shown.records), RUN_ROW]:
        assert name in text


@pytest.mark.kernel
@pytest.mark.slow
@pytest.mark.usefixtures("_inherits_orphans")
@pytest.mark.parametrize(
    ("number", "scene", "code", "said"),
    [
        (signal.SIGINT, None, 130, ["memreap: interrupted; everything that was made is gone"]),
        (signal.SIGINT, CROWDED, 130, ["memreap: interrupted; everything that was made is gone"]),
        (
            signal.SIGTERM,
            FROZEN,
            143,
            ["memreap: ended by SIGTERM; everything that was made is gone"],
        ),
        (signal.SIGKILL, FROZEN, -signal.SIGKILL, []),
    ],
)
def test_whatever_ends_it_nothing_is_left(
    number: signal.Signals, scene: str | None, code: int, said: list[str]
) -> None:
    before = Before()
    with subprocess.Popen(
        DEMO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        while scene and process.stderr.readline() != f"{scene}: done\n":
            assert process.poll() is None
        while not scene and not PROC.children(process.pid):
            assert process.poll() is None
        time.sleep(0.8)  # into the next one
        # A terminal sends SIGINT to the whole foreground group.
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        rest = process.stderr.read()
        process.wait(TIMEOUT_S)
    before.assert_nothing_left(process.pid)
    assert process.returncode == code
    assert [line for line in rest.splitlines() if not line.endswith(": done")] == said


def meter(held_bytes: int) -> Meter:
    """One that measures nobody: only its arithmetic is asked."""
    made = Meter.__new__(Meter)
    made.held_bytes = held_bytes
    return made


@given(
    held_bytes=st.integers(1, 1 << 42),
    released_bytes=st.integers(-(1 << 42), 1 << 42),
    since_s=st.floats(-1.0, 1e6),
)
@example(held_bytes=1 << 30, released_bytes=0, since_s=0.0)
@example(held_bytes=1 << 30, released_bytes=1 << 30, since_s=3.0)
def test_naps_are_neither_too_short_nor_too_long(
    held_bytes: int, released_bytes: int, since_s: float
) -> None:
    nap_s = meter(held_bytes)._nap_s(released_bytes, since_s)
    assert TICK_MIN_S <= nap_s <= TICK_MAX_S
    assert nap_s <= max(TICK_FIRST_S, since_s / 2)


def test_naps_end_half_way_to_the_end() -> None:
    # A quarter back after 2 ms: 6 ms to go, but never more than half of what has passed.
    assert meter(400)._nap_s(100, 0.002) == pytest.approx(TICK_FIRST_S)
    # Three quarters back after 6 ms: 2 ms to go.
    assert meter(400)._nap_s(300, 0.006) == pytest.approx(0.001)
    # All back, or more than was held: look again at once.
    assert meter(400)._nap_s(400, 0.006) == TICK_MIN_S
    assert meter(400)._nap_s(500, 0.006) == TICK_MIN_S
    # Nothing back yet: ever rarer, up to a limit.
    naps = [meter(400)._nap_s(0, since_s) for since_s in (0.0, 0.001, 0.004, 9.0)]
    assert naps == [TICK_MIN_S, TICK_FIRST_S, 0.002, TICK_MAX_S]
