"""A drawing as an SVG element for the page. Colours are the page's, by class."""

from html import escape

from memreap.simulate.drawing import Drawing, Item, Mark, Path, Shape

R = 4.6
OUTLINES: dict[Shape, str] = {
    "square": "M-4 -4H4V4H-4Z",
    "diamond": "M0 -5.6L5.6 0L0 5.6L-5.6 0Z",
    "triangle": "M0 -5.4L5 4H-5Z",
    "hexagon": "M0 -5.4L4.7 -2.7V2.7L0 5.4L-4.7 2.7V-2.7Z",
    "star": "M0 -6.5L1.7 -2.1L6.4 -2L2.7 .9L4 5.4L0 2.8L-4 5.4L-2.7 .9L-6.4 -2L-1.7 -2.1Z",
}


def svg(drawing: Drawing) -> str:
    """The element."""
    body = "".join(map(_item, drawing.items))
    label = escape(drawing.title, quote=True)
    return (
        f'<svg viewBox="0 0 {drawing.width:g} {drawing.height:g}" role="img"'
        f' aria-label="{label}">{body}</svg>'
    )


def symbol(shape: Shape, whose: str, *, is_filled: bool) -> str:
    """A mark alone, for a legend."""
    mark = _mark(Mark(8, 8, shape, whose, is_filled, ""))
    return f'<svg class="symbol" viewBox="0 0 16 16" aria-hidden="true">{mark}</svg>'


def _item(item: Item) -> str:
    if isinstance(item, Path):
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in item.points)
        return f'<path class="{_class(item.style, item.family)}" d="{d}"/>'
    if isinstance(item, Mark):
        return _mark(item)
    anchor = "" if item.anchor == "start" else f' text-anchor="{item.anchor}"'
    return (
        f'<text class="{_class(item.style, item.family)}" x="{item.x:.1f}" y="{item.y:.1f}"'
        f"{anchor}>{escape(item.text)}</text>"
    )


def _mark(mark: Mark) -> str:
    style = _class("mark on" if mark.is_filled else "mark", mark.family)
    tip = f"<title>{escape(mark.tip)}</title>" if mark.tip else ""
    if mark.shape in OUTLINES:
        d = OUTLINES[mark.shape]
        place = f"translate({mark.x:.1f} {mark.y:.1f})"
        return f'<path class="{style}" transform="{place}" d="{d}">{tip}</path>'
    return f'<circle class="{style}" cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="{R}">{tip}</circle>'


def _class(style: str, whose: str) -> str:
    return f"{style} of-{whose}" if whose else style
