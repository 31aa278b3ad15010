"""The line on the one public scan: read, predicted, scored and reported, whatever the numbers are."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from random_model import write_random_model

from sa2net.config import EvaluateConfig
from sa2net.data.layout import list_path, mask_path, scan_path
from sa2net.data.pictures import read_scan
from sa2net.inference.predictor import Predictor
from sa2net.steps import evaluate

pytestmark = pytest.mark.skipif("SA2NET_REAL_SCAN" not in os.environ, reason="SA2NET_REAL_SCAN names no folder")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose test split is the one scan."""
    folder, source = tmp_path_factory.mktemp("real"), Path(os.environ["SA2NET_REAL_SCAN"])
    for target, name in (
        (scan_path(folder, "test", "demo"), "demo.png"),
        (mask_path(folder, "test", "demo"), "demo_bone_3.png"),
    ):
        target.parent.mkdir(parents=True)
        shutil.copyfile(source / name, target)
    list_path(folder, "test").write_text("demo\n", encoding="utf-8")
    return folder


def test_it_is_scored_and_reported(root: Path, tmp_path: Path) -> None:
    write_random_model(tmp_path / "model")
    cfg = EvaluateConfig(device="cpu", bootstrap_samples=100)
    result = evaluate.score_model(cfg, data=root, model=tmp_path / "model", out=tmp_path / "out", progress=False)
    assert (result.scores.scans, result.scores.unit, result.scores.phantom) == (1, "px", False)
    assert set(result.scores.per_class) == {"rib", "thoracic_process", "lumbar_lump"}
    assert "demo" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_its_mask_has_its_size_and_lies_in_the_sweep(root: Path, tmp_path: Path) -> None:
    write_random_model(tmp_path / "model")
    scan = read_scan(scan_path(root, "test", "demo"))
    prediction = Predictor.load(tmp_path / "model", device="cpu").probabilities(scan)
    assert prediction.mask.shape == (2574, 640)
    assert prediction.scale == pytest.approx(48 / 390, rel=0.05)
    assert not np.concatenate([prediction.mask[:50].ravel(), prediction.mask[:, :30].ravel()]).any()
