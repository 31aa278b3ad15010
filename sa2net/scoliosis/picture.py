"""The picture of a measurement: scan, vertebra lines, curves with their ends, and the numbers beside them.

Made to be read on a tall scan and after a grey printer: white paper, every line on the scan is light with a dark edge,
curves are told apart by letter and dash as well as by colour.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sa2net.scoliosis.result import CurveResult, Measurement, Point

Picture = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

_WIDTH = 640  # of the scan as it is drawn
_TALLEST = 3200
_PANEL = 560
_HEADER = 132
_MARGIN = 18
_PAPER: Colour = (255, 255, 255)
_INK: Colour = (0, 0, 0)
_SOFT: Colour = (95, 95, 95)
_EDGE: Colour = (0, 0, 0)
_LINE: Colour = (255, 255, 255)
_FAINT: Colour = (190, 190, 190)
_CURVES: tuple[Colour, ...] = ((255, 196, 60), (110, 205, 255), (190, 255, 150), (255, 160, 200))
_LETTERS = "ABCDEFGH"


def draw_measurement(scan: Picture, measurement: Measurement) -> Picture:
    """Draw a measurement beside its scan.

    Args:
        scan: Grey values. # (H, W)
        measurement: What was measured on it.

    Returns:
        RGB picture. # (h, w, 3)

    Raises:
        ValueError: The measurement is of a scan of another size.
    """
    if scan.shape != (measurement.height, measurement.width):
        raise ValueError(f"scan {scan.shape} and measurement {(measurement.height, measurement.width)} differ in size")
    scale = min(_WIDTH / scan.shape[1], _TALLEST / scan.shape[0])
    size = (max(round(scan.shape[1] * scale), 1), max(round(scan.shape[0] * scale), 1))
    sheet = Image.new("RGB", (_WIDTH + _PANEL, _HEADER + max(size[1], 700)), _PAPER)
    drawn = Image.fromarray(scan).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    canvas = _Canvas(ImageDraw.Draw(drawn), scale, measurement)
    canvas.levels()
    canvas.spine()
    for index, curve in enumerate(measurement.curves):
        canvas.curve(curve, index)
    canvas.names()
    sheet.paste(drawn, (0, _HEADER))
    pen = ImageDraw.Draw(sheet)
    _header(pen, measurement)
    _panel(pen, measurement, scale)
    return np.asarray(sheet, dtype=np.uint8)


class _Canvas:
    """The scan while lines are drawn on it.

    Args:
        pen: Draws on the scan.
        scale: Drawn px a px of the scan.
        measurement: What to draw.
    """

    def __init__(self, pen: ImageDraw.ImageDraw, scale: float, measurement: Measurement) -> None:
        self.pen, self.scale, self.measurement = pen, scale, measurement
        ends = [name for curve in measurement.curves for name in (curve.upper_end, curve.lower_end)]
        self.ends = frozenset(ends)

    def levels(self) -> None:
        """The line of every level; end levels heavier, outlying ones broken."""
        for level in self.measurement.levels:
            width = 5 if level.label in self.ends else 3
            if level.left is not None and level.right is not None:
                self._line((level.left, level.right), _FAINT if level.outlying else _LINE, width, level.outlying)
            for point in (level.left, level.right):
                if point is not None:
                    self._dot(point, 6)

    def names(self) -> None:
        """What each level is called, left of its line; last, so that no line crosses it."""
        for level in self.measurement.levels:
            x, y = self._at(level.left or level.middle)
            self._text((max(x - 40.0, 22.0), y), level.label, 26, _LINE)

    def spine(self) -> None:
        """The smooth spine, dotted."""
        for point in self.measurement.spine:
            self._dot(point, 3)

    def curve(self, curve: CurveResult, index: int) -> None:
        """The two lines square to the smooth spine between which the angle lies, and the apex."""
        colour = _CURVES[index % len(_CURVES)]
        for row, above in ((curve.upper_row, True), (curve.lower_row, False)):
            ends = self._square_line(row)
            if ends is not None:
                self._line(ends, colour, 7, dashed=index % 2 == 1)
                self._tag(ends[1], _LETTERS[index % len(_LETTERS)], colour, above)
        apex = self._on_spine(curve.apex_row)
        if apex is not None:
            self._diamond(apex, colour)

    def _square_line(self, row: float) -> tuple[Point, Point] | None:
        """A long line square to the spine at a row of the scan, with the size of the pixels taken in."""
        spine = np.array(self.measurement.spine)
        if len(spine) < 2:
            return None
        spacing = self.measurement.spacing
        unit = np.array([spacing.x_mm or 1.0, spacing.y_mm or 1.0])
        slope = np.gradient(spine[:, 0] * unit[0], spine[:, 1] * unit[1])
        angle = float(np.interp(row, spine[:, 1], np.arctan(slope)))
        arm = 0.29 * self.measurement.width * np.array([np.cos(angle), -np.sin(angle) * unit[0] / unit[1]])
        middle = np.array([np.interp(row, spine[:, 1], spine[:, 0]), row])
        left, right = middle - arm, middle + arm
        return (float(left[0]), float(left[1])), (float(right[0]), float(right[1]))

    def _on_spine(self, row: float) -> Point | None:
        spine = np.array(self.measurement.spine)
        return (float(np.interp(row, spine[:, 1], spine[:, 0])), row) if len(spine) else None

    def _at(self, point: Point) -> Point:
        return ((point[0] + 0.5) * self.scale, (point[1] + 0.5) * self.scale)

    def _line(self, ends: tuple[Point, Point], colour: Colour, width: int, dashed: bool = False) -> None:
        start, end = (np.array(self._at(point)) for point in ends)
        pieces = max(int(np.hypot(*(end - start)) / 22.0), 1) if dashed else 1
        for number in range(pieces):
            first = start + (end - start) * number / pieces
            last = start + (end - start) * (number + (0.6 if dashed else 1.0)) / pieces
            self.pen.line([*first.tolist(), *last.tolist()], fill=_EDGE, width=width + 4)
            self.pen.line([*first.tolist(), *last.tolist()], fill=colour, width=width)

    def _dot(self, point: Point, radius: int) -> None:
        x, y = self._at(point)
        self.pen.ellipse((x - radius - 2, y - radius - 2, x + radius + 2, y + radius + 2), fill=_EDGE)
        self.pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_LINE)

    def _diamond(self, point: Point, colour: Colour) -> None:
        x, y = self._at(point)
        for size, fill in ((17, _EDGE), (13, colour)):
            self.pen.polygon([(x - size, y), (x, y - size), (x + size, y), (x, y + size)], fill=fill)

    def _tag(self, point: Point, letter: str, colour: Colour, above: bool) -> None:
        x, y = self._at(point)
        x = min(x, self.measurement.width * self.scale - 16)
        self._text((x, y - 24 if above else y + 24), letter, 32, colour)

    def _text(self, place: Point, text: str, size: int, colour: Colour) -> None:
        font = ImageFont.load_default(size=size)
        self.pen.text(place, text, fill=colour, font=font, anchor="mm", stroke_width=4, stroke_fill=_EDGE)


def _header(pen: ImageDraw.ImageDraw, measurement: Measurement) -> None:
    """Name and verdict above the scan, over the whole width."""
    width = _WIDTH + _PANEL - 2 * _MARGIN
    _write(pen, (_MARGIN, 10), _clipped(measurement.scan or "scan", 24, width), 24, _SOFT)
    largest = measurement.largest
    if largest is None:
        _write(pen, (_MARGIN, 44), "Refused: no angle", 40, _INK)
    else:
        low, high = largest.interval_90_deg
        said = f"{largest.angle_deg:.0f} degrees"
        _write(pen, (_MARGIN, 44), said, 40, _INK)
        beside = _MARGIN + int(ImageFont.load_default(size=40).getlength(said)) + 24
        _write(pen, (beside, 58), f"largest curve, 90 % interval {low:.0f} to {high:.0f}", 26, _INK)
    _write(pen, (_MARGIN, 98), f"{measurement.angle_kind}. Research use only.", 22, _SOFT)
    pen.line((0, _HEADER - 2, _WIDTH + _PANEL, _HEADER - 2), fill=_SOFT, width=2)


def _panel(pen: ImageDraw.ImageDraw, measurement: Measurement, scale: float) -> None:
    """What belongs to each curve beside it; below, what a reader should know."""
    left, width = _WIDTH + _MARGIN, _PANEL - 2 * _MARGIN
    y = _HEADER + 20.0
    for refusal in measurement.refusals:
        y = _paragraph(pen, left, y, width, [(refusal.code.replace("_", " "), 28, _INK), (refusal.reason, 22, _INK)])
    for index, curve in enumerate(measurement.curves):
        top, bottom = (_HEADER + (row + 0.5) * scale for row in (curve.upper_row, curve.lower_row))
        start = max(y, 0.5 * (top + bottom) - 130.0)
        ink: Colour = _INK
        bar = _WIDTH + 6
        pen.line((bar, top, bar, bottom), fill=ink, width=3)
        pen.line((bar - 6, top, bar + 6, top), fill=ink, width=3)
        pen.line((bar - 6, bottom, bar + 6, bottom), fill=ink, width=3)
        y = _paragraph(pen, left, start, width, _said_of(curve, index))
    notes = [(note, 20, _SOFT) for note in _notes(measurement)]
    _paragraph(pen, left, y + 10.0, width, notes)


def _said_of(curve: CurveResult, index: int) -> list[tuple[str, int, Colour]]:
    low, high = curve.interval_90_deg
    said = curve.estimates
    lines = "-" if said.lines is None else f"{said.lines:.0f}"
    region = curve.region if curve.region_certain else f"{curve.region} (not certain)"
    text: list[tuple[str, int, Colour]] = [
        (f"{_LETTERS[index % len(_LETTERS)]}   {curve.angle_deg:.1f} degrees", 38, _INK),
        (f"90 % interval {low:.1f} to {high:.1f}", 24, _INK),
        (f"{region}, convex to the {curve.convex} of the picture", 24, _INK),
        (f"ends {curve.upper_end} and {curve.lower_end}, apex {curve.apex}", 24, _INK),
        (f"lines alone {said.tilts:.0f}, midline alone {said.midline:.0f}, two most opposed lines {lines}", 20, _SOFT),
    ]
    if curve.open_above or curve.open_below:
        where = " and ".join(
            word for word, is_open in (("above", curve.open_above), ("below", curve.open_below)) if is_open
        )
        text.append((f"ends with the visible spine {where}: may be larger", 20, _SOFT))
    return text


def _notes(measurement: Measurement) -> list[str]:
    notes = []
    if measurement.severity is not None:
        notes.append(
            f"{measurement.severity.word}, by {measurement.severity.source} (applied to an ultrasound angle, not Cobb)"
        )
    return [*notes, *measurement.warnings]


def _paragraph(
    pen: ImageDraw.ImageDraw, x: float, y: float, width: int, lines: Sequence[tuple[str, int, Colour]]
) -> float:
    """Write lines below each other, wrapped at words; returns the row below them."""
    for text, size, colour in lines:
        for line in _wrapped(text, size, width):
            _write(pen, (x, y), line, size, colour)
            y += 1.3 * size
    return y + 16.0


def _wrapped(text: str, size: int, width: int) -> list[str]:
    font = ImageFont.load_default(size=size)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(_clipped(word, size, width))
        else:
            lines[-1] = _clipped(longer, size, width)
    return lines


def _clipped(text: str, size: int, width: int) -> str:
    font = ImageFont.load_default(size=size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _write(pen: ImageDraw.ImageDraw, place: Point, text: str, size: int, colour: Colour) -> None:
    pen.text(place, text, fill=colour, font=ImageFont.load_default(size=size))
