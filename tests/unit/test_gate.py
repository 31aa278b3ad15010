"""The gate: hand-worked decisions, and what must hold whatever the scores are."""

import dataclasses
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
from sa2net.registry.decision import MEAN, AngleAgreement, ScoredVersion
from sa2net.registry.gate import decide

CFG = RegisterConfig(bootstrap_samples=500)
NO_FLOORS = FloorsConfig(mean=0.0, rib=0.0, thoracic_process=0.0, lumbar_lump=0.0)
FREE = RegisterConfig(bootstrap_samples=200, floors=NO_FLOORS)
DICE = st.floats(0.0, 1.0, width=32)
TABLES = st.integers(2, 12).flatmap(
    lambda count: st.tuples(
        *(
            st.lists(st.tuples(*(DICE | st.just(math.nan) for _ in range(3))), min_size=count, max_size=count)
            for _ in range(2)
        )
    )
)


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


# Limits


def test_the_limit_of_calibration_acts_like_a_floor():
    at, above = (scored_version("version 2", table() + 0.03, calibration_error=error) for error in (0.1, 0.100001))
    champion = scored_version("version 1", table())
    held = decide(at, champion, CFG)
    assert held.verdict == "promote"
    assert check(held, "calibration", "").text == "calibration: expected error 0.100 is within the limit of 0.100."
    missed = decide(above, champion, CFG)
    assert missed.verdict == "refuse"
    assert not check(missed, "calibration", "").holds
    assert decide(above, None, CFG).verdict == "refuse"
    row = missed.table[-1]
    assert (row.subject, row.verdict, row.limit, row.floor) == ("calibration", "above the limit", 0.1, None)
    assert (row.champion, row.difference) == (0.01, pytest.approx(0.090001))


def test_an_unknown_calibration_does_not_hold():
    unknown = scored_version("version 1", table(), calibration_error=math.nan)
    decision = decide(unknown, None, CFG)
    assert decision.verdict == "refuse"
    assert "not known" in check(decision, "calibration", "").text
    assert "null" not in json.dumps(decision.to_dict(), allow_nan=False)


def test_speed_is_looked_at_only_where_it_has_a_limit():
    slow = scored_version("version 1", table(), seconds_per_scan=100.0)
    decision = decide(slow, None, CFG)
    assert decision.verdict == "promote"
    assert "speed" not in {reason.check for reason in decision.reasons} | {row.subject for row in decision.table}


@pytest.mark.parametrize(("seconds", "holds"), [(0.5, True), (0.500001, False), (math.nan, False)])
def test_the_limit_of_speed_depends_on_the_machine_and_says_so(seconds, holds):
    limited = CFG.model_copy(update={"max_seconds_per_scan": 0.5})
    decision = decide(scored_version("version 1", table(), seconds_per_scan=seconds), None, limited)
    assert decision.verdict == ("promote" if holds else "refuse")
    reason = check(decision, "speed", "")
    assert reason.holds == holds
    assert "machine" in reason.text
    if math.isnan(seconds):
        assert "dvc repro --force --single-item evaluate" in reason.text
    assert decision.table[-1].subject == "speed"


def test_a_champion_below_todays_limits_is_noted_and_blocks_nothing():
    champion = scored_version("version 1", table(level=0.6), calibration_error=0.3)
    decision = decide(scored_version("version 2", table(level=0.6) + 0.2), champion, CFG)
    assert decision.verdict == "promote"
    note = check(decision, "note", "")
    assert note.holds
    assert note.text.startswith("version 1, the champion, does not meet today's floors and limits itself: mean over")
    assert "0.300 is above the limit" in note.text
    sound = decide(scored_version("version 2", table() + 0.03), scored_version("version 1", table()), CFG)
    assert "note" not in {reason.check for reason in sound.reasons}


def test_the_unknown_speed_of_a_champion_is_no_note():
    limited = CFG.model_copy(update={"max_seconds_per_scan": 0.5})
    quick = scored_version("version 2", table() + 0.03, seconds_per_scan=0.1)
    decision = decide(quick, scored_version("version 1", table()), limited)
    assert decision.verdict == "promote"
    assert "note" not in {reason.check for reason in decision.reasons}
    slow = decide(quick, scored_version("version 1", table(), seconds_per_scan=0.9), limited)
    assert "0.900 s a scan is above the limit" in check(slow, "note", "").text


