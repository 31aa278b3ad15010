"""The smooth spine and its curves: exact lines, noise, outliers, gaps; angles worked out by hand."""

import numpy as np
import numpy.typing as npt
import pytest

from sa2net.scoliosis.curves import angle_of_lines, find_curves, read_angle
from sa2net.scoliosis.spine import GRID, Observations, Spine, fit_spine
from sa2net.scoliosis.uncertainty import CALIBRATION, influence, interval, standard_error

Floats = npt.NDArray[np.float64]
STEP = 135.0


def bent(turn: float, count: int = 17) -> tuple[Floats, Floats, Floats]:
    """A spine whose slope swings by `turn` degrees once down and once back: heights, middles, slopes."""
    y = STEP * np.arange(count)
    fine = np.linspace(0.0, y[-1], 4001)
    slope = 0.5 * turn * np.cos(2.0 * np.pi * fine / y[-1])
    rise = np.tan(np.radians(slope))
    x = np.concatenate([[0.0], np.cumsum(0.5 * (rise[1:] + rise[:-1]) * np.diff(fine))])
    return y, np.interp(y, fine, x), np.interp(y, fine, slope)


def seen(turn: float, *, tilt_noise: float = 0.0, place_noise: float = 0.0, seed: int = 0) -> Observations:
    y, x, slope = bent(turn)
    rng = np.random.default_rng(seed)
    tilt = -slope + tilt_noise * rng.standard_normal(len(y))
    return Observations(y, x + place_noise * rng.standard_normal(len(y)), tilt, np.ones(len(y)), STEP)


def still(slope: Floats, y: Floats | None = None, error: float = 0.0) -> Spine:
    """A spine of a given slope without any scatter."""
    heights = np.linspace(0.0, 2000.0, GRID) if y is None else y
    return Spine(
        heights,
        slope,
        np.eye(GRID) * error**2,
        np.repeat(slope[:, None], 5, axis=1),
        np.zeros(0, bool),
        (0.2, 3.5, 0.04),
        (float(heights[0]), float(heights[-1])),
    )


@pytest.mark.parametrize(("tilts", "middles"), [(True, True), (True, False), (False, True)])
def test_a_clean_spine_comes_back(tilts: bool, middles: bool) -> None:
    spine = fit_spine(seen(30.0), tilts=tilts, middles=middles)
    y, _, slope = bent(30.0)
    # Smoothing takes a little off the extremes, and the ends have neighbours on one side only.
    np.testing.assert_allclose(np.interp(y, spine.y, spine.slope)[1:-1], slope[1:-1], atol=1.5)


def test_both_kinds_together_are_surer_than_either() -> None:
    errors = {}
    for name, tilts, middles in (("both", True, True), ("tilts", True, False), ("middles", False, True)):
        spine = fit_spine(seen(30.0), tilts=tilts, middles=middles, errors=(0.2, 3.5, 0.037))
        errors[name] = float(np.sqrt(np.diag(spine.covariance))[10:-10].mean())
    assert errors["both"] < min(errors["tilts"], errors["middles"])


def test_the_errors_are_learnt_from_the_scan() -> None:
    quiet = fit_spine(seen(30.0, tilt_noise=1.5, place_noise=2.0))
    loud = fit_spine(seen(30.0, tilt_noise=7.0, place_noise=10.0))
    assert loud.errors[1] > 1.5 * quiet.errors[1]
    assert loud.errors[2] > 1.3 * quiet.errors[2]
    assert np.trace(loud.covariance) > np.trace(quiet.covariance)


def test_one_line_that_lies_far_off_is_named_and_moves_little() -> None:
    clean = seen(30.0, tilt_noise=1.0, place_noise=2.0)
    tilt = clean.tilt.copy()
    tilt[8] += 30.0
    spoiled = Observations(clean.y, clean.x, tilt, clean.weight, clean.spacing)
    spine = fit_spine(spoiled)
    assert spine.outlying[8]
    assert spine.outlying.sum() == 1
    assert np.abs(spine.slope - fit_spine(clean).slope).max() < 2.0


