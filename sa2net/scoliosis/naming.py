"""Which vertebra a level is: counted from where processes turn into lumps, and only where one count alone fits.

There are twelve thoracic and five lumbar vertebrae. T12 mostly looks like a lump, sometimes like a pair of processes;
T1 may lie above the sweep, L5 below it. Six lumps must begin with T12, twelve pairs must end with T12; with fewer of
both nothing is certain, and levels are numbered. People with eleven or thirteen ribs, or with six lumbar vertebrae,
cannot be told from this.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sa2net.scoliosis.landmarks import Landmarks, Level

Region = Literal["thoracic", "thoracolumbar", "lumbar"]

NAMES = (*(f"T{number}" for number in range(1, 13)), *(f"L{number}" for number in range(1, 6)))
_FIRST_LUMPS = (11, 12)  # T12 or L1, as places in NAMES
_MISSING = 1.5  # of the usual spacing: a longer step skips a level
_SURE = 0.25  # confidence: less sure blobs may be no level
_HIDDEN = (1.1, 2.0)  # levels above and below: longer stretches of sweep may hold one that was not found
_DOUBTFUL = (1.38, 1.62)  # of the usual spacing: steps that may skip one or not


@dataclass(frozen=True)
class Naming:
    """Levels with names where they are certain.

    Attributes:
        levels: From top to bottom; all have a name, or none.
        missing: Levels that seem to be missing after each level but the last.
        first_lump: Index of the first lump; the number of levels where there is none.
        ordered: Whether all processes stand above all lumps.
    """

    levels: tuple[Level, ...]
    missing: tuple[int, ...]
    first_lump: int
    ordered: bool

    @property
    def certain(self) -> bool:
        """Whether the levels have names."""
        return bool(self.levels) and bool(self.levels[0].name)

    def label(self, index: int) -> str:
        """Name of a level, or its number counted from the top."""
        return self.levels[index].name or str(index + 1)

    def region(self, apex: int) -> tuple[Region, bool]:
        """Region of a curve by its apex, and whether it is certain; T12 and L1 are the thoracolumbar junction."""
        if self.certain:
            names = {level.name for level in self.levels[apex : apex + 1]}
            if names & {"T12", "L1"}:
                return "thoracolumbar", True
            return ("thoracic" if self.levels[apex].name.startswith("T") else "lumbar"), True
        beyond = apex - self.first_lump
        sure = self.ordered and 0 < self.first_lump < len(self.levels)
        if beyond == 0:  # T12 or L1
            return "thoracolumbar", sure
        # The last pair may be T11 or T12, the second lump L1 or L2.
        return ("thoracic" if beyond < 0 else "lumbar"), sure and beyond not in (-1, 1)


def name_levels(found: Landmarks) -> Naming:
    """Name the levels where exactly one count fits, and nothing speaks against having counted right."""
    levels = found.levels
    kinds = [level.kind for level in levels]
    first_lump = kinds.index("lump") if "lump" in kinds else len(kinds)
    ordered = "process" not in kinds[first_lump:]
    missing, doubtful = _missing(levels)
    naming = Naming(levels, missing, first_lump, ordered)
    if not ordered or doubtful or not 0 < first_lump < len(levels) or missing[first_lump - 1]:
        return naming
    above, below = found.beyond
    if min(level.confidence for level in levels) < _SURE or above > _HIDDEN[0] or below > _HIDDEN[1]:
        return naming
    places = np.concatenate([[0], np.cumsum(np.array(missing) + 1)])
    places -= places[first_lump]
    fitting = [first for first in _FIRST_LUMPS if first + places[0] >= 0 and first + places[-1] < len(NAMES)]
    if len(fitting) != 1:
        return naming
    named = [replace(level, name=NAMES[fitting[0] + place]) for level, place in zip(levels, places, strict=True)]
    return Naming(tuple(named), missing, first_lump, ordered)


def _missing(levels: Sequence[Level]) -> tuple[tuple[int, ...], bool]:
    """Levels that seem to be missing in each step, and whether a step leaves it open."""
    if len(levels) < 2:
        return (), False
    steps = np.diff([level.middle for level in levels], axis=0)
    lengths = np.hypot(steps[:, 0], steps[:, 1])
    usual = np.array([np.median(lengths[max(index - 3, 0) : index + 4]) for index in range(len(lengths))])
    ratio = lengths / np.minimum(usual, 1.25 * np.median(lengths))
    counts = np.where(ratio >= _MISSING, np.maximum(np.rint(ratio) - 1, 1), 0).astype(int)
    return tuple(counts.tolist()), bool(np.any((ratio > _DOUBTFUL[0]) & (ratio < _DOUBTFUL[1])))
