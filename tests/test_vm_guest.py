"""A guest that boots in seconds, and memreap in it: cgroup v2, NUMA, swap, true exhaustion."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from vmtest import cache, cpio, emulator, guest, setup

MIB = 1 << 20
needs_a_guest = pytest.mark.vm

# One boot for all that leaves the guest alive: two nodes, swap on a disk.
MANY = """
from vmtest import inside
MIB = 1 << 20

def controllers():
    inside.report(what="controllers", **{
        "there": (inside.CGROUPS / "cgroup.subtree_control").read_text().split(),
        "psi": open("/proc/pressure/memory").read(), "nodes": inside.nodes(),
    })

def kill():
    with inside.cgroup("victim") as group, inside.hog(128 * MIB, group=group) as victim:
        victim.wait_full()
        before = group.usage_bytes
        done = inside.memreap("kill", victim.pid, "--json")
        after = group.usage_bytes  # before anyone takes leave of the victim
        inside.report(what="kill", code=done.returncode, out=done.stdout, err=done.stderr,
                      before=before, after=after, wait=victim.wait())

def run():
    hog = "x = bytearray(300 << 20); import time; time.sleep(60)"
    done = inside.memreap("run", "-m", "100M", "--", "python3", "-SE", "-c", hog)
    inside.report(what="run", code=done.returncode, err=done.stderr)

def node():
    with inside.hog(64 * MIB, node=1) as hog:
        hog.wait_full()
        inside.report(what="node", lies=inside.anonymous_bytes_by_node(hog.pid),
                      total=[inside.node_meminfo_bytes(n)["MemTotal"] for n in inside.nodes()])

def swap():
    before = inside.swaps()
    device = inside.swap_on_zram(64 * MIB)
    inside.report(what="swap", before=before, both=inside.swaps())
    # More than the group may have in memory, so the rest of it goes to the disk, the older swap.
    with inside.cgroup("swapped", memory_max=32 * MIB) as group:
        with inside.hog(64 * MIB, group=group) as hog:
            hog.wait_full()
            inside.report(what="swapped", bytes=int(group.read("memory.swap.current")))
    inside.swap_off(device)
    inside.report(what="swap_off", left=inside.swaps())

def oom():
    with inside.cgroup("small", memory_max=48 * MIB, memory_swap_max=0) as group:
        with inside.hog(96 * MIB, group=group, name="glutton") as hog:
            inside.report(what="oom", full=hog.wait_full(), wait=hog.wait(),
                          events=group.table("memory.events"), log=inside.kernel_log())

for check in (controllers, kill, run, node, swap, oom):
    check()
import sys
print("that was all")
print("a word aside", file=sys.stderr)
sys.exit(7)
"""

# The second: all memory gone, then a crash.
LAST = """
from vmtest import inside
print("now", flush=True)
with inside.hog(1 << 30, name="glutton") as hog:
    inside.report(what="exhausted", full=hog.wait_full(), wait=hog.wait(), log=inside.kernel_log())
