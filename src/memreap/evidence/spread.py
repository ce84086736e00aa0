"""How a figure is spread over many cases: median, p99, highest, in little room. Pure.

Any number of cases fits: figures of 256 and more are kept to their eight highest bits, so that a
quantile is right to half a percent. Count, sum and highest are exact.
"""

from typing import Any

BITS = 8


class Spread:
    """Whole numbers that are not negative: nanoseconds, mostly."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.count = self.total = self.highest = 0
        self._counts: dict[int, int] = {}

    def add(self, value: int) -> None:
        """One case more."""
        self.count += 1
        self.total += value
        self.highest = max(self.highest, value)
        drop = value.bit_length() - BITS
        key = value >> drop << drop if drop > 0 else value
        self._counts[key] = self._counts.get(key, 0) + 1

    def quantile(self, share: float) -> int | None:
        """The smallest figure that so large a share of all does not exceed; None of no case."""
        wanted, seen = max(1.0, share * self.count), 0
        for key in sorted(self._counts):
            seen += self._counts[key]
            if seen >= wanted:
                drop = max(0, key.bit_length() - BITS)
                return min(key + (1 << drop >> 1), self.highest)
        return None

    @property
    def median(self) -> int | None:
        """Of all cases."""
        return self.quantile(0.5)

    def as_dict(self, unit: str) -> dict[str, Any]:
        """For JSON. ``unit``: ns, ppm."""
        return {
            "count": self.count,
            f"median_{unit}": self.median,
            f"p99_{unit}": self.quantile(0.99),
            f"max_{unit}": self.highest if self.count else None,
        }
