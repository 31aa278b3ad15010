"""Which MLflow is used, whether it answers, and what its errors mean.

Without any setting this is an SQLite file in the project's `var/`, with the artifacts beside it. Every path is
absolute: `dvc exp run --temp` works in a checkout that is thrown away, and runs written there would be lost.
"""

import logging
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import mlflow
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from sa2net.errors import ConfigError, StorageError

DEFAULT_EXPERIMENT = "sa2net"
PROBE_TIMEOUT = 0.9
"""Seconds to connect, and again to answer: together what a dead server may cost."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_REFUSED = (
    "INVALID_PARAMETER_VALUE",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_STATE",
    "ENDPOINT_NOT_FOUND",
)
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED")
_STORE_PACKAGES = ("botocore", "boto3", "s3transfer", "sqlalchemy", "sqlite3", "urllib3", "google", "azure")

logging.getLogger("alembic").setLevel(logging.WARNING)


def project_root() -> Path:
    """The nearest folder above the working directory that holds `dvc.yaml` or `pyproject.toml`, else that directory.

    Inside a temporary checkout of DVC (`<project>/.dvc/tmp/exps/...`) it is the project that the checkout was made of.
    """
    here = Path.cwd().resolve()
    for folder in here.parents:
        if folder.name == "exps" and folder.parent.name == "tmp" and folder.parent.parent.name == ".dvc":
            return folder.parents[2]
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file() or (folder / "pyproject.toml").is_file():
            return folder
    return here


def var_folder() -> Path:
    """Where runs, versions and spools of this machine lie: `$SA2NET_VAR`, else `var/` of the project."""
    chosen = os.environ.get("SA2NET_VAR")
    return Path(chosen).expanduser().resolve() if chosen else project_root() / "var"


def tracking_uri() -> str:
    """The MLflow store: `$MLFLOW_TRACKING_URI` with a relative SQLite path made absolute, else `var/mlflow.db`.

    Raises:
        ConfigError: A plain folder or a `file:` address, which MLflow no longer serves.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return f"sqlite:///{var_folder() / 'mlflow.db'}"
    if uri.startswith("sqlite:///"):
        file = (project_root() / uri.removeprefix("sqlite:///")).resolve()
        if uri == "sqlite:///" or file.is_dir():
            raise ConfigError(
                "MLFLOW_TRACKING_URI names no file",
                evidence=uri,
                action="Write sqlite:///FILE, or unset it for var/mlflow.db.",
            )
        return f"sqlite:///{file}"
    if urlsplit(uri).scheme in ("", "file"):
        raise ConfigError(
            "MLFLOW_TRACKING_URI names a folder, which MLflow no longer serves",
            evidence=uri,
            action="Set it to http(s)://HOST or sqlite:///FILE, or unset it for var/mlflow.db.",
        )
    return uri.rstrip("/")


def registry_uri() -> str:
    """Where versions are kept: `$MLFLOW_REGISTRY_URI`, else the tracking store."""
    return os.environ.get("MLFLOW_REGISTRY_URI") or tracking_uri()


def public_uri(uri: str) -> str:
    """An address without the user and password that it may carry."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def artifact_folder(uri: str) -> Path | None:
    """Where artifacts go if this process writes the store itself; None where a server decides."""
    if uri.startswith("sqlite:///"):
        return Path(uri.removeprefix("sqlite:///")).parent / "artifacts"
    return None if uri.startswith(("http://", "https://")) else var_folder() / "artifacts"


def is_local(uri: str) -> bool:
    """Whether an address means this machine: SQLite, a file, or a server on the loopback address.

    A tunnel to another machine looks like the loopback address.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("sqlite", "file", ""):
        return True
    return parts.hostname in LOOPBACK


def reachable(uri: str) -> bool:
    """Whether a tracking server answers at all, found out in less than two seconds."""
    if not uri.startswith(("http://", "https://")):
        return True
    try:
        with urlopen(f"{public_uri(uri)}/health", timeout=PROBE_TIMEOUT):  # noqa: S310 - the scheme was checked above
            return True
    except HTTPError as error:
        return error.code not in (502, 503, 504)
    except URLError as error:  # with a broken certificate it does answer; the call itself says what is wrong
        return isinstance(error.reason, ssl.SSLError)
    except (OSError, HTTPException):
        return False


