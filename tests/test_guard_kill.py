"""The main job at machine scale: a domain that fills up is relieved, by one kill, and told of."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.guarding import Guard, Hog, limited, stay_below

pytestmark = [pytest.mark.kernel, pytest.mark.skipif("os.geteuid() != 0", reason="needs root")]

MIB = 1 << 20
Start = Callable[..., Guard]
StartHog = Callable[..., Hog]
MakeCgroup = Callable[[str], Path]


def beside_one_of(
    mib: int, most_mib: int, guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> tuple[Path, Guard, Hog]:
    """A cgroup that is kept to 300 MiB, its guard, and somebody who holds so much in it."""
    directory = limited(cgroup("memory"), most_mib)
    one = guard("--cgroup", directory, "--limit", "300M")
    other = hog(directory, mib)
    other.wait_full()
    return directory, one, other


def test_the_hog_dies_and_the_small_one_lives(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    directory, one, small = beside_one_of(50, 400, guard, hog, cgroup)
    big = hog(directory, 380, 500)
    one.wait_for(lambda: big.was_killed)
    stay_below(directory, 300 * MIB, 0.5)
    one.wait_for_turn("relieved")
    assert small.process.poll() is None
    killed = one.turns("killed")
    assert [turn["victim"]["pids"] for turn in killed] == [[big.pid]]


def test_who_was_larger_a_moment_ago_does_not_die_for_who_has_outgrown_it(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    """At full speed a hog fills the domain between two looks, whatever their phase."""
    directory, one, other = beside_one_of(120, 1000, guard, hog, cgroup)
    for number in range(1, 11):
        fast = hog(directory, 900, 1500)
        one.wait_for_turn("relieved", number)
        assert fast.was_killed
        time.sleep(0.01 * number)
    assert other.process.poll() is None
    assert len(one.turns("killed")) == 10


def test_the_incident_says_what_was_read_who_was_considered_and_what_came_of_it(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    directory, one, small = beside_one_of(50, 400, guard, hog, cgroup)
    big = hog(directory, 380, 100)
    one.wait_for_turn("outcome")
    one.wait_for_turn("relieved")
    whats = [turn["what"] for turn in one.turns()]
    assert whats[0] == "warned"
    assert [w for w in whats if w not in ("warned", "outcome", "eased")] == [
        "pressed",
        "chosen",
        "killed",
        "released",
        "relieved",
    ]
    chosen = one.turns("chosen")[0]
    assert chosen["usage_bytes"] > 300 * MIB
    scores = {c["pids"][0]: c["score_pages"] for c in chosen["choice"]["candidates"]}
    assert scores[big.pid] > scores[small.pid] > 0
    released = one.turns("released")[0]
    assert released["figures"]["released_bytes"] > 200 * MIB
    outcome = one.turns("outcome")[0]["outcome"]
    assert outcome["outcome"] == "exited"
    assert outcome["pid"] == big.pid


def test_file_pages_that_can_be_given_back_are_no_pressure(
    guard: Start, cgroup: MakeCgroup, tmp_path: Path
) -> None:
    directory = limited(cgroup("memory"), 200)
    one = guard("--cgroup", directory, "--limit", "100M")
    file = tmp_path / "pages"
    reader = (
        f"open('{directory}/cgroup.procs', 'w').write('0')\n"
        f"open('{file}', 'wb').write(bytes(150 << 20))\n"
        f"print(len(open('{file}', 'rb').read(1 << 20)), flush=True)\n"
        "import time; time.sleep(1.5)\n"
    )
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-S", "-c", reader], capture_output=True, check=False)
    used = int((directory / "memory.usage_in_bytes").read_text())
    if used < 100 * MIB:
        pytest.skip(f"the file system does not charge file pages here: {used} bytes")
    assert done.returncode == 0, done.stderr
    time.sleep(0.3)
    assert one.turns("pressed") == []


def test_a_dry_run_decides_records_and_signals_nobody(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    directory = limited(cgroup("memory"), 400)
    one = guard("--cgroup", directory, "--limit", "200M", "--dry-run")
    big = hog(directory, 250, 500)
    big.wait_full()
    chosen = one.wait_for_turn("chosen")
    assert chosen["dry_run"]
    assert chosen["victim"]["pids"] == [big.pid]
    time.sleep(2.5)  # longer than the patience: no second decision
    assert big.process.poll() is None
    assert one.turns("killed", "asked") == []
    assert len(one.turns("chosen")) == 1


def test_a_victim_asked_to_go_that_stays_is_killed(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    directory = limited(cgroup("memory"), 600)
    one = guard("--cgroup", directory, "--limit", "200M", "--term-first", "0.5")
    big = hog(directory, 250, 500, "ignore")
    one.wait_for(lambda: big.was_killed)
    one.wait_for_turn("relieved")
    asked, killed = one.turns("asked")[0], one.turns("killed")[0]
    assert 0.4 < killed["at_s"] - asked["at_s"] < 2.0


def test_a_victim_asked_to_go_that_goes_is_not_killed(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    directory = limited(cgroup("memory"), 600)
    one = guard("--cgroup", directory, "--limit", "200M", "--term-first", "5")
    big = hog(directory, 250, 500)
    one.wait_for(lambda: big.process.poll() is not None)
    one.wait_for_turn("relieved")
    assert big.process.returncode == -15
    assert one.turns("killed") == []


@pytest.mark.parametrize("mourns_after_s", [0, 2])  # till then the hog is a zombie
def test_a_tree_is_kept_to_its_budget(guard: Start, mourns_after_s: int) -> None:
    import subprocess
    import sys

    from tests.guarding import HOG

    parent = subprocess.Popen(
        [
            sys.executable,
            "-S",
            "-c",
            f"""
import subprocess, sys, time
sys.stdin.readline()
held = bytearray(60 << 20)
hog = subprocess.Popen([sys.executable, "-S", "-c", {HOG!r}, "", "600", "400"])
time.sleep({mourns_after_s})
print(hog.wait(), flush=True)
time.sleep(60)
""",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        one = guard("--tree", parent.pid, "--limit", "200M")
        assert parent.stdin is not None
        assert parent.stdout is not None
        print(file=parent.stdin, flush=True)
        assert parent.stdout.readline().strip() == "-9"
        one.wait_for_turn("relieved")
        assert parent.poll() is None
        assert len(one.turns("killed")) == 1
        parent.kill()
        parent.wait()
        one.wait_for(lambda: one.process.poll() is not None)
        assert one.process.returncode == 0
        assert "nobody of it is left" in one.log
    finally:
        parent.kill()
        parent.wait()


def test_two_domains_pressed_at_once_have_a_victim_each(
    guard: Start, hog: StartHog, cgroup: MakeCgroup
) -> None:
    first, second = limited(cgroup("memory"), 300), limited(cgroup("memory"), 300)
    one = guard("--cgroup", first, "--cgroup", second, "--limit", "200M")
    hogs = [hog(first, 280, 400), hog(second, 280, 400)]
    one.wait_for(lambda: all(h.was_killed for h in hogs))
    # One of them may be relieved twice, before the other is for the first time.
    one.wait_for(lambda: len({turn["domain"] for turn in one.turns("relieved")}) == len(hogs))
    told = [(turn["domain"][-4:], turn["what"], turn["reason"]) for turn in one.turns()]
    assert [what for _, what, _ in told].count("killed") == 2, (told, one.log)
