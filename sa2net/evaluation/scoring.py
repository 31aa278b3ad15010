"""From cases and a predictor to everything that an evaluation says, one scan in memory at a time."""

import csv
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from sa2net.anatomy import CLASS_NAMES, FOREGROUND, IGNORE_INDEX, NUM_CLASSES
from sa2net.artifacts import (
    AngleScores,
    CalibrationScores,
    ClassEstimates,
    Estimate,
    MetricEstimates,
    PooledScores,
    Scores,
)
from sa2net.config import EvaluateConfig
from sa2net.data.layout import SCANS_TABLE, Case, read_truth
from sa2net.data.pairs import read_pair
from sa2net.data.pictures import write_png
from sa2net.evaluation.angles import ScanAngles
from sa2net.evaluation.calibration import Calibration, ReliabilityBin
from sa2net.evaluation.metrics import METRICS, ClassScore, Unit, mean_over_classes, score_scan
from sa2net.evaluation.pooled import confusion_matrix, pooled_scores
from sa2net.evaluation.statistics import Interval, mean_interval

logger = logging.getLogger(__name__)

DECIMALS = 6
"""Digits kept in files; what lies behind them depends on the machine."""


_POOLED = {"Dice": "dice", "IoU": "iou", "Acc": "accuracy", "Precision": "precision", "Recall": "recall"}


class PredictionLike(Protocol):
    """What a predictor returns for one scan."""

    @property
    def mask(self) -> npt.NDArray[np.uint8]:
        """Class ids. # (H, W)."""

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """Softmax. # (K, H, W)."""


Prediction = TypeVar("Prediction", bound=PredictionLike)
Predict = Callable[[npt.NDArray[np.uint8], tuple[float, float] | None], Prediction]
MeasureAngles = Callable[[Case, npt.NDArray[np.uint8], Prediction], ScanAngles | None]
"""Case, scan (H, W) and its prediction -> its angles beside the true ones; None where the truth is not known."""


@dataclass(frozen=True)
class ScanResult:
    """One scored scan.

    Attributes:
        case: The scan.
        scores: One score a foreground class.
        seconds: Time of the prediction.
        angles: Its angles beside the true ones; None where these are not known.
    """

    case: Case
    scores: tuple[ClassScore, ...]
    seconds: float
    angles: ScanAngles | None = None

    def mean(self, metric: str) -> float:
        """Mean over the classes scored on this scan; NaN where none is."""
        return mean_over_classes(list(self.scores), metric)


@dataclass(frozen=True)
class Evaluation:
    """All scans of a split, scored.

    Attributes:
        results: In list order.
        confusion: Pixels by truth (row) and prediction (column). # (K, K)
        reliability: The calibration table.
        ece: Expected calibration error.
        unit: Of HD95 and of the tolerance.
        tolerance: Of the NSD.
    """

    results: tuple[ScanResult, ...]
    confusion: npt.NDArray[np.int64]
    reliability: tuple[ReliabilityBin, ...]
    ece: float
    unit: Unit
    tolerance: float


