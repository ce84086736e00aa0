"""The guard where memory truly runs out, in guests: the machine, swap, cgroups v2, NUMA nodes.

Each boot is one script; what it reports is judged here. Who was faster than the kernel is asserted
only for hogs that leave an emulated machine the time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vmtest import guest

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(300)]

MIB = 1 << 20
GUARDING = {"/memreap/guarding.py": Path(__file__).with_name("guarding.py").read_bytes()}

COMMON = """
import contextlib, ctypes, os, select, time
from pathlib import Path
import guarding
from vmtest import inside

MIB = 1 << 20
SYSTEM = '[system]\\nenabled = true\\navailable_min = "10%"\\n'

@contextlib.contextmanager
def guard(what, *args, config=""):
    folder = Path(f"/run/{what}")
    folder.mkdir()
    if config:
        (folder / "memreap.toml").write_text(config)
        args = ("--config", folder / "memreap.toml", *args)
    one = guarding.Guard(folder, [str(arg) for arg in args])
    try:
        yield one
    finally:
        code = one.stop() if one.process.poll() is None else one.process.poll()
        inside.report(what=f"{what} ended", code=code, log=one.log)

def kernel_kills():
    return sum("Killed process" in line for line in inside.kernel_log())

def short(turn):
    kept = ("what", "domain", "reason", "at_s", "usage_bytes", "figures")
    victim = turn["victim"] or {"name": "", "pids": []}
    choice = turn["choice"] or {"candidates": []}
    why_not = {c["name"]: c["why_not"] for c in choice["candidates"]}
    return {name: turn[name] for name in kept} | {
        "name": victim["name"], "pids": len(victim["pids"]), "why_not": why_not}

@contextlib.contextmanager
def story(what, guard, *ends):
    "Report what the guard did meanwhile, once its last turns are of these kinds."
    began, kernel, more = len(guard.turns()), kernel_kills(), {}
    yield more
    def told():
        return guard.turns()[began:]
    with contextlib.suppress(AssertionError):
        guard.wait_for(lambda: {*ends} <= {turn["what"] for turn in told()}, 15)
    inside.report(what=what, turns=[short(t) for t in told()], kernel=kernel_kills() - kernel,
                  **{name: value() if callable(value) else value for name, value in more.items()})

def living(*hogs):
    return lambda: [guarding.alive(hog.pid) for hog in hogs]

