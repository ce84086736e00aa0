"""What became of one victim; the record that scripts read."""

from dataclasses import asdict, dataclass
from typing import Literal

from memreap.reap.victim import Refused

Kind = Literal["exited", "reaped", "stuck", "refused"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One victim at its end.

    ``exited``: it is gone, and its memory with it. ``reaped``: its memory is back though it still
    hangs. ``stuck``: killed, not released within the time. ``refused``: not killed.
    ``released_bytes`` and how it is known: see ``release``. Seconds count from SIGKILL.
    """

    pid: int
    comm: str
    outcome: Kind
    reason: str
    released_bytes: int = 0
    seconds_to_release: float | None = None
    seconds_to_exit: float | None = None
    attempts: int = 0  # calls of process_mrelease
    sharers: tuple[int, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """In the order and with the names of the contract."""
        fields = asdict(self)
        fields["sharers"] = list(self.sharers)
        for name in ("seconds_to_release", "seconds_to_exit"):
            if fields[name] is not None:
                fields[name] = round(fields[name], 6)
        return fields


def refused(refusal: Refused) -> Outcome:
    """The outcome of a process that was not killed."""
    return Outcome(refusal.pid, refusal.comm, "refused", refusal.reason)
