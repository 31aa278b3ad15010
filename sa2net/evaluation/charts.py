"""Geometry of the report's charts: numbers in, positions for the template's SVG out.

Drawn by our own template rather than by a plotting library: the charts follow light and dark, need no script, and
are the same bytes for the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sa2net.artifacts import AngleScores, Estimate
from sa2net.evaluation.angles import ScanAngles
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


@dataclass(frozen=True)
class AngleDot:
    """One scan in a plot of angles; `low` and `high` are the ends of its interval, where the plot shows them."""

    x: float
    y: float
    label: str
    covered: bool
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class AngleLine:
    """A level that a plot of angles shows, with its words."""

    y: float
    label: str
    dashed: bool


@dataclass(frozen=True)
class AnglePlot:
    """A plot of angles, degrees; places lie in `width` x `height`, y downwards.

    Attributes:
        without: Scans of which no angle is known, at their true angle.
        close: Half the height of the band of 5 degrees around the diagonal.
    """

    width: float
    height: float
    dots: tuple[AngleDot, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    lines: tuple[AngleLine, ...] = ()
    without: tuple[AngleDot, ...] = ()
    close: float = 0.0


def agreement_plot(scans: Sequence[tuple[str, ScanAngles]], *, side: float) -> AnglePlot:
    """Measured against true angles, with intervals, in a square.

    Args:
        scans: Name and angles of each scan.
        side: Length of the square.
    """
    counted = [(name, angles) for name, angles in scans if angles.status != "small"]
    values = [angles.compared.truth for _, angles in counted]
    values += [item.compared.found.interval_90_deg[1] for _, item in counted if item.compared.found is not None]
    end, step = _axis(max(values, default=1.0))
    scale = side / end
    dots, without = [], []
    for name, angles in counted:
        truth, found = angles.compared.truth, angles.compared.found
        if found is None:
            without.append(AngleDot(_place(truth * scale), side, f"{name}: true {truth:.1f}, {angles.status}", False))
            continue
        low, high = (_place(side - value * scale) for value in found.interval_90_deg)
        label = f"{name}: true {truth:.1f}, measured {found.angle_deg:.1f}"
        y = _place(side - found.angle_deg * scale)
        dots.append(AngleDot(_place(truth * scale), y, label, angles.compared.covered, low, high))
    across = tuple(Tick(_place(value * scale), f"{value:g}") for value in _steps(0.0, end, step))
    up = tuple(Tick(_place(side - value * scale), f"{value:g}") for value in _steps(0.0, end, step))
    return AnglePlot(side, side, tuple(dots), across, up, without=tuple(without), close=_place(5.0 * scale))


def bland_altman_plot(
    scans: Sequence[tuple[str, ScanAngles]], scores: AngleScores, *, width: float, height: float
) -> AnglePlot:
    """Difference against mean of measured and true angle, with bias and limits of agreement.

    Args:
        scans: Name and angles of each scan.
        scores: Bias and limits.
        width: Of the plot.
        height: Of the plot.
    """
    found = [(name, item.compared, item.compared.found) for name, item in scans if item.status == "found"]
    pairs = [(name, compared, curve.angle_deg) for name, compared, curve in found if curve is not None]
    levels = [
        ("upper limit", scores.limit_high, True),
        ("bias", scores.bias, False),
        ("lower limit", scores.limit_low, True),
    ]
    shown = [(f"{words} {value:+.1f}", value, dashed) for words, value, dashed in levels if value is not None]
    largest = max([abs(angle - item.truth) for _, item, angle in pairs] + [abs(value) for _, value, _ in shown] + [5.0])
    right, right_step = _axis(max((0.5 * (angle + item.truth) for _, item, angle in pairs), default=1.0))
    _, step = _axis(2.0 * largest)  # twice: the axis goes both ways
    top = step * math.ceil(largest / step)
    across, up = width / right, 0.5 * height / top
    dots = tuple(
        AngleDot(
            _place(0.5 * (angle + item.truth) * across),
            _place(0.5 * height - (angle - item.truth) * up),
            f"{name}: true {item.truth:.1f}, difference {angle - item.truth:+.1f}",
            item.covered,
        )
        for name, item, angle in pairs
    )
    return AnglePlot(
        width,
        height,
        dots,
        tuple(Tick(_place(value * across), f"{value:g}") for value in _steps(0.0, right, right_step)),
        tuple(
            Tick(_place(0.5 * height - value * up), f"{value:+g}" if value else "0")
            for value in _steps(-top, top, step)
        ),
        tuple(AngleLine(_place(0.5 * height - value * up), label, dashed) for label, value, dashed in shown),
    )


def _axis(largest: float) -> tuple[float, float]:
    """Where an axis from 0 ends that holds a value, and the step of its marks: at most eight of them."""
    step = next(step for step in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0) if largest <= 8.0 * step)
    return step * max(1, math.ceil(largest / step)), step


def _steps(low: float, high: float, step: float) -> list[float]:
    return [low + step * index for index in range(round((high - low) / step) + 1)]


def _place(value: float) -> float:
    return round(value, 2)


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
