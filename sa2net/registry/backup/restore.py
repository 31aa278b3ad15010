"""A backup into a registry that holds nothing under the name: all of it, or nothing that can be seen.

In this order, so that an interruption is harmless and a repetition goes on: runs, files of the versions, then the log and the
model under names of their own, last of all their real names.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from pydantic import ValidationError
from tqdm import tqdm

from sa2net.errors import StorageError
from sa2net.registry import audit, store, witness
from sa2net.registry.audit import Log
from sa2net.registry.backup.collect import State, read_registered
from sa2net.registry.backup.documents import FIRST_TAG, IMPORT_TAG, REGISTRY, Content, Registered, VersionRecord, mapped
from sa2net.registry.backup.import_models import LOST, PackageImporter, RegistryImporter, comparable
from sa2net.registry.backup.import_runs import RunImporter
from sa2net.registry.backup.reader import Reader, damaged, first_problem, reading
from sa2net.registry.versions import lock


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    Attributes:
        name: Registered model.
        identity: sha256 of the backup's manifest.
        content: The model and its log, as the backup has them.
        log: The log, followed.
        runs: Old id -> new one.
        faults: Why the log does not verify here, as sentences.
        notes: What a person should know, as sentences.
    """

    name: str
    identity: str
    content: Content
    log: Log
    runs: Mapping[str, str]
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def restore(
    client: MlflowClient, file: Path, *, name: str = "", signers: Sequence[str] = (), progress: bool = False
) -> Imported:
    """Import a backup.

    Args:
        client: The store.
        file: What `export` wrote.
        name: What the registered model is to be called; empty = as before.
        signers: NAME:KEY of those who may write the log; empty = anybody whose signature is right.
        progress: Show progress bars.

    Raises:
        ConfigError: There is no such file.
        StorageError: The file is damaged, the registry holds something under that name, or cannot be written.
    """
    with reading(file) as backup:
        backup.verify(progress=progress)
        content = _content(backup)
        name = name or backup.manifest.name
        state = State(content, audit.follow(name, content.stored_log(), signers=signers))
        with _resumable(name), lock(name):
            log_is_there = _check_empty(client, name, content, backup.identity)
            ids = _bring(client, backup, content, name, log_is_there=log_is_there, progress=progress)
    return Imported(
        name=name,
        identity=backup.identity,
        content=content,
        log=state.log,
        runs=ids,
        faults=state.log.faults or witness.compare(state.log),
        notes=(*state.notes(), *(f"when it was exported: {fault}" for fault in backup.manifest.faults)),
    )


def _bring(
    client: MlflowClient, backup: Reader, content: Content, name: str, *, log_is_there: bool, progress: bool
) -> Mapping[str, str]:
    runs = RunImporter(client, backup, name)
    versions = content.model.versions
    with tqdm(total=len(runs) + len(versions), desc="import", unit="item", disable=not progress) as bar:
        ids = runs.bring(bar.update)
        models = PackageImporter(client, backup, runs).bring(versions, name, bar.update)
    maker = RegistryImporter(client, backup.identity)
    wanted = _as_imported(content.model, ids, models, backup.manifest.name, name)
    staged_log = ""
    if content.log is not None and not log_is_there:
        staged_log = maker.build(audit.log_name(name), content.log, {})
    staged = maker.build(name, wanted, models)
    if staged_log:
        maker.put_in_place(staged_log, audit.log_name(name))
    maker.put_in_place(staged, name)
    maker.clear_away(name)
    runs.clear_away()
    return ids


def _content(backup: Reader) -> Content:
    try:
        return Content.model_validate_json(backup.text(REGISTRY))
    except ValidationError as error:
        raise damaged(backup.file, f"{REGISTRY}: {first_problem(error)}") from error


def _as_imported(
    model: Registered, ids: Mapping[str, str], models: Mapping[int, str], old_name: str, name: str
) -> Registered:
    """The model as it should be here: other ids of runs, perhaps another name, and the time that MLflow sets anew as a tag."""

    def renewed(version: VersionRecord) -> VersionRecord:
        tags = {FIRST_TAG: str(version.created), **mapped(version.tags, ids, old_name, name)}
        source = "" if version.number in models else version.source or LOST
        return version.model_copy(update={"tags": tags, "run_id": ids.get(version.run_id, ""), "source": source})

    return model.model_copy(update={"versions": tuple(map(renewed, model.versions))})


def _check_empty(client: MlflowClient, name: str, content: Content, identity: str) -> bool:
    """Refuse a registry that holds something under the name.

    Returns:
        Whether the log is there already: an import of this backup was interrupted between the two last steps.
    """
    model, log = read_registered(client, name), read_registered(client, audit.log_name(name))
    if model is None and log is None:
        return False
    ours = log is not None and log.tags.get(IMPORT_TAG) == identity
    if model is None and ours and log and content.log and comparable(log) == comparable(content.log):
        return True
    parts = [
        f"{title} has {len(found.versions)} {unit}"
        for title, found, unit in ((name, model, "versions"), (audit.log_name(name), log, "entries"))
        if found is not None
    ]
    again = model is not None and model.tags.get(IMPORT_TAG) == identity
    raise StorageError(
        f"{name} was imported from this backup already" if again else f"the registry is not empty under {name}",
        evidence=", ".join(parts),
        action="Import under another name with --name, or into another registry (MLFLOW_TRACKING_URI, SA2NET_VAR). "
        "To replace what is there, export it first, then delete both registered models in MLflow.",
    )


@contextmanager
def _resumable(name: str) -> Iterator[None]:
    try:
        with store.storage_errors("take the import"):
            yield
    except StorageError as error:
        if error.__cause__ is None:  # a refusal of ours, which says itself what to do
            raise
        raise StorageError(
            error.what,
            evidence=error.evidence,
            action=f"{error.action} Then repeat the same command: it goes on where it was. "
            f"Until it is done, nothing is to be seen under {name}.",
        ) from error
