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
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from sa2net.artifacts import read_json, write_json
from sa2net.errors import DataError, StorageError
from sa2net.registry import runs, store
from sa2net.registry.execution import Execution
from sa2net.registry.runs import Header
from sa2net.registry.tags import EXECUTION_TAG, KEY_TAG, PAGE_TAG, PARENT_TAG, STEP_TAG

__all__ = ["EXECUTION_TAG", "KEY_TAG", "PARENT_TAG", "STEP_TAG", "Call", "Header", "Spool", "perform"]

log = logging.getLogger(__name__)

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


class Spool:
    """The folder of one run, locked by the process that owns it."""

    def __init__(self, folder: Path, header: Header, lock: FileLock, *, asked: bool) -> None:
        """Take a folder; `asked` says whether the server may have been asked for the run before, and have made it."""
        self.folder, self.header, self._lock, self.asked = folder, header, lock, asked
        self.pending = list(_read_calls(folder / "calls.jsonl"))

    @classmethod
    def create(cls, header: Header) -> "Spool":
        """A new folder for a run that starts now."""
        folder = runs.spool_folder() / header.key
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
        spool = cls(folder, header, lock, asked=False)
        spool.save_header()
        return spool

    @classmethod
    def abandoned(cls) -> "Iterator[Spool]":
        """The folders whose processes are gone, oldest first; each is locked while it is looked at."""
        for path in sorted(runs.spool_folder().glob("*/header.json"), key=lambda item: item.stat().st_mtime):
            folder = path.parent
            lock = FileLock(f"{folder}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                content = read_json(path)
                content["execution"] = Execution(**content["execution"])
                yield cls(folder, Header(**content), lock, asked=True)
            except (DataError, TypeError, KeyError) as error:
                log.warning("%s cannot be read and stays as it is: %s", folder, error)
            finally:
                lock.release()

    def save_header(self) -> None:
        """Write what is known of the run."""
        write_json(self.folder / "header.json", asdict(self.header))

    def identify(self, client: MlflowClient) -> None:
        """Find or make the run, unless it is known."""
        if self.header.run_id:
            return
        again, self.asked = self.asked, True
        runs.begin(client, self.header, again=again)
        self.save_header()

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
        self.identify(client)
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
        file = runs.spool_folder() / "refused.jsonl"
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


def perform(client: MlflowClient, header: Header, call: Call) -> None:
    """Tell MLflow one thing; may be repeated."""
    run_id, content = header.run_id, call.content
    if call.kind in ("metrics", "headline"):
        metrics = [Metric(name, value, call.time, content["step"]) for name, value in content["values"].items()]
        _log_metrics(client, run_id, metrics)
        if call.kind == "headline" and header.parent_id:
            _log_metrics(client, header.parent_id, metrics)
    elif call.kind == "params":
        _log_params(client, run_id, content)
        if header.execution.key:  # a parent of ours; of a step that is tried again it keeps the first values
            known = client.get_run(header.parent_id).data.params
            _log_params(client, header.parent_id, {name: content[name] for name in content if name not in known})
    elif call.kind == "tags":
        tags = list(content.items())
        for start in range(0, len(tags), _ITEMS_PER_CALL):
            runs.set_tags(client, run_id, dict(tags[start : start + _ITEMS_PER_CALL]))
        runs.tell_parent(client, header, content)
    elif call.kind == "file":
        _log_file(client, run_id, Path(content["path"]), content["folder"] or None)
    elif call.kind == "end":
        runs.end(client, header, content["status"], call.time, content["message"])
    else:
        raise ValueError(f"no call is named {call.kind}")


def _log_metrics(client: MlflowClient, run_id: str, metrics: list[Metric]) -> None:
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL], synchronous=True)


def _log_params(client: MlflowClient, run_id: str, values: dict[str, str]) -> None:
    params = [Param(name, value) for name, value in values.items()]
    for start in range(0, len(params), _ITEMS_PER_CALL):
        client.log_batch(run_id, params=params[start : start + _ITEMS_PER_CALL], synchronous=True)


def _log_file(client: MlflowClient, run_id: str, path: Path, folder: str | None) -> None:
    if path.is_dir():
        client.log_artifacts(run_id, str(path), folder)
        return
    client.log_artifact(run_id, str(path), folder)
    if path.suffix == ".html" and folder is None:
        client.set_tag(run_id, PAGE_TAG, path.name)


def _read_calls(path: Path) -> Iterator[Call]:
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Call(**json.loads(line))
        except (ValueError, TypeError):  # the last line of a process that was killed while it wrote
            log.warning("one line of %s is cut off and is left out", path)
