"""What is said of a segmented scan, the same by `sa2net predict`, in a batch and by the served model."""

import numpy as np
import numpy.typing as npt

from sa2net.anatomy import CLASSES, FOREGROUND
from sa2net.artifacts import ModelInfo
from sa2net.data.sweep import sweep_mask, width_of

INTENDED_USE = "research only"


def class_areas(mask: npt.NDArray[np.uint8], spacing_mm: tuple[float, float] | None) -> dict[str, dict[str, float]]:
    """Class name -> its id, its pixels, and its area in mm2 where the spacing is known.

    Args:
        mask: Class ids (H, W).
        spacing_mm: Size of the pixels (x, y), mm, where known.
    """
    pixels = np.bincount(mask.ravel(), minlength=len(CLASSES))
    areas: dict[str, dict[str, float]] = {}
    for item in CLASSES:
        areas[item.name] = {"id": item.id, "pixels": int(pixels[item.id])}
        if spacing_mm is not None:
            areas[item.name]["area_mm2"] = float(pixels[item.id]) * spacing_mm[0] * spacing_mm[1]
    return areas


def find_warnings(
    scan: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], info: ModelInfo, *, scale: float, scaled_by: str
) -> list[str]:
    """Where a scan or its mask lies outside what the model learnt from.

    Args:
        scan: Grey picture (H, W).
        mask: Class ids (H, W), as predicted.
        info: The `model.json` of the network.
        scale: Working-scale pixels per scan pixel.
        scaled_by: How that was found, `spacing` or `sweep width`.
    """
    masks = {item.name: mask == item.id for item in FOREGROUND}
    warnings = [f"no {name} was found" for name, found in masks.items() if not found.any()]
    # Seen at working scale, every scan has about the same width: what differs is the length beside it.
    inside = sweep_mask(scan)
    sweep = width_of(inside) * scale
    low, high = 0.5 * info.sweep_width, 2.0 * info.sweep_width
    if scaled_by == "spacing" and not low <= sweep <= high:
        warnings.append(
            f"the sweep is {sweep:.0f} px wide at working scale, the train scans {info.sweep_width}: check the pixel spacing"
        )
    for item in FOREGROUND:
        if item.name in info.bounds.grey and masks[item.name].any():
            grey = float(scan[masks[item.name]].mean())
            learnt = info.bounds.grey[item.name]
            if not learnt.low <= grey <= learnt.high:
                warnings.append(
                    f"mean grey of {item.label} is {grey:.0f}, {learnt.low:.0f}-{learnt.high:.0f} in the train scans"
                )
    return warnings + _unusual_shares(mask, int(np.count_nonzero(inside)), info)


def _unusual_shares(mask: npt.NDArray[np.uint8], sweep: int, info: ModelInfo) -> list[str]:
    """Classes that cover less or more of the sweep (px) than in any train scan."""
    warnings = []
    for item in FOREGROUND:
        learnt = info.bounds.area.get(item.name)
        share = int(np.count_nonzero(mask == item.id)) / max(sweep, 1)
        if learnt is not None and not learnt.low <= share <= learnt.high:
            usual = f"{100.0 * learnt.low:.0f}-{100.0 * learnt.high:.0f} %"
            warnings.append(f"{item.label} covers {100.0 * share:.1f} % of the sweep, {usual} in the train scans")
    return warnings
