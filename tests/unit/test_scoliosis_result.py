"""What a measurement says, its settings, its picture: schema, words for severity, refusals that hide every number."""

import json

import numpy as np
import pytest
from pydantic import ValidationError
from spine_cases import Drawn, draw, without_side

from sa2net.config import MeasureConfig
from sa2net.scoliosis import Measurement, Source, measure
from sa2net.scoliosis.picture import draw_measurement
from sa2net.scoliosis.result import ModelIdentity


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return draw(5, 42.0)


@pytest.fixture(scope="module")
def measurement(drawn: Drawn) -> Measurement:
    return measure(drawn.mask, scan=drawn.scan, cfg=MeasureConfig(), spacing_mm=(0.18, 0.18), source=Source("a scan"))


@pytest.fixture(scope="module")
def refused(drawn: Drawn) -> Measurement:
    return measure(without_side(drawn, "left"), scan=drawn.scan, cfg=MeasureConfig())


def test_it_comes_back_from_json_as_it_was(measurement: Measurement, refused: Measurement) -> None:
    for said in (measurement, refused):
        assert Measurement.model_validate_json(said.model_dump_json()) == said


def test_a_measured_scan(measurement: Measurement, drawn: Drawn) -> None:
    assert (measurement.schema_version, measurement.status, measurement.refusals) == (1, "measured", ())
    assert (measurement.width, measurement.height) == drawn.mask.shape[::-1]
    largest = measurement.largest
    assert largest is not None
    assert measurement.largest_angle_deg == largest.angle_deg == largest.estimates.combined
    assert largest.estimates.lines is not None
    assert largest.spread_deg == pytest.approx(
        np.ptp([largest.angle_deg, largest.estimates.tilts, largest.estimates.midline]), abs=0.02
    )
    labels = [level.label for level in measurement.levels]
    assert labels == [level.name for level in drawn.anatomy.levels]
    assert {largest.upper_end, largest.apex, largest.lower_end} <= set(labels)
    assert labels.index(largest.upper_end) < labels.index(largest.apex) < labels.index(largest.lower_end)
    assert "not a radiographic Cobb angle" in measurement.angle_kind
    assert measurement.intended_use == "research only"


def test_points_are_pixels_whatever_the_spacing(drawn: Drawn, measurement: Measurement) -> None:
    plain = measure(drawn.mask, scan=drawn.scan, cfg=MeasureConfig())
    assert [level.middle for level in plain.levels] == [
        pytest.approx(level.middle, abs=0.02) for level in measurement.levels
    ]
    assert measurement.spine[0] == pytest.approx(measurement.levels[0].middle, abs=12.0)


def test_unknown_spacing_is_said(drawn: Drawn, measurement: Measurement) -> None:
    plain = measure(drawn.mask, scan=drawn.scan, cfg=MeasureConfig())
    assert (plain.spacing.x_mm, plain.spacing.source) == (None, "assumed square")
    assert any("pixels are taken for squares" in warning for warning in plain.warnings)
    assert not any("squares" in warning for warning in measurement.warnings)
    assert plain.largest_angle_deg == pytest.approx(measurement.largest_angle_deg, abs=0.02)


def test_a_refused_scan_holds_no_angle(refused: Measurement) -> None:
    assert (refused.status, refused.curves, refused.largest_angle_deg, refused.largest, refused.spine) == (
        "refused",
        (),
        None,
        None,
        (),
    )
    assert refused.refusals[0].code == "one_side_missing"
    assert "left" in refused.refusals[0].reason


def test_a_file_with_both_an_angle_and_a_refusal_is_no_measurement(
    measurement: Measurement, refused: Measurement
) -> None:
    mixed = json.loads(measurement.model_dump_json()) | {"refusals": json.loads(refused.model_dump_json())["refusals"]}
    with pytest.raises(ValidationError, match="no refusal"):
        Measurement.model_validate(mixed)
    with pytest.raises(ValidationError, match="no angle"):
        Measurement.model_validate(mixed | {"status": "refused"})
    with pytest.raises(ValidationError):
        Measurement.model_validate(json.loads(measurement.model_dump_json()) | {"schema_version": 2})
    with pytest.raises(ValidationError):
        Measurement.model_validate(json.loads(measurement.model_dump_json()) | {"cobb": 12})


def test_without_a_table_there_is_no_word_for_severity(measurement: Measurement) -> None:
    assert measurement.severity is None


