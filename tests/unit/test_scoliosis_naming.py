"""Names of levels: where one count fits, and where it does not."""

import numpy as np
import pytest

from sa2net.scoliosis.band import LEVEL_SPACING, Band
from sa2net.scoliosis.landmarks import Landmarks, Level
from sa2net.scoliosis.naming import NAMES, Naming
from sa2net.scoliosis.naming import name_levels as name_landmarks


def column(pairs: int, lumps: int, *, skip: tuple[int, ...] = ()) -> list[Level]:
    """Evenly spaced levels, some of them absent."""
    levels = []
    for index in range(pairs + lumps):
        if index in skip:
            continue
        middle = np.array([100.0, 100.0 * (index + 1)])
        arm = np.array([50.0, 0.0])
        levels.append(Level("process" if index < pairs else "lump", middle, middle - arm, middle + arm, 1.0))
    return levels


def name_levels(levels: list[Level], *, above: float = 0.5, below: float = 1.5) -> Naming:
    """Name levels in a sweep that goes on for so many levels above and below them."""
    ends = [levels[0].middle[1] - 100.0 * above, levels[-1].middle[1] + 100.0 * below] if levels else [0.0, 1.0]
    band = Band(100.0 / LEVEL_SPACING, np.array(ends), np.array([100.0, 100.0]), False, False)
    return name_landmarks(Landmarks(tuple(levels), band, 0, 1.0, 0.3))


@pytest.mark.parametrize(
    ("pairs", "lumps", "first", "last"),
    [
        (11, 6, "T1", "L5"),  # T12 looks like a lump
        (12, 5, "T1", "L5"),
        (10, 6, "T2", "L5"),  # T1 above the sweep
        (12, 4, "T1", "L4"),  # L5 below it
        (6, 6, "T6", "L5"),
    ],
)
def test_one_count_that_fits_gives_names(pairs: int, lumps: int, first: str, last: str) -> None:
    naming = name_levels(column(pairs, lumps))
    assert naming.certain
    assert (naming.label(0), naming.label(pairs + lumps - 1)) == (first, last)
    assert [level.name for level in naming.levels] == list(NAMES[NAMES.index(first) : NAMES.index(last) + 1])


@pytest.mark.parametrize(
    ("pairs", "lumps"),
    [
        (11, 5),  # T1-T11 and T12-L4, or T2-T12 and L1-L5
        (12, 6),  # one too many
        (17, 0),
        (0, 6),
    ],
)
def test_otherwise_levels_are_numbered(pairs: int, lumps: int) -> None:
    naming = name_levels(column(pairs, lumps))
    assert not naming.certain
    assert [naming.label(index) for index in range(pairs + lumps)] == [str(n + 1) for n in range(pairs + lumps)]


def test_names_step_over_missing_levels() -> None:
    naming = name_levels(column(11, 6, skip=(3, 4)))
    assert naming.missing[2] == 2
    assert [naming.label(index) for index in (2, 3, 14)] == ["T3", "T6", "L5"]


def test_a_gap_at_the_transition_leaves_the_count_open() -> None:
    assert not name_levels(column(11, 6, skip=(11,))).certain


def test_a_step_that_may_skip_one_leaves_it_open() -> None:
    levels = column(11, 6)
    moved = [
        Level(level.kind, level.middle + np.array([0.0, 50.0 if index > 5 else 0.0]), level.left, level.right, 1.0)
        for index, level in enumerate(levels)
    ]
    assert not name_levels(moved).certain


def test_a_lump_among_processes_leaves_it_open() -> None:
    levels = column(11, 6)
    levels[3] = Level("lump", levels[3].middle, levels[3].left, levels[3].right, 1.0)
    naming = name_levels(levels)
    assert (naming.ordered, naming.certain) == (False, False)


@pytest.mark.parametrize(
    ("apex", "region"),
    [(0, "thoracic"), (10, "thoracic"), (11, "thoracolumbar"), (12, "thoracolumbar"), (13, "lumbar")],
)
def test_regions_by_name(apex: int, region: str) -> None:
    assert name_levels(column(11, 6)).region(apex) == (region, True)


@pytest.mark.parametrize(
    ("apex", "expected"),
    [
        (9, ("thoracic", True)),
        (10, ("thoracic", False)),  # T11 or T12
        (11, ("thoracolumbar", True)),  # T12 or L1
        (12, ("lumbar", False)),  # L1 or L2
        (13, ("lumbar", True)),
    ],
)
def test_regions_by_number_say_what_is_certain(apex: int, expected: tuple[str, bool]) -> None:
    assert name_levels(column(11, 5)).region(apex) == expected


def test_no_levels_have_no_names() -> None:
    naming = name_levels([])
    assert (naming.certain, naming.missing) == (False, ())


@pytest.mark.parametrize(("above", "below"), [(1.6, 1.5), (0.5, 2.5)])
def test_a_sweep_that_goes_on_may_hide_a_level(above: float, below: float) -> None:
    assert name_levels(column(11, 6)).certain
    assert not name_levels(column(11, 6), above=above, below=below).certain


def test_a_doubtful_level_leaves_it_open() -> None:
    levels = column(11, 6)
    levels[5] = Level("process", levels[5].middle, levels[5].left, levels[5].right, 0.1)
    assert not name_levels(levels).certain
