"""Pictures that show a person where a prediction is right and where it is not."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sa2net.anatomy import FOREGROUND, IGNORE_INDEX

Mask = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

MISSED: Colour = (230, 60, 60)
FALSE: Colour = (250, 230, 70)
CONFUSED: Colour = (190, 110, 255)
IGNORED: Colour = (110, 110, 110)
GAINED: Colour = (70, 150, 255)
LOST: Colour = (255, 120, 50)
STILL_WRONG: Colour = (190, 110, 255)

_TINT = 0.42
_JPEG_QUALITY = 82
_GAP = 8
_HEADER = 26
_INK: Colour = (235, 235, 235)
_PAPER: Colour = (24, 24, 27)


@dataclass(frozen=True)
class _Panel:
    title: str
    picture: npt.NDArray[np.uint8]  # (h, w, 3)
    legend: tuple[tuple[str, Colour], ...]


def draw_overlay(scan: Mask, truth: Mask, prediction: Mask, *, panel_height: int = 1280) -> npt.NDArray[np.uint8]:
    """Three panels side by side: outlines of the truth, tint of the prediction under them, errors.

    In the errors panel red is truth that was predicted as background, yellow is background that was predicted as
    a class, violet is one class taken for another. Ignored pixels are hatched grey.

    Args:
        scan: Grey values. # (H, W)
        truth: Class ids, 255 = ignored. # (H, W)
        prediction: Class ids. # (H, W)
        panel_height: Taller scans are drawn smaller, px.

    Returns:
        RGB picture. # (h, w, 3)

    Raises:
        ValueError: The three are not of one size.
    """
    if not scan.shape == truth.shape == prediction.shape:
        raise ValueError(f"scan {scan.shape}, truth {truth.shape} and prediction {prediction.shape} differ in size")
    scan, truth, prediction = (
        _fitted(array, panel_height, smooth) for array, smooth in ((scan, True), (truth, False), (prediction, False))
    )
    classes = tuple((item.label, item.colour) for item in FOREGROUND)
    errors = (("missed", MISSED), ("false", FALSE), ("wrong class", CONFUSED))
    grey = np.repeat(scan[..., None], 3, axis=2)
    panels = (
        _Panel("truth", _outlined(grey, truth), classes),
        _Panel("prediction, truth outlined", _outlined(_tinted(grey, prediction), truth), classes),
        _Panel("errors", _errors(grey, truth, prediction), errors),
    )
    return _beside(panels)


def draw_change(
    scan: Mask, truth: Mask, first: Mask, second: Mask, *, names: tuple[str, str], panel_height: int = 960
) -> npt.NDArray[np.uint8]:
    """Four panels side by side: the truth, two predictions with the truth outlined, and where they differ.

    In the last panel blue was wrong in the first and is right in the second, orange the other way round, violet is
    wrong in both but not in the same way.

    Args:
        scan: Grey values. # (H, W)
        truth: Class ids, 255 = ignored. # (H, W)
        first: Class ids. # (H, W)
        second: Class ids. # (H, W)
        names: What the two predictions are called.
        panel_height: Taller scans are drawn smaller, px.

    Returns:
        RGB picture. # (h, w, 3)

    Raises:
        ValueError: The four are not of one size.
    """
    shapes = {array.shape for array in (scan, truth, first, second)}
    if len(shapes) > 1:
        raise ValueError(f"scan, truth and predictions differ in size: {sorted(shapes)}")
    scan = _fitted(scan, panel_height, True)
    truth, first, second = (_fitted(array, panel_height, False) for array in (truth, first, second))
    classes = tuple((item.label, item.colour) for item in FOREGROUND)
    changes = ((f"{names[1]} right", GAINED), (f"{names[0]} right", LOST), ("both wrong", STILL_WRONG))
    grey = np.repeat(scan[..., None], 3, axis=2)
    panels = (
        _Panel("truth", _outlined(grey, truth), classes),
        _Panel(names[0], _outlined(_tinted(grey, first), truth), classes),
        _Panel(names[1], _outlined(_tinted(grey, second), truth), classes),
        _Panel("where they differ", _changes(grey, truth, first, second), changes),
    )
    return _beside(panels)


def jpeg_uri(picture: npt.NDArray[np.uint8]) -> str:
    """A picture inside a page. JPEG without chroma subsampling: a tenth of the PNG's size, and thin outlines keep their colour."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def draw_mask(scan: Mask, mask: Mask, *, panel_height: int = 1280) -> npt.NDArray[np.uint8]:
    """A scan with one mask tinted and outlined over it, no legend. # (h, w, 3)."""
    if scan.shape != mask.shape:
        raise ValueError(f"scan {scan.shape} and mask {mask.shape} differ in size")
    scan, mask = _fitted(scan, panel_height, True), _fitted(mask, panel_height, False)
    return _outlined(_tinted(np.repeat(scan[..., None], 3, axis=2), mask), mask)


