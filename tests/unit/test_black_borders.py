"""A scan inside black borders of any size gets the same mask, moved: padding never leaks into a prediction."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from factories import draw_case
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import write_random_model

from sa2net.inference.predictor import Prediction, Predictor

Grey = npt.NDArray[np.uint8]
ROOM = 40
"""Black around the scan that holds its whole frame, px."""

MODES = {
    "whole": {},
    "sliding": {"mode": "sliding"},
    "scales and mirror": {"scales": (0.5, 1.0, 1.75), "flip": True},
    "sliding, scales and mirror": {"mode": "sliding", "scales": (0.75, 1.25), "flip": True},
}
BORDERS = st.tuples(st.integers(0, 70), st.integers(0, 70), st.integers(0, 400), st.integers(0, 400))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model"
    write_random_model(path)
    return path


def load(folder: Path, mode: str) -> Predictor:
    return Predictor.load(folder, device="cpu", threads=1, **MODES[mode])  # type: ignore[arg-type]


def dashed() -> Grey:
    """A scan whose lower end hangs on by a few black rows only: what is bridged decides where the frame ends."""
    scan, _ = draw_case(3)
    scan[236:241] = 0
    return scan


def framed(scan: Grey, borders: tuple[int, int, int, int]) -> Grey:
    top, bottom, left, right = borders
    return np.pad(scan, ((top, bottom), (left, right)))


def assert_moved(inner: Prediction, outer: Prediction, borders: tuple[int, int, int, int]) -> None:
    """Bit by bit the same where the scan lies, and surely background in the border."""
    top, bottom, left, right = borders
    expected = np.pad(inner.probabilities, ((0, 0), (top, bottom), (left, right)))
    expected[0] = np.pad(inner.probabilities[0], ((top, bottom), (left, right)), constant_values=1)
    assert np.array_equal(outer.probabilities, expected)
    assert np.array_equal(outer.mask, framed(inner.mask, borders))
    assert (outer.scale, outer.scaled_by) == (inner.scale, inner.scaled_by)


@pytest.mark.parametrize("mode", MODES)
def test_borders_move_the_prediction_and_change_nothing_else(folder: Path, mode: str) -> None:
    predictor = load(folder, mode)
    scan = np.pad(dashed(), ROOM)
    inner = predictor.probabilities(scan)
    assert len(np.unique(inner.mask)) > 1  # an untrained network still says something

    @settings(max_examples=6, deadline=None, database=None)
    @given(BORDERS)
    def check(borders: tuple[int, int, int, int]) -> None:
        assert_moved(inner, predictor.probabilities(framed(scan, borders)), borders)

    check()


@settings(max_examples=10, deadline=None, database=None)
@given(BORDERS)
def test_a_sweep_that_touches_the_edge_is_seen_in_the_same_way(
    folder: Path, borders: tuple[int, int, int, int]
) -> None:
    predictor = load(folder, "whole")
    scan = dashed()[12:, 20:-20]
    assert scan[:, 0].any()
    assert scan[:, -1].any()
    top, _, left, _ = borders
    outer = predictor.probabilities(framed(scan, borders)).probabilities
    here = outer[:, top : top + scan.shape[0], left : left + scan.shape[1]]
    assert np.array_equal(here, predictor.probabilities(scan).probabilities)


def test_one_scan_leaves_nothing_behind_for_the_next(folder: Path) -> None:
    predictor = load(folder, "scales and mirror")
    scans = [draw_case(3)[0], draw_case(4, 133, 401)[0], draw_case(5, 90, 200)[0]]
    alone = [load(folder, "scales and mirror").probabilities(scan).probabilities for scan in scans]
    for index in (2, 0, 1, 0):
        assert np.array_equal(predictor.probabilities(scans[index]).probabilities, alone[index])


def test_a_label_in_the_border_changes_nothing(folder: Path) -> None:
    predictor = load(folder, "whole")
    scan = np.pad(draw_case(3)[0], ROOM)
    labelled = scan.copy()
    labelled[4:14, 6:40:2] = 255  # as text in a corner
    assert np.array_equal(predictor.probabilities(labelled).probabilities, predictor.probabilities(scan).probabilities)


def test_noise_as_dark_as_black_changes_nothing_outside_the_frame(folder: Path) -> None:
    predictor = load(folder, "whole")
    scan = np.pad(draw_case(3)[0], ROOM)
    noisy = np.maximum(scan, np.random.default_rng(0).integers(0, 9, scan.shape).astype(np.uint8))
    clean, found = predictor.probabilities(scan), predictor.probabilities(noisy)
    assert found.scale == clean.scale
    outside = (clean.probabilities[0] == 1) & (clean.probabilities[1:].sum(axis=0) == 0)
    assert outside[0].all()
    assert np.array_equal(found.probabilities[:, outside], clean.probabilities[:, outside])
