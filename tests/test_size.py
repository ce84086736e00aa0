"""Sizes as people write and read them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memreap import size

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


@given(
    st.integers(1, 1 << 20),
    st.sampled_from(sorted(UNITS)),
    st.sampled_from(["", "B", "iB", "b", "ib"]),
    st.sampled_from(["", " ", "\t"]),
    st.booleans(),
)
def test_every_unit_is_a_power_of_1024(
    number: int, unit: str, tail: str, gap: str, lower: bool
) -> None:
    shown = unit.lower() if lower else unit
    assert size.parse(f" {number}{gap}{shown}{tail} ") == number * UNITS[unit]


@pytest.mark.parametrize(
    ("text", "expected"), [("1.5G", 3 << 29), ("0.5K", 512), ("1.0", 1), ("300M", 300 << 20)]
)
def test_fractions(text: str, expected: int) -> None:
    assert size.parse(text) == expected


@given(st.integers(1, 1 << 53))
def test_bytes_are_read_exactly(number: int) -> None:
    assert size.parse(str(number)) == number


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "0.1", "-1", "+1", "1e3", "M", "1X", "1MM", "1 M B", "1,5G", "\u0663M"],
)
def test_anything_else_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="not a size") as refusal:
        size.parse(text)
    assert repr(text) in str(refusal.value)


@pytest.mark.parametrize("text", [".5G", "1.G", "0x10", "1M\n2M", "1_000", "nan", "inf"])
def test_what_only_programmers_write_is_refused_too(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        size.parse(text)


@given(st.text(max_size=12))
def test_a_size_is_at_least_a_byte_or_a_value_error(text: str) -> None:
    try:
        assert size.parse(text) >= 1
    except ValueError as error:
        assert "not a size" in str(error)  # noqa: PT017


@pytest.mark.parametrize("digits", [400, 5000])
def test_a_number_that_no_float_or_int_takes_is_a_value_error_too(digits: int) -> None:
    with pytest.raises(ValueError, match="not a size"):
        size.parse("9" * digits)


@given(st.integers(1, (1 << 50) - 1))
def test_shown_is_read_as_nearly_the_same(number: int) -> None:
    shown = size.show(number)
    assert abs(size.parse(shown) - number) <= number * 0.0006 + 1
    assert len(shown) <= len("1.001 KiB")


@given(st.integers(-(1 << 50), -1))
def test_negative_shows_its_sign(number: int) -> None:
    assert size.show(number) == "-" + size.show(-number)


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (286 << 20, "286 MiB"), (3 << 29, "1.5 GiB")],
)
def test_shown(number: int, shown: str) -> None:
    assert size.show(number) == shown
