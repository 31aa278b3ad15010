"""Follow a run to its end, whatever end that is.

The official client's own wait returns on a failed run as if all were well, never returns on a cancelled one, and gives
up at the first answer that does not come. A training run outlives a restart of the server; so does this.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipelines.client import Cluster
from pipelines.refusals import LONGEST_EVIDENCE, ServerAwayError, clean
from sa2net.errors import ClusterError, Sa2NetError

SUCCEEDED, FAILED, SKIPPED, CANCELED, PAUSED = "SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", "PAUSED"
ENDED = (SUCCEEDED, FAILED, SKIPPED, CANCELED)
UNDERWAY = ("PENDING", "RUNNING", "CANCELING", PAUSED)
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""The server says 1970 for a time that has not come."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """One node of a run: a step, or one of the pods and graphs that the back end makes around steps.

    Attributes:
        name: Display name.
        state: One of the API's states; PENDING where the server says none.
        started: When it started, if it did.
        ended: When it ended, if it did.
        message: What went wrong, if the server knows.
    """

    name: str
    state: str
    started: datetime | None
    ended: datetime | None
    message: str


@dataclass(frozen=True)
class Progress:
    """A run at one moment.

    Attributes:
        state: As for a task.
        created: When it was submitted.
        ended: When it ended, if it did.
        steps: The pipeline's own tasks.
        nodes: Everything that the server lists.
        message: What went wrong with the run as a whole, if the server knows.
    """

    state: str
    created: datetime
    ended: datetime | None
    steps: tuple[Task, ...]
    nodes: tuple[Task, ...]
    message: str

    def elapsed(self, moment: datetime | None) -> str:
        """Time from the submission to a moment, else to now."""
        return clock_text(((moment or datetime.now(UTC)) - self.created).total_seconds())


def watch(
    cluster: Cluster,
    run_id: str,
    *,
    interval: float,
    patience: float,
    say: Say,
    met: bool = False,
    ended: Callable[[Progress], None] | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Follow a run until it has succeeded; say each change of state once.

    Args:
        cluster: Where it runs.
        run_id: The run.
        interval: Seconds between two questions.
        patience: Seconds for which the server may be away, once it has answered.
        say: Takes a line.
        met: The server has answered already; else its first silence is the end.
        ended: Is told how the run ended.
        sleep: Waits, seconds.
        clock: Seconds that only grow.

    Raises:
        ClusterError: The run ended in any other way, or the server stayed away.
    """
    seen: dict[str, str] = {}
    answered = clock() if met else None
    away = False
    while True:
        try:
            progress = read(cluster.run(run_id))
        except ServerAwayError as error:
            if answered is None:
                raise
            if clock() - answered > patience:
                raise _lost(cluster, run_id, error) from error
            if not away:
                say(f"no answer: {error.what}; asking on for {patience:g} s, the run is not affected")
            away = True
        except Sa2NetError as error:
            if answered is None:
                raise
            raise _lost(cluster, run_id, error) from error
        else:
            if away:
                say("the server answers again")
            answered, away = clock(), False
            _say_changes(progress, seen, say)
            if progress.state in ENDED:
                if ended is not None:
                    ended(progress)
                return _conclude(progress, cluster, run_id, say)
        sleep(interval)


def read(run: Any) -> Progress:
    """A run of the API in our words.

    Raises:
        ServerAwayError: It says nothing that can be understood; a newer server may.
    """
    try:
        nodes = tuple(_task(item) for item in getattr(run.run_details, "task_details", None) or [])
        state = _state(run.state)
        created = _moment(run.created_at) or datetime.now(UTC)
        message = _message(run)
        known = step_names(run.pipeline_spec)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise ServerAwayError(
            "the server describes the run in a form that is not the API's",
            evidence=f"{type(error).__name__}: {clean(str(error))[:100]}",
            action="Try again later.",
        ) from error
    if state not in (*ENDED, *UNDERWAY):
        raise ServerAwayError(
            f"the server gives the run the unknown state {clean(state)[:40]}",
            action="Look at it in the user interface.",
        )
    steps = tuple(node for node in nodes if (node.name in known if known else _looks_like_step(node.name)))
    return Progress(state, created, _moment(run.finished_at), steps, nodes, message)


def step_names(document: Any) -> frozenset[str]:
    """Names of the tasks of a pipeline as the server gives it back; empty where it does not."""
    if isinstance(document, Mapping):
        spec = document.get("pipeline_spec", document)
        tasks = spec.get("root", {}).get("dag", {}).get("tasks", {}) if isinstance(spec, Mapping) else {}
        return frozenset(tasks)
    return frozenset()


