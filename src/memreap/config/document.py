"""One file's text as tables and lines, or why it is none."""

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memreap.config.faults import COMMAND_LINE, FILE, Fault, Origin
from memreap.config.locate import Lines, Path
from memreap.config.options import Options

KEY_PARTS_MAX = 32
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
# tomllib takes time with the square of a key's parts: refused before it sees them.
_LONG_KEY = re.compile(
    r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+)""" + f"{{{KEY_PARTS_MAX}}}",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Document:
    """``for_all``: only the tables that are meant for the guards of users too are taken."""

    tables: dict[str, Any]
    origin_of: Callable[[Path], Origin]
    for_all: bool = False


def of_options(options: Options) -> Document:
    """The command line, as the file that is read last."""
    return Document(options.as_document(), lambda _: Origin(COMMAND_LINE))


def parse(raw: bytes, file: str, for_all: bool) -> Document | Fault:
    """A file's."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Fault(file, line, "", "not UTF-8")
    long = _LONG_KEY.search(text)
    if long:
        line = text.count("\n", 0, long.start()) + 1
        return Fault(file, line, "", f"a key of more than {KEY_PARTS_MAX} parts")
    try:
        tables = tomllib.loads(text)
        lines = Lines(text)
    except RecursionError:
        return Fault(file, 0, "", "not TOML: nested too deeply")
    except ValueError as error:
        return _fault(file, text, str(error))
    return Document(tables, lambda path: Origin(FILE, file, lines.of(path)), for_all)


def _fault(file: str, text: str, message: str) -> Fault:
    """tomllib's message says where; a number that int() refuses, it does not."""
    place = _PLACE.search(message)
    what = _PLACE.sub("", message)
    if not place:
        return Fault(file, 0, "", f"not TOML: {what}")
    if not place[1]:
        return Fault(file, text.count("\n") + 1, "", f"not TOML: {what} at the end of the file")
    return Fault(file, int(place[1]), "", f"not TOML: {what} (column {place[2]})")
