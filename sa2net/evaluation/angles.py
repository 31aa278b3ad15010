"""How well measured angles agree with true ones: difference, limits of agreement, intraclass correlation, refusals.

Definitions:

- Only scans whose largest true curve reaches a limit (10 degrees) are compared: below it there is no curve to measure.
- A true curve is *found* where a measured curve bulges to the same side and overlaps it in height by more than any
  other, at least by a fifth of what both span together. Otherwise it is *missed*. A measured curve of at least the limit
  that belongs to no true curve is *extra*.
- Limits of agreement: bias -+ 1.96 standard deviations of the differences (Bland and Altman, Lancet 1986).
- ICC(2,1): two-way random effects, absolute agreement, single measurement (Shrout and Fleiss, Psychological Bulletin 86,
  1979); its interval after McGraw and Wong (Psychological Methods 1, 1996, table 7).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.stats import f

from sa2net.data.angles import TrueCurve
from sa2net.scoliosis.result import CurveResult, Measurement

Floats = npt.NDArray[np.float64]

SMALLEST_TRUE = 10.0
"""True curves below this are not compared, degrees."""
_OVERLAP = 0.2
_CLOSE = 5.0


class Stretch(Protocol):
    """What tells one curve from another: its side and its rows."""

    @property
    def convex(self) -> str:
        """Side of the picture to which it bulges."""

    @property
    def upper_row(self) -> float:
        """Row of the upper end, px."""

    @property
    def lower_row(self) -> float:
        """Row of the lower end, px."""


AnyStretch = TypeVar("AnyStretch", bound=Stretch)


@dataclass(frozen=True)
class Agreement:
    """Agreement of measured with true angles, degrees; NaN where too few pairs can show it.

    Attributes:
        pairs: Angles compared.
        mad: Mean absolute difference.
        bias: Mean of measured - true.
        low: Lower limit of agreement.
        high: Upper limit of agreement.
        icc: ICC(2,1).
        icc_low: Lower end of its interval.
        icc_high: Upper end.
        close: Share of differences of at most 5 degrees.
    """

    pairs: int
    mad: float
    bias: float
    low: float
    high: float
    icc: float
    icc_low: float
    icc_high: float
    close: float


@dataclass(frozen=True)
class Compared:
    """One scan: its largest true curve and what was said of it.

    Attributes:
        truth: Angle of the largest true curve, degrees.
        drawn: Angle between its drawn lines, degrees; NaN where none were drawn.
        found: The measured curve that it is; None where it was missed, or the scan was refused.
        refused: Whether the scan was refused.
        missed: True curves of at least the limit that were not found; 0 for a refused scan.
        extra: Measured curves of at least the limit that are none.
        convex: Side of the picture to which the largest true curve bulges.
    """

    truth: float
    drawn: float
    found: CurveResult | None
    refused: bool
    missed: int
    extra: int
    convex: str

    @property
    def counts(self) -> bool:
        """Whether there is a curve to compare."""
        return self.truth >= SMALLEST_TRUE

    @property
    def covered(self) -> bool:
        """Whether the 90 % interval holds the truth."""
        if self.found is None:
            return False
        low, high = self.found.interval_90_deg
        return low <= self.truth <= high


@dataclass(frozen=True)
class ScanAngles:
    """What an evaluation keeps of one scan whose truth is known.

    Attributes:
        compared: Its largest true curve and what was said of it.
        refusals: Codes of the reasons why no angle was given; empty where one was.
        artefacts: Of a phantom: the families of artefacts that it shows.
    """

    compared: Compared
    refusals: tuple[str, ...] = ()
    artefacts: tuple[str, ...] = ()

    @property
    def status(self) -> Literal["found", "missed", "refused", "small"]:
        """What became of the largest true curve; `small`: it is below the limit, so that it is not compared."""
        if not self.compared.counts:
            return "small"
        if self.compared.refused:
            return "refused"
        return "missed" if self.compared.found is None else "found"


def compare(measurement: Measurement, curves: Sequence[TrueCurve]) -> Compared:
    """Compare a measurement with the true curves of its scan, at least one."""
    owners = [match(curve, measurement.curves) for curve in curves]
    largest = max(range(len(curves)), key=lambda index: curves[index].angle_deg)
    refused = measurement.status == "refused"
    owned = [found for found in owners if found is not None]
    drawn = curves[largest].drawn_angle_deg
    return Compared(
        truth=curves[largest].angle_deg,
        drawn=math.nan if drawn is None else drawn,
        found=owners[largest],
        refused=refused,
        missed=0
        if refused
        else sum(
            owner is None and curve.angle_deg >= SMALLEST_TRUE for curve, owner in zip(curves, owners, strict=True)
        ),
        extra=sum(
            curve.angle_deg >= SMALLEST_TRUE and not any(curve is found for found in owned)
            for curve in measurement.curves
        ),
        convex=curves[largest].convex,
    )


def match(curve: TrueCurve, measured: Sequence[AnyStretch]) -> AnyStretch | None:
    """The measured curve that a true curve is, None where it is none of them."""
    best: AnyStretch | None = None
    largest = _OVERLAP
    for candidate in measured:
        overlap = _overlap((curve.upper_row, curve.lower_row), (candidate.upper_row, candidate.lower_row))
        if candidate.convex == curve.convex and overlap > largest:
            best, largest = candidate, overlap
    return best


def agree(
    measured: Sequence[float] | Floats, truth: Sequence[float] | Floats, *, confidence: float = 0.95
) -> Agreement:
    """Agreement of two rows of angles, degrees, in the same order (n,); `confidence` is that of the ICC's interval."""
    pairs = np.stack([np.asarray(measured, dtype=np.float64), np.asarray(truth, dtype=np.float64)], axis=1)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    difference = pairs[:, 0] - pairs[:, 1]
    if not len(pairs):
        return Agreement(0, *[math.nan] * 8)
    spread = 1.96 * float(difference.std(ddof=1)) if len(pairs) > 1 else math.nan
    bias = float(difference.mean())
    icc = intraclass_correlation(pairs, confidence)
    return Agreement(
        pairs=len(pairs),
        mad=float(np.abs(difference).mean()),
        bias=bias,
        low=bias - spread,
        high=bias + spread,
        icc=icc[0],
        icc_low=icc[1],
        icc_high=icc[2],
        close=float((np.abs(difference) <= _CLOSE).mean()),
    )


