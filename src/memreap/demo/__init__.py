"""``memreap demo``: SIGKILL alone beside memreap, on victims of its own.

The scenes (what is shown), the measuring (one meter for both sides), the table (how it looks).
The benchmarks measure with the same meter.
"""