# Limits of angles


GOOD = AngleAgreement(mad=2.0, icc=0.97, refused=0.05)
ANGLES = {"max_angle_mad": 3.0, "min_angle_icc": 0.95, "max_angle_refused": 0.1}


def test_angles_are_looked_at_only_where_they_have_a_limit():
    bad = scored_version("version 1", table(), angles=AngleAgreement(mad=30.0, icc=0.0, refused=1.0))
    decision = decide(bad, None, CFG)
    assert decision.verdict == "promote"
    assert not {"angle_mad", "angle_icc", "angle_refused"} & {reason.check for reason in decision.reasons}
    assert [row.subject for row in decision.table] == [MEAN, *(item.name for item in FOREGROUND), "calibration"]


@pytest.mark.parametrize(
    ("setting", "limit", "field", "holds", "fails", "text"),
    [
        ("max_angle_mad", 3.0, "mad", 3.0, 3.000001, "mean absolute difference {:.3f} degrees is {} of 3.000."),
        ("min_angle_icc", 0.95, "icc", 0.95, 0.949999, "ICC(2,1) {:.3f} {} of 0.950."),
        ("max_angle_refused", 0.1, "refused", 0.1, 0.100001, "share of refused scans {:.3f} is {} of 0.100."),
        ("max_angle_refused", 0.0, "refused", 0.0, 0.01, "share of refused scans {:.3f} is {} of 0.000."),
    ],
)
def test_each_limit_of_angles_acts_like_a_floor(setting, limit, field, holds, fails, text):
    cfg = CFG.model_copy(update={setting: limit})
    words = ("reaches the floor", "is below the floor") if field == "icc" else ("within the limit", "above the limit")
    for value, verdict, word in ((holds, "promote", words[0]), (fails, "refuse", words[1])):
        decision = decide(scored_version("v", table(), angles=AngleAgreement(**{field: value})), None, cfg)
        assert decision.verdict == verdict
        reason = check(decision, f"angle_{field}", "")
        assert (reason.holds, reason.text) == (verdict == "promote", "angles: " + text.format(value, word))
        row = decision.table[-1]
        assert (row.subject, row.candidate, row.verdict) == (f"angle_{field}", value, word.removeprefix("is "))
        assert (row.floor, row.limit) == ((limit, None) if field == "icc" else (None, limit))


@pytest.mark.parametrize("setting", ANGLES)
def test_a_candidate_without_angles_is_refused_where_they_have_a_limit(setting):
    cfg = CFG.model_copy(update={setting: ANGLES[setting]})
    decision = decide(scored_version("v", table()), None, cfg)
    assert decision.verdict == "refuse"
    [reason] = [item for item in decision.reasons if not item.holds and item.check != "champion"]
    assert "is not known" in reason.text
    assert "angles.csv" in reason.text
    assert f"register.{setting} to {'1' if setting == 'max_angle_refused' else '0'}." in reason.text
    assert decision.table[-1].verdict == "not known"
    assert "null" not in json.dumps(decision.to_dict(), allow_nan=False)


def test_all_limits_of_angles_must_hold_for_a_challenger_too():
    cfg = CFG.model_copy(update=ANGLES)
    champion = scored_version("version 1", table(), angles=GOOD)
    held = decide(scored_version("version 2", table() + 0.03, angles=GOOD), champion, cfg)
    assert held.verdict == "promote"
    refuses = AngleAgreement(mad=1.0, icc=0.99, refused=0.5)  # good angles, of few scans
    assert decide(scored_version("version 2", table() + 0.03, angles=refuses), champion, cfg).verdict == "refuse"
    row = held.table[-3]
    assert (row.subject, row.candidate, row.champion, row.difference) == ("angle_mad", 2.0, 2.0, 0.0)


