"""The spine curve of a phantom, and the angles that are true of it.

A phantom is worth drawing because its angle is known. The tangent is therefore written down first, as a
sum of lobes that each turn it by a chosen angle, and the curve follows by integration; what is reported is
measured again on the curve by `measure_curves`, which knows nothing of the lobes and works on any polyline.

Conventions: x to the right, y down, both px. The *slope angle* is atan(dx / dy): positive where the spine runs
to the right on its way down. A level's *tilt* is the angle of its line, positive where the right end is lower;
a level that is square to the spine has a tilt of minus the slope angle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEP = 2.0
"""Distance of the samples of a drawn curve along y, px at full scale."""
SMALLEST_CURVE = 5.0
"""Curves that turn the tangent by less are not named, unless they are the largest, degrees."""
WIDEST_EXCURSION = 235.0
"""A spine that strays further than this from side to side would not fit the picture, px at full scale."""
_TRIES = 40


@dataclass(frozen=True)
class Lobe:
    """One stretch of constant sense of curvature.

    Attributes:
        centre: y of its middle, the apex of the curve it makes, px.
        half_length: Half of its length along y, px.
        angle: Angle by which it turns the tangent, degrees; negative turns bulge to the right.
    """

    centre: float
    half_length: float
    angle: float

    def turned(self, y: Array) -> Array:
        """Angle by which the tangent has been turned at `y`, degrees: the integral of a cosine-squared bump."""
        phase = np.clip((y - self.centre) / self.half_length, -1.0, 1.0)
        return self.angle * (0.5 * (phase + 1.0) + np.sin(np.pi * phase) / (2.0 * np.pi))


@dataclass(frozen=True)
class SpineCurve:
    """The midline as a function x(y), sampled densely.

    Attributes:
        y: Heights of the samples, rising, px.
        x: Midline there, px.
        slope: Slope angle there, degrees.
    """

    y: Array
    x: Array
    slope: Array

    def x_at(self, y: Array | float) -> Array:
        """Midline at any height, px; straight on beyond the ends."""
        return np.asarray(np.interp(y, self.y, self.x))

    def slope_at(self, y: Array | float) -> Array:
        """Slope angle at any height, degrees."""
        return np.asarray(np.interp(y, self.y, self.slope))


@dataclass(frozen=True)
class MeasuredCurve:
    """One curve between two neighbouring turning points of the slope.

    Attributes:
        angle: Angle between the tangents at its two ends, degrees, not negative.
        y_start: Height of its upper end, px.
        y_end: Height of its lower end, px.
        y_apex: Height where the tangent is parallel to the chord of the two ends, px.
        convex: Side of the picture to which it bulges, "left" or "right".
    """

    angle: float
    y_start: float
    y_end: float
    y_apex: float
    convex: str


def bend(lobes: Sequence[Lobe], y: Array, *, first_slope: float = 0.0) -> SpineCurve:
    """Integrate lobes to a curve that starts at x = 0 with the slope angle `first_slope` (degrees)."""
    slope = first_slope + sum((lobe.turned(y) for lobe in lobes), np.zeros_like(y))
    rise = np.tan(np.radians(slope))
    x = np.concatenate([[0.0], np.cumsum(0.5 * (rise[1:] + rise[:-1]) * np.diff(y))])
    return SpineCurve(y=y, x=x, slope=slope)


def draw_curve(rng: np.random.Generator, levels: Array, height: float, angle: float) -> SpineCurve:
    """Draw a spine whose largest curve turns the tangent by `angle`.

    Args:
        rng: Source of chance.
        levels: (17,) heights of T1 to L5, px at full scale.
        height: Height of the picture, px at full scale.
        angle: Angle of the largest curve, degrees.

    Returns:
        A curve from row 0 to `height` that is balanced: its ends stand nearly above each other, its mean is 0.
    """
    y = np.arange(0.0, height + STEP, STEP)
    best: SpineCurve | None = None
    for _ in range(_TRIES):
        curve = _balanced(_draw_lobes(rng, levels, angle), y, levels, float(rng.normal(0.0, 18.0)))
        if best is None or np.ptp(curve.x) < np.ptp(best.x):
            best = curve
        if np.ptp(best.x) <= WIDEST_EXCURSION:
            break
    assert best is not None  # noqa: S101 - _TRIES is positive
    return best


def _draw_lobes(rng: np.random.Generator, levels: Array, angle: float) -> list[Lobe]:
    """One lobe (a long C), a main curve between two that compensate it, or two main curves (an S)."""
    index = np.arange(len(levels), dtype=float)
    side = float(rng.choice([-1.0, 1.0], p=[0.6, 0.4]))  # thoracic curves bulge to the right more often
    kinds = ("long", "thoracic", "thoracolumbar", "lumbar", "double")
    odds = np.array([0.12 if angle < 28.0 else 0.0, 0.34, 0.16, 0.12, 0.26])
    kind = str(rng.choice(kinds, p=odds / odds.sum()))
    apex, half = {
        "long": (8.5, 7.2),
        "thoracic": (7.0, 3.5),
        "thoracolumbar": (10.8, 3.6),
        "lumbar": (13.2, 2.9),
        "double": (6.2, 3.2),
    }[kind]
    apex, half = apex + rng.uniform(-0.8, 0.8), half * rng.uniform(0.85, 1.1)
    parts = [(apex - half, apex + half, side * angle)]
    if kind != "long":
        above = rng.uniform(0.3, 0.5)
        below = rng.uniform(0.6, 0.95) if kind == "double" else rng.uniform(0.8, 1.0) - above
        parts.append((apex - half - 2.0 * rng.uniform(1.6, 2.4), apex - half, -side * angle * above))
        parts.append((apex + half, apex + half + 2.0 * rng.uniform(1.7, 2.6), -side * angle * below))
    lobes = []
    for first, last, turn in parts:
        top, bottom = np.interp([first, last], index, levels)
        spacing = levels[1] - levels[0]  # straight on beyond T1 and L5
        top += min(first, 0.0) * spacing
        bottom += max(last - index[-1], 0.0) * spacing
        lobes.append(Lobe(centre=0.5 * (top + bottom), half_length=0.5 * (bottom - top), angle=turn))
    return lobes


def _balanced(lobes: Sequence[Lobe], y: Array, levels: Array, offset: float) -> SpineCurve:
    """Choose the slope at the start so that the last level stands `offset` px beside the first; mean x becomes 0."""
    low, high = -50.0, 50.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        curve = bend(lobes, y, first_slope=middle)
        if curve.x_at(levels[-1]) - curve.x_at(levels[0]) > offset:
            high = middle
        else:
            low = middle
    return SpineCurve(y=y, x=curve.x - float(np.mean(curve.x)), slope=curve.slope)


def measure_curves(x: Array, y: Array, *, smallest: float = SMALLEST_CURVE) -> list[MeasuredCurve]:
    """Measure every curve of a midline: the angle between the tangents at its inflections or end points.

    Between two inflections the slope runs from one turning point to the next; the difference of the slope angles
    there is the angle of the curve, as Cobb's construction has it on a smooth line.

    Args:
        x: (N,) midline, px.
        y: (N,) heights, strictly rising, px; the curve is measured between the first and the last.
        smallest: Curves below this angle are dropped, except that the largest always stays, degrees.

    Returns:
        The curves from top to bottom; never empty.
    """
    slope = np.degrees(np.arctan(np.gradient(x, y)))
    rising = np.sign(np.diff(slope))
    rising[np.abs(np.diff(slope)) < 1e-9] = 0.0
    turning = [0]
    sense = 0.0
    for position, sign in enumerate(rising):
        if sign != 0.0 and sense != 0.0 and sign != sense:
            turning.append(position)
        sense = sign or sense
    turning.append(len(y) - 1)
    curves = [_between(x, y, slope, start, end) for start, end in pairwise(turning) if end > start]
    largest = max(curve.angle for curve in curves)
    return [curve for curve in curves if curve.angle >= min(smallest, largest)]


def _between(x: Array, y: Array, slope: Array, start: int, end: int) -> MeasuredCurve:
    """Describe the curve between two samples."""
    chord = np.interp(y[start : end + 1], [y[start], y[end]], [x[start], x[end]])
    away = x[start : end + 1] - chord
    return MeasuredCurve(
        angle=float(abs(slope[start] - slope[end])),
        y_start=float(y[start]),
        y_end=float(y[end]),
        y_apex=float(y[start + int(np.argmax(np.abs(away)))]),
        convex="right" if slope[start] > slope[end] else "left",
    )
