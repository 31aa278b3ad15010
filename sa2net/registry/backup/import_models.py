"""Versions and log of a backup into a registry: the same numbers, and nothing under its name before all of it is right.

Both registered models are built under a name of their own (`NAME.import-...`), read back, and then renamed: a rename is one
transaction of the server, and refuses a name that is taken. What an interrupted import leaves behind is called so.
"""

import json
import logging
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException

from sa2net.artifacts import file_sha256
from sa2net.errors import StorageError
from sa2net.registry import store
from sa2net.registry.backup.collect import read_registered
from sa2net.registry.backup.documents import FROM_TAG, IMPORT_TAG, VERSIONS, LoggedModel, Registered, VersionRecord
from sa2net.registry.backup.import_runs import RunImporter
from sa2net.registry.backup.origin import UNFINISHED, former, search_logged_models
from sa2net.registry.backup.reader import Reader

LOST = "sa2net:/files-are-gone"
"""Source of a version whose files were gone when the backup was made."""
_LINKS = "mlflow.modelVersions"
"""Tag by which MLflow's page of a logged model finds its versions."""
_ABOUT = "Half of an import of a backup. It may be deleted; importing the file again does that too."

log = logging.getLogger(__name__)


class PackageImporter:
    """Brings the files of versions, as logged models, and checks them by fetching them again."""

    def __init__(self, client: MlflowClient, backup: Reader, runs: RunImporter) -> None:
        """Prepare.

        Args:
            client: The store.
            backup: The backup, verified.
            runs: Its runs, which are there already.
        """
        self._client, self._backup, self._runs = client, backup, runs
        self._ids: dict[str, str] = {}
        self._done: set[str] = set()

    def bring(self, versions: tuple[VersionRecord, ...], name: str, advance: Callable[[], object]) -> dict[int, str]:
        """Upload the files of all versions that have any, or what an earlier import left to do of it.

        Args:
            versions: As the backup has them.
            name: What the registered model is to be called.
            advance: Called after each version.

        Returns:
            Version -> logged model.

        Raises:
            StorageError: What was uploaded comes back as something else.
        """
        for found in search_logged_models(self._client, IMPORT_TAG, f"{self._backup.identity}%"):
            old = found.tags.get(FROM_TAG, "").partition(" ")[0]
            whole = found.tags[IMPORT_TAG] == self._backup.identity
            if whole or old not in self._done:
                self._ids[old] = found.model_id
            if whole:
                self._done.add(old)
        made: dict[int, str] = {}
        for version in versions:
            if self._backup.files(f"{VERSIONS}{version.number}/"):
                made[version.number] = self._bring(version, name)
            advance()
        return made

    def _bring(self, version: VersionRecord, name: str) -> str:
        run_id = self._runs.ids.get(version.run_id, "")
        experiment = version.logged.experiment if version.logged else store.DEFAULT_EXPERIMENT
        known = version.logged or LoggedModel(id=f"version-{version.number}", name=name, experiment=experiment)
        if known.id not in self._ids:
            self._ids[known.id] = self._create(known, run_id)
        model_id = self._ids[known.id]
        if known.id not in self._done:
            self._upload(model_id, version)
            if run_id and not self._is_output(run_id, model_id):
                self._client.log_outputs(run_id, models=[LoggedModelOutput(model_id, step=0)])
            self._client.finalize_logged_model(model_id, LoggedModelStatus.READY)
            self._client.set_logged_model_tags(model_id, {IMPORT_TAG: self._backup.identity})
            self._done.add(known.id)
        return model_id

    def _create(self, known: LoggedModel, run_id: str) -> str:
        tags = {key: value for key, value in known.tags.items() if key != _LINKS}
        tags |= {IMPORT_TAG: self._backup.identity + UNFINISHED, FROM_TAG: former(known.id, known.tags)}
        experiment = self._runs.experiment(known.experiment)
        made = self._client.create_logged_model(
            experiment, known.name, run_id or None, tags, known.params, known.model_type or None
        )
        return str(made.model_id)

    def _is_output(self, run_id: str, model_id: str) -> bool:
        outputs = self._client.get_run(run_id).outputs
        return outputs is not None and any(output.model_id == model_id for output in outputs.model_outputs)

    def _upload(self, model_id: str, version: VersionRecord) -> None:
        with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
            package = Path(scratch) / "package"
            items = self._backup.extract(f"{VERSIONS}{version.number}/", package)
            self._client.log_model_artifacts(model_id, str(package))
        wanted = {name: item.sha256 for name, item in items.items()}
        found = self._fetch(model_id)
        different = sorted(dict(found.items() ^ wanted.items()))
        if different:
            raise StorageError(
                f"the files of version {version.number} are not the same after the upload",
                evidence=", ".join(different[:3]),
                action="Look at the artifact store (is its disk full?), then repeat the command.",
            )

    def _fetch(self, model_id: str) -> dict[str, str]:
        """Name -> sha256 of the files of a logged model, as the store gives them back."""
        with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch, store.as_default(self._client.tracking_uri):
            location = self._client.get_logged_model(model_id).artifact_location
            fetched = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=location, dst_path=scratch, tracking_uri=self._client.tracking_uri
                )
            )
            files = [path for path in fetched.rglob("*") if path.is_file()]
            return {path.relative_to(fetched).as_posix(): file_sha256(path) for path in files}


