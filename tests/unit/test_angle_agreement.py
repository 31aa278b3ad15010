"""Agreement of angles: published values, values worked out by hand, and which curve is which."""

import numpy as np
import pytest
from spine_cases import Drawn, draw, without_side

from sa2net.config import MeasureConfig
from sa2net.data.angles import TrueCurve
from sa2net.evaluation.angles import agree, compare, intraclass_correlation, match
from sa2net.scoliosis import measure
from sa2net.scoliosis.column import column_curves
from sa2net.scoliosis.result import CurveResult

SHROUT_AND_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def test_the_published_example_of_the_intraclass_correlation() -> None:
    icc, low, high = intraclass_correlation(SHROUT_AND_FLEISS)
    assert icc == pytest.approx(0.29, abs=0.005)
    assert (low, high) == (pytest.approx(0.019, abs=0.001), pytest.approx(0.761, abs=0.001))


def test_equal_ratings_agree_fully() -> None:
    assert intraclass_correlation(np.array([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]])) == (1.0, 1.0, 1.0)


def test_a_constant_shift_counts_against_agreement() -> None:
    values = np.array([10.0, 20.0, 30.0, 40.0])
    # Mean squares: subjects 2 * 500 / 3, raters 4 * 2 * 2.5^2 = 50, error 0.
    expected = (1000 / 3) / (1000 / 3 + 2 * 50 / 4)
    assert intraclass_correlation(np.stack([values, values + 5.0], axis=1))[0] == pytest.approx(expected)


def test_rows_that_do_not_vary_have_no_interval() -> None:
    icc, low, high = intraclass_correlation(np.array([[20.0, 25.0]] * 4))
    assert icc == 0.0  # all the variation is between the two rows
    assert np.isnan([low, high]).all()
    assert np.isnan(intraclass_correlation(np.full((4, 2), 20.0))).all()


def test_a_higher_confidence_gives_a_wider_interval() -> None:
    _, low, high = intraclass_correlation(SHROUT_AND_FLEISS)
    _, lower, higher = intraclass_correlation(SHROUT_AND_FLEISS, 0.99)
    assert lower < low < high < higher
    wide = agree(SHROUT_AND_FLEISS[:, 0], SHROUT_AND_FLEISS[:, 2], confidence=0.99)
    assert wide.icc_low < agree(SHROUT_AND_FLEISS[:, 0], SHROUT_AND_FLEISS[:, 2]).icc_low


def test_agreement_by_hand() -> None:
    found = agree([12.0, 18.0, 33.0, 46.0], [10.0, 20.0, 30.0, 40.0])  # differences 2, -2, 3, 6
    assert (found.pairs, found.mad, found.bias, found.close) == (4, 3.25, 2.25, 0.75)
    spread = 1.96 * np.std([2.0, -2.0, 3.0, 6.0], ddof=1)
    assert (found.low, found.high) == (pytest.approx(2.25 - spread), pytest.approx(2.25 + spread))


def test_what_is_not_a_number_is_left_out() -> None:
    assert agree([1.0, np.nan, 3.0], [1.0, 2.0, np.nan]).pairs == 1
    assert np.isnan(agree([], []).mad)
    assert np.isnan(agree([1.0], [2.0]).icc)


def measured(convex: str, upper: float, lower: float, angle: float = 20.0) -> CurveResult:
    return CurveResult.model_construct(convex=convex, upper_row=upper, lower_row=lower, angle_deg=angle)


def test_a_curve_is_found_by_side_and_height() -> None:
    curve = TrueCurve(20.0, "right", 100.0, 900.0)
    right, wrong_side, far, small = (
        measured("right", 150.0, 850.0),
        measured("left", 100.0, 900.0),
        measured("right", 1000.0, 1500.0),
        measured("right", 100.0, 240.0),
    )
    assert match(curve, [wrong_side, far, small, right]) is right
    assert match(curve, [wrong_side, far, small]) is None


def truth_of(drawn: Drawn) -> list[TrueCurve]:
    return [TrueCurve(curve.angle, curve.convex, curve.y_start, curve.y_end) for curve in drawn.curves]


def test_a_drawn_spine_is_compared_with_its_truth() -> None:
    drawn = draw(5, 42.0)
    compared = compare(measure(drawn.mask, scan=drawn.scan, cfg=MeasureConfig()), truth_of(drawn))
    assert compared.truth == pytest.approx(42.0, abs=0.5)
    assert compared.counts
    assert np.isnan(compared.drawn)  # nobody drew lines
    assert compared.found is not None
    assert abs(compared.found.angle_deg - 42.0) < 6.0
    assert (compared.refused, compared.missed, compared.extra) == (False, 0, 0)
    low, high = compared.found.interval_90_deg
    assert compared.covered == (low <= compared.truth <= high)


def test_a_refused_scan_is_neither_found_nor_missed() -> None:
    drawn = draw(5, 42.0)
    compared = compare(measure(without_side(drawn, "left"), scan=drawn.scan, cfg=MeasureConfig()), truth_of(drawn))
    assert (compared.refused, compared.found, compared.missed, compared.extra, compared.covered) == (
        True,
        None,
        0,
        0,
        False,
    )


def test_a_curve_on_the_other_side_is_missed_and_extra() -> None:
    drawn = draw(5, 42.0)
    measurement = measure(drawn.mask, scan=drawn.scan, cfg=MeasureConfig())
    compared = compare(measurement, [TrueCurve(30.0, "left", 100.0, 110.0, 33.0)])
    assert (compared.found, compared.missed, compared.drawn, compared.convex) == (None, 1, 33.0, "left")
    assert compared.extra == sum(curve.angle_deg >= 10.0 for curve in measurement.curves) > 0


def test_the_spinous_column_is_followed_without_a_network() -> None:
    from sa2net.data.phantom import draw_phantom

    phantom = draw_phantom(np.random.default_rng([5, 5]), width=320, angle=40.0)
    curves = column_curves(phantom.scan, phantom.spacing_mm, 5.0)
    largest = max(curves, key=lambda curve: curve.angle)
    assert largest.angle == pytest.approx(40.0, abs=6.0)
    assert largest.convex == max(phantom.truth["curves"], key=lambda curve: curve["angle_deg"])["convex"]


def test_a_black_picture_has_no_column() -> None:
    assert column_curves(np.zeros((400, 100), np.uint8), None, 5.0) == []
