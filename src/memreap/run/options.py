"""What a person asked ``memreap run`` for.

Only the options live here, with their defaults; reading them from a command line is not ours.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RunOptions:
    """One run of one command."""

    budget_bytes: int
    command: Sequence[str]
    on_limit: Literal["kill", "kill-tree", "term"] = "kill"
    protect: re.Pattern[str] | None = None  # matched on comm and on the full command line
    patience_s: float = 2.0
    term_s: float = 2.0  # between SIGTERM and SIGKILL, for "term"
    json_path: str | None = None
    quiet: bool = False
    cgroup: Literal["auto", "never"] = "auto"
    wait_tree: bool = False  # wait for every process of the tree, not for the command alone
