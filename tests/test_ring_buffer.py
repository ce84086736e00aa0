"""Pages of the trace ring buffer: what was written comes out, at the time at which it was."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from memreap.linux.ring_buffer import COMMON, Format, PageHeader

HEADER_PAGE = """\
\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
"""
COMMON_FIELDS = """\
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;
"""
MARK_VICTIM = f"""\
name: mark_victim
ID: 609
format:
{COMMON_FIELDS}
\tfield:int pid;\toffset:8;\tsize:4;\tsigned:1;
\tfield:__data_loc char[] comm;\toffset:12;\tsize:4;\tsigned:0;
\tfield:unsigned long total_vm;\toffset:16;\tsize:8;\tsigned:0;
\tfield:short oom_score_adj;\toffset:24;\tsize:2;\tsigned:1;

print fmt: "pid=%d", REC->pid
"""
UPDATE = f"""\
name: oom_score_adj_update
ID: 611
format:
{COMMON_FIELDS}
\tfield:pid_t pid;\toffset:8;\tsize:4;\tsigned:1;
\tfield:char comm[16];\toffset:12;\tsize:16;\tsigned:0;
\tfield:short oom_score_adj;\toffset:28;\tsize:2;\tsigned:1;
"""
STACK = f"""\
name: kernel_stack
ID: 4
format:
{COMMON_FIELDS}
\tfield:int size;\toffset:8;\tsize:4;\tsigned:1;
\tfield:unsigned long caller[8];\toffset:16;\tsize:64;\tsigned:0;
"""
HEADER = PageHeader.parse(HEADER_PAGE)


def word(kind: int, delta: int) -> bytes:
    return struct.pack("=I", kind | delta << 5)


def page(time_ns: int, data: bytes) -> bytes:
    assert len(data) <= 4080
    return struct.pack("=QQ", time_ns, len(data)) + data.ljust(4080, b"\xee")


def record(delta: int, payload: bytes) -> bytes:
    """As the kernel writes it: short ones tell their length in the header's type."""
    padded = payload + b"\0" * (-len(payload) % 4)
    if len(padded) // 4 <= 28:
        return word(len(padded) // 4, delta) + padded
    return word(0, delta) + struct.pack("=I", len(padded) + 4) + padded


@given(
    st.integers(0, 1 << 62),
    st.lists(
        st.tuples(st.integers(0, (1 << 40) - 1), st.binary(min_size=4, max_size=150)), max_size=12
    ),
)
def test_records_come_out_as_they_went_in(begin_ns: int, written: list[tuple[int, bytes]]) -> None:
    data, expected, now_ns = b"", [], begin_ns
    for after_ns, payload in written:
        now_ns += after_ns
        extend, delta = after_ns >> 27, after_ns & ((1 << 27) - 1)
        if extend:
            data += word(30, 0) + struct.pack("=I", extend)
        data += record(delta, payload)
        expected.append((now_ns, payload))
    made = page(begin_ns, data)
    found = [
        (at_ns, made[at : at + len(p)])
        for (at_ns, at), (_, p) in zip(HEADER.records(made), written, strict=True)
    ]
    assert found == expected


def test_what_lies_behind_the_commit_and_what_was_discarded_is_no_event() -> None:
    discarded = word(29, 5) + struct.pack("=I", 12) + b"\0" * 8  # its length without the header
    data = record(10, b"abcd") + discarded + record(1, b"efgh") + word(29, 0) + b"\0" * 8
    made = page(1000, data)
    assert [(ns, made[at : at + 4]) for ns, at in HEADER.records(made)] == [
        (1010, b"abcd"),
        (1016, b"efgh"),
    ]


def test_an_absolute_time_keeps_the_highest_bits_of_the_page() -> None:
    begin_ns = (3 << 59) + 7
    stamp = (1 << 58) + 12345
    data = word(31, stamp & ((1 << 27) - 1)) + struct.pack("=I", stamp >> 27) + record(1, b"abcd")
    assert [ns for ns, _ in HEADER.records(page(begin_ns, data))] == [(3 << 59) + stamp + 1]


def test_missed_events_are_no_part_of_the_length() -> None:
    data = record(0, b"abcd")
    made = struct.pack("=QQ", 0, len(data) | 1 << 31 | 1 << 30) + data.ljust(4080, b"\0")
    assert len(list(HEADER.records(made))) == 1


def test_numbers_and_texts_of_a_format() -> None:
    form = Format.parse(MARK_VICTIM)
    comm = b"b\xc3\xb6se\0"
    raw = COMMON.pack(609, 0, 0, 1) + struct.pack("=iIQh", -5, 32 | len(comm) << 16, 1 << 63, -1000)
    raw = raw.ljust(32, b"\0") + comm
    assert (form.id, form.name) == (609, "mark_victim")
    assert form.values(b"??" + raw, 2) == {
        "pid": -5,
        "comm": "böse",
        "total_vm": 1 << 63,
        "oom_score_adj": -1000,
    }


def test_a_text_of_fixed_length_and_a_list_of_addresses() -> None:
    raw = COMMON.pack(611, 0, 0, 1) + struct.pack("=i16sh", 7, b"hog\0garbage", 500)
    assert Format.parse(UPDATE).values(raw, 0) == {"pid": 7, "comm": "hog", "oom_score_adj": 500}
    raw = COMMON.pack(4, 1, 2, 9) + struct.pack("=i4x3Q", 2, 10, 20, 99)
    assert Format.parse(STACK).values(raw, 0) == {"size": 2, "caller": (10, 20)}
