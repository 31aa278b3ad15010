"""How sure a mean over scans is, and whether two models differ: the bootstrap, by subject.

Scans of one subject resemble each other, so that subjects are resampled and each brings all of its scans.
All draws come from one seeded generator: equal input gives equal numbers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

Floats = npt.NDArray[np.float64]

_CHUNK = 4_000_000
"""Resampled subjects held in memory at a time."""


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes:
        mean: Mean over the scored values; NaN where there is none.
        low: Lower end; NaN with fewer than two subjects, which show no spread.
        high: Upper end; NaN with fewer than two subjects.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedBootstrap:
    """Resampled mean differences candidate - champion.

    Attributes:
        mean_difference: Mean over the scans that both scored; NaN where there is none.
        draws: The mean difference in each resample; empty with fewer than two subjects. # (samples,)
        subjects: Subjects behind them.
    """

    mean_difference: float
    draws: Floats
    subjects: int = 0

    def lower_bound(self, confidence: float = 0.95) -> float:
        """One-sided lower bound of the mean difference; -inf where nothing can be said."""
        if not len(self.draws):
            return -math.inf
        return float(np.quantile(self.draws, _tail(1.0 - confidence, self.subjects)))

    def p_value(self, threshold: float = 0.0) -> float:
        """One-sided p-value of "the mean difference is at most `threshold`"; 1 where nothing can be said.

        The level at which `lower_bound` would just reach the threshold. One draw is counted at or below it in any
        case, so that finitely many draws never give 0 (Davison and Hinkley, Bootstrap Methods and their
        Application, 1997, section 4.2).
        """
        if not len(self.draws):
            return 1.0
        return _level(1 + int(np.count_nonzero(self.draws <= threshold)), len(self.draws), self.subjects)

    def reversed(self) -> "PairedBootstrap":
        """The same seen from the other side: champion - candidate."""
        return PairedBootstrap(-self.mean_difference, -self.draws, self.subjects)

    def upper_bound(self, confidence: float = 0.95) -> float:
        """One-sided upper bound of the mean difference; inf where nothing can be said."""
        return -self.reversed().lower_bound(confidence)

    def interval(self, confidence: float = 0.95) -> Interval:
        """Mean difference with its two-sided interval; ends NaN where nothing can be said."""
        if not len(self.draws):
            return Interval(self.mean_difference, math.nan, math.nan)
        one_sided = 1.0 - (1.0 - confidence) / 2.0
        return Interval(self.mean_difference, self.lower_bound(one_sided), self.upper_bound(one_sided))

    def two_sided_p_value(self) -> float:
        """P-value of "the mean difference is 0" against either side; 1 where nothing can be said."""
        return min(1.0, 2.0 * min(self.p_value(0.0), self.reversed().p_value(0.0)))


def mean_interval(
    values: Sequence[float] | Floats, subjects: Sequence[str], *, samples: int, confidence: float, seed: int
) -> Interval:
    """Mean over scans with a two-sided bootstrap interval by subject.

    The quantiles are those of the expanded percentile interval: with n subjects the plain percentile interval is
    too narrow by about sqrt((n - 1) / n) and by normal instead of t quantiles, and the level is widened to make up
    for both (Hesterberg, The American Statistician 69, 2015, section 5.3).

    Args:
        values: One value a scan; NaN = not scored, left out. # (N,)
        subjects: Whose scan it is, in the same order. # (N,)
        samples: Resamples.
        confidence: Level of the interval, for example 0.95.
        seed: Seed of the resamples.
    """
    sums, counts = _by_subject(np.asarray(values, dtype=np.float64), subjects)
    if not len(sums):
        return Interval(math.nan, math.nan, math.nan)
    mean = float(sums.sum() / counts.sum())
    if len(sums) < 2:
        return Interval(mean, math.nan, math.nan)
    tail = _tail((1.0 - confidence) / 2.0, len(sums))
    low, high = np.quantile(_resampled_means(sums, counts, samples, seed), [tail, 1.0 - tail])
    return Interval(mean, float(low), float(high))


def paired_bootstrap(
    candidate: Sequence[float] | Floats,
    champion: Sequence[float] | Floats,
    subjects: Sequence[str],
    *,
    samples: int,
    seed: int,
) -> PairedBootstrap:
    """Resample the mean difference of two models on the same scans, by subject.

    Args:
        candidate: One score a scan; NaN = not scored. # (N,)
        champion: The same scans in the same order. # (N,)
        subjects: Whose scan it is. # (N,)
        samples: Resamples.
        seed: Seed of the resamples.
    """
    differences = np.asarray(candidate, dtype=np.float64) - np.asarray(champion, dtype=np.float64)
    sums, counts = _by_subject(differences, subjects)
    mean = float(sums.sum() / counts.sum()) if len(sums) else math.nan
    if len(sums) < 2:
        return PairedBootstrap(mean, np.empty(0), len(sums))
    return PairedBootstrap(mean, _resampled_means(sums, counts, samples, seed), len(sums))


def paired_lower_bound(
    differences: Sequence[float] | Floats, subjects: Sequence[str], *, samples: int, confidence: float, seed: int
) -> float:
    """One-sided lower bound of the mean of paired differences; -inf with fewer than two subjects."""
    nothing = np.zeros(len(differences))
    return paired_bootstrap(differences, nothing, subjects, samples=samples, seed=seed).lower_bound(confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda item: p_values[item])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def subjects_needed(
    differences: Sequence[float] | Floats,
    subjects: Sequence[str],
    *,
    confidence: float = 0.95,
    power: float = 0.8,
    margin: float = 0.0,
) -> int | None:
    """How many subjects would settle an undecided comparison, if what was seen is how it is.

    For a one-sided t test, n = ((z_confidence + z_power) * sd / (mean + margin))^2 + z_confidence^2 / 2, with mean
    and standard deviation over the subjects' own mean differences (Guenther, The American Statistician 35, 1981).

    Args:
        differences: Candidate - champion, one a scan; NaN is left out. # (N,)
        subjects: Whose scan it is. # (N,)
        confidence: Level of the one-sided bound.
        power: Wanted probability that the bound excludes -margin.
        margin: 0 asks for superiority; the non-inferiority margin asks for that.

    Returns:
        The number, at least 2. None where no number would do: fewer than two subjects, or a difference that
        points the other way.
    """
    sums, counts = _by_subject(np.asarray(differences, dtype=np.float64), subjects)
    if len(sums) < 2:
        return None
    means = sums / counts
    effect = float(means.mean()) + margin
    if effect <= 0.0:
        return None
    normal = NormalDist()
    level = normal.inv_cdf(confidence)
    number = ((level + normal.inv_cdf(power)) * float(means.std(ddof=1)) / effect) ** 2 + level**2 / 2.0
    return max(2, math.ceil(number))


def smallest_p_value(samples: int, subjects: int) -> float:
    """The p-value of a paired bootstrap in which every resample speaks for the candidate: none can be smaller."""
    return 1.0 if subjects < 2 else _level(1, samples, subjects)


def _by_subject(values: Floats, subjects: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and count of the scored values of each subject, subjects in sorted order."""
    if len(values) != len(subjects):
        raise ValueError(f"{len(values)} values for {len(subjects)} subjects")
    scored = ~np.isnan(values)
    if not scored.any():
        return np.empty(0), np.empty(0)
    names = np.asarray(subjects, dtype=np.str_)[scored]
    _, index = np.unique(names, return_inverse=True)
    return np.bincount(index, values[scored]).astype(np.float64), np.bincount(index).astype(np.float64)


