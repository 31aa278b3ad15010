"""From a class of the label map to one blob a bone: fragments joined, touching neighbours parted, specks dropped."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.cluster.vq import kmeans2
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float64]
Members = npt.NDArray[np.intp]

_SPECK = 0.12  # of the expected area: smaller pieces are no bone
_FRAGMENT = 0.65  # smaller pieces may be a part of a bone
_WHOLE = 1.35  # of the expected area and length: joined fragments must not exceed it
_MERGED = 1.6  # of the expected area: larger ones are more than one bone
_BRIDGE = 0.11  # of the band's width: fragments further apart are not joined
_MOST = 80  # a spine has 24 processes; a label map with more blobs is noise
_MOST_MERGED = 14
_FEWEST_PIXELS = 12
_LUMP_HEIGHT, _LUMP_STEP = 0.34, 0.375  # of the band's width: height of one lump, and of each further one
_TURNED = (-16.0, 0.0, 16.0)  # degrees: first guesses
_FURTHEST = np.radians(28.0)  # so far a lump may lie from the expected direction
_ALONG, _ACROSS = 0.26, 0.11  # of the length of a lump: its standard deviations
_CLUSTERED = 1200  # points that are clustered
_TURNS = 12
_SAMPLED = 4000  # pixels of a blob that are looked at
_EIGHT = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True, eq=False)
class Blob:
    """One bone as it shows in the label map; lengths in units.

    Attributes:
        points: Some of its pixels, evenly drawn. # (N, 2)
        centre: Centre of area (x, y). # (2,)
        area: Area.
        probability: Mean probability of its class inside; 1 where there are no probabilities.
        pieces: Fragments it was joined from.
        parted: Whether it was cut out of a larger one.
    """

    points: Floats
    centre: Floats
    area: float
    probability: float
    pieces: int = 1
    parted: bool = False


@dataclass(frozen=True)
class Expected:
    """What a bone of a class looks like, in units.

    Attributes:
        area: Area.
        length: Largest extent.
        band: Width of the band.
        tilt_at: For bones that are wide and lie above each other (lumps): the tilt to expect at a height, degrees.
            None for bones that are about round.
    """

    area: float
    length: float
    band: float
    tilt_at: Callable[[float], float] | None = None


def find_blobs(
    inside: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.float32] | None,
    scale: tuple[float, float],
    expected: Expected,
) -> list[Blob]:
    """One blob a bone, from top to bottom.

    Args:
        inside: Where the class is. # (H, W)
        probability: Probability of the class. # (H, W)
        scale: Units a pixel, x and y.
        expected: Size of the bones, from the width of the band.
    """
    raw = _components(inside, probability, scale, _SPECK * expected.area)
    plausible = [blob.area for blob in raw if 0.5 < blob.area / expected.area < _MERGED]
    if len(plausible) >= 4:  # people differ in size more than the bones of one
        typical = float(np.clip(np.median(plausible), 0.7 * expected.area, 1.4 * expected.area))
        expected = replace(expected, area=typical)
    parts = [part for blob in raw for part in _parted(blob, expected)]
    return sorted(_joined(parts, expected), key=lambda blob: float(blob.centre[1]))


def _components(
    inside: npt.NDArray[np.bool_],
    probability: npt.NDArray[np.float32] | None,
    scale: tuple[float, float],
    smallest: float,
) -> list[Blob]:
    """The largest connected parts of at least a size, diagonal neighbours connected."""
    labels, _ = ndimage.label(inside, _EIGHT)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    kept = np.argsort(sizes, kind="stable")[::-1][:_MOST]
    kept = kept[(sizes[kept] * scale[0] * scale[1] >= smallest) & (sizes[kept] >= _FEWEST_PIXELS)]
    blobs: list[Blob] = []
    if not len(kept):
        return blobs
    windows = ndimage.find_objects(labels)
    for number in kept.tolist():
        window = windows[number - 1]
        here = labels[window] == number
        rows, columns = np.nonzero(here)
        offset = np.array([window[1].start, window[0].start], dtype=float)
        points = (np.stack([columns, rows], axis=1) + offset) * scale
        sure = 1.0 if probability is None else float(probability[window][here].mean())
        blobs.append(_blob(points, len(points) * scale[0] * scale[1], sure))
    return blobs


def _blob(points: Floats, area: float, probability: float, *, pieces: int = 1, parted: bool = False) -> Blob:
    every = max(1, len(points) // _SAMPLED)
    return Blob(points[::every], points.mean(axis=0), area, probability, pieces, parted)


def _parted(blob: Blob, expected: Expected) -> list[Blob]:
    """Cut a blob that holds several bones; one that holds a whole spine is none."""
    count = _count(blob, expected)
    if blob.area < _MERGED * expected.area or count < 2:
        return [blob]
    if count > _MOST_MERGED:
        return []
    if expected.tilt_at is not None:
        member = _stacked(blob, count, expected.tilt_at(float(blob.centre[1])), expected)
    else:
        member = np.asarray(kmeans2(blob.points, count, minit="++", seed=0)[1], dtype=np.intp)
    parts = [blob.points[member == number] for number in np.unique(member)]
    return [
        _blob(part, blob.area * len(part) / len(blob.points), blob.probability, parted=True)
        for part in parts
        if len(part) >= _SPECK * len(blob.points) / count
    ]


def _count(blob: Blob, expected: Expected) -> int:
    """How many bones a blob holds: by its area, and for stacked ones by its height too."""
    count = blob.area / expected.area
    if expected.tilt_at is None:
        return round(count)
    tilt = np.radians(expected.tilt_at(float(blob.centre[1])))
    height = float(np.ptp(blob.points @ np.array([-np.sin(tilt), np.cos(tilt)]))) / expected.band
    return round(0.5 * (count + 1.0 + (height - _LUMP_HEIGHT) / _LUMP_STEP))


def _stacked(blob: Blob, count: int, tilt: float, expected: Expected) -> Members:
    """Part a blob into `count` long bones that lie above each other: clustering with clusters of a given shape.

    Each cluster is a Gaussian as long and as high as a bone, whose centre is free and whose direction is within some
    degrees of the expected one. From several first guesses (layers at different tilts, and what is left where the
    blob is eroded until it falls apart) the one of the least squared distance wins. Bones that grew together at one
    end only are told apart by their directions.
    """
    points = blob.points[:: max(1, len(blob.points) // _CLUSTERED)]
    spread = np.array([_ALONG * expected.length, _ACROSS * expected.length])
    guesses = [_layers(points, count, np.radians(tilt + turn)) for turn in _TURNED]
    fallen = _fallen_apart(points, count, expected)
    if fallen is not None:
        guesses.append(fallen)
    settled = [_settled(points, guess, count, spread, np.radians(tilt)) for guess in guesses]
    centres, axes, _ = min(settled, key=lambda fitted: fitted[2])
    return np.asarray(_distances(blob.points, centres, axes, spread).argmin(axis=1), dtype=np.intp)


def _layers(points: Floats, count: int, tilt: float) -> Members:
    """Equally full layers of a tilt."""
    height = points @ np.array([-np.sin(tilt), np.cos(tilt)])
    order = height.argsort(kind="stable").argsort(kind="stable")
    return np.asarray(order * count // len(points), dtype=np.intp)


def _settled(points: Floats, member: Members, count: int, spread: Floats, tilt: float) -> tuple[Floats, Floats, float]:
    """Centres, directions and mean squared distance after assigning and fitting in turn. # (k, 2), (k, 2, 2)."""
    centres, axes = np.zeros((count, 2)), np.tile(np.eye(2), (count, 1, 1))
    cost = np.inf
    for _ in range(_TURNS):
        for number in range(count):
            own = points[member == number]
            if len(own) < 3:
                return centres, axes, np.inf
            centres[number] = own.mean(axis=0)
            _, vectors = np.linalg.eigh((own - centres[number]).T @ (own - centres[number]))
            turned = np.arctan2(vectors[1, 1], vectors[0, 1]) - tilt
            turned = (turned + 0.5 * np.pi) % np.pi - 0.5 * np.pi  # a line has no sense
            angle = tilt + float(np.clip(turned, -_FURTHEST, _FURTHEST))
            axes[number] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]  # along, across
        distances = _distances(points, centres, axes, spread)
        member = np.asarray(distances.argmin(axis=1), dtype=np.intp)
        before, cost = cost, float(distances.min(axis=1).mean())
        if before - cost < 1e-4:
            break
    return centres, axes, cost