class RegistryImporter:
    """Makes registered models from a backup."""

    def __init__(self, client: MlflowClient, identity: str) -> None:
        """Prepare.

        Args:
            client: The store.
            identity: Of the backup; the tag of what is made from it.
        """
        self._client, self._identity = client, identity

    def build(self, name: str, wanted: Registered, models: Mapping[int, str]) -> str:
        """Make a registered model whole, under a name of its own.

        Args:
            name: What it is to be called in the end.
            wanted: What it should be, with the new ids of runs.
            models: Version -> logged model that holds its files.

        Returns:
            What it is called now.

        Raises:
            StorageError: It did not become what it should be.
        """
        staged = f"{name}.import-{uuid.uuid4().hex[:12]}"
        tags = {**wanted.tags, IMPORT_TAG: self._identity + UNFINISHED}
        self._client.create_registered_model(staged, tags=tags, description=_ABOUT)
        versions = {version.number: version for version in wanted.versions}
        for number in range(1, wanted.last + 1):
            self._make_version(staged, number, versions.get(number), models.get(number, ""))
        for alias, number in wanted.aliases.items():
            self._client.set_registered_model_alias(staged, alias, str(number))
        for model_id in models.values():
            self._link(model_id, staged, name)
        self._client.update_registered_model(staged, wanted.description)
        self._client.set_registered_model_tag(staged, IMPORT_TAG, self._identity)
        found = read_registered(self._client, staged)
        if found is None or comparable(found) != comparable(wanted):
            raise StorageError(
                f"{name} did not become what the backup says",
                evidence=_difference(found, wanted),
                action="Repeat the command. If it happens again, another version of MLflow may be at the other end.",
            )
        return staged

    def put_in_place(self, staged: str, name: str) -> None:
        """Give what was built its name.

        Raises:
            StorageError: Somebody took the name meanwhile.
        """
        try:
            self._client.rename_registered_model(staged, name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            raise StorageError(
                f"somebody made {name} while the import was going on",
                action=f"Look at `sa2net registry {name}`; import under another name with --name.",
            ) from None

    def clear_away(self, name: str) -> None:
        """Delete what interrupted imports of the same backup left behind."""
        for part in (f"{name}.import-", f"{name}.audit.import-"):
            for found in list(self._client.search_registered_models(f"name LIKE '{part}%'", max_results=1000)):
                if found.name.startswith(part) and found.tags.get(IMPORT_TAG, "").startswith(self._identity):
                    log.info("deleting %s, which an interrupted import left behind", found.name)
                    self._client.delete_registered_model(found.name)

    def _make_version(self, name: str, number: int, version: VersionRecord | None, model_id: str) -> None:
        client = self._client
        record = version or VersionRecord(number=number, source=LOST)
        with store.as_default(client.tracking_uri):
            made = client.create_model_version(
                name,
                source=f"models:/{model_id}" if model_id else record.source,
                run_id=record.run_id or None,
                tags=record.tags,
                description=record.description or None,
                await_creation_for=0,
                model_id=model_id or None,
            )
        if int(made.version) != number:
            raise StorageError(
                f"the registry gave the number {made.version} to version {number}", action="Repeat the command."
            )
        if version is None:  # it was deleted; its number is never given again
            client.delete_model_version(name, str(number))

    def _link(self, model_id: str, staged: str, name: str) -> None:
        text = self._client.get_logged_model(model_id).tags.get(_LINKS, "")
        if staged in text:
            items = [{**item, "name": name} if item["name"] == staged else item for item in json.loads(text)]
            kept = [item for item in items if ".import-" not in item["name"]]
            self._client.set_logged_model_tags(model_id, {_LINKS: json.dumps(kept)})


def comparable(registered: Registered) -> dict[str, object]:
    """What must be the same before and after."""
    return {
        "description": registered.description,
        "aliases": registered.aliases,
        "tags": {key: value for key, value in registered.tags.items() if key != IMPORT_TAG},
        **{
            f"version {version.number}": (version.description, version.tags, version.run_id, version.source)
            for version in registered.versions
        },
    }


def _difference(found: Registered | None, wanted: Registered) -> str:
    if found is None:
        return "it is gone"
    was, should = comparable(found), comparable(wanted)
    return ", ".join(sorted(key for key in was.keys() | should.keys() if was.get(key) != should.get(key))[:3])
