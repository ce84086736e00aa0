"""The types of values: how each is read from TOML, and what to say where it is none."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memreap import size
from memreap.config.toml import literal
from memreap.guard.settings import Amount

SHOWN_CHARACTERS = 60
TEXT_CHARACTERS_MAX = 4096  # PATH_MAX; and what a regular expression may cost
SECONDS_MAX = 1e6
SOCKET_PATH_BYTES_MAX = 107  # sun_path, less its end. unix(7)
PID_MAX = 1 << 22  # PID_MAX_LIMIT, include/linux/threads.h
PORT_MAX = 65535

_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)\s*%", re.ASCII)
_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Type:
    """``read`` returns what Settings hold, and raises ValueError, whose text, if any, says why."""

    name: str  # with its article
    say: str  # examples of the right thing
    read: Callable[[Any], Any]

    def refusal(self, raw: Any, error: ValueError) -> str:
        """Why this is no such value, and what would be."""
        return f"not {self.name}: {shown(raw)} ({str(error) or 'say ' + self.say})"


def shown(raw: Any) -> str:
    """A value of any type, in a few words."""
    if isinstance(raw, dict):
        return "a table"
    if isinstance(raw, list):
        return "a list"
    if isinstance(raw, str):
        cut = raw[:SHOWN_CHARACTERS]
        return literal(cut) + ("..." if cut != raw else "")
    if isinstance(raw, int) and abs(raw) >= size.SIZE_MAX:  # str() refuses the very long
        return "a huge number"
    return literal(raw) if isinstance(raw, (bool, int, float)) else str(raw)


def _flag(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError
    return raw


def _number(raw: Any) -> float:
    """As a float; nan and the infinities are none."""
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not abs(raw) <= size.SIZE_MAX:
        raise ValueError
    return float(raw)


def _seconds(raw: Any) -> float:
    if isinstance(raw, str):
        if not raw.strip()[-1:].isalpha():  # a number is written as one
            raise ValueError
        try:
            raw = size.parse_seconds(raw)
        except ValueError:
            raise ValueError from None
    seconds = _number(raw)
    if seconds < 0:
        raise ValueError
    if seconds > SECONDS_MAX:
        raise ValueError("at most 1000000 seconds")
    return seconds


def _seconds_not_0(raw: Any) -> float:
    seconds = _seconds(raw)
    if not seconds:
        raise ValueError("more than 0")
    return seconds


def _share(raw: Any) -> float:
    if isinstance(raw, (int, float)) and not isinstance(raw, bool) and raw == 0:
        return 0.0
    match = _SHARE.fullmatch(raw.strip()) if isinstance(raw, str) else None
    if not match:
        raise ValueError
    percent = float(match[1])
    if percent > 100:
        raise ValueError("at most 100%")
    return percent / 100


def _bytes(raw: Any) -> Amount:
    if isinstance(raw, str):
        try:
            raw = size.parse(raw)
        except ValueError:
            raise ValueError from None
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw < size.SIZE_MAX:
        raise ValueError
    if raw < size.MEMORY_MIN_BYTES:
        raise ValueError("less than 1 MiB: a number alone is bytes")
    return Amount(bytes=raw)


def _amount(raw: Any) -> Amount:
    if isinstance(raw, str) and raw.strip().endswith("%"):
        return Amount(share=_share(raw))
    return _bytes(raw)


def _amount_not_0(raw: Any) -> Amount:
    amount = _amount(raw)
    if amount.share == 0:
        raise ValueError("more than 0")
    return amount


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(raw: Any) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int):
            raise ValueError
        if not least <= raw <= most:
            raise ValueError(f"from {least} to {most}")
        return raw

    return read


def _text(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError
    if not raw:
        raise ValueError("an empty one matches nothing; leave it out")
    if "\0" in raw:
        raise ValueError("holds a NUL")
    if len(raw) > TEXT_CHARACTERS_MAX:
        raise ValueError(f"longer than {TEXT_CHARACTERS_MAX} characters")
    return raw


def _unit(raw: Any) -> str:
    text = _text(raw)
    if not text.endswith((".service", ".scope")) and not set("*?[").intersection(text):
        raise ValueError(f"a unit of processes is a .service or a .scope: {literal(text)} is none")
    return text


def _regex(raw: Any) -> str:
    text = _text(raw)
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error) or "too deep") from None
    return text


def _user(raw: Any) -> str:
    if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw < 1 << 32:
        return str(raw)
    return _text(raw)


def _file(raw: Any) -> str:
    if not isinstance(raw, str):
        raise ValueError
    if raw and not raw.startswith("/"):
        raise ValueError("must begin with /")
    if "\0" in raw or raw.endswith("/") or len(raw) > TEXT_CHARACTERS_MAX:
        raise ValueError
    return raw


def _socket(raw: Any) -> str:
    path = _file(raw)
    if len(path.encode(errors="surrogateescape")) > SOCKET_PATH_BYTES_MAX:
        raise ValueError(f"a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes")
    return path


def _listen(raw: Any) -> str:
    if raw == "":
        return ""
    match = _LISTEN.fullmatch(raw) if isinstance(raw, str) else None
    if not match:
        raise ValueError
    if not 1 <= int(match[2]) <= PORT_MAX:
        raise ValueError(f"a port is from 1 to {PORT_MAX}")
    return match[0]


def _argv(raw: Any) -> tuple[str, ...]:
    if not isinstance(raw, list) or not raw or not all(isinstance(word, str) for word in raw):
        raise ValueError
    if any("\0" in word for word in raw):
        raise ValueError("holds a NUL")
    if not raw[0].startswith("/"):
        raise ValueError("the program must begin with /: no PATH is searched")
    return tuple(raw)


def choice(*names: str) -> Type:
    """One of several words."""

    def read(raw: Any) -> str:
        if not isinstance(raw, str) or raw not in names:
            raise ValueError
        return raw

    return Type("a known word", " or ".join(f'"{name}"' for name in names), read)


FLAG = Type("true or false", "true or false", _flag)
DURATION = Type("a duration", '"2s", "500ms", "1m" or a number of seconds', _seconds)
DURATION_NOT_0 = Type("a duration", DURATION.say, _seconds_not_0)
SHARE = Type("a share", '"40%"; 0 turns it off', _share)
AMOUNT = Type("a share or size", '"5%" or "400M"', _amount)
AMOUNT_NOT_0 = Type("a share or size", '"95%" or "2G"', _amount_not_0)
SIZE = Type("a size", '"300M", "1.5G" or a number of bytes', _bytes)
COUNT = Type("a whole number", "1000", _whole(1, 10**9))
PID = Type("a process id", "4711; 1 is the whole system", _whole(2, PID_MAX))
CGROUP = Type("a text", '"/build.slice"', _text)
PATTERN = Type("a pattern", '"postgres" or "postgres*"', _text)
UNIT = Type("a unit", '"nginx.service" or "user@*.service"', _unit)
REGEX = Type("a regular expression", "'^/usr/bin/python3 .*train'", _regex)
USER = Type("a user", '"postgres" or 1000', _user)
PATH = Type("a path", '"/var/lib/memreap/incidents.db"; "" is nowhere', _file)
SOCKET = Type("a path", '"/run/memreap/guard.sock"; "" is nowhere', _socket)
LISTEN = Type("an address and port", '"127.0.0.1:9469"; "" is nowhere', _listen)
ARGV = Type("a list of words", '["/usr/bin/logger", "-t", "memreap"]', _argv)
