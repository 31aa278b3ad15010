"""How sure an angle is: what the levels' errors do to it, what one level does to it, and what other label maps say.

The standard error joins, in squares, the error that follows from the covariance of the smooth spine (errors of lines
and middles as this scan shows them, gaps, and how freely spines bend) and, where there are several label maps of one
scan (test-time scales), their scatter. A factor that was fitted on phantoms scales it.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from sa2net.scoliosis.curves import Curve, read_angle
from sa2net.scoliosis.spine import Observations, Spine, fit_spine

CALIBRATION = {"network": 1.1, "given": 0.95}
"""Factor on the standard error by where the label map comes from, so that 90 % intervals hold about 90 % of the true
angles of phantoms. Fitted on 200 phantoms of other seeds than those of the reported table (`benchmarks/angle.py
--calibrate`): 1.10 for masks of a network, 0.90 for perfect ones; given masks are not perfect."""
_NINETY = 1.6448536269514722  # quantile of the normal distribution


def standard_error(curve: Curve, angles: Sequence[float], source: Literal["network", "given"]) -> float:
    """Standard error of the angle of a curve, degrees.

    Args:
        curve: The curve.
        angles: Angles of this curve in each label map of the scan; fewer than two say nothing.
        source: Where the label map comes from.
    """
    scatter = float(np.std(angles, ddof=1)) if len(angles) > 1 else 0.0
    return CALIBRATION[source] * float(np.hypot(curve.standard_error, scatter))


def interval(angle: float, error: float) -> tuple[float, float]:
    """The 90 % interval of an angle, degrees; not below 0."""
    return max(angle - _NINETY * error, 0.0), angle + _NINETY * error


def influence(seen: Observations, spine: Spine, curve: Curve) -> float:
    """Largest change of the angle of a curve when one level is left out, degrees; with the scales of the whole."""
    margin = 2.0 * seen.spacing
    near = np.flatnonzero((seen.y >= curve.upper - margin) & (seen.y <= curve.lower + margin))
    whole = read_angle(spine, curve, seen.spacing).angle
    changes = [0.0]
    for index in near:
        if len(seen.y) <= 5:
            break
        without = fit_spine(seen.without(int(index)), errors=spine.errors)
        changes.append(abs(read_angle(without, curve, seen.spacing).angle - whole))
    return max(changes)
