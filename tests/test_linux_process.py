"""What a process does to itself: locked memory, a heap that stays, privileges given up."""

import json
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from memreap.linux import capabilities, clock, memlock, syscalls

LOCKING = """
import json, mmap, re, resource
from memreap.linux import memlock
def kib(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
def now():
    return [kib("VmLck"), kib("VmRSS")]
seen = [now()]
locked = memlock.lock_all()
seen.append(now())
memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
seen.append(now())
memory[: 1 << 20] = bytes([1]) * (1 << 20)
seen.append(now())
memlock.unlock()
seen.append(now())
print(json.dumps([locked, seen]))
"""
KEEPING = """
import json
from memreap.linux import memlock
def faults_of_churn():
    before, _ = memlock.faults()
    for _ in range(5):
        blocks = [bytearray(4 << 20) for _ in range(4)]
        for block in blocks:
            block[::4096] = bytes([1]) * 1024
        del block, blocks
    return memlock.faults()[0] - before
faults_of_churn()
before = faults_of_churn()
kept = memlock.keep_heap()
faults_of_churn()
print(json.dumps([kept, before, faults_of_churn()]))
"""
DROPPING = """
import json, os, re, sys
from memreap.linux import capabilities
before = capabilities.effective()
said = capabilities.drop_all_but(json.loads(sys.argv[1]))
status = open("/proc/self/status").read()
sets = {n: int(re.search(f"Cap{n}:\\\\s+(\\\\w+)", status)[1], 16) for n in ("Prm", "Bnd", "Inh")}
after = os.popen("grep -E '^(CapEff|NoNewPrivs)' /proc/self/status").read().split()
try:
    os.setuid(65534)
except PermissionError:
    setuid = False
else:
    setuid = True
named = {name: sorted(capabilities.names_of(mask)) for name, mask in sets.items()}
print(json.dumps([sorted(before), sorted(said), sorted(capabilities.effective()),
    named, sorted(capabilities.names_of(int(after[1], 16))), after[3], setuid]))
"""


def run(source: str, *args: str, **popen: Any) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *args],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=20,
        **popen,
    )
    return json.loads(done.stdout)


def test_all_is_locked_now_and_what_comes_as_it_is_touched() -> None:
    locked, seen = run(LOCKING)
    if not locked:
        pytest.skip("not permitted to lock memory without bounds")
    free, present, mapped, touched, unlocked = seen
    assert free[0] == 0
    assert present[0] >= present[1] * 0.9  # all that is resident is locked
    assert mapped[0] - present[0] >= 64 << 10  # the new mapping counts at once
    assert mapped[1] - present[1] < 8 << 10  # and is not filled
    assert 1 << 10 <= touched[1] - mapped[1] < 8 << 10
    assert unlocked[0] == 0


@pytest.mark.parametrize("unlimited", [True, False])
def test_below_a_finite_limit_nothing_later_is_locked(
    unlimited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mapping past the limit would fail: the process must go on instead."""
    calls: list[int] = []
    monkeypatch.setattr(syscalls, "mlockall", calls.append)
    no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    limits = no_limit if unlimited else (64 << 20, 64 << 20)
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(capabilities, "effective", frozenset)
    assert memlock.lock_all() is unlimited
    later = syscalls.MCL_FUTURE | syscalls.MCL_ONFAULT
    assert calls == [syscalls.MCL_CURRENT, later][: 1 + unlimited]


def test_who_may_not_lock_is_told_so(as_nobody: Callable[..., Any]) -> None:
    done = as_nobody(
        "-c",
        LOCKING,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0)),
    )
    assert done.returncode == 0, done.stderr
    locked, seen = json.loads(done.stdout)
    assert not locked
    assert [lock for lock, _ in seen] == [0] * 5


def test_a_heap_that_is_kept_faults_no_more() -> None:
    kept, before, after = run(KEEPING)
    if not kept:
        pytest.skip("no mallopt: not glibc")
    assert before >= 4 * 1024
    assert after < 1024


def test_without_mallopt_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "_libc", object())
    assert not memlock.keep_heap()


def test_faults_only_grow() -> None:
    before = memlock.faults()
    block = bytearray(8 << 20)
    block[::4096] = bytes([1]) * 2048
    after = memlock.faults()
    assert after[0] > before[0]
    assert after[1] >= before[1]


def test_bits_have_names() -> None:
    assert capabilities.names_of(0) == frozenset()
    assert capabilities.names_of(1 << 5 | 1 << 24) == {"cap_kill", "cap_sys_resource"}
    assert capabilities.names_of(1 << 40 | 1 << 41) == {"cap_checkpoint_restore", "cap_41"}
    assert len(set(capabilities.NAMES)) == 41


def test_all_but_some_capabilities_are_given_up() -> None:
    keep = ["cap_kill", "cap_sys_nice", "cap_sys_resource"]
    before, said, effective, sets, executed, no_new, setuid = run(DROPPING, json.dumps(keep))
    expected = sorted(set(keep) & set(before))
    assert said == effective == sets["Prm"] == expected
    assert sets["Inh"] == []
    assert set(executed) <= set(expected)
    assert (no_new, setuid) == ("1", False)
    if "cap_setpcap" in before:
        assert set(sets["Bnd"]) <= set(keep)


def test_who_has_nothing_drops_nothing(as_nobody: Callable[..., Any]) -> None:
    done = as_nobody("-c", DROPPING, '["cap_kill"]')
    assert done.returncode == 0, done.stderr
    before, said, effective, sets, executed, no_new, _ = json.loads(done.stdout)
    assert before == said == effective == sets["Prm"] == executed == []
    assert no_new == "1"


def test_a_name_that_is_none_drops_nothing() -> None:
    before = capabilities.effective()
    with pytest.raises(ValueError, match="cap_everything"):
        capabilities.drop_all_but({"cap_everything"})
    assert capabilities.effective() == before


def test_this_machine_has_not_slept_backwards() -> None:
    first, second = clock.slept_s(), clock.slept_s()
    assert first > -0.001
    assert abs(second - first) < 0.1
