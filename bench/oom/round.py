"""In the guest: one run after another of one daemon in one setting.

Says "begin" before each, and all that was seen after it: should the guest freeze, the host knows in
which. Nothing is judged here. A run is over when whoever should die is dead and it is quiet, or
when its time is.
"""

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any

from vmtest import inside

from bench.oom import meter, signals, yard
from bench.oom.daemons import DAEMONS, Daemon, Running, versions
from bench.oom.watchdog import Watchdog
from bench.oom.workloads import WORKLOADS, Workload

QUIET_S = 3.0  # without a kill, above the line: then it is over
AFTER_KILL_S = 6.0  # without another kill, below the line: then nothing more will come
LOOK_S = 0.1
LEAD_S = 1.0  # of the meter before the workload, and of the drawing before the line
POINTS = 60  # of the drawing
SIGNALS_MAX = 80  # told one by one
SETTLED_SHARE = 0.5  # of the line: as little may be missing before the next run
SETTLE_S = 20.0
REST_S = 3.0  # that a daemon is watched while nothing happens
STANDSTILL_S = 60.0  # beyond a run's own time, its clearing away included: it will not end
_MCL_CURRENT = 1
OMIT = ("user.oomd_omit", "trusted.oomd_avoid")  # the meter's own group, to systemd-oomd and oomd


def main(daemon: str, setting: str, jobs: list[tuple[str, int]]) -> None:
    """Runs, each a workload and a number; each is told to the host."""
    rounds = Rounds(DAEMONS[daemon], setting)
    rounds.prepare()
    inside.report(kind="machine", **machine())
    for workload, number in jobs:
        key = {"daemon": daemon, "setting": setting, "workload": workload, "run": number}
        inside.report(kind="begin", **key)
        inside.report(kind="run", **key, **rounds.run(WORKLOADS[workload]))


def machine() -> dict[str, Any]:
    """What it is measured on."""
    return {
        "versions": versions(),
        "cpus": os.cpu_count(),
        "nodes": len(inside.nodes()),
        "memory_bytes": meter.Ground().whole(Path("/proc/meminfo").read_bytes()),
        "swap": inside.swaps(),
    }


class Rounds:
    """One daemon, one setting."""

    def __init__(self, daemon: Daemon, setting: str) -> None:
        """Not started."""
        self.setting = daemon.settings[setting]
        self.running = Running(daemon)
        self.bystanders = yard.Bystanders()
        self._at_rest: dict[meter.Ground, int] = {}  # bytes left

    def prepare(self) -> None:
        """Once a boot."""
        _stand_apart()
        self.setting.write()
        yard.set_up()
        yard.log_in()
        self.bystanders.ensure()
        if self.setting.prepare:
            self.setting.prepare()
        self.recorder = signals.Recorder("memreap-bench")

    def run(self, workload: Workload) -> dict[str, Any]:
        """One; what was seen."""
        ground = workload.ground
        settled = self._settle(ground)
        try:
            self.running.start()
        except RuntimeError as error:
            return {"why_ended": "the daemon did not start", "words": str(error)}
        rest = self._rest()
        with yard.own_group() as group, meter.metering(ground) as clock:
            time.sleep(LEAD_S)
            self.recorder.clear()
            before = self.running.use()
            left, line = ground.look()
            there = yard.Yard(group, left - line, line)
            dog = Watchdog(workload.limit_s + STANDSTILL_S)
            began_s = time.monotonic()
            workload.act(there)
            why = self._watch(workload, there, line, began_s)
            ended_s = time.monotonic()
            # Nothing is started here: memory may still be short.
            trace = self.recorder.text()
            after, cpu_by_name = self.running.use(), self.running.cpu_by_name()
            samples, beats = clock.samples(), clock.beats()
        dog.tell_off()
        active = self.running.is_active()
        words = self.running.words() if not active else ""
        self.running.stop()
        sent = signals.parse(trace)
        seen = tell(samples, beats, sent, line=line, began_s=began_s, ended_s=ended_s)
        return seen | {
            "line_bytes": line,
            "left_at_begin_bytes": left,
            "settled": settled,
            "why_ended": why,
            "marks": len(signals.parse_marks(trace)),
            "rest": rest,
            "use_before": before,
            "use_after": after,
            "cpu_by_name_s": cpu_by_name,
            "daemon_active": active,
            "words": words,
        }

    def _settle(self, ground: meter.Ground) -> bool:
        """The bystanders are there, and nearly as much is left as before the first run."""
        yard.log_in()
        self.bystanders.ensure()
        left, line = ground.look()
        enough = self._at_rest.setdefault(ground, left) - SETTLED_SHARE * line
        return yard.wait_for(lambda: ground.look()[0] >= enough, SETTLE_S)

    def _rest(self) -> dict[str, float]:
        before_s = self.running.cpu_s()
        time.sleep(REST_S)
        return {"cpu_share": (self.running.cpu_s() - before_s) / REST_S}

    def _watch(self, workload: Workload, there: yard.Yard, line: int, began_s: float) -> str:
        """Until it is over; why it is."""
        killer = self.running.daemon.name
        first_s: float | None = None
        last_s, number = began_s, 0
        while (now_s := time.monotonic()) < began_s + workload.limit_s:
            time.sleep(LOOK_S)
            yard.reap()
            sent = signals.parse(self.recorder.text())
            kills = [each for each in sent if each.by_kernel or each.by.startswith(killer)]
            if len(kills) > number:
                first_s, last_s, number = first_s or now_s, now_s, len(kills)
            is_above = workload.ground.look()[0] >= line
            if first_s is not None and is_above and now_s - last_s > QUIET_S:
                return "relieved"
            if first_s is not None and not is_above and now_s - last_s > AFTER_KILL_S:
                return "not relieved"
            if first_s is None and "populated 0" in there.group.read("cgroup.events"):
                return "ended by itself"
        return "time is up"


