"""Intervals, paired comparisons and Holm's adjustment: hand-worked values, invariants and measured coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sa2net.evaluation import statistics
from sa2net.evaluation.statistics import (
    holm,
    mean_interval,
    paired_bootstrap,
    paired_lower_bound,
    smallest_p_value,
    subjects_needed,
)


def interval(values, subjects=None, *, samples=2000, confidence=0.95, seed=0):
    subjects = [f"s{index}" for index in range(len(values))] if subjects is None else subjects
    return mean_interval(values, subjects, samples=samples, confidence=confidence, seed=seed)


def test_mean_counts_scans_not_subjects_and_leaves_nan_out():
    result = interval([1.0, 0.0, 0.0, math.nan], ["a", "a", "b", "c"])
    assert result.mean == pytest.approx(1 / 3)


def test_nothing_scored():
    assert all(math.isnan(value) for value in vars(interval([math.nan, math.nan])).values())
    assert all(math.isnan(value) for value in vars(interval([])).values())


def test_one_subject_has_a_mean_and_no_interval():
    result = interval([0.4, 0.6], ["a", "a"])
    assert result.mean == pytest.approx(0.5)
    assert math.isnan(result.low)
    assert math.isnan(result.high)


def test_equal_values_give_an_interval_of_no_width():
    result = interval([0.7] * 8)
    assert result.low == pytest.approx(0.7)
    assert result.high == pytest.approx(0.7)


def test_two_subjects_can_only_draw_three_means():
    # Resamples of {0, 1}: mean 0 (1/4), 1/2 (1/2), 1 (1/4).
    draws = paired_bootstrap([0.0, 1.0], [0.0, 0.0], ["a", "b"], samples=20_000, seed=0).draws
    values, counts = np.unique(draws, return_counts=True)
    np.testing.assert_array_equal(values, [0.0, 0.5, 1.0])
    np.testing.assert_allclose(counts / 20_000, [0.25, 0.5, 0.25], atol=0.015)


def test_scans_of_a_subject_go_together():
    # Two subjects, ten equal scans each: as uncertain as two scans, far more than twenty.
    values = [0.2] * 10 + [0.8] * 10
    clustered = interval(values, ["a"] * 10 + ["b"] * 10)
    independent = interval(values)
    assert (clustered.low, clustered.high) == pytest.approx((0.2, 0.8))
    assert independent.high - independent.low < 0.5


def test_same_seed_same_numbers_and_order_of_scans_does_not_matter():
    values, subjects = np.random.default_rng(3).uniform(size=12), [f"s{index % 5}" for index in range(12)]
    again = np.random.default_rng(4).permutation(12)
    assert interval(values, subjects) == interval(values, subjects)
    assert interval(values, subjects) != interval(values, subjects, seed=1)
    shuffled = interval(values[again], [subjects[index] for index in again])
    assert vars(shuffled) == pytest.approx(vars(interval(values, subjects)))


def test_many_subjects_agree_with_the_normal_interval():
    values = np.random.default_rng(5).normal(0.8, 0.05, 4000)
    result = interval(values, samples=4000)  # drawn in several pieces
    half = 1.959964 * values.std(ddof=1) / math.sqrt(4000)
    assert result.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert result.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_coverage_with_few_subjects_and_skewed_scores():
    generator = np.random.default_rng(1)
    trials, truth = 400, 12 / 14  # mean of Beta(12, 2), shaped like Dice scores
    covered = 0
    for trial in range(trials):
        result = interval(generator.beta(12, 2, size=20), samples=600, seed=trial)
        covered += result.low <= truth <= result.high
    assert 0.91 <= covered / trials <= 0.98


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=12), st.integers(0, 50))
def test_interval_encloses_the_mean_and_stays_in_range(values, seed):
    result = interval(values, samples=200, seed=seed)
    slack = 1e-9
    assert min(values) - slack <= result.low <= result.high + slack <= max(values) + 2 * slack


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="3 values for 2 subjects"):
        interval([0.1, 0.2, 0.3], ["a", "b"])


def test_paired_bootstrap_of_a_constant_gain():
    champion = np.random.default_rng(0).uniform(0.5, 0.9, 15)
    pair = paired_bootstrap(champion + 0.03, champion, [f"s{index}" for index in range(15)], samples=500, seed=0)
    assert pair.mean_difference == pytest.approx(0.03)
    np.testing.assert_allclose(pair.draws, 0.03)
    assert pair.lower_bound(0.95) == pytest.approx(0.03)
    assert pair.p_value(0.0) < 0.01
    assert pair.p_value(0.04) == pytest.approx(1.0)
    assert (pair.subjects, len(pair.draws)) == (15, 500)


def test_paired_bootstrap_uses_scans_that_both_scored():
    pair = paired_bootstrap([0.9, math.nan, 0.5], [0.8, 0.1, math.nan], ["a", "b", "c"], samples=100, seed=0)
    assert pair.mean_difference == pytest.approx(0.1)
    assert (pair.subjects, len(pair.draws)) == (1, 0)
    assert pair.lower_bound() == -math.inf
    assert pair.p_value() == 1.0


def test_paired_lower_bound_agrees_with_student_on_normal_differences():
    # One-sided t bound: mean - t(0.95, 29) * sd / sqrt(30), t = 1.699127.
    differences = np.random.default_rng(8).normal(0.02, 0.05, 30)
    subjects = [f"s{index}" for index in range(30)]
    bound = paired_lower_bound(differences, subjects, samples=20_000, confidence=0.95, seed=0)
    expected = differences.mean() - 1.699127 * differences.std(ddof=1) / math.sqrt(30)
    assert bound == pytest.approx(expected, abs=0.0015)


def test_p_value_and_lower_bound_say_the_same():
    generator = np.random.default_rng(2)
    verdicts = set()
    for trial in range(60):
        differences = generator.normal(0.02, 0.05, 12)
        subjects = [f"s{index}" for index in range(12)]
        pair = paired_bootstrap(differences, np.zeros(12), subjects, samples=1000, seed=trial)
        p_value, bound = pair.p_value(0.0), pair.lower_bound(0.95)
        if abs(p_value - 0.05) > 0.005:
            assert (p_value < 0.05) == (bound > 0.0)
            verdicts.add(bound > 0.0)
    assert verdicts == {True, False}


def test_upper_bound_is_the_lower_bound_from_the_other_side():
    candidate, champion = np.random.default_rng(6).uniform(0.5, 0.9, (2, 15))
    subjects = [f"s{index}" for index in range(15)]
    pair = paired_bootstrap(candidate, champion, subjects, samples=1000, seed=0)
    swapped = paired_bootstrap(champion, candidate, subjects, samples=1000, seed=0)
    assert pair.upper_bound(0.95) == -swapped.lower_bound(0.95)
    assert pair.reversed().p_value(0.0) == swapped.p_value(0.0)
    assert pair.two_sided_p_value() == swapped.two_sided_p_value()
    low, high = pair.interval(0.9).low, pair.interval(0.9).high
    assert (low, high) == (pair.lower_bound(0.95), pair.upper_bound(0.95))


def test_a_difference_of_one_subject_says_nothing():
    pair = paired_bootstrap([0.9], [0.8], ["a"], samples=100, seed=0)
    assert pair.upper_bound() == math.inf
    assert pair.two_sided_p_value() == 1.0
    assert math.isnan(pair.interval().low)


def test_no_p_value_is_below_the_smallest():
    pair = paired_bootstrap([0.9] * 8, [0.1] * 8, [f"s{index}" for index in range(8)], samples=100, seed=0)
    # (1 + 0) of (1 + 100): z = -2.330, / sqrt(8 / 7) = -2.180, t with 7 degrees of freedom: 0.0329.
    assert smallest_p_value(100, 8) == pytest.approx(0.0329, abs=2e-4)
    assert pair.p_value(0.0) == smallest_p_value(100, 8)
    assert smallest_p_value(100, 1) == 1.0


def test_resamples_drawn_at_once_and_in_pieces_are_the_same(monkeypatch):
    values, subjects = np.random.default_rng(7).uniform(size=9), [f"s{index}" for index in range(9)]
    whole = paired_bootstrap(values, np.zeros(9), subjects, samples=500, seed=3).draws
    monkeypatch.setattr(statistics, "_CHUNK", 900)
    pieces = paired_bootstrap(values, np.zeros(9), subjects, samples=500, seed=3).draws
    np.testing.assert_array_equal(whole, pieces)


FALSE_ALARMS = {
    # At 5 %. Symmetric differences keep the level from six subjects on. Where the candidate mostly gains a little and
    # sometimes loses much, few subjects may not show a loss: the level is exceeded, less with more subjects.
    ("normal", 6): (0.03, 0.07),
    ("normal", 10): (0.03, 0.07),
    ("normal", 30): (0.03, 0.07),
    ("heavy tails", 10): (0.03, 0.07),
    ("losses", 10): (0.06, 0.13),
    ("losses", 100): (0.03, 0.08),
    ("gains", 10): (0.01, 0.04),
}


@pytest.mark.parametrize(("shape", "count"), FALSE_ALARMS)
def test_how_often_chance_looks_better(shape, count):
    generator = np.random.default_rng(9)
    draw = {
        "normal": lambda: generator.normal(0.0, 1.0, count),
        "heavy tails": lambda: generator.standard_t(3, count),
        "losses": lambda: 2.0 - generator.gamma(2.0, 1.0, count),
        "gains": lambda: generator.gamma(2.0, 1.0, count) - 2.0,
    }[shape]
    subjects, nothing = [f"{index:03d}" for index in range(count)], np.zeros(count)
    pairs = [paired_bootstrap(draw(), nothing, subjects, samples=1000, seed=0) for _ in range(1200)]
    low, high = FALSE_ALARMS[shape, count]
    assert low <= np.mean([pair.p_value(0.0) <= 0.05 for pair in pairs]) <= high
    assert low <= np.mean([pair.lower_bound(0.95) > 0.0 for pair in pairs]) <= high


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04 times 3, 2, 1; the last may not be smaller than the one before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0.0, 1.0), max_size=8))
def test_holm_never_shrinks_and_never_beats_bonferroni(p_values):
    for raw, adjusted in zip(p_values, holm(p_values), strict=True):
        assert raw <= adjusted <= min(1.0, raw * len(p_values)) + 1e-12


def test_subjects_needed_by_hand():
    # Mean 0.01 and standard deviation 0.05: ((1.644854 + 0.841621) * 0.05 / 0.01)^2 + 1.644854^2 / 2 = 154.56 + 1.35.
    spread = 0.05 / math.sqrt(2)
    assert subjects_needed([0.01 - spread, 0.01 + spread], ["a", "b"]) == 156
    # A margin of 0.04 makes the effect five times as large: 6.18 + 1.35.
    assert subjects_needed([0.01 - spread, 0.01 + spread], ["a", "b"], margin=0.04) == 8


def test_so_many_subjects_do_settle_it_four_times_in_five():
    # Exactly what it was computed for: one-sided t test, mean / sd = 0.5, power 80 %: 27 subjects (26.1).
    sample = np.array([-1.0, 1.0] * 50)
    sample = 0.5 + sample / sample.std(ddof=1)
    number = subjects_needed(sample, [str(index) for index in range(100)])
    assert number == 27
    trials = np.random.default_rng(4).normal(0.5, 1.0, (20_000, number))
    t_values = trials.mean(axis=1) / (trials.std(axis=1, ddof=1) / math.sqrt(number))
    assert 0.80 <= (t_values > 1.70562).mean() <= 0.83  # t(0.95, 26)


@pytest.mark.parametrize("differences", [[-0.01, -0.02, 0.0], [0.0, 0.0], [0.5], [math.nan, 0.3]])
def test_subjects_needed_refuses_what_no_number_settles(differences):
    assert subjects_needed(differences, [f"s{index}" for index in range(len(differences))]) is None
