"""Bytes and seconds as people write and read them: ``300M`` in, ``286.1 MiB``, ``12 ms`` out.

Sizes are in binary units only.
"""

import contextlib
import re

_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE_MAX = 1 << 63
MEMORY_MIN_BYTES = 1 << 20  # nothing runs in less: a unit was forgotten
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_SECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|min|m|h)", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?", re.IGNORECASE | re.ASCII)
_DISPLAY = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def parse(text: str) -> int:
    """Bytes of ``512M``, ``1.5G``, ``64KiB``, ``1048576``: every unit a power of 1024.

    Raises ValueError for anything else, and for less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    size = float(match[1]) * _FACTORS[match[2].upper()] if match else 0.0
    if not 1 <= size < SIZE_MAX:
        raise ValueError(f"not a size: {text!r} (say 300M, 1.5G or a number of bytes)")
    return int(size)


def parse_memory(text: str) -> int:
    """The same of what processes are to do with. Raises ValueError for less than 1 MiB."""
    size_bytes = parse(text)
    if size_bytes < MEMORY_MIN_BYTES:
        raise ValueError(f"less than 1 MiB: {text!r}; a number alone is bytes (say 300M, 1.5G)")
    return size_bytes


def parse_seconds(text: str) -> float:
    """Seconds of ``5``, ``0.5``, ``500ms``, ``2s``, ``1m``, ``1min``, ``1h``. Raises ValueError."""
    with contextlib.suppress(ValueError):
        return float(text)
    match = _SECONDS.fullmatch(text.strip())
    if not match:
        raise ValueError(f"not a time: {text!r} (say 5, 500ms or 2m)")
    return float(match[1]) * _UNITS_S[match[2]]


def show(size_bytes: int) -> str:
    """Four figures at most, and a unit."""
    for unit, factor in _DISPLAY:
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.4g} {unit}"
    return f"{size_bytes} B"


def seconds(value_s: float | None) -> str:
    """Three figures at most, and a unit; "-" for a time that never came."""
    if value_s is None:
        return "-"
    return f"{value_s * 1000:.3g} ms" if value_s < 0.9995 else f"{value_s:.3g} s"
