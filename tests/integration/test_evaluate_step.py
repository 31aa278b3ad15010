"""The evaluate step with a real network: every file it promises, equal for equal runs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sa2net import artifacts
from sa2net.anatomy import CLASS_NAMES, IGNORE_INDEX
from sa2net.artifacts import DataBounds, ModelInfo, Normalisation, Range, folder_sha256, read_json, write_model
from sa2net.config import Config, EvaluateConfig, ModelConfig
from sa2net.data.layout import read_cases
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.data.store import data_md5
from sa2net.errors import DataError
from sa2net.evaluation.metrics import mean_over_classes, score_scan
from sa2net.inference.predictor import Predictor
from sa2net.model.network import build
from sa2net.steps import evaluate

CFG = EvaluateConfig(bootstrap_samples=100, overlays=1, flip=False, device="cpu", precision="float32", threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder with untrained weights."""
    folder = tmp_path_factory.mktemp("evaluate") / "model"
    settings = ModelConfig(channels=16)
    torch.manual_seed(0)
    info = ModelInfo(
        model=settings,
        class_names=CLASS_NAMES,
        normalisation=Normalisation(mean=120.0, std=60.0),
        sweep_width=64,
        bounds=DataBounds(sweep_width=Range(low=1, high=1000), area={}, grey={}),
        data_md5="0" * 32 + ".dir",
        params=Config().to_dict(),
    )
    write_model(folder, info, build(settings).state_dict())
    return folder


