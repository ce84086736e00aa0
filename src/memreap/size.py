"""Bytes as people write and read them: ``300M`` in, ``286 MiB`` out. Binary units only."""

import re

_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?", re.IGNORECASE | re.ASCII)
_DISPLAY = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def parse(text: str) -> int:
    """Bytes of ``512M``, ``1.5G``, ``64KiB``, ``1048576``: every unit a power of 1024.

    Raises ValueError for anything else, and for less than one byte.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _FACTORS[match[2].upper()]) if match else 0
    if size < 1:
        raise ValueError(f"not a size: {text!r} (say 300M, 1.5G or a number of bytes)")
    return size


def show(size_bytes: int) -> str:
    """Three figures and a unit."""
    for unit, factor in _DISPLAY:
        if abs(size_bytes) >= factor:
            value = size_bytes / factor
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return f"{size_bytes} B"