def score(
    cases: Sequence[Case],
    predict: Predict[Prediction],
    cfg: EvaluateConfig,
    *,
    masks: Path,
    measure: MeasureAngles[Prediction] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Predict and score every case.

    Args:
        cases: What is scored, at least one.
        predict: Scan (H, W) and spacing -> prediction.
        cfg: Tolerances.
        masks: Folder that takes the predicted masks, NAME.png, for the overlays drawn afterwards.
        measure: Measures the angles in a prediction while it is in memory; None = no angles.
        progress: Show a progress bar.

    Raises:
        DataError: A scan or mask that cannot be used, or the two differ in size.
    """
    metric = all(case.spacing_mm is not None for case in cases)
    if not metric and any(case.spacing_mm is not None for case in cases):
        without = [case.name for case in cases if case.spacing_mm is None]
        logger.warning("Distances are in px: %d of %d scans have no spacing (%s)", len(without), len(cases), without[0])
    confusion = np.zeros((NUM_CLASSES, NUM_CLASSES), dtype=np.int64)
    calibration = Calibration()
    results = []
    for case in tqdm(cases, desc="evaluate", unit="scan", disable=not progress):
        scan, truth = read_pair(case)
        started = time.perf_counter()
        prediction = predict(scan, case.spacing_mm)
        seconds = time.perf_counter() - started
        scores = score_scan(
            prediction.mask,
            truth,
            spacing_mm=case.spacing_mm if metric else None,
            tolerance_mm=cfg.nsd_tolerance_mm,
            tolerance_px=cfg.nsd_tolerance_px,
        )
        confusion += confusion_matrix(prediction.mask, truth, NUM_CLASSES, IGNORE_INDEX)
        calibration.add(prediction.probabilities, truth)
        write_png(masks / f"{case.name}.png", prediction.mask)
        angles = measure(case, scan, prediction) if measure is not None else None
        results.append(ScanResult(case, tuple(scores), seconds, angles))
    return Evaluation(
        results=tuple(results),
        confusion=confusion,
        reliability=tuple(calibration.table()),
        ece=calibration.error(),
        unit="mm" if metric else "px",
        tolerance=cfg.nsd_tolerance_mm if metric else cfg.nsd_tolerance_px,
    )


def summarise(
    evaluation: Evaluation,
    cfg: EvaluateConfig,
    *,
    data_md5: str,
    model_sha256: str,
    phantom: bool,
    angles: AngleScores | None = None,
) -> Scores:
    """Means with intervals over the scans; see `Scores`."""
    results = evaluation.results
    return Scores(
        split=cfg.split,
        data_md5=data_md5,
        model_sha256=model_sha256,
        scans=len(results),
        subjects=len({result.case.subject for result in results}),
        unit=evaluation.unit,
        tolerance=evaluation.tolerance,
        confidence=cfg.confidence,
        inference=cfg.model_dump(mode="json", include={"mode", "scales", "flip"}),
        phantom=phantom,
        mean=MetricEstimates(**{name: mean_estimate(results, name, cfg) for name in METRICS}),
        per_class={item.name: _class_estimates(results, index, cfg) for index, item in enumerate(FOREGROUND)},
        pooled=pooled_summary(evaluation.confusion),
        calibration=CalibrationScores(ece=round(evaluation.ece, DECIMALS), bins=len(evaluation.reliability)),
        angles=angles,
    )


def mean_estimate(results: Sequence[ScanResult], metric: str, cfg: EvaluateConfig) -> Estimate | None:
    """Mean over the classes of each scan, then over scans; None where nothing is scored."""
    return estimate([result.mean(metric) for result in results], results, cfg)


def class_estimate(results: Sequence[ScanResult], index: int, metric: str, cfg: EvaluateConfig) -> Estimate | None:
    """Mean of one foreground class (position in `FOREGROUND`) over scans; None where nothing is scored."""
    return estimate([float(getattr(result.scores[index], metric)) for result in results], results, cfg)


def estimate(values: list[float], results: Sequence[ScanResult], cfg: EvaluateConfig) -> Estimate | None:
    """Mean of one value a scan with its interval by subject; NaN is left out, None where nothing is left."""
    subjects = [result.case.subject for result in results]
    interval = mean_interval(values, subjects, samples=cfg.bootstrap_samples, confidence=cfg.confidence, seed=cfg.seed)
    return rounded(interval)


def rounded(interval: Interval) -> Estimate | None:
    """An interval as it is written; None where there is no mean."""
    if math.isnan(interval.mean):
        return None
    mean = round(interval.mean, DECIMALS)
    if math.isnan(interval.low):
        return Estimate(value=mean)
    return Estimate(value=mean, low=round(interval.low, DECIMALS), high=round(interval.high, DECIMALS))


def timing(evaluation: Evaluation, *, device: str, threads: int) -> dict[str, Any]:
    """Time of a prediction, for `timing.json`: it changes from run to run, and no stage depends on it."""
    seconds = np.array([result.seconds for result in evaluation.results])
    return {
        "schema_version": 1,
        "device": device,
        "threads": threads,
        "scans": len(seconds),
        "seconds_per_scan": {"median": float(np.median(seconds)), "p95": float(np.percentile(seconds, 95))},
    }


def is_phantom(root: Path, cases: Sequence[Case]) -> bool:
    """Whether any case is synthetic: it is in `truth.json`, or its device says phantom."""
    drawn = read_truth(root)
    return any(case.name in drawn or case.device.casefold().startswith("phantom") for case in cases)


def read_groups(root: Path, cases: Sequence[Case]) -> dict[str, dict[str, str]]:
    """Columns of `scans.csv` that split the scored scans into 2 to 8 groups, such as device or severity.

    Returns:
        Column -> scan name -> group; scans without a value are left out.
    """
    path = root / SCANS_TABLE
    names = {case.name for case in cases}
    columns: dict[str, dict[str, str]] = {}
    if path.exists():
        with path.open(encoding="utf-8-sig", newline="") as stream:
            for row in csv.DictReader(stream):
                if (row.get("name") or "").strip() in names:
                    _add_groups(columns, row)
    return {column: groups for column, groups in sorted(columns.items()) if 2 <= len(set(groups.values())) <= 8}


def _add_groups(columns: dict[str, dict[str, str]], row: dict[str, str]) -> None:
    for column, value in row.items():
        if column and column not in ("name", "subject", "spacing_x_mm", "spacing_y_mm") and value and value.strip():
            columns.setdefault(column, {})[row["name"].strip()] = value.strip()


def _class_estimates(results: Sequence[ScanResult], index: int, cfg: EvaluateConfig) -> ClassEstimates:
    states = Counter(result.scores[index].state for result in results)
    return ClassEstimates(
        **{name: class_estimate(results, index, name, cfg) for name in METRICS},
        scored=states["scored"],
        absent=states["absent"],
        missed=states["missed"],
        spurious=states["spurious"],
    )


def pooled_summary(confusion: npt.NDArray[np.int64]) -> PooledScores:
    """The released code's scores by name; what is 0 / 0 there is left out, of the means too."""
    columns = {_POOLED[key]: value for key, value in pooled_scores(confusion).items() if key in _POOLED}
    per_class = {
        name: {
            key: round(float(values[index]), DECIMALS) for key, values in columns.items() if np.isfinite(values[index])
        }
        for index, name in enumerate(CLASS_NAMES)
    }
    means = {key: values[np.isfinite(values)] for key, values in columns.items()}
    return PooledScores(
        accuracy=round(float(np.trace(confusion) / max(int(confusion.sum()), 1)), DECIMALS),
        mean={key: round(float(values.mean()), DECIMALS) for key, values in means.items() if len(values)},
        per_class=per_class,
    )
