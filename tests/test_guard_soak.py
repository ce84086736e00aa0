"""A guard among hogs, forks, hung victims and faults, one after another and at random.

Half a minute of it in every run; ``make soak-real`` lets it go on for ten.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.guarding import Guard, Hog, limited, usage_bytes

from memreap.victims import stage

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.skipif("os.geteuid() != 0", reason="needs root"),
]

SOAK_S = float(os.environ.get("MEMREAP_SOAK_S", "30"))
SEED = int(os.environ.get("MEMREAP_SOAK_SEED", str(random.randrange(1 << 32))))
MIB = 1 << 20
LIMIT_MIB, LINE_MIB = 900, 500
RELIEF_S = 15.0  # hung victims are given their patience first

CONFIG = """
[guard]
patience = "1s"
[[cgroup]]
path = "{path}"
limit = "{line}M"
[[protect]]
command = "precious"
"""

# Somebody who lives in the domain, and must go on living: takes a little, works, gives it back.
TENANT = """
import mmap, sys, time
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
print("there", flush=True)
worst = 0.0
while True:
    began = time.monotonic()
    memory = mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for at in range(0, 2 << 20, 4096):
        memory[at] = 1
    memory.close()
    took = time.monotonic() - began
    if took > worst:
        worst = took
        print(worst, flush=True)
    time.sleep(0.02)
