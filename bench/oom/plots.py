"""docs/peers-*.svg: every run a dot, a workload a panel, by matplotlib."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.oom import verdict
from bench.oom.daemons import DAEMONS
from bench.oom.verdict import Verdict
from bench.oom.workloads import WORKLOADS

COLUMNS = 3
HUES = {
    "kernel": "#3d434a",
    "memreap": "#c2410c",
    "earlyoom": "#2a6fdb",
    "nohang": "#2e8b57",
    "systemd-oomd": "#7c4dcc",
    "oomd": "#8a6a00",
}
LEAST_S = 0.01  # where the axis begins; what is less stands there
NEVER_FACTOR = 2.5  # to the right of the longest
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "memreap",
    "font.family": "sans-serif",
    "font.size": 8,
}


@dataclass(frozen=True)
class Drawing:
    """One file."""

    name: str
    says: str
    of: Callable[[Verdict], float | None]


DRAWINGS = (
    Drawing(
        "peers-back",
        "From the line being crossed to memory back, seconds. Hollow: defaults; full: tuned.",
        lambda each: each.back_s,
    ),
    Drawing(
        "peers-frozen",
        "The longest standstill from the line on, seconds. Hollow: defaults; full: tuned.",
        lambda each: each.frozen_s,
    ),
)


@dataclass(frozen=True)
class Dot:
    """One run."""

    daemon: str
    is_tuned: bool
    value_s: float | None


def write(runs: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """All drawings; what was written. Raises OSError."""
    written = []
    for drawing in DRAWINGS:
        panels = dots(runs, drawing.of)
        if panels:
            path = folder / f"{drawing.name}.svg"
            _draw(panels, drawing, path)
            written.append(path)
    return written


def dots(
    runs: Sequence[dict[str, Any]], of: Callable[[Verdict], float | None]
) -> dict[str, list[Dot]]:
    """Of each workload that was run."""
    panels: dict[str, list[Dot]] = {}
    for name in WORKLOADS:
        found = [
            Dot(record["daemon"], record["setting"] == "tuned", of(verdict.judge(record)))
            for record in runs
            if record["workload"] == name and record["why_ended"] != verdict.NOT_STARTED
        ]
        if found:
            panels[name] = found
    return panels


def _draw(panels: dict[str, list[Dot]], drawing: Drawing, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    values = [d.value_s for panel in panels.values() for d in panel if d.value_s is not None]
    never_s = max([*values, 1.0]) * NEVER_FACTOR
    lines = -(-len(panels) // COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * COLUMNS, 1.75 * lines + 0.7), facecolor="#ffffff")
        grid = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True)
        figure.suptitle(drawing.says, x=0.01, ha="left", fontsize=9)
        for number, axes in enumerate(grid.flat):
            if number >= len(panels):
                axes.set_axis_off()
                continue
            name = list(panels)[number]
            _panel(axes, WORKLOADS[name].what.replace("`", ""), panels[name], never_s)
        figure.tight_layout(rect=(0, 0, 1, 0.97))
        figure.savefig(path, format="svg", metadata={"Date": None})


def _panel(axes: Any, title: str, found: Sequence[Dot], never_s: float) -> None:
    axes.set_title(title, pad=11, fontsize=8, loc="left")
    axes.set_xscale("log")
    axes.set_xlim(LEAST_S * 0.8, never_s * 1.3)
    names = list(DAEMONS)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(never_s, color="#d0d0cc", lw=6, zorder=0)
    axes.grid(axis="x", color="#ecece8", lw=0.8)
    axes.set_axisbelow(True)
    axes.text(never_s, -0.7, "never", ha="center", va="bottom", fontsize=6.5, color="#555b62")
    for dot in found:
        value_s = never_s if dot.value_s is None else max(dot.value_s, LEAST_S)
        hue = HUES[dot.daemon]
        axes.scatter(
            [value_s],
            [names.index(dot.daemon) + (0.16 if dot.is_tuned else -0.16)],
            s=18,
            facecolor=hue if dot.is_tuned else "#ffffff",
            edgecolor=hue,
            linewidth=1,
            zorder=3,
        )
