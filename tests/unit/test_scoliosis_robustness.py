"""Spoiled label maps: the right angle, or a refusal for the right reason; never a crash, never a wrong number."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from spine_cases import LUMP, PROCESS, RIB, Drawn, Picture, bridged, draw, without_levels, without_side

from sa2net.config import MeasureConfig
from sa2net.scoliosis import Measurement, measure
from sa2net.scoliosis.result import RefusalCode

CFG = MeasureConfig()
OTHER = {"left": "right", "right": "left"}
few = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
drawings = st.builds(draw, st.integers(0, 40), st.floats(14.0, 58.0))


def measured(mask: Picture, scan: Picture | None = None, spacing: tuple[float, float] | None = None) -> Measurement:
    return measure(mask, scan=scan, cfg=CFG, spacing_mm=spacing)


def codes(measurement: Measurement) -> set[RefusalCode]:
    return {refusal.code for refusal in measurement.refusals}


def error_of(measurement: Measurement, truth: Drawn, *, mirrored: bool = False, stretch: float = 1.0) -> float:
    """How far the angle of the largest true curve is off, in standard errors; inf where that curve was not found."""
    largest = truth.largest
    side = OTHER[largest.convex] if mirrored else largest.convex
    angles = [
        (abs(curve.angle_deg - largest.angle) / curve.standard_error_deg)
        for curve in measurement.curves
        if curve.convex == side
        and curve.upper_row < stretch * largest.y_end
        and curve.lower_row > stretch * largest.y_start
    ]
    return min(angles, default=float("inf"))


def check(measurement: Measurement, truth: Drawn, reasons: set[RefusalCode], **how: object) -> None:
    """The right angle within what the uncertainty allows, or one of the reasons."""
    if measurement.status == "refused":
        assert codes(measurement) & reasons, measurement.refusals
    else:
        assert error_of(measurement, truth, **how) < 3.5  # type: ignore[arg-type]


@few
@given(drawings)
def test_a_whole_label_map_is_measured(truth: Drawn) -> None:
    measurement = measured(truth.mask, truth.scan)
    assert measurement.status == "measured"
    assert error_of(measurement, truth) < 3.5
    largest = measurement.largest
    assert largest is not None
    assert largest.interval_90_deg[0] <= largest.angle_deg <= largest.interval_90_deg[1]


@few
@given(drawings)
def test_a_mirrored_picture_gives_the_same_angles_on_the_other_side(truth: Drawn) -> None:
    straight, mirrored = (
        measured(np.ascontiguousarray(mask), np.ascontiguousarray(scan))
        for mask, scan in ((truth.mask, truth.scan), (truth.mask[:, ::-1], truth.scan[:, ::-1]))
    )
    for one in straight.curves:
        if one.angle_deg < 1.2 * CFG.smallest_curve_deg:  # may be listed in one picture alone
            continue
        other = min(mirrored.curves, key=lambda curve: abs(curve.apex_row - one.apex_row))
        assert other.convex == OTHER[one.convex]
        assert other.angle_deg == pytest.approx(one.angle_deg, abs=0.6)
    assert "mirrored" in mirrored.orientation


@few
@given(drawings, st.booleans())
def test_an_upside_down_picture_is_refused(truth: Drawn, turned: bool) -> None:
    step = -1 if turned else 1
    assert codes(measured(truth.mask[::-1, ::step], truth.scan[::-1, ::step])) == {"upside_down"}


@few
@given(drawings, st.sampled_from(["left", "right"]))
def test_without_one_side_it_says_so(truth: Drawn, side: str) -> None:
    measurement = measured(without_side(truth, side), truth.scan)
    assert "one_side_missing" in codes(measurement)
    assert any(side in refusal.reason for refusal in measurement.refusals)


@few
@given(drawings, st.sets(st.integers(0, 9), min_size=1, max_size=3), st.sampled_from(["left", "right"]))
def test_a_few_processes_missing_on_one_side(truth: Drawn, indices: set[int], side: str) -> None:
    check(measured(without_side(truth, side, sorted(indices)), truth.scan), truth, {"uncertain", "estimators_disagree"})


@few
@given(drawings, st.integers(0, 12))
def test_three_levels_missing_in_a_row(truth: Drawn, first: int) -> None:
    measurement = measured(without_levels(truth, [first, first + 1, first + 2]), truth.scan)
    check(measurement, truth, {"levels_missing", "uncertain", "sweep_cut", "estimators_disagree"})


@few
@given(drawings, st.sets(st.integers(0, 14), min_size=3, max_size=6))
def test_several_levels_missing(truth: Drawn, indices: set[int]) -> None:
    measurement = measured(without_levels(truth, sorted(indices)), truth.scan)
    reasons: set[RefusalCode] = {
        "levels_missing",
        "uncertain",
        "sweep_cut",
        "too_few_levels",
        "estimators_disagree",
        "implausible_anatomy",
    }
    check(measurement, truth, reasons)


@few
@given(drawings, st.sampled_from([PROCESS, LUMP]), st.integers(10, 40))
def test_neighbours_grown_together(truth: Drawn, label: int, rows: int) -> None:
    measurement = measured(bridged(truth.mask, label, rows), truth.scan)
    check(measurement, truth, {"uncertain", "estimators_disagree", "low_confidence", "implausible_anatomy"})


@few
@given(drawings, st.integers(0, 2**32 - 1))
def test_extra_blobs_and_salt(truth: Drawn, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = truth.mask.copy()
    for _ in range(5):
        row, column = rng.integers(100, mask.shape[0] - 100), rng.integers(80, 560)
        mask[row - 40 : row + 40, column - 35 : column + 35] = rng.integers(1, 4)
    mask[rng.random(mask.shape) < 0.2] = 0
    reasons: set[RefusalCode] = {
        "uncertain",
        "estimators_disagree",
        "implausible_anatomy",
        "low_confidence",
        "too_few_levels",
        "one_side_missing",
        "sweep_cut",
    }
    check(measured(mask, truth.scan), truth, reasons)


@few
@given(drawings, st.sampled_from([-21, -13, 11, 17]))
def test_thin_and_thick_bones(truth: Drawn, size: int) -> None:
    change = ndimage.grey_dilation if size > 0 else ndimage.grey_erosion
    mask = change(truth.mask, (abs(size), abs(size)))
    check(measured(mask, truth.scan), truth, {"uncertain", "estimators_disagree", "low_confidence"})


@few
@given(drawings, st.floats(0.3, 0.65), st.booleans())
def test_a_part_of_the_sweep_is_refused_or_right_where_it_shows(truth: Drawn, share: float, upper: bool) -> None:
    cut = int(share * truth.mask.shape[0])
    window = slice(0, cut) if upper else slice(truth.mask.shape[0] - cut, None)
    measurement = measured(truth.mask[window], truth.scan[window])
    assert "sweep_cut" in codes(measurement)


@few
@given(drawings, st.sampled_from([0.7, 1.6]))
def test_pixels_that_are_no_squares_are_taken_in(truth: Drawn, stretch: float) -> None:
    rows = np.clip((np.arange(int(truth.mask.shape[0] * stretch)) / stretch).astype(int), 0, truth.mask.shape[0] - 1)
    plain = measured(truth.mask, truth.scan, (0.2, 0.2))
    stretched = measured(truth.mask[rows], truth.scan[rows], (0.2, 0.2 / stretch))
    check(stretched, truth, set(), stretch=stretch)
    assert stretched.largest_angle_deg == pytest.approx(plain.largest_angle_deg, abs=1.0)
    assert stretched.spacing.source == "given"


@few
@given(drawings, st.sampled_from([0.25, 0.5, 1.5]))
def test_the_size_of_the_picture_does_not_matter(truth: Drawn, scale: float) -> None:
    height, width = (int(side * scale) for side in truth.mask.shape)
    rows = np.clip(((np.arange(height) + 0.5) / scale).astype(int), 0, truth.mask.shape[0] - 1)
    columns = np.clip(((np.arange(width) + 0.5) / scale).astype(int), 0, truth.mask.shape[1] - 1)
    measurement = measured(truth.mask[rows][:, columns], truth.scan[rows][:, columns])
    check(measurement, truth, set(), stretch=scale)


def test_an_empty_label_map_is_refused() -> None:
    truth = draw(0, 30.0)
    assert codes(measured(np.zeros_like(truth.mask), truth.scan)) == {"nothing_found"}
    assert codes(measured(np.zeros_like(truth.mask))) == {"nothing_found"}
    assert codes(measured(np.zeros((1, 1), np.uint8))) == {"nothing_found"}


@pytest.mark.parametrize("label", [RIB, PROCESS, LUMP])
def test_one_class_everywhere_is_refused(label: int) -> None:
    truth = draw(0, 30.0)
    assert codes(measured(np.full_like(truth.mask, label), truth.scan)) == {"implausible_anatomy"}
    inside = np.where(truth.scan > 0, label, 0).astype(np.uint8)
    assert codes(measured(inside)) == {"implausible_anatomy"}


@pytest.mark.parametrize("label", [RIB, PROCESS, LUMP])
def test_all_bones_of_one_class_are_refused(label: int) -> None:
    truth = draw(1, 30.0)
    mask = np.where(truth.mask > 0, label, 0).astype(np.uint8)
    assert codes(measured(mask, truth.scan)) & {
        "sweep_cut",
        "implausible_anatomy",
        "nothing_found",
        "too_few_levels",
        "low_confidence",
    }


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 140), st.floats(0.05, 1.0))
def test_noise_of_any_grain_is_refused(seed: int, grain: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    shape = (2400 // grain + 1, 640 // grain + 1)
    coarse = np.where(rng.random(shape) < share, rng.integers(0, 4, shape), 0).astype(np.uint8)
    mask = np.kron(coarse, np.ones((grain, grain), np.uint8))[:2400, :640]
    scan = np.zeros_like(mask)
    scan[80:2350, 120:520] = 120
    assert measured(mask, scan).status == "refused"


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60))
def test_tiny_label_maps_never_crash(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 4, (height, width)).astype(np.uint8)
    assert measured(mask).status == "refused"
    assert measured(mask, mask * np.uint8(60)).status == "refused"
