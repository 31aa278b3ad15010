"""A first idea of where the spine runs: the middle of the band, moved to the middles of the levels that are known.

It only tells left from right and which tilt to expect; angles are never read from it. The operator follows the spine,
so that the band has most of its shape already: where levels are missing, the band fills in.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sa2net.scoliosis.band import LEVEL_SPACING, Band

Floats = npt.NDArray[np.float64]

_REACH = 1.6  # levels
_FEWEST = 4


@dataclass(frozen=True)
class Midline:
    """The band, and points on the spine.

    Attributes:
        points: Middles of levels (x, y), units; may be none. # (N, 2)
        band: The sweep.
    """

    points: Floats
    band: Band

    def at(self, y: float) -> tuple[float, float]:
        """Place x (units) and slope dx/dy of the spine at a height."""
        step = 0.7 * LEVEL_SPACING * self.band.width
        before, here, after = (float(x) for x in self.band.centre_at(np.array([y - step, y, y + step])))
        place, slope = here, (after - before) / (2.0 * step)
        if len(self.points) < _FEWEST:
            return place, slope
        moved, turned = self._moved(y)
        return place + moved, slope + turned

    def tilt_at(self, y: float) -> float:
        """Tilt of a level that is square to the spine, degrees; right end lower is positive."""
        return -float(np.degrees(np.arctan(self.at(y)[1])))

    def _moved(self, y: float) -> tuple[float, float]:
        """How far the spine lies from the middle of the band, and how that changes: local linear regression."""
        aside = self.points[:, 0] - self.band.centre_at(self.points[:, 1])
        away = self.points[:, 1] - y
        reach = max(_REACH * LEVEL_SPACING * self.band.width, float(np.sort(np.abs(away))[_FEWEST - 1]))
        weight = np.exp(-0.5 * (away / reach) ** 2)
        weight /= weight.sum()
        mean_away, mean_aside = float(weight @ away), float(weight @ aside)
        spread = float(weight @ (away - mean_away) ** 2)
        slope = float(weight @ ((away - mean_away) * (aside - mean_aside))) / max(spread, 1e-9)
        return mean_aside - slope * mean_away, slope
