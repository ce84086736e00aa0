"""Each type of value: what is taken, what is refused, and what is said of it."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memreap.config import values
from memreap.config.keys import KEYS, KEYS_OF, TABLES, Key
from memreap.config.toml import literal
from memreap.config.values import Type
from memreap.guard.settings import Amount

TAKEN: list[tuple[Type, Any, Any]] = [
    (values.FLAG, True, True),
    (values.DURATION, "2s", 2.0),
    (values.DURATION, "500ms", 0.5),
    (values.DURATION, " 1.5 m ", 90.0),
    (values.DURATION, "2min", 120.0),
    (values.DURATION, "1h", 3600.0),
    (values.DURATION, 3, 3.0),
    (values.DURATION, 0.25, 0.25),
    (values.DURATION, 0, 0.0),
    (values.SHARE, "40%", 0.4),
    (values.SHARE, "12.5 %", 0.125),
    (values.SHARE, 0, 0.0),
    (values.SHARE, "100%", 1.0),
    (values.AMOUNT, "5%", Amount(share=0.05)),
    (values.AMOUNT, "400M", Amount(bytes=400 << 20)),
    (values.AMOUNT, 1 << 20, Amount(bytes=1 << 20)),
    (values.UNIT, "nginx.service", "nginx.service"),
    (values.UNIT, "user@*", "user@*"),
    (values.SIZE, "1.5GiB", Amount(bytes=3 << 29)),
    (values.COUNT, 1, 1),
    (values.PID, 2, 2),
    (values.REGEX, r"^a\.b", r"^a\.b"),
    (values.USER, 1000, "1000"),
    (values.USER, "postgres", "postgres"),
    (values.PATH, "", ""),
    (values.PATH, "/x", "/x"),
    (values.LISTEN, "", ""),
    (values.LISTEN, "127.0.0.1:9469", "127.0.0.1:9469"),
    (values.LISTEN, "[::1]:1", "[::1]:1"),
    (values.LISTEN, "localhost:65535", "localhost:65535"),
    (values.ARGV, ["/bin/x", "", "y"], ("/bin/x", "", "y")),
]
REFUSED: list[tuple[Type, Any, str]] = [
    (values.FLAG, 1, "not true or false: 1 (say true or false)"),
    (values.FLAG, "yes", 'not true or false: "yes" (say true or false)'),
    (values.AMOUNT, 5, "not a share or size: 5 (less than 1 MiB: a number alone is bytes)"),
    (values.AMOUNT, "5", 'not a share or size: "5" (less than 1 MiB: a number alone is bytes)'),
    (values.SIZE, "1023k", 'not a size: "1023k" (less than 1 MiB'),
    (values.UNIT, "nginx", 'not a unit: "nginx" (a unit of processes is a .service or a .scope'),
    (values.UNIT, "build.slice", 'not a unit: "build.slice"'),
    (values.DURATION, "5", 'not a duration: "5"'),
    (values.DURATION, "inf", 'not a duration: "inf"'),
    (values.DURATION, "2 weeks", 'not a duration: "2 weeks" (say "2s", "500ms", "1m" or a number'),
    (values.DURATION, -1, "not a duration: -1"),
    (values.DURATION, True, "not a duration: true"),
    (values.DURATION, math.nan, "not a duration: nan"),
    (values.DURATION, math.inf, "not a duration: inf"),
    (values.DURATION, "999h", "not a duration"),
    (values.DURATION_NOT_0, "0s", 'not a duration: "0s" (more than 0)'),
    (values.SHARE, 0.4, "not a share: 0.4"),
    (values.SHARE, False, "not a share: false"),
    (values.SHARE, "101%", 'not a share: "101%" (at most 100%)'),
    (values.SHARE, "40", 'not a share: "40" (say "40%"; 0 turns it off)'),
    (values.AMOUNT, "5 %x", 'not a share or size: "5 %x" (say "5%" or "400M")'),
    (values.AMOUNT, 1.5, "not a share or size: 1.5"),
    (values.AMOUNT, -1, "not a share or size: -1"),
    (values.AMOUNT, {}, "not a share or size: a table"),
    (values.AMOUNT_NOT_0, "0%", "more than 0"),
    (values.SIZE, "5%", "not a size"),
    (values.SIZE, 1 << 63, "not a size: a huge number"),
    (values.COUNT, 0, "not a whole number: 0 (from 1 to 1000000000)"),
    (values.PID, 1, "not a process id: 1 (from 2 to 4194304)"),
    (values.PID, "x", "not a process id"),
    (values.REGEX, "(", 'not a regular expression: "(" (missing ), unterminated subpattern'),
    (values.REGEX, "a{99999999999999}", "not a regular expression"),
    (values.PATTERN, "", "an empty one matches nothing"),
    (values.PATTERN, "a\0b", "holds a NUL"),
    (values.PATTERN, "x" * 4097, "longer than 4096 characters"),
    (values.PATH, "/" + "x" * 4096, "not a path"),
    (values.PATTERN, ["a"], "not a pattern: a list"),
    (values.USER, -1, "not a user: -1"),
    (values.PATH, "x", "must begin with /"),
    (values.PATH, "/x/", "not a path"),
    (values.SOCKET, "/" + "x" * 107, "at most 107 bytes"),
    (values.LISTEN, "9469", "not an address and port"),
    (values.LISTEN, "[::1]:0", "a port is from 1 to 65535"),
    (values.ARGV, [], "not a list of words: a list"),
    (values.ARGV, "/bin/x", "not a list of words"),
    (values.ARGV, ["/bin/x", 1], "not a list of words"),
    (values.ARGV, ["x"], "no PATH is searched"),
    (values.choice("a", "b"), "c", 'not a known word: "c" (say "a" or "b")'),
    (values.FLAG, "x" * 100 + "\x1b", "x" * 60 + '"...'),
    (values.CGROUP, "", "not a text"),
]


@pytest.mark.parametrize(("type_", "raw", "expected"), TAKEN, ids=range(len(TAKEN)))
def test_taken(type_: Type, raw: Any, expected: Any) -> None:
    assert type_.read(raw) == expected


@pytest.mark.parametrize(("type_", "raw", "said"), REFUSED, ids=range(len(REFUSED)))
def test_refused(type_: Type, raw: Any, said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        type_.read(raw)
    message = type_.refusal(raw, refused.value)
    assert said in message
    assert message.isprintable()


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_a_number_too_long_to_be_written_is_refused_too(key: Key) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        key.type.read(10**5000)
    assert "a huge number" in key.type.refusal(10**5000, refused.value)


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.from_regex(r"\A\d{1,30}(\.\d{1,30})? ?(ms|s|%|[KMGTX]i?B?)?\Z")
    | st.datetimes()
    | st.dates()
    | st.times()
)
ANYTHING = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@given(st.sampled_from(KEYS), ANYTHING)
def test_anything_is_read_or_refused_in_words(key: Key, raw: Any) -> None:
    try:
        key.type.read(raw)
    except ValueError as error:
        assert key.type.refusal(raw, error).isprintable()  # noqa: PT017


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_keys_are_sound(key: Key) -> None:
    assert KEYS_OF[key.table][key.name] is key
    assert key.doc.endswith(".")
    assert not (key.required and key.default is not None)
    if key.default is not None:
        key.type.read(key.default)


def test_no_key_stands_twice() -> None:
    assert len({key.path for key in KEYS}) == len(KEYS)
    assert len({table.name for table in TABLES}) == len(TABLES)


@given(st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.text()))
def test_what_is_written_is_read_again(value: Any) -> None:
    import tomllib

    written = literal(value)
    assert written.isprintable()
    assert tomllib.loads(f"x = {written} # y")["x"] == value
