"""The grey picture of a phantom: muscle, spinous column, shadows of the bones, speckle.

Grey values are put together as log-odds and squashed by a logistic curve at the end: on a real scan the grey inside
the sweep is close to a logistic of a normal variable, and soft saturation at both ends comes for free. The numbers
below are log-odds, read off a real scan's mean profiles; positions are level numbers (0 = T1, 16 = L5) and px beside
the midline at full scale.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from sa2net.data.phantom_anatomy import FULL_WIDTH, Anatomy, Level

Array = NDArray[np.float64]
Field = NDArray[np.float32]

_LEVEL = (-1.0, 0.0, 1.0, 2.0, 3.2, 4.5, 6.0, 7.5, 8.5, 9.5, 10.4, 11.4, 13.0, 14.5, 15.3, 16.2, 17.5)
_PLATEAU = (0.1, 0.3, 0.8, 0.9, 0.8, 0.9, 1.1, 1.3, 1.3, 1.1, 0.9, 0.65, 0.75, 0.65, 0.3, -0.25, -1.0)
_MUSCLE = (0.1, 0.1, 0.2, 0.4, 0.9, 1.8, 2.1, 1.4, 0.8, 0.2, -0.2, -0.3, -0.3, -0.4, -0.3, 0.0, 0.2)
_COLUMN = (3.0, 3.0, 3.2, 2.6, 1.9, 1.6, 1.7, 2.1, 2.6, 3.0, 3.1, 2.5, 2.6, 2.7, 2.5, 1.9, 1.0)
_COLUMN_WIDTH = (25.0, 24.0, 24.0, 23.0, 22.0, 22.0, 23.0, 24.0, 25.0, 27.0, 29.0, 25.0, 22.0, 22.0, 23.0, 25.0, 30.0)
_FLANK = (-0.7, -0.3, 0.0, 0.0, 0.0, 0.0, 0.1, 0.3, 0.4, 0.5, 0.5, 0.5, 0.7, 0.6, -0.2, -1.0, -1.5)
_DARKEST = np.float32(-2.9)
"""Shadows over shadows do not add up: towards this value the log-odds level off."""
_GAIN = 1.08
"""Factor on all log-odds: the mean profiles above are a little flatter than the picture they were read from."""
_SLANT = 0.06
"""Rows that a frame of the probe climbs per column: frames lie at about 3.4 degrees to the picture's rows."""


@dataclass(frozen=True)
class Look:
    """How one device renders.

    Attributes:
        name: Written to scans.csv; invented.
        spacing: Size of a pixel at full scale, mm.
        contrast: Factor on the log-odds.
        brightness: Added to the log-odds.
        speckle: Factor on the speckle.
    """

    name: str
    spacing: float
    contrast: float
    brightness: float
    speckle: float


LOOKS = (
    Look("phantom-a", 0.185, 1.0, -0.08, 1.0),
    Look("phantom-b", 0.172, 0.92, 0.04, 1.08),
    Look("phantom-c", 0.198, 1.06, -0.16, 0.92),
)


def draw_look(rng: np.random.Generator) -> Look:
    """A device that is none of `LOOKS`: each property evenly from a range about twice as wide as theirs."""
    spacing, contrast, brightness, speckle = rng.uniform((0.16, 0.8, -0.35, 0.7), (0.21, 1.2, 0.25, 1.35))
    return Look("phantom-drawn", float(spacing), float(contrast), float(brightness), float(speckle))


def paint_grey(rng: np.random.Generator, anatomy: Anatomy, look: Look) -> Field:
    """Paint the tissue at full scale, without sweep edges: (H, 640) log-odds of the grey."""
    rows = np.arange(anatomy.height, dtype=float)
    level = _level_of(rows, anatomy.level_rows)
    field = _soft_tissue(rng, anatomy, rows, level)
    field += _clouds(rng, anatomy.height, level)
    _shade_bones(rng, field, anatomy)
    field = _DARKEST + np.logaddexp(1.6 * (field - _DARKEST), np.float32(0.0)) / np.float32(1.6)
    strength = np.sqrt(1.0 + np.exp(1.3 * np.minimum(field, np.float32(1.6))))  # echoes are noisier than shadows
    field += strength * _speckle(rng, anatomy.height, level) * np.float32(look.speckle)
    return np.asarray(field * np.float32(_GAIN * look.contrast) + np.float32(look.brightness), dtype=np.float32)


