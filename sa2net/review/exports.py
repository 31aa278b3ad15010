"""Reviews as a table and as pages on paper: every scan with its latest decision."""

import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from PIL import Image

from sa2net.artifacts import plain_cell
from sa2net.errors import Sa2NetError
from sa2net.review.record import Review
from sa2net.review.results import Results
from sa2net.review.store import latest_review
from sa2net.scoliosis import Measurement
from sa2net.scoliosis.result import ANGLE_KIND

COLUMNS = (
    "scan",
    "decision",
    "reader",
    "saved_at",
    "version",
    "based_on",
    "angle_deg",
    "interval_low_deg",
    "interval_high_deg",
    "lines_deg",
    "convex",
    "curves",
    "measured_deg",
    "model_sha256",
    "comment",
    "problems",
)
_TALLEST = 900
_LINES = 46  # of text on a page
_CHARACTERS = 52  # of a line
_PAPER = (8.27, 11.69)  # inches, A4


@dataclass(frozen=True)
class Reviewed:
    """A scan and what was decided of it last.

    Attributes:
        name: Of the scan.
        measurement: None where it cannot be read.
        review: None where nobody has decided yet.
        problems: What cannot be read, in words.
    """

    name: str
    measurement: Measurement | None
    review: Review | None
    problems: tuple[str, ...]


def reviewed(results: Results) -> list[Reviewed]:
    """Every scan with its latest decision."""
    found = []
    for name in results.names.values():
        latest = latest_review(results.root, name)
        measurement, problems = None, latest.problems
        try:
            measurement = results.measured(name).measurement
        except Sa2NetError as error:
            problems += (str(error),)
        found.append(Reviewed(name, measurement, latest.review, problems))
    return found


def table(items: Sequence[Reviewed]) -> str:
    """`review.csv` as text: one row a scan, by its largest curve; no cell is a formula."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for item in items:
        row: dict[str, object] = {"scan": item.name, "problems": "; ".join(item.problems)}
        if item.measurement is not None:
            row |= {"measured_deg": item.measurement.largest_angle_deg, "model_sha256": item.measurement.model.sha256}
        if item.review is not None:
            row |= _decision(item.review)
        writer.writerow({key: plain_cell(cell) for key, cell in row.items()})
    return stream.getvalue()


def to_pdf(results: Results, items: Sequence[Reviewed]) -> bytes:
    """One page a scan that somebody decided on: picture with lines, numbers, reader, date and comment."""
    stream = io.BytesIO()
    with mpl.rc_context({"pdf.fonttype": 42}), PdfPages(stream, metadata={"Title": "Curve angles, reviewed"}) as pages:
        for item in items:
            if item.review is not None and item.measurement is not None:
                for figure in _pages(results, item.name, item.review, item.measurement):
                    pages.savefig(figure)
        if not pages.get_pagecount():
            pages.savefig(_empty())
    return stream.getvalue()


def _decision(review: Review) -> dict[str, object]:
    row: dict[str, object] = {
        "decision": review.decision,
        "reader": review.reader,
        "saved_at": review.saved_at.isoformat(timespec="seconds"),
        "version": review.version,
        "based_on": "" if review.based_on is None else review.based_on,
        "curves": len(review.curves),
        "comment": review.comment,
    }
    if review.curves:
        largest = max(review.curves, key=lambda curve: curve.angle_deg)
        low, high = largest.interval_90_deg
        row |= {"angle_deg": largest.angle_deg, "interval_low_deg": low, "interval_high_deg": high}
        row |= {"lines_deg": largest.lines_deg, "convex": largest.convex}
    return row


def _pages(results: Results, name: str, review: Review, measurement: Measurement) -> list[Figure]:
    """The page of a scan, and more of them where a comment is long."""
    figure = Figure(figsize=_PAPER)
    axes = figure.add_axes((0.05, 0.05, 0.42, 0.86))
    axes.axis("off")
    try:
        _draw(axes, results.scan(name), review)
    except Sa2NetError as error:
        axes.text(0.0, 0.5, str(error), wrap=True, parse_math=False)
    lines = [
        f"{review.decision} by {review.reader}",
        f"{review.saved_at:%Y-%m-%d %H:%M} UTC, version {review.version}",
        "",
    ]
    for curve in review.curves:
        low, high = curve.interval_90_deg
        lines += [
            f"{curve.angle_deg:.1f} degrees, convex to the {curve.convex} of the picture",
            f"90 % interval {low:.1f} to {high:.1f}; ends {curve.ends}",
            "two lines alone: not known" if curve.lines_deg is None else f"two lines alone: {curve.lines_deg:.1f}",
            "",
        ]
    if measurement.largest_angle_deg is not None:
        lines.append(f"largest as measured: {measurement.largest_angle_deg:.1f} degrees")
    lines += [f"refused: {refusal.reason}" for refusal in measurement.refusals]
    network = measurement.model.sha256[:16] or "none, label map given"
    lines += [f"network: {network}", "", *(["comment:", review.comment] if review.comment else [])]
    rows = [part for line in lines for part in _wrapped(line)]
    figures = [figure, *(Figure(figsize=_PAPER) for _ in range(_LINES, len(rows), _LINES))]
    for number, paper in enumerate(figures):
        paper.text(0.05, 0.95, _wrapped(name)[0], fontsize=12, weight="bold", parse_math=False)
        paper.text(0.05, 0.93, f"{ANGLE_KIND}. Research use only.", fontsize=8)
        for place, text in enumerate(rows[number * _LINES : (number + 1) * _LINES]):
            paper.text(0.52, 0.89 - 0.018 * place, text, fontsize=9, va="top", parse_math=False)
    return figures


def _draw(axes: Axes, scan: npt.NDArray[np.uint8], review: Review) -> None:
    height, width = scan.shape
    small = Image.fromarray(scan)
    small.thumbnail((_TALLEST, _TALLEST))
    axes.imshow(np.asarray(small), cmap="gray", vmin=0, vmax=255, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    for level in review.levels:
        if level.left is not None and level.right is not None:
            (x0, y0), (x1, y1) = level.left, level.right
            axes.plot((x0, x1), (y0, y1), color="black", linewidth=3.0)
            axes.plot((x0, x1), (y0, y1), color="white", linewidth=1.4)
    for curve in review.curves:
        for row in (curve.upper_row, curve.lower_row):
            axes.axhline(row, color="#e69f00", linewidth=0.8, linestyle="--")
        middle = 0.5 * (curve.upper_row + curve.lower_row)
        axes.text(width + 8, middle, f"{curve.angle_deg:.1f}", fontsize=8, va="center")


def _empty() -> Figure:
    figure = Figure(figsize=_PAPER)
    figure.text(0.05, 0.95, "No scan was reviewed yet.")
    return figure


def _wrapped(line: str) -> list[str]:
    return [part for text in line.splitlines() or [""] for part in textwrap.wrap(text, _CHARACTERS) or [""]]
