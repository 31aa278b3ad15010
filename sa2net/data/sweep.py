"""The sweep: the bright band that the probe passed over, in the black of a scan.

Scale, normalisation and area shares are all measured inside it, so that a wide or narrow black margin changes nothing.
"""

import numpy as np
import numpy.typing as npt
from scipy import ndimage

THRESHOLD = 8
"""Grey values up to this count as black."""

_BRIDGE = 0.03
"""Gaps closed, as a share of the bright width: rows of short black dashes cross the sweep."""

_PIECE = 0.05
"""Share of the largest piece that makes another one part of the sweep: a probe that lost contact leaves a gap."""

Mask = npt.NDArray[np.bool_]


def sweep_mask(scan: npt.NDArray[np.uint8]) -> Mask:
    """Where the sweep lies: the large connected bright regions, dashes bridged, holes filled.

    Args:
        scan: Grey values, 0-255. # (H, W)

    Returns:
        True inside the sweep; nowhere in a black scan. # (H, W)
    """
    height, width = scan.shape
    bright = scan > THRESHOLD
    size = max(3, round(width_of(bright) * _BRIDGE) | 1)  # not of the picture: black borders change nothing
    padded = np.pad(bright, size)  # room, so that closing does not eat at the border
    region = _large(~_dilate(~_dilate(padded, size), size))
    holes_and_region = ~_component_of_corner(~region)
    return holes_and_region[size : size + height, size : size + width]


def sweep_width(scan: npt.NDArray[np.uint8]) -> float:
    """Median width of the sweep over its rows, px; 0.0 in a black scan. # (H, W)."""
    return width_of(sweep_mask(scan))


def width_of(sweep: Mask) -> float:
    """Median width over the rows of a sweep found by `sweep_mask`, px. # (H, W)."""
    widths = np.count_nonzero(sweep, axis=1)
    return float(np.median(widths[widths > 0])) if widths.any() else 0.0


def _dilate(image: Mask, size: int) -> Mask:
    """Dilation by a square of odd side `size`: shifted copies OR-ed in doubling steps, far faster than a filter."""
    for axis in (0, 1):
        image, covered = image.copy(), 1
        while covered < size:
            step = min(covered, size - covered)
            later, earlier = [slice(None)] * 2, [slice(None)] * 2
            later[axis], earlier[axis] = slice(step, None), slice(None, -step)
            shifted = image.copy()
            shifted[tuple(later)] |= image[tuple(earlier)]
            image, covered = shifted, covered + step
        image = np.roll(image, -(size // 2), axis=axis)  # back to the centre; the padding is wide enough
    return image


def _large(image: Mask) -> Mask:
    """The largest connected part, and those that are not small beside it."""
    labels, count = ndimage.label(image)
    if count == 0:
        return np.zeros_like(image)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    found: Mask = (sizes >= _PIECE * sizes.max())[labels] & image
    return found


def _component_of_corner(image: Mask) -> Mask:
    """The connected part of `image` that holds its first pixel."""
    labels, _ = ndimage.label(image)
    found: Mask = (labels == labels[0, 0]) & image
    return found
