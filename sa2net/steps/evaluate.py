"""The evaluate step: score a model folder on one split and write the scores, tables, pictures and the report."""

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sa2net.artifacts import (
    ANGLES,
    EVALUATION_FILES,
    EVALUATION_REPORT,
    PER_SCAN,
    SCORES,
    SUBGROUPS,
    TIMING_JSON,
    Scores,
    check_replaceable,
    file_sha256,
    folder_sha256,
    replaced_folder,
    write_json,
    write_scores,
)
from sa2net.config import EvaluateConfig
from sa2net.data.angles import read_true_angles
from sa2net.data.layout import Case, list_path, read_cases
from sa2net.data.store import data_md5
from sa2net.errors import DataError
from sa2net.evaluation.angle_scores import AngleMeasurer, summarise_angles
from sa2net.evaluation.report import write_report
from sa2net.evaluation.scoring import Evaluation, is_phantom, read_groups, score, summarise, timing
from sa2net.evaluation.tables import write_angles, write_subgroups, write_tables
from sa2net.inference.predictor import Predictor
from sa2net.registry import tracking
from sa2net.registry.environment import write_run_json
from sa2net.registry.revision import code_sha256

logger = logging.getLogger(__name__)
METRICS = ("dice", "iou", "nsd", "hd95")
_DATA = tuple(f"data/{name}.py" for name in ("angles", "framing", "layout", "pairs", "pictures", "sweep"))
_ROOMS = ("artifacts", "config", "evaluation", "inference", "model", "scoliosis")
EVALUATOR = ("anatomy.py", *_DATA, *_ROOMS, "steps/evaluate.py")
"""The code that a score depends on. Its sha256 is the evaluator's version: what differs in it may score otherwise."""


@dataclass(frozen=True)
class EvaluateResult:
    """What the step made.

    Attributes:
        out: Folder with `scores.json`, the tables, `overlays/` and `report.html`.
        scores: The content of `scores.json`.
        seconds_per_scan: Median time of a prediction.
        device: The kind of device that it ran on: cpu or cuda.
    """

    out: Path
    scores: Scores
    seconds_per_scan: float
    device: str


def run(cfg: EvaluateConfig, *, data: Path, model: Path, out: Path, progress: bool = True) -> EvaluateResult:
    """Score a model, as a tracked run.

    Args:
        cfg: The evaluate section.
        data: Folder that holds `dataset/` and `groundtruth/`.
        model: Model folder.
        out: Folder to write; replaced whole once everything is done.
        progress: Show a progress bar.

    Raises:
        DataError: No scans in the split, or a scan, mask or model folder that cannot be used.
        DeviceError: The device cannot be used.
        StorageError: The tracking server refuses us.
    """
    params = {"evaluate": cfg.model_dump(mode="json")}
    with tracking.step_run("evaluate", params=params) as tracker:
        result = score_model(cfg, data=data, model=model, out=out, progress=progress)
        scores = result.scores
        known = {
            "data_md5": scores.data_md5,
            "model_sha256": scores.model_sha256,
            "scores_sha256": file_sha256(out / SCORES),
            "evaluator_sha256": code_sha256(EVALUATOR),
            "device": result.device,
            "threads": cfg.threads,
        }
        tracker.set_tags({**known, "phantom": scores.phantom})
        tracker.log_metrics(_numbers(scores) | {"seconds_per_scan": result.seconds_per_scan})
        if scores.mean.dice is not None:
            tracker.log_headline({f"{cfg.split}_dice_mean": scores.mean.dice.value})
        for name in (SCORES, PER_SCAN, SUBGROUPS, ANGLES):
            tracker.log_file(out / name)
        tracker.log_picture(out / EVALUATION_REPORT, policy=cfg.log_pictures, folder="")
        write_run_json(out, tracker, params=params, **known)
    return result


def _numbers(scores: Scores) -> dict[str, float]:
    """The scores as flat names: `test_dice_rib` and so on."""
    groups = {"mean": scores.mean, **scores.per_class}
    estimates = {
        f"{scores.split}_{metric}_{name}": getattr(group, metric)
        for name, group in groups.items()
        for metric in METRICS
    }
    numbers = {name: estimate.value for name, estimate in estimates.items() if estimate is not None}
    angles = scores.angles.metrics(scores.split) if scores.angles is not None else {}
    return numbers | {f"{scores.split}_calibration_error": scores.calibration.ece} | angles


def scored_cases(cfg: EvaluateConfig, data: Path) -> list[Case]:
    """The scans of the split that is scored.

    Raises:
        DataError: There are none.
    """
    cases = read_cases(data, [cfg.split])
    if not cases:
        raise DataError(
            f"there is nothing to score in the split {cfg.split}",
            evidence=f"{list_path(data, cfg.split)} names no scan",
            action="List the scans there, one name a line, or choose another split with --set evaluate.split=...",
        )
    return cases


def write_evaluation(
    folder: Path,
    evaluation: Evaluation,
    scores: Scores,
    cfg: EvaluateConfig,
    *,
    groups: dict[str, dict[str, str]],
    masks: Path,
) -> None:
    """Write scores, tables and report.

    Args:
        folder: Where to.
        evaluation: Every scan with its scores.
        scores: What they come to.
        cfg: The evaluate section.
        groups: Subgroups of the scans, as `read_groups` gives them.
        masks: Folder of the predicted masks, NAME.png.
    """
    write_scores(folder / SCORES, scores)
    write_tables(folder, evaluation, scores)
    write_subgroups(folder, evaluation, cfg, groups)
    write_angles(folder, evaluation)
    write_report(folder, evaluation, scores, cfg, masks=masks, groups=groups)


def score_model(cfg: EvaluateConfig, *, data: Path, model: Path, out: Path, progress: bool = True) -> EvaluateResult:
    """Score a model and write its folder; nothing is tracked."""
    check_replaceable(out, EVALUATION_FILES)
    cases = scored_cases(cfg, data)
    truths = read_true_angles(data)
    known = sum(case.name in truths for case in cases)
    predictor = Predictor.for_settings(model, cfg)
    measure = AngleMeasurer(truths, cfg.measure, predictor.info) if known else None
    with (
        replaced_folder(out, EVALUATION_FILES) as fresh,
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as masks,
    ):
        evaluation = score(cases, predictor.probabilities, cfg, masks=Path(masks), measure=measure, progress=progress)
        scores = summarise(
            evaluation,
            cfg,
            data_md5=data_md5(data),
            model_sha256=folder_sha256(model),
            phantom=is_phantom(data, cases),
            angles=summarise_angles(evaluation.results, cfg),
        )
        write_evaluation(fresh, evaluation, scores, cfg, groups=read_groups(data, cases), masks=Path(masks))
        seconds = timing(evaluation, device=str(predictor.device), threads=cfg.threads)
        write_json(fresh / TIMING_JSON, seconds)
    logger.info("Angles are compared in the %d of %d scans whose true curves are known", known, len(cases))
    logger.info("Scores, tables and report are in %s", out)
    return EvaluateResult(out, scores, float(seconds["seconds_per_scan"]["median"]), predictor.device.type)
