"""Scores of one scan against values worked out by hand, and against MONAI's own whole-metric functions."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sa2net.anatomy import FOREGROUND, IGNORE_INDEX
from sa2net.evaluation.metrics import METRICS, ClassScore, mean_over_classes, score_scan


def blank(height=30, width=40):
    return np.zeros((height, width), dtype=np.uint8)


def square(top, left, height, width, *, label=1, shape=(30, 40)):
    mask = blank(*shape)
    mask[top : top + height, left : left + width] = label
    return mask


def first(prediction, truth, *, spacing_mm=None, tolerance=1.0) -> ClassScore:
    """The score of class 1; the tolerance of the other unit is absurd, so that a mix-up shows."""
    in_mm, in_px = (1e9, tolerance) if spacing_mm is None else (tolerance, 1e9)
    return score_scan(prediction, truth, spacing_mm=spacing_mm, tolerance_mm=in_mm, tolerance_px=in_px)[0]


def test_identical_masks_are_perfect():
    mask = square(5, 5, 10, 10)
    score = first(mask, mask, tolerance=0.5)
    assert (score.dice, score.iou, score.nsd, score.hd95) == (1.0, 1.0, 1.0, 0.0)
    assert (score.truth_px, score.prediction_px, score.state) == (100, 100, "scored")


@pytest.mark.parametrize(("tolerance", "within"), [(0.0, 14), (1.0, 18), (2.0, 22), (2.9, 22), (3.0, 36)])
def test_squares_shifted_by_three_pixels(tolerance, within):
    # Each outline has 36 pixels: 14 lie on the other outline, 4 are 1 px, 4 are 2 px and 14 are 3 px away from it.
    score = first(square(5, 8, 10, 10), square(5, 5, 10, 10), tolerance=tolerance)
    assert score.dice == pytest.approx(2 * 70 / 200)
    assert score.iou == pytest.approx(70 / 130)
    assert score.nsd == pytest.approx(within / 36)
    assert score.hd95 == pytest.approx(3.0)


@pytest.mark.parametrize(("tolerance", "nsd"), [(4.99, 0.0), (5.0, 1.0)])
def test_two_single_pixels_at_distance_five(tolerance, nsd):
    score = first(square(13, 14, 1, 1), square(10, 10, 1, 1), tolerance=tolerance)
    assert (score.dice, score.iou, score.nsd, score.hd95) == (0.0, 0.0, nsd, 5.0)


def test_spacing_is_x_first_and_gives_millimetres():
    # 8 columns of 0.5 mm and 3 rows of 2 mm: 4 and 6 mm.
    score = first(square(13, 18, 1, 1), square(10, 10, 1, 1), spacing_mm=(0.5, 2.0), tolerance=math.hypot(4, 6) + 1e-4)
    assert score.hd95 == pytest.approx(math.hypot(4, 6), rel=1e-6)
    assert (score.nsd, score.unit) == (1.0, "mm")
    sideways = first(square(10, 14, 1, 1), square(10, 10, 1, 1), spacing_mm=(0.5, 2.0), tolerance=1.9)
    assert (sideways.hd95, sideways.nsd) == (2.0, 0.0)


def test_tolerance_that_equals_a_rounded_distance_counts_as_within():
    score = first(square(10, 13, 1, 1), square(10, 10, 1, 1), spacing_mm=(0.1, 0.1), tolerance=0.3)  # 3 * 0.1 > 0.3
    assert score.nsd == 1.0


def test_nested_squares():
    # Inner 10 x 10 centred in outer 20 x 20: the inner outline is 5 px from the outer everywhere. Of the outer
    # outline's 76 pixels the 4 corners are 5 * sqrt(2) away, the next is sqrt(41); rank 0.95 * 75 = 71.25 lies between.
    score = first(square(9, 13, 10, 10), square(4, 8, 20, 20), tolerance=5.0)
    assert score.dice == pytest.approx(0.4)
    assert score.iou == pytest.approx(0.25)
    assert score.hd95 == pytest.approx(0.75 * math.sqrt(41) + 0.25 * math.sqrt(50), rel=1e-6)
    assert score.nsd == pytest.approx((36 + 40) / (36 + 76))


def test_class_at_the_edge_of_the_picture_has_a_surface_there():
    whole = np.ones((10, 10), dtype=np.uint8)
    score = first(square(1, 1, 8, 8, shape=(10, 10)), whole, tolerance=0.0)
    assert score.nsd == 0.0
    assert score.hd95 == pytest.approx(math.sqrt(2))  # the 4 corners of 36 pixels; the others are 1 px away
    assert first(whole, whole).nsd == 1.0


def test_absent_in_both_is_not_scored():
    score = first(blank(), blank())
    assert all(math.isnan(getattr(score, metric)) for metric in METRICS)
    assert (score.state, score.truth_px, score.prediction_px) == ("absent", 0, 0)


@pytest.mark.parametrize(
    ("prediction", "truth", "state"),
    [(blank(), square(5, 5, 10, 10), "missed"), (square(5, 5, 10, 10), blank(), "spurious")],
)
def test_absent_in_one_counts_as_worst(prediction, truth, state):
    score = first(prediction, truth)
    assert (score.dice, score.iou, score.nsd, score.hd95, score.state) == (0.0, 0.0, 0.0, 50.0, state)
    in_mm = first(prediction, truth, spacing_mm=(0.5, 2.0))
    assert in_mm.hd95 == pytest.approx(math.hypot(30 * 2.0, 40 * 0.5))


def test_every_foreground_class_is_scored_on_its_own():
    truth, prediction = square(2, 2, 6, 6, label=2), square(2, 2, 6, 6, label=2)
    truth[20:25, 20:25] = 3
    scores = score_scan(prediction, truth, spacing_mm=None, tolerance_mm=1.0, tolerance_px=1.0)
    assert [score.name for score in scores] == [item.name for item in FOREGROUND]
    assert [score.state for score in scores] == ["absent", "scored", "missed"]
    assert mean_over_classes(scores, "dice") == pytest.approx(0.5)  # 1 and 0; the absent class is left out
    absent = score_scan(blank(), blank(), spacing_mm=None, tolerance_mm=1.0, tolerance_px=1.0)
    assert math.isnan(mean_over_classes(absent, "dice"))


def test_border_along_ignored_pixels_is_no_surface():
    # Columns from 10 on are ignored. Visible outlines: 18 px of truth (left side, top, bottom), 14 of prediction;
    # 6 of each lie on the other. With the cut counted as a surface the share would be larger.
    truth, prediction = square(5, 5, 10, 10), square(5, 7, 10, 10)
    truth[:, 10:] = IGNORE_INDEX
    score = first(prediction, truth, tolerance=0.0)
    assert score.nsd == pytest.approx(12 / 32)
    assert (score.truth_px, score.prediction_px) == (50, 30)
    assert score.dice == pytest.approx(2 * 30 / 80)


def test_class_enclosed_by_ignored_pixels_keeps_its_overlap_and_has_no_distance():
    truth = np.full((20, 20), IGNORE_INDEX, dtype=np.uint8)
    truth[5:10, 5:10] = 1
    score = first(np.ones((20, 20), dtype=np.uint8), truth)
    assert score.dice == 1.0
    assert math.isnan(score.nsd)
    assert math.isnan(score.hd95)


def test_class_predicted_only_under_ignored_pixels_is_absent():
    truth = blank()
    truth[:10] = IGNORE_INDEX
    assert first(square(0, 0, 9, 9), truth).state == "absent"


def test_pictures_of_different_size_are_refused():
    with pytest.raises(ValueError, match="one size"):
        first(blank(30, 40), blank(40, 30))


def random_mask(seed, shape=(24, 18)):
    coarse = np.random.default_rng(seed).integers(0, 4, size=(shape[0] // 6, shape[1] // 6), dtype=np.uint8)
    return np.kron(coarse, np.ones((6, 6), dtype=np.uint8))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0.0, 8.0))
def test_scores_are_symmetric_and_bounded(seed, other, tolerance):
    prediction, truth = random_mask(seed), random_mask(other)
    there, back = (
        score_scan(*pair, spacing_mm=None, tolerance_mm=1.0, tolerance_px=tolerance)
        for pair in ((prediction, truth), (truth, prediction))
    )
    for one, two in zip(there, back, strict=True):
        for metric in METRICS:
            assert getattr(one, metric) == pytest.approx(getattr(two, metric), nan_ok=True)
        if one.state != "absent":
            assert one.dice == pytest.approx(2 * one.iou / (1 + one.iou))
            assert 0.0 <= one.nsd <= 1.0
            assert 0.0 <= one.hd95 <= math.hypot(*truth.shape)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_nothing_under_ignored_pixels_matters(seed, other):
    truth, prediction = random_mask(seed), random_mask(other)
    truth[8:14, 3:12] = IGNORE_INDEX
    changed = prediction.copy()
    changed[truth == IGNORE_INDEX] = random_mask(seed + 1)[truth == IGNORE_INDEX]
    one, two = (
        score_scan(mask, truth, spacing_mm=(1.0, 2.0), tolerance_mm=2.0, tolerance_px=1.0)
        for mask in (prediction, changed)
    )
    np.testing.assert_equal([vars(score) for score in one], [vars(score) for score in two])


@pytest.mark.filterwarnings("ignore:monai:FutureWarning", "ignore:the prediction of class:UserWarning")
@pytest.mark.parametrize("seed", range(6))
def test_equals_monai_where_nothing_is_ignored(seed):
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    prediction, truth = random_mask(seed), random_mask(seed + 100)
    one_hot = [
        torch.stack([torch.from_numpy(mask == item.id) for item in FOREGROUND])[None].float()
        for mask in (prediction, truth)
    ]
    spacing_y_x = [1.3, 0.7]
    nsd = compute_surface_dice(*one_hot, [2.0] * 3, include_background=True, spacing=spacing_y_x)[0]
    hd95 = compute_hausdorff_distance(*one_hot, include_background=True, percentile=95, spacing=spacing_y_x)[0]
    scores = score_scan(prediction, truth, spacing_mm=(0.7, 1.3), tolerance_mm=2.0, tolerance_px=1.0)
    both = [score.state == "scored" for score in scores]
    assert any(both)
    for score, here, expected_nsd, expected_hd95 in zip(scores, both, nsd.tolist(), hd95.tolist(), strict=True):
        if here:
            assert score.nsd == pytest.approx(expected_nsd)
            assert score.hd95 == pytest.approx(expected_hd95, rel=1e-6)
