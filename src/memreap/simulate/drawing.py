"""What is drawn, whoever draws it: paths, marks and texts on a sheet of pixels, y downwards.

A style is a name; colours and fonts are the renderer's. ``family`` says whose it is, for its hue.
"""

from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]
Shape = Literal["circle", "square", "diamond", "triangle", "hexagon", "star"]


@dataclass(frozen=True, slots=True)
class Path:
    """A line through points."""

    points: tuple[Point, ...]
    style: str
    family: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A strategy: filled where it is on the frontier. ``tip``: what is told of it."""

    x: float
    y: float
    shape: Shape
    family: str
    is_filled: bool
    tip: str


@dataclass(frozen=True, slots=True)
class Text:
    """One line; ``y`` is its baseline."""

    x: float
    y: float
    text: str
    style: str
    anchor: Anchor = "start"
    family: str = ""


Item = Path | Mark | Text


@dataclass(frozen=True, slots=True)
class Drawing:
    """A sheet. What comes later lies above."""

    title: str
    width: float
    height: float
    items: tuple[Item, ...]
