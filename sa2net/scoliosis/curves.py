"""The curves of a smooth spine, and what each estimator says of their angles.

A curve lies between two neighbouring turning points of the slope (the inflections of the spine, or its visible ends);
its angle is the difference of the slope angles there, as Cobb's construction has it on a smooth line. Turning points
of less than a threshold are wiggles of the estimate: they part no curve.

The largest of several uncertain slopes is on average too large. How much is found by a parametric bootstrap: the angle
is read again on repeats whose errors are known, and the mean excess is taken off (Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, section 10.3).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from sa2net.scoliosis.spine import Observations, Spine

Floats = npt.NDArray[np.float64]
Side = Literal["left", "right"]

WINDOW = 1.5
"""Levels around an end of a curve within which another estimator, or a repeat, may put it."""


@dataclass(frozen=True)
class Curve:
    """One curve of one spine; angles in degrees, heights in units.

    Attributes:
        angle: Angle between the tangents at its ends, without the excess of a noisy extreme.
        standard_error: From the covariance of the slope.
        upper: Height of the upper end.
        lower: Height of the lower end.
        apex: Height where the spine is parallel to the chord of the ends.
        convex: Side of the picture to which it bulges.
        open_above: Whether the upper end is the first visible level or lies above it: the curve may go on.
        open_below: The same below.
    """

    angle: float
    standard_error: float
    upper: float
    lower: float
    apex: float
    convex: Side
    open_above: bool
    open_below: bool


@dataclass(frozen=True)
class Reading:
    """What one estimator says of a curve, degrees."""

    angle: float
    standard_error: float


def find_curves(spine: Spine, smallest: float) -> list[Curve]:
    """The curves of at least `smallest` degrees from top to bottom, and always the largest; never empty."""
    turns = _turning_points(spine.slope, 0.6 * smallest)
    curves = [_curve(spine, start, end) for start, end in pairwise(turns)]
    largest = max(curve.angle for curve in curves)
    return [curve for curve in curves if curve.angle >= min(smallest, largest)]


def read_angle(spine: Spine, curve: Curve, spacing: float) -> Reading:
    """Angle of a curve as another spine has it: between its own extremes near the ends of the curve, never below 0.

    Args:
        spine: From other observations of the same levels.
        curve: A curve of the combined spine.
        spacing: Height of a level, units.
    """
    start, end = (int(np.argmin(np.abs(spine.y - height))) for height in (curve.upper, curve.lower))
    sense = 1.0 if curve.convex == "right" else -1.0
    upper, lower = _windows(start, end, max(1, int(WINDOW * spacing / float(spine.y[1] - spine.y[0]))))
    first = upper.start + int(np.argmax(sense * spine.slope[upper]))
    last = lower.start + int(np.argmin(sense * spine.slope[lower]))
    value = float(sense * (spine.slope[first] - spine.slope[last]))
    excess = float(_opened(spine.repeats, sense, upper, lower).mean()) - value
    return Reading(max(value - excess, 0.0), _error(spine, first, last))


def angle_of_lines(seen: Observations, curve: Curve) -> float:
    """The angle between the two most opposed lines of a curve, degrees: the ultrasound curve angle as it is published.

    It takes extremes of noisy lines and is therefore too large on average; NaN with fewer than two lines.
    """
    margin = 0.6 * seen.spacing
    within = (seen.y >= curve.upper - margin) & (seen.y <= curve.lower + margin) & np.isfinite(seen.tilt)
    upper, lower = within & (seen.y <= curve.apex), within & (seen.y > curve.apex)
    if not upper.any() or not lower.any():
        return float("nan")
    sense = 1.0 if curve.convex == "right" else -1.0
    return max(float((sense * seen.tilt[lower]).max() - (sense * seen.tilt[upper]).min()), 0.0)


def _turning_points(slope: Floats, threshold: float) -> list[int]:
    """Indices of alternating extremes that differ by at least `threshold`; the two most different ones if none does."""
    turns: list[int] = []
    low = high = candidate = 0
    sense = 0
    for index, value in enumerate(slope):
        if sense == 0:
            low, high = (index if value < slope[low] else low), (index if value > slope[high] else high)
            if slope[high] - slope[low] >= threshold:
                sense = 1 if high > low else -1
                turns, candidate = [min(low, high)], index
        elif sense * (value - slope[candidate]) > 0:
            candidate = index
        elif sense * (slope[candidate] - value) >= threshold:
            turns.append(candidate)
            sense, candidate = -sense, index
    if not turns:
        ends = sorted((int(np.argmin(slope)), int(np.argmax(slope))))
        return ends if ends[0] < ends[1] else [0, len(slope) - 1]
    return [*turns, candidate]


def _curve(spine: Spine, start: int, end: int) -> Curve:
    """Describe the curve between two turning points."""
    slope, y = spine.slope, spine.y
    sense = 1.0 if slope[start] >= slope[end] else -1.0
    upper, lower = _windows(start, end, max(1, (end - start) // 2))
    value = float(sense * (slope[start] - slope[end]))
    excess = float((_opened(spine.repeats, sense, upper, lower) - _opened(slope[:, None], sense, upper, lower)).mean())
    margin = 1.5 * float(y[1] - y[0])
    tangent = np.tan(np.radians(slope[start : end + 1]))
    chord = float(np.trapezoid(tangent, y[start : end + 1])) / float(y[end] - y[start])
    away = np.concatenate([[0.0], np.cumsum(0.5 * (tangent[1:] + tangent[:-1]) - chord)])
    return Curve(
        angle=max(value - excess, 0.0),
        standard_error=_error(spine, start, end),
        upper=float(y[start]),
        lower=float(y[end]),
        apex=float(y[start + int(np.argmax(np.abs(away)))]),
        convex="right" if sense > 0.0 else "left",
        open_above=bool(y[start] <= spine.seen[0] + margin),
        open_below=bool(y[end] >= spine.seen[1] - margin),
    )


def _error(spine: Spine, start: int, end: int) -> float:
    """Standard error of the difference of two slopes, degrees."""
    variance = spine.covariance[start, start] + spine.covariance[end, end] - 2.0 * spine.covariance[start, end]
    return float(np.sqrt(max(float(variance), 0.0)))


def _windows(start: int, end: int, reach: int) -> tuple[slice, slice]:
    """Where the upper and the lower end of a curve may lie; they do not meet."""
    middle = (start + end) // 2
    return slice(max(start - reach, 0), min(start + reach, middle) + 1), slice(
        max(end - reach, middle), end + reach + 1
    )


def _opened(slopes: Floats, sense: float, upper: slice, lower: slice) -> Floats:
    """Angle between the extremes near both ends, in each column. # (GRID, k) -> (k,)."""
    return np.asarray((sense * slopes[upper]).max(axis=0) - (sense * slopes[lower]).min(axis=0))
