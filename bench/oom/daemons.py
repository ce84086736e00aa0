"""Who is compared: how each is set up, by its defaults and tuned, and how it is found. A table.

Defaults are those of Debian's packages, untouched. Where a package does not start with its own,
the least that its own documentation says is changed, and said. Tuned is what each documents for
acting at the line that all are measured by, a tenth of memory (and swap) left, as fast as it can.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vmtest import inside

from bench.oom.meter import LINE_SHARE, Ground

QUIET_SHARE = 0.03  # of a CPU: a daemon that uses less has started
QUIET_LOOK_S = 0.5
START_S = 20.0


@dataclass(frozen=True)
class Setting:
    """One way to run a daemon."""

    why: str
    """What it is, for people, and why it is fair."""
    files: Mapping[str, str] = field(default_factory=dict)
    """To be written: path and contents."""
    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """To be changed in files that are there: path, and key = value."""
    prepare: Callable[[], object] | None = None
    """What is done, or can be known, on the running machine alone; before the daemon starts."""

    def write(self) -> None:
        """Put the files there; before anything of it starts."""
        for path, text in self.files.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)
        for path, changes in self.keys.items():
            Path(path).write_text(with_keys(Path(path).read_text(), changes))


@dataclass(frozen=True)
class Daemon:
    """One row."""

    name: str
    package: str
    """That dpkg tells the version of."""
    unit: str | None
    """None: there is no daemon."""
    settings: Mapping[str, Setting]


def with_keys(text: str, changes: Mapping[str, str]) -> str:
    """A file of ``key = value`` lines with other values. Raises KeyError for a key it has not."""
    for key, value in changes.items():
        text, number = re.subn(rf"(?m)^{re.escape(key)}\s*=.*$", f"{key} = {value}", text)
        if not number:
            raise KeyError(key)
    return text


# oomd's rules are cgroups' sizes and pressures. It has no rule for what is left on the machine, so
# a tuned one is told the size that users have when the line is reached, as an operator would.
OOMD_APPS = "user.slice/user-*.slice/user@*.service/app.slice/*"
OOMD_OPTIONS = "--interval 1 --config /etc/oomd/oomd.json"


def _tune_oomd() -> None:
    left, line = Ground().look()
    users = inside.Cgroup(inside.CGROUPS / "user.slice").table("memory.stat")["anon"]
    swapping = bool(inside.swaps())
    Path("/etc/oomd/oomd.json").write_text(oomd_rules((users + left - line) >> 20, swapping))


def oomd_rules(users_mib: int, swapping: bool) -> str:
    """Rules for users that may have so much; with swap, also for when that is short."""

    def ruleset(name: str, detector: str, args: Mapping[str, str], action: str) -> object:
        kill = {"cgroup": OOMD_APPS, "post_action_delay": "1"}
        return {
            "name": name,
            "detectors": [[name, {"name": detector, "args": args}]],
            "actions": [{"name": action, "args": kill}],
        }

    users = {"cgroup": "user.slice", "threshold_anon": f"{users_mib}M", "duration": "0"}
    pressure = {
        "cgroup": "user.slice", "resource": "memory", "threshold": "10", "duration": "1",
    }  # fmt: skip
    sized = "kill_by_memory_size_or_growth"
    rules = [
        ruleset("users have too much", "memory_above", users, sized),
        ruleset("users wait for memory", "pressure_above", pressure, sized),
    ]
    if swapping:  # without, all of nothing is always used
        swap = {"threshold_pct": "10"}
        rules[:1] = [ruleset("swap is short", "swap_free", swap, "kill_by_swap_usage")]
    return json.dumps({"rulesets": rules}, indent=1)


# earlyoom takes a size as its share of all memory, and compares that with the share that is left of
# what user space can have, which is less: so the size is stretched until both are the line.
def _tune_earlyoom() -> None:
    rows = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {name.rstrip(":"): int(size) for name, size, *_ in rows}
    stretch = kib["MemTotal"] / (kib["MemAvailable"] + kib["AnonPages"])
    memory, swap = (kib[name] * LINE_SHARE for name in ("MemTotal", "SwapTotal"))
    text = earlyoom_options(round(memory * stretch), round(swap))
    Path("/etc/default/earlyoom").write_text(text)


def earlyoom_options(memory_kib: int, swap_kib: int) -> str:
    """SIGKILL at these lines."""
    swap = f" -S {swap_kib},{swap_kib}" if swap_kib else ""
    return f'EARLYOOM_ARGS="-r 3600 -M {memory_kib},{memory_kib}{swap}"\n'


def _tune_kernel() -> None:
    generations = Path("/sys/kernel/mm/lru_gen")
    (generations / "enabled").write_text("y")
    (generations / "min_ttl_ms").write_text("1000")


DAEMONS = {
    one.name: one
    for one in (
        Daemon(
            "kernel",
            "linux-image",
            None,
            {
                "default": Setting("the kernel's own OOM killer, nobody else"),
                "tuned": Setting(
                    "lru_gen/min_ttl_ms=1000, the kernel's own protection against thrashing: it"
                    " kills rather than evict what was used within the last second",
                    prepare=_tune_kernel,
                ),
            },
        ),
        Daemon(
            "memreap",
            "memreap",
            "memreap.service",
            {
                "default": Setting(
                    "its unit, and `[system] enabled = true`, without which it guards nothing",
                    {"/etc/memreap/memreap.toml": "[system]\nenabled = true\n"},
                ),
                "tuned": Setting(
                    '`available_min = "10%"`: at the line',
                    {
                        "/etc/memreap/memreap.toml": "[system]\nenabled = true\n"
                        'available_min = "10%"\nswap_free_min = "10%"\n'
                    },
                ),
            },
        ),
        Daemon(
            "earlyoom",
            "earlyoom",
            "earlyoom.service",
            {
                "default": Setting("as packaged: SIGTERM at 10 %, SIGKILL at 5 %"),
                "tuned": Setting(
                    "`-M N,N -S N,N`: SIGKILL at the line, in KiB",
                    prepare=_tune_earlyoom,
                ),
            },
        ),
        Daemon(
            "nohang",
            "nohang",
            "nohang.service",
            {
                "default": Setting("as packaged: SIGTERM at 5 %, SIGKILL at 2 %"),
                "tuned": Setting(
                    "both thresholds at 10 %, so SIGKILL at the line, and at most 100 ms of sleep"
                    " between two looks",
                    keys={
                        "/etc/nohang/nohang.conf": {
                            "soft_threshold_min_mem": "10 %",
                            "soft_threshold_min_swap": "10 %",
                            "hard_threshold_min_mem": "10 %",
                            "hard_threshold_min_swap": "10 %",
                            "max_sleep": "0.1",
                            "min_sleep": "0.02",
                        }
                    },
                ),
            },
        ),
        Daemon(
            "systemd-oomd",
            "systemd-oomd",
            "systemd-oomd.service",
            {
                "default": Setting(
                    "as packaged: a user's manager that stood still for half of 20 s is looked into"
                ),
                "tuned": Setting(
                    "on user@.service: pressure above 10 % for 1 s, the least it takes, and swap"
                    " and memory used to 90 %",
                    {
                        "/etc/systemd/system/user@.service.d/90-bench.conf": "[Service]\n"
                        "ManagedOOMMemoryPressure=kill\nManagedOOMMemoryPressureLimit=10%\n"
                        "ManagedOOMMemoryPressureDurationSec=1s\nManagedOOMSwap=kill\n"
                    },
                ),
            },
        ),
        Daemon(
            "oomd",
            "oomd",
            "oomd.service",
            {
                "default": Setting(
                    "as packaged, but for `--cgroup-fs`: with that it does not start where there"
                    " is cgroup v2 alone, and its file says to take it away there",
                    {"/etc/default/oomd": f'DAEMON_OPTS="{OOMD_OPTIONS}"\n'},
                ),
                "tuned": Setting(
                    "looks every second, the least it can; kills the largest program of users that"
                    " have as much as leaves the line, or that waited 10 % of 10 s; with swap, when"
                    " a tenth of that is left",
                    {"/etc/default/oomd": f'DAEMON_OPTS="{OOMD_OPTIONS}"\n'},
                    prepare=_tune_oomd,
                ),
            },
        ),
    )
}


class Running:
    """A daemon in the guest, and what it uses."""

    def __init__(self, daemon: Daemon) -> None:
        """Not started."""
        self.daemon = daemon
        self._unit = daemon.unit or ""
        self._group: inside.Cgroup | None = None

    def start(self) -> None:
        """As Debian would; returns when it has come to rest. Raises RuntimeError."""
        if not self._unit:
            return
        _systemctl("reset-failed", self._unit, check=False)
        _systemctl("restart", self._unit)
        path = _systemctl("show", "-P", "ControlGroup", self._unit)
        self._group = inside.Cgroup(inside.CGROUPS / path.lstrip("/")) if path else None
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            before_s = self.cpu_s()
            time.sleep(QUIET_LOOK_S)
            if self.cpu_s() - before_s < QUIET_SHARE * QUIET_LOOK_S:
                break
        if not self.is_active():
            raise RuntimeError(f"{self._unit} does not run: {self.words()[-800:]}")

    def stop(self) -> None:
        """Gone."""
        if self._unit:
            _systemctl("stop", self._unit, check=False)

    def is_active(self) -> bool:
        """Whether systemd thinks that it runs."""
        return not self._unit or _systemctl("is-active", self._unit, check=False) == "active"

    def words(self) -> str:
        """What it said last."""
        if not self._unit:
            return ""
        argv = ["journalctl", "-u", self._unit, "-n", "40", "-o", "cat", "--no-pager"]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def cpu_s(self) -> float:
        """Of all that it ever was."""
        group = self._there
        return group.table("cpu.stat")["usage_usec"] / 1e6 if group else 0.0

    def cpu_by_name(self) -> dict[str, float]:
        """Of its processes that are there now."""
        group, found = self._there, dict[str, float]()
        for pid in group.read("cgroup.procs").split() if group else ():
            try:
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                spent_s = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
            except OSError:  # it has ended
                continue
            found[name] = found.get(name, 0.0) + spent_s
        return found

    def use(self) -> dict[str, float]:
        """CPU time, memory, major faults of all its processes."""
        group = self._there
        if group is None:
            return {}
        found = {"cpu_s": self.cpu_s(), "rss_bytes": 0, "pss_bytes": 0, "major_faults": 0}
        found["major_faults"] = group.table("memory.stat").get("pgmajfault", 0)
        for pid in group.read("cgroup.procs").split():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:  # it has ended
                continue
            sizes = {n: int(kb) << 10 for n, kb in re.findall(r"(?m)^(\w+):\s+(\d+) kB", rollup)}
            found["rss_bytes"] += sizes.get("Rss", 0)
            found["pss_bytes"] += sizes.get("Pss", 0)
        return found

    @property
    def _there(self) -> inside.Cgroup | None:
        """Its group, while it has one."""
        return self._group if self._group is not None and self._group.path.exists() else None


def _systemctl(*argv: str, check: bool = True) -> str:
    done = subprocess.run(["systemctl", *argv], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"systemctl {' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Of all that is compared, as installed here."""
    show = ("dpkg-query", "-W", "-f", "${Package} ${Version}\n")
    names = ("earlyoom", "nohang", "systemd-oomd", "oomd", "stress-ng", "systemd")
    try:
        done = subprocess.run([*show, *names], capture_output=True, text=True, check=False)
        found = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
        ours = subprocess.run(["memreap", "--version"], capture_output=True, text=True, check=False)
        found["memreap"] = ours.stdout.split()[-1] if ours.stdout.split() else ""
    except FileNotFoundError:  # not a Debian with all of it
        found = {}
    return found | {"kernel": os.uname().release, "kernel built": os.uname().version}
