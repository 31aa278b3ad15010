"""The gate: hand-worked decisions, and what must hold whatever the scores are."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_cases import scored_version

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import ScanClassScore
from sa2net.config import FloorsConfig, RegisterConfig
from sa2net.registry.decision import MEAN, ScoredVersion
from sa2net.registry.gate import decide

CFG = RegisterConfig(bootstrap_samples=500)
NO_FLOORS = FloorsConfig(mean=0.0, rib=0.0, thoracic_process=0.0, lumbar_lump=0.0)
FREE = RegisterConfig(bootstrap_samples=200, floors=NO_FLOORS)


def table(subjects: int = 20, level: float = 0.8, spread: float = 0.02, seed: int = 0) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(level, spread, (subjects, 3)), 0.0, 1.0)


def check(decision, name: str, subject: str):
    [reason] = [item for item in decision.reasons if (item.check, item.subject) == (name, subject)]
    return reason


# Floors and the first version


def test_first_version_passes_on_the_floors_alone():
    decision = decide(scored_version("version 1", [[0.6, 0.7, 0.8]]), None, CFG)
    assert decision.verdict == "promote"
    assert check(decision, "floor", MEAN).text == "mean over the classes: Dice 0.700 reaches the floor of 0.700."
    assert decision.champion == ""


@pytest.mark.parametrize(
    ("dice", "failing"),
    [
        ([0.54, 0.9, 0.9], {"rib"}),
        ([0.9, 0.59, 0.9], {"thoracic_process"}),
        ([0.9, 0.9, 0.64], {"lumbar_lump"}),
        ([0.56, 0.61, 0.66], {"mean"}),
        ([0.1, 0.1, 0.1], {"mean", "rib", "thoracic_process", "lumbar_lump"}),
    ],
)
def test_every_floor_is_looked_at(dice, failing):
    decision = decide(scored_version("version 1", [dice]), None, CFG)
    assert decision.verdict == "refuse"
    assert {item.subject for item in decision.reasons if item.check == "floor" and not item.holds} == failing


def test_a_class_that_no_scan_scores_fails_its_floor():
    decision = decide(scored_version("version 1", [[0.9, 0.9, math.nan], [0.9, 0.9, math.nan]]), None, CFG)
    assert decision.verdict == "refuse"
    assert check(decision, "floor", "lumbar_lump").text == "lumbar lump: no scan of the test split has a score."
    assert check(decision, "floor", MEAN).holds  # the mean is over the classes that are scored


def test_mean_is_over_classes_of_a_scan_then_over_scans():
    version = scored_version("v", [[0.9, 0.5, math.nan], [0.6, 0.6, 0.9]])
    assert version.column(MEAN).tolist() == pytest.approx([0.7, 0.7])
    decision = decide(version, None, CFG)
    assert decision.table[0].candidate == pytest.approx(0.7)


def test_floors_hold_for_a_challenger_too():
    better = decide(scored_version("b", table() + 0.05), scored_version("a", table()), CFG)
    assert better.verdict == "promote"
    strict = RegisterConfig(bootstrap_samples=500, floors=FloorsConfig(mean=0.99))
    refused = decide(scored_version("b", table() + 0.05), scored_version("a", table()), strict)
    assert refused.verdict == "refuse"


# Against a champion


def test_clearly_better_is_promoted():
    decision = decide(scored_version("version 2", table() + 0.03), scored_version("version 1", table()), CFG)
    assert decision.verdict == "promote"
    assert decision.subjects == 20
    assert decision.subjects_needed is None
    assert all(reason.holds for reason in decision.reasons)
    assert "+0.030" in check(decision, "superior", MEAN).text


def test_clearly_worse_is_refused():
    decision = decide(scored_version("version 2", table() - 0.03), scored_version("version 1", table()), CFG)
    assert decision.verdict == "refuse"
    assert "worse" in check(decision, "superior", MEAN).text


def test_better_on_average_but_one_class_worse_beyond_the_margin_is_refused():
    change = np.array([0.10, 0.10, -0.05])
    decision = decide(scored_version("version 2", table() + change), scored_version("version 1", table()), CFG)
    assert check(decision, "superior", MEAN).holds
    assert not check(decision, "non-inferior", "lumbar_lump").holds
    assert decision.verdict == "refuse"


def test_a_loss_within_the_margin_is_no_loss():
    change = np.array([0.05, 0.05, -0.01])
    decision = decide(scored_version("version 2", table() + change), scored_version("version 1", table()), CFG)
    assert decision.verdict == "promote"
    tight = CFG.model_copy(update={"margin": 0.0})
    assert decide(
        scored_version("version 2", table() + change), scored_version("version 1", table()), tight
    ).verdict != ("promote")


def test_a_small_gain_in_much_noise_cannot_be_told_and_says_what_would():
    noise = np.random.default_rng(1).normal(0.004, 0.03, (20, 3))
    decision = decide(scored_version("version 2", table() + noise), scored_version("version 1", table()), CFG)
    assert decision.verdict == "cannot tell"
    assert decision.subjects_needed is not None and decision.subjects_needed > 20
    assert str(decision.subjects_needed) in decision.reasons[-1].text


def test_a_small_loss_cannot_be_told_and_no_number_of_subjects_would_help():
    noise = np.random.default_rng(5).normal(0.0, 0.03, (20, 3))
    noise -= noise.mean() + 0.002
    decision = decide(scored_version("version 2", table() + noise), scored_version("version 1", table()), CFG)
    assert decision.verdict == "cannot tell"
    assert decision.subjects_needed is None
    assert "would not help" in decision.reasons[-1].text


def test_too_few_subjects_never_decide_however_large_the_gain():
    def versions(subjects: int):
        return (
            scored_version("version 2", np.full((subjects, 3), 0.95)),
            scored_version("version 1", np.full((subjects, 3), 0.70)),
        )

    # 3 classes at 5 %: the smallest p-value must be below 1/60, and 2**-5 = 1/32, 2**-6 = 1/64.
    decision = decide(*versions(5), RegisterConfig())
    assert decision.verdict == "cannot tell"
    said = [reason.text for reason in decision.reasons]
    assert "5 subjects are too few for 95% confidence, which needs at least 6." in said
    assert decide(*versions(6), RegisterConfig()).verdict == "promote"


def test_many_scans_of_few_subjects_count_as_few():
    low, high = np.full((40, 3), 0.70), np.full((40, 3), 0.95)
    decision = decide(
        scored_version("version 2", high, scans_per_subject=10),
        scored_version("version 1", low, scans_per_subject=10),
        CFG,
    )
    assert decision.subjects == 4
    assert decision.verdict == "cannot tell"


def test_same_weights_are_recognised_whatever_the_scores():
    decision = decide(scored_version("b", table() + 0.1, sha="x"), scored_version("a", table(), sha="x"), CFG)
    assert decision.verdict == "same weights"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"data": "data-2"}, "data set"),
        ({"split": "val"}, "split"),
        ({"settings": '{"flip": true}'}, "settings"),
        ({"scans_per_subject": 2}, "scans"),
    ],
)
def test_a_champion_scored_on_anything_else_has_to_be_scored_again(change, word):
    decision = decide(scored_version("b", table() + 0.1), scored_version("a", table(), **change), CFG)
    assert decision.verdict == "score the champion again"
    assert word in decision.reasons[0].text


def test_a_champion_without_scores_has_to_be_scored_again():
    nothing = ScoredVersion.from_rows([], name="a", model_sha256="a", data_md5="", split="")
    assert decide(scored_version("b", table()), nothing, CFG).verdict == "score the champion again"


def test_holm_is_stricter_than_each_class_alone():
    # Each class alone is non-inferior at 5 %, but only just: with three of them that is not enough.
    rng = np.random.default_rng(3)
    noise = rng.normal(0.0, 0.06, (30, 3))
    noise -= noise.mean(axis=0) - 0.002
    decision = decide(scored_version("b", table(30, 0.8) + noise), scored_version("a", table(30, 0.8)), CFG)
    p_values = {row.subject: row.p_value for row in decision.table if row.subject != MEAN}
    lower = {row.subject: row.lower for row in decision.table if row.subject != MEAN}
    assert any(lower[name] > -CFG.margin and p_values[name] > 0.05 for name in lower)
    assert decision.verdict == "cannot tell"


# The document


def test_the_decision_is_a_json_document_and_the_same_each_time():
    pair = scored_version("version 2", table() + 0.01), scored_version("version 1", table())
    first, second = (json.dumps(decide(*pair, CFG).to_dict(), allow_nan=False) for _ in range(2))
    assert first == second
    document = json.loads(first)
    assert document["schema_version"] == 1
    assert [row["subject"] for row in document["table"]] == [MEAN, *(item.name for item in FOREGROUND)]
    assert all(reason["text"].endswith(".") for reason in document["reasons"])


def test_a_document_without_numbers_holds_no_null():
    nothing = scored_version("version 1", [[math.nan] * 3])
    assert "null" not in json.dumps(decide(nothing, None, CFG).to_dict(), allow_nan=False)
    few = decide(scored_version("b", [[0.9] * 3]), scored_version("a", [[0.8] * 3]), CFG)
    assert "null" not in json.dumps(few.to_dict(), allow_nan=False)


def test_rows_of_a_table_become_scans_in_order():
    def row(scan: str, name: str, dice: float | None) -> ScanClassScore:
        return ScanClassScore(
            name=scan, subject=scan[0], device="", class_name=name, dice=dice, iou=None, nsd=None, hd95=None,
            unit="px", truth_px=0, prediction_px=0,
        )  # fmt: skip

    rows = [row("b1", "rib", 0.2), row("a1", "lumbar_lump", 0.4), row("a1", "rib", None), row("b1", "lumbar_lump", 0.3)]
    version = ScoredVersion.from_rows(rows, name="v", model_sha256="s", data_md5="d", split="test")
    assert (version.scans, version.subjects) == (("a1", "b1"), ("a", "b"))
    np.testing.assert_array_equal(version.dice, [[math.nan, math.nan, 0.4], [0.2, math.nan, 0.3]])


# Whatever the scores are

DICE = st.floats(0.0, 1.0, width=32)
TABLES = st.integers(2, 12).flatmap(
    lambda count: st.tuples(
        *(
            st.lists(st.tuples(*(DICE | st.just(math.nan) for _ in range(3))), min_size=count, max_size=count)
            for _ in range(2)
        )
    )
)


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_not_both_of_two_versions_beat_each_other(tables):
    first, second = scored_version("a", tables[0]), scored_version("b", tables[1])
    verdicts = {decide(first, second, FREE).verdict, decide(second, first, FREE).verdict}
    assert verdicts != {"promote"}


@settings(max_examples=40, deadline=None)
@given(TABLES)
def test_equal_scores_never_promote(tables):
    twin = decide(scored_version("b", tables[0]), scored_version("a", tables[0]), FREE)
    assert twin.verdict in ("cannot tell", "refuse")
    assert twin.verdict == "cannot tell" or np.isnan(np.asarray(tables[0])).all(axis=0).any()


@settings(max_examples=60, deadline=None)
@given(TABLES, st.tuples(*(st.floats(0.0, 1.0) for _ in range(4))), st.sampled_from([0, 1, 2, 3]), st.floats(0.0, 1.0))
def test_a_higher_floor_never_helps(tables, floors, which, raised):
    names = ("mean", "rib", "thoracic_process", "lumbar_lump")
    low = dict(zip(names, floors, strict=True))
    high = {**low, names[which]: max(low[names[which]], raised)}
    pair = scored_version("b", tables[0]), scored_version("a", tables[1])
    easy = decide(*pair, RegisterConfig(bootstrap_samples=100, floors=FloorsConfig(**low))).verdict
    hard = decide(*pair, RegisterConfig(bootstrap_samples=100, floors=FloorsConfig(**high))).verdict
    assert hard in (easy, "refuse")


@settings(max_examples=40, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_subjects_changes_no_verdict_of_clear_cases(tables, random):
    # Scans are kept in alphabetical order, so that the order of rows in a file is of no effect at all.
    rows = [
        ScanClassScore(
            name=f"s{index}", subject=f"s{index}", device="", class_name=item.name,
            dice=None if math.isnan(value) else value, iou=None, nsd=None, hd95=None, unit="px", truth_px=0,
            prediction_px=0,
        )
        for index, row in enumerate(tables[0])
        for item, value in zip(FOREGROUND, row, strict=True)
    ]  # fmt: skip
    shuffled = rows.copy()
    random.shuffle(shuffled)
    first, second = (
        ScoredVersion.from_rows(item, name="v", model_sha256="s", data_md5="d", split="test")
        for item in (rows, shuffled)
    )
    assert decide(first, None, FREE).to_dict() == decide(second, None, FREE).to_dict()
    np.testing.assert_array_equal(first.dice, second.dice)
