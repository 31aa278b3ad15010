"""The run of a step in MLflow, which a training survives even if MLflow does not.

`step_run` opens it, hands the step a `Tracker`, and ends it as FINISHED, FAILED or KILLED. While the server is out of
reach, everything goes to a spool on disk and is sent when the server is back, with its original times: at the latest
at the end of the step, else by the next step on this machine. A server that is down at the start costs nothing more: the
run is created when it is back. A server that refuses us (wrong address, no permission) ends the step before it starts.
"""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from sa2net.errors import Sa2NetError
from sa2net.registry import alive, environment, execution, runs, store
from sa2net.registry.runs import Header, Status
from sa2net.registry.spool import Call, Spool
from sa2net.registry.tracker import LONGEST_TAG, Heartbeat, SystemMetrics, Tracker
from sa2net.termination import terminable

__all__ = ["Tracker", "end_execution", "send_abandoned", "step_run"]

log = logging.getLogger(__name__)


@contextmanager
def step_run(
    step: str,
    *,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    system_metrics: bool = False,
) -> Iterator[Tracker]:
    """Run a step as an MLflow run, below the run of the pipeline execution that it belongs to.

    Args:
        step: Name of the step.
        params: Its settings, logged at once.
        tags: Tags of the run, beside those that say what it is made with (`sa2net.registry.environment`); those that
            start with `sa2net.` are given to a new parent run too.
        system_metrics: Sample processor, memory, disk, network and GPU every 10 s.

    Yields:
        The tracker.

    Raises:
        StorageError: MLflow answers and refuses us; nothing was started.
    """
    facts = environment.describe()
    header = Header(
        step=step,
        uri=store.public_uri(store.tracking_uri()),
        start=int(time.time() * 1000),
        execution=execution.current(),
        tags={name: str(value)[:LONGEST_TAG] for name, value in {**facts.tags(), **(tags or {})}.items()},
        experiment_id=os.environ.get("MLFLOW_EXPERIMENT_ID", ""),
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME") or store.DEFAULT_EXPERIMENT,
    )
    tracker = _open(header)
    with terminable():
        try:
            with ExitStack() as threads:
                threads.enter_context(Heartbeat(tracker))
                if system_metrics:
                    threads.enter_context(SystemMetrics(tracker))
                _log_facts(tracker, facts, params or {})
                yield tracker
        except BaseException as error:
            tracker.end(*_outcome(error))
            raise
        tracker.end("FINISHED")


def _log_facts(tracker: Tracker, facts: environment.Environment, params: Mapping[str, Any]) -> None:
    if params:
        tracker.log_params(params)
    tracker.log_text("\n".join(environment.installed_packages()) + "\n", "packages.txt")
    if facts.revision.diff:
        tracker.log_text(facts.revision.diff + "\n", "code.diff")


def _open(header: Header) -> Tracker:
    journal = Spool.create(header)
    tracker = Tracker(journal)
    try:
        if store.reachable(store.tracking_uri()):
            with store.storage_errors("start a run"):
                try:
                    client = store.client_for(store.tracking_uri())
                    send_abandoned(client)
                    journal.identify(client)
                    alive.close_silent_runs(client, journal.header.experiment_id)
                except Exception as error:
                    if store.is_denied(error) or store.is_refused(error) or not store.is_outage(error):
                        raise
                    tracker.lost(error)
        else:
            tracker.lost(ConnectionError(f"{header.uri} does not answer"))
    except BaseException:
        journal.delete()
        raise
    return tracker


def send_abandoned(client: Any) -> int:
    """Send what earlier steps on this machine could not send, and close the runs of its processes that died.

    Returns:
        How many runs were completed.
    """
    done = 0
    uri = store.public_uri(store.tracking_uri())
    for journal in Spool.abandoned():
        if journal.header.uri != uri:
            continue
        if not any(call.kind == "end" for call in journal.pending):
            newest = max(path.stat().st_mtime for path in journal.folder.iterdir())
            content = {"status": "KILLED", "message": "the process ended without a word"}
            journal.append(Call("end", int(newest * 1000), content))
        try:
            journal.send(client)
        except Exception as error:
            if not store.is_refused(error):
                raise
            log.warning("the spool %s cannot be sent and stays: %s", journal.folder, error)
            continue
        journal.delete()
        done += 1
    runs.close_ended_executions(client, uri)
    return done


def end_execution(key: str, status: Status, message: str) -> int:
    """End what is still open of an execution that somebody saw end: a pod that was killed cannot do it.

    Args:
        key: Name of the execution (`SA2NET_EXECUTION` of its steps): in Kubeflow the id of the run.
        status: How it ended.
        message: Why.

    Returns:
        How many runs were still open.

    Raises:
        StorageError: The server does not answer, or refuses us.
    """
    client = store.connect()
    with store.storage_errors("end the runs of an execution"):
        return runs.close_execution(client, key, status, message)


def _outcome(error: BaseException) -> tuple[Status, str]:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyboardInterrupt):
        return "KILLED", "interrupted"
    if isinstance(error, SystemExit):
        return ("FINISHED", "") if error.code in (0, None) else ("KILLED", f"ended with exit code {error.code}")
    return "FAILED", message if isinstance(error, Sa2NetError) else f"{type(error).__name__}: {message}"
