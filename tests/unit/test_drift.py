"""Drift without labels: hand-worked tests, the false alarm rate and the power by simulation, and invariants."""

import math
import random

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from sa2net.config import MeasureConfig
from sa2net.evaluation.drift import PICTURE_SIGNALS, SIGNALS, Described, Drift, collect, compare, describe_scan
from sa2net.evaluation.drift_page import render
from sa2net.evaluation.drift_tests import can_alarm, difference, rank_test, scans_needed
from sa2net.inference.predictor import Prediction


def drawn(generator: np.random.Generator, count: int, shift: float = 0.0, device: str = "") -> list[Described]:
    """Scans whose signals are drawn; `shift` moves one of them, in standard deviations."""
    items = []
    for index in range(count):
        values = dict(zip(SIGNALS, generator.standard_normal(len(SIGNALS)).tolist(), strict=True))
        values |= {"pairs": float(generator.binomial(11, 0.9)), "refused": float(generator.random() < 0.1)}
        values["grey_mean"] += shift
        items.append(Described(f"scan_{index:03d}", device, values))
    return items


def judge(old: list[Described], new: list[Described], alpha: float = 0.05) -> Drift:
    return compare(collect(old, {}), new, alpha=alpha, min_scans=3)


def test_p_values_worked_by_hand() -> None:
    assert difference([1, 2, 3], [4, 5, 6]) == pytest.approx((2 / math.comb(6, 3),) * 2)
    assert difference([0, 0, 0, 0], [1, 1, 1, 1], binary=True) == pytest.approx((2 / math.comb(8, 4),) * 2)
    assert difference([1, 1, 2, 2], [3, 3, 4, 4])[0] == pytest.approx(2 / math.comb(8, 4))  # equal values
    assert rank_test([1, 2, 2], [2, 3, 3]) == pytest.approx(2 * 3 / math.comb(6, 3))  # 3 of 20 ways are as far up
    assert difference([7, 7, 7], [7, 7, 7])[0] == 1.0
    assert difference([1, 2], [8, 9, 10]) == (1.0, 1.0)  # too few values
    assert difference([0, 0, 0], [0, 0, 0], binary=True) == (1.0, 1.0)  # nothing could differ
    p, smallest = difference([0] * 9 + [1], [1, 0, 0], binary=True)
    assert smallest == pytest.approx(3 / math.comb(13, 2))  # both refusals among the three new ones
    assert p > smallest


def test_the_rank_test_is_that_of_scipy() -> None:
    generator = np.random.default_rng(8)
    for sizes in ((5, 9), (12, 4), (60, 7)):
        old, new = (generator.standard_normal(size).tolist() for size in sizes)
        assert rank_test(old, new) == pytest.approx(float(mannwhitneyu(old, new, method="exact").pvalue))
    many, more = (generator.integers(0, 5, 200).tolist() for _ in range(2))  # too many to count
    assert rank_test(many, more) == pytest.approx(float(mannwhitneyu(many, more, method="asymptotic").pvalue))


def test_only_comparisons_that_can_alarm_are_in_the_family() -> None:
    assert can_alarm([0.004, 0.004, 1.0, 0.02], 0.01) == [0, 1]
    assert can_alarm([0.004, 0.004, 0.004], 0.01) == []  # three at 0.01 / 3 or less would be needed
    assert can_alarm([0.0001] * 3 + [0.004], 0.01) == [0, 1, 2]
    assert can_alarm([1.0], 0.01) == []


def test_scans_needed_worked_by_hand() -> None:
    assert 2 / math.comb(8, 2) > 0.05 > 2 / math.comb(9, 3)
    assert scans_needed(6, alpha=0.05, tests=1) == 3
    assert scans_needed(6, alpha=0.01, tests=18) == 9  # 2 * 18 / C(15, 9) = 0.0072, with 8 new scans 0.012


def test_false_alarms_are_as_rare_as_stated() -> None:
    generator = np.random.default_rng(1)
    rounds, alpha = 100, 0.2  # a high level, so that few rounds say something
    alarms = sum(judge(drawn(generator, 8), drawn(generator, 8), alpha).verdict == "drift" for _ in range(rounds))
    assert alarms / rounds <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / rounds)


def test_a_shift_of_two_standard_deviations_is_found() -> None:
    generator = np.random.default_rng(2)
    found = [judge(drawn(generator, 20), drawn(generator, 20, shift=2.0), 0.01) for _ in range(30)]
    assert sum(item.verdict == "drift" for item in found) >= 24
    assert {row.signal for item in found for row in item.compared if row.drifted} <= {"grey_mean", "pairs"}


