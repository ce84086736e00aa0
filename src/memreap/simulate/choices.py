"""Every choice of a run: drawn from a seed, replayed from a list, or shrunk.

Only the one seam lives here. A run is a list of whole numbers, one for each choice in the order in
which they are asked; 0 is the default, the choice in which nothing out of the ordinary happens. So
a run that failed can be had again exactly, and made smaller: shorter, and with more zeros.
"""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
ATTEMPTS_MAX = 400


class Choices:
    """Answers ``choose``. Behind the end of a replayed list, everything is the default."""

    def __init__(self, seed: int | None = None, replay: Sequence[int] = ()) -> None:
        """``seed``: draw at random; without one, replay."""
        self._random = None if seed is None else random.Random(seed)  # noqa: S311 - no secret
        self._replay = list(replay)
        self.made: list[int] = []

    def choose(self, options: int) -> int:
        """A number below ``options``."""
        if self._random is not None:
            made = int(self._random.random() * options)
        elif len(self.made) < len(self._replay):
            made = self._replay[len(self.made)] % options
        else:
            made = 0
        self.made.append(made)
        return made

    def one_in(self, many: int) -> bool:
        """True once in so many times."""
        return self.choose(many) == many - 1

    def pick(self, options: Sequence[T]) -> T:
        """One of these; the first is the default."""
        return options[self.choose(len(options))]


def shrunk(made: Sequence[int], fails: Callable[[list[int]], bool]) -> list[int]:
    """The same failure by fewer choices: the shortest beginning, then zeros, then less.

    ``fails``: whether a run by these choices fails in the same way. It is asked at most
    ATTEMPTS_MAX times.
    """
    attempts = 0

    def still(candidate: list[int]) -> bool:
        nonlocal attempts
        attempts += 1
        return attempts <= ATTEMPTS_MAX and fails(candidate)

    best = _shortest(list(made), still)
    size = max(1, len(best) // 2)
    while True:
        at = 0
        while at < len(best):
            block = best[at : at + size]
            candidate = [*best[:at], *[0] * len(block), *best[at + size :]]
            if any(block) and still(candidate):
                best = candidate
            at += size
        if size == 1:
            break
        size = max(1, size // 2)
    while best and best[-1] == 0:  # the default comes by itself
        best.pop()
    return best


def _shortest(made: list[int], still: Callable[[list[int]], bool]) -> list[int]:
    low, high = 0, len(made)
    while low < high:
        middle = (low + high) // 2
        if still(made[:middle]):
            high = middle
        else:
            low = middle + 1
    return made[:high]
