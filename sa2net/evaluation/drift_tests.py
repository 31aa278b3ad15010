"""Tests of one drift signal: exact with few values and with equal ones, and which of many comparisons can alarm at all."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

FEWEST = 3
"""Known values on each side without which a signal is not tested."""
_LARGEST_COUNT = 1e8  # steps of an exact count; beyond, both sides are large and the normal approximation is close


def can_alarm(smallest: Sequence[float], alpha: float) -> list[int]:
    """Places of the comparisons that could be an alarm with so few values, whatever these are.

    R. E. Tarone, Biometrics 46 (1990) 515-522. The choice depends on how many values there are, not on what they say,
    so a rule over the others holds its level.

    Args:
        smallest: Smallest p that each comparison can have.
        alpha: Level over all of them.
    """
    size = next(size for size in range(1, len(smallest) + 2) if sum(p <= alpha / size for p in smallest) <= size)
    return [index for index, p in enumerate(smallest) if p <= alpha / size]


def difference(reference: Sequence[float], new: Sequence[float], *, binary: bool = False) -> tuple[float, float]:
    """Two-sided p, and the smallest that so many values can give; (1, 1) where too few are known.

    Args:
        reference: Known values.
        new: Values to hold against them.
        binary: They are zeros and ones: Fisher's exact test, else the rank test.
    """
    if min(len(reference), len(new)) < FEWEST:
        return 1.0, 1.0
    if not binary:
        return rank_test(reference, new), smallest_rank_p(len(reference), len(new))
    ones, total = round(sum(reference) + sum(new)), len(reference) + len(new)
    fewest, most = max(0, ones - len(reference)), min(ones, len(new))

    def fisher(count: int) -> float:
        rows = [[ones - count, len(reference) - ones + count], [count, len(new) - count]]
        return float(stats.fisher_exact(np.array(rows, dtype=np.intp)).pvalue)

    if ones in (0, total):
        return 1.0, 1.0
    return fisher(round(sum(new))), min(fisher(fewest), fisher(most))


def smallest_rank_p(reference: int, new: int) -> float:
    """Smallest p that Mann-Whitney's test can give."""
    return 2 / math.comb(reference + new, new)


def rank_test(reference: Sequence[float], new: Sequence[float]) -> float:
    """Mann-Whitney's test (Mann & Whitney 1947), exact with equal values too, unless both sides are large.

    Counted are all ways to choose which of the observed values are the new ones, by the sum of their ranks (E. L.
    Lehmann, Nonparametrics, 1975, section 1.4); p is twice the smaller tail.
    """
    smaller, larger = sorted((tuple(new), tuple(reference)), key=len)
    ranks = np.rint(2 * stats.rankdata([*smaller, *larger])).astype(np.int64)  # midranks, doubled: whole numbers
    chosen, total = len(smaller), len(ranks)
    top = int(np.sort(ranks)[-chosen:].sum())
    if float(total) * chosen * top > _LARGEST_COUNT:
        return float(stats.mannwhitneyu(reference, new, method="asymptotic").pvalue)
    ways = np.zeros((chosen + 1, top + 1))  # (how many chosen, their sum of ranks)
    ways[0, 0] = 1.0
    for rank in ranks.tolist():
        ways[1:, rank:] += ways[:-1, : top + 1 - rank].copy()
    observed = int(ranks[:chosen].sum())
    tail = min(ways[chosen, : observed + 1].sum(), ways[chosen, observed:].sum())
    return min(1.0, 2.0 * float(tail) / math.comb(total, chosen))


def scans_needed(reference: int, *, alpha: float, tests: int) -> int:
    """Fewest new scans with which the largest difference there can be would be an alarm; 0 where no number is enough."""
    return next((new for new in range(1, 10_001) if smallest_rank_p(reference, new) * tests <= alpha), 0)
