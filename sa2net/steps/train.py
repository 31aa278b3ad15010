"""Train: from checked data to a model folder that explains itself."""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sa2net.anatomy import CLASS_NAMES
from sa2net.artifacts import (
    HISTORY,
    MANIFEST,
    MODEL_FILES,
    OUT_OF_FOLD,
    RUN_JSON,
    TIMING_JSON,
    VALIDATION_HISTORY,
    VALIDATION_REPORT,
    WEIGHTS,
    ModelInfo,
    check_replaceable,
    file_sha256,
    folder_sha256,
    read_json,
    read_validation,
    write_json,
    write_model,
    write_text,
)
from sa2net.config import Config, TrainConfig
from sa2net.data.framing import Grey
from sa2net.data.layout import Case
from sa2net.data.manifest import read_manifest
from sa2net.data.pictures import write_png
from sa2net.data.store import data_md5
from sa2net.errors import DataError
from sa2net.evaluation.out_of_fold import out_of_fold
from sa2net.evaluation.overlay import draw_overlay
from sa2net.evaluation.reference import describe_training
from sa2net.inference.device import resolve_device
from sa2net.model.backbone import licensed
from sa2net.model.ensemble import join_weights
from sa2net.registry import tracking
from sa2net.registry.revision import code_hashes
from sa2net.registry.starting import pretrained_sha256, settled, starting_weights
from sa2net.training.capacity import with_batch_size
from sa2net.training.checkpoint import CheckpointStore
from sa2net.training.folds import Fold, settings_of, split
from sa2net.training.history import history_tables
from sa2net.training.launch import launch
from sa2net.training.loop import Fitted, fit
from sa2net.training.ranks import Ranks, check_batch, check_gpus, joined
from sa2net.training.schedule import with_epochs

logger = logging.getLogger(__name__)
MODEL = "model"
PICTURES = 3
"""Validation scans whose overlays are logged, the first so many by name."""
_LOOP = tuple(
    f"training/{name}.py"
    for name in ("averaging", "capacity", "checkpoint", "folds", "history", "launch", "loop", "ranks", "schedule")
)
_CODE = ("anatomy.py", "artifacts", "config", "data", "inference", "model", *_LOOP, "steps/train.py")


@dataclass(frozen=True)
class TrainResult:
    """What a training left behind."""

    model: Path
    best_dice: float
    best_epoch: int
    epochs: int


def run(
    cfg: TrainConfig,
    *,
    data: Path,
    validation: Path,
    out: Path,
    checkpoints: Path,
    fresh: bool = False,
    progress: bool = True,
    processes: int = 1,
) -> TrainResult:
    """Train a network on checked data.

    Under torchrun this is one of its processes, which reads and trains; only the main one (rank 0) writes.

    Writes `model/` (see `sa2net.artifacts.ModelInfo`), `history.csv` (losses), `validation.csv` (Dice), and beside
    them `run.json` and `timing.json`, which no later step reads for its result.

    Args:
        cfg: The train section.
        data: Folder that holds dataset/ and groundtruth/.
        validation: What the validate step wrote for this data.
        out: Folder to write.
        checkpoints: Folder of all trainings' checkpoints; outside `out`, which DVC empties.
        fresh: Forget this training's checkpoints first.
        progress: Show a progress bar.
        processes: Train in so many processes of this machine, each on a GPU of its own or all on its CPU.

    Raises:
        DataError: The validation is missing or of other data; a scan cannot be read.
        ConfigError: `init_from` does not fit the network; the processes cannot share the batch equally.
        DeviceError: The device cannot be used, or there are fewer GPUs than processes.
    """
    check_batch(cfg.batch_size, processes)
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file", action="Name a folder with --out.")
    check_replaceable(out / MODEL, MODEL_FILES)  # now, not after hours
    places = {"data": data, "validation": validation, "out": out, "checkpoints": checkpoints}
    if processes > 1:
        return _launched(cfg, places, fresh=fresh, progress=progress, processes=processes)
    with joined(cfg.device) as ranks:
        return _train(cfg, **places, fresh=fresh, progress=progress, ranks=ranks)


def _launched(
    cfg: TrainConfig, places: Mapping[str, Path], *, fresh: bool, progress: bool, processes: int
) -> TrainResult:
    """Start the processes, wait for them, and read what they left behind."""
    check_gpus(cfg.device, processes)
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "params.yaml"
        write_text(settings, Config(train=cfg).render())
        command = ["-m", "sa2net", *["--verbose"] * logger.isEnabledFor(logging.DEBUG), "train"]
        options = ["--params", str(settings), *["--fresh"] * fresh, *["--quiet"] * (not progress)]
        options += [word for name, place in places.items() for word in (f"--{name}", str(place))]
        launch([*command, *options], processes)
    said = read_json(places["out"] / TIMING_JSON)
    return TrainResult(places["out"] / MODEL, said["best_val_dice"], said["best_epoch"], said["epochs"])