def _level_of(rows: Array, level_rows: Array) -> Array:
    """(H,) level number of every row, as a fraction; it runs on evenly beyond T1 and L5."""
    ends = np.concatenate([[level_rows[0] - 150.0], level_rows, [level_rows[-1] + 220.0]])
    return np.asarray(np.interp(rows, ends, np.arange(-1.0, len(level_rows) + 1.0)))


def squash(field: Field) -> Field:
    """Log-odds to grey 0-255; pure black and pure white are reached."""
    return np.asarray(np.clip(263.0 / (1.0 + np.exp(-field)) - 4.0, 0.0, 255.0), dtype=np.float32)


def _wander(rng: np.random.Generator, height: int, length: float, spread: float) -> Array:
    """A smooth random function of the row with a correlation length of `length` px and a standard deviation."""
    knots = rng.normal(size=int(height / length) + 6)
    values = np.interp(np.arange(height) / length + 1.0 + rng.random(), np.arange(len(knots)), knots)
    return gaussian_filter1d(values, 0.4 * length) * spread * 1.5


def _soft_tissue(rng: np.random.Generator, anatomy: Anatomy, rows: Array, level: Array) -> Field:
    """Muscle plateau, the bright strips beside the midline, and the dark spinous column."""
    height = anatomy.height
    tilt = np.cos(np.radians(anatomy.curve.slope_at(rows)))
    midline = anatomy.curve.x_at(rows) + _wander(rng, height, 60.0, 2.0)
    beside = ((np.arange(FULL_WIDTH)[None, :] - midline[:, None]) * tilt[:, None]).astype(np.float32)  # (H, 640)

    plateau = np.interp(level, _LEVEL, _PLATEAU) + rng.normal(0.0, 0.15) + _wander(rng, height, 130.0, 0.22)
    muscle = np.interp(level, _LEVEL, _MUSCLE) * rng.uniform(0.75, 1.2)
    column = np.interp(level, _LEVEL, _COLUMN) * rng.uniform(0.85, 1.2) * np.exp(_wander(rng, height, 110.0, 0.1))
    width = np.interp(level, _LEVEL, _COLUMN_WIDTH) * rng.uniform(0.9, 1.1) * np.exp(_wander(rng, height, 80.0, 0.1))
    sides = [_wander(rng, height, 210.0, 0.25) for _ in range(2)]

    distance = np.abs(beside)
    field = np.where(beside < 0.0, sides[0][:, None], sides[1][:, None]).astype(np.float32)
    field *= np.minimum(distance / 60.0, 1.0)
    field += plateau[:, None].astype(np.float32)
    flank = np.interp(level, _LEVEL, _FLANK) * rng.uniform(0.6, 1.2)
    field += flank[:, None].astype(np.float32) * np.clip((distance - 90.0) / 70.0, 0.0, 1.5)
    field += muscle[:, None].astype(np.float32) * np.exp(-0.5 * ((distance - 62.0) / 30.0) ** 2)
    field -= column[:, None].astype(np.float32) * np.exp(-0.5 * (distance / width[:, None].astype(np.float32)) ** 2)
    if rng.random() < 0.85:
        _dark_blob(rng, field, anatomy)
    return field


def _dark_blob(rng: np.random.Generator, field: Field, anatomy: Anatomy) -> None:
    """The round shadow on the midline near T11 / T12, about 80 px wide."""
    row = float(np.interp(rng.uniform(9.4, 10.8), np.arange(17), anatomy.level_rows))
    radius, depth = rng.uniform(32.0, 44.0), rng.uniform(1.2, 2.6)
    first, last = int(max(row - 110, 0)), int(min(row + 110, anatomy.height))
    down = np.arange(first, last)[:, None] - row
    aside = np.arange(FULL_WIDTH)[None, :] - float(anatomy.curve.x_at(row))
    field[first:last] -= (depth / (1.0 + np.exp((np.hypot(down, aside) - radius) / 7.0))).astype(np.float32)


