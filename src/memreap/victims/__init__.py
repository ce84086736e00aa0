"""Processes made to be killed, for the demo, the tests and the benchmarks.

Each kind is hard to kill, or hard to get memory back from, in its own way. Nothing here decides
or measures anything, and nothing here outlives the process that asked for it (a fork bomb: by
20 s at most).

One staged victim is a small tree of processes in a session of its own::

    the caller            stage.py: spawns, waits until ready, clears everything away
      host                host.py: answers the hung file, reaps
        victim            kinds.py: what it does with its memory
          more of them    sharers, the children of a fork bomb
        neighbours      neighbours.py: busy, so that CPU is short

This room imports ``memreap.linux`` and nothing else of ours.
"""

from memreap.victims.stage import Staged, kinds_possible, stage

__all__ = ["Staged", "kinds_possible", "stage"]
