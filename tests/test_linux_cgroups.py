"""Memory cgroups: what one uses, may use, and can give back; what rings; who dies as one."""

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memreap.linux import cgroups
from memreap.linux.cgroups import CgroupMemory, Events, Threshold
from memreap.linux.procfs import Procfs

MIB, GIB = 1 << 20, 1 << 30
NOBODY = 65534
V2_STAT = """anon 1000
file 9000
shmem 500
inactive_anon 1500
active_anon 0
inactive_file 3000
active_file 4000
slab_reclaimable 600
slab_unreclaimable 100
workingset_refault_file 77
"""
V1_STAT = """cache 1
active_file 11
hierarchical_memory_limit {limit}
total_cache 5
total_inactive_file 2000
total_active_file 1000
"""


def v2(directory: Path, limit: str = "max", group: str = "0") -> Path:
    directory.mkdir()
    files = {"current": "4096", "swap.current": "8192", "max": limit, "oom.group": group}
    for name, value in files.items():
        (directory / f"memory.{name}").write_text(value + "\n")
    (directory / "memory.stat").write_text(V2_STAT)
    return directory


def hold(size_bytes: int, *places: Path) -> int:
    """A child that holds so much in these cgroups; its pid, once it does."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for place in places:
                (place / "cgroup.procs").write_text(str(os.getpid()))
            memory = bytearray(size_bytes)
            for at in range(0, size_bytes, 4096):
                memory[at] = 1
            os.write(write, b"!")
            time.sleep(60)
        finally:
            os._exit(0)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    return pid


def end(pid: int) -> None:
    os.kill(pid, 9)
    os.waitpid(pid, 0)


@pytest.fixture
def unified() -> Iterator[Path]:
    """A v2 cgroup of the test's own, whatever its controllers."""
    for root, kind, _ in cgroups.mounts(Procfs()):
        if kind != "cgroup2":
            continue
        directory = root / f"memreap-test-{os.getpid()}-{time.monotonic_ns()}"
        try:
            directory.mkdir()
        except OSError as error:
            pytest.skip(f"no v2 cgroup: {error}")
        try:
            yield directory
        finally:
            cgroups.remove(directory)
        return
    pytest.skip("no v2 hierarchy")


def test_a_v2_cgroup_is_read(tmp_path: Path, nothing_left: None) -> None:
    memory = CgroupMemory(v2(tmp_path / "a"))
    assert (memory.version, memory.usage_bytes(), memory.swap_bytes()) == (2, 4096, 8192)
    assert memory.reclaimable_bytes() == 3000 + 4000 + 300
    assert memory.pressure_path() is None
    (tmp_path / "a/memory.pressure").touch()
    assert memory.pressure_path() == tmp_path / "a/memory.pressure"
    memory.close()
    memory.close()


def test_the_least_limit_above_counts(tmp_path: Path) -> None:
    outer = v2(tmp_path / "outer", str(3 * GIB))
    middle = v2(outer / "middle")
    inner = v2(middle / "inner", str(5 * GIB))
    memory = CgroupMemory(inner)
    assert memory.limit_bytes(16 * GIB) == 3 * GIB
    assert memory.limit_bytes(3 * GIB) is None
    (outer / "memory.max").write_text("max\n")
    assert memory.limit_bytes(16 * GIB) == 5 * GIB
    (inner / "memory.max").write_text("0\n")
    assert memory.limit_bytes(16 * GIB) == 0
    (inner / "memory.max").write_text("max\n")
    assert memory.limit_bytes(16 * GIB) is None
    memory.close()