def _train(
    cfg: TrainConfig,
    *,
    data: Path,
    validation: Path,
    out: Path,
    checkpoints: Path,
    fresh: bool,
    progress: bool,
    ranks: Ranks,
) -> TrainResult:
    """Train in this process, alone or as one of several."""
    check_batch(cfg.batch_size, ranks.count)
    report = read_validation(validation / VALIDATION_REPORT)
    if ranks.main and data_md5(data) != report.data_md5:
        raise DataError(
            f"{data} is not the data set that was validated",
            evidence=f"its content is {data_md5(data)}, {validation / VALIDATION_REPORT} is of {report.data_md5}",
            action="Run `sa2net validate` again.",
        )
    cases = read_manifest(validation / MANIFEST, data)
    train_cases, val_cases = ([case for case in cases if case.split == split] for split in ("train", "val"))
    if not train_cases or not val_cases:
        raise DataError(
            "nothing to train on",
            evidence=f"{len(train_cases)} train and {len(val_cases)} val scans",
            action="Run `sa2net validate` on a data set with both.",
        )
    folds = split(cfg, train_cases, val_cases)
    crops = cfg.crops_per_scan * (cfg.stream.scans or min(len(fold.train) for fold in folds))
    cfg = settled(with_epochs(with_batch_size(cfg, ranks, crops), crops))
    scale = report.sweep_width / cfg.sweep_width
    info = ModelInfo(
        model=cfg.model,
        class_names=CLASS_NAMES,
        normalisation=report.normalisation,
        sweep_width=cfg.sweep_width,
        spacing_mm=tuple(size * scale for size in report.spacing_mm),
        bounds=report.bounds,
        data_md5=report.data_md5,
        params={"train": cfg.model_dump(mode="json")},
        members=cfg.folds,
    )

    def learn(fold: Fold, **of_the_main: Any) -> Fitted:
        """Train one fold; `of_the_main`: what only the main process has, see `fit`."""
        given = {"checkpoints": None, "observer": None} | of_the_main
        return fit(settings_of(cfg, fold), info, fold.train, fold.val, **given, progress=progress, ranks=ranks)

    if not ranks.main:
        return _result(out, [learn(fold) for fold in folds])
    initial, parent = starting_weights(cfg)
    manifest_sha256 = file_sha256(validation / MANIFEST)
    pretrained = pretrained_sha256(cfg)
    key = _key(cfg, report.data_md5, manifest_sha256, parent, pretrained)
    store = CheckpointStore(checkpoints, key)
    started = time.perf_counter()
    tags = {
        "data_md5": report.data_md5,
        "manifest_sha256": manifest_sha256,
        "parent_model": parent,
        **({"pretrained_sha256": pretrained} if pretrained else {}),
        **({"pretrained_weights": licensed(cfg.model.backbone)} if cfg.model.pretrained else {}),
        "checkpoint_key": key,
        "threads": cfg.threads,
        "processes": ranks.count,
        **_counts([] if cfg.stream.scans else train_cases, val_cases),
        **_validated_by(validation, manifest_sha256),
    }
    with (
        store.locked(),
        tracking.step_run("train", params=info.params, tags=tags, system_metrics=True) as tracker,
        ranks.failing_together(),
        tempfile.TemporaryDirectory() as pictures,
    ):
        fitted, observed = [], 0
        for fold in folds:
            # A finished fold's checkpoint is its result: a training that was killed goes on in the fold it was at.
            own = CheckpointStore(store.folder, f"fold-{fold.number}") if fold.number else store
            own.folder.mkdir(exist_ok=True)
            if fresh:
                own.clear()
            pictured = {case.name for case in sorted(fold.val, key=lambda case: case.name)[:PICTURES]}
            observer = _Observer(tracker, cfg, pictured, Path(pictures), fold.number)
            fitted.append(learn(fold, checkpoints=own, observer=observer, initial=initial))
            observed += observer.epochs
        networks = [(one.weights, fold.val) for one, fold in zip(fitted, folds, strict=True)]
        reference = describe_training(
            info,
            networks,
            () if cfg.folds > 1 or cfg.stream.scans else train_cases,
            device=cfg.device,
            progress=progress,
        )
        write_model(out / MODEL, info, join_weights([one.weights for one in fitted]), reference)
        losses, dice = history_tables([one.history for one in fitted])
        write_text(out / HISTORY, losses)
        write_text(out / VALIDATION_HISTORY, dice)
        result = _result(out, fitted)
        _write_timing(out, result, seconds=time.perf_counter() - started, threads=cfg.threads, processes=ranks.count)
        tracker.log_metrics(
            {"best_val_dice": result.best_dice, "best_epoch": float(result.best_epoch)}, step=result.best_epoch
        )
        started_at = [one.start_dice for one in fitted if one.start_dice is not None]
        if started_at:
            tracker.log_metrics({"start_val_dice": sum(started_at) / len(started_at)}, step=0)
        tracker.log_folder(out / MODEL, "model")
        (out / OUT_OF_FOLD).unlink(missing_ok=True)  # of an earlier training in the same folder
        if cfg.folds > 1:
            write_text(out / OUT_OF_FOLD, out_of_fold(info, networks, device=cfg.device, progress=progress))
            tracker.log_file(out / OUT_OF_FOLD)
        outcome = {
            "model_sha256": folder_sha256(out / MODEL),
            "weights_sha256": file_sha256(out / MODEL / WEIGHTS),
            "epochs": result.epochs,
            "resumed_after_epoch": result.epochs - observed,
            "device": resolve_device(cfg.device).type,
        }
        tracker.set_tags(outcome)
        tracker.write_run_json(out, **tags, **outcome)
    return result


