"""What is to be kept of a registered model: read from the registry as one state, though others may be writing."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from sa2net.errors import StorageError
from sa2net.registry import audit, ledger, store
from sa2net.registry.audit import Log
from sa2net.registry.backup.documents import (
    Content,
    DatasetRecord,
    LoggedModel,
    Registered,
    RunRecord,
    VersionRecord,
    names_runs,
)
from sa2net.registry.backup.origin import current_run
from sa2net.registry.provenance import DOCUMENT, FOLDER, RUN_TAG
from sa2net.registry.records import kept_text

_MODEL = "models:/m-"


@dataclass(frozen=True)
class State:
    """The registry at one moment.

    Attributes:
        content: The model and its log.
        log: The log, followed.
    """

    content: Content
    log: Log

    def notes(self) -> tuple[str, ...]:
        """What a person should know of it, as sentences."""
        said = {alias: number for alias, number in asdict(self.log.state).items() if number}
        really = {alias: number for alias, number in self.content.model.aliases.items() if alias in audit.ALIASES}
        different = [alias for alias in audit.ALIASES if said.get(alias) != really.get(alias)]
        head = self.log.head
        if head is not None and not head.applied:
            return ("the last entry of the audit log is not carried out; the next command finishes it",)
        if head is not None and different:
            texts = [
                f"{alias} is {really.get(alias, 'none')}, it says {said.get(alias, 'none')}" for alias in different
            ]
            return (f"the aliases are not those of the audit log: {', '.join(texts)}",)
        return ()


def settled_state(client: MlflowClient, name: str, *, signers: tuple[str, ...] = (), seconds: float = 0.0) -> State:
    """Read a registered model with its log when nobody is at work.

    Two readings after each other must say the same, and the last entry of the log must be carried out.

    Args:
        client: The store.
        name: Registered model.
        signers: NAME:KEY of those who may write its log; empty = anybody whose signature is right.
        seconds: How long somebody who is at work is waited for; 0 = as long as a lease. An entry that is still not carried
            out then is one whose writer died.

    Raises:
        StorageError: There is no such model, or it never stands still.
    """
    until = ledger.now() + (seconds or ledger.LEASE)
    before: Content | None = None
    while True:
        model = read_registered(client, name)
        if model is None:
            raise StorageError(
                f"the registry has no model {name}",
                evidence=store.public_uri(store.registry_uri()),
                action="Name another one with --name, or set MLFLOW_TRACKING_URI or SA2NET_VAR to the registry that has it.",
            )
        content = _with_last(Content(model=model, log=read_registered(client, audit.log_name(name))))
        log = audit.follow(name, content.stored_log(), signers=signers)
        over = ledger.now() > until
        if content == before and (log.head is None or log.head.applied or log.faults or over):
            return State(content, log)
        if content != before and over:
            raise StorageError(
                f"{name} is being changed all the time", action="Repeat the command when nobody registers or promotes."
            )
        before = content
        time.sleep(0.1)


def read_registered(client: MlflowClient, name: str) -> Registered | None:
    """Read a registered model; None if there is none."""
    try:
        found = client.get_registered_model(name)
    except MlflowException as error:
        if store.is_absent(error):
            return None
        raise
    versions = sorted((_version(client, item) for item in _versions(client, name)), key=lambda item: item.number)
    numbers = {version.number for version in versions}
    aliases = {alias: int(number) for alias, number in sorted(found.aliases.items()) if int(number) in numbers}
    return Registered(
        description=found.description or "",
        tags=dict(sorted(found.tags.items())),
        aliases=aliases,
        versions=tuple(versions),
        last=max(numbers, default=0),
    )


def runs_of(client: MlflowClient, state: State) -> tuple[dict[str, RunRecord], tuple[str, ...]]:
    """The runs that tell where the versions come from, and those above and beside them that these name.

    Returns:
        Run id -> run, and the ids of runs that are named and gone; a run in MLflow's trash is gone, and so is one that
        this user may not read.
    """
    wanted = list(dict.fromkeys(_first_runs(client, state)))
    found: dict[str, RunRecord] = {}
    gone: set[str] = set()
    names: dict[str, str] = {}
    while wanted:
        run_id = wanted.pop()
        if run_id in found or run_id in gone:
            continue
        run = _run(client, run_id)
        if run is None:
            gone.add(run_id)
        elif run.info.run_id not in found:  # what came by an import is known by older ids too
            found[run.info.run_id] = _record(client, run, names)
            wanted += names_runs(run.data.tags).values()
    return dict(sorted(found.items())), tuple(sorted(gone))


def _first_runs(client: MlflowClient, state: State) -> Iterator[str]:
    for version in state.content.model.versions:
        yield from names_runs(version.tags).values()
        if version.run_id:
            yield version.run_id
        yield from _earlier_runs(client, version.tags)
    for entry in state.log.entries:
        decision = entry.facts.get("decision_run")
        if isinstance(decision, str) and decision:
            yield decision


def _earlier_runs(client: MlflowClient, tags: Mapping[str, str]) -> list[str]:
    """Interrupted runs of the training, which only the provenance names."""
    run = _run(client, tags.get(RUN_TAG, ""))
    text = None if run is None else kept_text(client, run.info.run_id, f"{FOLDER}/{DOCUMENT}")
    try:
        return [str(run_id) for run_id in json.loads(text or "{}").get("earlier_runs", ())]
    except (ValueError, AttributeError, TypeError):
        return []


def _run(client: MlflowClient, run_id: str) -> Run | None:
    current = current_run(client, run_id)
    run = client.get_run(current) if current else None
    return run if run is not None and run.info.lifecycle_stage == "active" else None


def _record(client: MlflowClient, run: Run, names: dict[str, str]) -> RunRecord:
    experiment = run.info.experiment_id
    if experiment not in names:
        names[experiment] = client.get_experiment(experiment).name
    return RunRecord(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        experiment=names[experiment],
        status=run.info.status,
        start_time=run.info.start_time or 0,
        end_time=run.info.end_time or 0,
        params=dict(sorted(run.data.params.items())),
        tags=dict(sorted(run.data.tags.items())),
        datasets=tuple(sorted(map(_dataset, run.inputs.dataset_inputs), key=_place)) if run.inputs else (),
    )


def _dataset(item: Any) -> DatasetRecord:
    found = item.dataset
    return DatasetRecord(
        name=found.name,
        digest=found.digest,
        source_type=found.source_type,
        source=found.source,
        table_schema=found.schema or "",
        profile=found.profile or "",
        tags={tag.key: tag.value for tag in item.tags},
    )


def _place(record: DatasetRecord) -> tuple[str, str]:
    return record.name, record.digest


def _with_last(content: Content) -> Content:
    """A number that the log knows was given, even where its version is gone: it must not be given again."""
    known, log = [content.model.last], audit.follow("", content.stored_log())
    for entry in () if log.faults else log.entries:
        known += [entry.version, *asdict(entry.state).values()]
    return content.model_copy(update={"model": content.model.model_copy(update={"last": max(known)})})


def _versions(client: MlflowClient, name: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _version(client: MlflowClient, item: Any) -> VersionRecord:
    source = str(item.source or "")
    return VersionRecord(
        number=int(item.version),
        description=item.description or "",
        tags=dict(sorted(item.tags.items())),
        run_id=item.run_id or "",
        source=source if source.startswith("sa2net:") else "",
        created=item.creation_timestamp or 0,
        logged=_logged(client, source.removeprefix("models:/")) if source.startswith(_MODEL) else None,
    )


def _logged(client: MlflowClient, model_id: str) -> LoggedModel | None:
    try:
        found = client.get_logged_model(model_id)
        experiment = client.get_experiment(found.experiment_id).name
    except MlflowException as error:
        if store.is_absent(error):
            return None
        raise
    return LoggedModel(
        id=model_id,
        name=found.name,
        model_type=found.model_type or "",
        experiment=experiment,
        tags=dict(sorted(found.tags.items())),
        params=dict(sorted((found.params or {}).items())),
    )
