"""The journal of a step's run: what could not be sent to MLflow yet, kept on disk until it is.

Each run has a folder under `var/spool/` while it lives: `header.json` (which run it is), `calls.jsonl` (what is still to
be sent, in order, with the time it happened), `files/` (copies of artifacts still to be sent). A process that dies leaves
its folder, and the next step on the machine sends the rest and closes the run as killed. Every call can be sent twice
without harm: MLflow keeps one value for equal (metric, step, time, value), parameters and tags are set, files replaced.
"""

import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from sa2net.artifacts import read_json, write_json
from sa2net.errors import DataError, StorageError
from sa2net.registry import store
from sa2net.registry.execution import Execution

log = logging.getLogger(__name__)

KEY_TAG = "sa2net.key"
EXECUTION_TAG = "sa2net.execution"
STEP_TAG = "sa2net.step"
ERROR_TAG = "sa2net.error"
PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
LAST_STEP = "register"

_METRICS_PER_CALL = 1000
_ITEMS_PER_CALL = 100


@dataclass(frozen=True)
class Call:
    """One thing to tell MLflow.

    Attributes:
        kind: metrics, headline, params, tags, file or end.
        time: When it happened, ms since 1970.
        content: What is told; plain JSON types.
    """

    kind: str
    time: int
    content: dict[str, Any]


@dataclass
class Header:
    """Which run a spool belongs to; the ids are empty until the server has given them."""

    step: str
    uri: str
    start: int
    execution: Execution
    tags: dict[str, str] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str = ""
    parent_id: str = ""


