"""After SIGKILL nothing under the victim's /proc directory is opened but oom_score.

Whoever opens more may become the last to hold the victim's mm, and hang in its stead.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memreap.victims import stage

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("nothing_left")]

SIZE_BYTES = 64 << 20

# Kills in-process under an audit hook. Hooks survive fork, so the reaper's opens are heard too.
KILLS = """
import json, os, select, sys, time
from memreap.reap import reaper, survey
from memreap.reap.execution import Execution
from memreap.reap.victim import identify
from memreap.reap.volley import Volley

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
hears = {"open", "os.listdir", "os.scandir"}
def hook(event, args):
    if event in hears and args and isinstance(args[0], (str, bytes)):
        path = os.fsdecode(args[0])
        os.write(log, json.dumps([time.monotonic(), event, path]).encode() + b"\\n")
sys.addaudithook(hook)

case, pids = sys.argv[2], [int(pid) for pid in sys.argv[3:]]
if case == "careless":
    look = reaper.Reaper._oom_score
    def careless(self):
        open(f"/proc/{self._order.victim.pid}/statm").read()
        return look(self)
    reaper.Reaper._oom_score = careless
if case == "late sharer":
    survey.sharers = lambda *args, **more: iter(())
victims = [identify(pid) for pid in pids]
volley = Volley(victims, "always", 3.0)
executions = list(volley.pending)
volley.fire()
while volley.pending:
    select.select([], [], [], 0.001)
    volley.advance(time.monotonic())
print(json.dumps({
    "killed_s": [execution.killed_s for execution in executions],
    "outcomes": [outcome.outcome for outcome in volley.outcomes],
}), flush=True)
"""


def opened_after_kill(log: Path, case: str, pids: list[int], also: list[int]) -> set[str]:
    """What was opened below /proc/PID after the SIGKILL, of victims and who shares with them."""
    done = subprocess.run(
        [sys.executable, "-c", KILLS, log, case, *map(str, pids)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=30,
    )
    said = json.loads(done.stdout)
    assert set(said["outcomes"]) <= {"exited", "reaped"}
    killed_s = dict(zip(pids, said["killed_s"], strict=True))
    killed_s |= dict.fromkeys(also, min(killed_s.values()))
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert any(path.startswith(f"/proc/{pids[0]}/") for _, _, path in events), "the hook hears"
    return {
        path.removeprefix(f"/proc/{pid}/")
        for at_s, _, path in events
        for pid in killed_s
        if path.startswith(f"/proc/{pid}/") and at_s > killed_s[pid]
    }


@pytest.mark.parametrize("kind", ["sleeping", "threads", "shared", "hung-aio", "hung-thread"])
def test_only_oom_score(tmp_path: Path, possible: dict[str, str | None], kind: str) -> None:
    if reason := possible[kind]:
        pytest.skip(reason)
    with stage(kind, SIZE_BYTES) as staged:
        opened = opened_after_kill(tmp_path / "log", "", [staged.pid], [*staged.sharers])
    assert opened == {"oom_score"}


def test_only_oom_score_of_several(tmp_path: Path, nursery: Callable[[int], int]) -> None:
    pids = [nursery(SIZE_BYTES) for _ in range(5)]
    assert opened_after_kill(tmp_path / "log", "", pids, []) == {"oom_score"}


def test_only_oom_score_of_who_shares_and_was_found_late(tmp_path: Path) -> None:
    with stage("shared", SIZE_BYTES) as staged:
        opened = opened_after_kill(tmp_path / "log", "late sharer", [staged.pid], [])
    assert opened == {"oom_score"}


def test_a_careless_read_would_be_seen(tmp_path: Path, nursery: Callable[[int], int]) -> None:
    opened = opened_after_kill(tmp_path / "log", "careless", [nursery(SIZE_BYTES)], [])
    assert "statm" in opened
