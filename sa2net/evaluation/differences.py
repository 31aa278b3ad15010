"""Geometry of the chart of differences: one line a class with its interval, around zero and the margin.

Like the charts of the report it is drawn by a template: no script, the same bytes for the same numbers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sa2net.evaluation.charts import Tick

LEFT, RIGHT, WIDTH = 170.0, 150.0, 760.0
ROW = 42.0
_AXIS = 26.0


@dataclass(frozen=True)
class Difference:
    """What one line shows.

    Attributes:
        label: Words for people.
        value: The mean difference.
        low: Lower end of its interval; None = not known.
        high: Upper end; None = not known.
        says: The verdict of the line, for the reader of the chart.
    """

    label: str
    value: float
    low: float | None
    high: float | None
    says: str


@dataclass(frozen=True)
class Line:
    """One drawn line, px; `low` and `high` are None where there is no interval."""

    label: str
    says: str
    y: float
    value: float
    low: float | None
    high: float | None
    tooltip: str


@dataclass(frozen=True)
class DifferenceChart:
    """The chart, px; `margin` is None where there is none."""

    width: float
    height: float
    bottom: float
    zero: float
    margin: float | None
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]


def difference_chart(rows: Sequence[Difference], *, margin: float = 0.0) -> DifferenceChart:
    """Lay out the lines.

    Args:
        rows: What is shown, from top to bottom.
        margin: Largest loss that counts as none, drawn on the left of zero; 0 = none.
    """
    reach = max([margin, *(abs(value) for row in rows for value in (row.value, row.low or 0.0, row.high or 0.0))])
    end = _round_up(1.05 * reach)
    scale = (WIDTH - LEFT - RIGHT) / (2.0 * end)

    def place(value: float) -> float:
        return round(LEFT + (value + end) * scale, 2)

    lines = tuple(
        Line(
            label=row.label,
            says=row.says,
            y=ROW * (index + 0.5),
            value=place(row.value),
            low=None if row.low is None else place(row.low),
            high=None if row.high is None else place(row.high),
            tooltip=_tooltip(row),
        )
        for index, row in enumerate(rows)
    )
    bottom = ROW * len(rows)
    return DifferenceChart(
        width=WIDTH,
        height=bottom + _AXIS,
        bottom=bottom,
        zero=place(0.0),
        margin=place(-margin) if margin > 0.0 else None,
        lines=lines,
        ticks=tuple(Tick(place(end * step / 2), f"{end * step / 2:+g}" if step else "0") for step in range(-2, 3)),
    )


def _tooltip(row: Difference) -> str:
    if row.low is None or row.high is None:
        return f"{row.label}: {row.value:+.3f}"
    return f"{row.label}: {row.value:+.3f} ({row.low:+.3f} to {row.high:+.3f})"


def _round_up(value: float) -> float:
    """The next of ... 0.01, 0.02, 0.04, 0.1, 0.2 ... at or above a value; these halve into short numbers."""
    if value <= 0.0:
        return 0.01
    magnitude: float = 10.0 ** math.floor(math.log10(value))
    return round(next(step * magnitude for step in (1, 2, 4, 6, 10) if step * magnitude >= value * (1 - 1e-9)), 12)