def test_a_gap_makes_less_sure_there() -> None:
    whole = seen(30.0, tilt_noise=1.0, place_noise=2.0)
    holed = whole
    for index in (10, 9, 8):
        holed = holed.without(index)
    scales = (0.2, 3.5, 0.037)
    here = GRID // 2 + 6
    sure, unsure = (fit_spine(data, errors=scales).covariance[here, here] for data in (whole, holed))
    assert unsure > 1.5 * sure


def test_a_level_of_less_weight_pulls_less() -> None:
    clean = seen(0.0)
    moved = clean.x.copy()
    moved[8] += 20.0
    light = np.where(np.arange(17) == 8, 0.1, 1.0)
    heavy_spine = fit_spine(Observations(clean.y, moved, clean.tilt, clean.weight, STEP), errors=(0.2, 3.5, 0.037))
    light_spine = fit_spine(Observations(clean.y, moved, clean.tilt, light, STEP), errors=(0.2, 3.5, 0.037))
    assert np.abs(light_spine.slope).max() < 0.5 * np.abs(heavy_spine.slope).max()


def test_equal_input_gives_equal_numbers() -> None:
    first, second = (fit_spine(seen(25.0, tilt_noise=3.0, place_noise=5.0)) for _ in range(2))
    np.testing.assert_array_equal(first.slope, second.slope)
    np.testing.assert_array_equal(first.repeats, second.repeats)


def test_too_few_observations_are_refused() -> None:
    y, x, slope = bent(10.0, count=2)
    with pytest.raises(ValueError, match="2 observations"):
        fit_spine(Observations(y, x, -slope, np.ones(2), STEP), middles=False)


def test_two_curves_by_hand() -> None:
    """Slope 10 -> -20 -> 5: a curve of 30 degrees to the right, then one of 25 to the left."""
    y = np.linspace(0.0, 2000.0, GRID)
    slope = np.interp(y, [0.0, 1000.0, 2000.0], [10.0, -20.0, 5.0])
    first, second = find_curves(still(slope, y), 5.0)
    assert (first.angle, second.angle) == (pytest.approx(30.0), pytest.approx(25.0))
    assert (first.convex, second.convex) == ("right", "left")
    assert (first.upper, first.lower, second.upper, second.lower) == pytest.approx((0.0, 1000.0, 1000.0, 2000.0))
    assert (first.open_above, first.open_below, second.open_above, second.open_below) == (True, False, False, True)
    # Parallel to the chord where the slope is that of the chord: mean of the tangents, about -5 degrees, half way.
    assert first.apex == pytest.approx(500.0, abs=30.0)


def test_a_bulge_to_the_right_is_convex_to_the_right() -> None:
    y = np.linspace(0.0, 2000.0, GRID)
    x = -(((y - 1000.0) / 1000.0) ** 2) * 200.0  # furthest to the right in the middle
    slope = np.degrees(np.arctan(np.gradient(x, y)))
    (curve,) = find_curves(still(slope, y), 5.0)
    assert curve.convex == "right"
    assert curve.apex == pytest.approx(1000.0, abs=20.0)


def test_wiggles_part_no_curve() -> None:
    y = np.linspace(0.0, 2000.0, GRID)
    slope = np.interp(y, [0.0, 900.0, 1000.0, 2000.0], [15.0, 0.0, 2.0, -15.0])
    assert [round(curve.angle) for curve in find_curves(still(slope, y), 5.0)] == [30]


def test_a_straight_spine_has_one_small_curve() -> None:
    (curve,) = find_curves(still(np.linspace(0.0, 0.4, GRID)), 5.0)
    assert curve.angle == pytest.approx(0.4)
    (flat,) = find_curves(still(np.zeros(GRID)), 5.0)
    assert flat.angle == 0.0


