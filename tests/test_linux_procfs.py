"""/proc is written by strangers: what they write is carried whole, and shown harmlessly."""

import json
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memreap.linux.procfs import Memory, Procfs, parse_memory, parse_stat, printable, text

COMM = st.binary(max_size=15).filter(lambda raw: b"\0" not in raw)
TAIL = b" S 17 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 33 0 98765 1048576 250 18446744073709551615"
HOSTILE = [
    b") R 1 1 1 (",
    b"a b) S 1 (c",
    b"\n\n\t\r",
    b"\xff\xfe\x80",
    b"\x1b[2J\x1b]0;x",
    b"[/]",
    b"\\[/x]",
    b"[bold]x\\",
    b":bomb:",
    "\u202etxt".encode(),
    b"(((",
    b"kB: 1 kB",
]
NAMED = """
import ctypes, os, signal, sys
assert ctypes.CDLL(None).prctl(15, bytes.fromhex(sys.argv[1]), 0, 0, 0) == 0
print("ready", flush=True)
signal.pause()
"""


@given(COMM)
@example(b") R 1 1 1 (")
@example(b"\xff\xfe\n) (")
@example(b"")
def test_any_comm_leaves_the_other_fields_alone(comm: bytes) -> None:
    stat = parse_stat(b"4711 (" + comm + b")" + TAIL + b"\n")
    assert (stat.pid, stat.state, stat.ppid, stat.num_threads) == (4711, "S", 17, 33)
    assert (stat.start_ticks, stat.flags) == (98765, 4194560)
    assert stat.comm.encode("utf-8", "surrogateescape") == comm


@given(st.integers(0, (1 << 32) - 1))
def test_the_kernel_thread_flag_alone_makes_a_kernel_thread(flags: int) -> None:
    raw = b"2 (x)" + TAIL.replace(b"4194560", str(flags).encode())
    assert parse_stat(raw).is_kernel_thread is bool(flags & 0x00200000)


@given(st.binary())
def test_printable_lets_no_control_character_through(raw: bytes) -> None:
    shown = printable(text(raw))
    assert shown.isprintable()
    shown.encode("utf-8")  # no lone surrogate: it can be written


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_printable_changes_nothing_that_is_harmless(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    if name.isprintable():
        assert shown == name


@given(COMM.map(lambda raw: raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")))
@example(b"RssAnon:\t1 kB")
@example(b"9999 kB")
@example(b"\rVmSwap:\t7 kB")
@example(b"Uid:\t5\t5")
def test_memory_is_read_from_the_kernels_lines_not_from_the_name(name: bytes) -> None:
    raw = b"Name:\t" + name + b"\nUmask:\t0022\nUid:\t1\t1000\t1\t1\nVmPTE:\t    4 kB\n"
    raw += b"RssAnon:\t  10 kB\nRssFile:\t  20 kB\nRssShmem:\t  30 kB\nVmSwap:\t  40 kB\n"
    raw += b"HugetlbPages:\t  50 kB\n"
    kib = 1024
    expected = Memory(10 * kib, 20 * kib, 30 * kib, 40 * kib, 4 * kib, 50 * kib, uid=1000)
    assert parse_memory(raw) == expected
    assert expected.rss_bytes == 60 * kib


def test_a_process_without_an_mm_holds_nothing() -> None:
    raw = b"Name:\tkthreadd\nState:\tS (sleeping)\nUid:\t0\t0\t0\t0\nThreads:\t1\n"
    assert parse_memory(raw) == Memory()


@pytest.mark.kernel
@pytest.mark.parametrize("comm", HOSTILE, ids=repr)
def test_a_hostile_name_is_read_whole_and_shown_harmlessly(
    comm: bytes,
    script: Callable[..., subprocess.Popen[str]],
    memreap: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    pid = script(NAMED, comm.hex()).pid
    expected = text(comm)
    stat = Procfs().stat(pid)
    assert (stat.pid, stat.comm, stat.num_threads) == (pid, expected, 1)
    assert Procfs().comm(pid) == expected
    assert Procfs().memory(pid).rss_anon_bytes > 0

    as_json = memreap("kill", "--dry-run", "--json", pid)
    assert (as_json.returncode, as_json.stderr) == (0, "")
    assert as_json.stdout.isascii()
    assert as_json.stdout.count("\n") == 1
    assert json.loads(as_json.stdout)["comm"] == expected

    table = memreap("kill", "--dry-run", pid)
    assert (table.returncode, table.stderr) == (0, "")
    heading, row = table.stdout.splitlines()
    assert heading.split()[:2] == ["PID", "NAME"]
    assert all(line.isprintable() for line in (heading, row))
    assert printable(expected).strip() in row


@pytest.mark.kernel
def test_a_name_that_the_terminal_cannot_write_stops_nothing(
    script: Callable[..., subprocess.Popen[str]],
    memreap: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = memreap("kill", script(NAMED, "é".encode().hex()).pid)
    assert (done.returncode, done.stderr) == (0, "")