def process(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kb = {name: int(rest.split()[0]) for name, _, rest in (l.partition(":") for l in lines)
          if name in ("VmRSS", "VmLck", "VmSwap")}
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return kb | {"major_faults": int(stat[9]), "policy": os.sched_getscheduler(pid) & 0xFF,
                 "oom_score_adj": int(Path(f"/proc/{pid}/oom_score_adj").read_text())}
"""

# No swap. The kernel's own killer comes at the end, when the guard may only look on.
MACHINE = """
with guard("system", config=SYSTEM) as core, inside.hog(20 * MIB, name="bystander") as bystander:
    bystander.wait_full()
    before = process(core.pid)
    for rate in (50 * MIB, None):
        with story(f"hog at {rate}", core, "relieved", "outcome") as more:
            with inside.hog(1 << 30, name="hog", rate_bytes_per_s=rate) as hog:
                more.update(code=hog.wait(), living=living(bystander))
    time.sleep(2.5)  # hands are made anew
    with story("two hogs", core, "relieved", "outcome") as more:
        with inside.hog(70 * MIB, name="smaller") as smaller:
            smaller.wait_full()
            with inside.hog(400 * MIB, name="larger", rate_bytes_per_s=60 * MIB) as larger:
                larger.wait()
                time.sleep(0.5)
                more["living"] = living(smaller, bystander)()
    with story("unkillable", core, "relieved", "outcome") as more:
        with inside.hog(150 * MIB, name="unkillable", oom_score_adj=-1000) as unkillable:
            unkillable.wait_full()
            with inside.hog(400 * MIB, name="hog", rate_bytes_per_s=60 * MIB) as hog:
                hog.wait()
                more["living"] = living(unkillable)()
    bystander.kill()
    time.sleep(0.5)
    with story("tmpfs", core, "helpless", "relieved") as more, inside.hog(MIB, name="tiny") as tiny:
        tiny.wait_full()
        Path("/files").mkdir()
        assert ctypes.CDLL(None).mount(b"tmpfs", b"/files", b"tmpfs", 0, b"size=100%") == 0
        with open("/files/large", "wb") as file:
            while not any(turn["what"] == "helpless" for turn in core.turns()):
                file.write(bytes(MIB))
                time.sleep(0.005)
        time.sleep(1)
        more["living"] = living(tiny)()
        os.unlink("/files/large")
    inside.report(what="core", before=before, after=process(core.pid))

with guard("dry", "--dry-run", config=SYSTEM) as core:
    with story("kernel", core, "relieved") as more:
        with inside.hog(1 << 30, name="hog", rate_bytes_per_s=150 * MIB) as hog:
            more["code"] = hog.wait()
    more["going_on"] = core.process.poll() is None
    inside.report(what="going on", alive=core.process.poll() is None)
"""

SWAP = """
import io
def swapping(kind):
    with guard(kind, config=SYSTEM) as core, inside.hog(20 * MIB, name="bystander") as bystander:
        bystander.wait_full()
        with story(f"{kind}: room", core) as more:
            size = 440 * MIB if kind == "disk" else 380 * MIB  # all of RAM, some of swap
            with inside.hog(size, name="large") as large:
                large.wait_full()
                time.sleep(1)
                used = sum(int(swap["Used"]) << 10 for swap in inside.swaps())
                more.update(living=living(large)(), swap_used=used)
        with story(f"{kind}: full", core, "relieved", "outcome") as more:
            with inside.hog(2 << 30, name="hog", rate_bytes_per_s=250 * MIB) as hog:
                more.update(code=hog.wait(), living=living(bystander))
        scouts = core.children()["memreap-scout"]
        inside.report(what=f"{kind}: core", **process(core.pid))
        inside.report(what=f"{kind}: scouts", kb=[process(pid)["VmSwap"] for pid in scouts])

swapping("disk")
with inside.cgroup("files", memory_max=120 * MIB) as group:
    with guard("files", "--cgroup", "/files") as core, story("files", core) as more:
        if os.fork() == 0:
            group.add(os.getpid())
            with open("/dev/vda", "rb", buffering=0) as disk:
                while disk.read(MIB):
                    pass
            os._exit(0)
        os.wait()
        more["cached"] = group.table("memory.stat")["file"]
        time.sleep(1.2)
inside.swap_off("/dev/vda")
inside.swap_on_zram(256 * MIB)
swapping("zram")
"""

CGROUPS = """
from memreap.linux.pressure import Trigger

with inside.cgroup("limited", memory_max=160 * MIB) as group:
    with guard("limited", "--cgroup", "/limited", "--limit", "90%") as core:
        with inside.hog(20 * MIB, name="small", group=group) as small:
            small.wait_full()
            for rate in (50 * MIB, None):
                with story(f"limited at {rate}", core, "relieved", "outcome") as more:
                    with inside.hog(400 * MIB, name="hog", group=group,
                                    rate_bytes_per_s=rate) as hog:
                        more.update(code=hog.wait(), living=living(small),
                                    events=lambda: group.table("memory.events"))

with inside.cgroup("pod", memory_max=220 * MIB) as pod:
    pod.write("cgroup.subtree_control", "+memory")
    with inside.cgroup("pod/job", memory_oom_group=1) as job, inside.cgroup("pod/db") as db:
        os.setxattr(db.path, "user.oomd_omit", b"1")
        with guard("pod", "--cgroup", "/pod", "--limit", "90%") as core:
            late = inside.Cgroup(pod.path / "late")
            late.path.mkdir()
            late.write("memory.max", 60 * MIB)
            made_s = time.monotonic()
            with inside.hog(50 * MIB, name="db", group=db) as database:
                with inside.hog(20 * MIB, name="helper", group=job) as helper:
                    database.wait_full()
                    helper.wait_full()
                    with story("as one", core, "relieved", "outcome") as more:
                        with inside.hog(400 * MIB, name="worker", group=job,
                                        rate_bytes_per_s=50 * MIB) as worker:
                            more.update(code=worker.wait(), helper=helper.wait(10),
                                        living=living(database))
                time.sleep(max(0.0, made_s + 11 - time.monotonic()))  # until it was found
                with story("late", core, "relieved", "outcome") as more:
                    with inside.hog(200 * MIB, name="late", group=late,
                                    rate_bytes_per_s=30 * MIB) as hog:
                        more.update(code=hog.wait(), living=living(database),
                                    events=late.table("memory.events"))
            late.path.rmdir()
            with contextlib.suppress(AssertionError):
                core.wait_for(lambda: "guarded no longer" in core.log, 5)

with inside.cgroup("slowed", memory_high=50 * MIB, memory_max=200 * MIB) as group:
    trigger = Trigger(group.path / "memory.pressure", "some", 100_000, 1_000_000)
    poll = select.poll()
    poll.register(trigger.fileno(), select.POLLPRI)
    with guard("slowed", "--cgroup", "/slowed") as core:
        with story("slowed", core, "relieved", "outcome") as more:
            with inside.hog(150 * MIB, name="slow", group=group) as hog:
                rang = bool(poll.poll(10_000))
                more.update(code=hog.wait(30), events=lambda: group.table("memory.events"))
    inside.report(what="trigger", means=trigger.means, rang=rang)
    trigger.close()

with inside.cgroup("brief", memory_max=100 * MIB) as group:
    folder = Path("/run/brief")
    folder.mkdir()
    core = guarding.Guard(folder, ["--cgroup", "/brief"])
core.wait_for(lambda: "guarded no longer" in core.log, 10)

with inside.cgroup("beaten", memory_max=60 * MIB) as group:
    folder = Path("/run/beaten")
    folder.mkdir()
    beaten = guarding.Guard(folder, ["--cgroup", "/beaten", "--dry-run"])
    with inside.hog(100 * MIB, name="kernels", group=group) as hog:
        killed = hog.wait(30)
    beaten.wait_for(lambda: "OOM killer was faster" in beaten.log, 10)
    inside.report(what="beaten", killed=killed, log=beaten.log, code=beaten.stop())

with inside.cgroup("brief", memory_max=200 * MIB) as group:
    core.wait_for(lambda: "there, and guarded" in core.log, 20)
    with inside.hog(190 * MIB, name="anew", group=group, rate_bytes_per_s=30 * MIB) as hog:
        killed = hog.wait(30)
    inside.report(what="brief", killed=killed, log=core.log, code=core.stop())
"""

NODES = """
def free(node):
    return inside.node_meminfo_bytes(node)["MemFree"]

with guard("nodes", config=SYSTEM.replace("10%", "4%")) as core:
    os.sched_setaffinity(0, {1})  # this and its children are at home on node 1
    with story("unbound", core) as more:
        with inside.hog(free(1) + 20 * MIB, name="unbound") as hog:
            hog.wait_full()
            time.sleep(2)
            lies = inside.anonymous_bytes_by_node(hog.pid)
            more.update(living=living(hog)(), lies=lies)
    # Where the root file system lies in memory, and how much of it, is each release's own.
    most = min(200 * MIB, free(1) - 130 * MIB)
    with (inside.hog(120 * MIB, name="bystander", node=0) as bystander,
          inside.hog(most, name="settled", node=1, oom_score_adj=-1000) as settled):
        bystander.wait_full()
        settled.wait_full()
        with story("node 1", core, "relieved", "outcome") as more:
            with inside.hog(1 << 30, name="bound", node=1, rate_bytes_per_s=15 * MIB) as hog:
                more.update(code=hog.wait(), living=living(bystander, settled))
    # Most of both is held by somebody who may not die, so that the hogs can be slow.
    with contextlib.ExitStack() as held:
        for node, left in ((0, 130 * MIB), (1, 110 * MIB)):
            size = free(node) - left
            held.enter_context(inside.hog(size, node=node, oom_score_adj=-1000)).wait_full()
        with story("both", core, "relieved", "outcome") as more:
            with inside.hog(1 << 30, name="zero", node=0, rate_bytes_per_s=15 * MIB) as zero:
                with inside.hog(1 << 30, name="one", node=1, rate_bytes_per_s=15 * MIB) as one:
                    more.update(codes=[zero.wait(), one.wait()])
                    time.sleep(1)
"""


def turns(record: dict[str, Any], *whats: str) -> list[dict[str, Any]]:
    return [turn for turn in record["turns"] if turn["what"] in whats]


def victims(record: dict[str, Any]) -> list[str]:
    return [turn["name"] for turn in turns(record, "killed")]


def is_memreaps_alone(record: dict[str, Any], name: str) -> bool:
    """One victim, this one, and relief, and the kernel had nothing to do."""
    assert victims(record) == [name], record
    assert turns(record, "released", "relieved"), record
    return bool(record["kernel"] == 0)


@pytest.fixture(scope="module")
def machine(booted: Callable[..., guest.Result]) -> guest.Result:
    return booted(COMMON + MACHINE, memory_bytes=512 * MIB, files=GUARDING, timeout_s=240).check()


@pytest.fixture(scope="module")
def swap(booted: Callable[..., guest.Result]) -> guest.Result:
    options = {"memory_bytes": 512 * MIB, "swap": "256M", "files": GUARDING, "timeout_s": 240}
    return booted(COMMON + SWAP, **options).check()


@pytest.fixture(scope="module")
def groups(booted: Callable[..., guest.Result]) -> guest.Result:
    return booted(COMMON + CGROUPS, memory_bytes=768 * MIB, files=GUARDING, timeout_s=240).check()


@pytest.fixture(scope="module")
def nodes(booted: Callable[..., guest.Result]) -> guest.Result:
    options = {"memory_bytes": 768 * MIB, "nodes": 2, "append": "psi=0", "files": GUARDING}
    return booted(COMMON + NODES, **options, timeout_s=240).check()


def test_a_hog_dies_before_the_machine_runs_out(machine: guest.Result) -> None:
    record = machine.record(what=f"hog at {50 * MIB}")
    assert is_memreaps_alone(record, "hog")
    assert record["code"] == -9
    assert record["living"] == [True]


def test_a_hog_at_full_speed_dies_alone(machine: guest.Result) -> None:
    record = machine.record(what="hog at None")
    assert record["code"] == -9
    assert record["living"] == [True]
    assert set(victims(record)) <= {"hog"}
    assert record["kernel"] + len(victims(record)) >= 1


def test_of_two_hogs_the_larger_is_enough(machine: guest.Result) -> None:
    record = machine.record(what="two hogs")
    assert is_memreaps_alone(record, "larger")
    assert record["living"] == [True, True]


def test_what_the_kernel_may_not_kill_is_not_killed(machine: guest.Result) -> None:
    record = machine.record(what="unkillable")
    assert is_memreaps_alone(record, "hog")
    assert record["living"] == [True]
    (chosen,) = turns(record, "chosen")
    assert chosen["why_not"]["unkillable"] == "oom_score_adj is -1000"
    assert chosen["why_not"]["init"]


def test_nobody_dies_for_what_lies_in_a_tmpfs(machine: guest.Result) -> None:
    record = machine.record(what="tmpfs")
    assert victims(record) == []
    assert record["kernel"] == 0
    assert record["living"] == [True]
    helpless = turns(record, "helpless")[0]
    assert helpless["figures"]["tmpfs_bytes"] > 150 * MIB
    assert turns(record, "relieved")


def test_the_core_is_out_of_the_kernels_and_the_disks_reach(machine: guest.Result) -> None:
    core = machine.record(what="core")
    before, after = core["before"], core["after"]
    assert before["oom_score_adj"] == -1000
    assert before["policy"] == 1, "SCHED_FIFO"
    assert before["VmLck"] >= before["VmRSS"] * 0.95
    assert after["major_faults"] == before["major_faults"] == 0
    assert after["VmRSS"] - before["VmRSS"] < 2048
    ended = machine.record(what="system ended")
    assert ended["code"] == 0
    assert "not permitted" not in ended["log"]


def test_where_the_kernel_kills_the_guard_goes_on(machine: guest.Result) -> None:
    record = machine.record(what="kernel")
    assert record["code"] == -9
    assert record["kernel"] == 1
    assert victims(record) == []
    assert turns(record, "chosen")[0]["name"] == "hog"
    assert machine.record(what="going on")["alive"]
    assert machine.record(what="dry ended")["code"] == 0


@pytest.mark.parametrize("kind", ["disk", "zram"])
def test_swap_with_room_is_no_pressure_and_full_swap_is(swap: guest.Result, kind: str) -> None:
    room = swap.record(what=f"{kind}: room")
    assert room["swap_used"] > 16 * MIB
    assert room["living"] == [True]
    assert turns(room, "pressed") == []
    full = swap.record(what=f"{kind}: full")
    assert is_memreaps_alone(full, "hog")
    assert full["living"] == [True]
    (chosen,) = turns(full, "chosen")
    # Ahead of a full one: by as much as the hog takes until the guard can be sure to have acted,
    # which on a busy host is more.
    assert chosen["figures"]["swap_free_bytes"] < 256 * MIB / 2


@pytest.mark.parametrize("kind", ["disk", "zram"])
def test_the_core_never_waits_for_swap(swap: guest.Result, kind: str) -> None:
    core = swap.record(what=f"{kind}: core")
    assert (core["major_faults"], core["VmSwap"]) == (0, 0)
    assert max(swap.record(what=f"{kind}: scouts")["kb"]) < 2048


def test_page_cache_of_a_cgroup_is_no_usage(swap: guest.Result) -> None:
    record = swap.record(what="files")
    assert record["cached"] > 100 * MIB
    assert record["turns"] == []


def test_a_cgroups_hog_dies_before_its_limit_is_met(groups: guest.Result) -> None:
    record = groups.record(what=f"limited at {50 * MIB}")
    assert is_memreaps_alone(record, "hog")
    assert record["events"]["oom_kill"] == 0
    assert record["living"] == [True]


def test_a_cgroups_hog_at_full_speed_dies_alone(groups: guest.Result) -> None:
    record = groups.record(what="limited at None")
    assert record["code"] == -9
    assert record["living"] == [True]
    assert set(victims(record)) <= {"hog"}


def test_a_group_dies_as_one_and_whom_oomd_omits_lives(groups: guest.Result) -> None:
    record = groups.record(what="as one")
    assert is_memreaps_alone(record, "worker")
    assert turns(record, "chosen")[0]["pids"] == 2
    assert (record["code"], record["helper"], record["living"]) == (-9, -9, [True])
    assert (
        turns(record, "chosen")[0]["why_not"]["db"] == "protected by user.oomd_omit of its cgroup"
    )


def test_a_limit_below_is_a_domain_of_its_own(groups: guest.Result) -> None:
    record = groups.record(what="late")
    assert is_memreaps_alone(record, "late")
    assert record["living"] == [True]
    assert record["events"]["oom_kill"] == 0
    assert turns(record, "chosen")[0]["domain"] == "cgroup:/pod/late"
    log = groups.record(what="pod ended")["log"]
    assert "cgroup:/pod/late: guarded no longer" in log


def test_standing_still_at_memory_high_is_pressure(groups: guest.Result) -> None:
    record = groups.record(what="slowed")
    assert is_memreaps_alone(record, "slow")
    assert record["events"]["max"] == 0, "never near its limit"
    assert turns(record, "chosen")[0]["figures"]["stall_share"] > 0.4
    trigger = groups.record(what="trigger")
    assert (trigger["means"], trigger["rang"]) == ("some 100 ms in 1000 ms", True)


def test_where_the_kernel_was_faster_the_guard_says_so(groups: guest.Result) -> None:
    record = groups.record(what="beaten")
    assert (record["killed"], record["code"]) == (-9, 0)
    assert (
        "cgroup:/beaten: the kernel's own OOM killer was faster here (1 killed in all)"
        in (record["log"])
    )


def test_a_cgroup_that_is_made_anew_is_guarded_again(groups: guest.Result) -> None:
    record = groups.record(what="brief")
    assert "cgroup:/brief: guarded no longer" in record["log"]
    assert record["killed"] == -9
    assert record["code"] == 0


def test_a_full_node_that_nobody_is_bound_to_is_no_pressure(nodes: guest.Result) -> None:
    record = nodes.record(what="unbound")
    assert record["lies"]["1"] > 200 * MIB
    assert record["living"] == [True]
    assert turns(record, "pressed") == []


def test_who_exhausts_a_node_dies_and_a_larger_one_elsewhere_lives(nodes: guest.Result) -> None:
    record = nodes.record(what="node 1")
    assert is_memreaps_alone(record, "bound")
    assert turns(record, "pressed")[0]["domain"] == "node1"
    assert record["living"] == [True, True]


def test_two_nodes_have_a_victim_each(nodes: guest.Result) -> None:
    record = nodes.record(what="both")
    assert record["codes"] == [-9, -9]
    assert sorted(victims(record)) == ["one", "zero"]
    assert record["kernel"] == 0


def test_without_psi_it_says_so_once(nodes: guest.Result) -> None:
    log = nodes.record(what="nodes ended")["log"]
    assert log.count("no PSI") == 1
