"""The command runs as if nobody stood between it and its caller."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

RUN = """
import sys
from memreap.run.options import RunOptions
from memreap.run.session import run
sys.exit(run(RunOptions(1 << 30, sys.argv[1:], quiet=True)))
"""
ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")}


def argv(*command: str) -> list[str]:
    return [sys.executable, "-c", RUN, *command]


def run(*command: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv(*command),
        input=given,
        capture_output=True,
        text=True,
        env=ENV,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 3"], 3),
        (["/etc/passwd"], 126),
        (["/etc/passwd/none"], 127),
        (["no-such-command-anywhere"], 127),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["sh", "-c", "kill -SEGV $$"], 128 + signal.SIGSEGV),
    ],
)
def test_exit_code_is_the_commands_own(command: list[str], code: int) -> None:
    assert run(*command).returncode == code


def test_input_and_output_pass_through() -> None:
    done = run("sh", "-c", "cat; echo trouble >&2", given="hello\n")
    assert (done.stdout, done.stderr, done.returncode) == ("hello\n", "trouble\n", 0)


def test_command_starts_with_a_clean_slate() -> None:
    done = run("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
    before = subprocess.run(
        ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"],
        capture_output=True,
        text=True,
        check=True,
        restore_signals=True,
    )
    assert done.stdout == before.stdout


def test_command_inherits_descriptor_limit_and_no_descriptor() -> None:
    assert run("sh", "-c", "ulimit -Sn; ls /proc/self/fd | wc -l").stdout.split() == [
        subprocess.run(
            ["sh", "-c", "ulimit -Sn"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "4",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signal_to_memreap_alone_reaches_the_command(number: signal.Signals) -> None:
    trap = f"trap 'echo got; exit 5' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(argv("sh", "-c", trap), stdout=subprocess.PIPE, env=ENV) as memreap:
        assert memreap.stdout is not None
        assert memreap.stdout.readline() == b"ready\n"
        memreap.send_signal(number)
        assert memreap.stdout.readline() == b"got\n"
        assert memreap.wait(10) == 5


# No shell with a sleep in it: a child of vfork(2) that is stopped before it has become sleep(1)
# keeps its parent in the kernel, where no Ctrl-Z reaches it, whoever runs that.
SLEEPER = (
    f'{sys.executable} -c \'import sys, time; print("rea" "dy", flush=True); time.sleep(1.5); '
    'print("wo" "ke"); sys.exit(int(sys.argv[1]))\''
)


class Terminal:
    """An interactive bash on a terminal of its own."""

    def __init__(self) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(
                "/bin/bash",
                ["bash", "--norc", "--noprofile", "-i"],
                ENV | {"PS1": "$ ", "TERM": "dumb"},
            )
        self.seen = ""

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def expect(self, text: str, timeout_s: float = 10.0) -> None:
        """Wait until the terminal shows it, and go on behind it."""
        deadline_s = time.monotonic() + timeout_s
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline_s - time.monotonic()))
            assert ready, f"{text!r} did not come; seen: {self.seen!r}"
            self.seen += os.read(self.fd, 4096).decode(errors="replace")
        self.seen = self.seen.partition(text)[2]

    def expect_after(self, keys: str, text: str) -> None:
        """Type it again and again until the terminal shows this."""
        for _ in range(50):
            self.type(keys)
            with contextlib.suppress(AssertionError):
                return self.expect(text, 0.3)
        raise AssertionError(f"{text!r} did not come; seen: {self.seen!r}")

    def close(self) -> None:
        os.close(self.fd)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(tmp_path: Path):  # type: ignore[no-untyped-def]
    script = tmp_path / "runner.py"
    script.write_text(RUN)
    it = Terminal()
    it.type(f"mr() {{ {sys.executable} {script} \"$@\"; }}; echo set''up\n")
    it.expect("setup")
    yield it
    it.close()


def test_ctrl_c_is_the_commands(terminal: Terminal) -> None:
    trap = 'trap "n=\\$((n+1))" INT; echo rea""dy; sleep 0.6; sleep 0.3; echo "count=$n"; exit 4'
    terminal.type(f"mr sh -c '{trap}'; echo code=$?\n")
    terminal.expect("ready")
    time.sleep(0.2)
    terminal.type("\x03")
    terminal.expect("count=1")  # once, not once more by memreap
    terminal.expect("code=4")


def test_ctrl_c_kills_a_command_that_does_not_care(terminal: Terminal) -> None:
    terminal.type("mr sh -c 'echo rea\"\"dy; exec sleep 100'; echo code=$?\n")
    terminal.expect("ready")
    terminal.type("\x03")
    terminal.expect("code=130")


def test_ctrl_z_and_fg(terminal: Terminal) -> None:
    terminal.type(f"mr {SLEEPER} 6\n")
    terminal.expect("ready")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("fg; echo code=$?\n")
    terminal.expect("woke")
    terminal.expect("code=6")


def test_ctrl_z_and_bg(terminal: Terminal) -> None:
    terminal.type(f"mr {SLEEPER} 0\n")
    terminal.expect("ready")
    terminal.type("\x1a")
    terminal.expect("Stopped")
    terminal.type("bg\n")
    terminal.expect("woke")
    terminal.type("wait; echo code=$?\n")
    terminal.expect("code=0")


def test_command_that_stops_itself_stops_the_job(terminal: Terminal) -> None:
    terminal.type("mr sh -c 'kill -STOP $$; echo wo\"\"ke; exit 8'\n")
    terminal.expect("Stopped")
    terminal.type("fg; echo code=$?\n")
    terminal.expect("woke")
    terminal.expect("code=8")


def test_background_command_that_reads_the_terminal_stops(terminal: Terminal) -> None:
    terminal.type("mr cat &\n")
    terminal.expect_after("jobs\n", "Stopped")
    terminal.type("fg\nhel''lo\n\x04")
    terminal.expect("hel''lo")
