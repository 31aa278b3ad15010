"""Where a version comes from: gathered once, when it is registered, and kept with the run that registers it.

The facts lie in the runs of the steps (`sa2net.registry.records`). A run may be deleted, lie in another MLflow, or have
been skipped because DVC restored its outputs; so what can be found is put together here in one document, and what cannot
be found stays empty and is called unknown.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from pydantic import BaseModel, ConfigDict

from sa2net.artifacts import (
    SCORES,
    SUBGROUPS,
    WEIGHTS,
    file_sha256,
    folder_sha256,
    read_model_info,
    read_scores,
    write_json,
    write_text,
)
from sa2net.registry import store
from sa2net.registry.ready import READY
from sa2net.registry.records import PACKAGES, Record, diff_name, diff_of, find_record, packages_of, section_of, utc
from sa2net.registry.tags import STEP_TAG
from sa2net.registry.versions import SHA_TAG, as_version

FOLDER = "provenance"
"""Where a register run keeps these files."""
DOCUMENT = "provenance.json"
RUN_TAG = "provenance_run"
"""Tag of a version: the run that keeps them."""


class Provenance(BaseModel):
    """Everything that is known of where a version comes from.

    Attributes:
        model_sha256: Identity of the model folder.
        weights_sha256: Of the weights alone.
        data_md5: Identity of the data set that it was trained on.
        manifest_sha256: Of the manifest, which holds the splits; empty where it is not known.
        scored_data_md5: Identity of the data set that it was scored on; empty where the scores are lost.
        split: The split that it was scored on.
        phantom: Whether synthetic scans are among the scored ones.
        network: The network's settings.
        class_names: In the order of their ids.
        sweep_width: Working scale, px.
        spacing_mm: Pixel at working scale (x, y), mm; empty where it is not known.
        params: Section -> settings, each whole; a section that is not known is empty.
        init_from: What the training was told to start from; empty from scratch.
        parent_model: Identity of the model folder that it started from.
        parent_version: The version with that identity, `models:/NAME/NUMBER`; empty where there is none.
        earlier_runs: Runs that were interrupted, from whose checkpoint this training went on.
        training: The training.
        evaluation: The evaluation.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())
    schema_version: int = 1
    model_sha256: str
    weights_sha256: str
    data_md5: str
    manifest_sha256: str = ""
    scored_data_md5: str = ""
    split: str = ""
    phantom: bool = False
    network: dict[str, Any]
    class_names: tuple[str, ...]
    sweep_width: int
    spacing_mm: tuple[float, ...] = ()
    params: dict[str, dict[str, Any]]
    init_from: str = ""
    parent_model: str = ""
    parent_version: str = ""
    earlier_runs: tuple[str, ...] = ()
    training: Record
    evaluation: Record

    def seeds(self) -> dict[str, int]:
        """Section and key -> seed."""
        return {
            f"{section}.{key}": int(value)
            for section, settings in self.params.items()
            for key, value in settings.items()
            if key.endswith("seed")
        }

    def started_from(self) -> str:
        """What the training started from, without a path of somebody's machine; empty from scratch."""
        if not self.init_from:
            return ""
        named = self.init_from == READY or self.init_from.startswith("models:/")
        address = self.init_from if named else "a model folder"
        return self.parent_version or address

    def settings(self, section: str) -> dict[str, Any]:
        """A section as it may be shown to others: no path of somebody's machine is in it."""
        hidden = {"init_from": self.started_from()} if section == "train" and self.params.get("train") else {}
        return {**self.params.get(section, {}), **hidden}

    def tags(self) -> dict[str, str]:
        """What people look for, as tags of a version; empty text = not known."""
        training, evaluation = self.training, self.evaluation
        return {
            "training_run": training.run_id,
            "evaluation_run": evaluation.run_id,
            "training_revision": training.get("revision"),
            "training_dirty": training.get("dirty"),
            "evaluation_revision": evaluation.get("revision"),
            "evaluation_dirty": evaluation.get("dirty"),
            "evaluator_sha256": evaluation.get("evaluator_sha256"),
            "manifest_sha256": self.manifest_sha256,
            "weights_sha256": self.weights_sha256,
            "lock_sha256": training.get("lock_sha256"),
            "constraints_sha256": training.get("constraints_sha256"),
            "image": training.get("image"),
            "python": training.get("python"),
            "torch": training.get("package.torch"),
            "cpu": training.get("cpu"),
            "gpus": training.get("gpus"),
            "device": training.get("device"),
            "threads": training.get("threads"),
            "processes": training.get("processes"),
            "seeds": ", ".join(f"{name} {seed}" for name, seed in self.seeds().items()),
            "parent_model": self.parent_model,
            "parent_version": self.parent_version,
            "resumed_after_epoch": training.get("resumed_after_epoch"),
        }