def _result(out: Path, fitted: Sequence[Fitted]) -> TrainResult:
    """Of several folds: the mean Dice and epoch, and the epochs of all."""
    dice = sum(one.best_dice for one in fitted) / len(fitted)
    epoch = round(sum(one.best_epoch for one in fitted) / len(fitted))
    return TrainResult(out / MODEL, dice, epoch, sum(len(one.history) for one in fitted))


def _counts(train: Sequence[Case], val: Sequence[Case]) -> dict[str, int]:
    """How much was learnt from, and how much chose the epoch: `train_scans`, `train_subjects`, `val_scans`, ..."""
    splits = {"train": train, "val": val}
    scans = {f"{split}_scans": len(chosen) for split, chosen in splits.items()}
    return scans | {f"{split}_subjects": len({case.subject for case in chosen}) for split, chosen in splits.items()}


def _validated_by(validation: Path, manifest_sha256: str) -> dict[str, str]:
    """The run and the settings that made this manifest, as JSON; nothing where `run.json` is gone or of another one."""
    known = read_json(validation / RUN_JSON) if (validation / RUN_JSON).is_file() else {}
    if known.get("manifest_sha256") != manifest_sha256:
        return {}
    params = json.dumps(known.get("params", {}).get("validate", {}), sort_keys=True)
    return {"validation_run": str(known.get("run_id", "")), "validation_params": params}


def _key(cfg: TrainConfig, data_md5: str, manifest_sha256: str, parent: str, pretrained: str) -> str:
    """What determines a training: settings, data, split, starting weights, code. Another key never resumes."""
    parts = {
        "train": cfg.model_dump(mode="json"),
        "data": data_md5,
        "manifest": manifest_sha256,
        "parent": parent,
        "pretrained": pretrained,
        "code": code_hashes(_CODE),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _write_timing(out: Path, result: TrainResult, *, seconds: float, threads: int, processes: int) -> None:
    """How it went: what differs between equal trainings, and the outcome for whoever started several processes."""
    outcome = {"best_val_dice": result.best_dice, "best_epoch": result.best_epoch, "epochs": result.epochs}
    spent = {"seconds": seconds, "threads": threads, "processes": processes}
    write_json(out / TIMING_JSON, {"schema_version": 1, **spent, **outcome})


class _Observer:
    """Tells the tracker how the training goes."""

    def __init__(
        self, tracker: tracking.Tracker, cfg: TrainConfig, pictured: set[str], folder: Path, fold: int = 0
    ) -> None:
        self.tracker, self.cfg, self.pictured, self.folder = tracker, cfg, pictured, folder
        self.prefix = f"fold_{fold}_" if fold else ""
        self.epochs = 0

    def epoch_ended(self, row: Mapping[str, float]) -> None:
        """Log one epoch's numbers; an epoch that a checkpoint brought is not told."""
        self.epochs += 1
        self.tracker.log_metrics(
            {f"{self.prefix}{name}": value for name, value in row.items() if name != "epoch"}, step=int(row["epoch"])
        )

    def validated(self, case: Case, scan: Grey, truth: Grey, prediction: Grey, epoch: int) -> None:
        """Log the overlay of one validation scan, where the policy allows it."""
        if case.name in self.pictured:
            path = self.folder / f"{self.prefix}{case.name}_epoch_{epoch:04d}.png"
            write_png(path, draw_overlay(scan, truth, prediction, panel_height=960))
            self.tracker.log_picture(path, policy=self.cfg.log_pictures, folder="validation")
