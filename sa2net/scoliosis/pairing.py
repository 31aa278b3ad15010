"""Which left process belongs to which right one: an alignment of two ordered rows in which either may miss some.

Each level has one process on each side, in the same order from top to bottom. Both sides are therefore aligned as two
sequences are (Needleman and Wunsch, J. Mol. Biol. 48, 1970): a pair costs what its tilt and its width are off, a
process without a partner costs a fixed amount. One level's left never goes with two rights.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sa2net.scoliosis.band import SEPARATION
from sa2net.scoliosis.blobs import Blob
from sa2net.scoliosis.midline import Midline

Floats = npt.NDArray[np.float64]
Pair = tuple[Blob | None, Blob | None]

_TILT_SPREAD = 8.0  # degrees: jitter of a line, and error of the expected tilt
_WIDTH_SPREAD = 0.13  # of the distance of the two sides
_LONE = 4.0  # cost of a process without a partner: a pair may cost twice as much


def split_sides(blobs: Sequence[Blob], midline: Midline) -> tuple[list[Blob], list[Blob]]:
    """Left and right of the midline, each from top to bottom."""
    sides: tuple[list[Blob], list[Blob]] = ([], [])
    for blob in sorted(blobs, key=lambda item: float(item.centre[1])):
        place, slope = midline.at(float(blob.centre[1]))
        # Where the spine leans, a process lies beside a point of it that is not at its own height.
        aside = float(blob.centre[0]) - place
        nearest, _ = midline.at(float(blob.centre[1]) + aside * slope / (1.0 + slope**2))
        sides[int(blob.centre[0] > nearest)].append(blob)
    return sides


def align(left: Sequence[Blob], right: Sequence[Blob], midline: Midline, separation: float) -> list[Pair]:
    """The cheapest alignment of both sides.

    Args:
        left: Processes on the left, from top to bottom.
        right: The same on the right.
        midline: Where the spine runs.
        separation: Usual distance of the two processes of a level, units.

    Returns:
        Pairs from top to bottom, None where a partner is missing.
    """
    cost = np.zeros((len(left) + 1, len(right) + 1))
    cost[:, 0], cost[0, :] = _LONE * np.arange(len(left) + 1), _LONE * np.arange(len(right) + 1)
    for row, first in enumerate(left, start=1):
        for column, second in enumerate(right, start=1):
            together = cost[row - 1, column - 1] + _cost(first, second, midline, separation)
            cost[row, column] = min(together, cost[row - 1, column] + _LONE, cost[row, column - 1] + _LONE)
    pairs: list[Pair] = []
    row, column = len(left), len(right)
    while row or column:
        if row and cost[row, column] == cost[row - 1, column] + _LONE:
            row -= 1
            pairs.append((left[row], None))
        elif column and cost[row, column] == cost[row, column - 1] + _LONE:
            column -= 1
            pairs.append((None, right[column]))
        else:
            row, column = row - 1, column - 1
            pairs.append((left[row], right[column]))
    return pairs[::-1]


def usual_separation(pairs: Sequence[Pair], band_width: float) -> float:
    """Median distance of paired processes, kept within what a spine of this band can have; units."""
    expected = SEPARATION * band_width
    seen = [float(np.hypot(*(right.centre - left.centre))) for left, right in pairs if left and right]
    return float(np.clip(np.median(seen), 0.7 * expected, 1.3 * expected)) if len(seen) > 2 else expected


def tilt_of(left: Floats, right: Floats) -> float:
    """Tilt of the line through two points (x, y), degrees; right end lower is positive."""
    return float(np.degrees(np.arctan2(right[1] - left[1], right[0] - left[0])))


def _cost(left: Blob, right: Blob, midline: Midline, separation: float) -> float:
    """How unlike a level a pair looks: squared deviations in units of their usual spread."""
    across, down = (float(value) for value in right.centre - left.centre)
    width = (math.hypot(across, down) / separation - 1.0) / _WIDTH_SPREAD
    if width**2 > 2.0 * _LONE:
        return width**2
    tilt = math.degrees(math.atan2(down, across)) - midline.tilt_at(float(left.centre[1]) + 0.5 * down)
    return (tilt / _TILT_SPREAD) ** 2 + width**2
