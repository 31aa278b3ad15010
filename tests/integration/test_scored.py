"""Decisions and evaluations as the registry keeps them, and what identifies a decision."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from registry_cases import write_evaluation, write_model_folder

from sa2net.artifacts import SCORES, AngleScores, Estimate, folder_sha256, write_json, write_scores
from sa2net.config import FloorsConfig, RegisterConfig
from sa2net.errors import DataError
from sa2net.registry import scored, store
from sa2net.registry.gate import decide
from sa2net.registry.scored import Evaluation
from sa2net.registry.versions import Version, find_number, register_version, set_version_tags

DICE = np.clip(np.random.default_rng(0).normal(0.85, 0.03, (12, 3)), 0.0, 1.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("SA2NET_VAR", str(folder / "var"))
        yield folder


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return write_model_folder(place / "network")


@pytest.fixture
def evaluation(model: Path, tmp_path: Path) -> Evaluation:
    folder = write_evaluation(tmp_path / "evaluation", model, DICE)
    return Evaluation.read(folder, model_sha256=folder_sha256(model))


def write_timing(evaluation: Evaluation, seconds: object) -> None:
    write_json(evaluation.folder / "timing.json", {"schema_version": 1, "seconds_per_scan": {"median": seconds}})


def fresh(model: Path, name: str) -> tuple[MlflowClient, Version, str]:
    client = store.connect()
    run = client.create_run(store.experiment_id(client)).info.run_id
    return client, register_version(client, model, name=name, run_id=run, tags={}), run


def again(client: MlflowClient, version: Version) -> Version:
    found = find_number(client, version.name, version.number)
    assert found is not None
    return found


def test_calibration_speed_and_phantoms_reach_the_gate(evaluation: Evaluation):
    version = evaluation.of("version 1")
    assert (version.calibration_error, version.phantom) == (0.01, True)
    assert math.isnan(version.seconds_per_scan)
    write_timing(evaluation, 0.37)
    assert evaluation.of("version 1").seconds_per_scan == 0.37
    assert decide(version, None, RegisterConfig()).phantom


def test_angles_reach_the_gate(evaluation: Evaluation):
    before = evaluation.of("version 1").angles
    assert all(math.isnan(value) for value in (before.mad, before.icc, before.refused))
    found = AngleScores(scans=9, compared=8, pairs=6, refused=2, refused_share=0.25, missed=0, extra=0)
    for more, known in (({}, "refused"), ({"mad": Estimate(value=2.5)}, "mad"), ({"icc": Estimate(value=0.9)}, "icc")):
        scores = evaluation.scores.model_copy(update={"angles": found.model_copy(update=more)})
        write_scores(evaluation.folder / SCORES, scores)
        angles = Evaluation.read(evaluation.folder, model_sha256=scores.model_sha256).of("version 1").angles
        assert angles.refused == 0.25
        assert not math.isnan(getattr(angles, known))
    decision = decide(
        Evaluation.read(evaluation.folder, model_sha256=scores.model_sha256).of("version 1"),
        None,
        RegisterConfig(min_angle_icc=0.95),
    )
    both = found.model_copy(update={"mad": Estimate(value=2.51), "icc": Estimate(value=0.9)})
    scored_evaluation = Evaluation(evaluation.folder, evaluation.scores.model_copy(update={"angles": both}))
    tags = scored_evaluation.tags()
    assert (tags["angle_mad"], tags["angle_icc"], tags["angle_refused"]) == ("2.5100", "0.9000", "0.2500")
    assert not [name for name in evaluation.tags() if name.startswith("angle")]
    text = scored.describe(scored_evaluation, decision, "")
    assert (
        "Angles of 6 phantoms: mean absolute difference 2.5 degrees, ICC(2,1) 0.900; "
        "2 of 8 with a curve were refused an angle."
    ) in text
    assert "Angles" not in scored.describe(evaluation, decide(evaluation.of("v"), None, RegisterConfig()), "")
    assert "angles (phantoms): ICC(2,1) 0.900 is below the floor of 0.950." in [item.text for item in decision.reasons]


@pytest.mark.parametrize("content", ["{}", '{"seconds_per_scan": 3}', '{"seconds_per_scan": {"median": "quick"}}', "["])
def test_a_time_that_cannot_be_read_is_an_error(evaluation: Evaluation, content: str):
    (evaluation.folder / "timing.json").write_text(content)
    with pytest.raises(DataError, match=r"timing\.json"):
        evaluation.seconds_per_scan()


def test_who_may_carry_it_out_is_no_part_of_a_decision(evaluation: Evaluation):
    key = scored.decision_key(evaluation, RegisterConfig())
    for change in (
        {"promote": False},
        {"require_approval": True},
        {"approvers": ("a:" + "A" * 60,)},
        {"signers": ("a:" + "A" * 60,)},
    ):
        assert scored.decision_key(evaluation, RegisterConfig(**change)) == key, change
    for change in (
        {"margin": 0.03},
        {"max_calibration_error": 0.2},
        {"max_seconds_per_scan": 1.0},
        {"max_angle_mad": 3.0},
        {"min_angle_icc": 0.9},
        {"max_angle_refused": 0.2},
        {"floors": FloorsConfig(rib=0.1)},
        {"seed": 1},
        {"name": "other"},
    ):
        assert scored.decision_key(evaluation, RegisterConfig(**change)) != key, change


def test_the_time_of_a_scan_is_part_of_it_only_where_it_has_a_limit(evaluation: Evaluation):
    free, limited = RegisterConfig(), RegisterConfig(max_seconds_per_scan=1.0)
    before = [scored.decision_key(evaluation, cfg) for cfg in (free, limited)]
    write_timing(evaluation, 0.37)
    after = [scored.decision_key(evaluation, cfg) for cfg in (free, limited)]
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_decision_is_kept_in_its_run_and_outlives_it(
    place: Path, model: Path, evaluation: Evaluation, tmp_path: Path
):
    client, version, run = fresh(model, "outlives")
    decision = decide(evaluation.of("version 1"), None, RegisterConfig())
    document = {**decision.to_dict(), "name": version.name, "version": 1}
    tags = scored.keep_decision(client, run, document, "key 1")
    assert {item.path for item in client.list_artifacts(run)} >= {"decision.json", "decision.html"}
    page = Path(client.download_artifacts(run, "decision.html", str(tmp_path))).read_text(encoding="utf-8")
    assert "reaches the floor" in page
    assert list(tags)[-1] == scored.DECISION_KEY_TAG
    assert len(tags[scored.DECISION_TAG]) < 20_000  # MLflow takes 100 000 characters
    set_version_tags(client, version, tags)
    assert scored.kept_decision(client, again(client, version), "key 1") == document
    assert scored.kept_decision(client, again(client, version), "key 2") is None

    uri = client.get_run(run).info.artifact_uri
    shutil.rmtree(Path(uri.removeprefix("file://")))
    assert scored.kept_decision(client, again(client, version), "key 1") == document
    client.set_model_version_tag(version.name, "1", scored.DECISION_TAG, "no JSON")
    assert scored.kept_decision(client, again(client, version), "key 1") is None


def test_the_longest_decision_fits_into_a_tag(evaluation: Evaluation):
    noise = np.random.default_rng(3).normal(0.0, 0.02, DICE.shape)
    champion = evaluation.of("version 123456")
    object.__setattr__(champion, "dice", DICE - 0.3 + noise)
    object.__setattr__(champion, "model_sha256", "f" * 64)
    cfg = RegisterConfig(max_seconds_per_scan=1.0, max_angle_mad=3.0, min_angle_icc=0.9, max_angle_refused=0.1)
    document = decide(evaluation.of("version 123457"), champion, cfg, withdrawn=True).to_dict()
    assert {reason["check"] for reason in document["reasons"]} >= {
        "withdrawn",
        "speed",
        "angle_icc",
        "note",
        "superior",
    }
    assert len(scored.decision_tags(document, "r" * 32, "k" * 64)[scored.DECISION_TAG]) < 20_000


def test_a_decision_of_schema_1_is_read_as_it_was(model: Path):
    client, version, run = fresh(model, "old")
    old = {"schema_version": 1, "verdict": "same weights", "reasons": [], "table": []}
    client.log_dict(run, old, "decision.json")
    set_version_tags(client, version, {scored.DECISION_RUN_TAG: run, scored.DECISION_KEY_TAG: "key"})
    assert scored.kept_decision(client, again(client, version), "key") == old


@pytest.mark.parametrize("timed", [True, False])
def test_times_are_kept_with_an_evaluation_where_they_are(model: Path, evaluation: Evaluation, tmp_path: Path, timed):
    client, version, run = fresh(model, f"times-{timed}")
    if timed:
        write_timing(evaluation, 0.37)
    set_version_tags(client, version, scored.keep_evaluation(client, run, evaluation, "evaluation"))
    kept = scored.kept_evaluation(client, again(client, version), tmp_path)
    assert kept is not None
    assert json.dumps(kept.of("v").seconds_per_scan) == ("0.37" if timed else "NaN")
    np.testing.assert_allclose(kept.of("v").dice, DICE, atol=1e-6)
