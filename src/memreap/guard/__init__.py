"""The running guard: watches domains, relieves them, cannot be taken hostage, and explains itself.

Three processes: the core decides and acts, the scout reads /proc and may hang, the scribe does all
that is slow. None of them waits for another.
"""
