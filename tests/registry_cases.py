"""Small model and evaluation folders for the tests of runs, versions and the gate."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sa2net.anatomy import CLASS_NAMES, FOREGROUND
from sa2net.artifacts import (
    PER_SCAN,
    PER_SCAN_COLUMNS,
    SCORES,
    CalibrationScores,
    ClassEstimates,
    DataBounds,
    Estimate,
    MetricEstimates,
    ModelInfo,
    Normalisation,
    PooledScores,
    Range,
    Scores,
    folder_sha256,
    write_model,
    write_scores,
)
from sa2net.config import Config, ModelConfig, PredictorConfig
from sa2net.registry.decision import AngleAgreement, ScoredVersion

TINY = ModelConfig(
    backbone="test_resnet",
    channels=16,
    auxiliary=False,
    predictor=PredictorConfig(embed_dim=16, depth=1, num_heads=2, mask_dim=8),
)


def scored_version(
    name: str,
    dice: Sequence[Sequence[float]] | np.ndarray,
    *,
    sha: str | None = None,
    data: str = "data-1",
    split: str = "test",
    settings: str = "",
    scans_per_subject: int = 1,
    calibration_error: float = 0.01,
    seconds_per_scan: float = math.nan,
    angles: AngleAgreement | None = None,
) -> ScoredVersion:
    """A version with one row of Dice a scan (rib, thoracic process, lumbar lump)."""
    table = np.asarray(dice, dtype=np.float64)
    scans = tuple(f"scan{index:03d}" for index in range(len(table)))
    subjects = tuple(f"subject{index // scans_per_subject:03d}" for index in range(len(table)))
    return ScoredVersion(
        name,
        sha or f"sha of {name}",
        data,
        split,
        scans,
        subjects,
        table,
        settings,
        calibration_error=calibration_error,
        seconds_per_scan=seconds_per_scan,
        angles=angles or AngleAgreement(),
    )


def write_model_folder(folder: Path, *, seed: int = 0, data_md5: str = "0" * 32) -> Path:
    """A model folder with random weights that the predictor can use."""
    import torch

    from sa2net.model.network import build

    torch.manual_seed(seed)
    bounds = DataBounds(sweep_width=Range(low=10, high=1000), area={}, grey={})
    info = ModelInfo(
        model=TINY,
        class_names=CLASS_NAMES,
        normalisation=Normalisation(mean=120.0, std=60.0),
        sweep_width=64,
        bounds=bounds,
        data_md5=data_md5,
        params=Config().to_dict(),
    )
    write_model(folder, info, build(TINY).state_dict())
    return folder


def write_evaluation(
    folder: Path, model: Path, dice: Sequence[Sequence[float]] | np.ndarray, *, data_md5: str = "0" * 32
) -> Path:
    """An evaluation folder with the given Dice: one row a scan, one column a foreground class."""
    table = np.asarray(dice, dtype=np.float64)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PER_SCAN).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(PER_SCAN_COLUMNS)
        for index, row in enumerate(table):
            for item, value in zip(FOREGROUND, row, strict=True):
                cell = "" if math.isnan(value) else repr(round(float(value), 6))
                writer.writerow(
                    [f"scan{index:03d}", f"subject{index:03d}", "", item.name, cell, cell, cell, "", "px", 10, 10]
                )
    per_class = {
        item.name: ClassEstimates(dice=_estimate(table[:, column]), scored=len(table), absent=0, missed=0, spurious=0)
        for column, item in enumerate(FOREGROUND)
    }
    scores = Scores(
        split="test",
        data_md5=data_md5,
        model_sha256=folder_sha256(model),
        scans=len(table),
        subjects=len(table),
        unit="px",
        tolerance=3.0,
        confidence=0.95,
        inference={"mode": "whole", "scales": [1.0], "flip": False},
        phantom=True,
        mean=MetricEstimates(dice=_estimate(np.nanmean(table, axis=1))),
        per_class=per_class,
        pooled=PooledScores(accuracy=0.9, mean={}, per_class={}),
        calibration=CalibrationScores(ece=0.01, bins=15),
    )
    write_scores(folder / SCORES, scores)
    return folder


def _estimate(values: np.ndarray) -> Estimate:
    mean = float(np.nanmean(values))
    return Estimate(value=round(mean, 6), low=round(mean - 0.01, 6), high=round(mean + 0.01, 6))
