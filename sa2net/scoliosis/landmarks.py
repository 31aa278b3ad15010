"""From a label map to the ordered levels of the spine: a line each, how sure it is, and what was left out.

A *level* is one vertebra: in the thorax a pair of transverse processes, in the lumbar part one lump with two wings.
Label maps of a network have fragments, merged neighbours, blobs that are none, and sides that are missing; each is
dealt with here, so that everything behind this module sees levels only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import ConvexHull, QhullError

from sa2net.anatomy import FOREGROUND
from sa2net.scoliosis.band import (
    LEVEL_SPACING,
    LUMP_AREA,
    LUMP_WIDTH,
    PROCESS_AREA,
    PROCESS_LENGTH,
    SEPARATION,
    Band,
    find_band,
)
from sa2net.scoliosis.blobs import Blob, Expected, find_blobs
from sa2net.scoliosis.midline import Midline
from sa2net.scoliosis.pairing import Pair, align, split_sides, tilt_of, usual_separation

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.float32]

_RIB, _PROCESS, _LUMP = FOREGROUND
FULLEST = 0.6
"""Share of the band that bones can cover; 0.3-0.38 is usual."""
_ROUNDS = 4
_FEW = 3
_CROWDED = 0.45  # of the usual spacing: two levels closer than this are one
_WING = 0.8  # of the half width: where the line of a lump ends
_BEYOND = (0.5, 1.45)  # levels that the sweep usually goes on above T1 and below L5
_HIDDEN = 0.35  # levels: less says nothing
_WITHOUT_RIB = 0.85
_DOUBTFUL = 0.02  # less sure blobs are no lumps
_LONGISH = 2.2  # a lump is at least so many times as wide as high (standard deviations)
_SOLID = 0.85  # share of its convex hull that a lump fills
_CELLS = 65  # cells across the band in which dents are looked for
_LONE = 0.5


@dataclass(frozen=True)
class Level:
    """One vertebra; points (x, y) in units.

    Attributes:
        kind: "process" for a pair of transverse processes, "lump" for a lumbar lump.
        middle: Point on the spine; estimated where a side is missing. # (2,)
        left: Left end of its line; None where that side is missing. # (2,)
        right: The same on the right. # (2,)
        confidence: 0-1; from the class probabilities inside, and from how usual size and width are.
        name: T1 to L5 where it is certain, else empty.
    """

    kind: Literal["process", "lump"]
    middle: Floats
    left: Floats | None
    right: Floats | None
    confidence: float
    name: str = ""

    @property
    def tilt(self) -> float:
        """Tilt of its line, degrees, right end lower is positive; NaN where a side is missing."""
        return tilt_of(self.left, self.right) if self.left is not None and self.right is not None else float("nan")

    @property
    def has_line(self) -> bool:
        """Whether both sides are known."""
        return self.left is not None and self.right is not None


@dataclass(frozen=True)
class Landmarks:
    """All levels of one scan.

    Attributes:
        levels: From top to bottom.
        band: The sweep; None where the picture holds nothing.
        ignored: Blobs of processes and lumps that became no level.
        hats_upright: Share of the lumps whose crown points up; NaN without lumps.
        foreground: Share of the band's area that is labelled; above FULLEST no levels are looked for.
        sides: Processes on the left and on the right of the spine.
    """

    levels: tuple[Level, ...]
    band: Band | None
    ignored: int
    hats_upright: float
    foreground: float
    sides: tuple[int, int] = (0, 0)

    @property
    def spacing(self) -> float:
        """Median distance of neighbouring levels along the spine, units; 0 with fewer than two levels."""
        return _median_spacing(self.levels)

    @property
    def beyond(self) -> tuple[float, float]:
        """How far the sweep goes on above the first and below the last level, in usual heights of a level."""
        if self.band is None or not self.levels:
            return 0.0, 0.0
        step = LEVEL_SPACING * self.band.width
        above = (float(self.levels[0].middle[1]) - float(self.band.rows[0])) / step
        return above, (float(self.band.rows[-1]) - float(self.levels[-1].middle[1])) / step

    @property
    def unseen(self) -> tuple[float, float]:
        """How far levels seem to go on unseen above the first and below the last one, units."""
        if self.band is None:
            return 0.0, 0.0
        hidden = (length - usual for length, usual in zip(self.beyond, _BEYOND, strict=True))
        above, below = (LEVEL_SPACING * self.band.width * (item if item > _HIDDEN else 0.0) for item in hidden)
        return above, below


def find_landmarks(
    mask: Picture,
    *,
    scan: Picture | None = None,
    probabilities: Probabilities | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Landmarks:
    """Find the levels in a label map.

    Args:
        mask: Class ids. # (H, W)
        scan: The grey picture, where it is at hand: the width of its sweep is the ruler. # (H, W)
        probabilities: Softmax over the classes. # (K, H, W)
        scale: Units a pixel, x and y: the pixel spacing in mm, or (1, 1).

    Returns:
        What was found; nothing at all is an answer too.
    """
    band = find_band(mask, scan, scale)
    if band is None:
        return Landmarks((), None, 0, float("nan"), 0.0)
    area = float(np.count_nonzero(mask)) * scale[0] * scale[1] / (band.width * max(float(np.ptp(band.rows)), 1e-9))
    if area > FULLEST:
        return Landmarks((), band, 0, float("nan"), area)

    along_band = Midline(np.empty((0, 2)), band)

    def blobs_of(class_id: int, area: float, length: float, stacked: bool) -> list[Blob]:
        tilt_at = along_band.tilt_at if stacked else None
        expected = Expected(area * band.width**2, length * band.width, band.width, tilt_at)
        probability = probabilities[class_id] if probabilities is not None else None
        return find_blobs(mask == class_id, probability, scale, expected)

    processes = blobs_of(_PROCESS.id, PROCESS_AREA, PROCESS_LENGTH, False)
    lumps = blobs_of(_LUMP.id, LUMP_AREA, LUMP_WIDTH, True)
    ribs = blobs_of(_RIB.id, PROCESS_AREA, PROCESS_LENGTH, False)
    lump_levels, upright = _lump_levels(lumps, band)
    pairs, separation, midline = _paired(processes, lump_levels, band)
    found = _process_levels(pairs, separation, midline, ribs, band) + lump_levels
    levels = _uncrowded(sorted(found, key=lambda level: float(level.middle[1])), band)
    used = sum(2 if level.has_line and level.kind == "process" else 1 for level in levels)
    sides = tuple(sum(pair[side] is not None for pair in pairs) for side in (0, 1))
    return Landmarks(tuple(levels), band, len(processes) + len(lumps) - used, upright, area, (sides[0], sides[1]))


def _lump_levels(lumps: Sequence[Blob], band: Band) -> tuple[list[Level], float]:
    """A level of each lump that is wide enough, and the share of them whose crown points up."""
    levels, crowns = [], []
    widest = [width for lump in lumps if (width := _lump_line(lump)[2]) > 0.6 * LUMP_WIDTH * band.width]
    usual_width = float(np.median(widest)) if len(widest) > 2 else LUMP_WIDTH * band.width
    usual_area = float(np.median([lump.area for lump in lumps])) if len(lumps) > 2 else LUMP_AREA * band.width**2
    for lump in lumps:
        middle, along, width = _lump_line(lump)
        if not 0.5 < width / usual_width < 1.6:
            continue
        arm = 0.5 * _WING * width * along
        below = np.array([-along[1], along[0]])
        crowns.append(float((lump.centre - middle) @ below) < 0.0)
        sure = lump.probability * _usual(width, usual_width, 0.12) * _usual(lump.area, usual_area, 0.35)
        sure *= _shape(lump, along, (lump.centre - middle) / width, band.width / _CELLS)
        if sure > _DOUBTFUL:
            levels.append(Level("lump", middle, middle - arm, middle + arm, sure))
    return levels, float(np.mean(crowns)) if crowns else float("nan")


def _shape(lump: Blob, along: Floats, aside: Floats, cell: float) -> float:
    """How much a blob looks like a lump, 0-1: wide, without deep dents, the crown over the middle of the wings.

    Lumps that grew together or fell apart are none of that; their lines err by ten degrees instead of three.
    """
    centred = lump.points - lump.points.mean(axis=0)
    across = np.array([-along[1], along[0]])
    longish = float(np.std(centred @ along) / max(float(np.std(centred @ across)), 1e-9))
    cells = np.unique((lump.points / cell).astype(np.intp), axis=0)  # coarse, so that missing pixels are no dents
    try:
        hull = ConvexHull(cells)
    except QhullError:  # all points on one line
        return 0.0
    # Lattice points in the hull by Pick's theorem; in two dimensions qhull calls the perimeter area.
    solid = len(cells) / (float(hull.volume) + 0.5 * float(hull.area) + 1.0)
    return (
        _usual(min(longish, _LONGISH), _LONGISH, 0.3)
        * _usual(min(solid, _SOLID), _SOLID, 0.08)
        * float(np.exp(-0.5 * (float(aside @ along) / 0.03) ** 2))
    )


def _lump_line(lump: Blob) -> tuple[Floats, Floats, float]:
    """Middle of the wings, direction to the right (unit vector) and width of a lump.

    The direction is that of the line through the centres of both halves: a crown that leans to one side turns it less
    than it turns the principal axis, from which it starts.
    """
    centred = lump.points - lump.points.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    along = axes[:, 1] * (1.0 if axes[0, 1] >= 0.0 else -1.0)
    for _ in range(2):
        right_half = centred @ along >= np.median(centred @ along)
        direction = centred[right_half].mean(axis=0) - centred[~right_half].mean(axis=0)
        along = direction / max(float(np.hypot(*direction)), 1e-9)
    place = centred @ along
    low, high = np.quantile(place, [0.1, 0.9])
    left, right = centred[place <= low].mean(axis=0), centred[place >= high].mean(axis=0)
    ends = np.quantile(place, [0.005, 0.995])
    return lump.points.mean(axis=0) + 0.5 * (left + right), along, float(ends[1] - ends[0])


def _paired(processes: Sequence[Blob], lump_levels: Sequence[Level], band: Band) -> tuple[list[Pair], float, Midline]:
    """Pair the processes; sides, expected tilt and usual width are learnt again from the pairs of the round before."""
    below = [level.middle for level in lump_levels]
    midline = Midline(np.empty((0, 2)), band)
    separation = SEPARATION * band.width
    pairs: list[Pair] = []
    for _ in range(_ROUNDS):
        pairs = align(*split_sides(processes, midline), midline, separation)
        separation = usual_separation(pairs, band.width)
        middles = [0.5 * (left.centre + right.centre) for left, right in pairs if left and right]
        # Lumps alone do not say where the thorax is: without pairs the band has to.
        known = middles + below if len(middles) >= _FEW else []
        midline = Midline(np.array(known).reshape(-1, 2), band)
    return pairs, separation, midline


def _process_levels(
    pairs: Sequence[Pair], separation: float, midline: Midline, ribs: Sequence[Blob], band: Band
) -> list[Level]:
    """A level of each pair, and of each lone process that stands where a process should."""
    areas = [blob.area for pair in pairs for blob in pair if blob]
    usual_area = float(np.median(areas)) if len(areas) > 4 else PROCESS_AREA * band.width**2
    levels: list[Level] = []
    lone: list[Level] = []
    for left, right in pairs:
        sides = [blob for blob in (left, right) if blob]
        sure = float(np.mean([blob.probability * _usual(blob.area, usual_area, 0.6) for blob in sides]))
        if not any(_has_rib(blob, ribs, band) for blob in sides):
            sure *= _WITHOUT_RIB
        if left and right:
            width = float(np.hypot(*(right.centre - left.centre)))
            sure *= _usual(width, separation, 0.15)
            levels.append(Level("process", 0.5 * (left.centre + right.centre), left.centre, right.centre, sure))
        else:
            place = _lone_level(left, right, separation, midline)
            if place is not None:
                lone.append(replace(place, confidence=_LONE * sure))
    for level in lone:
        if all(abs(level.middle[1] - other.middle[1]) > 0.5 * LEVEL_SPACING * band.width for other in levels):
            levels.append(level)
    return levels


def _lone_level(left: Blob | None, right: Blob | None, separation: float, midline: Midline) -> Level | None:
    """A level of which one side shows: its middle lies half a width to the other side, square to the spine."""
    blob, side = (left, 1.0) if left else (right, -1.0)
    if blob is None:
        return None
    tilt = np.radians(midline.tilt_at(float(blob.centre[1])))
    middle = blob.centre + side * 0.5 * separation * np.array([np.cos(tilt), np.sin(tilt)])
    place, _ = midline.at(float(middle[1]))
    if abs(place - float(middle[0])) > 0.3 * separation:
        return None
    return Level("process", middle, left.centre if left else None, right.centre if right else None, 0.0)


def _has_rib(process: Blob, ribs: Sequence[Blob], band: Band) -> bool:
    """Whether a rib lies beside a process."""
    return any(float(np.hypot(*(rib.centre - process.centre))) < 0.4 * band.width for rib in ribs)


def _uncrowded(levels: Sequence[Level], band: Band) -> list[Level]:
    """Drop the less sure one of two levels that stand too close to be two."""
    kept: list[Level] = []
    limit = _CROWDED * (_median_spacing(levels) or LEVEL_SPACING * band.width)
    for level in levels:
        if kept and float(np.hypot(*(level.middle - kept[-1].middle))) < limit:
            if level.confidence > kept[-1].confidence:
                kept[-1] = level
            continue
        kept.append(level)
    return kept


def _median_spacing(levels: Sequence[Level]) -> float:
    if len(levels) < 2:
        return 0.0
    steps = np.diff([level.middle for level in levels], axis=0)
    return float(np.median(np.hypot(steps[:, 0], steps[:, 1])))


def _usual(value: float, typical: float, spread: float) -> float:
    """1 for the typical value, falling off with the logarithm of the ratio; `spread` is its standard deviation."""
    if value <= 0.0 or typical <= 0.0:
        return 0.0
    return float(np.exp(-0.5 * (np.log(value / typical) / spread) ** 2))
