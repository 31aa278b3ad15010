"""Signs of life: a run whose process was killed, and whose machine is gone with all its files, does not run for ever.

A step writes the time into a tag of its run and of its parent every two minutes. Whoever starts a step next, anywhere,
closes the runs that have been silent for long. That is a guess, and it heals: a process that was only cut off opens its
runs again with the next sign of life, a step that comes late opens its parent again. A run that was ended on purpose says
so in a tag of its own, and stays as it is.

The times are those of the machines' own clocks.
"""

import logging
import time
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities import Run

from sa2net.registry import runs, store
from sa2net.registry.runs import Header
from sa2net.registry.tags import ALIVE_TAG, ENDED_TAG, EXECUTION_TAG, PARENT_TAG, STEP_TAG

log = logging.getLogger(__name__)

BEAT = 120.0
"""Seconds between two signs of life."""
SILENT_STEP = 900.0
"""Seconds without one after which a step counts as dead."""
SILENT_EXECUTION = 24 * 3600.0
"""The same for a parent none of whose steps died: its next step may wait for a free node."""


def show_life(client: MlflowClient, header: Header) -> None:
    """Write a sign of life, and open again what somebody took for dead; not what was ended on purpose."""
    for run_id in [header.run_id, header.parent_id] if header.execution.key else [header.run_id]:
        run = client.get_run(run_id)
        if ENDED_TAG not in run.data.tags:
            runs.reopen(client, run)


def close_silent_runs(client: MlflowClient, experiment: str) -> int:
    """Close the runs of an experiment that show no sign of life any more, on whatever machine they were.

    Returns:
        How many were closed.
    """
    closed = 0
    for run in _open_runs(client, experiment):
        limit = SILENT_EXECUTION if EXECUTION_TAG in run.data.tags else SILENT_STEP
        if not _is_silent(run, limit):
            continue
        try:
            message = _close(client, run)
            closed += bool(message)
            parent = client.get_run(run.data.tags[PARENT_TAG]) if message and PARENT_TAG in run.data.tags else None
            if parent is not None and parent.info.status == "RUNNING" and _is_silent(parent, SILENT_STEP):
                closed += bool(_close(client, parent, f"{run.data.tags.get(STEP_TAG, '')}: {message}"))
        except Exception as error:
            if not (store.is_denied(error) or store.is_refused(error)):
                raise
            log.debug("the run %s is silent and cannot be closed: %s", run.info.run_id, error)
    return closed


def _open_runs(client: MlflowClient, experiment: str) -> list[Run]:
    """Runs with a sign of life: a run that was handed in by somebody else has none, and is left alone."""
    query = f"attributes.status = 'RUNNING' and tags.`{ALIVE_TAG}` LIKE '2%'"
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment], query, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _is_silent(run: Run, limit: float) -> bool:
    last = _last_sign(run)
    return last is not None and time.time() - last > limit


def _close(client: MlflowClient, run: Run, message: str = "") -> str:
    """Close a silent run, and return why; empty if it has shown itself meanwhile, or has ended by itself."""
    now = client.get_run(run.info.run_id)
    last = _last_sign(now)
    if last is None or now.info.status != "RUNNING" or now.data.tags[ALIVE_TAG] != run.data.tags[ALIVE_TAG]:
        return ""
    day = now.data.tags[ALIVE_TAG].partition(".")[0].replace("T", " ")
    message = message or f"no sign of life since {day} UTC: the process was killed, or its machine is gone"
    runs.close(client, now, "KILLED", int(last * 1000), message, for_good=False)
    after = client.get_run(run.info.run_id)
    if ENDED_TAG in after.data.tags:  # at this very moment, or it was killed between the tag and the status
        runs.close(client, after, after.data.tags[ENDED_TAG], after.info.end_time, "")
        return ""
    log.warning("%s is closed: %s", now.info.run_name, message)
    return message


def _last_sign(run: Run) -> float | None:
    """Seconds since 1970; None where there is none."""
    try:
        return datetime.fromisoformat(run.data.tags.get(ALIVE_TAG, "")).timestamp()
    except ValueError:
        return None
