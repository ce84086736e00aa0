"""What goes wrong around a run does not stop the guard: it is said, or it is borne."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.kernel

MEMREAP = [sys.executable, "-m", "memreap", "run"]
HOG = f"{sys.executable} -S -c 'x = bytearray(400 << 20); import time; time.sleep(30)'"
BUDGET = ["-m", "100M", "--cgroup", "never"]


def run(*args: str, timeout_s: float = 30, **popen: object) -> subprocess.CompletedProcess[str]:
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(
        [*MEMREAP, *args],
        **(both | popen),
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_a_reader_that_stalls_does_not_stop_the_guard(tmp_path: Path) -> None:
    """Its stderr is a pipe, full before the first line."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while True:
            os.write(write, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write, True)
    record = tmp_path / "incidents"
    start_s = time.monotonic()
    done = run(
        *BUDGET,
        "--json",
        str(record),
        "--",
        "sh",
        "-c",
        f"exec 2>/dev/null; {HOG}; {HOG}; exit 7",
        stderr=write,
    )
    took_s = time.monotonic() - start_s
    os.close(write)
    os.close(read)
    assert done.returncode == 7
    assert took_s < 10
    incidents = [json.loads(line) for line in record.read_text().splitlines()]
    # On a busy machine the second may be over before the first was seen to be: one incident.
    assert [victim["outcome"] for each in incidents for victim in each["victims"]] == ["exited"] * 2


def test_a_record_that_cannot_be_written_is_said_before_the_command_runs(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path / "none" / "file"):
        done = run(*BUDGET, "--json", str(path), "--", "touch", str(tmp_path / "ran"), timeout_s=5)
        assert done.returncode == 125
        assert done.stderr.startswith("memreap: cannot start: ")
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "ran").exists()


def test_a_full_disk_loses_the_record_and_not_the_guard() -> None:
    done = run(*BUDGET, "--json", "/dev/full", "--", "sh", "-c", f"{HOG}; exit 7")
    assert done.returncode == 7
    assert "cannot write the record: No space left on device" in done.stderr


def test_kills_keep_no_descriptor() -> None:
    # A living process's statm is held, and whoever counts lives.
    count = "for fd in /proc/$PPID/fd/*; do readlink $fd; done | grep -vc /statm"
    script = f"{HOG}; sleep 0.8; {count}; for i in 1 2 3 4 5 6; do {HOG}; done; sleep 0.8; {count}"
    done = run(*BUDGET, "--", "sh", "-c", script)
    before, after = map(int, done.stdout.split())
    assert done.stderr.count(": killing ") == 7
    assert after <= before


def test_too_few_descriptors_are_refused_at_the_start() -> None:
    done = subprocess.run(
        ["sh", "-c", f"ulimit -n 20; exec {' '.join(MEMREAP)} -m 1G -- true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 125
    assert "descriptors" in done.stderr


def test_wrong_usage_is_not_the_commands_exit_code() -> None:
    for wrong in (["-m", "lots", "--", "true"], ["--", "true"], ["-m", "1G", "--nonsense"]):
        assert run(*wrong).returncode == 125


def test_a_stopped_one_can_leave_on_sigterm(tmp_path: Path) -> None:
    code = """
import os, signal, sys, time
def leave(*_):
    open(sys.argv[1], "w").write("saved")
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
x = bytearray(130 << 20)
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(30)
"""
    record, saved = tmp_path / "incidents", tmp_path / "saved"
    command = ["sh", "-c", '"$@"; exit 7', "sh", sys.executable, "-S", "-c", code, str(saved)]
    done = run(*BUDGET, "--on-limit", "term", "--json", str(record), "--", *command)
    assert done.returncode == 7
    assert saved.read_text() == "saved"
    (death,) = json.loads(record.read_text())["victims"]
    assert (death["outcome"], death["reason"]) == ("exited", "left on SIGTERM")


def test_an_interrupt_at_the_very_start_is_no_traceback() -> None:
    for after_s in (0.01, 0.03, 0.05):
        with subprocess.Popen(
            [*MEMREAP[:-1], "kill", "--match", "nobody-has-this-name"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            time.sleep(after_s)
            process.send_signal(signal.SIGINT)
            _, complaint = process.communicate(timeout=10)
        if "memreap" in complaint:  # else Python itself was not there yet
            assert "Traceback" not in complaint