def _distances(points: Floats, centres: Floats, axes: Floats, spread: Floats) -> Floats:
    """Squared distances of points from clusters, in their spreads. # (n, k)."""
    turned = np.einsum("kij,nkj->nki", axes, points[:, None, :] - centres[None, :, :])
    return np.asarray(((turned / spread) ** 2).sum(axis=2))


def _fallen_apart(points: Floats, count: int, expected: Expected) -> Members | None:
    """Erode a blob until it falls apart into `count` pieces, and give every point to the nearest; None if it never does."""
    cell = expected.band / 130.0
    places = ((points - points.min(axis=0)) / cell).astype(np.intp) + 1
    shape = places.max(axis=0) + 2
    drawn = np.zeros((shape[1], shape[0]), dtype=bool)
    drawn[places[:, 1], places[:, 0]] = True
    depth = ndimage.distance_transform_edt(ndimage.binary_closing(drawn))
    smallest = 0.15 * expected.area / cell**2
    for level in np.arange(1.0, float(depth.max()), 0.5):
        labels, _ = ndimage.label(depth > level)
        sizes = np.bincount(labels.ravel())[1:]
        kept = np.flatnonzero(sizes * (1.0 + 0.06 * level) ** 2 >= smallest) + 1
        if len(kept) == count:
            cores = np.argwhere(np.isin(labels, kept))
            _, nearest = cKDTree(cores).query(places[:, ::-1])
            numbers = labels[tuple(cores[nearest].T)]
            return np.asarray(np.searchsorted(kept, numbers), dtype=np.intp)
    return None


