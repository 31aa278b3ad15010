"""Expected calibration error against hand-worked bins."""

import numpy as np
import pytest

from sa2net.anatomy import IGNORE_INDEX
from sa2net.evaluation.calibration import Calibration


def two_classes(confidence_of_class_one):
    """Softmax of a two-class network. # (2, 1, N)."""
    one = np.asarray(confidence_of_class_one, dtype=np.float32)[None]
    return np.stack([1.0 - one, one])


def test_four_pixels_by_hand():
    # Bins of 0.5: confidences 0.9, 0.9, 0.6, 0.6, all in (0.5, 1]; right, wrong, right, right: |3 - 3.0| / 4 = 0.
    even = Calibration(bins=2)
    even.add(two_classes([0.9, 0.9, 0.6, 0.6]), np.array([[1, 0, 1, 1]], dtype=np.uint8))
    assert even.error() == pytest.approx(0.0, abs=1e-6)
    # Bins of 0.2: (0.8, 1]: 1 right, 1.8 expected; (0.4, 0.6]: 2 right, 1.18 expected.
    fine = Calibration(bins=5)
    fine.add(two_classes([0.9, 0.9, 0.59, 0.59]), np.array([[1, 0, 1, 1]], dtype=np.uint8))
    assert fine.error() == pytest.approx((0.8 + 0.82) / 4, abs=1e-6)
    filled = [item for item in fine.table() if item.pixels]
    assert [(item.pixels, item.accuracy) for item in filled] == [(2, 1.0), (2, 0.5)]
    assert [item.confidence for item in filled] == pytest.approx([0.59, 0.9])
    assert [(item.low, item.high) for item in filled] == [(0.4, 0.6), (0.8, 1.0)]


def test_sure_and_right_is_perfect_and_sure_and_wrong_is_worst():
    for truth, error in ((1, 0.0), (0, 1.0)):
        calibration = Calibration()
        calibration.add(two_classes([1.0] * 7), np.full((1, 7), truth, dtype=np.uint8))
        assert calibration.error() == error


def test_ignored_pixels_do_not_count():
    calibration = Calibration()
    calibration.add(two_classes([1.0, 1.0]), np.array([[1, IGNORE_INDEX]], dtype=np.uint8))
    assert calibration.pixels == 1
    assert calibration.error() == 0.0


def test_scans_add_up():
    generator = np.random.default_rng(0)
    probabilities = generator.dirichlet([1, 1, 1, 1], size=(30, 20)).transpose(2, 0, 1).astype(np.float32)
    truth = generator.integers(0, 4, size=(30, 20), dtype=np.uint8)
    whole, parts = Calibration(), Calibration()
    whole.add(probabilities, truth)
    for start in range(0, 30, 10):
        parts.add(probabilities[:, start : start + 10], truth[start : start + 10])
    assert parts.error() == pytest.approx(whole.error())
    assert sum(item.pixels for item in parts.table()) == truth.size


def test_error_falls_when_labels_are_drawn_from_the_probabilities():
    generator = np.random.default_rng(1)
    probabilities = generator.dirichlet([1, 1, 1, 1], size=40_000)
    truth = (probabilities.cumsum(axis=1) < generator.uniform(size=(40_000, 1))).sum(axis=1).astype(np.uint8)
    calibration = Calibration()
    calibration.add(probabilities.T[:, None].astype(np.float32), truth[None])
    assert calibration.error() < 0.01


def test_nothing_counted_and_sizes_that_differ():
    assert Calibration().error() == 0.0
    with pytest.raises(ValueError, match="do not fit"):
        Calibration().add(two_classes([0.5]), np.zeros((2, 2), dtype=np.uint8))
