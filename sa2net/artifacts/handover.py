"""What a pipeline component hands on beside its folders: metadata, metrics and pages that a pipeline's page shows well.

The components themselves hold no logic; it lives here, where it needs no kfp and is tested as plain functions.
"""

import csv
import logging
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sa2net import telemetry
from sa2net.anatomy import CLASS_NAMES
from sa2net.artifacts.files import folder_sha256, read_json
from sa2net.artifacts.model import read_model_info
from sa2net.artifacts.names import CONFUSION, RUN_JSON, SCORES
from sa2net.artifacts.scores import read_scores
from sa2net.errors import ConfigError, StorageError


def begin(experiment: str = "") -> None:
    """Prepare the process of a component: log lines on stderr, no telemetry, the MLflow experiment.

    Args:
        experiment: Name of the MLflow experiment; empty = the one of the environment. An experiment that the back end
            hands in (`MLFLOW_EXPERIMENT_ID`) comes before it.
    """
    telemetry.switch_off()
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.WARNING, format=form, stream=sys.stderr)
    logging.getLogger("sa2net").setLevel(logging.INFO)
    if experiment:
        os.environ["MLFLOW_EXPERIMENT_NAME"] = experiment


def provenance(folder: Path) -> dict[str, str]:
    """Where a step's folder came from: MLflow run, code, image; what is not known is left out.

    Args:
        folder: Output folder of a step; `run.json` lies in it.
    """
    run = read_json(folder / RUN_JSON) if (folder / RUN_JSON).is_file() else {}
    known = {
        "run_id": str(run.get("run_id", "")),
        "parent_run_id": str(run.get("parent_run_id", "")),
        "revision": str(run.get("revision", "")) + ("-dirty" if run.get("dirty") else ""),
        "lock_sha256": str(run.get("lock_sha256", "")),
        "image": str(run.get("image", "")),
    }
    return {name: value for name, value in known.items() if value}


def class_names() -> str:
    """Names of the classes in the order of their ids, as one text: metadata holds no lists everywhere."""
    return ", ".join(CLASS_NAMES)


def model_metadata(model: Path) -> dict[str, str]:
    """What a pipeline's page shows of a model folder."""
    info = read_model_info(model)
    return {"sha256": folder_sha256(model), "classes": ", ".join(info.class_names), "data_md5": info.data_md5}


def require_fixed(init_from: str) -> None:
    """Refuse weights to start from that may change under the same name: a cached training would be of the old ones.

    The ready weights are part of the image.

    Raises:
        ConfigError: An alias, or a folder, which other pods do not have.
    """
    if init_from and not re.fullmatch(r"ready|models:/[^/@]+/\d+", init_from):
        raise ConfigError(
            f"train.init_from is {init_from}, and a pipeline caches what it trained",
            action="Name the version itself, models:/NAME/NUMBER: an alias moves, and a folder is not in the pod.",
        )


def score_metrics(evaluation: Path) -> dict[str, float]:
    """The scores that a pipeline's page compares runs by, as flat names such as `test_dice_rib`.

    Args:
        evaluation: Folder of the evaluate step.
    """
    scores = read_scores(evaluation / SCORES)
    numbers = {"scans": float(scores.scans), f"{scores.split}_calibration_error": scores.calibration.ece}
    for name, group in {"mean": scores.mean, **scores.per_class}.items():
        for metric in ("dice", "nsd", f"hd95_{scores.unit}"):
            estimate = getattr(group, metric.partition("_")[0])
            if estimate is not None:
                numbers[f"{scores.split}_{metric}_{name}"] = estimate.value
    return numbers | (scores.angles.metrics(scores.split) if scores.angles else {})


def confusion_matrix(evaluation: Path) -> tuple[list[str], list[list[int]]]:
    """Class names and the confusion matrix in pixels, rows = truth. # (K), (K, K).

    Args:
        evaluation: Folder of the evaluate step.
    """
    with (evaluation / CONFUSION).open(encoding="utf-8", newline="") as stream:
        pixels = {(row["actual"], row["predicted"]): int(row["pixels"]) for row in csv.DictReader(stream)}
    names = list(CLASS_NAMES)
    return names, [[pixels[actual, predicted] for predicted in names] for actual in names]


def hand_on(metadata: dict[str, Any], values: Mapping[str, Any], *written: Path) -> None:
    """The last line of a component: everything it promised is there, and says where it came from.

    Args:
        metadata: Metadata of an output artifact; extended by `values`.
        values: Plain values.
        written: Files and folders that must exist and hold something. A back end may take an output that nobody wrote
            for a success.

    Raises:
        StorageError: One of them is missing or empty.
    """
    lacking = [path.name for path in written if not holds_something(path)]
    if lacking:
        raise StorageError(
            "a step ended without its outputs",
            evidence=f"missing or empty: {', '.join(lacking)}",
            action="Look at the log of the step; run it again, or report it.",
        )
    metadata.update(values)


def place_page(page: Path, target: Path) -> None:
    """Copy a self-contained page to where an HTML artifact is expected."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(page, target)


def holds_something(path: Path) -> bool:
    """Whether a file or folder is there and not empty."""
    if path.is_dir():
        return any(path.iterdir())
    return path.is_file() and path.stat().st_size > 0
