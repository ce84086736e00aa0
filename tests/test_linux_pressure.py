"""Stalls are read, and the kernel's alarm on them is armed with what is permitted."""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memreap.linux import cgroups
from memreap.linux.pressure import Pressure, Stall, Trigger, parse
from memreap.linux.procfs import Procfs

SYSTEM = Path("/proc/pressure/memory")
RAW = b"""some avg10=1.50 avg60=0.10 avg300=0.00 total=123456
full avg10=0.75 avg60=0.00 avg300=0.00 total=4567
"""
MIB = 1 << 20


@pytest.fixture
def pressed_group() -> Iterator[Path]:
    """A v2 cgroup of the test's own that has a pressure file."""
    for root, kind, _ in cgroups.mounts(Procfs()):
        directory = root / f"memreap-test-{os.getpid()}-{time.monotonic_ns()}"
        if kind != "cgroup2":
            continue
        try:
            directory.mkdir()
        except OSError as error:
            pytest.skip(f"no v2 cgroup: {error}")
        try:
            if not (directory / "memory.pressure").exists():
                pytest.skip("no PSI in cgroups")
            yield directory
        finally:
            with contextlib.suppress(FileNotFoundError):
                cgroups.remove(directory)
        return
    pytest.skip("no v2 hierarchy")


def trigger(path: Path, kind: str, stall_us: int, window_us: int) -> Trigger:
    try:
        return Trigger(path, kind, stall_us, window_us)
    except (FileNotFoundError, PermissionError) as error:
        pytest.skip(f"no PSI trigger here: {error}")


def test_a_pressure_file_is_parsed() -> None:
    assert parse(RAW) == Stall(123456, 4567, 0.75, 1.5)
    assert parse(RAW.splitlines()[0]) == Stall(123456, 0, 0.0, 1.5)


def test_the_machines_stalls_never_shrink() -> None:
    try:
        pressure = Pressure(SYSTEM)
    except OSError as error:
        pytest.skip(f"no PSI here: {error}")
    first = pressure.read()
    second = pressure.read()
    assert 0 <= first.full_total_us <= first.some_total_us
    assert second.some_total_us >= first.some_total_us
    pressure.close()
    pressure.close()


def test_no_figures_is_an_oserror(tmp_path: Path, nothing_left: None) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "missing"):
        with pytest.raises(OSError, match=name):
            Pressure(tmp_path / name)


@pytest.mark.parametrize("window_us", [500_000, 2_000_000, 3_000_000])
def test_a_trigger_says_what_it_got_and_is_quiet(window_us: int, nothing_left: None) -> None:
    alarm = trigger(SYSTEM, "full", window_us // 2, window_us)
    if alarm.window_us != window_us:
        assert alarm.window_us == -(-window_us // 2_000_000) * 2_000_000
        assert "CAP_SYS_RESOURCE" in alarm.means
    assert alarm.stall_us * 2 == alarm.window_us  # the share stays
    assert f"{alarm.window_us / 1000:g} ms" in alarm.means
    poll = select.poll()
    poll.register(alarm, select.POLLPRI)
    began_s = time.monotonic()
    assert poll.poll(30) == []
    assert time.monotonic() - began_s >= 0.02
    alarm.close()


def test_a_kind_that_is_none_arms_nothing() -> None:
    with pytest.raises(ValueError, match="most"):
        Trigger(SYSTEM, "most", 1, 2_000_000)
    with pytest.raises(ValueError, match="no window"):
        Trigger(SYSTEM, "some", 1, 0)


def test_what_the_kernel_never_permits_is_an_oserror(nothing_left: None) -> None:
    if not SYSTEM.exists():
        pytest.skip("no PSI here")
    with pytest.raises(OSError):  # noqa: PT011  # EINVAL; EPERM before 6.4
        Trigger(SYSTEM, "some", 3_000_000, 2_000_000)


def test_the_end_of_a_cgroup_is_seen(pressed_group: Path, nothing_left: None) -> None:
    alarm = trigger(pressed_group / "memory.pressure", "some", 100_000, 2_000_000)
    pressure = Pressure(pressed_group / "memory.pressure")
    poll = select.poll()
    poll.register(alarm, select.POLLPRI)
    assert poll.poll(0) == []
    pressed_group.rmdir()
    [(_, event)] = poll.poll(2000)
    assert event & select.POLLERR
    with pytest.raises(OSError, match="No such device"):
        pressure.read()
    pressure.close()
    alarm.close()


def test_a_real_stall_counts_and_rings(
    pressed_group: Path, cgroup: Callable[[str], Path], tmp_path: Path, nothing_left: None
) -> None:
    """A file of 32 MiB, read again and again within 12 MiB: each round reclaims and refaults."""
    if (pressed_group / "memory.max").exists():
        limited, limit = pressed_group, "memory.max"
    else:
        limited, limit = cgroup("memory"), "memory.limit_in_bytes"
    file = tmp_path / "file"
    file.write_bytes(os.urandom(MIB) * 32)
    fd = os.open(file, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # charged to us; the reader is to pay
    (limited / limit).write_text(str(12 * MIB))
    path = pressed_group / "memory.pressure"
    alarm = trigger(path, "some", 2_000, 1_000_000)
    pressure = Pressure(path)
    before = pressure.read()
    reader = os.fork()
    if reader == 0:
        try:
            for place in {limited, pressed_group}:
                (place / "cgroup.procs").write_text(str(os.getpid()))
            end_s = time.monotonic() + 10
            while time.monotonic() < end_s:
                for at in range(0, 32 * MIB, MIB):
                    os.pread(fd, MIB, at)
        finally:
            os._exit(0)
    try:
        poll = select.poll()
        poll.register(alarm, select.POLLPRI)
        events = poll.poll(6000)
        after = pressure.read()
    finally:
        os.kill(reader, 9)
        os.waitpid(reader, 0)
        os.close(fd)
    pressure.close()
    alarm.close()
    if after.some_total_us == before.some_total_us:
        pytest.skip("this file system's pages are not charged")
    assert [event for _, event in events] == [select.POLLPRI]
    assert after.some_total_us - before.some_total_us >= 2_000
