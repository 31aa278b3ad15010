"""From the id that a run had before an import to the one that it has now.

MLflow gives ids itself, so an imported run has a new one. What is signed or hashed (the audit log, the documents of a
version) still names the old id; the imported run carries it as a tag.
"""

import re
from collections.abc import Iterator, Mapping

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run
from mlflow.exceptions import MlflowException

from sa2net.registry import store
from sa2net.registry.backup.documents import FROM_TAG, IMPORT_TAG

UNFINISHED = " unfinished"
_ID = re.compile(r"[A-Za-z0-9_\-]{1,64}")


def current_run(client: MlflowClient, run_id: str) -> str:
    """The run with this id, else the newest one that was imported from it; empty if there is neither.

    A server with users says of a run that is not there that it may not be read.
    """
    if not _ID.fullmatch(run_id):
        return ""
    try:
        return str(client.get_run(run_id).info.run_id)
    except MlflowException as error:
        if not (store.is_absent(error) or store.is_denied(error)):
            raise
    found = [run for run in search_runs(client, FROM_TAG, f"%{run_id}%") if run_id in _before(run.data.tags)]
    found.sort(key=lambda run: run.data.tags.get(IMPORT_TAG, "").endswith(UNFINISHED))
    return str(found[0].info.run_id) if found else ""


def search_runs(client: MlflowClient, tag: str, pattern: str) -> Iterator[Run]:
    """Runs of all experiments whose tag is like a pattern, the newest first."""
    experiments = _experiments(client)
    token = None
    while experiments:
        page = client.search_runs(
            experiments,
            f"tags.`{tag}` LIKE '{pattern}'",
            order_by=["attributes.start_time DESC"],
            max_results=1000,
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def search_logged_models(client: MlflowClient, tag: str, pattern: str) -> Iterator[LoggedModel]:
    """Logged models of all experiments whose tag is like a pattern."""
    experiments = _experiments(client)
    token = None
    while experiments:
        page = client.search_logged_models(experiments, f"tags.`{tag}` LIKE '{pattern}'", page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def former(identity: str, tags: Mapping[str, str]) -> str:
    """The tag of something that is imported now: the id that it has in the backup, and those before."""
    return " ".join((identity, *_before(tags)))


def _before(tags: Mapping[str, str]) -> list[str]:
    return tags.get(FROM_TAG, "").split()


def _experiments(client: MlflowClient) -> list[str]:
    found: list[str] = []
    token = None
    while True:
        page = client.search_experiments(page_token=token)
        found += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return found
