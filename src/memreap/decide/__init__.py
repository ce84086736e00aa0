"""Pure decisions: no clock, no I/O, no randomness, and no iteration over a set.

The same events in the same order give the same effects, so every incident can be replayed. This
room imports nothing of ours.
"""
