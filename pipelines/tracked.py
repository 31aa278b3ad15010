"""What MLflow shows of a run that Kubeflow saw end: a pod that is killed cannot close its own runs."""

import os
from typing import Literal

from pipelines.watch import CANCELED, FAILED, SUCCEEDED, Progress, Say, failure
from sa2net.errors import Sa2NetError

REASONS = {CANCELED: "the pipeline was cancelled"}


def close_ended(progress: Progress, *, run_id: str, say: Say) -> None:
    """Close what is still open in MLflow of a run that has ended in Kubeflow."""
    if progress.state == FAILED:
        error = failure(progress, run_id, "")
        close_runs(run_id, "FAILED", f"{error.what}: {error.evidence}", say)
    elif progress.state != SUCCEEDED:
        close_runs(run_id, "KILLED", REASONS.get(progress.state, "the pipeline was never started"), say)


def close_runs(run_id: str, status: Literal["FAILED", "KILLED"], reason: str, say: Say) -> None:
    """Close what is still open in MLflow of a run of Kubeflow, where `MLFLOW_TRACKING_URI` names a server.

    A server that is away is no error: the next step of anyone closes runs that show no sign of life.

    Args:
        run_id: The run in Kubeflow.
        status: What its runs in MLflow become.
        reason: Why.
        say: Takes a line.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://")):
        return
    from sa2net.registry import tracking

    try:
        closed = tracking.end_execution(run_id, status, reason)
    except Sa2NetError as error:
        say(f"MLflow: open runs stay open for now ({error.what})")
    else:
        if closed:
            say(f"MLflow: {closed} runs that were still open are closed as {status}")
