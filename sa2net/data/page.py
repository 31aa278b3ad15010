"""The validation as one self-contained page: no request to anywhere, no script, light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import Range, ValidationReport, ValidationSummary
from sa2net.data.layout import SPLITS
from sa2net.data.manifest import Row

_BINS = 24
_WIDTH, _HEIGHT = 300, 110  # drawing area of a histogram, px


@dataclass(frozen=True)
class Bar:
    """One rectangle of a histogram, px of the drawing."""

    x: float
    y: float
    width: float
    height: float
    split: str
    words: str


@dataclass(frozen=True)
class Histogram:
    """Bars stacked by split, with the range that train taught.

    Attributes:
        low: Value at the left edge.
        high: Value at the right edge.
        bounds: x of the range's two ends, px; empty where nothing was learnt.
    """

    title: str
    low: float
    high: float
    bars: tuple[Bar, ...]
    bounds: tuple[float, ...]
    words: str


def render(report: ValidationSummary, rows: Sequence[Row]) -> str:
    """The page as HTML.

    Args:
        report: What came of the checks; a `ValidationReport` where the data set passed.
        rows: The manifest, for the histograms.
    """
    environment = Environment(
        loader=PackageLoader("sa2net.data"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    failed = [check for check in report.checks if not check.passed]
    return environment.get_template("validation.html.j2").render(
        report=report,
        learnt=report if isinstance(report, ValidationReport) else None,
        failures=[check for check in failed if check.severity == "failure"],
        cautions=[check for check in failed if check.severity == "warning"],
        passed=[check for check in report.checks if check.passed],
        histograms=_histograms(report, rows),
        drawing=(_WIDTH, _HEIGHT),
    )


def _histograms(report: ValidationSummary, rows: Sequence[Row]) -> list[Histogram]:
    bounds = report.bounds if isinstance(report, ValidationReport) else None
    drawn = [
        _histogram(
            "Width of the sweep, px",
            [(row.split, row.sweep_width) for row in rows],
            bounds.sweep_width if bounds else None,
        )
    ]
    for index, item in enumerate(FOREGROUND):
        areas = [(row.split, row.areas[index] if row.areas else None) for row in rows]
        drawn.append(
            _histogram(f"Share of the sweep: {item.label}", areas, bounds.area.get(item.name) if bounds else None)
        )
    for index, item in enumerate(FOREGROUND):
        greys = [(row.split, row.greys[index] if row.greys else None) for row in rows]
        drawn.append(_histogram(f"Mean grey: {item.label}", greys, bounds.grey.get(item.name) if bounds else None))
    return [item for item in drawn if item is not None]


def _histogram(title: str, values: Sequence[tuple[str, float | None]], bound: Range | None) -> Histogram | None:
    """Stack the values of each split into `_BINS` bins; None where there is no value."""
    known = [(split, value) for split, value in values if value is not None]
    if not known:
        return None
    ends = [value for _, value in known] + ([bound.low, bound.high] if bound and math.isfinite(bound.high) else [])
    low, high = min(ends), max(ends)
    if high == low:
        low, high = low - 0.5, high + 0.5
    counts = [dict.fromkeys(SPLITS, 0) for _ in range(_BINS)]
    for split, value in known:
        counts[min(_BINS - 1, int((value - low) / (high - low) * _BINS))][split] += 1
    tallest = max(sum(count.values()) for count in counts)
    bars = []
    for position, count in enumerate(counts):
        top = float(_HEIGHT)
        words = ", ".join(f"{number} {split}" for split, number in count.items() if number)
        edge = low + (high - low) * position / _BINS
        for split, number in count.items():
            height = number / tallest * (_HEIGHT - 6)
            top -= height
            if number:
                bars.append(
                    Bar(position * _WIDTH / _BINS, top, _WIDTH / _BINS - 1, height, split, f"from {edge:.4g}: {words}")
                )
    ticks = tuple((end - low) / (high - low) * _WIDTH for end in (bound.low, bound.high)) if bound else ()
    words = f"{title}: {len(known)} scans from {min(v for _, v in known):.4g} to {max(v for _, v in known):.4g}"
    return Histogram(title, low, high, tuple(bars), ticks, words)
