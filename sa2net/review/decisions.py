"""From what the page sends to a record: angles are computed here, and what was accepted is what had been shown."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sa2net.config import MeasureConfig
from sa2net.errors import DataError
from sa2net.review.reading import HandCurve, HandLevel, Reading, as_hand_levels, read_levels
from sa2net.review.record import Review, ReviewedCurve
from sa2net.review.results import Measured, Results
from sa2net.review.store import read_review, review_files


class Edit(BaseModel):
    """Levels as they are on the page, and end levels chosen by hand."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    levels: tuple[HandLevel, ...] = Field(max_length=60)
    chosen: tuple[HandCurve, ...] = Field(default=(), max_length=20)


class Save(Edit):
    """A decision, the newest version that the reader knows of, and the one that was on the page (0 = as measured)."""

    opened: int = Field(ge=0, le=9998)
    based_on: int = Field(default=0, ge=0, le=9998)
    decision: Literal["accepted", "corrected", "refused"]
    reader: str = Field(min_length=1, max_length=200)
    comment: str = Field(default="", max_length=4000)


def read_edit(results: Results, name: str, measured: Measured, edit: Edit, cfg: MeasureConfig) -> Reading:
    """The angles of levels as they are on the page.

    Raises:
        DataError: They are not levels of this scan.
    """
    measurement = measured.measurement
    try:
        band = results.band(name, measurement)
        return read_levels(edit.levels, edit.chosen, measurement, band=band, cfg=cfg)
    except ValueError as error:
        raise DataError("the levels cannot be used", evidence=str(error), action="Load the page again.") from error


def make_review(results: Results, name: str, measured: Measured, given: Save, cfg: MeasureConfig) -> Review:
    """The record of a decision; its angles are computed here and not taken from the page.

    Raises:
        DataError: Levels that are none of this scan, that give no angle, or that were accepted and yet moved.
    """
    base = _base(results, name, measured, given.based_on)
    if given.decision == "accepted" and (given.levels, given.chosen) != (base.levels, base.chosen):
        raise DataError(
            "the review cannot be saved",
            evidence=f"{_words(given.based_on)} is accepted with other levels than it holds",
            action="Save it as a correction.",
        )
    curves: tuple[ReviewedCurve, ...] = ()
    if given.decision != "refused":
        curves = _curves(read_edit(results, name, measured, given, cfg))
    try:
        return Review(
            version=given.opened + 1,
            based_on=given.based_on,
            decision=given.decision,
            reader=given.reader.strip(),
            saved_at=datetime.now(UTC),
            comment=given.comment,
            measure_sha256=measured.sha256,
            mask_source=measured.measurement.mask_source,
            model=measured.measurement.model,
            levels=given.levels,
            chosen=given.chosen,
            curves=curves,
        )
    except ValueError as error:
        said = "these levels give no angle: the scan can be refused only" if not curves else str(error)
        raise DataError(
            "the review cannot be saved", evidence=said, action="Correct the levels, or refuse it."
        ) from error


def saved_version(results: Results, name: str, measured: Measured, version: int) -> Review:
    """One saved version, of the measurement that is there now.

    Raises:
        DataError: There is none of this number, it cannot be read, or the scan was measured again since.
    """
    path = dict(review_files(results.root, name)).get(version)
    if path is None:
        raise DataError(f"there is no version {version} of this review", action="Load the page again.")
    review = read_review(path)
    if review.measure_sha256 != measured.sha256:
        raise DataError(
            f"version {version} is about another measurement",
            evidence="the scan was measured again since",
            action="Review the measurement as it came.",
        )
    return review


def saved_versions(results: Results, name: str, measured: Measured) -> list[dict[str, Any]]:
    """What the page lists of the versions that can be shown, newest first."""
    found = []
    for version, _ in reversed(review_files(results.root, name)):
        try:
            review = saved_version(results, name, measured, version)
        except DataError:
            continue  # a damaged one is named elsewhere
        content = review.model_dump(mode="json", include={"version", "based_on", "decision", "reader", "saved_at"})
        found.append(content)
    return found


def _base(results: Results, name: str, measured: Measured, version: int) -> Edit:
    if version == 0:
        return Edit(levels=as_hand_levels(measured.measurement))
    review = saved_version(results, name, measured, version)
    return Edit(levels=review.levels, chosen=review.chosen)


def _words(version: int) -> str:
    return f"version {version}" if version else "the measurement as it came"


def _curves(reading: Reading) -> tuple[ReviewedCurve, ...]:
    """Curves with ends chosen by hand, where there are some; else those that were found."""
    levels = reading.measurement.levels
    if reading.chosen:
        return tuple(
            ReviewedCurve(
                angle_deg=round(item.angle, 2),
                interval_90_deg=(round(item.interval_90[0], 2), round(item.interval_90[1], 2)),
                lines_deg=None if item.lines is None else round(item.lines, 2),
                convex=item.convex,
                upper_row=levels[item.curve.upper].middle[1],
                lower_row=levels[item.curve.lower].middle[1],
                ends="by hand",
            )
            for item in reading.chosen
        )
    return tuple(
        ReviewedCurve(
            angle_deg=curve.angle_deg,
            interval_90_deg=curve.interval_90_deg,
            lines_deg=curve.estimates.lines,
            convex=curve.convex,
            upper_row=curve.upper_row,
            lower_row=curve.lower_row,
            ends="automatic",
        )
        for curve in reading.measurement.curves
    )
