"""Two models side by side: from kept scores, or scored now; the page, the document and the terminal."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from factories import write_data_set
from registry_cases import write_evaluation, write_model_folder

from sa2net.artifacts import folder_sha256, read_json
from sa2net.cli import compare as verb
from sa2net.cli.options import cli
from sa2net.config import EvaluateConfig
from sa2net.data.layout import read_cases
from sa2net.data.pictures import read_mask, read_scan
from sa2net.errors import ConfigError, DataError, StorageError
from sa2net.evaluation.metrics import score_scan
from sa2net.inference.predictor import Predictor
from sa2net.registry import scored, store
from sa2net.registry.scored import Evaluation
from sa2net.registry.versions import Version, register_version, set_version_tags
from sa2net.steps import compare, evaluate

QUICK = EvaluateConfig(bootstrap_samples=200, overlays=0, threads=1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("SA2NET_VAR", str(folder / "var"))
        yield folder


@pytest.fixture(scope="module")
def models(place: Path) -> list[Path]:
    return [write_model_folder(place / f"network-{seed}", seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    return write_data_set(place / "data", train=1, test=7)


def keep(model: Path, evaluation: Path | None, name: str) -> Version:
    """Make a model folder a version that carries an evaluation."""
    client = store.connect()
    run = client.create_run(store.experiment_id(client)).info.run_id
    version = register_version(client, model, name=name, run_id=run, tags={})
    if evaluation is not None:
        read = Evaluation.read(evaluation, model_sha256=version.model_sha256)
        set_version_tags(client, version, scored.keep_evaluation(client, run, read, "evaluation"))
    return version


def test_folders_are_scored_on_the_data_and_pictured(place: Path, models: list[Path], data: Path, tmp_path: Path):
    result = compare.run(
        QUICK, first=str(models[0]), second=str(models[1]), data=data, out=tmp_path / "out", pictures=3, progress=False
    )
    document = read_json(tmp_path / "out" / "compare.json")
    assert document == result.document
    cases = read_cases(data, ["test"])
    expected = []
    for model in models:
        predictor = Predictor.for_settings(model, QUICK)
        expected.append(
            {
                case.name: score_scan(
                    predictor(read_scan(case.scan), case.spacing_mm), read_mask(case.mask),
                    spacing_mm=case.spacing_mm, tolerance_mm=1.0, tolerance_px=3.0,
                )
                for case in cases
            }
        )  # fmt: skip
    rows = {row["name"]: row for row in document["scans"]}
    assert set(rows) == {case.name for case in cases}
    for name, row in rows.items():
        for side, scores in zip(("first", "second"), expected, strict=True):
            assert row["classes"]["rib"][side] == pytest.approx(scores[name][0].dice, abs=1e-6)
            assert row[side] == pytest.approx(np.mean([score.dice for score in scores[name]]), abs=1e-6)
        assert row["change"] == pytest.approx(row["second"] - row["first"], abs=2e-6)
    changes = [abs(row["change"]) for row in document["scans"]]
    assert changes == sorted(changes, reverse=True)
    mean = document["table"][0]
    assert mean["difference"]["value"] == pytest.approx(np.mean([row["change"] for row in rows.values()]), abs=2e-6)
    assert mean["second"]["value"] - mean["first"]["value"] == pytest.approx(mean["difference"]["value"], abs=2e-6)
    page = result.page.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == result.pictures == 3
    assert all(f"<b>{row['name']}</b>" in page for row in document["scans"][:3])
    assert "no scores are kept of" in document["scored"]
    for content in (page, (tmp_path / "out" / "compare.json").read_text()):
        assert str(place) not in content


def test_kept_scores_need_neither_data_nor_prediction(place: Path, models: list[Path], tmp_path: Path, monkeypatch):
    dice = np.clip(np.random.default_rng(0).normal(0.8, 0.03, (30, 3)), 0.0, 1.0)
    for index, table in enumerate((dice, dice + np.array([0.05, 0.0, 0.0]))):
        keep(models[index], write_evaluation(tmp_path / f"e{index}", models[index], table), "kept")
    monkeypatch.setattr(Predictor, "load", None)  # would fail
    cfg = EvaluateConfig(bootstrap_samples=2000)
    result = compare.run(
        cfg, first="models:/kept/1", second="models:/kept/2", data=None, out=tmp_path / "out", progress=False
    )
    rows = {row["subject"]: row for row in result.document["table"]}
    assert rows["rib"]["difference"]["value"] == pytest.approx(0.05)
    assert rows["rib"]["says"] == rows["mean"]["says"] == "B better"
    assert rows["lumbar_lump"]["says"] == "no difference shown"
    assert result.document["first"]["label"] == "kept 1"
    assert result.document["phantom"] is True
    assert result.pictures == 0
    assert "Scores that the registry keeps" in result.page.read_text(encoding="utf-8")
    swapped = compare.run(
        cfg, first="models:/kept/2", second="models:/kept/1", data=None, out=tmp_path / "out", progress=False
    )
    other = {row["subject"]: row for row in swapped.document["table"]}
    assert other["rib"]["difference"]["value"] == -rows["rib"]["difference"]["value"]
    assert other["rib"]["says"] == "A better"
    assert other["rib"]["p_value"] == rows["rib"]["p_value"]


def test_kept_scores_of_these_data_are_used_and_scans_are_drawn(models: list[Path], data: Path, tmp_path: Path, caplog):
    for index, model in enumerate(models):
        cfg = QUICK.model_copy(update={"flip": False})  # drawn as they were scored, not as today's settings say
        evaluate.score_model(cfg, data=data, model=model, out=tmp_path / f"e{index}", progress=False)
        keep(model, tmp_path / f"e{index}", "same")
    result = compare.run(
        QUICK, first="models:/same/1", second="models:/same/2", data=data, out=tmp_path / "out", pictures=2,
        progress=False,
    )  # fmt: skip
    assert result.pictures == 2
    assert result.document["inference"]["flip"] is False
    assert "scored now" not in caplog.text
    kept = {
        row.name: row.dice for row in scored.read_per_scan(tmp_path / "e0" / "per_scan.csv") if row.class_name == "rib"
    }
    assert {row["name"]: row["classes"]["rib"]["first"] for row in result.document["scans"]} == kept


def test_scores_of_other_data_are_said_and_made_anew(models: list[Path], data: Path, tmp_path: Path):
    dice = np.full((4, 3), 0.9)
    keep(models[0], write_evaluation(tmp_path / "e0", models[0], dice, data_md5="1" * 32), "other")
    keep(models[1], write_evaluation(tmp_path / "e1", models[1], dice, data_md5="2" * 32), "other")
    arguments = {"first": "models:/other/1", "second": "models:/other/2", "out": tmp_path / "out", "progress": False}
    with pytest.raises(ConfigError, match=r"11111111, other 2 on 22222222\. Give a data set with --data"):
        compare.run(QUICK, data=None, **arguments)
    assert not (tmp_path / "out").exists()
    result = compare.run(QUICK, data=data, pictures=0, **arguments)
    assert "scored on the data set 11111111" in result.document["scored"]
    assert result.document["data_md5"] not in ("1" * 32, "2" * 32)
    assert result.document["table"][0]["first"]["value"] < 0.9

    # Kept scores that fit each other, but not the data that were given.
    keep(models[0], write_evaluation(tmp_path / "e2", models[0], dice), "fits")
    keep(models[1], write_evaluation(tmp_path / "e3", models[1], dice), "fits")
    arguments |= {"first": "models:/fits/1", "second": "models:/fits/2"}
    assert (
        "of another data set than --data" in compare.run(QUICK, data=data, pictures=0, **arguments).document["scored"]
    )


def test_a_version_without_scores_needs_data(models: list[Path], tmp_path: Path):
    keep(models[0], None, "bare")
    with pytest.raises(ConfigError, match="no scores are kept of bare 1 and model"):
        compare.run(QUICK, first="models:/bare/1", second=str(models[1]), data=None, out=tmp_path / "out")
    with pytest.raises(StorageError, match="there is no"):
        compare.run(QUICK, first="models:/bare/7", second=str(models[1]), data=None, out=tmp_path / "out")


def test_the_same_weights_do_not_differ(models: list[Path], data: Path, tmp_path: Path):
    result = compare.run(
        QUICK, first=str(models[0]), second=str(models[0]), data=data, out=tmp_path / "out", progress=False
    )
    assert {row["says"] for row in result.document["table"]} == {"no difference shown"}
    assert result.pictures == 0  # no scan changed
    assert "The same weights." in result.page.read_text(encoding="utf-8")


def test_a_folder_with_other_files_is_not_replaced(models: list[Path], tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"mine\.txt"):
        compare.run(QUICK, first=str(models[0]), second=str(models[1]), data=None, out=tmp_path)


def test_the_verb_prints_a_table(models: list[Path], data: Path, tmp_path: Path):
    assert verb.compare.name == "compare"
    out = tmp_path / "out"
    settings = ["--set", "evaluate.bootstrap_samples=200", "--set", "evaluate.threads=1"]
    command = ["compare", str(models[0]), str(models[1]), "--data", str(data), "--out", str(out), *settings]
    done = CliRunner().invoke(cli, [*command, "--pictures", "1"], catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "A: model {}   B: model {}".format(*(folder_sha256(model)[:8] for model in models))
    assert "test split, 7 scans of 7 subjects" in lines[1]
    assert [line.split()[0] for line in lines[3:7]] == ["mean", "rib", "thoracic_process", "lumbar_lump"]
    assert lines[-1] == f"page: {out / 'compare.html'}"
    quiet = CliRunner().invoke(cli, [*command, "--pictures", "0", "--quiet"], catch_exceptions=False)
    assert quiet.stdout == ""
