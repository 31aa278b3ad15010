"""From a label map to a `Measurement`: levels, smooth spine, curves with their uncertainty - or a refusal.

This is the one function that everything else calls: the verb, the served model, a page on which a person moves a line
(`measure_levels` starts from levels that are given).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from sa2net.config import MeasureConfig
from sa2net.scoliosis.curves import Curve, angle_of_lines, find_curves, read_angle
from sa2net.scoliosis.landmarks import Landmarks, Level, find_landmarks
from sa2net.scoliosis.naming import Naming, name_levels
from sa2net.scoliosis.refusal import refuse_curves, refuse_levels
from sa2net.scoliosis.result import (
    CurveResult,
    Estimates,
    LevelResult,
    Measurement,
    ModelIdentity,
    Point,
    Refusal,
    Severity,
    Spacing,
)
from sa2net.scoliosis.spine import Observations, Spine, fit_spine
from sa2net.scoliosis.threads import on_one_thread
from sa2net.scoliosis.uncertainty import influence, interval, standard_error

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]

_NOTABLE = 2.2  # standard errors between lines and midline; one phantom in ten has more
_SPINE_STEP = 4  # points of the grid between two that are written


@dataclass(frozen=True)
class Source:
    """Where a label map comes from, for the record.

    Attributes:
        scan: Name of the scan.
        mask: Whether a network made the label map, or it was given.
        model: Which network.
        unlike: What lies outside of what the network learnt from, in words.
    """

    scan: str = ""
    mask: Literal["network", "given"] = "given"
    model: ModelIdentity = field(default_factory=ModelIdentity)
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Spines:
    seen: Observations
    combined: Spine
    tilts: Spine
    midline: Spine


@on_one_thread
def measure(
    mask: Picture,
    *,
    cfg: MeasureConfig,
    scan: Picture | None = None,
    probabilities: Probabilities | None = None,
    spacing_mm: tuple[float, float] | None = None,
    others: Sequence[Picture] = (),
    source: Source | None = None,
) -> Measurement:
    """Measure the curves in a label map.

    Args:
        mask: Class ids. # (H, W)
        cfg: Limits and words.
        scan: The grey picture; the width of its sweep is the ruler for sizes. # (H, W)
        probabilities: Softmax over the classes. # (K, H, W)
        spacing_mm: Size of a pixel (x, y), mm; None takes pixels for squares, and says so.
        others: Other label maps of the same scan, for example of single test-time scales. # (H, W) each
        source: Where the label map comes from.
    """
    scale = spacing_mm or (1.0, 1.0)
    found = find_landmarks(mask, scan=scan, probabilities=probabilities, scale=scale)
    rest = [find_landmarks(other, scan=scan, scale=scale) for other in others]
    shape = (mask.shape[0], mask.shape[1])
    return measure_levels(found, shape, cfg=cfg, spacing_mm=spacing_mm, others=rest, source=source)


@on_one_thread
def measure_levels(
    found: Landmarks,
    shape: tuple[int, int],
    *,
    cfg: MeasureConfig,
    spacing_mm: tuple[float, float] | None = None,
    others: Sequence[Landmarks] = (),
    source: Source | None = None,
) -> Measurement:
    """Measure the curves of given levels; arguments as in `measure`, `shape` is that of the scan (H, W)."""
    source = source or Source()
    naming = name_levels(found)
    refusals = refuse_levels(found, naming, cfg, source.unlike)
    curves: list[CurveResult] = []
    spines: _Spines | None = None
    scale = spacing_mm or (1.0, 1.0)
    if not refusals:
        spines = _fit(found)
        rest = [_fit(other) for other in others if sum(level.has_line for level in other.levels) >= cfg.min_levels]
        curves = [
            _describe(curve, spines, rest, naming, source, scale[1])
            for curve in find_curves(spines.combined, cfg.smallest_curve_deg)
        ]
        refusals = refuse_curves(curves, found, cfg)
    measured = not refusals
    largest = max(curve.angle_deg for curve in curves) if measured else None
    outlying = spines.combined.outlying if spines else np.zeros(len(found.levels), dtype=bool)
    return Measurement(
        scan=source.scan,
        width=shape[1],
        height=shape[0],
        status="measured" if measured else "refused",
        refusals=tuple(refusals),
        warnings=_warnings(spacing_mm, naming, source, curves if measured else []),
        spacing=Spacing(
            x_mm=spacing_mm[0] if spacing_mm else None,
            y_mm=spacing_mm[1] if spacing_mm else None,
            source="given" if spacing_mm else "assumed square",
        ),
        mask_source=source.mask,
        model=source.model,
        levels=tuple(
            _level(level, naming.label(index), bool(outlying[index]), scale)
            for index, level in enumerate(naming.levels)
        ),
        levels_named=naming.certain,
        curves=tuple(curves) if measured else (),
        largest_angle_deg=largest,
        severity=_severity(largest, cfg),
        spine=_drawn(spines, scale) if measured and spines else (),
    )


def _fit(found: Landmarks) -> _Spines:
    seen = Observations.of(found.levels, found.unseen)
    return _Spines(seen, fit_spine(seen), fit_spine(seen, middles=False), fit_spine(seen, tilts=False))


def _describe(
    curve: Curve, spines: _Spines, rest: Sequence[_Spines], naming: Naming, source: Source, unit: float
) -> CurveResult:
    """One curve as it is written; `unit` is the size of a pixel along y in units."""
    seen = spines.seen
    tilts, midline = (read_angle(spine, curve, seen.spacing) for spine in (spines.tilts, spines.midline))
    lines = angle_of_lines(seen, curve)
    each = [read_angle(other.combined, curve, other.seen.spacing).angle for other in (spines, *rest)]
    error = standard_error(curve, each, source.mask)
    upper, apex, lower = (int(np.argmin(np.abs(seen.y - row))) for row in (curve.upper, curve.apex, curve.lower))
    region, certain = naming.region(apex)
    values = (curve.angle, tilts.angle, midline.angle)
    apart = abs(tilts.angle - midline.angle) / max(float(np.hypot(tilts.standard_error, midline.standard_error)), 1e-9)
    low, high = interval(curve.angle, error)
    return CurveResult(
        angle_deg=_rounded(curve.angle),
        standard_error_deg=_rounded(error),
        interval_90_deg=(_rounded(low), _rounded(high)),
        estimates=Estimates(
            combined=_rounded(curve.angle),
            tilts=_rounded(tilts.angle),
            midline=_rounded(midline.angle),
            lines=_rounded(lines) if np.isfinite(lines) else None,
        ),
        spread_deg=_rounded(max(values) - min(values)),
        disagreement=_rounded(apart),
        influence_deg=_rounded(influence(seen, spines.combined, curve)),
        region=region,
        region_certain=certain,
        convex=curve.convex,
        upper_end=naming.label(upper),
        apex=naming.label(apex),
        lower_end=naming.label(lower),
        upper_row=_rounded(curve.upper / unit),
        apex_row=_rounded(curve.apex / unit),
        lower_row=_rounded(curve.lower / unit),
        open_above=curve.open_above,
        open_below=curve.open_below,
    )


def _level(level: Level, label: str, outlying: bool, scale: tuple[float, float]) -> LevelResult:
    def place(point: Floats | None) -> Point | None:
        return None if point is None else (_rounded(point[0] / scale[0]), _rounded(point[1] / scale[1]))

    middle = place(level.middle)
    assert middle is not None  # noqa: S101 - a level has a middle
    return LevelResult(
        label=label,
        kind=level.kind,
        middle=middle,
        left=place(level.left),
        right=place(level.right),
        tilt_deg=_rounded(level.tilt) if level.has_line else None,
        confidence=_rounded(float(np.clip(level.confidence, 0.0, 1.0))),
        outlying=outlying,
    )


def _drawn(spines: _Spines, scale: tuple[float, float]) -> tuple[Point, ...]:
    """The smooth spine as points in px, through the middles of the levels."""
    spine, seen = spines.combined, spines.seen
    rise = np.tan(np.radians(spine.slope))
    path = np.concatenate([[0.0], np.cumsum(0.5 * (rise[1:] + rise[:-1]) * np.diff(spine.y))])
    path += np.average(seen.x - np.interp(seen.y, spine.y, path), weights=seen.weight)
    return tuple(
        (_rounded(x / scale[0]), _rounded(y / scale[1]))
        for x, y in zip(path[::_SPINE_STEP], spine.y[::_SPINE_STEP], strict=True)
    )


def _warnings(
    spacing_mm: tuple[float, float] | None, naming: Naming, source: Source, curves: Sequence[CurveResult]
) -> tuple[str, ...]:
    """What a reader should know beside the numbers."""
    said = list(source.unlike)
    if spacing_mm is None:
        said.append("the pixel spacing is not known: pixels are taken for squares, and every angle rests on that")
    if naming.levels and not naming.certain:
        said.append("the vertebrae cannot be named for certain: levels are numbered from the top")
    absent = sum(naming.missing)
    if absent:
        said.append(f"{absent} level{'s' if absent > 1 else ''} between others seem to be missing")
    said += [
        f"lines and midline of the {curve.region} curve say {curve.estimates.tilts:.0f} and {curve.estimates.midline:.0f} "
        f"degrees: {curve.disagreement:.1f} standard errors apart, more than is usual"
        for curve in curves
        if curve.disagreement > _NOTABLE
    ]
    said += [
        f"the {curve.region} angle changes by {curve.influence_deg:.0f} degrees if a single level is left out"
        for curve in curves
        if curve.influence_deg > max(5.0, 0.3 * curve.angle_deg)
    ]
    return tuple(said)


def _severity(angle: float | None, cfg: MeasureConfig) -> Severity | None:
    if angle is None or not cfg.severity:
        return None
    word = next((word for limit, word in cfg.severity_words if angle < limit), None)
    return Severity(word=word, source=cfg.severity_source) if word else None


def _rounded(value: float) -> float:
    """Two places: what lies behind them depends on the machine."""
    return round(float(value), 2)


__all__ = ["Refusal", "Source", "measure", "measure_levels"]
