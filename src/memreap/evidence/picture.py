"""A timeline as a picture: a lane for the exit, one for each reaper, and the memory below them.

Drawn by matplotlib, an extra, loaded when a picture is asked for. Only how it looks lives here.
"""

import io
from importlib.util import find_spec
from typing import Any

from memreap.evidence.timeline import EXIT, WAITED_S, Hold, Timeline

INK, SOFT, GRID, PAPER = "#1d2023", "#555b62", "#ecece8", "#ffffff"
HUES = ("#2a6fdb", "#c2410c", "#2e8b57", "#7c4dcc", "#8a6a00", "#b83280")
WAITING, WRITING = "#d9a441", "#3d434a"
STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "memreap", "font.family": "sans-serif"}
UNITS = ((1.0, 1.0, "s"), (1e-3, 1e3, "ms"), (0.0, 1e6, "us"))
LANE, BAR = 1.0, 0.56
MIB = 1 << 20
LEAST_SHARE = 0.002  # of the width: what is shorter would not be seen


class NoPictureError(RuntimeError):
    """matplotlib is not here."""


def check() -> None:
    """Raises NoPictureError, before anybody is killed for it."""
    if find_spec("matplotlib") is None:
        raise NoPictureError("--svg and --html need matplotlib: pip install 'memreap[plots]'")