def _clouds(rng: np.random.Generator, height: int, level: Array) -> Field:
    """Patchy echo of muscle and fat: noise at several sizes, stronger in the lumbar part."""
    total = np.zeros((height, FULL_WIDTH), np.float32)
    for size, strength in ((5.0, 0.05), (11.0, 0.13), (24.0, 0.26), (55.0, 0.36), (120.0, 0.25)):
        across, down = size * 1.5, size
        shape = (int(height / down) + 3, int(FULL_WIDTH / across) + 3)
        coarse = Image.fromarray(rng.standard_normal(shape, dtype=np.float32))
        fine = np.asarray(coarse.resize((FULL_WIDTH, height), Image.Resampling.BICUBIC))
        total += fine * np.float32(strength * 1.3)
    gain = np.interp(level, [-1.0, 1.0, 5.0, 10.0, 12.0, 15.0, 17.0], [1.0, 0.8, 0.75, 0.85, 0.9, 1.05, 1.0])
    return total * gain[:, None].astype(np.float32)


def _speckle(rng: np.random.Generator, height: int, level: Array) -> Field:
    """Noise that is smooth along the frames of the probe and jumps from frame to frame.

    Slowly swept stretches hold several rows per frame, there neighbouring rows agree. A frame lies at a slant to
    the rows, hence the small steps along a row.
    """
    shape = (height + 64, FULL_WIDTH)
    jumping = _normed(gaussian_filter1d(_white(rng, shape), 0.9, axis=1)) * np.float32(0.6)
    jumping += _normed(gaussian_filter1d(_white(rng, shape), 3.0, axis=1)) * np.float32(0.65)
    interlaced = _normed(gaussian_filter(_white(rng, shape), (4.0, 5.0)))  # every other row is brighter
    interlaced[::2] *= np.float32(-1.0)
    jumping += interlaced * np.float32(0.45)
    smooth = _normed(gaussian_filter(_white(rng, shape), (1.1, 2.4)))
    slow = np.interp(level, [-1.0, 1.5, 3.0, 9.0, 14.0, 16.0], [0.8, 0.45, 0.12, 0.1, 0.2, 0.75])
    slow = np.clip(slow + _wander(rng, height, 140.0, 0.18), 0.05, 0.95)[:, None].astype(np.float32)
    steps = np.rint(_SLANT * np.arange(FULL_WIDTH)).astype(np.intp)
    place = np.arange(height)[:, None] + (steps.max() - steps)[None, :]
    columns = np.arange(FULL_WIDTH)[None, :]
    mixed = jumping[place, columns] * np.sqrt(1.0 - slow) + smooth[place, columns] * np.sqrt(slow)
    strength = 0.112 * np.interp(level, [9.0, 12.0], [1.05, 1.25]) * np.exp(_wander(rng, height, 120.0, 0.15))
    return np.asarray(mixed * strength[:, None].astype(np.float32), dtype=np.float32)


def _white(rng: np.random.Generator, shape: tuple[int, int]) -> Field:
    return rng.standard_normal(shape, dtype=np.float32)


def _normed(noise: Field) -> Field:
    """Noise with a standard deviation of 1."""
    return np.asarray(noise / np.float32(noise.std()))


def _shade_bones(rng: np.random.Generator, field: Field, anatomy: Anatomy) -> None:
    """Darken what the bones shadow: near the outlines but not equal to them, sometimes hardly at all."""
    side_strength = {-1: rng.uniform(0.75, 1.25), 1: rng.uniform(0.75, 1.25)}
    for index, level in enumerate(anatomy.levels):
        if level.kind == "lump":
            _shade_lump(rng, field, level)
            continue
        clear = float(np.interp(index, [0, 2, 5, 8, 10], [0.75, 0.8, 1.05, 1.05, 0.75]))
        for side, process, rib in zip((-1, 1), level.outlines[2], level.outlines[1], strict=True):
            strength = clear * side_strength[side] * float(rng.uniform(0.45, 1.25))
            _shade_rib(rng, field, rib, side, 1.45 * strength)
            faint = rng.random() < 0.2
            strength = clear * side_strength[side] * float(rng.uniform(0.05, 0.4) if faint else rng.uniform(0.6, 1.15))
            middle = process.mean(axis=0) + rng.normal(0.0, 5.0, size=2)
            shape = (process - process.mean(axis=0)) * rng.uniform(0.75, 1.0, size=2) + middle
            _darken(field, shape, 1.35 * strength, float(rng.uniform(4.5, 9.0)))