def keep(
    client: MlflowClient, run_id: str, *, model: Path, evaluation: Path, register: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Gather where a model comes from, and store it with the run that registers it.

    Args:
        client: The store.
        run_id: That run.
        model: Model folder.
        evaluation: Evaluation folder of that model.
        register: The register section.

    Returns:
        The tags of the version.
    """
    found = collect(client, model, evaluation, register=register)
    with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
        folder = Path(scratch) / FOLDER
        write_json(folder / DOCUMENT, found.model_dump(mode="json"))
        packages = packages_of(client, found.training)
        if packages:
            write_text(folder / PACKAGES, "".join(f"{line}\n" for line in packages))
        for record in (found.training, found.evaluation):
            diff = diff_of(client, record)
            if diff:
                write_text(folder / diff_name(record), diff)
        if (evaluation / SUBGROUPS).is_file():
            write_text(folder / SUBGROUPS, (evaluation / SUBGROUPS).read_text(encoding="utf-8"))
        client.log_artifacts(run_id, str(folder), FOLDER)
    return {**found.tags(), RUN_TAG: run_id}


def collect(
    client: MlflowClient,
    model: Path,
    evaluation: Path | None,
    *,
    register: Mapping[str, Any] | None = None,
    runs: Mapping[str, str] | None = None,
) -> Provenance:
    """Gather where a model comes from.

    Args:
        client: The store.
        model: Model folder.
        evaluation: Folder with its `scores.json`; None where that is lost.
        register: The register section.
        runs: Step -> its run, where that is known already.
    """
    known = runs or {}
    info, sha256 = read_model_info(model), folder_sha256(model)
    training = find_record(client, model, "train", {"model_sha256": sha256}, run_id=known.get("train", ""))
    scores, scored = None, Record(run_id=known.get("evaluate", ""))
    if evaluation is not None:
        scores = read_scores(evaluation / SCORES)
        made = {"scores_sha256": file_sha256(evaluation / SCORES), "model_sha256": sha256}
        scored = find_record(client, evaluation, "evaluate", made, run_id=scored.run_id)
    train = dict(info.params.get("train", {}))
    init_from, parent = str(train.get("init_from", "")), training.get("parent_model")
    return Provenance(
        model_sha256=sha256,
        weights_sha256=file_sha256(model / WEIGHTS),
        data_md5=info.data_md5,
        manifest_sha256=training.get("manifest_sha256"),
        scored_data_md5=scores.data_md5 if scores else "",
        split=scores.split if scores else "",
        phantom=scores.phantom if scores else False,
        network=info.model.model_dump(mode="json"),
        class_names=info.class_names,
        sweep_width=info.sweep_width,
        spacing_mm=info.spacing_mm,
        params={
            "validate": _validation_params(client, training),
            "train": train,
            "evaluate": section_of(client, scored, "evaluate"),
            "register": dict(register or {}),
        },
        init_from=init_from,
        parent_model=parent,
        parent_version=_parent_version(client, init_from, parent),
        earlier_runs=_earlier_runs(client, training),
        training=training.without_params(),
        evaluation=scored.without_params(),
    )


def _validation_params(client: MlflowClient, training: Record) -> dict[str, Any]:
    if training.get("validation_params"):
        return dict(json.loads(training.get("validation_params")))
    return section_of(client, Record(run_id=training.get("validation_run")), "validate")


def _parent_version(client: MlflowClient, init_from: str, sha256: str) -> str:
    """The version with these weights: one of the model that was named, if there is one; of several the oldest."""
    name = init_from.removeprefix("models:/").partition("@")[0].partition("/")[0]
    found = client.search_model_versions(f"tags.`{SHA_TAG}` = '{sha256}'") if sha256 else []
    versions = sorted(map(as_version, found), key=lambda item: (item.name != name, item.name, item.number))
    return versions[0].uri if versions else ""


def _earlier_runs(client: MlflowClient, training: Record) -> tuple[str, ...]:
    """Runs of the same training before this one, oldest first; none if it did not go on from a checkpoint."""
    key, resumed = training.get("checkpoint_key"), training.get("resumed_after_epoch")
    if not key or resumed in ("", "0"):
        return ()
    clause = f"tags.`{STEP_TAG}` = 'train' and tags.checkpoint_key = '{key}'"
    runs = client.search_runs([store.experiment_id(client)], clause, order_by=["start_time ASC"])
    started = [(run.info.run_id, utc(run.info.start_time)) for run in runs if run.info.run_id != training.run_id]
    return tuple(run_id for run_id, time in started if time <= training.get("started"))
