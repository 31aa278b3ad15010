"""Starts a `TrainJob` in the cluster, waits for its end, and leaves none behind that nobody waits for.

The pod that waits may be killed and retried, and the API server may be away: a job that lives is taken over, never
doubled. What went wrong in the pods is remembered while they are there, since the cluster removes them with their logs.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sa2net.errors import ClusterError
from sa2net.termination import terminable
from sa2net.training.cluster import AwayError, TrainJobs
from sa2net.training.nodes import NODE

logger = logging.getLogger(__name__)
COMPLETE, FAILED, SUSPENDED = "Complete", "Failed", "Suspended"
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class PodFailure:
    """A container that ended badly.

    Attributes:
        pod: Name of its pod.
        reason: Exit code and what Kubernetes says of it, such as OOMKilled.
        ended: When, as Kubernetes writes it; "" where it does not say.
        log: Its last lines.
    """

    pod: str
    reason: str
    ended: str
    log: str = ""


@dataclass(frozen=True)
class Ended:
    """How a job ended: `Complete` or `Failed`, with what Kubernetes says of it and the first pod that failed."""

    state: str
    reason: str
    message: str
    failure: PodFailure | None


@contextmanager
def removed_at_end(jobs: TrainJobs, name: str) -> Iterator[None]:
    """Delete a job at the end of the block, also if it failed or this process is told to end (SIGTERM).

    It is left alone if the server was away for too long: the next attempt takes it over.
    """
    with terminable():
        try:
            yield
        except AwayError:
            logger.warning("%s", _by_hand(jobs, name))
            raise
        except BaseException:
            _delete(jobs, name)
            raise
        _delete(jobs, name)


def run_to_end(
    jobs: TrainJobs,
    job: Mapping[str, Any],
    *,
    prepare: Callable[[], None],
    limit: float,
    every: float = 10.0,
    patience: float = 1800.0,
) -> Ended:
    """Start a job, or take over the living one of its name, and wait until it has ended.

    Args:
        jobs: Those of the namespace.
        job: See `sa2net.training.nodes.train_job`.
        prepare: Called before a new one is made; not when one is taken over.
        limit: Seconds to wait for the end.
        every: Longest pause between two looks, seconds; it is shorter at first.
        patience: Seconds without an answer of the server that are waited through.

    Raises:
        ClusterError: It cannot be made, was deleted by somebody, or does not end.
        AwayError: The server was away for longer than `patience`.
    """
    name, started = job["metadata"]["name"], time.monotonic()
    waiting = _Patience(every, patience)
    begun, said, failures = False, "", dict[str, PodFailure]()
    while time.monotonic() - started < limit:
        begun = begun or waiting.ask(lambda: _begin(jobs, job, prepare))
        if not begun:
            time.sleep(_pause(started, every))
            continue
        found = waiting.ask(lambda: jobs.get(name))
        if found is None or found["metadata"].get("deletionTimestamp"):
            raise ClusterError(
                f"the TrainJob {name} was deleted while it was waited for",
                action="Start the training again: it goes on from its last checkpoint.",
            )
        pods = waiting.ask(lambda: jobs.pods(name))
        _remember(jobs, pods, failures)
        state, condition = _state(found)
        now = state if state in (COMPLETE, FAILED) else f"{state}, {_pods_text(pods)}"
        if now != said:
            logger.info("TrainJob %s after %s: %s", name, _clock(time.monotonic() - started), now)
            said = now
        if state in (COMPLETE, FAILED):
            first = min(failures.values(), key=lambda failure: failure.ended, default=None)
            return Ended(state, condition.get("reason", ""), condition.get("message", ""), first)
        time.sleep(_pause(started, every))
    raise ClusterError(
        f"the TrainJob {name} has not ended",
        evidence=f"after {_clock(limit)} it is: {said or 'waiting for an earlier one to go'}",
        action="Raise the time-out of train in infra/environments.yaml, or look why its pods do not start.",
    )


def _pause(started: float, every: float) -> float:
    """Seconds until the next look: what goes wrong mostly does so soon, and a long training need not be looked at often."""
    return min(every, max(1.0, (time.monotonic() - started) / 10))


def _begin(jobs: TrainJobs, job: Mapping[str, Any], prepare: Callable[[], None]) -> bool:
    """Whether there is a job to wait for now: a new one, or the one that an earlier attempt made."""
    name = job["metadata"]["name"]
    found = jobs.get(name)
    if found is None:
        prepare()
        made = jobs.create(job)
        if made:
            logs = (
                f"kubectl logs --namespace {jobs.namespace} --selector jobset.sigs.k8s.io/jobset-name={name} --follow"
            )
            logger.info("made the TrainJob %s; its log: %s", name, logs)
        return made
    if found["metadata"].get("deletionTimestamp"):
        logger.info("waiting until the pods of the TrainJob %s before this one are gone", name)
        return False
    if _state(found)[0] == FAILED:
        jobs.delete(name)
        return False
    logger.info("the TrainJob %s of an earlier attempt is there; waiting for it", name)
    return True


class _Patience:
    """Asks until the server answers, but not for ever."""

    def __init__(self, every: float, limit: float) -> None:
        self.every, self.limit = every, limit

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """The answer.

        Raises:
            AwayError: There was none for too long.
        """
        since = 0.0
        while True:
            try:
                answer = question()
            except AwayError as error:
                if not since:
                    since = time.monotonic()
                    logger.warning("%s Waiting up to %s for it.", error, _clock(self.limit))
                if time.monotonic() - since > self.limit:
                    raise
                time.sleep(self.every)
            else:
                if since:
                    logger.info("the API server answers again after %s", _clock(time.monotonic() - since))
                return answer


def _state(job: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a job says of itself, and the condition that says so."""
    conditions = {
        item["type"]: item for item in job.get("status", {}).get("conditions") or [] if item["status"] == "True"
    }
    for state in (FAILED, COMPLETE, SUSPENDED):
        if state in conditions:
            return state, conditions[state]
    return "going on", {}


