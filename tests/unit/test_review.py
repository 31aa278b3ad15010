"""A reader's levels and decisions: angles follow from the library, versions are never overwritten."""

import json
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from spine_cases import draw

from sa2net.cli.options import counted
from sa2net.config import MeasureConfig
from sa2net.errors import DataError
from sa2net.review import ConflictError, HandCurve, Review, latest_review, read_levels, save_review
from sa2net.review.reading import as_hand_levels
from sa2net.review.record import ReviewedCurve
from sa2net.scoliosis import Measurement, measure
from sa2net.scoliosis.landmarks import find_landmarks
from sa2net.scoliosis.result import ModelIdentity

CFG = MeasureConfig()
CURVE = ReviewedCurve(
    angle_deg=30.0,
    interval_90_deg=(25.0, 35.0),
    lines_deg=33.0,
    convex="left",
    upper_row=1,
    lower_row=9,
    ends="by hand",
)


@pytest.fixture(scope="module")
def measured():
    drawn = draw(1, 40.0)
    return measure(drawn.mask, scan=drawn.scan, cfg=CFG), find_landmarks(drawn.mask, scan=drawn.scan).band


def review(version: int = 1, **changes: object) -> Review:
    fields = {
        "version": version, "based_on": 0, "decision": "corrected", "reader": "A. Reader", "saved_at": datetime.now(UTC), "comment": "",
        "measure_sha256": "0" * 64, "mask_source": "given", "model": ModelIdentity(), "levels": (), "chosen": (), "curves": (CURVE,),
    }  # fmt: skip
    return Review.model_validate({**fields, **changes})


def test_levels_left_alone_give_the_measured_angles(measured) -> None:
    before, band = measured
    after = read_levels(as_hand_levels(before), (), before, band=band, cfg=CFG).measurement
    assert [curve.convex for curve in after.curves] == [curve.convex for curve in before.curves]
    for first, second in zip(before.curves, after.curves, strict=True):
        assert second.angle_deg == pytest.approx(first.angle_deg, abs=0.3)


def test_a_turned_line_turns_the_angle_between_lines_by_as_much(measured) -> None:
    before, band = measured
    levels = list(as_hand_levels(before))
    assert levels[3].left and levels[3].right
    curve = HandCurve(upper=3, lower=9)
    first = read_levels(levels, (curve,), before, band=band, cfg=CFG).chosen[0]
    expected = abs(before.levels[9].tilt_deg - before.levels[3].tilt_deg)
    assert first.lines == pytest.approx(expected, abs=0.02)
    x, y = levels[3].right
    levels[3] = levels[3].model_copy(update={"right": (x, y + 60.0)})
    second = read_levels(levels, (curve,), before, band=band, cfg=CFG).chosen[0]
    turned = np.degrees(np.arctan2(y + 60.0 - levels[3].left[1], x - levels[3].left[0]))
    assert second.lines == pytest.approx(abs(before.levels[9].tilt_deg - turned), abs=0.02)
    assert second.angle != pytest.approx(first.angle, abs=0.3)
    assert second.interval_90[0] < second.angle < second.interval_90[1]


def test_order_of_levels_does_not_matter_and_too_few_are_refused(measured) -> None:
    before, band = measured
    levels = as_hand_levels(before)
    one = read_levels(levels, (), before, band=band, cfg=CFG).measurement
    assert read_levels(levels[::-1], (), before, band=band, cfg=CFG).measurement == one
    few: Measurement = read_levels(levels[:4], (), before, band=band, cfg=CFG).measurement
    assert (few.status, few.curves) == ("refused", ())


@pytest.mark.parametrize(("upper", "lower"), [(4, 4), (5, 4), (0, 99)])
def test_a_curve_between_no_two_levels_is_an_error(measured, upper: int, lower: int) -> None:
    before, band = measured
    with pytest.raises(ValueError, match="no curve lies between"):
        read_levels(as_hand_levels(before), (HandCurve(upper=upper, lower=lower),), before, band=band, cfg=CFG)


def test_versions_follow_each_other_and_stay_as_they_are(tmp_path: Path) -> None:
    first = save_review(tmp_path, "a", review(comment="é <b>"), opened=0)
    content = first.read_bytes()
    save_review(tmp_path, "a", review(2, decision="refused", curves=()), opened=1)
    assert first.read_bytes() == content
    latest = latest_review(tmp_path, "a")
    assert (latest.newest, latest.problems) == (2, ())
    assert latest.review is not None
    assert latest.review.decision == "refused"
    assert sorted(path.name for path in first.parent.iterdir()) == ["0001.json", "0002.json"]


def test_a_stale_save_is_a_conflict_and_writes_nothing(tmp_path: Path) -> None:
    first = save_review(tmp_path, "a", review(), opened=0)
    content = first.read_bytes()
    with pytest.raises(ConflictError, match="version 1 was saved"):
        save_review(tmp_path, "a", review(reader="another"), opened=0)
    assert first.read_bytes() == content
    assert len(list(first.parent.iterdir())) == 1


def test_of_many_saves_at_once_one_wins(tmp_path: Path) -> None:
    start, done = threading.Barrier(8), []

    def save(reader: str) -> None:
        start.wait()
        try:
            save_review(tmp_path, "a", review(reader=reader), opened=0)
            done.append(reader)
        except ConflictError:
            pass

    threads = [threading.Thread(target=save, args=(f"reader {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    latest = latest_review(tmp_path, "a").review
    assert latest is not None
    assert [latest.reader] == done


def test_a_damaged_version_is_named_and_keeps_its_number(tmp_path: Path) -> None:
    save_review(tmp_path, "a", review(), opened=0)
    (tmp_path / "reviews" / "a" / "0002.json").write_text("{", encoding="utf-8")
    latest = latest_review(tmp_path, "a")
    assert latest.review is not None
    assert (latest.review.version, latest.newest) == (1, 2)
    assert latest.problems[0].startswith("0002.json: ")
    with pytest.raises(ConflictError):
        save_review(tmp_path, "a", review(2), opened=1)


def test_a_file_of_the_first_schema_is_still_read(tmp_path: Path) -> None:
    path = save_review(tmp_path, "a", review(), opened=0)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["based_on"]
    path.write_text(json.dumps({**content, "schema_version": 1}), encoding="utf-8")
    latest = latest_review(tmp_path, "a")
    assert latest.problems == ()
    assert latest.review is not None
    assert latest.review.based_on is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "..\\b"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no name of a scan"):
        save_review(tmp_path, name, review(), opened=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"reader": "  "},
        {"decision": "refused"},
        {"curves": ()},
        {"saved_at": datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=2)))},
        {"comment": "x" * 4001},
        {"version": 0},
        {"based_on": 1},
        {"based_on": None},
        {"schema_version": 1},
    ],
)
def test_a_review_that_contradicts_itself_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        review(**changes)


def test_one_scan_is_no_scans() -> None:
    assert [counted(number) for number in (0, 1, 2)] == ["0 scans", "1 scan", "2 scans"]
