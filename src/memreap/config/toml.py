"""TOML as it is written; tomllib reads it."""

from collections.abc import Sequence

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}

Value = bool | int | float | str | Sequence[str]


def literal(value: Value) -> str:
    """One value on one line, fit for a terminal: what is not printable is escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return '"' + "".join(map(_character, value)) + '"'
    return "[" + ", ".join(map(literal, value)) + "]"


def _character(c: str) -> str:
    if c in _ESCAPES:
        return _ESCAPES[c]
    if c.isprintable():
        return c
    if "\ud800" <= c <= "\udfff":  # a byte that is no text: TOML has no way to write it
        return "\ufffd"
    return f"\\u{ord(c):04x}" if ord(c) <= 0xFFFF else f"\\U{ord(c):08x}"
