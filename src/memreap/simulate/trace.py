"""A hash of all that happened, in its order: two runs of one seed must agree on it."""

from hashlib import blake2b
from typing import Any


class Trace:
    """Grows with every step."""

    __slots__ = ("_hash",)

    def __init__(self) -> None:
        """Empty."""
        self._hash = blake2b(digest_size=16)

    def add(self, now_s: float, who: str, what: str, result: Any) -> None:
        """One step."""
        self._hash.update(f"{now_s!r} {who} {what} {result}\n".encode())

    @property
    def digest(self) -> str:
        """Of everything up to now."""
        return self._hash.hexdigest()