def test_unknown_angles_of_a_champion_are_no_note_and_bad_ones_are():
    cfg = CFG.model_copy(update=ANGLES)
    candidate = scored_version("version 2", table() + 0.03, angles=GOOD)
    unknown = decide(candidate, scored_version("version 1", table()), cfg)
    assert unknown.verdict == "promote"
    assert "note" not in {reason.check for reason in unknown.reasons}
    bad = decide(candidate, scored_version("version 1", table(), angles=AngleAgreement(mad=9.0)), cfg)
    assert "9.000 degrees is above the limit" in check(bad, "note", "").text


def test_angles_of_phantoms_say_so():
    version = dataclasses.replace(scored_version("v", table(), angles=GOOD), phantom=True)
    decision = decide(version, None, CFG.model_copy(update=ANGLES))
    assert check(decision, "angle_mad", "").text.startswith("angles (phantoms): mean absolute difference 2.000")


def test_settings_of_angles_may_come_as_other_numbers():
    cfg = RegisterConfig.model_validate({"max_angle_mad": 3, "min_angle_icc": 1, "max_angle_refused": 0})
    assert (cfg.max_angle_mad, cfg.min_angle_icc, cfg.max_angle_refused) == (3.0, 1.0, 0.0)


# What was rolled back


def test_what_was_rolled_back_is_promoted_by_a_person_alone():
    better, champion = scored_version("version 7", table() + 0.03), scored_version("version 1", table())
    assert decide(better, champion, CFG).verdict == "promote"
    decision = decide(better, champion, CFG, withdrawn=True)
    assert decision.verdict == "refuse"
    assert decision.reasons[0].check == "withdrawn"
    assert decision.reasons[0].text.endswith("a person may promote it: sa2net promote sa2net 7.")
    assert check(decision, "superior", MEAN).holds  # the comparison is there all the same
    assert decide(better, None, CFG, withdrawn=True).verdict == "refuse"


def test_what_was_rolled_back_needs_no_new_scores_of_the_champion():
    candidate, champion = scored_version("version 7", table()), scored_version("version 1", table(), data="data-2")
    decision = decide(candidate, champion, CFG, withdrawn=True)
    assert decision.verdict == "refuse"
    assert not check(decision, "data", "").holds


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


def test_a_class_on_too_few_subjects_decides_nothing():
    old, new = table(), table() + 0.03
    old[:-5, 2], new[:-5, 2] = math.nan, math.nan
    decision = decide(scored_version("version 2", new), scored_version("version 1", old), CFG)
    assert decision.verdict == "cannot tell"
    said = check(decision, "subjects", "lumbar_lump").text
    assert said == "lumbar lump: 5 subjects are too few for 95% confidence, which needs at least 6."


def test_too_few_resamples_are_named_as_such():
    # 100 resamples of 20 subjects: no p-value below 0.0175, and Holm asks for 0.0167 first.
    few = CFG.model_copy(update={"bootstrap_samples": 100})
    pair = scored_version("version 2", table() + 0.03), scored_version("version 1", table())
    decision = decide(*pair, few)
    assert decision.verdict == "cannot tell"
    assert "raise register.bootstrap_samples" in check(decision, "resamples", "").text
    assert decision.subjects_needed is None
    assert "undecided" not in {reason.check for reason in decision.reasons}


def test_a_class_that_the_candidate_invents_counts_against_it():
    # Nobody has a lumbar lump on 12 of 20 scans; the candidate finds one there, the champion rightly none.
    old = table()
    old[:12, 2] = math.nan
    new = old + 0.03
    new[:12, 2] = 0.0
    decision = decide(
        scored_version("version 2", new), scored_version("version 1", old), RegisterConfig(floors=NO_FLOORS)
    )
    row = next(row for row in decision.table if row.subject == "lumbar_lump")
    assert row.difference == pytest.approx((12 * -1.0 + 8 * 0.03) / 20, abs=1e-6)
    assert (row.verdict, decision.verdict) == ("worse", "refuse")
    mean = next(row for row in decision.table if row.subject == MEAN)
    expected = [(0.03 + 0.03 - 1.0) / 3] * 12 + [0.03] * 8
    assert mean.difference == pytest.approx(np.mean(expected), abs=1e-6)
    swapped = decide(
        scored_version("version 2", old), scored_version("version 1", new), RegisterConfig(floors=NO_FLOORS)
    )
    assert next(row for row in swapped.table if row.subject == "lumbar_lump").difference == -row.difference


