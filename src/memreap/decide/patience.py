"""When to stop waiting for a victim.

Only the notion of progress lives here: a figure that falls below the lowest seen so far. One that
merely swings, or trickles, makes none; so waiting always ends.
"""

from dataclasses import dataclass, replace

# Less than this within a whole patience is no relief, however steadily it comes.
STEP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Patience:
    """The lowest figures seen, and since when nothing has fallen below them."""

    since_s: float
    usage_bytes: int
    victim_bytes: int | None = None

    def observe(self, now_s: float, usage_bytes: int, victim_bytes: int | None) -> "Patience":
        """Take one more reading. Either figure's fall is progress.

        The victim's own counts beside the domain's: while it shrinks, another may grow.
        """
        if self.victim_bytes is None and victim_bytes is not None:
            return replace(self, victim_bytes=victim_bytes).observe(now_s, usage_bytes, None)
        usage_fell = usage_bytes <= self.usage_bytes - STEP_BYTES
        victim_fell = (
            victim_bytes is not None
            and self.victim_bytes is not None
            and victim_bytes <= self.victim_bytes - STEP_BYTES
        )
        if not usage_fell and not victim_fell:
            return self
        return Patience(
            since_s=now_s,
            usage_bytes=usage_bytes if usage_fell else self.usage_bytes,
            victim_bytes=victim_bytes if victim_fell else self.victim_bytes,
        )

    def ends_s(self, patience_s: float) -> float:
        """When it is exhausted, if nothing moves until then."""
        return self.since_s + patience_s