def _resampled_means(sums: Floats, counts: Floats, samples: int, seed: int) -> Floats:
    """Mean over scans in each resample of the subjects. # (samples,)."""
    return np.concatenate([(drawn @ sums) / (drawn @ counts) for drawn in _drawn(seed, samples, len(sums))])


def _drawn(seed: int, samples: int, subjects: int) -> Iterator[Floats]:
    """How often each subject is in each resample, in pieces that fit into memory. # (some samples, subjects)."""
    if samples * subjects <= _CHUNK:  # one decision asks for the same resamples for each class
        yield _drawn_at_once(seed, samples, subjects)
        return
    generator = np.random.default_rng(seed)
    shares = np.full(subjects, 1.0 / subjects)
    rows = max(1, _CHUNK // subjects)
    for start in range(0, samples, rows):
        yield generator.multinomial(subjects, shares, size=min(rows, samples - start)).astype(np.float64)


@lru_cache(maxsize=2)
def _drawn_at_once(seed: int, samples: int, subjects: int) -> Floats:
    shares = np.full(subjects, 1.0 / subjects)
    drawn = np.random.default_rng(seed).multinomial(subjects, shares, size=samples).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def _tail(tail: float, subjects: int) -> float:
    """Share of draws beyond the quantile of an expanded percentile interval."""
    return float(norm.cdf(_stretch(subjects) * t.ppf(tail, subjects - 1)))


def _level(against: int, samples: int, subjects: int) -> float:
    """The level at which the expanded quantile is this draw: `_tail` backwards."""
    return float(t.cdf(norm.ppf(against / (1 + samples)) / _stretch(subjects), subjects - 1))


def _stretch(subjects: int) -> float:
    return math.sqrt(subjects / (subjects - 1))