inside.sysrq("c")
"""


@pytest.fixture(scope="module")
def many(booted: Callable[..., guest.Result]) -> guest.Result:
    return booted(MANY, nodes=2, swap="128M", timeout_s=60)


@pytest.fixture(scope="module")
def crashed(booted: Callable[..., guest.Result]) -> guest.GuestError:
    with pytest.raises(guest.DiedError) as caught:
        booted(LAST, memory_bytes=384 * MIB, timeout_s=60)
    return caught.value


@needs_a_guest
def test_script_runs_to_its_end_and_all_it_said_arrives(many: guest.Result) -> None:
    assert many.stderr == ["a word aside"]
    assert many.stdout == ["that was all"]
    assert many.exit_code == 7
    with pytest.raises(RuntimeError, match="ended with 7\nthat was all\na word aside"):
        many.check()
    assert 0 < many.guest_s < many.whole_s
    assert 0 < many.ready_s < many.whole_s


@needs_a_guest
def test_cgroup_v2_has_the_memory_controller(many: guest.Result) -> None:
    record = many.record(what="controllers")
    assert {"memory", "cpu", "cpuset", "pids"} <= set(record["there"])
    assert record["psi"].startswith("some avg10=")


@needs_a_guest
def test_memreap_kill_measures_the_release_by_memory_current(many: guest.Result) -> None:
    record = many.record(what="kill")
    assert record["code"] == 0, record
    outcome = json.loads(record["out"])
    assert outcome["outcome"] in ("exited", "reaped")
    assert "cgroup fell by" in outcome["reason"]
    assert outcome["released_bytes"] >= 128 * MIB
    assert record["before"] >= 128 * MIB
    assert record["after"] < 4 * MIB
    assert record["wait"] == -9


@needs_a_guest
def test_memreap_run_measures_by_its_own_cgroup(many: guest.Result) -> None:
    record = many.record(what="run")
    assert record["code"] == 137, record
    assert "measured by cgroup v2" in record["err"]


@needs_a_guest
def test_two_nodes_and_a_bound_hog_lies_on_its_own(many: guest.Result) -> None:
    assert many.record(what="controllers")["nodes"] == [0, 1]
    record = many.record(what="node")
    assert record["lies"]["1"] >= 64 * MIB
    assert record["lies"].get("0", 0) < 16 * MIB  # what it had as a child, before it was bound
    assert all(total > 256 * MIB for total in record["total"])


@needs_a_guest
def test_swap_on_a_disk_and_on_zram(many: guest.Result) -> None:
    record = many.record(what="swap")
    assert [row["Filename"] for row in record["before"]] == ["/dev/vda"]
    assert [row["Filename"] for row in record["both"]] == ["/dev/vda", "/dev/zram0"]
    assert many.record(what="swapped")["bytes"] > 24 * MIB
    assert [row["Filename"] for row in many.record(what="swap_off")["left"]] == ["/dev/vda"]


@needs_a_guest
def test_kernel_kills_in_a_cgroup_that_is_too_small(many: guest.Result) -> None:
    record = many.record(what="oom")
    assert (record["full"], record["wait"]) == (False, -9)
    assert record["events"]["oom_kill"] == 1
    assert any("Memory cgroup out of memory" in line for line in record["log"])


@needs_a_guest
def test_kernel_kills_when_all_memory_is_gone(crashed: guest.GuestError) -> None:
    record = crashed.result.record(what="exhausted")
    assert (record["full"], record["wait"]) == (False, -9)
    killed = [line for line in record["log"] if line.startswith("Out of memory: Killed process")]
    assert len(killed) == 1
    assert "(glutton)" in killed[0]


@needs_a_guest
def test_panic_is_told_with_the_console_and_what_came_before(crashed: guest.GuestError) -> None:
    assert "Kernel panic - not syncing: sysrq triggered crash" in str(crashed)
    assert crashed.result.stdout == ["now"]
    assert crashed.result.exit_code is None
    assert str(crashed.console) in str(crashed)
    assert "Kernel panic" in crashed.console.read_text()
    assert os.listdir(crashed.console.parent) == ["console"]


@needs_a_guest
def test_guest_that_hangs_is_killed_when_its_time_is_over(
    booted: Callable[..., guest.Result],
) -> None:
    began_s = time.monotonic()
    with pytest.raises(guest.HungError, match="still ran after 6 s") as caught:
        booted("while True: pass", memory_bytes=384 * MIB, cpus=1, timeout_s=6)
    assert time.monotonic() - began_s < 15
    assert caught.value.console.exists()
    assert caught.value.result.exit_code is None
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in children]
    assert not [name for name in names if name.startswith("qemu")]


@needs_a_guest
def test_by_hand(booted: Callable[..., guest.Result], tmp_path: Path) -> None:
    assert booted is not None
    script = tmp_path / "script.py"
    script.write_text(
        "from vmtest import inside\n"
        "inside.report(swaps=inside.swaps())\n"
        "raise SystemExit('enough')\n"
    )
    done = vmtest("run", script, "--memory", "384M", "--swap", "zram:64M")
    assert done.returncode == 1, done.stderr
    assert [row["Filename"] for row in json.loads(done.stdout)["swaps"]] == ["/dev/zram0"]
    assert done.stderr.startswith("enough\nscript after ")


def vmtest(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmtest", *map(str, args)],
        cwd=Path(__file__).parents[1],
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_setup_without_apt_is_one_line_and_code_3(tmp_path: Path) -> None:
    done = vmtest("setup", PATH=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 3
    assert done.stdout == ""
    why = "no apt-get: set-up knows Debian and Ubuntu" if os.geteuid() == 0 else "run it as root"
    assert done.stderr.startswith("vmtest: ")
    assert done.stderr.endswith(f"{why}\n")
    assert done.stderr.count("\n") == 1


def test_setup_for_one_who_is_not_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(cache.NotReadyError, match="run it as root"):
        setup.setup()


def test_setup_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in {
        "apt-get": 'echo "W: something" >&2; echo "E: Failed to fetch it" >&2; exit 100',
        "apt-cache": "echo '  Depends: linux-image-6.1.0-1-cloud-amd64'",
        "dpkg-deb": "exit 1",
        emulator.PROGRAM: "echo QEMU emulator version 10.0.1",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(cache.NotReadyError, match=r"^apt-get .*: E: Failed to fetch it$"):
        setup.setup()
    assert cache.kernels() == []
    assert os.listdir(cache.directory() / "kernels") == []


def test_the_kernel_unpacked_last_is_the_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for age, name in enumerate(("linux-image-b_2", "linux-image-a_1", ".new-xyz_1")):
        place = cache.directory() / "kernels" / name
        place.mkdir(parents=True)
        os.utime(place, (1000 - age, 1000 - age))
    assert [kernel.name for kernel in cache.kernels()] == ["linux-image-b_2", "linux-image-a_1"]


def test_archive_is_what_cpio_reads() -> None:
    archive = cpio.Archive()
    archive.file("/a/b/c", b"content", 0o755)
    archive.link("/a/l", "b/c")
    archive.file("/a/b/c", b"once is enough")
    raw = archive.packed()
    assert len(raw) % 512 == 0
    found, at = {}, 0
    while (name := raw[at + 110 :].partition(b"\0")[0]) != b"TRAILER!!!":
        fields = [int(raw[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        begin = at + 110 + fields[11] + (-(110 + fields[11]) % 4)
        found[name.decode()] = (fields[1], raw[begin : begin + fields[6]])
        at = begin + fields[6] + (-fields[6] % 4)
    assert found == {
        "a": (0o040755, b""),
        "a/b": (0o040755, b""),
        "a/b/c": (0o100755, b"content"),
        "a/l": (0o120777, b"b/c"),
    }


@pytest.mark.parametrize("spec", ["brd:64M", ":64M", "much", "zram:much"])
def test_a_swap_that_is_none_is_refused(spec: str, booted: Callable[..., guest.Result]) -> None:
    with pytest.raises(ValueError, match="not a s"):
        booted("", swap=spec)


@needs_a_guest
def test_records_are_heard_as_they_come(booted: Callable[..., guest.Result]) -> None:
    heard: list[guest.Record] = []

    def hear(record: guest.Record) -> None:
        heard.append(record)
        raise InterruptedError

    script = "from vmtest import inside\ninside.report(number=1)\nimport time\ntime.sleep(600)"
    with pytest.raises(InterruptedError):
        booted(script, told=hear)
    assert heard == [{"number": 1}]


@needs_a_guest
def test_a_counted_guest_is_no_slower_beside_others(booted: Callable[..., guest.Result]) -> None:
    script = """
import time
def spent_s():
    began_s = time.monotonic()
    for _ in range(300_000): pass
    return time.monotonic() - began_s
from vmtest import inside
spent_s()
inside.report(spent_s=min(spent_s() for _ in range(5)))
"""

    def spent_s() -> float:
        found = booted(script, counted=True).check().records[-1]["spent_s"]
        return float(found)

    alone_s = spent_s()
    spinning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        assert spent_s() == pytest.approx(alone_s, rel=0.05)
    finally:
        for process in spinning:
            process.kill()
            process.wait()
