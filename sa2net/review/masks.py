"""The label map after a reader's corrections: parts follow the levels that they belong to.

A process shifts with its end of the line; a lump shifts and turns with both ends. Parts of a level that was removed
become background. Where a reader added an end and nothing of the class lies there, the place is ignored: what a bone
would look like there is not known, and background would be wrong.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from sa2net.anatomy import FOREGROUND, IGNORE_INDEX
from sa2net.review.reading import HandLevel
from sa2net.scoliosis import Measurement
from sa2net.scoliosis.result import Point

Floats = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

_, _PROCESS, _LUMP = FOREGROUND
_REACH = 0.06  # of the width of the picture: parts further from an end belong to no level
_DISC = 0.05  # of the width: radius that is ignored around an added end
_EIGHT = np.ones((3, 3), dtype=bool)
_Line = tuple[Point, Point]


def corrected_mask(mask: Picture, measured: Measurement, levels: Sequence[HandLevel]) -> Picture:
    """The label map that fits the corrected levels.

    Args:
        mask: Class ids as they were measured. # (H, W)
        measured: The measurement that the reader started from.
        levels: As the reader left them.
    """
    after = {level.origin: level for level in levels if level.origin is not None}
    moved: list[tuple[int, _Line, _Line | None]] = []  # class, where it was, where it is; None = removed
    added: list[tuple[int, _Line]] = []
    for index, before in enumerate(measured.levels):
        now = after.get(index)
        class_id = _PROCESS.id if before.kind == "process" else _LUMP.id
        for was, new in zip(_parts(before.kind, before.left, before.right), _parts_of(now, before.kind), strict=True):
            if was is not None:
                moved.append((class_id, was, new))
            elif new is not None:
                added.append((class_id, new))
    for level in levels:
        if level.origin is None:
            class_id = _PROCESS.id if level.kind == "process" else _LUMP.id
            added += [(class_id, part) for part in _parts_of(level, level.kind) if part is not None]
    out = mask.copy()
    for class_id in (_PROCESS.id, _LUMP.id):
        _move(out, mask, class_id, [(was, new) for kind, was, new in moved if kind == class_id])
    for class_id, line in added:
        near = _distance(line, mask.shape) <= _DISC * mask.shape[1]
        if not (out[near] == class_id).any():
            out[near] = IGNORE_INDEX
    return out


def _parts(kind: str, left: Point | None, right: Point | None) -> list[_Line | None]:
    """The bones of a level as lines: two processes (points), or one lump."""
    if kind == "lump":
        return [(left, right) if left is not None and right is not None else None]
    return [(point, point) if point is not None else None for point in (left, right)]


def _parts_of(level: HandLevel | None, kind: str) -> list[_Line | None]:
    return _parts(kind, level.left, level.right) if level is not None else _parts(kind, None, None)


def _move(out: Picture, mask: Picture, class_id: int, moves: Sequence[tuple[_Line, _Line | None]]) -> None:
    """Take the parts of one class away from where they were, then put them where they are."""
    owner = _owners(mask == class_id, [was for was, _ in moves])
    changed = [index for index, (was, new) in enumerate(moves) if was != new]
    out[np.isin(owner, np.array(changed, dtype=np.intp)) & (owner >= 0)] = 0
    for index in changed:
        was, new = moves[index]
        if new is not None:
            _paint(out, owner == index, was, new, class_id)


def _owners(inside: npt.NDArray[np.bool_], lines: Sequence[_Line]) -> npt.NDArray[np.intp]:
    """Which line each pixel of a class belongs to, -1 for none. # (H, W).

    A connected part belongs to the line that lies in it or is nearest; a part with several lines in it is shared.
    """
    labels, _ = ndimage.label(inside, _EIGHT)
    owner = np.full(inside.shape, -1, dtype=np.intp)
    for number, window in enumerate(ndimage.find_objects(labels), start=1):
        places = np.argwhere(labels[window] == number)
        rows, columns = (places + np.array([window[0].start, window[1].start])).T
        if not lines:
            continue
        distances = np.stack([_distance_at(line, columns, rows) for line in lines])  # (lines, pixels)
        nearest = distances.min(axis=1)
        holding = np.flatnonzero(nearest <= 1.0)
        if len(holding) > 1:
            owner[rows, columns] = holding[distances[holding].argmin(axis=0)]
        elif nearest.min() <= _REACH * inside.shape[1]:
            owner[rows, columns] = int(nearest.argmin())
    return owner


def _paint(out: Picture, part: npt.NDArray[np.bool_], was: _Line, new: _Line, class_id: int) -> None:
    """Draw a part shifted by the move of the line's middle, and turned by its turn."""
    rows, columns = np.nonzero(part)
    if not len(rows):
        return
    start, end = np.mean(was, axis=0), np.mean(new, axis=0)
    turn = _angle(new) - _angle(was)
    back = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners = np.array([(x, y) for x in (columns.min(), columns.max()) for y in (rows.min(), rows.max())])
    placed = (corners - start) @ back + end
    low = np.maximum(np.floor(placed.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(placed.max(axis=0)).astype(int) + 2, [part.shape[1], part.shape[0]])
    if (low >= high).any():  # moved out of the picture
        return
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]]
    source = np.rint((np.stack([x, y], axis=-1) - end) @ back.T + start).astype(int)
    valid = (source >= 0).all(axis=-1) & (source < [part.shape[1], part.shape[0]]).all(axis=-1)
    hit = np.zeros(valid.shape, dtype=bool)
    hit[valid] = part[source[valid][:, 1], source[valid][:, 0]]
    out[low[1] : high[1], low[0] : high[0]][hit] = class_id


def _angle(line: _Line) -> float:
    """Direction of a line in the picture, radians; 0 for a point."""
    return float(np.arctan2(line[1][1] - line[0][1], line[1][0] - line[0][0]))


def _distance(line: _Line, shape: tuple[int, ...]) -> Floats:
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    return _distance_at(line, columns, rows)


def _distance_at(line: _Line, x: npt.NDArray[np.intp], y: npt.NDArray[np.intp]) -> Floats:
    """Distance of pixels from a line between two ends, px."""
    first, along = np.array(line[0]), np.subtract(line[1], line[0])
    length = max(float(along @ along), 1e-9)
    share = np.clip(((x - first[0]) * along[0] + (y - first[1]) * along[1]) / length, 0.0, 1.0)
    return np.asarray(np.hypot(x - first[0] - share * along[0], y - first[1] - share * along[1]))
