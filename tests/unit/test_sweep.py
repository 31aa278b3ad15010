import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sa2net.data.pictures import read_scan
from sa2net.data.sweep import sweep_mask, sweep_width, width_of


def test_a_bright_block_is_the_sweep() -> None:
    scan = np.zeros((50, 64), np.uint8)
    scan[10:40, 12:52] = 100
    assert np.array_equal(sweep_mask(scan), scan > 0)
    assert sweep_width(scan) == 40.0


def test_black_and_white() -> None:
    assert sweep_width(np.zeros((40, 30), np.uint8)) == 0.0
    assert not sweep_mask(np.full((40, 30), 8, np.uint8)).any()
    assert sweep_mask(np.full((40, 30), 9, np.uint8)).all()


def test_holes_belong_to_the_sweep_and_small_regions_do_not() -> None:
    scan = np.zeros((300, 128), np.uint8)
    scan[20:280, 30:100] = 90
    scan[100:160, 50:80] = 0  # a shadow
    scan[5:12, 2:20] = 255  # a label beside the sweep
    expected = np.zeros_like(scan, dtype=bool)
    expected[20:280, 30:100] = True
    assert np.array_equal(sweep_mask(scan), expected)


def test_rows_of_black_dashes_are_bridged() -> None:
    scan = np.zeros((400, 640), np.uint8)
    scan[20:380, 100:500] = 120
    for row in range(150, 160, 3):
        scan[row : row + 2, 100:500] = 0
    assert sweep_mask(scan)[20:380, 100:500].all()


@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 2**31))
@settings(max_examples=40)
def test_any_picture_has_one_sweep_of_its_own_size(height: int, width: int, seed: int) -> None:
    scan = np.random.default_rng(seed).integers(0, 40, (height, width)).astype(np.uint8)
    mask = sweep_mask(scan)
    assert mask.shape == scan.shape
    assert mask.any() == (scan > 8).any()
    assert 0 <= width_of(mask) <= width


def test_the_width_scales_with_the_picture() -> None:
    scan = np.zeros((200, 160), np.uint8)
    scan[10:190, 40:121] = 70
    doubled = scan.repeat(2, axis=0).repeat(2, axis=1)
    assert sweep_width(doubled) == 2 * sweep_width(scan) == 162.0


@pytest.mark.skipif("SA2NET_REAL_SCAN" not in os.environ, reason="SA2NET_REAL_SCAN names no folder")
def test_the_real_scan() -> None:
    scan = read_scan(Path(os.environ["SA2NET_REAL_SCAN"]) / "demo.png")
    start = time.process_time()
    mask = sweep_mask(scan)
    assert time.process_time() - start < 0.5
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert (rows[0], rows[-1]) == (98, 2547)
    assert abs(columns[0] - 82) <= 3
    assert abs(columns[-1] - 530) <= 3
    assert mask.mean() == pytest.approx(0.571, abs=0.003)
    assert 387 <= width_of(mask) <= 395


def test_a_gap_in_the_sweep_loses_neither_part() -> None:
    scan = np.zeros((400, 160), np.uint8)
    scan[10:200, 40:121] = 70
    scan[240:390, 40:121] = 70
    scan[300:306, 2:8] = 200  # a speck beside the sweep is none of it
    mask = sweep_mask(scan)
    assert mask[100, 80]
    assert mask[300, 80]
    assert not mask[220, 80]
    assert not mask[:, :20].any()
    assert sweep_width(scan) == 81.0


def test_black_borders_do_not_change_what_is_bridged() -> None:
    scan = np.zeros((300, 128), np.uint8)
    scan[10:280, 30:100] = 90
    scan[270:274] = 0  # a piece too small to be part of the sweep by itself
    inner = sweep_mask(scan)
    assert np.array_equal(sweep_mask(np.pad(scan, ((0, 0), (300, 500))))[:, 300:-500], inner)
