"""MLflow: whether the store in use can be read and written."""

import base64
import os
import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

from sa2net.errors import StorageError
from sa2net.steps.doctor.findings import Finding, Options, fail, note, ok, shortened
from sa2net.steps.doctor.web import Answer, NoAnswerError, ask, host_of, without_user

_TABLES = frozenset({"experiments", "runs", "registered_models", "model_versions"})
_LOCK_PATIENCE = 2.0
"""Seconds to wait for another process that writes the same file."""


def check_mlflow(options: Options) -> Finding:
    """Whether the MLflow store answers, to us, and knows runs and versions."""
    from sa2net.registry import store

    uri = store.tracking_uri()
    if uri.startswith("sqlite:///"):
        return check_file(Path(uri.removeprefix("sqlite:///")), chosen=bool(os.environ.get("MLFLOW_TRACKING_URI")))
    if uri.startswith(("http://", "https://")):
        return check_server(uri, options.patience)
    counted = _counted(uri)
    return ok(f"{store.public_uri(uri)}: {counted}")


def check_file(file: Path, *, chosen: bool) -> Finding:
    """Whether an SQLite store can be opened, has its tables, and can be written.

    Args:
        file: The database.
        chosen: Whether MLFLOW_TRACKING_URI names it.
    """
    if not file.exists():
        where = "MLFLOW_TRACKING_URI names it" if chosen else "MLFLOW_TRACKING_URI is not set"
        return note(
            f"no {_short(file)} yet, {where}",
            "The first run makes it; export MLFLOW_TRACKING_URI=https://HOST for a server.",
        )
    try:
        with closing(
            sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=_LOCK_PATIENCE, isolation_level=None)
        ) as base:
            tables = {row[0] for row in base.execute("select name from sqlite_master where type = 'table'")}
            if not tables >= _TABLES:
                return fail(
                    f"{_short(file)} lacks the tables {', '.join(sorted(_TABLES - tables))}",
                    "Move the file away: the next run makes a new one. Or correct MLFLOW_TRACKING_URI.",
                )
            _try_to_write(base)
    except sqlite3.Error as error:
        return _explain_sqlite(file, error)
    artifacts = file.parent / "artifacts"
    try:
        with tempfile.TemporaryFile(dir=artifacts if artifacts.is_dir() else file.parent):
            pass
    except OSError as error:
        return fail(
            f"{_short(artifacts)} cannot be written: {error.strerror or error}",
            f"Make it writable for this user: {artifacts}",
        )
    return ok(f"{_short(file)}: {_counted(f'sqlite:///{file}')}, writable")


def _try_to_write(base: sqlite3.Connection) -> None:
    """Write a page as it stands, and take it back."""
    version = int(base.execute("pragma user_version").fetchone()[0])
    base.execute("begin immediate")
    try:
        base.execute(f"pragma user_version = {version}")
    finally:
        base.execute("rollback")


def _explain_sqlite(file: Path, error: sqlite3.Error) -> Finding:
    text = str(error)
    if "locked" in text:
        return note(f"{_short(file)} is being written by another process", "Wait for it; `fuser FILE` names it.")
    if "readonly" in text or "unable to open" in text:
        return fail(
            f"{_short(file)} cannot be written ({text})",
            f"Give this user the right to write {file.parent} and what is in it.",
        )
    if "not a database" in text or "malformed" in text:
        return fail(
            f"{_short(file)} is damaged ({text})", "Bring it back from a backup, or move it away for a new one."
        )
    return fail(f"{_short(file)}: {text}", "Correct MLFLOW_TRACKING_URI, or mend the file.")


def _short(file: Path) -> str:
    """As it is seen from here, where that is shorter."""
    try:
        return str(file.relative_to(Path.cwd()))
    except ValueError:
        return str(file)


def _counted(uri: str) -> str:
    """What the store holds.

    Raises:
        StorageError: It cannot be asked.
    """
    from sa2net.registry import store

    with store.storage_errors("be read"):
        client = store.client_for(uri)
        experiments = client.search_experiments(max_results=100)
        models = client.search_registered_models(max_results=100)
    return f"{_number(len(experiments), 'experiment')}, {_number(len(models), 'registered model')}"


def _number(count: int, noun: str) -> str:
    return f"{count}{'+' if count == 100 else ''} {noun}{'' if count == 1 else 's'}"


