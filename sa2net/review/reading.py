"""The angles of levels that a reader set by hand: the library's own, so that no page computes one a second time.

Where a reader chose the end levels of a curve, its angle is that between the tangents of the smooth spine at these
levels; the angle between their two lines, the published definition, stands beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from sa2net.config import MeasureConfig
from sa2net.scoliosis import Measurement, Source, measure_levels
from sa2net.scoliosis.band import Band
from sa2net.scoliosis.landmarks import Landmarks, Level
from sa2net.scoliosis.result import Point
from sa2net.scoliosis.spine import Observations, fit_spine
from sa2net.scoliosis.threads import on_one_thread
from sa2net.scoliosis.uncertainty import CALIBRATION, interval

_FEWEST = 3  # levels that carry a spine


class HandLevel(BaseModel):
    """One level as the reader left it; points (x, y) in px of the scan."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    origin: int | None = Field(ge=0, le=99, description="its place in the measurement, null where it was added")
    kind: Literal["process", "lump"]
    middle: Point = Field(description="used where a side is missing; else it lies half way between the ends")
    left: Point | None
    right: Point | None


class HandCurve(BaseModel):
    """End levels that a reader chose for a curve, as places in the row of levels, from top to bottom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    upper: int = Field(ge=0)
    lower: int = Field(ge=0)


@dataclass(frozen=True)
class ChosenCurve:
    """A curve between two levels that a reader chose; angles in degrees.

    Attributes:
        curve: The end levels.
        angle: Between the tangents of the smooth spine at the middles of these levels.
        standard_error: Of that angle, from the covariance of the slope, with the factor of measured curves.
        interval_90: Its 90 % interval.
        lines: Between the two lines; None where one of them is not known.
        convex: Side of the picture to which it bulges.
    """

    curve: HandCurve
    angle: float
    standard_error: float
    interval_90: tuple[float, float]
    lines: float | None
    convex: Literal["left", "right"]


@dataclass(frozen=True)
class Reading:
    """What follows from the levels.

    Attributes:
        measurement: As `measure_levels` has it: curves found anew, or a refusal.
        chosen: The curves whose ends the reader chose.
    """

    measurement: Measurement
    chosen: tuple[ChosenCurve, ...]


@on_one_thread
def read_levels(
    levels: Sequence[HandLevel],
    curves: Sequence[HandCurve],
    measured: Measurement,
    *,
    band: Band | None,
    cfg: MeasureConfig,
) -> Reading:
    """The angles of levels that a reader left, moved, added or removed.

    A line that was moved or added counts as sure; the others keep the confidence that they were measured with. What
    speaks against a label map (blobs that are no level, colour of the picture) does not speak against a reader.

    Args:
        levels: In any order.
        curves: End levels chosen by hand; places in `levels` ordered by their middles.
        measured: What the levels came from.
        band: The sweep, in units, as `find_landmarks` returns it; None where it is not known.
        cfg: Limits and words.

    Raises:
        ValueError: A curve names a level that is not there, or its upper end is not above its lower end.
    """
    spacing = measured.spacing
    spacing_mm = (spacing.x_mm, spacing.y_mm) if spacing.x_mm and spacing.y_mm else None
    scale = spacing_mm or (1.0, 1.0)
    ordered = sorted((_level(level, measured, scale) for level in levels), key=lambda level: float(level.middle[1]))
    pairs = [level for level in ordered if level.kind == "process"]
    found = Landmarks(
        levels=tuple(ordered),
        band=band,
        ignored=0,
        hats_upright=float("nan"),
        foreground=0.0,
        sides=(sum(level.left is not None for level in pairs), sum(level.right is not None for level in pairs)),
    )
    source = Source(scan=measured.scan, mask=measured.mask_source, model=measured.model)
    anew = measure_levels(found, (measured.height, measured.width), cfg=cfg, spacing_mm=spacing_mm, source=source)
    return Reading(anew, _chosen(found, curves, CALIBRATION[measured.mask_source]))


def as_hand_levels(measured: Measurement) -> tuple[HandLevel, ...]:
    """The levels of a measurement, as a reader finds them."""
    return tuple(
        HandLevel(origin=index, kind=level.kind, middle=level.middle, left=level.left, right=level.right)
        for index, level in enumerate(measured.levels)
    )


def _level(level: HandLevel, measured: Measurement, scale: tuple[float, float]) -> Level:
    if level.origin is not None and level.origin >= len(measured.levels):
        raise ValueError(f"level {level.origin} is none of the {len(measured.levels)} that were measured")
    before = measured.levels[level.origin] if level.origin is not None else None
    same = before is not None and (level.left, level.right, level.middle) == (before.left, before.right, before.middle)
    left, right = (None if point is None else np.array(point) * scale for point in (level.left, level.right))
    between = 0.5 * (left + right) if left is not None and right is not None and not same else None
    middle = np.array(level.middle) * scale if between is None else between
    return Level(level.kind, middle, left, right, before.confidence if same and before else 1.0)


def _chosen(found: Landmarks, curves: Sequence[HandCurve], factor: float) -> tuple[ChosenCurve, ...]:
    for curve in curves:
        if not curve.upper < curve.lower < len(found.levels):
            raise ValueError(f"no curve lies between levels {curve.upper} and {curve.lower} of {len(found.levels)}")
    if not curves or len(found.levels) < _FEWEST:
        return ()
    spine = fit_spine(Observations.of(found.levels, found.unseen))
    chosen = []
    for curve in curves:
        upper, lower = found.levels[curve.upper], found.levels[curve.lower]
        first, last = (int(np.argmin(np.abs(spine.y - level.middle[1]))) for level in (upper, lower))
        turned = float(spine.slope[first] - spine.slope[last])
        variance = spine.covariance[first, first] + spine.covariance[last, last] - 2.0 * spine.covariance[first, last]
        error = factor * float(np.sqrt(max(float(variance), 0.0)))
        lines = abs(lower.tilt - upper.tilt) if upper.has_line and lower.has_line else None
        side: Literal["left", "right"] = "right" if turned >= 0.0 else "left"
        low, high = interval(abs(turned), error)
        chosen.append(ChosenCurve(curve, abs(turned), error, (low, high), lines, side))
    return tuple(chosen)
