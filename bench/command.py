"""What the commands themselves cost: from exec to SIGKILL, and a tree that is watched at rest."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.row import Row
from bench.tracer import Tracer, tracer

COMMAND = Path(sys.executable).parent / "memreap"
STARTUP_RUNS = 21
SETTLE_S = 2.0
BUDGET_BYTES = 300 << 20
# As installed: with compiled modules, which pip makes and a source tree makes on its first run.
ENVIRON = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def exec_to_sigkill(quick: bool) -> tuple[float, float]:
    """Median seconds: (bare ``python -c pass``, ``memreap kill`` until SIGKILL was sent)."""
    runs = 5 if quick else STARTUP_RUNS
    bare, ours = [], []
    with tracer() as trace:
        _one_kill(trace)  # compiles what is not compiled yet
        for _ in range(runs):
            start_s = time.monotonic()
            subprocess.run([sys.executable, "-c", "pass"], check=True, env=ENVIRON)
            bare.append(time.monotonic() - start_s)
            ours.append(_one_kill(trace))
    return statistics.median(bare), statistics.median(ours)


def _one_kill(trace: Tracer) -> float:
    with subprocess.Popen(["sleep", "60"]) as victim:
        time.sleep(0.02)
        trace.clear()
        start_s = time.monotonic()
        argv = [str(COMMAND), "kill", "--quiet", str(victim.pid)]
        subprocess.run(argv, check=True, env=ENVIRON)
        (sent_s,) = [at_s for at_s, pid in trace.kills() if pid == victim.pid]
    return sent_s - start_s


def idle_share(quick: bool) -> float:
    """Of one CPU that ``memreap run`` takes on a tree that sleeps; start-up not counted."""
    look_s = 5.0 if quick else 30.0
    argv = [str(COMMAND), "run", "-q", "-m", "1G", "--", "sleep", str(SETTLE_S + look_s + 1)]
    with subprocess.Popen(argv, env=ENVIRON) as memreap:
        time.sleep(SETTLE_S)
        before_s = _cpu_s(memreap.pid)
        time.sleep(look_s)
        return (_cpu_s(memreap.pid) - before_s) / look_s


def _cpu_s(pid: int) -> float:
    """CPU time so far, to the nanosecond: sum_exec_runtime, kernel/sched/stats.h."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def overshoot(quick: bool) -> Row:
    """Highest usage of a hog at full speed, in budgets: memreap's share of the promise of two."""
    row = Row("memreap run -m 300M, hog at full speed, peak", "twice the budget", unit="budgets")
    for _ in range(3 if quick else 9):
        row.ours.append(_peak_bytes() / BUDGET_BYTES)
        row.theirs.append(2.0)
    row.target = 1.0
    return row


def _peak_bytes() -> int:
    """By the kernel's own high-water mark of the hog: ru_maxrss of memreap's children."""
    code = f"""
import resource, subprocess, sys
subprocess.run([sys.executable, "-m", "memreap", "run", "-q", "-m", "{BUDGET_BYTES}", "--",
    sys.executable, "-S", "-c", "x = bytearray(4 << 30)"], stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return int(ran.stdout) * 1024
