"""How long to sleep until the next look: adaptive polling, as pure arithmetic.

A hog must be caught before usage reaches twice the budget even if it starts right after a look;
a quiet tree must cost next to nothing. Both follow from one bound: nobody touches memory faster
than FASTEST_BYTES_PER_S, so there is no need to look again before that could matter.
"""

FASTEST_BYTES_PER_S = 8e9  # huge pages, zeroed and written by every CPU of a small machine
REACTION_S = 0.015  # from the reading to the SIGKILL: a snapshot of the tree, and three forks
FLOOR_S = 0.001
CEILING_S = 1.0


def interval_s(usage_bytes: int, limit_bytes: int, growth_bytes_per_s: float = 0.0) -> float:
    """Seconds until the next look; shorter when growth was seen.

    Growth that was seen will probably go on: look again half-way to the limit, so that each look
    halves what is left and the crossing is noticed near the limit instead of near twice of it.
    """
    worst_s = (2 * limit_bytes - usage_bytes) / FASTEST_BYTES_PER_S - REACTION_S
    interval = min(worst_s, CEILING_S)
    if growth_bytes_per_s > 0:
        interval = min(interval, (limit_bytes - usage_bytes) / growth_bytes_per_s / 2)
    return max(interval, FLOOR_S)


USUAL_BYTES_PER_S = 2e9  # one process that touches 4 KiB pages as fast as it can, twice over
WATCH_FLOOR_S = 0.002  # while it grows towards its line
REST_FLOOR_S = 0.1  # while it does not, however near the line is
REST_FLOOR_EACH_S = 0.006  # and for each domain that is read beside it


def watch_interval_s(
    usage_bytes: int, limit_bytes: int, growth_bytes_per_s: float = 0.0, crowd: int = 1
) -> float:
    """Seconds until the next look at a line that should be noticed when it is crossed.

    At the latest when the line could have been reached from here at the usual pace, and half-way
    to it when growth was seen; at most once a second. One that does not grow is not looked at more
    often than a guard of so many domains can afford.
    """
    headroom = limit_bytes - usage_bytes
    floor = min(REST_FLOOR_S + REST_FLOOR_EACH_S * crowd, CEILING_S)
    interval = max(min(headroom / USUAL_BYTES_PER_S, CEILING_S), floor)
    if growth_bytes_per_s > 0:
        interval = min(interval, max(headroom / growth_bytes_per_s / 2, WATCH_FLOOR_S))
    return interval