def _shade_rib(rng: np.random.Generator, field: Field, rib: Array, side: int, strength: float) -> None:
    """A soft wedge that deepens outwards, and in its upper part a core with a sharper upper border."""
    inner, edge = (rib[:, 0].max(), rib[:, 0].min()) if side < 0 else (rib[:, 0].min(), rib[:, 0].max())
    reach = abs(edge - inner)

    def shortened(share: float) -> Array:
        points = rib.copy()
        points[:, 0] = edge + (rib[:, 0] - edge) * (1.0 - share) + side * 6.0
        return points

    _darken(field, shortened(min(8.0 / reach, 0.4)), 0.8 * strength, float(rng.uniform(6.0, 11.0)))
    core = shortened(float(rng.uniform(0.05, 0.4)))
    middle = float(rib[:, 1].mean())
    core[:, 1] = np.where(rib[:, 1] > middle, middle + (rib[:, 1] - middle) * rng.uniform(0.1, 0.8), rib[:, 1] + 3.0)
    _darken(field, core, 0.85 * strength * float(rng.uniform(0.4, 1.3)), float(rng.uniform(4.0, 8.0)))
    _darken(field, shortened(float(rng.uniform(0.4, 0.6))), 0.6 * strength, 9.0)


def _shade_lump(rng: np.random.Generator, field: Field, level: Level) -> None:
    """A soft hat with a sharper lower edge, darker on one wing than on the other by chance; the last ones are vague."""
    (outline,) = level.outlines[3]
    strength = float(rng.uniform(0.75, 1.25)) * (0.85 if level.name in ("L4", "L5") else 1.0)
    middle = outline.mean(axis=0)
    shape = (outline - middle) * rng.uniform(0.88, 1.0, size=2) + middle + rng.normal(0.0, 4.0, size=2)
    _darken(field, shape, 0.9 * strength, float(rng.uniform(6.0, 11.0)))
    lower = shape.copy()
    wings = 0.5 * (level.left + level.right)
    lower[:, 1] = np.where(shape[:, 1] < wings[1], wings[1] + 0.45 * (shape[:, 1] - wings[1]), shape[:, 1])
    _darken(field, lower, 0.55 * strength, float(rng.uniform(3.5, 8.0)))
    for landmark in (level.left, level.right):
        near = middle + 0.72 * (landmark - middle)
        wing = (outline - middle) * [0.42, 0.42] + near
        _darken(field, wing, float(rng.uniform(-0.2, 0.7)) * strength, 11.0)


def _darken(field: Field, outline: Array, depth: float, blur: float) -> None:
    """Subtract a blurred polygon from the log-odds, in place."""
    margin = int(3.0 * blur) + 2
    left, top = np.floor(outline.min(axis=0)).astype(int) - margin
    right, bottom = np.ceil(outline.max(axis=0)).astype(int) + margin
    patch = Image.new("L", (int(right - left), int(bottom - top)), 0)
    ImageDraw.Draw(patch).polygon([(float(x), float(y)) for x, y in outline - [left, top]], fill=255)
    soft = gaussian_filter(np.asarray(patch, dtype=np.float32) / np.float32(255.0), blur)
    height, width = field.shape
    # A rib of a strong curve may lie outside altogether: an end below 0 would count from the far side.
    inside = field[max(top, 0) : max(min(bottom, height), 0), max(left, 0) : max(min(right, width), 0)]
    inside -= np.float32(depth) * soft[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