def test_the_standard_error_is_that_of_a_difference() -> None:
    slope = np.interp(np.arange(GRID), [0, GRID - 1], [10.0, -10.0])
    (curve,) = find_curves(still(slope, error=1.5), 5.0)
    assert curve.standard_error == pytest.approx(1.5 * np.sqrt(2.0))


def test_the_excess_of_noisy_extremes_is_taken_off() -> None:
    """Many scans of one spine: the mean of the measured angles is near the truth, the raw extremes are above it."""
    angles, raw = [], []
    for seed in range(40):
        data = seen(20.0, tilt_noise=3.5, place_noise=5.0, seed=seed)
        spine = fit_spine(data)
        curves = find_curves(spine, 5.0)
        angles.append(max(curve.angle for curve in curves))
        raw.append(np.ptp(data.tilt[:9]))
    assert np.mean(raw) > 22.0
    assert np.mean(angles) == pytest.approx(20.0, abs=1.2)


def test_lines_alone_take_the_two_most_opposed() -> None:
    data = seen(30.0)
    tilt = data.tilt.copy()
    tilt[7] += 6.0
    curve = find_curves(fit_spine(data), 5.0)[0]
    assert curve.convex == "right"
    lined = Observations(data.y, data.x, tilt, data.weight, STEP)
    assert angle_of_lines(lined, curve) == pytest.approx(max(tilt[7], tilt[8]) + 15.0, abs=0.1)


def test_lines_alone_need_lines() -> None:
    data = seen(30.0)
    curve = find_curves(fit_spine(data), 5.0)[0]
    without = Observations(data.y, data.x, np.full(17, np.nan), data.weight, STEP)
    assert np.isnan(angle_of_lines(without, curve))


def test_another_estimator_is_read_near_the_same_ends() -> None:
    y = np.linspace(0.0, 2000.0, GRID)
    one = still(np.interp(y, [0.0, 1000.0, 2000.0], [10.0, -20.0, 5.0]), y)
    other = still(np.interp(y, [0.0, 1100.0, 2000.0], [8.0, -16.0, 5.0]), y)
    curve = find_curves(one, 5.0)[0]
    assert read_angle(other, curve, STEP).angle == pytest.approx(24.0, abs=0.5)
    against = still(np.linspace(-20.0, 10.0, GRID), y)
    assert read_angle(against, curve, STEP).angle == 0.0  # that one bends the other way


def test_other_label_maps_widen_the_interval() -> None:
    curve = find_curves(still(np.linspace(10.0, -10.0, GRID), error=1.0), 5.0)[0]
    alone = standard_error(curve, [], "given")
    assert alone == pytest.approx(CALIBRATION["given"] * curve.standard_error)
    assert standard_error(curve, [curve.angle], "given") == pytest.approx(alone)
    assert standard_error(curve, [20.0, 20.0, 20.0], "given") == pytest.approx(alone)
    scattered = standard_error(curve, [20.0, 23.0, 17.0], "given")
    assert scattered == pytest.approx(CALIBRATION["given"] * float(np.hypot(curve.standard_error, 3.0)))
    assert standard_error(curve, [], "network") > alone  # a network's outlines err too


def test_the_interval_is_not_below_zero() -> None:
    assert interval(2.0, 3.0)[0] == 0.0
    assert interval(20.0, 2.0) == (pytest.approx(16.71, abs=0.01), pytest.approx(23.29, abs=0.01))


def test_influence_is_large_where_an_angle_hangs_on_one_level() -> None:
    y, straight = STEP * np.arange(17), np.zeros(17)
    pushed = np.where(np.arange(17) == 8, 60.0, 0.0)
    found = []
    for x in (30.0 * np.sin(np.linspace(0.0, np.pi, 17)) * 4.0, pushed):
        data = Observations(y, x, straight * np.nan, np.ones(17), STEP)
        spine = fit_spine(data, tilts=False, errors=(0.2, 3.5, 0.037))
        curve = max(find_curves(spine, 5.0), key=lambda item: item.angle)
        found.append(influence(data, spine, curve) / curve.angle)
    assert found[0] < 0.15
    assert found[1] > 0.5
