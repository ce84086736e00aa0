"""The guard as Debian's users have it: its unit under a real systemd, on three releases' kernels.

One boot a release; what the script reports is judged here. A release that is not built here is
skipped, and the reason says how to build it.
"""

import os
from typing import Any

import pytest
from vmtest import debian, guest, roots
from vmtest.cache import NotReadyError

pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(600)]

MIB = 1 << 20
SUITES = os.environ.get("MEMREAP_VM_SUITES", "trixie").split()  # each takes two minutes and more
KERNELS = {"bookworm": "6.1.", "trixie": "6.12.", "sid": "7."}

SCRIPT = """
import contextlib, json, os, pwd, signal, subprocess, time
from pathlib import Path
from vmtest import inside

MIB = 1 << 20
CONFIG = Path("/etc/memreap/memreap.toml")

def run(*argv, **options):
    return subprocess.run(argv, capture_output=True, text=True, **options)

def show(*names, unit="memreap"):
    lines = run("systemctl", "show", unit, *(f"-p{name}" for name in names)).stdout.splitlines()
    return dict(line.split("=", 1) for line in lines)

def incidents():
    return [json.loads(line) for line in run("memreap", "incidents", "--json").stdout.splitlines()]

def until(seen, timeout_s):
    end_s = time.monotonic() + timeout_s
    while not (found := seen()) and time.monotonic() < end_s:
        time.sleep(0.1)
    return found

def kernel_kills():
    return sum("Killed process" in line for line in inside.kernel_log())

def available():
    text = Path("/proc/meminfo").read_text()
    kb = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}
    return kb["MemAvailable"] << 10, kb["MemTotal"] << 10

@contextlib.contextmanager
def story(what):
    "Report what the guard put on record meanwhile, and the kernel."
    began, kernel, more = len(incidents()), kernel_kills(), {}
    yield more
    over = lambda: len(incidents()) > began and all(i["state"] == "relieved" for i in incidents())
    until(over, 15)
    fresh = incidents()  # the newest first
    fresh = fresh[: len(fresh) - began]
    short = [{"id": i["id"], "domain": i["domain"], "state": i["state"],
              "deaths": [(d["victim"]["name"], d["outcome"]) for d in i["deaths"]]} for i in fresh]
    inside.report(what=what, incidents=short, kernel=kernel_kills() - kernel,
                  **{name: value() if callable(value) else value for name, value in more.items()})

def lives(hog):
    return lambda: Path(f"/proc/{hog.pid}").exists()

def log():
    return run("journalctl", "-u", "memreap", "-o", "cat", "--no-pager").stdout

CONFIG.write_text('[system]\\nenabled = true\\navailable_min = "10%"\\n')
started = run("systemctl", "enable", "--now", "memreap")
inside.report(what="started", said=started.stderr, release=os.uname().release,
              check=run("memreap", "guard", "--check-config").returncode,
              status=json.loads(run("memreap", "status", "--json").stdout),
              **show("ActiveState", "StatusText", "Slice"))

with inside.hog(30 * MIB, name="bystander") as bystander:
    bystander.wait_full()
    with story("hog") as more, inside.hog(2 << 30, name="hog", rate_bytes_per_s=50 * MIB) as hog:
        more.update(code=hog.wait(), lives=lives(bystander))
journal = run("journalctl", "-u", "memreap", "-o", "json", "--no-pager").stdout
kept = [json.loads(line) for line in journal.splitlines() if '"MEMREAP_VICTIM_COMM"' in line]
inside.report(what="journal", comms=[e["MEMREAP_VICTIM_COMM"] for e in kept],
              ids=sorted({e["MESSAGE_ID"] for e in kept}),
              found=len(run("journalctl", "-o", "json", f"MESSAGE_ID={kept[0]['MESSAGE_ID']}")
                        .stdout.splitlines()) if kept else 0)
inside.report(what="explained", text=run("memreap", "explain").stdout)

before = show("MainPID", "NRestarts")
more = Path("/etc/memreap/memreap.toml.d/50-more.toml")
more.parent.mkdir(exist_ok=True)
limit = lambda: json.loads(run("memreap", "status", "--json").stdout)["domains"][0]["limit_bytes"]
was = limit()
more.write_text('[system]\\navailable_min = "20%"\\n')
reload = lambda: run("systemctl", "reload", "memreap").returncode
code = reload()
lowered = until(lambda: limit() < was, 10)
more.write_text("[system]\\nno_such_key = 1\\n")
refused = reload()
until(lambda: "no_such_key" in log(), 10)
inside.report(what="reloaded", code=code, refused=refused, lowered=lowered,
              stays=limit() < was, log=log(),
              same=show("MainPID")["MainPID"] == before["MainPID"], **show("ActiveState"))
more.unlink()

drop_in = Path("/etc/systemd/system/memreap.service.d/watchdog.conf")
drop_in.parent.mkdir()
drop_in.write_text("[Service]\\nWatchdogSec=8\\n")
run("systemctl", "daemon-reload")
run("systemctl", "restart", "memreap")
core = int(show("MainPID")["MainPID"])
time.sleep(10)
steady = int(show("MainPID")["MainPID"]) == core
os.kill(core, signal.SIGSTOP)
renewed = lambda: show("NRestarts")["NRestarts"] != "0" and show("ActiveState")[
    "ActiveState"] == "active"
until(renewed, 60)
inside.report(what="watchdog", steady=steady, log=log(), **show("NRestarts", "ActiveState"),
              gone=not Path(f"/proc/{core}").exists())

run("systemctl", "stop", "memreap")
with inside.hog(30 * MIB, name="bystander") as bystander:
    bystander.wait_full()
    now, total = available()
    with story("in the middle") as more, inside.hog(now - total // 20, name="large") as large:
        large.wait_full()
        began_s = time.monotonic()
        more["start"] = run("systemctl", "start", "memreap").returncode
        more.update(code=large.wait(), seconds=time.monotonic() - began_s, lives=lives(bystander))

with inside.hog(30 * MIB, name="sleeper") as sleeper:
    sleeper.wait_full()
    core = show("MainPID", "NRestarts")
    awake_s, all_s = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
    said = run("rtcwake", "-m", "mem", "-s", "4")
    slept_s = time.clock_gettime(time.CLOCK_BOOTTIME) - all_s - (time.monotonic() - awake_s)
    time.sleep(3)
    inside.report(what="resumed", said=said.stderr, slept_s=slept_s, lives=lives(sleeper)(),
                  same=show("MainPID", "NRestarts") == core, log=log())
    with story("after it") as more, inside.hog(2 << 30, rate_bytes_per_s=50 * MIB) as hog:
        more.update(code=hog.wait(), lives=lives(sleeper))
run("systemctl", "stop", "memreap")
inside.report(what="ended", log=log(), **show("ActiveState", "Result"))

# A user's own guard, in the user's own part of the tree of cgroups.
HOG = (
    "import mmap, sys, time\\n"
    "m = mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)\\n"
    "m.madvise(mmap.MADV_NOHUGEPAGE)\\n"
    "time.sleep(float(sys.argv[2]))\\n"
    "for at in range(0, 2 << 30, 1 << 20):\\n"
    "    m[at : at + (1 << 20)] = bytes(1 << 20)\\n"
    "    time.sleep(1 / float(sys.argv[1]))\\n"
)
Path("/opt/hog.py").write_text(HOG)
run("useradd", "--create-home", "ann")
uid = pwd.getpwnam("ann").pw_uid
run("loginctl", "enable-linger", "ann")
until(lambda: show("ActiveState", unit=f"user@{uid}")["ActiveState"] == "active", 60)

def as_ann(*argv):
    return run("runuser", "-u", "ann", "--", "env", f"XDG_RUNTIME_DIR=/run/user/{uid}", *argv)

def guards(text):
    as_ann("mkdir", "-p", "/home/ann/.config/memreap")
    Path("/home/ann/.config/memreap/memreap.toml").write_text(text)
    return as_ann("systemctl", "--user", "restart", "memreap")

def anns_log():
    return run("journalctl", f"_UID={uid}", "-o", "cat", "--no-pager").stdout

def hogs(*properties, arguments):
    words = [word for one in properties for word in ("-p", one)]
    return as_ann("systemd-run", "--user", "--unit=hog", "--collect", *words,
                  "/opt/memreap/bin/python", "/opt/hog.py", *map(str, arguments))

def anns_hog():
    names = ("ActiveState", "Result")
    return as_ann("systemctl", "--user", "show", "hog", *(f"-p{name}" for name in names)).stdout

ARM = (
    "from memreap.linux.pressure import Trigger\\n"
    "print(Trigger('/proc/pressure/memory', 'some', 100_000, 1_000_000).means)\\n"
)
armed = {who: wrap("/opt/memreap/bin/python", "-c", ARM) for who, wrap in
         (("root", run), ("ann", as_ann))}
inside.report(what="triggers", release=os.uname().release,
              **{who: done.stdout + done.stderr for who, done in armed.items()})
with inside.hog(300 * MIB, name="roots") as roots_own:
    roots_own.wait_full()
    kernel = kernel_kills()
    started = guards('[own]\\nenabled = true\\navailable_min = "10%"\\n')
    hogs(arguments=(40, 0))
    until(lambda: "relieved" in anns_log(), 40)
    inside.report(what="own", started=started.returncode, said=started.stderr, log=anns_log(),
                  lives=lives(roots_own)(), kernel=kernel_kills() - kernel)
hogs("MemoryMax=150M", arguments=(8, 6))
place = f"/user.slice/user-{uid}.slice/user@{uid}.service/app.slice/hog.service"
there = until(Path("/sys/fs/cgroup" + place).exists, 10)
kernel = kernel_kills()
guards(f'[[cgroup]]\\npath = "{place}"\\nlimit = "80%"\\n')
until(lambda: "hog.service: relieved after" in anns_log(), 60)
inside.report(what="delegated", there=there, log=anns_log(), kernel=kernel_kills() - kernel)
"""