class Spool:
    """The folder of one run, locked by the process that owns it."""

    def __init__(self, folder: Path, header: Header, lock: FileLock) -> None:
        self.folder, self.header, self._lock = folder, header, lock
        self.pending = list(_read_calls(folder / "calls.jsonl"))

    @classmethod
    def create(cls, header: Header) -> "Spool":
        """A new folder for a run that starts now."""
        folder = _spools() / header.key
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise StorageError(
                f"{folder.parent} cannot be written",
                evidence=str(error),
                action="Name another folder for runs and spools with SA2NET_VAR.",
            ) from error
        lock = FileLock(f"{folder}.lock")
        lock.acquire()
        spool = cls(folder, header, lock)
        spool.save_header()
        return spool

    @classmethod
    def abandoned(cls) -> "Iterator[Spool]":
        """The folders whose processes are gone, oldest first; each is locked while it is looked at."""
        for path in sorted(_spools().glob("*/header.json"), key=lambda item: item.stat().st_mtime):
            folder = path.parent
            lock = FileLock(f"{folder}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                content = read_json(path)
                content["execution"] = Execution(**content["execution"])
                yield cls(folder, Header(**content), lock)
            except (DataError, TypeError, KeyError) as error:
                log.warning("%s cannot be read and stays as it is: %s", folder, error)
            finally:
                lock.release()

    def save_header(self) -> None:
        """Write what is known of the run."""
        write_json(self.folder / "header.json", asdict(self.header))

    def append(self, call: Call) -> None:
        """Keep a call for later, on disk before this returns."""
        self.pending.append(call)
        with (self.folder / "calls.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(call)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def keep_file(self, path: Path) -> Path:
        """Copy a file or folder into the spool, since the original may be gone when it is sent."""
        place = self.folder / "files" / uuid.uuid4().hex
        place.mkdir(parents=True)
        copy = place / path.name
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copy2(path, copy)
        return copy

    def send(self, client: MlflowClient) -> None:
        """Send everything that is pending, in order; what the store refuses for good is set aside.

        Raises:
            Exception: The store cannot be reached; what was sent may be sent again.
        """
        identify(client, self)
        while self.pending:
            call = self.pending[0]
            try:
                perform(client, self.header, call)
            except Exception as error:
                if not store.is_refused(error):
                    raise
                self.set_aside(call, error)
            self.pending.pop(0)
        (self.folder / "calls.jsonl").unlink(missing_ok=True)
        shutil.rmtree(self.folder / "files", ignore_errors=True)

    def set_aside(self, call: Call, error: Exception) -> None:
        """Keep a call that the store will never take where a person finds it; the step goes on."""
        file = _spools() / "refused.jsonl"
        log.warning("MLflow refuses a %s call of step %s, kept in %s: %s", call.kind, self.header.step, file, error)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"key": self.header.key, "error": str(error), **asdict(call)}) + "\n")

    def delete(self) -> None:
        """Remove the folder: everything was sent."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()
        Path(f"{self.folder}.lock").unlink(missing_ok=True)

    def release(self) -> None:
        """Leave the folder to whoever comes next."""
        self._lock.release(force=True)


def identify(client: MlflowClient, spool: Spool) -> None:
    """Find or create the run of a spool, and its parent."""
    header = spool.header
    if header.run_id:
        return
    experiment = store.experiment_id(client)
    handed_in = header.execution.run_id
    if handed_in and PARENT_TAG in client.get_run(handed_in).data.tags:  # the back end made a run for this very step
        header.run_id = handed_in
        header.parent_id = client.get_run(handed_in).data.tags[PARENT_TAG]
        client.update_run(handed_in, status="RUNNING")
        for name, value in {**header.tags, KEY_TAG: header.key}.items():
            client.set_tag(handed_in, name, value)
        spool.save_header()
        return
    header.parent_id = handed_in or _find_or_create_parent(client, experiment, header)
    found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{header.key}'", max_results=1)
    if found:
        header.run_id = found[0].info.run_id
    else:
        tags = {**header.tags, KEY_TAG: header.key, STEP_TAG: header.step}
        if header.parent_id:
            tags[PARENT_TAG] = header.parent_id
        if header.execution.key:
            tags[EXECUTION_TAG + "_of_step"] = header.execution.key
        run = client.create_run(experiment, start_time=header.start, tags=tags, run_name=header.step)
        header.run_id = run.info.run_id
    spool.save_header()


def _find_or_create_parent(client: MlflowClient, experiment: str, header: Header) -> str:
    execution = header.execution
    if not execution.key:
        return ""
    with FileLock(_spools() / "parent.lock"):
        key = execution.key.replace("'", "")
        found = client.search_runs(
            [experiment], f"tags.`{EXECUTION_TAG}` = '{key}'", order_by=["attributes.start_time ASC"], max_results=1
        )
        if found:
            parent: str = found[0].info.run_id
            if found[0].info.status != "RUNNING":  # a step is tried again
                client.update_run(parent, status="RUNNING")
        else:
            shared = {name: value for name, value in header.tags.items() if name.startswith("sa2net.")}
            note = "One execution of the pipeline; the runs below it are the steps that were really executed."
            run = client.create_run(
                experiment,
                start_time=header.start,
                tags={**shared, EXECUTION_TAG: key, NOTE_TAG: note},
                run_name=execution.name
                or "pipeline " + time.strftime("%Y-%m-%d %H:%M", time.gmtime(header.start / 1000)),
            )
            parent = run.info.run_id
        if execution.pid:
            write_json(
                _spools() / f"execution-{key}.json", {**execution.to_dict(), "parent": parent, "uri": header.uri}
            )
    return parent


def close_ended_executions(client: MlflowClient, uri: str) -> None:
    """End the parent runs whose `dvc` process is gone, such as `dvc repro train`, which never comes to the last step."""
    for path in _spools().glob("execution-*.json"):
        content = read_json(path)
        parent, written_for = content.pop("parent"), content.pop("uri")
        if written_for != uri or not Execution(**content).is_over():
            continue
        if client.get_run(parent).info.status == "RUNNING":
            client.set_terminated(parent, status="FINISHED")
        path.unlink(missing_ok=True)


def perform(client: MlflowClient, header: Header, call: Call) -> None:
    """Tell MLflow one thing."""
    run_id, content = header.run_id, call.content
    if call.kind in ("metrics", "headline"):
        runs = [run_id, header.parent_id] if call.kind == "headline" and header.parent_id else [run_id]
        metrics = [Metric(name, value, call.time, content["step"]) for name, value in content["values"].items()]
        for target in runs:
            for start in range(0, len(metrics), _METRICS_PER_CALL):
                client.log_batch(target, metrics=metrics[start : start + _METRICS_PER_CALL], synchronous=True)
    elif call.kind == "params":
        params = [Param(name, value) for name, value in content.items()]
        for start in range(0, len(params), _ITEMS_PER_CALL):
            client.log_batch(run_id, params=params[start : start + _ITEMS_PER_CALL], synchronous=True)
    elif call.kind == "tags":
        tags = [RunTag(name, value) for name, value in content.items()]
        for start in range(0, len(tags), _ITEMS_PER_CALL):
            client.log_batch(run_id, tags=tags[start : start + _ITEMS_PER_CALL], synchronous=True)
    elif call.kind == "file":
        path = Path(content["path"])
        folder = content["folder"] or None
        if path.is_dir():
            client.log_artifacts(run_id, str(path), folder)
        else:
            client.log_artifact(run_id, str(path), folder)
    elif call.kind == "end":
        _end(client, header, call)
    else:
        raise ValueError(f"no call is named {call.kind}")


def _end(client: MlflowClient, header: Header, call: Call) -> None:
    status, message = call.content["status"], call.content["message"]
    if message:
        client.set_tag(header.run_id, ERROR_TAG, message)
        client.set_tag(header.run_id, NOTE_TAG, f"**{status}**: {message}")
    client.set_terminated(header.run_id, status=status, end_time=call.time)
    execution = header.execution
    if not execution.key:  # a run that was handed in is ended by whoever handed it in
        return
    if status != "FINISHED" or header.step == LAST_STEP:
        if message:
            client.set_tag(header.parent_id, ERROR_TAG, f"{header.step}: {message}")
        client.set_terminated(header.parent_id, status=status, end_time=call.time)
        (_spools() / f"execution-{execution.key}.json").unlink(missing_ok=True)


def _spools() -> Path:
    folder = store.var_folder() / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _read_calls(path: Path) -> Iterator[Call]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Call(**json.loads(line))
        except (ValueError, TypeError):  # the last line of a process that was killed while it wrote
            log.warning("one line of %s is cut off and is left out", path)
