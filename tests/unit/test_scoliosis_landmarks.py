"""Levels from label maps: drawn ones, and ones that are fragmented, grown together, or incomplete."""

import numpy as np
import pytest
from spine_cases import LUMP, PROCESS, RIB, Drawn, bridged, draw, without_levels, without_side

from sa2net.scoliosis.blobs import Blob, Expected, find_blobs
from sa2net.scoliosis.landmarks import Landmarks, find_landmarks
from sa2net.scoliosis.midline import Midline
from sa2net.scoliosis.pairing import align, split_sides, tilt_of


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return draw(3, 35.0)


def errors(found: Landmarks, truth: Drawn) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each middle across the spine, px, and difference of each tilt, degrees."""
    assert [level.kind for level in found.levels] == [level.kind for level in truth.anatomy.levels]
    middles = np.array([level.middle for level in found.levels])
    true = np.array([0.5 * (level.left + level.right) for level in truth.anatomy.levels])
    tilts = [level.tilt - tilt.tilt for level, tilt in zip(found.levels, truth.anatomy.levels, strict=True)]
    return np.abs(middles - true)[:, 0], np.array(tilts)


@pytest.mark.parametrize("seed", range(6))
def test_levels_are_where_they_were_drawn(seed: int) -> None:
    truth = draw(seed, 10.0 * seed)
    aside, tilts = errors(find_landmarks(truth.mask, scan=truth.scan), truth)
    assert aside.max() < 6.0
    assert np.abs(tilts).max() < 4.0
    assert np.abs(tilts[[level.kind == "process" for level in truth.anatomy.levels]]).max() < 1.0


def test_the_ruler_may_be_the_label_map_itself(drawn: Drawn) -> None:
    with_scan, without = find_landmarks(drawn.mask, scan=drawn.scan), find_landmarks(drawn.mask)
    assert without.band is not None and with_scan.band is not None
    assert without.band.width == pytest.approx(with_scan.band.width, rel=0.08)
    np.testing.assert_allclose([a.middle for a in without.levels], [a.middle for a in with_scan.levels])


def test_sizes_follow_the_spacing(drawn: Drawn) -> None:
    plain, scaled = find_landmarks(drawn.mask), find_landmarks(drawn.mask, scale=(0.2, 0.2))
    assert scaled.spacing == pytest.approx(0.2 * plain.spacing)
    np.testing.assert_allclose(
        [a.middle for a in scaled.levels], 0.2 * np.array([a.middle for a in plain.levels]), rtol=1e-9
    )


def test_a_process_cut_by_a_gap_of_the_sweep_is_one(drawn: Drawn) -> None:
    mask = drawn.mask.copy()
    middle = int(drawn.anatomy.levels[4].left[1])
    mask[middle - 8 : middle + 8] = 0
    found = find_landmarks(mask, scan=drawn.scan)
    _, tilts = errors(found, drawn)
    assert np.abs(tilts[:11]).max() < 3.0


@pytest.mark.parametrize(("label", "rows"), [(PROCESS, 45), (LUMP, 15)])
def test_neighbours_that_grew_together_are_parted(drawn: Drawn, label: int, rows: int) -> None:
    mask = bridged(drawn.mask, label, rows)
    assert np.count_nonzero(mask == label) > np.count_nonzero(drawn.mask == label)
    found = find_landmarks(mask, scan=drawn.scan)
    aside, tilts = errors(found, drawn)
    assert aside.max() < 25.0
    assert np.abs(tilts).max() < 12.0


def test_one_missing_side_leaves_a_level_without_a_line(drawn: Drawn) -> None:
    found = find_landmarks(without_side(drawn, "left", [5]), scan=drawn.scan)
    lone = found.levels[5]
    assert (lone.left, lone.has_line) == (None, False)
    assert np.isnan(lone.tilt)
    level = drawn.anatomy.levels[5]
    assert abs(lone.middle[0] - 0.5 * (level.left[0] + level.right[0])) < 20.0
    assert lone.confidence < 0.6 * found.levels[4].confidence
    assert all(level.has_line for index, level in enumerate(found.levels) if index != 5)


def test_missing_levels_move_no_other(drawn: Drawn) -> None:
    found = find_landmarks(without_levels(drawn, [2, 7]), scan=drawn.scan)
    whole = find_landmarks(drawn.mask, scan=drawn.scan)
    expected = [level.middle for index, level in enumerate(whole.levels) if index not in (2, 7)]
    np.testing.assert_allclose([level.middle for level in found.levels], expected)


def test_blobs_that_belong_to_no_level_are_counted_and_left_out(drawn: Drawn) -> None:
    mask = drawn.mask.copy()
    between = 0.5 * (drawn.anatomy.levels[5].right + drawn.anatomy.levels[6].right)
    row = int(between[1])
    mask[40:46, 300:306] = PROCESS  # a speck
    spine = int(drawn.anatomy.curve.x_at(float(row)))
    mask[row - 35 : row + 35, spine - 30 : spine + 30] = PROCESS  # a blob on the midline
    found = find_landmarks(mask, scan=drawn.scan)
    errors(found, drawn)
    assert found.ignored == 1


def test_ribs_that_touch_change_nothing(drawn: Drawn) -> None:
    mask = bridged(np.where(drawn.mask == RIB, RIB, 0).astype(np.uint8), RIB, 60)
    mask = np.where(drawn.mask == 0, mask, drawn.mask).astype(np.uint8)
    errors(find_landmarks(mask, scan=drawn.scan), drawn)


def test_probabilities_make_the_confidence(drawn: Drawn) -> None:
    probabilities = np.stack([(drawn.mask == label) * 0.6 for label in range(4)]).astype(np.float32)
    sure, doubtful = (
        find_landmarks(drawn.mask, scan=drawn.scan, probabilities=given) for given in (None, probabilities)
    )
    for first, second in zip(sure.levels, doubtful.levels, strict=True):
        assert second.confidence == pytest.approx(0.6 * first.confidence, rel=1e-5)


def test_an_empty_label_map_holds_nothing() -> None:
    found = find_landmarks(np.zeros((300, 100), np.uint8))
    assert (found.levels, found.band, found.spacing) == ((), None, 0.0)


def blob(x: float, y: float) -> Blob:
    return Blob(np.array([[x, y]]), np.array([x, y]), 1.0, 1.0)


def straight() -> Midline:
    """A vertical spine at x = 100."""
    landmarks = find_landmarks(np.pad(np.full((400, 160), RIB, np.uint8), ((20, 20), (20, 20))), scan=None)
    assert landmarks.band is not None
    return Midline(np.array([[100.0, 50.0 * step] for step in range(1, 8)]), landmarks.band)


def test_sides_are_aligned_in_order_with_gaps() -> None:
    left = [blob(40, 50), blob(40, 100), blob(40, 200)]
    right = [blob(160, 52), blob(160, 160), blob(160, 204)]
    pairs = align(left, right, straight(), 120.0)
    assert len(pairs) == 4
    assert {(left[1], None), (None, right[1])} == set(pairs[1:3])  # 60 px over 120 px is too steep for one level
    assert pairs[0] == (left[0], right[0])
    assert pairs[-1] == (left[2], right[2])


def test_sides_follow_a_leaning_spine() -> None:
    leaning = Midline(np.array([[100.0 + 30.0 * step, 50.0 * step] for step in range(1, 8)]), straight().band)
    # Square to a spine that leans 31 degrees, 60 to either side of its point at y = 200.
    across = 60.0 * np.array([np.cos(np.arctan(0.6)), -np.sin(np.arctan(0.6))])
    points = [np.array([220.0, 200.0]) - across, np.array([220.0, 200.0]) + across]
    left, right = split_sides([blob(*point) for point in points], leaning)
    assert (len(left), len(right)) == (1, 1)
    assert left[0].centre[0] < right[0].centre[0]


@pytest.mark.parametrize(("right", "tilt"), [((10.0, 10.0), 45.0), ((10.0, -10.0), -45.0), ((10.0, 0.0), 0.0)])
def test_tilt_is_positive_where_the_right_end_is_lower(right: tuple[float, float], tilt: float) -> None:
    assert tilt_of(np.zeros(2), np.array(right)) == pytest.approx(tilt)


def test_a_blob_of_two_bones_is_cut_in_two() -> None:
    inside = np.zeros((120, 60), bool)
    inside[10:50, 10:40] = True
    inside[52:92, 10:40] = True
    inside[50:52, 20:30] = True
    blobs = find_blobs(inside, None, (1.0, 1.0), Expected(1200.0, 45.0, 160.0))
    assert [item.parted for item in blobs] == [True, True]
    np.testing.assert_allclose([item.centre for item in blobs], [[24.5, 29.5], [24.5, 71.5]], atol=2.0)
    assert sum(item.area for item in blobs) == pytest.approx(2420.0)
