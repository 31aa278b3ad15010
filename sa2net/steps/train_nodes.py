"""Train on several nodes: the train step of a pod that has no GPU, and gets a Kubeflow Trainer `TrainJob` to do it.

The pods of the job see neither this pod's inputs nor its outputs; what all of them see is one volume. So the data set is
copied there and held against its md5, the job trains from there, and the model folder is fetched from there. Inside the
job runs `sa2net train` under torchrun, the same step as on one node; its main process is the one that tracks.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sa2net.artifacts import (
    HISTORY,
    MANIFEST,
    MODEL_FILES,
    RUN_JSON,
    TIMING_JSON,
    VALIDATION_HISTORY,
    VALIDATION_REPORT,
    file_sha256,
    folder_sha256,
    read_json,
    read_model_info,
    read_validation,
    read_weights,
    replaced_folder,
    write_text,
)
from sa2net.config import Config, TrainConfig
from sa2net.data.store import data_md5, pointer_path, tracked_folder
from sa2net.errors import ClusterError, DataError, StorageError
from sa2net.registry import execution, store
from sa2net.registry.starting import settled
from sa2net.steps.train import MODEL, TrainResult
from sa2net.training.cluster import TrainJobs
from sa2net.training.nodes import NodesConfig, train_job
from sa2net.training.ranks import REASON, LostRankError, check_batch, restore
from sa2net.training.trainjob import COMPLETE, Ended, removed_at_end, run_to_end

logger = logging.getLogger(__name__)
FOLDER = "train-jobs"
HANDED_ON = ("SA2NET_EXECUTION", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
"""Variables of this pod that decide which run of MLflow the training belongs to; no secret is among them."""
JOIN_SECONDS = 3600
"""The first pod waits so long for the others: their nodes may have to be made first."""
_GRACE = 900.0
"""Seconds beyond the deadline of a job in which the cluster has to end it."""


def run(
    cfg: TrainConfig,
    *,
    nodes: NodesConfig,
    data: Path,
    validation: Path,
    out: Path,
    checkpoints: Path,
    every: float = 10.0,
    patience: float = 1800.0,
) -> TrainResult:
    """Train a network on checked data, in a job of several pods; the result is that of `sa2net.steps.train.run`.

    A second call for the same training in the same execution takes over the job of the first.

    Args:
        cfg: The train section.
        nodes: Where and with what the job runs.
        data: Folder that holds dataset/ and groundtruth/.
        validation: What the validate step wrote for this data.
        out: Folder to write.
        checkpoints: Folder of all trainings' checkpoints, on the volume.
        every: Longest pause between two looks at the job, seconds.
        patience: Seconds without an answer of the API server that are waited through.

    Raises:
        ConfigError: The processes cannot share the batch equally; a package is missing.
        DataError: The data set is not the validated one.
        StorageError: The volume cannot hold or return what it was given.
        ClusterError: The job cannot be made, or failed; its message holds what the first failed pod said.
    """
    check_batch(cfg.batch_size, nodes.nodes * nodes.processes)
    md5 = _validated_md5(data, validation)
    name = _name(cfg, nodes, md5, validation)
    folder = Path(nodes.mount) / FOLDER / name
    command = _command(folder, _staged(folder, cfg, data, md5, validation), checkpoints)
    jobs = TrainJobs(nodes.namespace)
    job = train_job(nodes, name, command, variables=_handed_on(), owner=_this_pod())
    limit = nodes.deadline_seconds + _GRACE
    with removed_at_end(jobs, name):
        ended = run_to_end(jobs, job, prepare=lambda: _emptied(folder), limit=limit, every=every, patience=patience)
        if ended.state != COMPLETE:
            raise _failure(name, ended, folder)
        result = _fetched(folder, cfg, out)
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        logger.warning("%s could not be removed; nobody needs it any more", folder)
    return result


def _validated_md5(data: Path, validation: Path) -> str:
    """The md5 of the data set; an error if it is not the one that was validated."""
    report, found = read_validation(validation / VALIDATION_REPORT), data_md5(data)
    if found != report.data_md5:
        raise DataError(
            f"{data} is not the data set that was validated",
            evidence=f"its content is {found}, {validation / VALIDATION_REPORT} is of {report.data_md5}",
            action="Run `sa2net validate` again.",
        )
    return found


def _name(cfg: TrainConfig, nodes: NodesConfig, md5: str, validation: Path) -> str:
    """A name that is the same whenever this execution of the pipeline asks for this training, and never else."""
    here = execution.current()
    parts = {
        "execution": here.run_id or here.key,
        "train": cfg.model_dump(mode="json"),
        "data": md5,
        "manifest": file_sha256(validation / MANIFEST),
        "nodes": nodes.model_dump(mode="json"),
    }
    return f"sa2net-train-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"


def _staged(folder: Path, cfg: TrainConfig, data: Path, md5: str, validation: Path) -> dict[str, Path]:
    """Copy what the job reads to the volume, or go on where an earlier attempt was ended; hold it against its source."""
    tracked = tracked_folder(data)
    target = folder / "in" / "data" / tracked.name
    places = {
        "params": folder / "in" / "params.yaml",
        "data": target / data.resolve().relative_to(tracked),
        "validation": folder / "in" / "validation",
    }
    try:
        _copy_missing(tracked, target, folder)
        if pointer_path(tracked).is_file():  # it says that the folder is more than the data root
            _copy(pointer_path(tracked), pointer_path(target), folder)
        _copy_missing(validation, places["validation"], folder)
        write_text(places["params"], Config(train=cfg).render())
        whole = data_md5(places["data"]) == md5
        whole = whole and folder_sha256(places["validation"]) == folder_sha256(validation)
    except OSError as error:
        raise StorageError(
            f"the data set cannot be copied to {folder}",
            evidence=str(error),
            action="Check that the volume is mounted, has space and may be written by this user.",
        ) from error
    if not whole:
        shutil.rmtree(folder / "in", ignore_errors=True)
        raise StorageError(
            "the copy of the data set on the volume differs from the data set",
            evidence=f"{places['data']}; the copy was removed",
            action="Run the step again. If that repeats itself, check the volume.",
        )
    return places


def _copy_missing(source: Path, target: Path, folder: Path) -> None:
    """Copy every file that is not there yet; a file is there whole or not at all."""
    for path in sorted(item for item in source.rglob("*") if item.is_file()):
        there = target / path.relative_to(source)
        if not there.is_file() or there.stat().st_size != path.stat().st_size:
            _copy(path, there, folder)


def _copy(source: Path, target: Path, folder: Path) -> None:
    partial = folder / "partial"  # outside of what is hashed
    partial.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, partial)
    partial.replace(target)


def _command(folder: Path, staged: Mapping[str, Path], checkpoints: Path) -> list[str]:
    """`sa2net train` under torchrun; how many processes there are, and where, torchrun learns from the Trainer."""
    # Errors are left on the volume, since the pods may be gone with their logs when somebody asks.
    launcher = ["--rdzv-conf", f"timeout={JOIN_SECONDS}", "--log-dir", str(folder / "errors")]
    places = {**staged, "out": folder / "out", "checkpoints": checkpoints}
    options = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    return ["python3", "-m", "torch.distributed.run", *launcher, "-m", "sa2net", "train", *options, "--quiet"]


def _handed_on() -> dict[str, str]:
    handed = {name: os.environ[name] for name in HANDED_ON if os.environ.get(name)}
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    # A password in the address stays here: the pods have theirs from a secret.
    return handed | ({"MLFLOW_TRACKING_URI": store.public_uri(uri)} if uri else {})


def _this_pod() -> tuple[str, str] | None:
    """Name and uid of the pod that this process runs in, if the pipeline told it."""
    name, uid = os.environ.get("SA2NET_POD_NAME", ""), os.environ.get("SA2NET_POD_UID", "")
    return (name, uid) if name and uid else None


def _emptied(folder: Path) -> None:
    """Remove what an earlier job of this name left: its result and its errors are not those of the next one."""
    for name in ("out", "errors"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _failure(name: str, ended: Ended, folder: Path) -> ClusterError:
    """Why a job failed: what a process said, else what its log ends with, else what the cluster says."""
    condition = ": ".join(part for part in (ended.reason, ended.message) if part)
    reason = _last_reason((folder / "errors").rglob("error.json"))
    first = ended.failure
    said = [f"the cluster says {condition}" if condition else "the cluster gives no reason"]
    if first:
        said.append(f"first the pod {first.pod} ended with {first.reason}")
    if reason:
        said.append(f"a process of the training said: {reason}")
    elif first and first.log:
        said.append(f"its log ends with\n{first.log.rstrip()}\n")
    return ClusterError(
        f"the TrainJob {name} failed",
        evidence="; ".join(said),
        action=f"Mend the cause and run it again: it goes on from its last checkpoint. What it read stays in {folder / 'in'}.",
    )


def _last_reason(files: Iterable[Path]) -> str:
    """The error that a process left for torchrun; "" if none did.

    The cluster may have started the pods again: the last error counts. That another process is gone is no reason.
    """
    found: list[tuple[int, str]] = []
    for file in files:
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            error = restore(content[REASON])
            when = int(content["message"]["extraInfo"]["timestamp"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # torchrun's own, or half of one
        if not isinstance(error, LostRankError):
            found.append((when, str(error)))
    return max(found)[1] if found else ""


def _is_of(params: Mapping[str, Any], cfg: TrainConfig) -> bool:
    """Whether a model's settings are those of this training, but for what a training works out for itself."""
    ours = settled(cfg).model_dump(mode="json")
    theirs = dict(params.get("train", {}))
    for name, worked_out in {"epochs": cfg.iterations > 0, "batch_size": cfg.batch_size == 0}.items():
        if worked_out and name in theirs:
            ours[name] = theirs[name]
    return dict(params) == {"train": ours}


def _fetched(folder: Path, cfg: TrainConfig, out: Path) -> TrainResult:
    """Copy what the job wrote, if it is whole and of this training."""
    source = folder / "out"
    try:
        said = read_json(source / TIMING_JSON)
        info = read_model_info(source / MODEL)
        read_weights(source / MODEL)
        with replaced_folder(out / MODEL, MODEL_FILES) as fresh:
            for name in MODEL_FILES:
                shutil.copyfile(source / MODEL / name, fresh / name)
        for name in (HISTORY, VALIDATION_HISTORY, RUN_JSON, TIMING_JSON):
            shutil.copyfile(source / name, out / name)
    except (DataError, OSError) as error:
        raise StorageError(
            "the TrainJob completed, and its result is not whole",
            evidence=str(error),
            action=f"Run it again: it goes on from its last checkpoint. Look at {source} if that repeats itself.",
        ) from error
    if folder_sha256(out / MODEL) != folder_sha256(source / MODEL) or not _is_of(info.params, cfg):
        raise StorageError(
            "the model folder that was fetched is not the one that this training made",
            evidence=str(source / MODEL),
            action="Check the volume, and run the step again.",
        )
    return TrainResult(out / MODEL, said["best_val_dice"], said["best_epoch"], said["epochs"])
