"""memreap: a process that was killed is not memory that was freed.

The package's own facts live here, and nothing else.
"""

__version__ = "0.1.0"
