"""Addresses of the kernel's as names of its functions. /proc/kallsyms, kernel/kallsyms.c."""

from bisect import bisect_right
from pathlib import Path


class Symbols:
    """All of them; read once, some tenths of a second."""

    def __init__(self, path: str = "/proc/kallsyms") -> None:
        """Without the right to see addresses (kptr_restrict) nothing is known."""
        found: list[tuple[int, str]] = []
        try:
            with Path(path).open(encoding="ascii", errors="replace") as file:
                for line in file:
                    address, _, name = line.split(maxsplit=3)[:3]
                    if address.strip("0"):
                        found.append((int(address, 16), name))
        except (OSError, ValueError):
            found = []
        found.sort()
        self._addresses = [address for address, _ in found]
        self._names = [name for _, name in found]

    def name(self, address: int) -> str:
        """The function that an address lies in; "" where that is not known."""
        at = bisect_right(self._addresses, address) - 1
        return self._names[at] if at >= 0 else ""

    def stack(self, addresses: tuple[int, ...]) -> tuple[str, ...]:
        """A stack as names, innermost first."""
        return tuple(filter(None, map(self.name, addresses)))
