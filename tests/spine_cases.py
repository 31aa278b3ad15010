"""Label maps of drawn spines whose curve is known, and ways to spoil them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from sa2net.data.phantom_anatomy import LEVEL_NAMES, Anatomy, draw_anatomy, paint_mask
from sa2net.data.phantom_curve import MeasuredCurve, measure_curves

Picture = npt.NDArray[np.uint8]
RIB, PROCESS, LUMP = 1, 2, 3


@dataclass(frozen=True)
class Drawn:
    """A drawn label map; rows and columns in px."""

    mask: Picture
    anatomy: Anatomy
    curves: tuple[MeasuredCurve, ...]

    def __repr__(self) -> str:
        return f"Drawn({self.largest.angle:.1f} degrees, {self.mask.shape[0]} rows)"  # Hypothesis prints what fails

    @property
    def largest(self) -> MeasuredCurve:
        return max(self.curves, key=lambda curve: curve.angle)

    @property
    def scan(self) -> Picture:
        """A sweep without anything in it: only its width is looked at."""
        sweep = self.anatomy.sweep
        rows, columns = np.mgrid[0 : self.mask.shape[0], 0 : self.mask.shape[1]]
        inside = (columns > sweep.left[:, None]) & (columns < sweep.right[:, None])
        inside &= (rows > sweep.top) & (rows < sweep.bottom)
        return np.where(inside, 120, 0).astype(np.uint8)


def draw(seed: int, angle: float) -> Drawn:
    """A label map at full scale, 640 px wide, whose largest curve has an angle."""
    anatomy = draw_anatomy(np.random.default_rng([seed, 4711]), angle)
    rows = [anatomy.level_rows[LEVEL_NAMES.index(level.name)] for level in anatomy.levels]
    inside = (anatomy.curve.y >= rows[0]) & (anatomy.curve.y <= rows[-1])
    curves = measure_curves(anatomy.curve.x[inside], anatomy.curve.y[inside])
    return Drawn(paint_mask(anatomy), anatomy, tuple(curves))


def without_levels(drawn: Drawn, indices: list[int]) -> Picture:
    """The label map without processes, ribs and lumps of some levels."""
    mask = drawn.mask.copy()
    for index in indices:
        level = drawn.anatomy.levels[index]
        for point in (level.left, level.right) if level.kind == "process" else (0.5 * (level.left + level.right),):
            _erase(mask, point, PROCESS if level.kind == "process" else LUMP)
    return mask


def without_side(drawn: Drawn, side: str, indices: list[int] | None = None) -> Picture:
    """The label map without the processes of one side, of all levels or of some."""
    mask = drawn.mask.copy()
    for index, level in enumerate(drawn.anatomy.levels):
        if level.kind == "process" and (indices is None or index in indices):
            _erase(mask, level.left if side == "left" else level.right, PROCESS)
    return mask


def bridged(mask: Picture, label: int, rows: int) -> Picture:
    """Neighbours of a class grown together from top to bottom."""
    grown = ndimage.binary_closing(np.pad(mask == label, rows), np.ones((rows, 1), bool))[rows:-rows, rows:-rows]
    return np.where(grown & ((mask == 0) | (mask == RIB)), label, mask).astype(np.uint8)


def _erase(mask: Picture, point: npt.NDArray[np.float64], label: int) -> None:
    labels, _ = ndimage.label(mask == label, np.ones((3, 3), bool))
    distances = np.hypot(*(np.argwhere(labels > 0) - point[::-1]).T)
    nearest = np.argwhere(labels > 0)[int(distances.argmin())]
    mask[labels == labels[tuple(nearest)]] = 0