def failure(progress: Progress, run_id: str, link: str) -> ClusterError:
    """The error for a run that failed: which step, and why as far as the server knows."""
    failed = [task for task in progress.steps if task.state == FAILED]
    names = [task.name for task in failed]
    # A step whose pod was never made has no node of its own, only that of the pod that would have made it.
    names = (
        names
        or [
            node.name.removesuffix("-driver") for node in progress.nodes if node.state == FAILED and node.name != "root"
        ][:1]
    )
    # The server files a message with the step, with the pod inside it, or with the run; often nowhere.
    inner = [node for node in progress.nodes if node.state == FAILED and node not in failed]
    inner.sort(key=lambda node: not node.name.startswith("executor"))
    messages = [task.message for task in (*failed, *inner)] + [progress.message]
    message = next((text for text in messages if text), "")
    return ClusterError(
        f"run {run_id} failed in {', '.join(names)}" if names else f"run {run_id} failed",
        evidence=message[:LONGEST_EVIDENCE] or "the server gives no message",
        action=f"Read the log of that step at {link}",
    )


def clock_text(seconds: float) -> str:
    """Hours, minutes, seconds."""
    whole = max(0, int(seconds))
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _say_changes(progress: Progress, seen: dict[str, str], say: Say) -> None:
    width = max([len("run"), *(len(task.name) for task in progress.steps)])
    for task in progress.steps:
        if seen.get(task.name) == task.state:
            continue
        seen[task.name] = task.state
        moment = task.ended if task.state in ENDED else task.started
        took = ""
        if task.started and task.ended and task.state in ENDED:
            took = f"  (took {clock_text((task.ended - task.started).total_seconds())})"
        say(f"{task.name:<{width}} {task.state:<9} {progress.elapsed(moment)}{took}")
    if seen.get("") != progress.state and progress.state not in ENDED:
        seen[""] = progress.state
        hint = "  (nothing happens until somebody resumes it)" if progress.state == PAUSED else ""
        say(f"{'run':<{width}} {progress.state:<9} {progress.elapsed(None)}{hint}")


def _conclude(progress: Progress, cluster: Cluster, run_id: str, say: Say) -> None:
    link = cluster.link(f"runs/details/{run_id}")
    after = progress.elapsed(progress.ended)
    if progress.state == SUCCEEDED:
        return say(f"run {run_id} succeeded after {after}")
    if progress.state == FAILED:
        raise failure(progress, run_id, link)
    if progress.state == CANCELED:
        where = ", ".join(task.name for task in progress.steps if task.state not in (SUCCEEDED, SKIPPED))
        raise ClusterError(
            f"run {run_id} was cancelled after {after}",
            evidence=f"not finished: {where}" if where else "",
            action="Submit it again if that was not meant; finished steps come from the cache.",
        )
    raise ClusterError(
        f"run {run_id} was skipped",
        evidence="the server never started it",
        action=f"Look for the reason at {link}",
    )


def _lost(cluster: Cluster, run_id: str, error: Sa2NetError) -> ClusterError:
    return ClusterError(
        f"run {run_id} cannot be watched: {error.what}",
        evidence=error.evidence,
        action=f"{error.action} The run itself goes on; watch it again with --watch {run_id}, "
        f"or look at {cluster.link(f'runs/details/{run_id}')}",
    )


def _task(item: Any) -> Task:
    ended = _moment(item.end_time)
    return Task(
        clean(str(item.display_name or "")), _state(item.state), _moment(item.start_time), ended, _message(item)
    )


def _state(value: Any) -> str:
    text = str(value or "")
    return "PENDING" if text in ("", "RUNTIME_STATE_UNSPECIFIED") else text


def _moment(value: datetime | None) -> datetime | None:
    if value is None:
        return None
    moment = value if value.tzinfo else value.replace(tzinfo=UTC)
    return moment if moment > EARLIEST else None


def _message(item: Any) -> str:
    """The error of a run or task, else the last one of its history."""
    for status in (item, *reversed(item.state_history or [])):
        text = clean(str(getattr(status.error, "message", None) or ""))
        if text:
            return text
    return ""


def _looks_like_step(name: str) -> bool:
    return bool(name) and name != "root" and not name.endswith("-driver") and not name.startswith("executor")