def test_a_v1_cgroup_is_read(tmp_path: Path, nothing_left: None) -> None:
    (tmp_path / "memory.usage_in_bytes").write_text("5000\n")
    (tmp_path / "memory.stat").write_text(V1_STAT.format(limit=9223372036854771712))
    memory = CgroupMemory(tmp_path)
    assert (memory.version, memory.usage_bytes(), memory.swap_bytes()) == (1, 5000, 0)
    assert (memory.reclaimable_bytes(), memory.limit_bytes(GIB)) == (3000, None)
    (tmp_path / "memory.pressure").touch()
    assert memory.pressure_path() is None
    (tmp_path / "memory.stat").write_text(V1_STAT.format(limit=MIB))
    assert memory.limit_bytes(GIB) == MIB
    memory.close()
    (tmp_path / "memory.memsw.usage_in_bytes").write_text("7000\n")
    memory = CgroupMemory(tmp_path)
    assert memory.swap_bytes() == 2000
    memory.close()


def test_what_is_no_memory_cgroup(tmp_path: Path, nothing_left: None) -> None:
    with pytest.raises(FileNotFoundError):
        CgroupMemory(tmp_path)
    (tmp_path / "memory.current").write_text("1\n")
    with pytest.raises(FileNotFoundError):
        CgroupMemory(tmp_path)


def test_a_real_cgroup(cgroup: Callable[[str], Path], nothing_left: None) -> None:
    directory = cgroup("memory")
    memory = CgroupMemory(directory)
    limit = "memory.max" if memory.version == 2 else "memory.limit_in_bytes"
    assert memory.limit_bytes(1 << 50) is None
    (directory / limit).write_text(str(64 * MIB))
    assert memory.limit_bytes(1 << 50) == 64 * MIB
    assert directory in cgroups.limited_below(directory.parent, most=10_000)
    pid = hold(20 * MIB, directory)
    assert 20 * MIB <= memory.usage_bytes() < 40 * MIB
    assert 0 <= memory.reclaimable_bytes() < memory.usage_bytes()
    assert memory.swap_bytes() == 0
    end(pid)
    cgroups.remove(directory)
    for read in (memory.usage_bytes, memory.reclaimable_bytes):
        with pytest.raises(OSError, match="No such device"):
            read()
    memory.close()


def test_limited_below_is_breadth_first_and_bounded(tmp_path: Path) -> None:
    top = v2(tmp_path / "top", "1")
    a, b = v2(top / "a"), v2(top / "b", str(GIB))
    deep = v2(a / "deep", str(MIB))
    old = a / "old"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert cgroups.limited_below(top) == [b, deep]
    (old / "memory.limit_in_bytes").write_text("4096\n")
    assert cgroups.limited_below(top) == [b, deep, old]
    assert cgroups.limited_below(top, most=1) == [b]
    assert cgroups.limited_below(tmp_path / "gone") == []


