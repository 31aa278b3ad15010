"""The angle that needs no network: tangents along the dark spinous column of the grey picture.

A baseline, for comparison alone. On a patient it is the spinous process angle, which follows the tips of the spinous
processes; where vertebrae are rotated these lie towards the inside of the curve, so that it underestimates the angle.
"""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from sa2net.scoliosis.band import LEVEL_SPACING, Band, find_band
from sa2net.scoliosis.curves import Curve, find_curves
from sa2net.scoliosis.spine import Observations, fit_spine

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

_CELLS = 130  # cells across the band
_SMOOTH = (0.05, 0.055)  # of the band's width, down and across: half the width of the column
_REACH = 0.3  # of the band's width: so far from its middle the column may run
_BESIDE = 0.13  # of the band's width: there muscle is brighter on both sides
_STEEP = 0.5  # cost of a step to the side, in standard deviations of the contrast
_ENDS = 0.45  # of a level: rows at either end that the first and last vertebra do not reach
_PER_LEVEL = 3


def column_curves(scan: Picture, spacing_mm: tuple[float, float] | None, smallest: float) -> list[Curve]:
    """Curves of the spinous column, from top to bottom; heights in mm, or px where the spacing is not known.

    Args:
        scan: Grey values. # (H, W)
        spacing_mm: Size of a pixel (x, y), mm.
        smallest: Smaller curves are left out but for the largest, degrees.

    Returns:
        The curves; empty where the picture holds no sweep.
    """
    scale = spacing_mm or (1.0, 1.0)
    band = find_band(scan, scan, scale)
    if band is None:
        return []
    y, x = _column(scan, band, scale)
    level = LEVEL_SPACING * band.width
    inside = (y > y[0] + _ENDS * level) & (y < y[-1] - 2.0 * _ENDS * level)
    y, x = y[inside], x[inside]
    count = max(int((y[-1] - y[0]) / level * _PER_LEVEL), 0) if len(y) > 1 else 0
    if count < 2 * _PER_LEVEL:
        return []
    parts = np.array_split(np.arange(len(y)), count)
    heights = np.array([y[part].mean() for part in parts])
    places = np.array([x[part].mean() for part in parts])
    seen = Observations(heights, places, np.full(count, np.nan), np.full(count, 1.0 / _PER_LEVEL), level)
    return find_curves(fit_spine(seen, tilts=False), smallest)


def _column(scan: Picture, band: Band, scale: tuple[float, float]) -> tuple[Floats, Floats]:
    """The darkest smooth way from top to bottom: heights and places, units."""
    cell = band.width / _CELLS
    rows = np.arange(band.rows[0], band.rows[-1], cell)
    centre = band.centre_at(rows)
    offsets = np.arange(-0.5 * band.width, 0.5 * band.width, cell)
    # A window that follows the band, one cell a sample.
    across = np.clip(((centre[:, None] + offsets) / scale[0]).astype(np.intp), 0, scan.shape[1] - 1)
    down = np.clip((rows / scale[1]).astype(np.intp), 0, scan.shape[0] - 1)
    grey = scan.astype(np.float32)[down[:, None], across]
    smooth = gaussian_filter(grey, (_SMOOTH[0] * _CELLS, _SMOOTH[1] * _CELLS))
    aside = round(_BESIDE * _CELLS)
    # Dark between brighter sides: the shadow of a rib at the edge is dark too, but has one bright side only.
    brighter = np.minimum(np.roll(smooth, aside, axis=1), np.roll(smooth, -aside, axis=1))
    near = np.abs(offsets) < _REACH * band.width
    window = (smooth - brighter)[:, near]
    way = _cheapest(window / (window.std() + 1e-6))
    return rows, centre + offsets[near][way]


def _cheapest(cost: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Column of the cheapest way in each row, at most one column aside a row; dynamic programming."""
    total = cost[0].astype(np.float64)
    came = np.zeros(cost.shape, dtype=np.int8)
    for row in range(1, len(cost)):
        padded = np.pad(total, 1, constant_values=np.inf)
        choices = np.stack([padded[:-2] + _STEEP, padded[1:-1], padded[2:] + _STEEP])
        came[row] = choices.argmin(axis=0) - 1
        total = choices.min(axis=0) + cost[row]
    way = np.zeros(len(cost), dtype=np.intp)
    way[-1] = int(total.argmin())
    for row in range(len(cost) - 1, 0, -1):
        way[row - 1] = way[row] + came[row, way[row]]
    return way
