"""Where the network looks, and at which scale: the same rule in training and in prediction.

A scan is cut to its sweep plus a margin, so that the black border around it, which differs from machine to
machine, changes nothing. It is then resized to the *working scale*: by the pixel spacing where both the scan
and the model know it, otherwise so that the sweep gets the model's working width. It is never stretched to a
size: what the network needs beyond the frame is padded with black.
"""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from sa2net.data.sweep import sweep_mask
from sa2net.errors import DataError

Grey = npt.NDArray[np.uint8]
Picture = TypeVar("Picture", npt.NDArray[np.uint8], npt.NDArray[np.float32])
ScaledBy = Literal["spacing", "sweep width"]

MARGIN = 0.08
"""Black kept around the sweep, as a share of its width: annotators draw ribs a little beyond the edge."""
LARGEST_SIDE = 16384
"""No frame is enlarged beyond so many px: a wrong spacing would otherwise fill the memory."""


@dataclass(frozen=True)
class WorkingScale:
    """The scale at which the network sees every scan.

    Attributes:
        sweep_width: Width of the sweep, px.
        spacing_mm: Size of a pixel (x, y), mm; None where the train scans had no spacing.
    """

    sweep_width: int
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class Frame:
    """A window of a scan (px of the scan, may reach beyond it) and its size at working scale."""

    top: int
    left: int
    height: int
    width: int
    working_height: int
    working_width: int
    scaled_by: ScaledBy


def find_frame(scan: Grey, working: WorkingScale, spacing_mm: tuple[float, float] | None) -> Frame:
    """Find the frame of a scan.

    Args:
        scan: Grey picture (H, W).
        working: The model's working scale.
        spacing_mm: Size of the scan's pixels (x, y), mm, where it is known.

    Raises:
        DataError: The picture holds no sweep, or its scale cannot be right.
    """
    sweep = sweep_mask(scan)
    rows, columns = np.flatnonzero(sweep.any(axis=1)), np.flatnonzero(sweep.any(axis=0))
    if not len(rows):
        raise DataError(
            "the picture holds no sweep",
            evidence="no region brighter than black",
            action="Check that the file is a volume projection image.",
        )
    width = float(np.median(sweep[rows].sum(axis=1)))
    if spacing_mm is not None and working.spacing_mm is not None:
        factor_x, factor_y = (own / target for own, target in zip(spacing_mm, working.spacing_mm, strict=True))
        scaled_by: ScaledBy = "spacing"
    else:
        factor_x = factor_y = working.sweep_width / width
        scaled_by = "sweep width"
    margin = round(MARGIN * width)
    top, left = int(rows[0]) - margin, int(columns[0]) - margin
    height, breadth = int(rows[-1]) + 1 + margin - top, int(columns[-1]) + 1 + margin - left
    working_height, working_width = round(height * factor_y), round(breadth * factor_x)
    if not (min(working_height, working_width) >= 8 and max(working_height, working_width) <= LARGEST_SIDE):
        raise DataError(
            "the scale of the scan cannot be right",
            evidence=f"its sweep, {breadth} x {height} px, would be seen at {working_width} x {working_height} px by {scaled_by}",
            action="Check the pixel spacing (mm per pixel), or leave it out.",
        )
    return Frame(top, left, height, breadth, working_height, working_width, scaled_by)


def cut(picture: Picture, frame: Frame, fill: float = 0) -> Picture:
    """The frame's window of a picture (H, W); beyond the picture it holds `fill`."""
    window = np.full((frame.height, frame.width), fill, dtype=picture.dtype)
    rows = slice(max(frame.top, 0), min(frame.top + frame.height, picture.shape[0]))
    columns = slice(max(frame.left, 0), min(frame.left + frame.width, picture.shape[1]))
    window[rows.start - frame.top : rows.stop - frame.top, columns.start - frame.left : columns.stop - frame.left] = (
        picture[rows, columns]
    )
    return window


def paste(window: Picture, frame: Frame, shape: tuple[int, int], fill: float = 0) -> Picture:
    """The inverse of `cut`: a picture of `shape` that holds the window's part inside it."""
    picture = np.full(shape, fill, dtype=window.dtype)
    rows = slice(max(frame.top, 0), min(frame.top + frame.height, shape[0]))
    columns = slice(max(frame.left, 0), min(frame.left + frame.width, shape[1]))
    picture[rows, columns] = window[
        rows.start - frame.top : rows.stop - frame.top, columns.start - frame.left : columns.stop - frame.left
    ]
    return picture


def to_working_scale(scan: Grey, frame: Frame) -> torch.Tensor:
    """The framed scan at working scale, float32 grey 0-255, shape (1, height, width)."""
    window = torch.from_numpy(cut(scan, frame))[None, None].float()  # (1, 1, H, W)
    size = (frame.working_height, frame.working_width)
    return functional.interpolate(window, size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def mask_to_working_scale(mask: Grey, frame: Frame) -> torch.Tensor:
    """The framed mask at working scale, uint8, shape (height, width); nearest label."""
    window = torch.from_numpy(cut(mask, frame))[None, None]
    size = (frame.working_height, frame.working_width)
    return functional.interpolate(window, size=size, mode="nearest-exact")[0, 0]
