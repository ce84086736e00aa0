"""Pages of the kernel's trace ring buffer, decoded. kernel/trace/ring_buffer.c.

Only bytes and what they mean live here: no file is opened. How a page begins, and what an event is
made of, the kernel tells by the ``header_page`` and ``format`` files of tracefs.
"""

import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_FIELD = re.compile(
    r"field:(?P<type>.*?)\s*(?P<name>\w+)(?P<array>\[[^\]]*\])?;\s*"
    r"offset:(?P<offset>\d+);\s*size:(?P<size>\d+);(?:\s*signed:(?P<signed>\d);)?"
)
_CODES = {1: "b", 2: "h", 4: "i", 8: "q"}
_LITTLE = sys.byteorder == "little"
# enum ring_buffer_type: a length of 1 to 28 words is told in the header itself.
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
TS_SHIFT = 27
COMMIT_MASK = (1 << TS_SHIFT) - 1  # above it: RB_MISSED_EVENTS, RB_MISSED_STORED
_WORD = struct.Struct("=I")
# What every event begins with: its type, flags, preempt_count, pid (the thread's).
COMMON = struct.Struct("=HBBi")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an event. ``code``: of struct(3); "" for text."""

    name: str
    offset: int
    size: int
    code: str
    dynamic: bool = False  # the text lies elsewhere in the record: its place is told here
    words: int = 0  # so many numbers of the machine's size, or as many as a field ``size`` says


@dataclass(frozen=True, slots=True)
class Format:
    """What one kind of event is made of: its ``format`` file."""

    id: int
    name: str
    fields: tuple[Field, ...]
    _fixed: struct.Struct = field(compare=False)
    _names: tuple[str, ...] = field(compare=False)

    @classmethod
    def parse(cls, text: str) -> "Format":
        """``text``: the file. Raises ValueError where it is none."""
        name, number = re.search(r"^name: (\S+)", text), re.search(r"^ID: (\d+)", text, re.M)
        if name is None or number is None:
            raise ValueError("not the format of a trace event")
        fields = tuple(_field(match) for match in _FIELD.finditer(text))
        own = tuple(f for f in fields if not f.name.startswith("common_"))
        fixed = [f for f in own if f.code]
        return cls(int(number[1]), name[1], own, _struct(fixed), tuple(f.name for f in fixed))

    def values(self, page: bytes, at: int) -> dict[str, Any]:
        """The fields of the record that begins at ``at``."""
        found: dict[str, Any] = dict(
            zip(self._names, self._fixed.unpack_from(page, at), strict=True)
        )
        for one in self.fields:
            if one.words:
                many = found.get("size", one.words)
                found[one.name] = struct.unpack_from(f"={many}Q", page, at + one.offset)
            elif one.dynamic:
                place = _WORD.unpack_from(page, at + one.offset)[0]
                start, size = at + (place & 0xFFFF), place >> 16
                found[one.name] = _text(page[start : start + size])
            elif not one.code:
                found[one.name] = _text(page[at + one.offset : at + one.offset + one.size])
        return found


def _field(match: re.Match[str]) -> Field:
    size, kind = int(match["size"]), match["type"]
    dynamic = "__data_loc" in kind
    code = "" if dynamic or match["array"] or "[" in kind else _CODES.get(size, "")
    if code and match["signed"] == "0":
        code = code.upper()
    words = size // 8 if kind == "unsigned long" and match["array"] else 0
    return Field(match["name"], int(match["offset"]), size, code, dynamic, words)


def _struct(fields: list[Field]) -> struct.Struct:
    """All numbers of a record at once."""
    code, at = "=", 0
    for one in sorted(fields, key=lambda f: f.offset):
        code += f"{one.offset - at}x{one.code}"
        at = one.offset + one.size
    return struct.Struct(code)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode(errors="replace")


@dataclass(frozen=True, slots=True)
class PageHeader:
    """How a page begins: its ``header_page`` file."""

    commit: Field
    data_offset: int
    page_bytes: int

    @classmethod
    def parse(cls, text: str) -> "PageHeader":
        """``text``: the file. Raises ValueError where it is none."""
        fields = {m["name"]: _field(m) for m in _FIELD.finditer(text)}
        if "commit" not in fields or "data" not in fields:
            raise ValueError("not the header of a trace page")
        data = fields["data"]
        return cls(fields["commit"], data.offset, data.offset + data.size)

    def records(self, page: bytes) -> Iterator[tuple[int, int]]:
        """(time in ns by the trace's clock, where the record begins) of every event of a page."""
        time_ns = struct.unpack_from("=Q", page)[0]
        at = self.data_offset
        committed = struct.unpack_from(f"={self.commit.code.upper()}", page, self.commit.offset)[0]
        end = at + (committed & COMMIT_MASK)
        unpack = _WORD.unpack_from
        while at < end:
            word = unpack(page, at)[0]
            kind, delta = (word & 31, word >> 5) if _LITTLE else (word >> 27, word & COMMIT_MASK)
            if kind == 0:  # longer than what the header can tell: the length comes first
                time_ns += delta
                yield time_ns, at + 8
                at += 4 + unpack(page, at + 4)[0]
            elif kind < PADDING:
                time_ns += delta
                yield time_ns, at + 4
                at += 4 + 4 * kind
            elif kind == PADDING:
                if delta == 0:  # nothing more on this page
                    return
                time_ns += delta
                at += 4 + unpack(page, at + 4)[0]
            elif kind == TIME_EXTEND:
                time_ns += delta + (unpack(page, at + 4)[0] << TS_SHIFT)
                at += 8
            else:  # absolute, but for its five highest bits, which are those of the page's
                stamp = delta + (unpack(page, at + 4)[0] << TS_SHIFT)
                time_ns = (time_ns & ~((1 << 59) - 1)) | stamp
                at += 8