def tell(
    samples: list[meter.Sample],
    beats: list[float],
    sent: list[signals.Signal],
    *,
    line: int,
    began_s: float,
    ended_s: float,
) -> dict[str, Any]:
    """What was seen, times from the workload's begin."""
    samples = [sample for sample in samples if sample[0] <= ended_s]
    after = [sample for sample in samples if sample[0] >= began_s]
    crossed_s = meter.crossing(after, line)
    first_s = sent[0].at_s if sent else None
    from_s = crossed_s or first_s or ended_s
    gap_s, gap_at_s = meter.longest_gap([b for b in beats if b <= ended_s], from_s, ended_s)
    blind_s, _ = meter.longest_gap([at_s for at_s, _ in samples], from_s, ended_s)
    start_s = from_s - LEAD_S if crossed_s else began_s
    return {
        "began_s": began_s,
        "lasted_s": ended_s - began_s,
        "crossed_s": None if crossed_s is None else crossed_s - began_s,
        "back_s": _relative(meter.back(after, line, max(first_s or 0, crossed_s or 0)), began_s),
        "lowest_bytes": min((left for _, left in after), default=None),
        "left_at_signal_bytes": _left_at(after, first_s),
        "frozen_s": gap_s,
        "frozen_at_s": gap_at_s - began_s,
        "meter_blind_s": blind_s,
        "signals": [each.as_dict() | {"at_s": each.at_s - began_s} for each in sent[:SIGNALS_MAX]],
        "signals_in_all": len(sent),
        "left": [
            [round(at_s - began_s, 3), left >> 10]
            for at_s, left in meter.thinned(samples, start_s, ended_s, POINTS)
        ],
    }


def _relative(at_s: float | None, began_s: float) -> float | None:
    return None if at_s is None else at_s - began_s


def _left_at(samples: list[meter.Sample], at_s: float | None) -> int | None:
    if at_s is None:
        return None
    return next((left for sampled_s, left in reversed(samples) if sampled_s <= at_s), None)


def _stand_apart() -> None:
    """This process and its meter are no part of the machine: they are not paged out, nor killed.

    That nobody kills it who kills processes is its oom_score_adj, by its unit.
    """
    ctypes.CDLL(None).mlockall(_MCL_CURRENT)  # its children do not inherit it
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next(line[3:] for line in lines if line.startswith("0::"))
    for name in OMIT:
        try:
            os.setxattr(f"{inside.CGROUPS}{path}", name, b"1")
        except OSError as error:
            print(f"{name}: {error}", file=sys.stderr)