@pytest.fixture(scope="module", params=SUITES)
def told(request: pytest.FixtureRequest) -> guest.Result:
    try:
        roots.ready(request.param)
    except NotReadyError as error:
        pytest.skip(str(error))
    return debian.run(SCRIPT, suite=request.param, memory_bytes=768 * MIB, timeout_s=500).check()


def is_memreaps_alone(record: dict[str, Any], name: str) -> bool:
    """One incident, one victim, this one, and the kernel had nothing to do."""
    assert [i["state"] for i in record["incidents"]] == ["relieved"], record
    assert [who for who, _ in record["incidents"][0]["deaths"]] == [name], record
    return bool(record["code"] == -9 and record["kernel"] == 0 and record["lives"])


def test_the_unit_starts(told: guest.Result) -> None:
    record = told.record(what="started")
    assert record["ActiveState"] == "active"
    assert record["StatusText"].startswith("guarding 1: system")
    assert record["Slice"] == "memreap.slice"
    assert record["check"] == 0
    assert [domain["name"] for domain in record["status"]["domains"]] == ["system"]
    assert any(record["release"].startswith(kernel) for kernel in KERNELS.values())


def test_from_its_sandbox_it_kills_the_hog_alone(told: guest.Result) -> None:
    assert is_memreaps_alone(told.record(what="hog"), "hog")


