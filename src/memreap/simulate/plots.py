"""Drawings as a PNG or SVG file, by matplotlib: an extra, loaded when a file is asked for.

Only colours, and how a drawing becomes a figure, live here.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from memreap.simulate.drawing import Drawing, Item, Mark, Path, Shape, Text

PIXELS_AN_INCH = 100
COLUMNS = 2  # of charts, where there are several
PAPER = "#ffffff"
HUES = {
    "": "#555b62",
    "kernel": "#3d434a",
    "patience": "#2a6fdb",
    "domain": "#7c4dcc",
    "guard": "#c2410c",
    "bound": "#8a6a00",
}
LINES: dict[str, dict[str, Any]] = {
    "grid": {"color": "#ecece8", "lw": 0.8},
    "axis": {"color": "#9aa0a6", "lw": 0.9},
    "frontier": {"color": "#2e8b57", "lw": 5, "alpha": 0.22, "solid_joinstyle": "miter"},
    "join": {"lw": 1.1, "alpha": 0.6},
    "whisker": {"lw": 1, "alpha": 0.45},
    "leader": {"color": "#9aa0a6", "lw": 0.7},
}
TEXTS: dict[str, dict[str, Any]] = {
    "title": {"size": 10, "weight": "bold", "color": "#1d2023"},
    "says": {"size": 7.6, "color": "#555b62"},
    "tick": {"size": 7.4, "color": "#555b62"},
    "words": {"size": 7.4, "color": "#555b62"},
    "label": {"size": 7.6},
}
MARKERS: dict[Shape, tuple[str, float]] = {
    "circle": ("o", 26),
    "square": ("s", 26),
    "diamond": ("D", 26),
    "triangle": ("^", 32),
    "hexagon": ("h", 40),
    "star": ("*", 70),
}
ANCHORS = {"start": "left", "middle": "center", "end": "right"}


class NoPlotsError(RuntimeError):
    """matplotlib is not here."""


def check() -> None:
    """Raises NoPlotsError, before hours of work are lost to it."""
    if find_spec("matplotlib") is None:
        raise NoPlotsError("--png and --svg need matplotlib: pip install 'memreap[plots]'")


def save(drawings: Sequence[Drawing], path: str, kind: str) -> None:
    """All of them on one sheet. Raises OSError."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    columns = min(COLUMNS, len(drawings))
    lines = -(-len(drawings) // columns)
    wide, high = drawings[0].width / PIXELS_AN_INCH, drawings[0].height / PIXELS_AN_INCH
    # Texts stay texts, and the same results make the same file.
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "memreap", "font.family": "sans-serif"}
    with mpl.rc_context(style):
        figure = Figure(figsize=(columns * wide, lines * high), facecolor=PAPER)
        for number, drawing in enumerate(drawings):
            left, top = number % columns, number // columns
            place = (left / columns, 1 - (top + 1) / lines, 1 / columns, 1 / lines)
            _draw(figure.add_axes(place), drawing)
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(path, format=kind, dpi=2 * PIXELS_AN_INCH, metadata=metadata)


def _draw(axes: Any, drawing: Drawing) -> None:
    axes.set_axis_off()
    axes.set_xlim(0, drawing.width)
    axes.set_ylim(drawing.height, 0)
    for number, item in enumerate(drawing.items):
        _item(axes, item, number)


def _item(axes: Any, item: Item, order: int) -> None:
    if isinstance(item, Path):
        how = {"color": HUES[item.family], **LINES[item.style]}
        x, y = zip(*item.points, strict=True)
        axes.plot(x, y, zorder=order, **how)
    elif isinstance(item, Mark):
        _mark(axes, item, order)
    else:
        _text(axes, item, order)


def _mark(axes: Any, item: Mark, order: int) -> None:
    marker, area = MARKERS[item.shape]
    hue = HUES[item.family]
    axes.scatter(
        [item.x],
        [item.y],
        s=area,
        marker=marker,
        facecolor=hue if item.is_filled else PAPER,
        edgecolor=hue,
        linewidth=1.1,
        zorder=order,
    )


def _text(axes: Any, item: Text, order: int) -> None:
    how = {"color": HUES[item.family], **TEXTS[item.style]}
    text = item.text.replace("$", r"\$")  # no mathematics
    axes.text(item.x, item.y, text, ha=ANCHORS[item.anchor], va="baseline", zorder=order, **how)
