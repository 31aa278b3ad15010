"""From the name of a version, or from a model folder, to everything that is known of it."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlflow.artifacts
from mlflow import MlflowClient
from pydantic import ValidationError

from sa2net.artifacts import SUBGROUPS, Estimate, folder_sha256
from sa2net.errors import ConfigError, StorageError
from sa2net.registry import audit, promotion, provenance, scored, store
from sa2net.registry.backup.documents import FIRST_TAG
from sa2net.registry.judgement import FIRST_SCORES
from sa2net.registry.packaging import FOLDER_IN_PACKAGE
from sa2net.registry.provenance import DOCUMENT, FOLDER, RUN_TAG, Provenance
from sa2net.registry.records import PACKAGES, Record, diff_name, diff_of, kept_text, packages_of, utc
from sa2net.registry.scored import Evaluation
from sa2net.registry.versions import SHA_TAG, Version, as_version, find_number, with_alias

_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+))")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Subgroup:
    """Dice of one class on one group of scans.

    Attributes:
        column: Column of `scans.csv`: device or severity.
        group: Its value.
        scans: Scans of the group.
        subjects: Their subjects.
        class_name: Foreground class, or mean.
        dice: Mean over these scans.
    """

    column: str
    group: str
    scans: int
    subjects: int
    class_name: str
    dice: Estimate


@dataclass(frozen=True)
class Lineage:
    """Everything that is known of a version.

    Attributes:
        version: The version.
        aliases: Aliases that point to it.
        registered: When it was registered, ISO 8601 in UTC.
        provenance: Where it comes from.
        packages: `name==version` of each package of the training; empty where that is lost.
        diffs: `diff_sha256` -> patch of the code; what is lost is absent.
        evaluation: Its scores, in a folder; None where they are lost.
        subgroups: Its scores by group.
        decision: The content of `decision.json`; empty where there is none.
        history: When the audit log says that something was done about it, and what; `sa2net audit` says by whom.
    """

    version: Version
    aliases: tuple[str, ...]
    registered: str
    provenance: Provenance
    packages: tuple[str, ...]
    diffs: Mapping[str, str]
    evaluation: Evaluation | None
    subgroups: tuple[Subgroup, ...] = ()
    decision: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()

    @property
    def phantom(self) -> bool:
        """Whether it was scored on synthetic scans."""
        return self.provenance.phantom


def connect() -> MlflowClient:
    """The client of the registry in use; unlike elsewhere, a store that is not there is not made.

    Raises:
        StorageError: There is no such store, or the server does not answer.
    """
    uri = store.tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise StorageError(
            "there is no registry here",
            evidence=uri,
            action="Set MLFLOW_TRACKING_URI or SA2NET_VAR to the one that holds the version, or run `make run`.",
        )
    return store.connect()


def find(client: MlflowClient, model: str) -> Version:
    """The version behind a name, an identity or a folder.

    Args:
        client: The store.
        model: `models:/NAME@ALIAS`, `models:/NAME/NUMBER`, the sha256 of a model folder (as a served model names it), or a
            model folder.

    Raises:
        ConfigError: None of these.
        StorageError: There is no such version.
    """
    address = _ADDRESS.fullmatch(model)
    if address is not None:
        number = int(address["number"] or 0)
        found = find_number(client, address["name"], number) if number else None
        found = with_alias(client, address["name"], address["alias"]) if address["alias"] else found
    else:
        sha256 = model if _SHA256.fullmatch(model) else _identity(model)
        versions = map(as_version, client.search_model_versions(f"tags.`{SHA_TAG}` = '{sha256}'"))
        found = min(versions, key=lambda item: (item.name, item.number), default=None)
    if found is None:
        raise StorageError(
            f"there is no version {model}",
            evidence=f"registry {store.public_uri(store.registry_uri())}",
            action="`sa2net registry` lists the versions; MLFLOW_TRACKING_URI or SA2NET_VAR names another registry.",
        )
    return found


def read(client: MlflowClient, version: Version, scratch: Path) -> Lineage:
    """Read everything that is known of a version.

    Args:
        client: The store.
        version: The version.
        scratch: Folder for what is fetched; must live as long as the result.

    Raises:
        StorageError: The registry cannot be read.
    """
    evaluation = _first_evaluation(client, version, scratch)
    run_id = version.tags.get(RUN_TAG, "")
    kept = _kept(client, run_id)
    if kept is not None:
        found = _as_tagged(kept, version)
    else:  # registered by an earlier version of this project, or its run is gone
        runs = {step: version.tags.get(f"{name}_run", "") for step, name in _RUNS.items()}
        model = download(client, version, scratch / "model")
        folder = None if evaluation is None else evaluation.folder
        found = provenance.collect(client, model, folder, runs=runs)
    made = client.get_model_version(version.name, str(version.number))
    log = audit.read_log(client, version.name)
    return Lineage(
        version=version,
        aliases=promotion.aliases_of(client, version),
        registered=utc(int(version.tags.get(FIRST_TAG) or made.creation_timestamp)),  # an import makes it anew
        provenance=found,
        packages=_packages(client, run_id, found),
        diffs=dict(_diffs(client, run_id, found)),
        evaluation=evaluation,
        subgroups=_subgroups(kept_text(client, run_id, f"{FOLDER}/{SUBGROUPS}") or ""),
        decision=scored.kept_decision(client, version, version.tags.get(scored.DECISION_KEY_TAG, "")) or {},
        history=tuple((entry.time, entry.action) for entry in log.about(version.number)),
    )


_RUNS = {"train": "training", "evaluate": "evaluation"}


def _as_tagged(found: Provenance, version: Version) -> Provenance:
    """The runs by the ids that the version's tags have: a registry that was restored elsewhere has other ones."""
    renamed = {
        name: record.model_copy(update={"run_id": version.tags.get(f"{name}_run") or record.run_id})
        for name, record in (("training", found.training), ("evaluation", found.evaluation))
    }
    return found.model_copy(update=renamed)


