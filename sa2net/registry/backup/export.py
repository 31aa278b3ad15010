"""A registered model into one file: versions with their files, the runs that tell where they come from, aliases, log.

The registry is only read. Whatever is wrong with it is said and noted in the file: a backup of a registry that is not
whole may be the last one.
"""

import importlib.metadata
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from tqdm import tqdm

from sa2net import __version__
from sa2net.artifacts import folder_sha256
from sa2net.registry import store, witness
from sa2net.registry.audit import Log
from sa2net.registry.backup.collect import runs_of, settled_state
from sa2net.registry.backup.documents import REGISTRY, RUNS, VERSIONS, Content, RunRecord, VersionRecord, as_text
from sa2net.registry.backup.writer import Writer, writing
from sa2net.registry.packaging import FOLDER_IN_PACKAGE
from sa2net.registry.versions import SHA_TAG


@dataclass(frozen=True)
class Exported:
    """What went into a backup.

    Attributes:
        file: The backup.
        identity: sha256 of its manifest.
        size: Bytes of the file.
        content: The model and its log.
        log: The log, followed.
        runs: The runs.
        points: Values of all metrics together.
        version_bytes: Bytes of the files of versions.
        run_bytes: Bytes of the files of runs.
        files: How many files.
        faults: What is wrong with the registry, or missing in it, as sentences.
        notes: What a person should know, as sentences.
    """

    file: Path
    identity: str
    size: int
    content: Content
    log: Log
    runs: Mapping[str, RunRecord]
    points: int
    version_bytes: int
    run_bytes: int
    files: int
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def export(
    client: MlflowClient,
    name: str,
    file: Path,
    *,
    signers: Sequence[str] = (),
    force: bool = False,
    progress: bool = False,
    seconds: float = 0.0,
) -> Exported:
    """Write everything that is to be kept of a registered model into one file.

    Args:
        client: The store.
        name: Registered model.
        file: The file to write.
        signers: NAME:KEY of those who may write the log; empty = anybody whose signature is right.
        force: Whether a file that is there is replaced.
        progress: Show a progress bar.
        seconds: How long somebody who is at work in the registry is waited for; 0 = as long as a lease.

    Raises:
        ConfigError: The file is there already, or its folder is not.
        StorageError: There is no such model, or the store cannot be read, or the file not be written.
    """
    with writing(file, force=force) as writer, store.storage_errors("be exported"):
        state = settled_state(client, name, signers=tuple(signers), seconds=seconds)
        runs, gone = runs_of(client, state)
        faults = [f"the audit log: {fault}" for fault in state.log.faults or witness.compare(state.log)]
        versions = state.content.model.versions
        with tqdm(total=len(versions) + len(runs), desc="export", unit="item", disable=not progress) as bar:
            version_bytes = 0
            for version in versions:
                size, lost = _keep_version(client, writer, name, version)
                version_bytes, faults = version_bytes + size, faults + lost
                bar.update()
            run_bytes = 0
            for run_id, record in runs.items():
                size, points = _keep_run(client, writer, record)
                run_bytes += size
                runs[run_id] = record.model_copy(update={"points": points})
                writer.add_text(as_text(runs[run_id]), f"{RUNS}{run_id}/run.json")
                bar.update()
        writer.add_text(as_text(state.content), REGISTRY)
        count = len(writer)
        made_with = {"sa2net": __version__, "mlflow": importlib.metadata.version("mlflow")}
        identity = writer.close(name, made_with=made_with, faults=faults)
    return Exported(
        file=file,
        identity=identity,
        size=file.stat().st_size,
        content=state.content,
        log=state.log,
        runs=runs,
        points=sum(record.points for record in runs.values()),
        version_bytes=version_bytes,
        run_bytes=run_bytes,
        files=count,
        faults=tuple(faults),
        notes=(*state.notes(), *(f"run {run_id} is named, and gone" for run_id in gone)),
    )


def _keep_version(client: MlflowClient, writer: Writer, name: str, version: VersionRecord) -> tuple[int, list[str]]:
    """Add the files of a version; return their bytes, and what is wrong with them."""
    with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
        package = _fetch_package(client, name, version.number, Path(scratch))
        if package is None:
            return 0, [f"the files of version {version.number} are gone"]
        size = writer.add_folder(package, f"{VERSIONS}{version.number}/")
        wanted = version.tags.get(SHA_TAG)
        model = package / FOLDER_IN_PACKAGE
        if wanted and (not model.is_dir() or folder_sha256(model) != wanted):
            return size, [f"the files of version {version.number} are not what was registered"]
        return size, []


def _fetch_package(client: MlflowClient, name: str, number: int, folder: Path) -> Path | None:
    """The MLflow model of a version, as it lies in the store; None if it is gone."""
    try:
        with store.as_default(client.tracking_uri):
            address = client.get_model_version_download_uri(name, str(number))
            if address.startswith("sa2net:"):
                return None
            fetched = mlflow.artifacts.download_artifacts(
                artifact_uri=address, dst_path=str(folder), tracking_uri=client.tracking_uri
            )
    except Exception as error:
        if store.is_refused(error) or isinstance(error, FileNotFoundError):
            return None
        raise
    found = Path(fetched)
    return found if any(found.rglob("*")) else None


def _keep_run(client: MlflowClient, writer: Writer, record: RunRecord) -> tuple[int, int]:
    """Add the files and metrics of a run; return bytes and values."""
    size = points = 0
    with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
        if client.list_artifacts(record.run_id):
            fetched = Path(client.download_artifacts(record.run_id, "", scratch))
            size = writer.add_folder(fetched, f"{RUNS}{record.run_id}/artifacts/")
    with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
        table = Path(scratch) / "metrics.jsonl"
        with table.open("w", encoding="utf-8", newline="\n") as stream:
            for line in _metric_lines(client, record.run_id):
                stream.write(line)
                points += 1
        if points:
            writer.add(table, f"{RUNS}{record.run_id}/metrics.jsonl")
    return size, points


def _metric_lines(client: MlflowClient, run_id: str) -> Iterator[str]:
    """Each value of each metric as one line: name, step, time, value; what is no number is a text."""
    for key in sorted(client.get_run(run_id).data.metrics):
        for metric in client.get_metric_history(run_id, key):
            value = metric.value if math.isfinite(metric.value) else repr(float(metric.value))
            yield json.dumps([metric.key, metric.step, metric.timestamp, value], ensure_ascii=False) + "\n"
