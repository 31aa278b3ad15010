"""Label maps of another program through our evaluator: the way to nnU-Net and back."""

import json
from pathlib import Path

import numpy as np
import pytest
from factories import add_case, draw_case, write_data_set, write_list

from sa2net import artifacts
from sa2net.__main__ import main
from sa2net.config import EvaluateConfig
from sa2net.data.layout import mask_path, read_cases
from sa2net.data.nnunet import export_nnunet
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.errors import DataError
from sa2net.evaluation.metrics import mean_over_classes, score_scan
from sa2net.steps import score_masks
from sa2net.steps.score_masks import LabelMap

CFG = EvaluateConfig(bootstrap_samples=100, overlays=1)


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data_set(tmp_path / "data", train=1, val=1, test=3)


def moved(data: Path, folder: Path, ending: str = ".png") -> Path:
    """Label maps of another program: the truth, one pixel lower."""
    for case in read_cases(data, ["test"]):
        write_png(folder / f"{case.name}{ending}", np.roll(read_mask(case.mask), 1, axis=0))
    return folder


def test_the_truth_itself_scores_one_on_its_way_through_nnunet(data: Path, tmp_path: Path) -> None:
    assert call("export-nnunet", "--data", data, "--out", tmp_path / "raw", "--quiet") == 0
    labels = tmp_path / "raw" / "Dataset501_Spine" / "labelsTs"
    options = ("--set", "evaluate.bootstrap_samples=100")
    assert call("score-masks", "--data", data, "--masks", labels, "--out", tmp_path / "out", *options, "--quiet") == 0
    scores = artifacts.read_scores(tmp_path / "out" / artifacts.SCORES)
    assert scores.mean.dice is not None
    assert scores.mean.dice.value == 1.0
    assert scores.mean.nsd is not None
    assert scores.mean.nsd.value == 1.0
    assert scores.inference == {"source": "label maps"}
    assert (scores.scans, scores.unit) == (3, "mm")


@pytest.mark.parametrize("ending", [".png", "_bone_3.png"])
def test_the_numbers_are_those_of_the_evaluator(data: Path, tmp_path: Path, ending: str) -> None:
    scores = score_masks.run(
        CFG, data=data, masks=moved(data, tmp_path / "masks", ending), out=tmp_path / "out", progress=False
    )
    means = []
    for case in read_cases(data, ["test"]):
        truth = read_mask(case.mask)
        found = score_scan(
            np.roll(truth, 1, axis=0), truth, spacing_mm=case.spacing_mm, tolerance_mm=1.0, tolerance_px=3.0
        )
        means.append(mean_over_classes(found, "dice"))
    assert scores.mean.dice is not None
    assert 0.5 < scores.mean.dice.value < 1
    assert scores.mean.dice.value == pytest.approx(np.mean(means), abs=1e-6)
    page = (tmp_path / "out" / artifacts.EVALUATION_REPORT).read_text(encoding="utf-8")
    assert "label maps of another program" in page
    assert "Calibration" not in page
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == artifacts.EVALUATION_FILES - {artifacts.RUN_JSON, artifacts.TIMING_JSON}


def test_equal_label_maps_have_one_identity(data: Path, tmp_path: Path) -> None:
    first = score_masks.run(CFG, data=data, masks=moved(data, tmp_path / "a"), out=tmp_path / "1", progress=False)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "plans.json").write_text(json.dumps({"path": "elsewhere"}))  # nnU-Net leaves such files
    again = score_masks.run(
        CFG, data=data, masks=moved(data, tmp_path / "b", "_bone_3.png"), out=tmp_path / "2", progress=False
    )
    assert first == again
    name = read_cases(data, ["test"])[1].name
    mask = read_mask(tmp_path / "a" / f"{name}.png")
    mask[0, 0] = 3 - mask[0, 0]
    write_png(tmp_path / "a" / f"{name}.png", mask)
    other = score_masks.run(CFG, data=data, masks=tmp_path / "a", out=tmp_path / "3", progress=False)
    assert other.model_sha256 != first.model_sha256


def test_missing_label_maps_are_named(data: Path, tmp_path: Path) -> None:
    masks = moved(data, tmp_path / "masks")
    (masks / "test_001.png").unlink()
    with pytest.raises(DataError, match=r"lacks the label maps of 1 of 3 scans: test_001\.png"):
        score_masks.run(CFG, data=data, masks=masks, out=tmp_path / "out", progress=False)
    write_png(masks / "test_002_bone_3.png", read_mask(masks / "test_002.png"))
    with pytest.raises(DataError, match=r"two label maps of test_002: test_002\.png and test_002_bone_3\.png"):
        score_masks.run(CFG, data=data, masks=masks, out=tmp_path / "out", progress=False)
    with pytest.raises(DataError, match="not a folder"):
        score_masks.run(CFG, data=data, masks=tmp_path / "nowhere", out=tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_scored_is_named(data: Path, tmp_path: Path) -> None:
    masks = moved(data, tmp_path / "masks")
    mask = read_mask(masks / "test_000.png")
    write_png(masks / "test_000.png", mask[1:])
    write_png(masks / "test_002.png", np.full_like(mask, 4))
    with pytest.raises(DataError, match=r"2 of 3 .*test_000\.png is 96 x 255 px, its scan 96 x 256.*label 4"):
        score_masks.run(CFG, data=data, masks=masks, out=tmp_path / "out", progress=False)
    (masks / "test_000.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"test_000\.png"):
        score_masks.run(CFG, data=data, masks=masks, out=tmp_path / "out", progress=False)


def test_a_name_that_looks_like_a_label_map_keeps_its_own(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", train=1, val=1, test=1, scans_csv=False)
    names = ["x", "x_bone_3", "Wirbelsäule (1)"]
    for index, name in enumerate(names):
        add_case(data, "test", name, *draw_case(index + 70))
    write_list(data, "test", names)
    masks = moved(data, tmp_path / "masks")
    (masks / "x.png").unlink()
    with pytest.raises(DataError, match=r"1 of 3 scans: x\.png"):
        score_masks.run(CFG, data=data, masks=masks, out=tmp_path / "out", progress=False)
    result = export_nnunet(data, tmp_path / "raw", progress=False)
    scores = score_masks.run(CFG, data=data, masks=result.folder / "labelsTs", out=tmp_path / "out", progress=False)
    assert scores.mean.dice is not None
    assert scores.mean.dice.value == 1.0


def test_a_label_map_is_sure_of_itself(data: Path) -> None:
    case = read_cases(data, ["test"])[0]
    given = LabelMap(read_mask(mask_path(data, "test", case.name)))
    assert given.probabilities.shape == (4, *read_scan(case.scan).shape)
    assert np.array_equal(given.probabilities.argmax(axis=0), given.mask)
    assert (given.probabilities.sum(axis=0) == 1).all()