def download(client: MlflowClient, version: Version, folder: Path) -> Path:
    """Fetch the model folder of a version to a place of one's own.

    Raises:
        StorageError: It cannot be fetched, or is not what was registered.
    """
    with store.as_default(client.tracking_uri), store.storage_errors(f"give {version.uri}"):
        address = f"{version.uri}/{FOLDER_IN_PACKAGE}"
        uris = {"tracking_uri": client.tracking_uri, "registry_uri": store.registry_uri()}
        fetched = Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder), **uris))
    if folder_sha256(fetched) != version.model_sha256:
        raise StorageError(
            f"{version.uri} is not what was registered",
            evidence=f"sha256 {folder_sha256(fetched)[:12]}, registered {version.model_sha256[:12]}",
            action="Find out who changed the artifact store; train and register again, or use another version.",
        )
    return fetched


def _identity(model: str) -> str:
    for folder in (Path(model), Path(model) / "model"):
        if (folder / "model.json").is_file():
            return folder_sha256(folder)
    raise ConfigError(
        f"{model} is not an address of a version",
        action="Write models:/NAME@ALIAS or models:/NAME/NUMBER, the sha256 of a model folder, or name such a folder.",
    )


def _first_evaluation(client: MlflowClient, version: Version, scratch: Path) -> Evaluation | None:
    """The evaluation that the version was registered with; a champion may have been scored again since."""
    own = {scored.SCORED_RUN_TAG: version.tags.get("register_run", ""), scored.SCORED_PATH_TAG: FIRST_SCORES}
    (scratch / "scored").mkdir(parents=True, exist_ok=True)
    for tags in ({**version.tags, **own}, version.tags):
        found = scored.kept_evaluation(client, replace(version, tags=tags), scratch / "scored")
        if found is not None:
            return found
    return None


def _kept(client: MlflowClient, run_id: str) -> Provenance | None:
    text = kept_text(client, run_id, f"{FOLDER}/{DOCUMENT}")
    if text is None:
        return None
    try:
        return Provenance.model_validate_json(text)
    except ValidationError as error:
        raise StorageError(
            f"{FOLDER}/{DOCUMENT} of run {run_id} cannot be used",
            evidence=str(error),
            action="Read it with the version of this project that wrote it; or take it from a backup of the registry.",
        ) from error


def _packages(client: MlflowClient, run_id: str, found: Provenance) -> tuple[str, ...]:
    listed = kept_text(client, run_id, f"{FOLDER}/{PACKAGES}")
    return tuple(packages_of(client, found.training) if listed is None else listed.splitlines())


def _diffs(client: MlflowClient, run_id: str, found: Provenance) -> Mapping[str, str]:
    def patch(record: Record) -> str:
        kept = kept_text(client, run_id, f"{FOLDER}/{diff_name(record)}")
        return diff_of(client, record) if kept is None else kept

    records = [record for record in (found.training, found.evaluation) if record.get("diff_sha256")]
    return {record.get("diff_sha256"): text for record in records if (text := patch(record))}


def _subgroups(table: str) -> tuple[Subgroup, ...]:
    return tuple(
        Subgroup(
            column=row["column"],
            group=row["group"],
            scans=int(row["scans"]),
            subjects=int(row["subjects"]),
            class_name=row["class"],
            dice=Estimate(value=float(row["dice"]), **{end: float(row[end]) for end in ("low", "high") if row[end]}),
        )
        for row in csv.DictReader(io.StringIO(table))
    )