def _remember(jobs: TrainJobs, pods: list[Any], failures: dict[str, PodFailure]) -> None:
    """Keep what is known of each container that ended badly, before the cluster removes it."""
    for pod in pods:
        for status in pod.status.container_statuses or []:
            for state, previous in ((status.state, False), (status.last_state, True)):
                ended = state.terminated if state else None
                if status.name != NODE or ended is None or not ended.exit_code:
                    continue
                key = f"{pod.metadata.uid} {ended.container_id or ended.finished_at}"
                if key not in failures:
                    name, reason = (
                        pod.metadata.name,
                        f"exit code {ended.exit_code}, {ended.reason or 'no reason given'}",
                    )
                    logger.warning("a container of %s ended: %s", name, reason)
                    at = ended.finished_at.isoformat() if ended.finished_at else ""
                    failures[key] = PodFailure(name, reason, at, jobs.log(name, previous=previous))


def _pods_text(pods: list[Any]) -> str:
    """How many pods are in which state, and what keeps one from starting."""
    counts: dict[str, int] = {}
    obstacles = []
    for pod in pods:
        counts[pod.status.phase] = counts.get(pod.status.phase, 0) + 1
        obstacles += [
            condition.message for condition in pod.status.conditions or [] if condition.reason == "Unschedulable"
        ]
        waiting = [status.state.waiting for status in pod.status.container_statuses or [] if status.state]
        obstacles += [item.reason for item in waiting if item and item.reason not in ("ContainerCreating", None)]
    text = ", ".join(f"{count} {phase}" for phase, count in sorted(counts.items())) or "none yet"
    return f"pods: {text}" + (f" ({obstacles[0]})" if obstacles else "")


def _delete(jobs: TrainJobs, name: str) -> None:
    """Delete a job; if that cannot be done, say how."""
    try:
        jobs.delete(name)
    except ClusterError as error:
        logger.warning("the TrainJob %s could not be deleted: %s %s", name, error, _by_hand(jobs, name))
    else:
        logger.info("deleted the TrainJob %s", name)


def _by_hand(jobs: TrainJobs, name: str) -> str:
    return f"If nothing takes it over: kubectl delete trainjob {name} --namespace {jobs.namespace}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600:02d}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
