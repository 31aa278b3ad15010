"""Corrections in the label map: parts follow their ends, and what is measured anew says what the reader said."""

import numpy as np
import pytest
from spine_cases import LUMP, PROCESS, draw

from sa2net.config import MeasureConfig
from sa2net.review import HandLevel
from sa2net.review.masks import corrected_mask
from sa2net.review.reading import as_hand_levels
from sa2net.scoliosis import measure

CFG = MeasureConfig()


@pytest.fixture(scope="module")
def case():
    drawn = draw(1, 40.0)
    return drawn, measure(drawn.mask, scan=drawn.scan, cfg=CFG)


def shifted(point, x: float, y: float):
    return point[0] + x, point[1] + y


def test_nothing_moved_changes_nothing(case) -> None:
    drawn, measured = case
    assert np.array_equal(corrected_mask(drawn.mask, measured, as_hand_levels(measured)), drawn.mask)


def test_a_process_shifts_with_its_end(case) -> None:
    drawn, measured = case
    levels = list(as_hand_levels(measured))
    levels[4] = levels[4].model_copy(update={"left": shifted(levels[4].left, 0.0, 20.0)})
    mask = corrected_mask(drawn.mask, measured, levels)
    again = measure(mask, scan=drawn.scan, cfg=CFG).levels[4]
    assert again.left == pytest.approx(levels[4].left, abs=2.0)
    assert again.right == pytest.approx(levels[4].right, abs=0.5)
    assert np.array_equal(mask == LUMP, drawn.mask == LUMP)


def test_a_lump_turns_with_both_ends(case) -> None:
    drawn, measured = case
    levels = list(as_hand_levels(measured))
    index = next(number for number, level in enumerate(levels) if level.kind == "lump") + 2
    turned = {"left": shifted(levels[index].left, 0.0, -12.0), "right": shifted(levels[index].right, 0.0, 12.0)}
    levels[index] = levels[index].model_copy(update=turned)
    mask = corrected_mask(drawn.mask, measured, levels)
    again = measure(mask, scan=drawn.scan, cfg=CFG).levels[index]
    rise, run = (np.subtract(turned["right"], turned["left"])[axis] for axis in (1, 0))
    assert again.tilt_deg == pytest.approx(float(np.degrees(np.arctan2(rise, run))), abs=2.0)
    assert np.array_equal(mask == PROCESS, drawn.mask == PROCESS)


def test_a_removed_level_becomes_background(case) -> None:
    drawn, measured = case
    levels = [level for level in as_hand_levels(measured) if level.origin != 5]
    mask = corrected_mask(drawn.mask, measured, levels)
    for point in (measured.levels[5].left, measured.levels[5].right):
        x, y = np.rint(point).astype(int)
        assert (drawn.mask[y, x], mask[y, x]) == (PROCESS, 0)
    changed = mask != drawn.mask
    assert (drawn.mask[changed] == PROCESS).all()
    assert len(measure(mask, scan=drawn.scan, cfg=CFG).levels) == len(measured.levels) - 1


def test_an_added_level_is_ignored_where_nothing_is_drawn(case) -> None:
    drawn, measured = case
    gone = [level for level in as_hand_levels(measured) if level.origin != 5]
    blank = corrected_mask(drawn.mask, measured, gone)
    without = measure(blank, scan=drawn.scan, cfg=CFG)
    old = measured.levels[5]
    new = HandLevel(origin=None, kind="process", middle=old.middle, left=old.left, right=old.right)
    mask = corrected_mask(blank, without, [*as_hand_levels(without), new])
    for point in (old.left, old.right):
        x, y = np.rint(point).astype(int)
        assert mask[y, x] == 255
    assert np.array_equal(mask[mask != 255], blank[mask != 255])


def test_a_part_that_is_moved_out_of_the_picture_is_gone(case) -> None:
    drawn, measured = case
    levels = list(as_hand_levels(measured))
    levels[4] = levels[4].model_copy(update={"left": (-500.0, -500.0)})
    mask = corrected_mask(drawn.mask, measured, levels)
    assert np.count_nonzero(mask == PROCESS) < np.count_nonzero(drawn.mask == PROCESS)
