"""Versions of the registered model: one for each model folder, told apart by its content; and back to a folder.

The order of work makes an interruption harmless: everything is uploaded before the version is made, and the version is
made with all its tags in one call. What an interrupted registration leaves behind is a run and a logged model that no
version points to.
"""

import logging
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow.artifacts
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException

from sa2net.artifacts import MODEL_FILES, MODEL_JSON, folder_sha256, replaced_folder
from sa2net.errors import ConfigError, StorageError
from sa2net.registry import store
from sa2net.registry.packaging import FOLDER_IN_PACKAGE, write_package
from sa2net.registry.ready import READY, ready_weights

logger = logging.getLogger(__name__)
SHA_TAG = "model_sha256"
_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+))")
_ABOUT = "SA2Net: ribs, thoracic processes and lumbar lumps in ultrasound volume projection images of the spine."


@dataclass(frozen=True)
class Version:
    """A version of the registered model.

    Attributes:
        name: Registered model.
        number: Version, from 1.
        model_sha256: Identity of its model folder.
        created: Whether it was made just now.
        tags: Everything else that is known of it.
    """

    name: str
    number: int
    model_sha256: str
    created: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """Address of the version."""
        return f"models:/{self.name}/{self.number}"


def lock(name: str) -> FileLock:
    """Held by the one process on this machine that registers or promotes versions of a model."""
    folder = store.var_folder()
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"register-{name}.lock", timeout=600)


def find_version(client: MlflowClient, name: str, model_sha256: str) -> Version | None:
    """The version with these weights; of several the oldest."""
    found = client.search_model_versions(f"name = '{name}' and tags.`{SHA_TAG}` = '{model_sha256}'")
    return min((as_version(item) for item in found), key=lambda item: item.number, default=None)


def register_version(
    client: MlflowClient, model: Path, *, name: str, run_id: str, tags: Mapping[str, str], description: str = ""
) -> Version:
    """Make a model folder a version, unless it is one already.

    Args:
        client: The store.
        model: Model folder.
        name: Registered model; made if it is not there.
        run_id: Run that registers it.
        tags: What is known of it.
        description: Text for people, in Markdown.

    Returns:
        The version; `created` says whether it is new.
    """
    sha256 = folder_sha256(model)
    existing = find_version(client, name, sha256)
    if existing is not None:
        return existing
    _ensure_registered_model(client, name)
    model_id = _upload(client, model, name=name, run_id=run_id)
    with store.as_default(client.tracking_uri):
        made = client.create_model_version(
            name,
            source=f"models:/{model_id}",
            run_id=run_id,
            tags={**tags, SHA_TAG: sha256},
            description=description,
            model_id=model_id,
        )
    version = find_version(client, name, sha256)
    if version is None or version.number == int(made.version):
        return as_version(made, created=True)
    client.delete_model_version(name, made.version)  # another machine registered the same weights meanwhile
    return version


def as_version(item: Any, *, created: bool = False) -> Version:
    """What MLflow says of a version, in our terms."""
    return Version(item.name, int(item.version), item.tags.get(SHA_TAG, ""), created, dict(item.tags))


def find_number(client: MlflowClient, name: str, number: int) -> Version | None:
    """The version with this number; None if there is none (also for 0)."""
    if not number:
        return None
    try:
        return as_version(client.get_model_version(name, str(number)))
    except MlflowException as error:
        if store.is_absent(error):
            return None
        raise


