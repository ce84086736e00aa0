"""One line of the result: what was measured, on both sides, and what was promised."""

import statistics
from dataclasses import asdict, dataclass, field


@dataclass(slots=True)
class Row:
    """Times in seconds; a run without a release within the limit is None."""

    what: str
    baseline: str  # what the other side is
    theirs: list[float | None] = field(default_factory=list)
    ours: list[float | None] = field(default_factory=list)
    target: float | None = None  # the highest ratio of medians, ours to theirs
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Of the medians; None where a side has none."""
        theirs, ours = median(self.theirs), median(self.ours)
        return ours / theirs if theirs and ours is not None else None

    @property
    def met(self) -> bool | None:
        """Whether the promise is kept; None where nothing was promised."""
        if self.target is None:
            return None
        ratio = self.ratio
        if ratio is None:  # theirs never released: only ours must
            return median(self.ours) is not None and median(self.theirs) is None
        return ratio <= self.target

    def as_dict(self) -> dict[str, object]:
        """As JSON."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def median(values: list[float | None]) -> float | None:
    """None where half of the runs or more did not release."""
    known = sorted(value for value in values if value is not None)
    if not known or len(known) * 2 <= len(values):
        return None
    return statistics.median([*known, *[float("inf")] * (len(values) - len(known))])
