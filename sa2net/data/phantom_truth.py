"""What is written down as true of a phantom.

`truth.json`, keyed by scan name beside `schema_version` (all points (x, y) px of the written picture, all angles
degrees)::

    "<name>": {
      "width", "height":     size of the picture, px
      "scale":               px of the picture per px at full scale (640 px wide)
      "device", "spacing_mm": invented device and size of a pixel (x, y), mm
      "severity":            straight, mild, moderate or severe, by the largest true angle (see SEVERITY_BANDS)
      "largest_angle_deg":   the largest true angle
      "largest_drawn_angle_deg": the largest angle of the drawn lines
      "midline":             [[x, y], ...] the spine's midline as it appears, top to bottom of the picture
      "levels": [            visible levels, top to bottom
        {"name", "kind": "process" | "lump", "left": [x, y], "right": [x, y], "tilt_deg"}]
      "curves": [            curves of at least 5 degrees, and always the largest; top to bottom
        {"angle_deg":        angle of the tangents at its inflections or end points
         "drawn_angle_deg":  largest angle of two drawn lines between its end levels
         "convex":           side of the picture to which it bulges: left, right
         "region":           thoracic, thoracolumbar or lumbar, by the apex
         "apex", "upper_end", "lower_end": levels nearest to apex and ends
         "start", "end":     rows of the end points, px}]
      "artefacts":           {family: what was drawn}, rows as shares of the height, lengths in px at full scale
    }

`tilt_deg` is positive where the right end is lower. The drawn lines differ from the tangents by 3-4 degrees a level,
as an annotator's would, so the drawn angles are mostly larger than the true ones. Motion (`motion_kink`) moves
midline and landmarks; `angle_deg` stays the angle of the spine itself.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sa2net.data.phantom_anatomy import FULL_WIDTH, LEVEL_NAMES, Level
from sa2net.data.phantom_artefacts import Canvas
from sa2net.data.phantom_curve import MeasuredCurve, measure_curves
from sa2net.data.phantom_texture import Look

Array = NDArray[np.float64]

SCHEMA_VERSION = 1
SEVERITY_BANDS = ((10.0, "straight"), (25.0, "mild"), (45.0, "moderate"), (float("inf"), "severe"))
"""Upper limit of the largest true angle and the word for it: a way to spread phantoms, no clinical grading."""
_MIDLINE_STEP = 24.0


def severity_of(angle: float) -> str:
    """The word of SEVERITY_BANDS for a true angle in degrees."""
    return next(name for limit, name in SEVERITY_BANDS if angle < limit)


def describe(canvas: Canvas, look: Look, width: int, height: int, shown: dict[str, Any]) -> dict[str, Any]:
    """The truth of one phantom as it is written, for a picture of `width` x `height` px."""
    anatomy = canvas.anatomy
    scale = np.array([width / FULL_WIDTH, height / anatomy.height])

    def place(points: Array) -> Array:
        """Full-scale points (N, 2) before motion to points of the written picture; pixel centres are whole numbers."""
        rows = np.clip(np.rint(points[:, 1]), 0, anatomy.height - 1).astype(np.intp)
        moved = points + np.stack([canvas.shift[rows], np.zeros(len(rows))], axis=1)
        return np.asarray((moved + 0.5) * scale - 0.5)

    levels = [_level(level, place) for level in anatomy.levels]
    tilts = np.array([level["tilt_deg"] for level in levels])
    rows = anatomy.level_rows
    seen = [LEVEL_NAMES.index(level.name) for level in anatomy.levels]
    inside = (anatomy.curve.y >= rows[seen[0]]) & (anatomy.curve.y <= rows[seen[-1]])
    curves = [
        _curve(curve, rows[seen], tilts, [level.name for level in anatomy.levels], scale[1])
        for curve in measure_curves(anatomy.curve.x[inside], anatomy.curve.y[inside])
    ]
    largest = max(curve["angle_deg"] for curve in curves)
    along = np.arange(anatomy.sweep.top, anatomy.sweep.bottom, _MIDLINE_STEP)
    midline = place(np.stack([anatomy.curve.x_at(along), along], axis=1))
    return {
        "width": width,
        "height": height,
        "scale": _rounded(float(scale[0])),
        "device": look.name,
        "spacing_mm": [round(float(look.spacing / factor), 6) for factor in scale],
        "severity": severity_of(largest),
        "largest_angle_deg": largest,
        "largest_drawn_angle_deg": max(curve["drawn_angle_deg"] for curve in curves),
        "midline": _rounded(midline.tolist()),
        "levels": levels,
        "curves": curves,
        "artefacts": _rounded(shown),
    }


def _level(level: Level, place: Callable[[Array], Array]) -> dict[str, Any]:
    """One level; its tilt is that of the line through the two written points."""
    left, right = place(np.stack([level.left, level.right]))
    tilt = np.degrees(np.arctan2(right[1] - left[1], right[0] - left[0]))
    return {
        "name": level.name,
        "kind": level.kind,
        "left": _rounded(left.tolist()),
        "right": _rounded(right.tolist()),
        "tilt_deg": _rounded(float(tilt)),
    }


def _curve(curve: MeasuredCurve, rows: Array, tilts: Array, names: list[str], scale: float) -> dict[str, Any]:
    """One true curve, and the largest angle between two drawn lines within it."""
    upper, apex, lower = (int(np.argmin(np.abs(rows - row))) for row in (curve.y_start, curve.y_apex, curve.y_end))
    within = tilts[upper : lower + 1]
    return {
        "angle_deg": _rounded(curve.angle),
        "drawn_angle_deg": _rounded(float(np.ptp(within))),
        "convex": curve.convex,
        "region": _region(names[apex]),
        "apex": names[apex],
        "upper_end": names[upper],
        "lower_end": names[lower],
        "start": _rounded((curve.y_start + 0.5) * scale - 0.5),
        "end": _rounded((curve.y_end + 0.5) * scale - 0.5),
    }


def _region(apex: str) -> str:
    """Region of a curve by its apex level: T12 and L1 are the thoracolumbar junction."""
    if apex in ("T12", "L1"):
        return "thoracolumbar"
    return "thoracic" if apex.startswith("T") else "lumbar"


def _rounded(value: Any) -> Any:
    """Round every number inside JSON types to 3 places, as plain Python numbers."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 3)
    return value