def set_version_tags(client: MlflowClient, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version, in order."""
    for key, value in tags.items():
        client.set_model_version_tag(version.name, str(version.number), key, value)


def _ensure_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description=_ABOUT)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _upload(client: MlflowClient, model: Path, *, name: str, run_id: str) -> str:
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment, name=name, source_run_id=run_id, model_type="segmentation")
    status = LoggedModelStatus.FAILED
    try:
        with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
            package = Path(scratch) / "package"
            write_package(model, package, model_id=logged.model_id, run_id=run_id)
            client.log_model_artifacts(logged.model_id, str(package))
        client.log_outputs(run_id, models=[LoggedModelOutput(logged.model_id, step=0)])
        status = LoggedModelStatus.READY
    finally:
        client.finalize_logged_model(logged.model_id, status)
    model_id: str = logged.model_id
    return model_id


def with_alias(client: MlflowClient, name: str, alias: str) -> Version | None:
    """The version that an alias points to; None if there is no such model or alias."""
    try:
        return as_version(client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if store.is_absent(error):
            return None
        raise


def resolve(model: str) -> Path:
    """The model folder behind a path, a registry address, or `ready`.

    Args:
        model: A model folder, `models:/NAME@ALIAS`, `models:/NAME/NUMBER`, or `ready`: the weights of the project.

    Returns:
        The folder; one from the registry is kept under `var/models/` and fetched once.

    Raises:
        ConfigError: Neither a model folder nor such an address.
        StorageError: No such version, or it cannot be fetched, or it was changed since it was registered.
    """
    if model == READY:
        return ready_weights()
    if not model.startswith("models:"):
        return _local_folder(Path(model))
    address = _ADDRESS.fullmatch(model)
    if address is None:
        raise ConfigError(
            f"{model} is not an address of a version",
            action="Write models:/NAME@ALIAS or models:/NAME/NUMBER, for example models:/sa2net@champion.",
        )
    client = store.connect()
    with store.storage_errors(f"give {model}"):
        version = _look_up(client, address["name"], address["alias"], address["number"])
        if version is None:
            raise StorageError(
                f"there is no {model}",
                evidence=f"registry {store.public_uri(store.tracking_uri())}",
                action="Run `make run` first: it trains, registers and promotes; or give a model folder.",
            )
        return fetch(client, version)


def default_model(name: str = "sa2net") -> str:
    """What is used where nobody names a model: the champion, or `ready` while the registry holds no version at all.

    Args:
        name: Registered model.

    Raises:
        StorageError: The registry does not answer.
    """
    champion = f"models:/{name}@champion"
    uri = store.registry_uri()
    if not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists():
        client = store.connect()
        with store.storage_errors(f"list the versions of {name}"):
            if client.search_model_versions(f"name = '{name}'", max_results=1):
                return champion
    logger.warning(
        "no version of %s is registered: using the ready weights, which have learnt from phantoms alone", name
    )
    return READY


def fetch(client: MlflowClient, version: Version) -> Path:
    """The model folder of a version, from `var/models/` or from the registry.

    Raises:
        StorageError: The version holds no model folder of ours, or another one than was registered.
    """
    folder = store.var_folder() / "models" / version.name / (version.model_sha256 or f"version-{version.number}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if version.model_sha256 and folder.is_dir() and folder_sha256(folder) == version.model_sha256:
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch.") as scratch:
            with store.as_default(client.tracking_uri):
                fetched = Path(
                    mlflow.artifacts.download_artifacts(
                        artifact_uri=f"{version.uri}/{FOLDER_IN_PACKAGE}",
                        dst_path=scratch,
                        tracking_uri=client.tracking_uri,
                        registry_uri=store.registry_uri(),
                    )
                )
            _check(version, fetched)
            with replaced_folder(folder, MODEL_FILES) as fresh:
                for item in fetched.iterdir():
                    item.rename(fresh / item.name)
    return folder


def _check(version: Version, fetched: Path) -> None:
    if not (fetched / MODEL_JSON).is_file():
        raise StorageError(
            f"{version.uri} holds no model folder of this project", action="Name a version that `register` made."
        )
    if version.model_sha256 and folder_sha256(fetched) != version.model_sha256:
        raise StorageError(
            f"{version.uri} is not what was registered",
            evidence=f"sha256 {folder_sha256(fetched)[:12]}, registered {version.model_sha256[:12]}",
            action="Find out who changed the artifact store; train and register again, or use another version.",
        )


def _look_up(client: MlflowClient, name: str, alias: str | None, number: str | None) -> Version | None:
    return find_number(client, name, int(number or 0)) if alias is None else with_alias(client, name, alias)


def _local_folder(path: Path) -> Path:
    for folder in (path, path / "model"):
        if (folder / MODEL_JSON).is_file():
            return folder
    raise ConfigError(
        f"{path} is not a model folder",
        evidence=f"it holds no {MODEL_JSON}" if path.is_dir() else "no such folder",
        action="Name the folder that `sa2net train` wrote, or models:/sa2net@champion.",
    )
