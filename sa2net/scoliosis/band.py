"""How wide the sweep is and where its middle runs: the ruler for every size in a scan whose scale may be unknown.

Sizes of bones are expected as shares of the band's width, since the pixel spacing is often not known. The shares
were read off one real scan (band 393 px wide; processes 78 x 88 px, 229 px apart; lumps 276 px wide; levels 136 px
apart).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from sa2net.data.sweep import sweep_mask

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

PROCESS_AREA = 0.0336
"""Area of a thoracic process, share of the squared width of the band."""
PROCESS_LENGTH = 0.24
LUMP_AREA = 0.152
LUMP_WIDTH = 0.70
SEPARATION = 0.583
"""Distance of the two processes of a level."""
LEVEL_SPACING = 0.346

_SMOOTH = 0.25  # of the width: scallops of the band are shorter
_WORKING_WIDTH = 320


@dataclass(frozen=True)
class Band:
    """The sweep of one scan, in units (mm, or px where the spacing is not known).

    Attributes:
        width: Median width.
        rows: Heights, rising. # (N,)
        centre: Middle of the band there. # (N,)
        cut_above: The picture ends above before the band does.
        cut_below: The picture ends below before the band does.
    """

    width: float
    rows: Floats
    centre: Floats
    cut_above: bool
    cut_below: bool

    def centre_at(self, y: Floats | float) -> Floats:
        """Middle of the band at any height; straight on beyond its ends."""
        return np.asarray(np.interp(y, self.rows, self.centre))


def find_band(mask: Picture, scan: Picture | None, scale: tuple[float, float]) -> Band | None:
    """Find the band in the scan, or, without a scan, from how far the label map reaches to the sides.

    Args:
        mask: Class ids. # (H, W)
        scan: Grey values, where the picture is at hand. # (H, W)
        scale: Units a pixel, x and y.

    Returns:
        The band; None where there is nothing.
    """
    step = max(1, mask.shape[1] // _WORKING_WIDTH)
    seen = sweep_mask(np.ascontiguousarray(scan[::step, ::step])) if scan is not None else mask[::step, ::step] > 0
    rows = np.flatnonzero(seen.any(axis=1))
    if len(rows) < 3:
        return None
    first = seen[rows].argmax(axis=1)
    last = seen.shape[1] - 1 - seen[rows][:, ::-1].argmax(axis=1)
    widths = (last - first + 1) * step * scale[0]
    # A label map reaches the edges of the sweep only where it holds ribs.
    width = float(np.median(widths) if scan is not None else np.quantile(widths, 0.9))
    wide = widths > 0.6 * width
    if np.count_nonzero(wide) < 3:
        return None
    x_of, y_of = step * scale[0], step * scale[1]
    centre = np.interp(rows, rows[wide], 0.5 * (first + last)[wide])
    return Band(
        width=width,
        rows=rows * y_of,
        centre=np.asarray(gaussian_filter1d(centre, max(_SMOOTH * width / y_of, 1.0))) * x_of,
        cut_above=bool(seen[0].any()),
        cut_below=bool(seen[-1].any()),
    )