def test_each_line_says_what_it_means():
    change = np.array([0.10, 0.10, -0.05])
    decision = decide(scored_version("version 2", table() + change), scored_version("version 1", table()), CFG)
    words = {row.subject: row.verdict for row in decision.table}
    assert words == {
        MEAN: "better", "rib": "not worse", "thoracic_process": "not worse", "lumbar_lump": "worse",
        "calibration": "within the limit",
    }  # fmt: skip
    low = decide(
        scored_version("version 2", table() + np.array([0.1, 0.1, -0.2])), scored_version("version 1", table()), CFG
    )
    assert {row.subject: row.verdict for row in low.table}["lumbar_lump"] == "below the floor"
    few = decide(scored_version("b", table(5) + 0.1), scored_version("a", table(5)), CFG)
    assert [row.verdict for row in few.table[:4]] == ["cannot tell"] * 4


def test_a_loss_in_one_of_many_classes_is_no_refusal_by_chance():
    # Each class alone is shown worse than the margin in 5 % of cases at -margin; Holm keeps it at 5 % for all three.
    rng = np.random.default_rng(11)
    champion, refused, alone = scored_version("a", table(30)), 0, 0
    for _ in range(300):
        change = rng.normal(-CFG.margin, 0.03, (30, 3))
        change[:, 0] += 3 * CFG.margin  # the mean is no worse, two classes are exactly at the margin
        decision = decide(scored_version("b", table(30) + change), champion, FREE)
        rows = {row.subject: row for row in decision.table}
        refused += decision.verdict == "refuse"
        alone += any(rows[name].upper < -CFG.margin for name in ("thoracic_process", "lumbar_lump"))
    assert alone / 300 > 0.07
    assert refused / 300 < 0.065


def test_same_weights_are_recognised_whatever_the_scores():
    decision = decide(scored_version("b", table() + 0.1, sha="x"), scored_version("a", table(), sha="x"), CFG)
    assert decision.verdict == "cannot tell"
    assert decision.subjects_needed is None
    assert check(decision, "identity", "").text == "b has the very weights of the champion, a: the champion stays."
    assert {row.verdict for row in decision.table} == {"same weights"}


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


@pytest.mark.parametrize(
    ("truth", "most"), [((0.0, 0.0, 0.0), 0.08), ((0.04, 0.04, -0.02), 0.08), ((-0.01,) * 3, 0.01)]
)
def test_chance_promotes_no_more_often_than_the_confidence_allows(truth, most):
    # A tie in all classes; two classes better and one worse by exactly the margin; a little worse in all.
    rng = np.random.default_rng(21)
    promoted = 0
    for _ in range(400):
        champion = rng.normal(0.85, 0.04, (12, 3))
        change = truth + 0.02 * (rng.normal(size=(12, 1)) + rng.normal(size=(12, 3)))
        pair = scored_version("b", champion + change), scored_version("a", champion)
        promoted += decide(*pair, CFG).verdict == "promote"
    assert promoted / 400 <= most
    assert promoted > 0 or most < 0.05


@settings(max_examples=60, deadline=None)
@given(TABLES)
def test_what_would_tell_is_more_than_there_is(tables):
    decision = decide(scored_version("a", tables[0]), scored_version("b", tables[1]), FREE)
    if decision.subjects_needed is not None:
        assert decision.verdict == "cannot tell"
        assert decision.subjects_needed > decision.subjects
        assert f"about {decision.subjects_needed} subjects" in check(decision, "undecided", "").text


# The document


def test_the_decision_is_a_json_document_and_the_same_each_time():
    pair = scored_version("version 2", table() + 0.01), scored_version("version 1", table())
    first, second = (json.dumps(decide(*pair, CFG).to_dict(), allow_nan=False) for _ in range(2))
    assert first == second
    document = json.loads(first)
    assert document["schema_version"] == 2
    assert [row["subject"] for row in document["table"]] == [MEAN, *(item.name for item in FOREGROUND), "calibration"]
    assert all(row["verdict"] for row in document["table"])
    assert (document["confidence"], document["margin"], document["phantom"]) == (0.95, 0.02, False)
    assert document["champion_sha256"] == "sha of version 1"
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