def check_server(uri: str, patience: float) -> Finding:
    """Whether a tracking server answers, takes our credentials, and reaches its artifacts."""
    from sa2net.registry import store

    address = without_user(uri)
    if not store.reachable(uri):
        return _explain_server(address, patience, "it does not answer")
    try:
        counted = _counted(uri)
    except StorageError as error:
        return _explain_server(
            address,
            patience,
            error.evidence,
            denied=isinstance(error.__cause__, Exception) and store.is_denied(error.__cause__),
        )
    headers = credentials(uri)
    fault = artifact_fault(address, headers, patience)
    return fault or ok(f"{address}{_server_version(address, headers, patience)}: {counted}")


def _explain_server(address: str, patience: float, otherwise: str, *, denied: bool = False) -> Finding:
    """Why a server is of no use: what its health page says, else what the client said."""
    try:
        answer = ask(f"{address}/health", patience=patience)
    except NoAnswerError as error:
        cure = error.cure
        if "certificate" in error.evidence:
            cure = "Set REQUESTS_CA_BUNDLE and SSL_CERT_FILE to the CA's file, or use the name on the certificate."
        return fail(error.evidence, f"{cure} Or unset MLFLOW_TRACKING_URI for the store in var/.")
    if "Invalid Host header" in otherwise:
        return fail(
            f"{address} does not know itself by this name (403)", f"mlflow server --allowed-hosts {host_of(address)}"
        )
    if denied or answer.status in (401, 403):
        return fail(
            f"{address} refuses us{_status_in(otherwise, answer)}",
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN.",
        )
    if answer.redirect or (answer.is_page and answer.status == 200):
        return fail(
            f"{address} shows a web page, perhaps a login, not MLflow",
            "Use the address behind the login (in the cluster), or MLFLOW_TRACKING_TOKEN.",
        )
    if answer.status >= 500:
        return fail(
            f"{address} is up, its MLflow is not ({answer.status})",
            "Look at the log of the MLflow server and its database.",
        )
    if answer.status != 200:
        return fail(f"there is no MLflow at {address} ({answer.status})", "Correct MLFLOW_TRACKING_URI, its path too.")
    return fail(
        f"{address}: {shortened(otherwise)}",
        "Look at the log of the MLflow server; compare its version with the client's.",
    )


def _status_in(text: str, answer: Answer) -> str:
    found = re.search(r"error code (\d{3})", text)
    status = found[1] if found else str(answer.status)
    return f" ({status})" if status in ("401", "403") else ""


def artifact_fault(address: str, headers: dict[str, str], patience: float) -> Finding | None:
    """What is wrong with the artifacts that a server keeps for its clients; None where nothing is, or it keeps none."""
    try:
        answer = ask(f"{address}/api/2.0/mlflow-artifacts/artifacts", patience=patience, headers=headers)
    except NoAnswerError as error:
        return fail(
            f"{address}: its artifacts do not answer ({error.evidence})", "Check the bucket behind the MLflow server."
        )
    if answer.status >= 500 and b"serve-artifacts" not in answer.body:
        return fail(
            f"{address} cannot list its artifacts ({answer.status}{_said(answer)})",
            "Check --artifacts-destination of the server, its keys and its bucket.",
        )
    return None


def _said(answer: Answer) -> str:
    document = answer.document
    return (
        f": {shortened(str(document['message']), 80)}" if isinstance(document, dict) and document.get("message") else ""
    )


def _server_version(address: str, headers: dict[str, str], patience: float) -> str:
    try:
        answer = ask(f"{address}/version", patience=patience, headers=headers)
    except NoAnswerError:
        return ""
    text = answer.body.decode(errors="replace").strip()
    return f" (MLflow {text})" if answer.status == 200 and re.fullmatch(r"\d[\w.+-]{,30}", text) else ""


def credentials(uri: str) -> dict[str, str]:
    """The header with which the MLflow client would introduce itself."""
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME", ""), os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    info = uri.partition("://")[2].partition("/")[0].rpartition("@")[0]
    if info:
        user, password = (unquote(part) for part in info.partition(":")[::2])
    if user:
        return {"Authorization": f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
    return {"Authorization": f"Bearer {token}"} if token else {}
