"""The search of :mod:`memreap.check.search` once more, compiled; it needs the extra ``fast``.

Only the order in which things happen lives here.

1. Both searches find the same: states with the same numbers, in the same order, each reached
   first from the same one.
2. It is still Python that works out what a component does at a place and a memory, through the
   same memo (:meth:`Space.deltas`) and in the same order. What breaks is so reported at a nearest
   state.
3. A state takes 16 bytes, and 11 to 23 in the table.
4. A state's places must fit into 64 bits. Where they do not, the plain search does the work.
"""

from functools import cache
from importlib import import_module

from memreap.check import search
from memreap.check.model import Model
from memreap.check.search import Exploration, Progress
from memreap.check.space import Space

PLACES_BITS = 64


class UnavailableError(ImportError):
    """What the accelerated search needs is not there."""


@cache
def unavailable() -> str | None:
    """Why it cannot be used here, in a line; None where it can, and then it is loaded."""
    try:
        import_module("memreap.check.arrays")
    except ImportError as error:
        return f"the accelerated search cannot be used ({error}): pip install 'memreap[fast]'"
    return None


def explore(
    model: Model,
    *,
    symmetry: bool = False,
    states_max: int | None = None,
    progress: Progress | None = None,
) -> Exploration:
    """As :func:`memreap.check.search.explore`. Raises UnavailableError."""
    if (why := unavailable()) is not None:
        raise UnavailableError(why)
    from memreap.check.arrays import CHUNK_STEPS, Known, States  # noqa: PLC0415

    space = Space(model, symmetry=symmetry)
    if space.bits > PLACES_BITS:
        return search.explore(model, symmetry=symmetry, states_max=states_max, progress=progress)
    states, known = States(space.initial, space.bits), Known(space)
    found = Exploration(space, states)
    search.begin(found)
    begin, end = 0, 1
    while begin < end:
        if states_max is not None and end >= states_max:
            found.complete = False
            break
        while begin < end:
            until = min(end, begin + max(1, CHUNK_STEPS // max(1, known.fan)))
            known.learn(states, begin, until)
            found.dead_ends += known.advance(states, begin, until)
            begin = until
        end = len(states)
        if progress:
            progress(end)
    found.transitions = int(states.counts[1])
    search.at_dead_ends(found)
    return found
