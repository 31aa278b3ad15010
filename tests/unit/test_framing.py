"""The window that the network sees: exact inverses, and indifference to black borders."""

import numpy as np
import pytest
from factories import draw_case
from hypothesis import given, settings
from hypothesis import strategies as st

from sa2net.data.framing import Frame, WorkingScale, cut, find_frame, mask_to_working_scale, paste, to_working_scale
from sa2net.errors import DataError

WORKING = WorkingScale(48)


def test_the_sweep_gets_the_working_width() -> None:
    scan, _ = draw_case(1)
    sweep = np.median((scan > 8).sum(axis=1)[30:-30])
    frame = find_frame(scan, WORKING, None)
    assert frame.scaled_by == "sweep width"
    assert frame.working_width / frame.width == pytest.approx(48 / sweep, rel=0.08)
    assert frame.working_height / frame.height == pytest.approx(frame.working_width / frame.width, rel=0.03)


def test_spacing_decides_where_scan_and_model_know_it() -> None:
    scan, _ = draw_case(1)
    frame = find_frame(scan, WorkingScale(48, (0.4, 0.8)), (0.2, 0.2))
    assert frame.scaled_by == "spacing"
    assert frame.working_width == round(frame.width * 0.5)
    assert frame.working_height == round(frame.height * 0.25)


def test_spacing_is_not_used_where_the_model_has_none() -> None:
    scan, _ = draw_case(1)
    assert find_frame(scan, WORKING, (0.2, 0.2)).scaled_by == "sweep width"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_black_borders_change_nothing(top: int, bottom: int, left: int, right: int) -> None:
    scan, mask = draw_case(2)
    borders = ((top, bottom), (left, right))
    wide, wide_mask = np.pad(scan, borders), np.pad(mask, borders)
    before, after = find_frame(scan, WORKING, None), find_frame(wide, WORKING, None)
    assert np.array_equal(to_working_scale(scan, before), to_working_scale(wide, after))
    assert np.array_equal(mask_to_working_scale(mask, before), mask_to_working_scale(wide_mask, after))


@settings(max_examples=50, deadline=None)
@given(st.integers(-20, 30), st.integers(-20, 30), st.integers(1, 60), st.integers(1, 60))
def test_paste_undoes_cut_inside_the_window(top: int, left: int, height: int, width: int) -> None:
    picture = np.random.default_rng(0).integers(1, 255, (40, 35)).astype(np.uint8)
    frame = Frame(top, left, height, width, height, width, "sweep width")
    if top + height <= 0 or left + width <= 0 or top >= 40 or left >= 35:
        return
    window = cut(picture, frame)
    back = paste(window, frame, (40, 35))
    inside = np.zeros((40, 35), dtype=bool)
    inside[max(top, 0) : top + height, max(left, 0) : left + width] = True
    assert np.array_equal(back[inside], picture[inside])
    assert not back[~inside].any()


def test_a_black_picture_is_refused() -> None:
    with pytest.raises(DataError, match="no sweep"):
        find_frame(np.zeros((100, 50), dtype=np.uint8), WORKING, None)


def test_an_impossible_spacing_is_refused() -> None:
    scan, _ = draw_case(1)
    with pytest.raises(DataError, match="Check the pixel spacing"):
        find_frame(scan, WorkingScale(48, (0.4, 0.4)), (400.0, 400.0))
