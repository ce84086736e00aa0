"""One trial: a scenario, a strategy, a seed; and what came of it.

Only what goes into a trial and what comes out lives here. The same job gives the same result, to
the last bit, in any process and on any machine.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """``scenario``: a shipped one's name, or a path. ``strategy``: a name of STRATEGIES."""

    scenario: str
    strategy: str
    seed: int


@dataclass(frozen=True, slots=True)
class NodeResult:
    """The same of one NUMA node. ``relief_s``: since the first stall anywhere."""

    node: str
    relief_s: float | None
    stalled_s: float
    kills: int


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a trial."""

    scenario: str
    strategy: str
    seed: int
    relief_s: float | None  # None: not within HORIZON_S of the first stall
    needless: int  # without them relief would have come within NEEDLESS_S all the same
    needless_strict: int  # while memory of an earlier victim was on its way (mm.oom_kill.kill_next)
    needless_lenient: int  # the same, and not a page of it was back
    kills: int
    stalled_s: float  # summed over all who stalled
    events: int
    trace: str  # a hash of all that happened, in order
    victims: tuple[str, ...]  # in the order they were killed
    nodes: tuple[NodeResult, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)
