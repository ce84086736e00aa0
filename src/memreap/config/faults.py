"""Where a value came from, and what is wrong with one."""

from typing import NamedTuple

from memreap.linux.procfs import printable

COMMAND_LINE = "command line"
DEFAULT = "default"
ENVIRONMENT = "environment"
FILE = "file"


class Origin(NamedTuple):
    """One of the four above; of a file with its name and line."""

    kind: str = DEFAULT
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        """As ``memreap config`` writes it beside a value."""
        return f"{printable(self.file)}:{self.line}" if self.kind == FILE else self.kind


class Fault(NamedTuple):
    """One thing that is wrong. ``line`` 0: the whole file; ``key`` "": no key's."""

    file: str  # or COMMAND_LINE, or "" where it is nobody's
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        """``FILE:LINE: KEY: MESSAGE``, on one line whatever a stranger wrote."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return printable(": ".join(part for part in (place, self.key, self.message) if part))


def fault_at(origin: Origin, key: str, message: str) -> Fault:
    """A fault of the value that came from there."""
    file = origin.file if origin.kind == FILE else origin.kind
    return Fault(file, origin.line, key, message)
