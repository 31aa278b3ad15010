"""Geometry of the report's charts: numbers in, positions for the template's SVG out.

Drawn by our own template rather than by a plotting library: the charts follow light and dark, need no script, and
are the same bytes for the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sa2net.artifacts import Estimate
from sa2net.evaluation.calibration import ReliabilityBin

LEFT, RIGHT, WIDTH = 130.0, 20.0, 760.0
ROW = 74.0
_DOT = 7.0


@dataclass(frozen=True)
class Dot:
    """One scan in a strip plot; `label` is its tooltip, `beyond` says that it lies past the end of the axis."""

    x: float
    y: float
    label: str
    beyond: bool


@dataclass(frozen=True)
class Tick:
    """A mark of an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Strip:
    """One row of a strip plot: a class, its scans, their mean and interval."""

    label: str
    colour: str
    y: float
    dots: tuple[Dot, ...]
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StripPlot:
    """A strip plot: one row a class."""

    title: str
    width: float
    height: float
    strips: tuple[Strip, ...]
    ticks: tuple[Tick, ...]

    @property
    def beyond(self) -> int:
        """Scans past the end of the axis."""
        return sum(dot.beyond for strip in self.strips for dot in strip.dots)


@dataclass(frozen=True)
class Series:
    """What one row of a strip plot shows; NaN values are left out."""

    label: str
    colour: str
    values: Sequence[float]
    names: Sequence[str]
    estimate: Estimate | None


def strip_plot(title: str, series: Sequence[Series], *, top: float | None) -> StripPlot:
    """Lay out a strip plot.

    Args:
        title: For readers of the page and of its text alone.
        series: The rows.
        top: What the axis must reach, rounded up to a round number; larger values are put at its end. None = 1.
    """
    end = _round_up(1.0 if top is None else top)
    scale = (WIDTH - LEFT - RIGHT) / end
    strips = []
    for index, row in enumerate(series):
        centre = ROW * (index + 0.5)
        marks = [None if value is None else LEFT + min(value, end) * scale for value in _ends(row.estimate)]
        dots = _swarm(row, centre, scale, end)
        strips.append(Strip(row.label, row.colour, centre, dots, marks[0], marks[1], marks[2]))
    ticks = tuple(Tick(LEFT + end * step / 5 * scale, f"{end * step / 5:g}") for step in range(6))
    return StripPlot(title, WIDTH, ROW * len(series) + 26, tuple(strips), ticks)


@dataclass(frozen=True)
class ReliabilityPoint:
    """One bin of the calibration plot; the area of the dot grows with its share of the pixels."""

    x: float
    y: float
    radius: float
    label: str


def reliability_points(table: Sequence[ReliabilityBin], side: float) -> list[ReliabilityPoint]:
    """Bins that hold pixels, in a square of `side`, y downwards."""
    total = sum(item.pixels for item in table)
    return [
        ReliabilityPoint(
            x=round(item.confidence * side, 2),
            y=round((1.0 - item.accuracy) * side, 2),
            radius=round(3.0 + 9.0 * math.sqrt(item.pixels / total), 2),
            label=f"confidence {item.confidence:.3f}, right {item.accuracy:.3f}, {item.pixels:,} px",
        )
        for item in table
        if item.pixels
    ]


def _ends(estimate: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if estimate is None else (estimate.value, estimate.low, estimate.high)


def _swarm(row: Series, centre: float, scale: float, end: float) -> tuple[Dot, ...]:
    """Dots of equal place stack away from the centre line, alternately up and down, within the row."""
    taken: dict[int, int] = {}
    dots = []
    for value, name in sorted(zip(row.values, row.names, strict=True), key=lambda item: (item[0], item[1])):
        if math.isnan(value):
            continue
        x = LEFT + min(value, end) * scale
        stack = taken.get(slot := int(x // _DOT), 0)
        taken[slot] = stack + 1
        step = (stack + 1) // 2 * (1 if stack % 2 else -1)
        limit = ROW / 2 - _DOT
        y = centre + max(-limit, min(limit, step * _DOT))
        dots.append(Dot(round(x, 2), round(y, 2), f"{name}: {value:.3f}", beyond=value > end))
    return tuple(dots)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, 50 ... at or above a value."""
    if value <= 0:
        return 1.0
    magnitude: float = 10.0 ** math.floor(math.log10(value))
    return next(step * magnitude for step in (1, 2, 5, 10) if step * magnitude >= value)
