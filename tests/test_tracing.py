"""Tracing on the live kernel: an instance of one's own, what is lost, and nothing left behind."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.guarding import NOBODY

from memreap.linux import tracing
from memreap.linux.kallsyms import Symbols
from memreap.linux.tracing import PREFIX, Instance, TracingError, tracefs

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="tracefs needs root")
pytestmark = pytest.mark.kernel


@pytest.fixture
def root() -> Iterator[Path]:
    try:
        with tracefs() as found:
            yield found
    except TracingError as error:
        pytest.skip(str(error))


def own(root: Path) -> list[str]:
    return [one.name for one in root.glob(f"instances/{PREFIX}{os.getpid()}-*")]


@needs_root
def test_what_a_followed_process_does_is_told_in_order_and_nothing_of_others(root: Path) -> None:
    with Instance(root) as instance:
        assert instance.enable_all([("sched/sched_process_exit", ""), ("no/such", "")]) == [
            "no/such"
        ]
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            instance.follow([child.pid])
            instance.start()
            subprocess.run(["true"], check=True)  # a stranger
            before_ns = time.monotonic_ns()
            child.communicate(b"\n")
        after_ns = time.monotonic_ns()
        instance.stop()
        (event,) = instance.events()
        assert (event.name, event.pid, event.fields["pid"]) == (
            "sched_process_exit",
            child.pid,
            child.pid,
        )
        assert before_ns < event.at_ns < after_ns, "by CLOCK_MONOTONIC"
        assert instance.lost == 0
        assert own(root)
    assert own(root) == []


@needs_root
def test_what_does_not_fit_is_counted(root: Path) -> None:
    with Instance(root, buffer_bytes=4096) as instance:
        instance.enable("raw_syscalls/sys_enter")
        instance.follow([os.getpid()])
        instance.start()
        for _ in range(5000):
            os.getppid()
        instance.stop()
        assert len(instance.events()) + instance.lost >= 5000
        assert instance.lost > 0


@needs_root
def test_what_a_killed_process_left_is_removed_by_the_next_one(root: Path) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    left = root / "instances" / f"{PREFIX}{gone.pid}-0"
    left.mkdir()
    kept = root / "instances" / f"{PREFIX}not-ours"
    kept.mkdir()
    try:
        with Instance(root):
            assert not left.exists()
            assert kept.exists()
    finally:
        kept.rmdir()


@needs_root
def test_an_instance_that_somebody_reads_is_removed_when_he_is_done(root: Path) -> None:
    instance = Instance(root)
    (name,) = own(root)
    file = (root / "instances" / name / "tracing_on").open()
    timer = threading.Timer(0.2, file.close)
    timer.start()
    instance.close()
    timer.join()
    assert own(root) == []


@needs_root
def test_an_instance_that_somebody_goes_on_reading_is_no_error(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "BUSY_WAIT_S", 0.05)
    instance = Instance(root)
    (name,) = own(root)
    with (root / "instances" / name / "tracing_on").open():
        instance.close()
        assert own(root) == [name]
    (root / "instances" / name).rmdir()


@needs_root
def test_without_an_event_there_is_no_format(root: Path) -> None:
    with Instance(root) as instance, pytest.raises(KeyError):
        instance.format("mmap/exit_mmap")


def test_without_tracefs_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "MOUNTED", (Path("/nonexistent"),))
    with pytest.raises(TracingError, match="mount -t tracefs"), tracefs(may_mount=False):
        pass


def test_addresses_have_names_as_far_as_they_are_shown(tmp_path: Path) -> None:
    table = tmp_path / "kallsyms"
    table.write_text("ffff10 T do_exit\nffff20 t exit_mm [some]\n0000 T hidden\n")
    symbols = Symbols(str(table))
    assert symbols.stack((0xFFFF12, 0xFFFF20, 0x1)) == ("do_exit", "exit_mm")
    assert Symbols(str(tmp_path / "none")).name(1) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else for a while")
def test_tracefs_that_is_roots_alone_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "instances").mkdir()
    tmp_path.chmod(0o700)  # as the kernel mounts it
    monkeypatch.setattr(tracing, "MOUNTED", (tmp_path,))
    os.seteuid(NOBODY)
    try:
        with pytest.raises(TracingError, match="not for this user"), tracefs():
            pass
    finally:
        os.seteuid(0)