@pytest.fixture(scope="module")
def evaluated(model, shared_data_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluated") / "evaluation"
    return evaluate.run(CFG, data=shared_data_root, model=model, out=out, progress=False)


def test_step_writes_what_it_promises(evaluated, model, shared_data_root):
    written = {path.relative_to(evaluated.out).as_posix() for path in evaluated.out.rglob("*") if path.is_file()}
    fixed = {
        artifacts.SCORES,
        artifacts.PER_SCAN,
        artifacts.CONFUSION,
        artifacts.DICE_PER_CLASS,
        artifacts.RELIABILITY,
        artifacts.SUBGROUPS,
        artifacts.ANGLES,
        artifacts.EVALUATION_REPORT,
        artifacts.TIMING_JSON,
        artifacts.RUN_JSON,
    }
    assert fixed <= written
    assert all(name.startswith("overlays/") and name.endswith(".png") for name in written - fixed)
    scores = artifacts.read_scores(evaluated.out / artifacts.SCORES)
    assert scores == evaluated.scores
    assert (scores.split, scores.scans, scores.subjects, scores.unit) == ("test", 3, 3, "mm")
    assert scores.data_md5 == data_md5(shared_data_root)
    assert scores.model_sha256 == folder_sha256(model)
    assert not list(evaluated.out.parent.glob(".*"))  # nothing half-written, no masks left behind
    timing = read_json(evaluated.out / artifacts.TIMING_JSON)
    assert timing["seconds_per_scan"]["median"] == evaluated.seconds_per_scan > 0
    assert (timing["device"], timing["threads"]) == ("cpu", 1)


def test_scores_are_those_of_the_predictor(evaluated, model, shared_data_root):
    predictor = Predictor.load(model, device="cpu", precision="float32", threads=1)
    rows = artifacts.read_per_scan(evaluated.out / artifacts.PER_SCAN)
    means, valid = [], 0
    for index, case in enumerate(read_cases(shared_data_root, ["test"])):
        truth = read_mask(case.mask)
        expected = score_scan(
            predictor(read_scan(case.scan), case.spacing_mm),
            truth,
            spacing_mm=case.spacing_mm,
            tolerance_mm=CFG.nsd_tolerance_mm,
            tolerance_px=CFG.nsd_tolerance_px,
        )
        for row, score in zip(rows[3 * index : 3 * index + 3], expected, strict=True):
            assert (row.name, row.class_name, row.truth_px) == (case.name, score.name, score.truth_px)
            assert row.dice == (None if math.isnan(score.dice) else pytest.approx(score.dice, abs=1e-6))
            assert row.hd95 == (None if math.isnan(score.hd95) else pytest.approx(score.hd95, abs=1e-5))
        means.append(mean_over_classes(expected, "dice"))
        valid += int((truth != IGNORE_INDEX).sum())
    assert evaluated.scores.mean.dice.value == pytest.approx(np.nanmean(means), abs=1e-6)
    confusion = (evaluated.out / artifacts.CONFUSION).read_text(encoding="utf-8").splitlines()[1:]
    assert sum(int(line.rsplit(",", 1)[1]) for line in confusion) == valid


def test_equal_runs_write_equal_bytes_except_times_and_run_ids(evaluated, model, shared_data_root, tmp_path):
    again = evaluate.run(CFG, data=shared_data_root, model=model, out=tmp_path / "elsewhere", progress=False)
    one, two = (
        {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name not in (artifacts.TIMING_JSON, artifacts.RUN_JSON)
        }
        for folder in (evaluated.out, again.out)
    )
    assert one == two


def test_another_split_and_a_folder_that_is_there_already(model, shared_data_root, tmp_path):
    out = tmp_path / "evaluation"
    stale = out / artifacts.OVERLAYS / "stale.png"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    cfg = CFG.model_copy(update={"split": "val", "overlays": 0, "mode": "sliding", "flip": True})
    result = evaluate.run(cfg, data=shared_data_root, model=model, out=out, progress=False)
    assert (result.scores.split, result.scores.scans) == ("val", 2)
    assert result.scores.inference == {"mode": "sliding", "scales": [1.0], "flip": True}
    assert list((out / artifacts.OVERLAYS).iterdir()) == []  # the folder is there: DVC expects it


def test_a_folder_with_something_else_in_it_is_refused_and_kept(model, data_root):
    with pytest.raises(DataError, match="would be replaced"):
        evaluate.run(CFG, data=data_root, model=model, out=data_root, progress=False)
    assert read_cases(data_root, ["test"])[0].scan.is_file()


def test_ignored_pixels_and_missing_classes(model, data_root, tmp_path):
    case = read_cases(data_root, ["test"])[0]
    truth = read_mask(case.mask)
    truth[:40] = IGNORE_INDEX
    truth[truth == 3] = 0
    write_png(case.mask, truth)
    result = evaluate.run(CFG, data=data_root, model=model, out=tmp_path / "out", progress=False)
    text = (result.out / artifacts.SCORES).read_text(encoding="utf-8")
    assert json.loads(text)["scans"] == 2
    lump = result.scores.per_class["lumbar_lump"]
    assert lump.scored + lump.missed == 1  # the second scan; the first has none in its truth
    assert lump.absent + lump.spurious == 1


def test_empty_split_is_refused_with_a_cure_and_leaves_what_was_there(model, data_root, tmp_path):
    (data_root / "test.txt").write_text("\n", encoding="utf-8")
    out = tmp_path / "evaluation"
    out.mkdir()
    (out / "scores.json").write_text("{}")
    with pytest.raises(DataError, match=r"split test.*test\.txt names no scan.*evaluate\.split"):
        evaluate.run(CFG, data=data_root, model=model, out=out, progress=False)
    with pytest.raises(DataError, match="split val"):  # no val list
        evaluate.run(CFG.model_copy(update={"split": "val"}), data=data_root, model=model, out=out, progress=False)
    assert (out / "scores.json").read_text() == "{}"


def test_bad_scan_leaves_the_old_evaluation(model, data_root, tmp_path):
    out = tmp_path / "evaluation"
    out.mkdir()
    (out / "scores.json").write_text("{}")
    case = read_cases(data_root, ["test"])[1]
    case.scan.write_bytes(case.scan.read_bytes()[:200])
    with pytest.raises(DataError, match=r"test_001\.png"):
        evaluate.run(CFG, data=data_root, model=model, out=out, progress=False)
    assert [path.name for path in out.iterdir()] == ["scores.json"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_no_model_folder(data_root, tmp_path):
    with pytest.raises(DataError, match=r"model\.json"):
        evaluate.run(CFG, data=data_root, model=tmp_path, out=tmp_path / "out", progress=False)
