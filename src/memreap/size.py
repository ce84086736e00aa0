"""Bytes and seconds as people write and read them: ``300M`` in, ``286.1 MiB``, ``12 ms`` out.

Sizes are in binary units only.
"""

import re

_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE_MAX = 1 << 63
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