def test_too_few_scans_cannot_tell_however_far_they_are() -> None:
    generator = np.random.default_rng(3)
    said = judge(drawn(generator, 6), drawn(generator, 4, shift=99.0), 0.01)
    assert said.verdict == "cannot tell"
    assert "needed are 9 new" in said.devices[0].reason
    assert not any(row.drifted for row in said.compared)
    assert judge(drawn(generator, 2), drawn(generator, 30, shift=99.0), 0.01).verdict == "cannot tell"


def test_a_reference_of_many_pictures_and_few_predictions_tells_of_the_pictures_alone() -> None:
    generator = np.random.default_rng(9)
    pictures = [
        Described(item.name, "", {name: item.signals[name] for name in PICTURE_SIGNALS})
        for item in drawn(generator, 30)
    ]
    known = collect(pictures + drawn(generator, 4), {})
    said = compare(known, drawn(generator, 10), alpha=0.01, min_scans=10)
    assert said.verdict == "cannot tell"
    assert said.devices[0].reason == "7 signals have only 4 reference values: 15 new scans can tell"
    assert {row.signal for row in said.compared if row.tested} == set(PICTURE_SIGNALS)
    shifted = compare(known, drawn(generator, 10, shift=6.0), alpha=0.01, min_scans=10)
    assert shifted.verdict == "drift"


def test_the_order_of_the_scans_changes_nothing() -> None:
    generator = np.random.default_rng(4)
    old, new = drawn(generator, 10), drawn(generator, 12, shift=3.0)
    mixed = random.Random(0)
    assert judge(mixed.sample(old, 10), mixed.sample(new, 12)) == judge(old, new)


def test_devices_are_held_against_their_own_reference() -> None:
    generator = np.random.default_rng(5)
    old = drawn(generator, 15, device="a") + drawn(generator, 15, shift=9.0, device="b")
    new = drawn(generator, 15, device="a") + drawn(generator, 15, device="b") + drawn(generator, 15, device="c")
    said = compare(collect(old, {}), new, alpha=0.01, min_scans=10)
    verdicts = {item.device: (item.verdict, item.known) for item in said.devices}
    assert verdicts["a"] == ("no drift found", True)
    assert verdicts["b"] == ("drift", True)
    assert verdicts["c"][1] is False
    assert said.verdict == "drift"


def test_a_lone_outlier_is_listed_and_no_alarm() -> None:
    generator = np.random.default_rng(6)
    new = drawn(generator, 12)
    new[3].signals["sweep_width"] = 50.0  # type: ignore[index]
    said = judge(drawn(generator, 12), new)
    assert said.verdict == "no drift found"
    assert ("scan_003", "sweep_width", 50.0) in {(item.name, item.signal, item.value) for item in said.outliers}


def test_signals_worked_by_hand() -> None:
    scan = np.zeros((40, 30), np.uint8)
    scan[5:35, 10:20] = 100  # 300 px
    scan[10:13, 14:16] = 0  # 6 px of dropout, closed by the sweep
    mask = np.zeros_like(scan)
    mask[20:26, 10:15] = 3  # 30 px
    probabilities = np.full((4, 40, 30), 0.25, np.float32)
    said = describe_scan(scan, Prediction(mask, probabilities, 1.0, "sweep width"), MeasureConfig())
    assert set(said) == set(SIGNALS)
    assert (said["sweep_width"], said["sweep_length"]) == (10.0, 30.0)
    assert said["dropout_share"] == pytest.approx(6 / 300)
    assert said["grey_mean"] == pytest.approx(100 * 294 / 300)
    assert (said["grey_p05"], said["grey_p95"]) == (100.0, 100.0)
    assert said["area_lumbar_lump"] == pytest.approx(0.1)
    assert said["grey_lumbar_lump"] == 100.0
    assert said["area_rib"] == 0.0
    assert math.isnan(said["grey_rib"])
    assert said["confidence"] == pytest.approx(0.25)
    assert said["entropy"] == pytest.approx(math.log(4))
    assert said["refused"] == 1.0


def test_a_page_of_hostile_names_holds_no_markup_of_theirs() -> None:
    generator = np.random.default_rng(7)
    new = [Described("<script>x</script>", "<b>", item.signals) for item in drawn(generator, 12, shift=60.0)]
    page = render(judge(drawn(generator, 12), new), references=12, failed=0, model_sha256="0" * 64)
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<b>" not in page