@cache
def client_for(uri: str) -> MlflowClient:
    """The client of a store; a new SQLite file gets its tables here, by one process at a time."""
    if not uri.startswith("sqlite:///"):
        return MlflowClient(tracking_uri=uri, registry_uri=registry_uri())
    file = Path(uri.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"), storage_errors("be opened"):
        if not file.exists():
            _make_store(file)
        client = MlflowClient(tracking_uri=uri, registry_uri=registry_uri())
        client.search_experiments(max_results=1)
        client.search_registered_models(max_results=1)
    return client


def _make_store(file: Path) -> None:
    """Make a SQLite store with its tables; it is there whole or not at all.

    MLflow makes the tables one by one, and can never use a file again in which it was interrupted.
    """
    fresh = file.with_name(f".{file.name}.fresh")
    for rest in file.parent.glob(f"{fresh.name}*"):  # of a process that was killed here
        rest.unlink()
    client = MlflowClient(tracking_uri=f"sqlite:///{fresh}", registry_uri=f"sqlite:///{fresh}")
    client.search_experiments(max_results=1)
    client.search_registered_models(max_results=1)
    fresh.replace(file)


@contextmanager
def as_default(uri: str) -> Iterator[None]:
    """Make a store MLflow's own default for a while.

    Parts of its registry look things up in the default store, whatever client they were asked through.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)  # clears the variable too
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def connect() -> MlflowClient:
    """The client of the store in use.

    Raises:
        StorageError: The server does not answer.
    """
    uri = tracking_uri()
    if not reachable(uri):
        raise StorageError(
            "the MLflow server does not answer",
            evidence=public_uri(uri),
            action="Start it, correct MLFLOW_TRACKING_URI, or unset that for the store in var/.",
        )
    return client_for(uri)


def experiment_id(client: MlflowClient) -> str:
    """The experiment of this project, made if it is not there yet.

    `$MLFLOW_EXPERIMENT_ID` (set by a pipeline back end) comes first, then `$MLFLOW_EXPERIMENT_NAME`, then `sa2net`.

    Raises:
        StorageError: The experiment was deleted in MLflow.
    """
    chosen = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
    if chosen:
        return chosen
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        experiment = _create_experiment(client, name)
    if experiment.lifecycle_stage != "active":
        raise StorageError(
            f"the MLflow experiment {name} was deleted",
            evidence=f"id {experiment.experiment_id}",
            action="Restore it with `mlflow experiments restore`, or set MLFLOW_EXPERIMENT_NAME to another name.",
        )
    return str(experiment.experiment_id)


def _create_experiment(client: MlflowClient, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
    folder = artifact_folder(client.tracking_uri)
    try:
        client.create_experiment(name, artifact_location=None if folder is None else folder.as_uri())
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
            raise
    return client.get_experiment_by_name(name)


def is_absent(error: MlflowException) -> bool:
    """Whether an error means that a model, version or alias is not there (MLflow has two codes for it)."""
    return error.error_code in _ABSENT


def is_refused(error: Exception) -> bool:
    """Whether the store understood the call and will never take it: trying again is of no use."""
    return isinstance(error, MlflowException) and error.error_code in _REFUSED


def is_denied(error: Exception) -> bool:
    """Whether the store wants another user."""
    if not isinstance(error, MlflowException):
        return False
    return error.error_code in _DENIED or error.get_http_status_code() in (401, 403)


def is_gone(error: Exception) -> bool:
    """Whether an error about one run means that it cannot be had any more.

    MLflow's server with passwords answers 403, not 404, for a run that was deleted for good.
    """
    return is_refused(error) or is_denied(error)


def is_outage(error: Exception) -> bool:
    """Whether an error comes from a store that cannot be reached or used now, and may be later."""
    if isinstance(error, MlflowException):
        return not is_refused(error)
    if isinstance(error, OSError):  # the errors of requests are of this class too
        return True
    return type(error).__module__.partition(".")[0] in _STORE_PACKAGES


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn the errors of a store into a `StorageError`.

    Args:
        what: Ends the sentence "the MLflow store cannot ...".
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, MlflowException) or is_outage(error)):
            raise
        action = "Check MLFLOW_TRACKING_USERNAME / MLFLOW_TRACKING_PASSWORD or MLFLOW_TRACKING_TOKEN."
        if not is_denied(error):
            action = "Check MLFLOW_TRACKING_URI and whether the server answers there."
        evidence = " ".join(str(error).split())[:500]
        raise StorageError(f"the MLflow store cannot {what}", evidence=evidence, action=action) from error
