"""Who was killed, when and by whom: SIGKILL and SIGTERM as the kernel's tracepoints saw them.

An instance of its own in tracefs, on CLOCK_MONOTONIC. signal:signal_generate tells of each signal,
whoever sent it, the kernel included; oom:mark_victim of those whom the kernel's OOM killer chose.
"""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

TRACEFS = Path("/sys/kernel/tracing")
BUFFER_KIB = 512  # a CPU; some thousand signals
NAMES_KEPT = 4096  # of senders
SI_KERNEL = 0x80  # asm-generic/siginfo.h
DELIVERED, IGNORED = 0, 1  # TRACE_SIGNAL_*, trace/events/signal.h
_SIGNAL = re.compile(
    r"^\s*(?P<by>.+)-(?P<by_pid>\d+)\s+\[\d+\]\s+\S+\s+(?P<at>\d+\.\d+): signal_generate: "
    r"sig=(?P<signal>\d+) errno=-?\d+ code=(?P<code>-?\d+) comm=(?P<comm>.*) pid=(?P<pid>\d+) "
    r"grp=\d+ res=(?P<result>\d+)\s*$"
)
_MARK = re.compile(r"\s(?P<at>\d+\.\d+): mark_victim: pid=(?P<pid>\d+)")


@dataclass(frozen=True)
class Signal:
    """One SIGKILL or SIGTERM."""

    at_s: float  # CLOCK_MONOTONIC
    signal: int
    pid: int
    comm: str
    by: str  # who ran when it was sent: a daemon, or whoever asked the kernel for memory
    by_pid: int
    by_kernel: bool
    result: int  # TRACE_SIGNAL_*

    def as_dict(self) -> dict[str, object]:
        """For a record."""
        return asdict(self)


def parse(trace: str) -> list[Signal]:
    """Every signal in the text of a trace, in order."""
    found = []
    for line in trace.splitlines():
        match = _SIGNAL.match(line)
        if match:
            found.append(
                Signal(
                    at_s=float(match["at"]),
                    signal=int(match["signal"]),
                    pid=int(match["pid"]),
                    comm=match["comm"],
                    by=match["by"].strip(),
                    by_pid=int(match["by_pid"]),
                    by_kernel=int(match["code"]) == SI_KERNEL,
                    result=int(match["result"]),
                )
            )
    return sorted(found, key=lambda each: each.at_s)


def parse_marks(trace: str) -> list[tuple[float, int]]:
    """(when, pid) of those whom the kernel's OOM killer marked."""
    return [(float(m["at"]), int(m["pid"])) for m in _MARK.finditer(trace)]


class Recorder:
    """Traces while a run lasts."""

    def __init__(self, name: str) -> None:
        """Begin. Raises OSError without tracefs."""
        (TRACEFS / "saved_cmdlines_size").write_text(str(NAMES_KEPT))
        self._instance = TRACEFS / "instances" / name
        self._instance.mkdir(exist_ok=True)
        (self._instance / "trace_clock").write_text("mono")
        (self._instance / "buffer_size_kb").write_text(str(BUFFER_KIB))
        events = self._instance / "events"
        (events / "signal/signal_generate/filter").write_text("sig == 9 || sig == 15")
        for event in ("signal/signal_generate", "oom/mark_victim"):
            (events / event / "enable").write_text("1")

    def clear(self) -> None:
        """Forget what was seen."""
        (self._instance / "trace").write_text("")

    def text(self) -> str:
        """All that was seen since."""
        return (self._instance / "trace").read_text(errors="replace")