def svg(timeline: Timeline, title: str) -> str:
    """The picture, as an SVG document."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    sheet = _Sheet(timeline)
    with mpl.rc_context(STYLE):
        high = 0.42 * len(sheet.lanes)
        figure = Figure(figsize=(9.6, 3.1 + high), facecolor=PAPER)
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(0.5 + high, 1.9))
        sheet.draw_lanes(above)
        sheet.draw_memory(below)
        _draw_legend(above)
        above.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=16)
        figure.tight_layout(h_pad=0.4)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def _draw_legend(axes: Any) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415

    told = ((HUES[0], "mmap_lock for reading"), (WRITING, "for writing"), (WAITING, "waits for it"))
    axes.legend(
        handles=[Patch(color=colour, label=what) for colour, what in told],
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=len(told),
        fontsize=7,
        frameon=False,
        handlelength=1.2,
        labelcolor=SOFT,
    )


class _Sheet:
    """A timeline, in the unit that suits it."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self.lanes = _lanes(timeline)
        hues = HUES * (1 + len(self.lanes) // len(HUES))
        self._hues = dict(zip(self.lanes, hues, strict=False))
        self._end_s = _end_s(timeline)
        _, self._scale, self._unit = next(one for one in UNITS if self._end_s >= one[0])

    def draw_lanes(self, axes: Any) -> None:
        """Who held and who waited for the lock, and when."""
        for hold in self._timeline.holds:
            if hold.who in self.lanes:
                self._draw_hold(axes, hold)
        for who, at_s, what in _marks(self._timeline):
            self._draw_mark(axes, who, at_s, what)
        if self._timeline.hangs_in and self._timeline.exits_s is not None:
            begin_s = self._timeline.exits_s
            axes.broken_barh([self._span(begin_s, self._end_s)], (-BAR / 2, BAR), color=GRID)
            told = "hangs in " + " < ".join(self._timeline.hangs_in[:3])
            place = (self._end_s * self._scale, 0)
            axes.annotate(told, place, fontsize=7, color=INK, ha="right", va="center")
        axes.set_yticks([-LANE * i for i in range(len(self.lanes))], self.lanes, fontsize=8)
        axes.set_ylim(-LANE * (len(self.lanes) - 1) - 0.6, 0.9)
        axes.set_xlim(-0.01 * self._end_s * self._scale, self._end_s * self._scale * 1.02)
        _plain(axes)

    def draw_memory(self, axes: Any) -> None:
        """What was left, in the hue of him who took what is gone."""
        times, left = [0.0], [self._timeline.held_bytes / MIB]
        for fall in self._timeline.falls:
            span, hue = [times[-1], fall.at_s * self._scale], self._hues[fall.who]
            axes.fill_between(span, [left[-1]] * 2, color=hue, alpha=0.22, lw=0)
            times.append(fall.at_s * self._scale)
            left.append(fall.left_bytes / MIB)
        end = [*times, self._end_s * self._scale]
        axes.step(end, [*left, left[-1]], where="post", color=INK, lw=1.2)
        for at, (who, freed) in enumerate(self._timeline.freed_bytes.items()):
            told, place = f"{who}: {freed / MIB:,.1f} MiB", (0.995, 0.93 - 0.13 * at)
            style: Any = {"ha": "right", "va": "top", "fontsize": 8, "color": self._hues[who]}
            axes.text(*place, told, transform=axes.transAxes, **style)
        axes.set_ylim(0, max(left) * 1.06 or 1)
        axes.set_ylabel("MiB in the mm", fontsize=8, color=SOFT)
        axes.set_xlabel(f"{self._unit} after the SIGKILL", fontsize=8, color=SOFT)
        axes.grid(axis="y", color=GRID, lw=0.8)
        _plain(axes)

    def _draw_hold(self, axes: Any, hold: Hold) -> None:
        bar = (-LANE * self.lanes.index(hold.who) - BAR / 2, BAR)
        got_s = hold.got_s if hold.got_s is not None else self._end_s
        if hold.asked_s is not None and (hold.waited_s > WAITED_S or hold.got_s is None):
            span = self._span(hold.asked_s, got_s)
            axes.broken_barh([span], bar, color=WAITING, hatch="////", ec=PAPER, lw=0)
        if hold.got_s is not None:
            released_s = hold.released_s if hold.released_s is not None else self._end_s
            hue = WRITING if hold.write else self._hues[hold.who]
            axes.broken_barh([self._span(hold.got_s, released_s)], bar, color=hue, zorder=2)

    def _draw_mark(self, axes: Any, who: str, at_s: float, what: str) -> None:
        y = -LANE * self.lanes.index(who)
        axes.plot([at_s * self._scale] * 2, [y - 0.42, y + 0.42], color=INK, lw=0.9)
        is_late = at_s > 0.7 * self._end_s
        axes.annotate(
            what,
            (at_s * self._scale, y + 0.36),
            fontsize=6.4,
            color=INK,
            ha="right" if is_late else "left",
            va="bottom",
            xytext=(-2 if is_late else 2, 0),
            textcoords="offset points",
        )

    def _span(self, begin_s: float, end_s: float) -> tuple[float, float]:
        """From where, and how far: as wide as can be seen."""
        least_s = self._end_s * LEAST_SHARE
        return begin_s * self._scale, max(least_s, end_s - begin_s) * self._scale


def _lanes(timeline: Timeline) -> list[str]:
    """Who had anything to do with it: the exit first."""
    seen = dict.fromkeys([EXIT, *(reap.who for reap in timeline.reaps)])
    seen |= dict.fromkeys(fall.who for fall in timeline.falls)
    seen |= dict.fromkeys(hold.who for hold in timeline.holds if hold.had_to_wait)
    return list(seen)


def _end_s(timeline: Timeline) -> float:
    """The last moment."""
    told = [timeline.torn_down_s, timeline.gone_s, timeline.exits_s, timeline.delivered_s]
    told += [reap.returned_s for reap in timeline.reaps]
    told += [fall.at_s for fall in timeline.falls]
    return max((s for s in told if s is not None), default=1e-3)


def _marks(timeline: Timeline) -> list[tuple[str, float, str]]:
    told = [
        (EXIT, timeline.delivered_s, "delivered"),
        (EXIT, timeline.exits_s, "exits"),
        (EXIT, timeline.torn_down_s, "exit_mmap done"),
    ]
    told += [(reap.who, reap.entered_s, "process_mrelease") for reap in timeline.reaps]
    return [(who, at_s, what) for who, at_s, what in told if at_s is not None]


def _plain(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0, labelsize=8, colors=SOFT)
    axes.set_axisbelow(True)