def test_the_highest_oom_group_within_the_domain_dies(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    outer = v2(root / "outer", group="1")
    middle = v2(outer / "middle", group="1")
    inner = v2(middle / "inner")
    other = v2(root / "other", group="1")
    assert cgroups.oom_group(inner) == outer
    assert cgroups.oom_group(inner, outer) == outer  # the domain is one of them
    assert cgroups.oom_group(inner, middle) == middle
    assert cgroups.oom_group(inner, inner) is None
    assert cgroups.oom_group(inner, other) is None  # moved away: not the domain's any more
    assert cgroups.oom_group(inner, root) == outer
    (outer / "memory.oom.group").write_text("0\n")
    assert cgroups.oom_group(inner) == middle
    assert cgroups.oom_group(root) is None


def test_preference_of_a_unit(tmp_path: Path) -> None:
    def mark(name: str, value: bytes) -> None:
        try:
            os.setxattr(tmp_path, f"user.oomd_{name}", value)
        except OSError as error:
            pytest.skip(f"no user extended attributes here: {error}")

    own = tmp_path if os.getuid() else None
    assert cgroups.preference(tmp_path, own) == ""
    mark("avoid", b"1")
    assert cgroups.preference(tmp_path, own) == "avoid"
    mark("omit", b"0")
    assert cgroups.preference(tmp_path, own) == "avoid"
    mark("omit", b"yes")
    assert cgroups.preference(tmp_path, own) == "omit"
    assert cgroups.preference(tmp_path / "gone") == ""


def test_a_user_may_not_excuse_himself_before_the_machine(tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("not root")
    slice_, unit = tmp_path / "slice", tmp_path / "slice/unit"
    unit.mkdir(parents=True)
    try:
        os.setxattr(unit, "user.oomd_omit", b"1")
    except OSError as error:
        pytest.skip(f"no user extended attributes here: {error}")
    os.chown(unit, NOBODY, NOBODY)
    assert cgroups.preference(unit) == ""
    assert cgroups.preference(unit, slice_) == ""
    os.chown(slice_, NOBODY, NOBODY)
    assert cgroups.preference(unit, slice_) == "omit"


def test_preference_on_a_real_cgroup(unified: Path) -> None:
    try:
        os.setxattr(unified, "user.oomd_avoid", b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes in cgroups: {error}")
    assert cgroups.preference(unified) == "avoid"


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/", ""),
        ("/user.slice", ""),
        ("/system.slice/ssh.service", "ssh.service"),
        ("/system.slice/ssh.service (deleted)", "ssh.service"),
        ("/system.slice/app.service/workers/7", "app.service"),
        ("/user.slice/user-1.slice/user@1.service/app.slice/a\\x2db.scope", "a\\x2db.scope"),
        ("/system.slice/_cpu.service", "cpu.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
    ],
)
def test_the_unit_of_a_cgroup(path: str, unit: str) -> None:
    assert cgroups.unit_of(path) == unit


def test_usage_that_crosses_a_mark_rings(cgroup: Callable[[str], Path], nothing_left: None) -> None:
    directory = cgroup("memory")
    memory = CgroupMemory(directory)
    if memory.version == 2:
        memory.close()
        with pytest.raises(OSError, match="No such file"):
            Threshold(directory, MIB)
        return
    bell = Threshold(directory, 8 * MIB)
    poll = select.poll()
    poll.register(bell, select.POLLIN)
    assert (poll.poll(0), bell.drain()) == ([], 0)
    pid = hold(16 * MIB, directory)
    assert poll.poll(2000)
    assert bell.drain() >= 1
    assert (poll.poll(0), bell.drain()) == ([], 0)
    end(pid)  # and down again
    assert poll.poll(2000)
    assert bell.drain() >= 1
    cgroups.remove(directory)
    assert poll.poll(2000)
    memory.close()
    bell.close()
    bell.close()


def test_where_no_bell_can_be_hung(tmp_path: Path, nothing_left: None) -> None:
    with pytest.raises(FileNotFoundError):
        Threshold(tmp_path, MIB)
    (tmp_path / "memory.usage_in_bytes").write_text("1\n")
    with pytest.raises(FileNotFoundError):
        Threshold(tmp_path, MIB)


def test_events_are_counted(tmp_path: Path, nothing_left: None) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 3\nmax 12\noom 1\noom_kill 1\n")
    events = Events(tmp_path)
    assert events.read() == {"low": 0, "high": 3, "max": 12, "oom": 1, "oom_kill": 1}
    events.close()
    with pytest.raises(FileNotFoundError):
        Events(tmp_path / "gone")


def test_an_events_file_rings_until_it_is_read(unified: Path, nothing_left: None) -> None:
    """cgroup.events stands for memory.events: the same poll(), without the controller."""
    events = Events(unified, "cgroup.events")
    poll = select.poll()
    poll.register(events, select.POLLPRI)
    assert poll.poll(20) == []
    pid = hold(4096, unified)
    [(_, event)] = poll.poll(2000)
    assert event & select.POLLPRI
    assert events.read()["populated"] == 1
    assert poll.poll(0) == []
    end(pid)
    assert poll.poll(2000)
    assert events.read()["populated"] == 0
    unified.rmdir()
    [(_, event)] = poll.poll(2000)
    assert event & select.POLLERR
    with pytest.raises(OSError, match="No such device"):
        events.read()
    events.close()