def _fitted(array: Mask, height: int, smooth: bool) -> Mask:
    """Smaller where it is taller than `height`; outlines are drawn afterwards, so that they stay thin lines."""
    if array.shape[0] <= height:
        return array
    width = max(1, round(array.shape[1] * height / array.shape[0]))
    method = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(array).resize((width, height), method), dtype=np.uint8)


def _tinted(grey: npt.NDArray[np.uint8], mask: Mask) -> npt.NDArray[np.uint8]:
    picture = grey.copy()
    for item in FOREGROUND:
        _blend(picture, mask == item.id, item.colour, _TINT)
    return picture


def _outlined(picture: npt.NDArray[np.uint8], mask: Mask) -> npt.NDArray[np.uint8]:
    """Outlines two pixels wide, on the inside, and hatched ignored pixels."""
    result = _hatched(picture, mask)
    for item in FOREGROUND:
        inside = mask == item.id
        result[inside & ~_eroded(_eroded(inside))] = item.colour
    return result


def _errors(grey: npt.NDArray[np.uint8], truth: Mask, prediction: Mask) -> npt.NDArray[np.uint8]:
    wrong = (truth != prediction) & (truth != IGNORE_INDEX)
    picture = _hatched((grey // 2).astype(np.uint8), truth)
    _blend(picture, wrong & (prediction == 0), MISSED, 0.85)
    _blend(picture, wrong & (truth == 0), FALSE, 0.85)
    _blend(picture, wrong & (truth != 0) & (prediction != 0), CONFUSED, 0.85)
    return picture


def _changes(grey: npt.NDArray[np.uint8], truth: Mask, first: Mask, second: Mask) -> npt.NDArray[np.uint8]:
    counted = truth != IGNORE_INDEX
    differ = (first != second) & counted
    picture = _hatched((grey // 2).astype(np.uint8), truth)
    _blend(picture, differ & (second == truth), GAINED, 0.85)
    _blend(picture, differ & (first == truth), LOST, 0.85)
    _blend(picture, differ & (first != truth) & (second != truth), STILL_WRONG, 0.85)
    return picture


def _hatched(picture: npt.NDArray[np.uint8], mask: Mask) -> npt.NDArray[np.uint8]:
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    result = picture.copy()
    result[(mask == IGNORE_INDEX) & ((rows + columns) % 6 < 2)] = IGNORED
    return result


def _blend(picture: npt.NDArray[np.uint8], where: npt.NDArray[np.bool_], colour: Colour, share: float) -> None:
    mixed = picture[where] * (1.0 - share) + np.array(colour) * share
    picture[where] = mixed.round().astype(np.uint8)


def _eroded(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels whose four neighbours are inside too; beyond the picture is outside."""
    padded = np.pad(inside, 1)
    return inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _beside(panels: tuple[_Panel, ...]) -> npt.NDArray[np.uint8]:
    """The panels in a row, each under its title and its legend."""
    font = ImageFont.load_default(size=13)
    entries = max(len(panel.legend) for panel in panels)
    needed = max(int(font.getlength(panel.title)) + 8 for panel in panels)
    height, width = panels[0].picture.shape[:2]
    column, top = max(width, needed), _HEADER + 18 * entries
    sheet = Image.new("RGB", (len(panels) * (column + _GAP) - _GAP, top + height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, panel in enumerate(panels):
        left = index * (column + _GAP)
        draw.text((left + 4, 4), panel.title, fill=_INK, font=font)
        for row, (label, colour) in enumerate(panel.legend):
            y = _HEADER + 18 * row
            draw.rectangle((left + 4, y, left + 15, y + 11), fill=colour)
            draw.text((left + 21, y - 2), label, fill=_INK, font=font)
        sheet.paste(Image.fromarray(panel.picture), (left + (column - width) // 2, top))
    return np.asarray(sheet, dtype=np.uint8)
