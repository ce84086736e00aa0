"""Entries arrive as journald reads them, whatever strangers wrote into their values."""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memreap.linux.journal import encode, send

NAME = st.from_regex(r"\A[A-Z][A-Z0-9_]{0,63}\Z")
VALUE = st.binary().map(os.fsdecode)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "journal"))
        end.settimeout(2)
        yield end


def decode(raw: bytes) -> dict[str, str]:
    """As journald does: a line with "=" is text, one without begins a binary value."""
    fields: dict[str, str] = {}
    while raw:
        line, _, rest = raw.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields[name.decode()] = os.fsdecode(value)
        raw = rest
    return fields


@given(st.dictionaries(NAME, VALUE))
def test_any_value_comes_whole(fields: dict[str, str]) -> None:
    assert decode(encode(fields)) == fields


@pytest.mark.parametrize(
    "name", ["", "_PID", "lower", "1ST", "A B", "A=B", "A\n", "Ä", "A" * 65, "MESSAGE\nX"]
)
def test_a_name_that_journald_would_drop(name: str) -> None:
    with pytest.raises(ValueError, match="not a journal field"):
        send({name: "x"})


def test_an_entry_is_sent(journal: socket.socket, nothing_left: None) -> None:
    fields = {"MESSAGE": "two\nlines", "PRIORITY": "4", "COMM": "\udcff=", "EMPTY": ""}
    assert send(fields, journal.getsockname())
    assert decode(journal.recv(65536)) == fields


def test_a_large_entry_goes_in_a_sealed_file(journal: socket.socket, nothing_left: None) -> None:
    fields = {"MESSAGE": "large", "CHOICE": "x\n" * (4 << 20)}
    assert send(fields, journal.getsockname())
    raw, fds, _, _ = socket.recv_fds(journal, 65536, 4)
    assert (raw, len(fds)) == (b"", 1)
    with os.fdopen(fds[0], "r+b", buffering=0) as file:
        wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & wanted == wanted
        file.seek(0)
        assert decode(file.read()) == fields
        with pytest.raises(PermissionError):
            file.write(b"x")


def test_no_journal_or_one_that_reads_nothing(
    journal: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_left: None
) -> None:
    assert not send({"MESSAGE": "x"}, str(tmp_path / "none"))
    monkeypatch.setattr("memreap.linux.journal.TIMEOUT_S", 0.05)
    began_s, sent = time.monotonic(), 0
    while send({"MESSAGE": "x"}, journal.getsockname()):
        sent += 1
        assert sent < 100_000
    assert 0.05 <= time.monotonic() - began_s < 2
    assert not send({"MESSAGE": "x" * (4 << 20)}, journal.getsockname())