def intraclass_correlation(ratings: Floats, confidence: float = 0.95) -> tuple[float, float, float]:
    """ICC(2,1) with its interval.

    Args:
        ratings: A row a subject, a column a rater. # (n, k)
        confidence: Level of the interval.

    Returns:
        ICC, lower end, upper end; NaN with fewer than three subjects or without any variation.
    """
    n, k = ratings.shape
    if n < 3:
        return math.nan, math.nan, math.nan
    mean = ratings.mean()
    between = k * float(((ratings.mean(axis=1) - mean) ** 2).sum()) / (n - 1)
    raters = n * float(((ratings.mean(axis=0) - mean) ** 2).sum()) / (k - 1)
    rest = ratings - ratings.mean(axis=1, keepdims=True) - ratings.mean(axis=0, keepdims=True) + mean
    error = float((rest**2).sum()) / ((n - 1) * (k - 1))
    total = between + (k - 1) * error + k * (raters - error) / n
    if total <= 0.0:
        return math.nan, math.nan, math.nan
    icc = (between - error) / total
    if error <= 1e-12 * between and raters <= 1e-12 * between:
        return icc, icc, icc
    if between <= 0.0 and error <= 0.0:  # two rows that do not vary at all: nothing to make an interval of
        return icc, math.nan, math.nan
    # McGraw and Wong, case 2A: degrees of freedom after Satterthwaite.
    first, second = k * icc / (n * (1.0 - icc)), 1.0 + k * icc * (n - 1) / (n * (1.0 - icc))
    freedom = (first * raters + second * error) ** 2 / (
        (first * raters) ** 2 / (k - 1) + (second * error) ** 2 / ((n - 1) * (k - 1))
    )
    tail = 0.5 * (1.0 - confidence)
    upper, lower = f.ppf(1.0 - tail, n - 1, freedom), f.ppf(1.0 - tail, freedom, n - 1)
    low = n * (between - upper * error) / (upper * (k * raters + (k * n - k - n) * error) + n * between)
    high = n * (lower * between - error) / (k * raters + (k * n - k - n) * error + n * lower * between)
    return icc, float(low), float(high)


def _overlap(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Shared share of what two stretches span together; negative where they do not meet."""
    return (min(first[1], second[1]) - max(first[0], second[0])) / (max(first[1], second[1]) - min(first[0], second[0]))
