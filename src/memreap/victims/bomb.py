"""A fork bomb with a short fuse: it keeps itself at full strength, for 20 s and no longer.

Only the bomb lives here. Its members are alike and independent: any one of them that is left
breeds all the others anew, so a killer has to get all of them. What bounds it is a fixed number
of places, and a deadline that all members share.

A place is a socket bound to a name of its own: handed on by fork, and given back by the kernel
however its holder ends.
"""

import os
import random
import socket
import time
from typing import NoReturn

from memreap.victims.scene import Scene, hold, touch

MEMBERS_MAX = 50
BOMB_LIFE_S = 20.0
MEMBER_LIFE_S = 2.0  # then another takes its place: a list of pids does not stay true for long
TICK_S = 0.02


def fork_bomb(scene: Scene) -> NoReturn:
    """The first member is the one reported, and lives until the deadline."""
    bomb = os.getpid()
    deadline = end = time.monotonic() + BOMB_LIFE_S
    place = _take_place(bomb, 0)
    memory = hold(max(scene.order.size_bytes // MEMBERS_MAX, 1), scene.order.huge)
    scene.report()
    while time.monotonic() < end:
        time.sleep(TICK_S)
        _reap()
        # One place a tick, at random: cheap with all places taken, and still refilled at once.
        free = _take_place(bomb, random.randrange(MEMBERS_MAX))  # noqa: S311
        if free is None:
            continue
        if os.fork() == 0:
            place, free = free, place
            touch(memory)
            end = min(deadline, time.monotonic() + random.uniform(0.5, 1.5) * MEMBER_LIFE_S)  # noqa: S311
        if free is not None:
            free.close()
    os._exit(0)


def _take_place(bomb: int, number: int) -> socket.socket | None:
    """The place, or None while someone else has it. unix(7), abstract names."""
    place = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        place.bind(f"\0memreap-fork-bomb-{bomb}-{number}")
    except OSError:
        place.close()
        return None
    return place


def _reap() -> None:
    """Take leave of the children that have ended; the host has those of members that have."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
