"""A guard without any privilege: it guards its own user's processes, and says what it lacks."""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.guarding import HOG

from memreap.linux.procfs import Procfs

pytestmark = [pytest.mark.kernel, pytest.mark.skipif("os.geteuid() != 0", reason="needs root")]

UID = 64321  # nobody's here, so that everything of his is the test's
MIB = 1 << 20
VICTIM_MIB_MAX = 2048


@pytest.fixture
def as_user(
    as_nobody: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python as a user who may do nothing; all of his ended afterwards."""
    found = as_nobody(
        "-c",
        "import click, memreap, sys; print(sys.executable);"
        "print(memreap.__path__[0]); print(click.__path__[0])",
    )
    python, package, click = found.stdout.split()
    path = os.pathsep.join(str(Path(p).parent) for p in (package, click))
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, UID, UID)
    for parent in (tmp_path, *tmp_path.parents[:3]):
        with contextlib.suppress(OSError):
            parent.chmod(parent.stat().st_mode | 0o011)
    started: list[subprocess.Popen[str]] = []

    def start(*args: str) -> subprocess.Popen[str]:
        env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path, "HOME": str(home)}
        env["XDG_RUNTIME_DIR"] = str(home)
        started.append(
            subprocess.Popen(
                [python, *args],
                user=UID,
                group=UID,
                extra_groups=[],
                cwd="/",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def words(process: subprocess.Popen[str], until: str, timeout_s: float = 20) -> str:
    """What it says until a word of it comes."""
    assert process.stdout is not None
    said, deadline_s = "", time.monotonic() + timeout_s
    while until not in said:
        left_s = deadline_s - time.monotonic()
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, left_s))
        assert ready, f"it said no {until!r}, but:\n{said}"
        more = os.read(process.stdout.fileno(), 65536).decode(errors="replace")
        assert more, f"it ended without {until!r}, and said:\n{said}"
        said += more
    return said


def test_its_own_hog_dies_where_the_machine_is_over_its_line(
    as_user: Callable[..., subprocess.Popen[str]], sleeper: Callable[[], int], tmp_path: Path
) -> None:
    somebody_elses = sleeper()
    config = tmp_path / "own.toml"
    # The line of this machine is put where it is crossed at once.
    config.write_text(
        '[own]\nenabled = true\navailable_min = "100%"\nswap_free_min = "100%"\nwarn = "0%"\n'
    )
    os.chown(config, UID, UID)
    mib = Procfs().meminfo()["MemTotal"] * 6 // 100 // MIB  # who holds less would die for nothing
    if mib > VICTIM_MIB_MAX:
        pytest.skip(f"on so large a machine the victim would have to be {mib} MiB")
    hog = as_user("-S", "-c", HOG, "", str(mib), "100000")
    assert words(hog, "full")
    guard = as_user("-m", "memreap", "guard", "--config", str(config))
    said = words(guard, "back")
    assert "over its line" in said
    assert f"(pid {hog.pid})" in said
    assert hog.wait(5) == -9
    assert Path(f"/proc/{somebody_elses}").exists()
    for lacking in ("oom_score_adj", "SCHED_FIFO"):
        assert f"{lacking}" in said
    guard.terminate()
    assert guard.wait(10) == 0


def test_root_is_told_that_its_own_are_the_whole_machines() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memreap", "guard", "--own"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 2
    assert "--system" in done.stderr


def test_an_ordinary_user_is_told_that_the_system_needs_root(
    as_user: Callable[..., subprocess.Popen[str]],
) -> None:
    guard = as_user("-m", "memreap", "guard", "--system")
    assert "root" in words(guard, "root")
    assert guard.wait(10) == 2


def test_settings_survive_their_way_to_the_core() -> None:
    from memreap.guard.settings import Amount, Hook, Kind, Records, Scope, Settings

    settings = Settings(
        scopes=(Scope(Kind.OWN, "own:1", uid=1, limit=Amount(5)),),
        records=Records(hooks=(Hook("chosen", ("a", "b")),)),
        term_s=1.5,
    )
    assert Settings.from_message(json.loads(json.dumps(settings.as_message()))) == settings
