"""A first idea of where the spine runs: local straight lines through middles of levels, or the middle of the band.

It only tells left from right and which tilt to expect; angles are never read from it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sa2net.scoliosis.band import LEVEL_SPACING, Band

Floats = npt.NDArray[np.float64]

_BANDWIDTH = 1.3  # levels
_FEWEST = 4


@dataclass(frozen=True)
class Midline:
    """Points on the spine, with the band behind them where they are too few.

    Attributes:
        points: Middles of levels (x, y), units. # (N, 2)
        band: The sweep.
    """

    points: Floats
    band: Band

    def at(self, y: float) -> tuple[float, float]:
        """Place x (units) and slope dx/dy of the spine at a height: local linear regression, Gaussian weights."""
        if len(self.points) < _FEWEST:
            step = LEVEL_SPACING * self.band.width
            before, here, after = self.band.centre_at(np.array([y - step, y, y + step]))
            return float(here), float(after - before) / (2.0 * step)
        reach = _BANDWIDTH * LEVEL_SPACING * self.band.width
        away = self.points[:, 1] - y
        reach = max(reach, float(np.sort(np.abs(away))[_FEWEST - 1]))
        weight = np.exp(-0.5 * (away / reach) ** 2)
        mean_y, mean_x = np.average(away, weights=weight), np.average(self.points[:, 0], weights=weight)
        spread = np.average((away - mean_y) ** 2, weights=weight)
        shared = np.average((away - mean_y) * (self.points[:, 0] - mean_x), weights=weight)
        slope = float(shared / max(spread, 1e-9))
        return float(mean_x - slope * mean_y), slope

    def tilt_at(self, y: float) -> float:
        """Tilt of a level that is square to the spine, degrees; right end lower is positive."""
        return -float(np.degrees(np.arctan(self.at(y)[1])))
