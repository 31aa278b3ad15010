"""Runs of a backup into a tracking server: settings, tags, metrics with their history, files, parents.

A run that was begun is marked unfinished until everything is in it. Everything can be sent twice without harm, so that a
repeated import goes on with it.
"""

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from pydantic import ValidationError

from sa2net.errors import StorageError
from sa2net.registry import store
from sa2net.registry.backup.documents import FROM_TAG, IMPORT_TAG, RUNS, DatasetRecord, RunRecord, mapped
from sa2net.registry.backup.origin import UNFINISHED, former, search_runs
from sa2net.registry.backup.reader import Reader, damaged, first_problem
from sa2net.registry.tags import NOTE_TAG

_METRICS_PER_CALL = 1000
_ITEMS_PER_CALL = 100
_ENDED = ("FINISHED", "FAILED", "KILLED")
_LINK = re.compile(r"#/experiments/\d+/runs/(?P<run>[A-Za-z0-9_\-]{1,64})")

Part = TypeVar("Part")


class RunImporter:
    """Brings the runs of one backup into one server."""

    def __init__(self, client: MlflowClient, backup: Reader, name: str) -> None:
        """Read what the backup says of its runs.

        Args:
            client: The store.
            backup: The backup, verified.
            name: What the registered model is to be called.

        Raises:
            StorageError: The backup's own documents cannot be used.
        """
        self._client, self._backup, self._name = client, backup, name
        self._records = list(_records(backup))
        self._experiments: dict[str, str] = {}
        self.ids: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._records)

    def bring(self, advance: Callable[[], object]) -> Mapping[str, str]:
        """Make all runs, or finish those that an earlier import began.

        Args:
            advance: Called after each run.

        Returns:
            Old id -> new one.
        """
        done: set[str] = set()
        for run in search_runs(self._client, IMPORT_TAG, f"{self._backup.identity}%"):
            old = run.data.tags.get(FROM_TAG, "").partition(" ")[0]
            whole = run.data.tags[IMPORT_TAG] == self._backup.identity
            if whole or old not in done:
                self.ids[old] = run.info.run_id
            if whole:
                done.add(old)
        for record in self._records:  # all ids first: runs name each other
            if record.run_id not in self.ids:
                self.ids[record.run_id] = self._create(record)
        for record in self._records:
            if record.run_id not in done:
                self._fill(self.ids[record.run_id], record)
            advance()
        return self.ids

    def clear_away(self) -> None:
        """Delete the twins of runs: MLflow's client asks again where an answer was lost, and the server makes a second one."""
        for run in list(search_runs(self._client, IMPORT_TAG, f"{self._backup.identity}{UNFINISHED}")):
            if run.info.run_id not in self.ids.values():
                self._client.delete_run(run.info.run_id)

    def experiment(self, name: str) -> str:
        """The experiment of that name, made if it is not there.

        Raises:
            StorageError: It was deleted in MLflow.
        """
        if name not in self._experiments:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                _create_experiment(self._client, name)
                found = self._client.get_experiment_by_name(name)
            if found is None or found.lifecycle_stage != "active":
                raise StorageError(
                    f"the MLflow experiment {name} was deleted",
                    action="Restore it with `mlflow experiments restore`, or remove it for good with `mlflow gc`.",
                )
            self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _create(self, record: RunRecord) -> str:
        tags = {IMPORT_TAG: self._backup.identity + UNFINISHED, FROM_TAG: former(record.run_id, record.tags)}
        experiment = self.experiment(record.experiment)
        made = self._client.create_run(experiment, record.start_time, tags, run_name=record.name or None)
        return str(made.info.run_id)

    def _fill(self, run_id: str, record: RunRecord) -> None:
        client, prefix = self._client, f"{RUNS}{record.run_id}/"
        for items in _groups(record.params.items(), _ITEMS_PER_CALL):
            client.log_batch(run_id, params=[Param(*item) for item in items], synchronous=True)
        if record.points:
            for points in _groups(self._metrics(f"{prefix}metrics.jsonl"), _METRICS_PER_CALL):
                client.log_batch(run_id, metrics=points, synchronous=True)
        if record.datasets:
            client.log_inputs(run_id, [_dataset(dataset) for dataset in record.datasets])
        if self._backup.files(f"{prefix}artifacts/"):
            with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
                self._backup.extract(f"{prefix}artifacts/", Path(scratch))
                client.log_artifacts(run_id, scratch)
        tags = mapped(record.tags, self.ids, self._backup.manifest.name, self._name)
        if NOTE_TAG in tags:
            tags[NOTE_TAG] = _LINK.sub(self._link, tags[NOTE_TAG])
        kept = [(key, value) for key, value in tags.items() if key not in (IMPORT_TAG, FROM_TAG)]
        for items in _groups(kept, _ITEMS_PER_CALL):
            client.log_batch(run_id, tags=[RunTag(*item) for item in items], synchronous=True)
        status = record.status if record.status in _ENDED else "KILLED"  # nobody is working on it here
        client.set_terminated(run_id, status=status, end_time=record.end_time or None)
        client.set_tag(run_id, IMPORT_TAG, self._backup.identity)

    def _link(self, found: re.Match[str]) -> str:
        """A link of MLflow's page to a run, with the ids that hold here."""
        record = next((record for record in self._records if record.run_id == found["run"]), None)
        if record is None:
            return found[0]
        return f"#/experiments/{self.experiment(record.experiment)}/runs/{self.ids[record.run_id]}"

    def _metrics(self, name: str) -> Iterator[Metric]:
        for line in self._backup.lines(name):
            try:
                key, step, time, value = json.loads(line)
                metric = Metric(str(key), float(value), int(time), int(step))
            except (ValueError, TypeError, RecursionError) as error:
                raise damaged(self._backup.file, f"{name}: {line[:80]!r} is no value of a metric") from error
            yield metric


def _records(backup: Reader) -> Iterator[RunRecord]:
    files = backup.files(RUNS)
    for name in files:
        run_id, _, rest = name.partition("/")
        if rest != "run.json":
            continue
        try:
            record = RunRecord.model_validate_json(backup.text(f"{RUNS}{name}"))
        except ValidationError as error:
            raise damaged(backup.file, f"{RUNS}{name}: {first_problem(error)}") from error
        if record.run_id != run_id or (record.points and f"{run_id}/metrics.jsonl" not in files):
            raise damaged(backup.file, f"{RUNS}{name} is of another run, or its metrics are missing")
        yield record


def _dataset(record: DatasetRecord) -> DatasetInput:
    dataset = Dataset(
        record.name,
        record.digest,
        record.source_type,
        record.source,
        record.table_schema or None,
        record.profile or None,
    )
    return DatasetInput(dataset, [InputTag(key, value) for key, value in record.tags.items()])


def _groups(items: Iterable[Part], size: int) -> Iterator[list[Part]]:
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


def _create_experiment(client: MlflowClient, name: str) -> None:
    folder = store.artifact_folder(client.tracking_uri)
    try:
        client.create_experiment(name, artifact_location=None if folder is None else folder.as_uri())
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # somebody else was faster
            raise