@pytest.mark.parametrize(("limit", "word"), [("30:low", "high"), ("60:low", "low")])
def test_a_word_comes_with_its_source(drawn: Drawn, limit: str, word: str) -> None:
    cfg = MeasureConfig(severity=(limit, "180:high"), severity_source="a table of 2020")
    said = measure(drawn.mask, scan=drawn.scan, cfg=cfg).severity
    assert said is not None
    assert (said.word, said.source) == (word, "a table of 2020")
    assert "not a radiographic Cobb angle" in said.note


@pytest.mark.parametrize(
    "settings",
    [
        {"severity": ("10:low",)},  # no source
        {"severity": ("20:low", "10:high"), "severity_source": "x"},
        {"severity": ("low",), "severity_source": "x"},
        {"severity": ("10:",), "severity_source": "x"},
        {"min_levels": 2},
        {"smallest_curve_deg": 0.0},
        {"unknown": 1},
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        MeasureConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"min_levels": 17}, "too_few_levels"),
        ({"max_standard_error_deg": 0.01}, "uncertain"),
        ({"max_disagreement": 0.001}, "estimators_disagree"),
        ({"min_confidence": 1.0}, "low_confidence"),
        ({"max_unlike": 0}, "unlike_training"),
    ],
)
def test_limits_are_settings(settings: dict[str, object], code: str) -> None:
    cfg = MeasureConfig.model_validate(settings)
    truth = draw(2, 30.0)  # 16 levels
    assert len(truth.anatomy.levels) == 16
    said = measure(truth.mask, scan=truth.scan, cfg=cfg, source=Source("a scan", unlike=("mean grey of rib is 3",)))
    assert code in {refusal.code for refusal in said.refusals}


def test_what_is_unlike_the_training_is_a_warning_first(drawn: Drawn) -> None:
    source = Source("a scan", "network", ModelIdentity(name="m"), unlike=("mean grey of rib is 3",))
    said = measure(drawn.mask, scan=drawn.scan, cfg=MeasureConfig(), source=source)
    assert (said.status, said.mask_source, said.model.name) == ("measured", "network", "m")
    assert "mean grey of rib is 3" in said.warnings


def test_other_label_maps_of_the_scan_widen_the_interval(drawn: Drawn) -> None:
    same, alone = (
        measure(drawn.mask, scan=drawn.scan, cfg=MeasureConfig(), others=others) for others in ([drawn.mask], [])
    )
    assert same.curves == alone.curves
    stretched = drawn.mask[np.minimum((np.arange(drawn.mask.shape[0]) * 1.3).astype(int), drawn.mask.shape[0] - 1)]
    wide = measure(drawn.mask, scan=drawn.scan, cfg=MeasureConfig(max_standard_error_deg=50.0), others=[stretched])
    assert wide.largest is not None and alone.largest is not None
    assert wide.largest.standard_error_deg > alone.largest.standard_error_deg


def test_the_picture_shows_the_scan_with_light_and_dark_lines(drawn: Drawn, measurement: Measurement) -> None:
    picture = draw_measurement(drawn.scan, measurement)
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert picture.shape[0] > drawn.scan.shape[0]
    level = measurement.levels[5]
    assert level.left is not None
    top = picture.shape[0] - drawn.scan.shape[0]
    end = picture[top + round(level.left[1]) - 9 : top + round(level.left[1]) + 10, round(level.left[0])]
    grey = end.mean(axis=1)  # as a grey printer has it
    assert (grey.min(), grey.max()) == (0.0, 255.0)


def test_the_picture_of_a_refusal_has_no_curves(drawn: Drawn, measurement: Measurement, refused: Measurement) -> None:
    coloured = [
        int((np.ptp(draw_measurement(drawn.scan, said).astype(int), axis=2) > 60).sum())
        for said in (measurement, refused)
    ]
    assert coloured[0] > 1000
    assert coloured[1] == 0


def test_a_picture_of_another_size_is_refused(measurement: Measurement) -> None:
    with pytest.raises(ValueError, match="differ in size"):
        draw_measurement(np.zeros((10, 10), np.uint8), measurement)


def test_a_long_name_stays_inside_the_picture(drawn: Drawn) -> None:
    said = measure(drawn.mask, scan=drawn.scan, cfg=MeasureConfig(), source=Source("x" * 190 + ".png"))
    assert draw_measurement(drawn.scan, said).shape[1] == 1200
