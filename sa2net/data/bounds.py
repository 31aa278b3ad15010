"""What the train split teaches: normalisation, scale, and the ranges that later scans are held against."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import DataBounds, Normalisation, Range
from sa2net.data.manifest import Row


@dataclass(frozen=True)
class Learnt:
    """All that is taken from train.

    Attributes:
        sweep_width: Median width of the sweep, px at the scans' own scale.
        spacing_mm: Median pixel spacing (x, y), mm; empty unless every scan has one.
    """

    normalisation: Normalisation
    sweep_width: float
    spacing_mm: tuple[float, ...]
    bounds: DataBounds


def learn(rows: Iterable[Row], margin: float) -> Learnt | None:
    """Aggregate the train rows that could be read whole; None where there is none with a sweep.

    Args:
        rows: Rows of every split; only train is looked at.
        margin: Each range is widened by this share of itself, at both ends.
    """
    usable = [row for row in rows if row.split == "train" and row.areas and row.sweep_width]
    if not usable:
        return None
    return Learnt(
        _normalisation(usable),
        statistics.median(row.sweep_width or 0.0 for row in usable),
        _spacing(usable),
        DataBounds(
            sweep_width=_range([row.sweep_width or 0.0 for row in usable], margin, math.inf),
            area={
                item.name: _range([row.areas[index] for row in usable], margin, 1.0)
                for index, item in enumerate(FOREGROUND)
            },
            grey={
                item.name: _range(seen, margin, 255.0)
                for index, item in enumerate(FOREGROUND)
                if (seen := [grey for row in usable if (grey := row.greys[index]) is not None])
            },
        ),
    )


def _normalisation(rows: Sequence[Row]) -> Normalisation:
    """Mean and standard deviation over all pixels inside the sweeps, from exact sums."""
    count = sum(row.sweep_pixels or 0 for row in rows)
    total = sum(row.grey_sum or 0 for row in rows)
    squares = sum(row.grey_squares or 0 for row in rows)
    variance = (count * squares - total * total) / count**2  # whole numbers up to the division: no cancellation
    return Normalisation(mean=total / count, std=math.sqrt(variance))


def _spacing(rows: Sequence[Row]) -> tuple[float, ...]:
    x_mm = [row.spacing_x_mm for row in rows if row.spacing_x_mm is not None]
    y_mm = [row.spacing_y_mm for row in rows if row.spacing_y_mm is not None]
    complete = len(x_mm) == len(y_mm) == len(rows)
    return (statistics.median(x_mm), statistics.median(y_mm)) if complete else ()


def _range(values: Sequence[float], margin: float, ceiling: float) -> Range:
    low, high = min(values), max(values)
    pad = margin * (high - low)
    return Range(low=max(0.0, low - pad), high=min(ceiling, high + pad))
