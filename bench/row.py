"""One line of the result: what was measured, on both sides, and what was promised."""

import statistics
from dataclasses import asdict, dataclass, field

from memreap.size import seconds


@dataclass(slots=True)
class Row:
    """Times in seconds, or another unit; a run without a release within the limit is None."""

    what: str
    baseline: str  # what the other side is
    theirs: list[float | None] = field(default_factory=list)
    ours: list[float | None] = field(default_factory=list)
    target: float | None = None  # the highest ratio of medians, ours to theirs
    note: str = ""
    unit: str = "s"

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

    def cells(self) -> list[str]:
        """What, against, theirs, ours, ratio, promised, kept: as they are shown."""
        ratio = "-" if self.ratio is None else f"{self.ratio:.3g}"
        target = "-" if self.target is None else f"{self.target:g}"
        kept = {True: "yes", False: "no", None: "-"}[self.met]
        return [
            self.what,
            self.baseline,
            self._cell(self.theirs),
            self._cell(self.ours),
            ratio,
            target,
            kept,
        ]

    def _cell(self, values: list[float | None]) -> str:
        """Median, and the spread: lowest to highest."""
        middle = median(values)
        known = [value for value in values if value is not None]
        if middle is None:
            return f"never ({len(values)} runs)"
        low, high = self._figure(min(known)), self._figure(max(known))
        return f"{self._figure(middle)} ({low} .. {high})"

    def _figure(self, value: float) -> str:
        return seconds(value) if self.unit == "s" else f"{value:.3g} {self.unit}"

    def as_dict(self) -> dict[str, object]:
        """As JSON."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def median(values: list[float | None]) -> float | None:
    """None where half of the runs or more did not release."""
    known = sorted(value for value in values if value is not None)
    if not known or len(known) * 2 <= len(values):
        return None
    return statistics.median([*known, *[float("inf")] * (len(values) - len(known))])