def test_the_journal_has_it_with_fields(told: guest.Result) -> None:
    record = told.record(what="journal")
    assert set(record["comms"]) == {"hog"}
    assert record["ids"]
    assert record["found"] >= 1
    assert "hog" in told.record(what="explained")["text"]


def test_a_reload_is_heard_and_a_bad_one_changes_nothing(told: guest.Result) -> None:
    record = told.record(what="reloaded")
    assert (record["code"], record["ActiveState"]) == (0, "active")
    assert record["refused"] != 0
    assert record["same"]
    assert record["lowered"]
    assert record["stays"]
    assert "no_such_key" in record["log"]


def test_a_core_that_stands_still_is_replaced_by_systemds_watchdog(told: guest.Result) -> None:
    record = told.record(what="watchdog")
    assert record["steady"], "petted in time"
    assert record["gone"]
    assert (record["NRestarts"], record["ActiveState"]) == ("1", "active")


def test_started_in_the_middle_of_an_incident_it_ends_it(told: guest.Result) -> None:
    record = told.record(what="in the middle")
    assert record["start"] == 0
    assert is_memreaps_alone(record, "large")


def test_after_a_suspend_nobody_dies_for_old_figures(told: guest.Result) -> None:
    record = told.record(what="resumed")
    assert record["slept_s"] > 2, record["said"]
    assert record["lives"]
    assert record["same"]
    assert is_memreaps_alone(told.record(what="after it"), "hog")


def test_it_ends_when_it_is_asked_to(told: guest.Result) -> None:
    record = told.record(what="ended")
    assert (record["ActiveState"], record["Result"]) == ("inactive", "success")


def test_a_users_own_guard_kills_the_users_own_hog(told: guest.Result) -> None:
    record = told.record(what="own")
    assert record["started"] == 0, record["said"]
    assert "killing python" in record["log"], record["log"]
    assert "broke" not in record["log"], "what a user may not do is said, and is no accident"
    assert record["lives"], "root's, and larger for most of the time"
    assert record["kernel"] == 0


def test_a_user_guards_a_cgroup_that_was_delegated(told: guest.Result) -> None:
    record = told.record(what="delegated")
    assert record["there"]
    assert "hog.service: relieved after" in record["log"], record["log"]
    assert record["kernel"] == 0


def test_triggers_are_roots_at_once_and_a_users_every_two_seconds(told: guest.Result) -> None:
    record = told.record(what="triggers")
    assert record["root"] == "some 100 ms in 1000 ms\n"
    assert record["ann"].startswith("some 200 ms in 2000 ms, checked every 2 s"), record["release"]