def _joined(blobs: Sequence[Blob], expected: Expected) -> list[Blob]:
    """Join fragments that lie close together and make one bone of the right size."""
    remaining = sorted(blobs, key=lambda blob: blob.area)
    done: list[Blob] = []
    while remaining:
        blob = remaining.pop(0)
        fragment = blob.area < _FRAGMENT * expected.area and not blob.parted
        partner = _partner(blob, remaining, expected) if fragment else None
        if partner is None:
            done.append(blob)
            continue
        remaining.remove(partner)
        area = blob.area + partner.area
        sure = (blob.area * blob.probability + partner.area * partner.probability) / area
        points = np.concatenate([blob.points, partner.points])
        centre = (blob.area * blob.centre + partner.area * partner.centre) / area
        whole = Blob(points, centre, area, sure, blob.pieces + partner.pieces, blob.parted or partner.parted)
        remaining.append(whole)
        remaining.sort(key=lambda item: item.area)
    return done


def _partner(blob: Blob, others: Sequence[Blob], expected: Expected) -> Blob | None:
    """The nearest other blob that a fragment may belong to."""
    best, nearest = None, _BRIDGE * expected.band
    for other in others:
        if other.parted or blob.area + other.area > _WHOLE * expected.area:
            continue
        extent = np.ptp(np.concatenate([blob.points, other.points]), axis=0)
        if float(extent.max()) > _WHOLE * expected.length:
            continue
        gaps = np.asarray(cKDTree(other.points).query(blob.points[:: max(1, len(blob.points) // 300)])[0])
        if float(gaps.min()) < nearest:
            best, nearest = other, float(gaps.min())
    return best
