"""The drawn anatomy of a phantom: sweep band, levels, and the outlines an annotator would draw.

All lengths are px at full scale (a picture 640 px wide), all sizes and their spread are those measured on a real
scan of that width. Outlines are smooth closed polygons; a mask is painted from them as a person does it: ribs
first, processes over them, lumps last. How visible a structure is in the picture is decided elsewhere.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d

from sa2net.anatomy import FOREGROUND
from sa2net.data.phantom_curve import SpineCurve, draw_curve

Array = NDArray[np.float64]

FULL_WIDTH = 640
"""Width of a picture at full scale, px."""
LEVEL_NAMES = tuple(f"T{number}" for number in range(1, 13)) + tuple(f"L{number}" for number in range(1, 6))
_SPACING = (105, 150, 151, 160, 150, 142, 136, 134, 132, 124, 112, 122, 146, 154, 152, 110)
_RIB, _PROCESS, _LUMP = (item.id for item in FOREGROUND)
_HEIGHT_RANGE = (2400, 2750)
_ROOM = 195.0  # so far the band may wander from side to side before it would leave the picture
_MASK_MARGIN = 8.0
# Upper edge of a lump from the crown outwards: (share of the half width, share of the rise).
_HAT_PROFILE = ((0.16, 0.95), (0.33, 0.76), (0.52, 0.53), (0.74, 0.4))
_FLAT_PROFILE = ((0.25, 0.98), (0.5, 0.86), (0.75, 0.7))


@dataclass(frozen=True)
class Sweep:
    """The band that the probe has passed: its two edges per row, its first and last row at the middle, its top cut.

    Attributes:
        left: (H,) left edge, px.
        right: (H,) right edge, px.
        top: Row of the top cut at the middle of the band, px.
        bottom: Last row, px.
    """

    left: Array
    right: Array
    top: float
    bottom: float

    @property
    def centre(self) -> Array:
        """(H,) middle of the band, px."""
        return 0.5 * (self.left + self.right)


@dataclass(frozen=True)
class Level:
    """One visible vertebra.

    Attributes:
        name: T1 to L5.
        kind: "process" (a pair of transverse processes with ribs) or "lump".
        left: Landmark (x, y) on the left of the picture, px: the middle of the process, or of the lump's wing.
        right: The same on the right.
        tilt: Tilt of the line through both, degrees, right end lower is positive.
        outlines: Class id -> closed polygons (N, 2), px; left before right.
    """

    name: str
    kind: str
    left: Array
    right: Array
    tilt: float
    outlines: dict[int, tuple[Array, ...]]


@dataclass(frozen=True)
class Anatomy:
    """Everything of a phantom that has a place: what the grey picture is painted over.

    Attributes:
        height: Rows of the picture at full scale.
        curve: The spine's midline in picture coordinates.
        level_rows: (17,) heights of T1 to L5, also of those that are not visible.
        levels: The visible levels from top to bottom.
        sweep: The band.
    """

    height: int
    curve: SpineCurve
    level_rows: Array
    levels: tuple[Level, ...]
    sweep: Sweep


def draw_anatomy(rng: np.random.Generator, angle: float) -> Anatomy:
    """Draw a spine with a largest curve of `angle` degrees, the band around it and its levels."""
    height = int(rng.integers(_HEIGHT_RANGE[0], _HEIGHT_RANGE[1] + 1))
    first = int(rng.random() < 0.25)  # T1 may lie above the sweep
    first_lump = 11 if rng.random() < 0.75 else 12  # T12 mostly looks like a lump
    lost = rng.random() < 0.15 and first_lump == 11  # L5 may be lost in the fading end
    last = len(LEVEL_NAMES) - int(lost)
    top = rng.uniform(55.0, 115.0)
    bottom = height - rng.uniform(15.0, 40.0)
    rows = _level_rows(rng, first, last, top + rng.uniform(48.0, 70.0), bottom - rng.uniform(170.0, 235.0))
    bent = draw_curve(rng, rows, float(height), angle)
    centre, half_width = _band(rng, bent, height)
    low, high = float((centre - half_width).min()), float((centre + half_width).max())
    slack = max(0.5 * (FULL_WIDTH - (high - low)) - 4.0, 0.0)
    shift = 0.5 * (FULL_WIDTH - low - high) + float(np.clip(rng.uniform(-20.0, 20.0), -slack, slack))
    curve = SpineCurve(y=bent.y, x=bent.x + shift, slope=bent.slope)
    sweep = Sweep(left=centre + shift - half_width, right=centre + shift + half_width, top=top, bottom=bottom)
    levels = tuple(
        _draw_level(rng, index, curve, rows, sweep, lump=index >= first_lump) for index in range(first, last)
    )
    return Anatomy(height=height, curve=curve, level_rows=rows, levels=levels, sweep=sweep)


def paint_mask(anatomy: Anatomy) -> NDArray[np.uint8]:
    """Paint the label map at full scale: (H, 640), 0-3."""
    picture = Image.new("L", (FULL_WIDTH, anatomy.height), 0)
    pen = ImageDraw.Draw(picture)
    for class_id in (_RIB, _PROCESS, _LUMP):
        for level in anatomy.levels:
            for outline in level.outlines.get(class_id, ()):
                corners = [(float(x), float(y)) for x, y in outline]
                if class_id == _LUMP:  # neighbours stay apart, as they are drawn by hand
                    pen.line([*corners, corners[0]], fill=0, width=9)
                pen.polygon(corners, fill=class_id)
    mask = np.array(picture)
    columns = np.arange(FULL_WIDTH)
    left, right = anatomy.sweep.left[:, None] - _MASK_MARGIN, anatomy.sweep.right[:, None] + _MASK_MARGIN
    mask[(columns < left) | (columns > right)] = 0
    return mask


def _level_rows(rng: np.random.Generator, first: int, last: int, top: float, bottom: float) -> Array:
    """(17,) heights of all levels, so that the visible ones reach from `top` to `bottom`."""
    gaps = np.array(_SPACING) * rng.normal(1.0, 0.05, size=len(_SPACING))
    rows = np.concatenate([[0.0], np.cumsum(gaps)])
    scale = (bottom - top) / (rows[last - 1] - rows[first])
    return np.asarray(top + (rows - rows[first]) * scale)


def _band(rng: np.random.Generator, curve: SpineCurve, height: int) -> tuple[Array, Array]:
    """Middle and half width of the band per row: the operator follows the spine loosely, in scallops."""
    rows = np.arange(height, dtype=float)
    followed = gaussian_filter1d(curve.x_at(rows), 110.0) * rng.uniform(0.72, 0.95)
    followed *= min(1.0, _ROOM / max(float(np.ptp(followed)), 1.0))
    knots = np.arange(-400.0, height + 800.0, rng.uniform(520.0, 760.0))
    drift = gaussian_filter1d(np.interp(rows, knots, rng.normal(0.0, 12.0, size=len(knots))), 90.0)
    scallop_rows = np.cumsum(rng.uniform(45.0, 190.0, size=60)) - 200.0
    sides = []
    for _ in range(2):
        own = np.interp(rows, scallop_rows, rng.normal(0.0, 6.5, size=60))
        sides.append(gaussian_filter1d(own, 5.0) + rng.normal(0.0, 1.1, size=height))
    shared = gaussian_filter1d(np.interp(rows, scallop_rows, rng.normal(0.0, 8.0, size=60)), 6.0)
    half = rng.normal(195.5, 3.5)
    left = followed + drift + shared + 0.35 * sides[0] - half
    right = followed + drift + shared + 0.35 * sides[1] + half
    return 0.5 * (left + right), 0.5 * (right - left)


def _draw_level(
    rng: np.random.Generator, index: int, curve: SpineCurve, rows: Array, sweep: Sweep, *, lump: bool
) -> Level:
    """Place one level: its line is square to the spine but for a jitter of 3-4 degrees."""
    tilt = float(-curve.slope_at(rows[index]) + rng.normal(0.0, 3.5))
    middle = np.array([float(curve.x_at(rows[index])) + rng.normal(0.0, 5.0), rows[index] + rng.normal(0.0, 3.0)])
    across = np.array([np.cos(np.radians(tilt)), np.sin(np.radians(tilt))])
    if lump:
        return _lump(rng, index, middle, across, tilt)
    separation = rng.normal(229.0 - 18.0 * max(index - 9, 0), 9.0)
    landmarks = [middle + side * 0.5 * separation * across for side in (-1.0, 1.0)]
    processes = tuple(_process(rng, point, side) for point, side in zip(landmarks, (-1, 1), strict=True))
    ribs = tuple(_rib(rng, index, point, side, sweep) for point, side in zip(landmarks, (-1, 1), strict=True))
    return Level(LEVEL_NAMES[index], "process", landmarks[0], landmarks[1], tilt, {_RIB: ribs, _PROCESS: processes})


def _process(rng: np.random.Generator, centre: Array, side: int) -> Array:
    """An egg about 94 x 71 px, upright to leaning outwards, with the dents of a hand-drawn line."""
    major, minor = rng.normal(94.0, 8.0), rng.normal(71.0, 6.5)
    lean = np.radians(side * rng.normal(62.0, 30.0))
    phase = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
    radius = np.ones_like(phase)
    for order, strength in ((2, 0.035), (3, 0.045), (4, 0.02)):
        radius += rng.normal(0.0, strength) * np.cos(order * phase + rng.uniform(0.0, 2.0 * np.pi))
    along, aside = 0.5 * major * radius * np.cos(phase), 0.5 * max(minor, 52.0) * radius * np.sin(phase)
    points = np.stack(
        [along * np.cos(lean) - aside * np.sin(lean), along * np.sin(lean) + aside * np.cos(lean)], axis=1
    )
    return np.asarray(points - _centroid(points) + centre)


def _rib(rng: np.random.Generator, index: int, process: Array, side: int, sweep: Sweep) -> Array:
    """A wedge from within the process blob to a little past the edge of the sweep."""
    climb = np.interp(index, [0, 2, 6, 8, 9.4, 10, 11], [4.0, -24.0, -38.0, -36.0, -8.0, 52.0, 66.0])
    climb += rng.normal(0.0, 11.0)
    row = int(np.clip(process[1] + climb, 0, len(sweep.left) - 1))
    edge = (sweep.left if side < 0 else sweep.right)[row] + side * rng.uniform(4.0, 9.0)
    length = max(side * (edge - process[0]), 34.0)
    inner, outer = rng.uniform(26.0, 36.0), rng.uniform(35.0, 48.0)
    top, bottom = rng.normal(0.0, 5.0), rng.normal(0.0, 5.0)
    bow = rng.normal(0.0, 5.0)
    outline = np.array(
        [
            [-6.0, -0.7 * inner],
            [0.3 * length, 0.35 * climb - inner + bow],
            [0.68 * length, 0.75 * climb - 0.5 * (inner + outer) + top + bow],
            [0.95 * length, climb - outer + top],
            [length, climb - 0.7 * outer],
            [length, climb],
            [length, climb + 0.7 * outer],
            [0.93 * length, climb + outer + bottom],
            [0.65 * length, 0.75 * climb + 0.45 * (inner + outer) + bottom],
            [0.3 * length, 0.35 * climb + 0.9 * inner],
            [-6.0, 0.7 * inner],
        ]
    )
    return _smooth(outline * [side, 1.0] + process)


def _lump(rng: np.random.Generator, index: int, middle: Array, across: Array, tilt: float) -> Level:
    """A wide hat whose wings hang; the lowest two are flat arcs."""
    half = 0.5 * rng.normal(276.0, 9.0)
    flat = index >= 15
    rise = rng.normal(66.0, 4.0) if flat else rng.normal(97.0, 8.0)  # from the wings' line up to the crown
    thick = rng.normal(72.0, 5.0) if flat else rng.normal(64.0, 6.0)
    sag = rng.uniform(20.0, 34.0) if flat else rng.uniform(6.0, 28.0)  # the lower edge hangs at the wings
    profile = _FLAT_PROFILE if flat else _HAT_PROFILE
    upper = []
    for side, hang, swell in (
        (-1, rng.normal(0.0, 6.0), rng.normal(0.0, 0.09)),
        (1, rng.normal(0.0, 6.0), rng.normal(0.0, 0.09)),
    ):
        shoulder = [
            (side * share * half, -(lift + swell * lift * (1.0 - lift) * 4.0) * rise) for share, lift in profile
        ]
        tip = [(side * 0.93 * half, hang - 0.46 * thick), (side * half, hang), (side * 0.93 * half, hang + 0.5 * thick)]
        foot = [(side * 0.55 * half, 0.5 * thick - 0.35 * sag)]
        upper.append(shoulder + tip + foot)
    crown, floor = (rng.normal(0.0, 6.0), -rise), (0.0, 0.5 * thick - sag)
    outline = np.array([crown, *upper[1], floor, *upper[0][::-1]])
    down = np.array([-across[1], across[0]])
    drop = 0.5 * (rise - 0.5 * thick) - 4.0  # the wings lie below the middle of the vertebra
    wings = np.array([[-0.8 * half, 0.0], [0.8 * half, 0.0]])
    polygon, landmarks = (
        points[:, :1] * across + (points[:, 1:] + drop) * down + middle for points in (_smooth(outline), wings)
    )
    return Level(LEVEL_NAMES[index], "lump", landmarks[0], landmarks[1], tilt, {_LUMP: (polygon,)})


def _smooth(corners: Array) -> Array:
    """A closed smooth line through the given corners: (N, 2) -> (96, 2). Centripetal, so that it does not overshoot."""
    closed = np.concatenate([corners, corners[:1]])
    steps = np.sqrt(np.hypot(*np.diff(closed, axis=0).T))
    places = np.concatenate([[0.0], np.cumsum(steps)])
    spline = CubicSpline(places, closed, bc_type="periodic")
    line = spline(np.linspace(0.0, places[-1], 96, endpoint=False))
    return np.asarray(gaussian_filter1d(line, 0.8, axis=0, mode="wrap"))


def _centroid(polygon: Array) -> Array:
    """Centre of area of a closed polygon."""
    following = np.roll(polygon, -1, axis=0)
    cross = polygon[:, 0] * following[:, 1] - following[:, 0] * polygon[:, 1]
    return np.asarray(((polygon + following) * cross[:, None]).sum(axis=0) / (3.0 * cross.sum()))