"""

Start = Callable[..., Guard]


class Soak:
    """One run: a guard, its domain, and what is done to both."""

    def __init__(self, one: Guard, directory: Path, possible: dict[str, str | None]) -> None:
        """``possible``: kinds of victims, and why not."""
        self.guard, self.directory = one, directory
        self.choose = random.Random(SEED)
        self.done: list[str] = []
        self.hung = [kind for kind in ("hung-aio", "hung-thread") if possible.get(kind) is None]
        self.trials: list[Callable[[], None]] = [
            self.one_fast,
            self.one_slow,
            self.two_at_once,
            self.one_that_forks,
            self.a_churn,
            self.no_scribe,
            self.no_scout,
            self.a_scout_that_sleeps,
            self.a_reload,
            *([self.one_that_hangs] if self.hung else []),
        ]

    def go_on(self, seconds: float) -> None:
        """Try it with this and that until the time is over; each trial ends in relief."""
        until_s = time.monotonic() + seconds
        order = list(self.trials)
        while time.monotonic() < until_s:
            if not order:
                order = list(self.trials)
            trial = order.pop(self.choose.randrange(len(order)))
            self.done.append(trial.__name__)
            trial()
            self.guard.wait_for(lambda: usage_bytes(self.directory) < LINE_MIB * MIB, RELIEF_S)
            assert self.guard.process.poll() is None, f"the guard ended:\n{self.guard.log}"

    @contextlib.contextmanager
    def hog(self, *args: Any) -> Iterator[Hog]:
        """One in the domain."""
        hog = Hog(self.directory, *args)
        try:
            yield hog
        finally:
            hog.end()

    def one_fast(self) -> None:
        """As fast as the machine can."""
        with self.hog(LINE_MIB + 200) as hog:
            self.guard.wait_for(lambda: hog.was_killed, RELIEF_S)

    def one_slow(self) -> None:
        """Three hundred MiB a second."""
        with self.hog(LINE_MIB + 200, 300) as hog:
            self.guard.wait_for(lambda: hog.was_killed, RELIEF_S)

    def two_at_once(self) -> None:
        """When killing one is enough for now."""
        with self.hog(LINE_MIB, 400) as first, self.hog(LINE_MIB, 300) as second:
            self.guard.wait_for(lambda: first.was_killed or second.was_killed, RELIEF_S)
            time.sleep(0.3)

    def one_that_forks(self) -> None:
        """A parent whose children hold it all."""
        self.one_staged("fork-hog")

    def one_that_hangs(self) -> None:
        """One that cannot die: its memory comes back all the same."""
        self.one_staged(self.choose.choice(self.hung))

    def one_staged(self, kind: str) -> None:
        """It is ready below the line; a small one crosses that."""
        size_bytes = (LINE_MIB - 160) * MIB
        number = len(self.guard.turns("relieved"))
        with stage(kind, size_bytes, cgroups=[self.directory]), self.hog(150, 300):
            self.guard.wait_for_turn("relieved", number + 1, RELIEF_S)

    def a_churn(self) -> None:
        """Many that come and go beside a hog."""
        code = (
            f"import os\nopen('{self.directory}/cgroup.procs', 'w').write('0')\n"
            "for _ in range(300): os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)\n"
        )
        with subprocess.Popen([sys.executable, "-S", "-c", code]) as churner:
            self.one_fast()
            churner.wait()

    def no_scribe(self) -> None:
        """It is killed right before an incident."""
        for pid in self.guard.children().get("memreap-scribe", []):
            os.kill(pid, signal.SIGKILL)
        self.one_fast()

    def no_scout(self) -> None:
        """Both are killed right before an incident."""
        for pid in self.guard.children().get("memreap-scout", []):
            os.kill(pid, signal.SIGKILL)
        self.one_fast()

    def a_scout_that_sleeps(self) -> None:
        """As if it hung."""
        for pid in self.guard.children().get("memreap-scout", [])[:1]:
            os.kill(pid, signal.SIGSTOP)
        self.one_slow()

    def a_reload(self) -> None:
        """In the middle of an incident."""
        with self.hog(LINE_MIB + 200, 300) as hog:
            time.sleep(1.0)
            self.guard.process.send_signal(signal.SIGHUP)
            self.guard.wait_for(lambda: hog.was_killed, RELIEF_S)


def check_that_nobody_died_for_nothing(turns: list[dict[str, Any]], spared: set[int]) -> None:
    """No protected victim; a second one only when the first was done with."""
    under_way: dict[str, int | None] = {}
    for turn in turns:
        domain = turn["domain"]
        if turn["what"] == "killed":
            pids = turn["victim"]["pids"]
            assert not spared.intersection(pids)
            assert under_way.get(domain) is None, f"a second victim too early: {turn}"
            under_way[domain] = pids[0]
        elif turn["what"] in ("released", "skipped"):
            under_way[domain] = None


@pytest.mark.timeout(SOAK_S + 120)
def test_it_keeps_a_domain_usable_whatever_happens(
    guard: Start,
    hog: Callable[..., Hog],
    cgroup: Callable[[str], Path],
    possible: dict[str, str | None],
    tmp_path: Path,
    memreap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    print(f"seed {SEED}")
    directory = limited(cgroup("memory"), LIMIT_MIB)
    config = tmp_path / "soak.toml"
    config.write_text(CONFIG.format(path=directory, line=LINE_MIB))
    one = guard("--config", config)
    precious = hog(directory, 60, 1e6, "precious")
    precious.wait_full()
    tenant = subprocess.Popen(
        [sys.executable, "-S", "-c", TENANT, str(directory)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert tenant.stdout is not None
        tenant.stdout.readline()
        soak = Soak(one, directory, possible)
        soak.go_on(SOAK_S)
        one.wait_for(lambda: one.turns()[-1]["what"] in ("relieved", "outcome", "eased"), 5)
        assert precious.process.poll() is None, "a protected process was killed"
        assert tenant.poll() is None, "who lives in the domain was killed"
    finally:
        tenant.kill()
        said = tenant.communicate()[0].split()
    worst_s = float(said[-1]) if said else 0.0
    turns = one.turns()
    check_that_nobody_died_for_nothing(turns, {precious.pid, tenant.pid})
    incidents = {turn["incident"] for turn in turns if turn["incident"]}
    assert len(incidents) >= len(soak.done) // 2
    listed = memreap("incidents", "--json", "--limit", "10000", "--database", one.database)
    assert len(listed.stdout.splitlines()) == len(incidents)
    for number in sorted(incidents)[:: max(1, len(incidents) // 20)]:
        told = memreap("explain", number, "--database", one.database)
        assert told.returncode == 0, told.stderr
        assert "killed" in told.stdout or "passed" in told.stdout or "relieved" in told.stdout
    kills = [turn for turn in turns if turn["what"] == "killed"]
    print(
        f"{len(soak.done)} trials, {len(incidents)} incidents, {len(kills)} victims; "
        f"the tenant's slowest 2 MiB took {worst_s * 1000:.0f} ms"
    )
    one.stop()
