"""Side by side in one run: SIGKILL alone, memreap, earlyoom. ``python -m bench``, as root.

Each file measures one thing and gives rows; ``__main__`` prints them with the machine.
"""
