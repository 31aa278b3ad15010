"""The runs in MLflow: a parent for an execution of the pipeline, a child for each step; found, made, opened again, closed.

Every run carries a key that is known before the run is made. MLflow's client asks again where an answer was lost on the
way, and the server then makes a second run: whoever makes one looks for its key right afterwards and removes the twin.
"""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Run, RunTag

from sa2net.artifacts import read_json, write_json
from sa2net.registry import description, store
from sa2net.registry.execution import Execution
from sa2net.registry.tags import (
    ALIVE_TAG,
    DATA_TAG,
    ENDED_TAG,
    ERROR_TAG,
    EXECUTION_OF_STEP_TAG,
    EXECUTION_TAG,
    KEY_TAG,
    KIND_TAG,
    PARENT_TAG,
    PARENT_TAGS,
    STEP_TAG,
)

LAST_STEP = "register"
PIPELINE = "pipeline"
"""A parent run without a name of its own is called so, with the time."""
Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass
class Header:
    """Which run a spool belongs to; the ids are empty until the server has given them.

    Attributes:
        step: Name of the step.
        uri: Address of the server, without a password.
        start: When the step began, ms since 1970.
        execution: What it is part of.
        tags: Tags that the run gets when it is made.
        key: Name that is known from the start.
        run_id: Its run in MLflow.
        parent_id: The run above it; empty if there is none.
        experiment_id: Number of the experiment, where the environment gave one or the run is made.
        experiment_name: Name of the experiment that was chosen.
    """

    step: str
    uri: str
    start: int
    execution: Execution
    tags: dict[str, str] = field(default_factory=dict)
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    run_id: str = ""
    parent_id: str = ""
    experiment_id: str = ""
    experiment_name: str = ""


def spool_folder() -> Path:
    """Where this machine keeps what MLflow has not got yet."""
    folder = store.var_folder() / "spool"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stamp() -> str:
    """The time as a sign of life is written: UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def find(client: MlflowClient, experiment: str, tag: str, value: str) -> list[Run]:
    """The runs of an experiment whose tag has a value, the one that started first at the front."""
    query = f"tags.`{tag}` = '{value}'"
    return list(client.search_runs([experiment], query, order_by=["attributes.start_time ASC"]))


def set_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run in one request; none where there are none."""
    if tags:
        listed = [RunTag(name, value) for name, value in tags.items()]
        client.log_batch(run_id, tags=listed, synchronous=True)


def begin(client: MlflowClient, header: Header, *, again: bool) -> None:
    """Find or make the run of a step, and its parent; the header knows them afterwards.

    Args:
        client: The store.
        header: The step.
        again: The server was asked for the run before, and may have made it.
    """
    handed_in = header.execution.run_id
    outer = client.get_run(handed_in) if handed_in else None
    experiment = _experiment(client, header) if outer is None else outer.info.experiment_id
    if outer is not None and PARENT_TAG in outer.data.tags:  # the back end made it for this very step
        run, header.parent_id = outer, outer.data.tags[PARENT_TAG]
        reopen(client, run)
        set_tags(client, handed_in, {**header.tags, KEY_TAG: header.key, STEP_TAG: header.step})
    else:
        parent = _parent(client, experiment, header) if outer is None else outer
        header.parent_id = "" if parent is None else parent.info.run_id
        made = find(client, experiment, KEY_TAG, header.key) if again else []
        run = made[0] if made else _step(client, experiment, header, parent)
    header.experiment_id, header.run_id = experiment, run.info.run_id
    tell_parent(client, header, header.tags)


def tell_parent(client: MlflowClient, header: Header, tags: Mapping[str, str]) -> None:
    """Let MLflow show on which data a step ran, and let the parent carry the tags by which executions are told apart."""
    ours = [header.parent_id] if header.execution.key else []
    for parent in ours:
        set_tags(client, parent, {name: tags[name] for name in PARENT_TAGS if name in tags})
    if md5 := tags.get(DATA_TAG):
        dataset = Dataset("data", md5[: description.SHORT], "dvc", f'{{"md5": "{md5}"}}')
        client.log_inputs(header.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", header.step)])])
        for parent in ours:
            client.log_inputs(parent, [DatasetInput(dataset, [])])


def end(client: MlflowClient, header: Header, status: Status, moment: int, message: str) -> None:
    """End the run of a step; the last step, and one that did not finish, end their parent too.

    Args:
        client: The store.
        header: The step.
        status: How it ended.
        moment: When, ms since 1970.
        message: Why, if it did not finish.
    """
    parent = client.get_run(header.parent_id) if header.parent_id else None
    close(client, client.get_run(header.run_id), status, moment, message, around=[parent] if parent else [])
    if parent is None or not header.execution.key:  # a run that was handed in is ended by whoever handed it in
        return
    steps = find(client, parent.info.experiment_id, PARENT_TAG, header.parent_id)
    went_on = any(step.info.start_time > header.start for step in steps)  # this end arrives late: it was tried again
    if (status != "FINISHED" or header.step == LAST_STEP) and not went_on:
        close(client, parent, status, moment, message and f"{header.step}: {message}", around=steps)
        _dvc_note(header.execution.key).unlink(missing_ok=True)
    else:
        _describe(client, parent, dict(parent.data.tags), parent.info.status, steps)


def close(
    client: MlflowClient,
    run: Run,
    status: Status,
    moment: int,
    message: str,
    *,
    around: Sequence[Run] | None = None,
    for_good: bool = True,
) -> None:
    """End one run. May be repeated.

    Args:
        client: The store.
        run: The run as it is now.
        status: How it ended.
        moment: When, ms since 1970.
        message: Why, if it did not finish.
        around: The parent of a step (empty if there is none), the steps of an execution; looked up where not given.
        for_good: No sign of life opens it again. The tag that says so is set before the status: whoever takes the run for
            dead at the same moment finds it.
    """
    run_id, tags = run.info.run_id, dict(run.data.tags)
    if for_good:
        tags[ENDED_TAG] = status
    if message:
        tags[ERROR_TAG] = message
    elif tags.pop(ERROR_TAG, ""):
        client.delete_tag(run_id, ERROR_TAG)
    _describe(client, run, tags, status, around)
    client.set_terminated(run_id, status=status, end_time=moment)


def reopen(client: MlflowClient, run: Run) -> None:
    """Let a run be RUNNING, without what it was ended with, and with a fresh sign of life."""
    gone = [name for name in (ENDED_TAG, ERROR_TAG) if name in run.data.tags]
    tags = {name: value for name, value in run.data.tags.items() if name not in gone} | {ALIVE_TAG: stamp()}
    if run.info.status == "RUNNING" and not gone:
        client.set_tag(run.info.run_id, ALIVE_TAG, tags[ALIVE_TAG])
        return
    for name in gone:
        client.delete_tag(run.info.run_id, name)
    client.update_run(run.info.run_id, status="RUNNING")
    _describe(client, run, tags, "RUNNING")


def close_execution(client: MlflowClient, key: str, status: Status, message: str) -> int:
    """End what is still open of an execution that somebody saw end, for example in Kubeflow.

    Args:
        client: The store.
        key: Name of the execution: the id of the pipeline's run.
        status: How it ended.
        message: Why.

    Returns:
        How many runs were still open.
    """
    now = int(time.time() * 1000)
    experiments = [item.experiment_id for item in client.search_experiments()]
    parents = [run for item in experiments for run in find(client, item, EXECUTION_TAG, key)]
    steps = [run for item in parents for run in find(client, item.info.experiment_id, PARENT_TAG, item.info.run_id)]
    still_open = [run for run in (*steps, *parents) if run.info.status == "RUNNING"]
    for run in still_open:
        close(client, run, status, now, message)
    return len(still_open)


def close_ended_executions(client: MlflowClient, uri: str) -> None:
    """End the parent runs whose `dvc` process is gone, such as `dvc repro train`, which never comes to the last step."""
    for path in spool_folder().glob("execution-*.json"):
        content = read_json(path)
        parent, written_for = content.pop("parent"), content.pop("uri")
        if written_for != uri or not Execution(**content).is_over():
            continue
        run = client.get_run(parent)
        if run.info.status == "RUNNING":
            close(client, run, "FINISHED", int(time.time() * 1000), "")
        path.unlink(missing_ok=True)


def _parent(client: MlflowClient, experiment: str, header: Header) -> Run | None:
    """The run of the execution that a step belongs to; None if it stands alone."""
    execution = header.execution
    if not execution.key:
        return None
    with FileLock(spool_folder() / "parent.lock"):
        found = find(client, experiment, EXECUTION_TAG, execution.key)
        if found:
            parent = found[0]
            reopen(client, parent)  # if it was ended, a step is tried again
        else:
            tags = {name: value for name, value in header.tags.items() if name.startswith("sa2net.")}
            tags |= {KIND_TAG: "execution", EXECUTION_TAG: execution.key, **_source(header, "sa2net")}
            tags |= description.note({}, description.of_execution(tags, status="RUNNING", metrics={}))
            name = execution.name or f"{PIPELINE} {_moment(header)}"
            parent = _make(client, experiment, f"{header.key}-parent", header.start, name, tags)
        if execution.pid:
            content = {**execution.to_dict(), "parent": parent.info.run_id, "uri": header.uri}
            write_json(_dvc_note(execution.key), content)
    return parent


def _step(client: MlflowClient, experiment: str, header: Header, parent: Run | None) -> Run:
    """The run of a step below its parent; it has the parent's name in its own, as charts show names alone."""
    tags = {**header.tags, KIND_TAG: "step", STEP_TAG: header.step, **_source(header, f"sa2net {header.step}")}
    if parent is not None:
        tags[PARENT_TAG] = parent.info.run_id
    if header.execution.key:
        tags[EXECUTION_OF_STEP_TAG] = header.execution.key
    tags |= description.note({}, description.of_step(tags, status="RUNNING", parent=parent))
    label = _moment(header) if parent is None else parent.info.run_name.removeprefix(f"{PIPELINE} ")
    return _make(client, experiment, header.key, header.start, f"{header.step} {label}", tags)


def _make(client: MlflowClient, experiment: str, key: str, start: int, name: str, tags: Mapping[str, str]) -> Run:
    """Make a run, and only one."""
    known = {**tags, KEY_TAG: key, ALIVE_TAG: stamp()}
    made = client.create_run(experiment, start_time=start, run_name=name, tags=known)
    first, *twins = find(client, experiment, KEY_TAG, key) or [made]
    for twin in twins:
        client.delete_run(twin.info.run_id)
    return first


def _describe(
    client: MlflowClient, run: Run, tags: Mapping[str, str], status: str, around: Sequence[Run] | None = None
) -> None:
    """Set the tags of a run, and the description that follows from them."""
    run_id = run.info.run_id
    parent = tags.get(PARENT_TAG)
    if EXECUTION_TAG in tags:
        steps = find(client, run.info.experiment_id, PARENT_TAG, run_id) if around is None else around
        text = description.of_execution(tags, status=status, metrics=run.data.metrics, steps=steps)
    else:
        above = ([client.get_run(parent)] if parent else []) if around is None else around
        address = description.address_of(run)
        text = description.of_step(tags, status=status, parent=above[0] if above else None, address=address)
    changed = {name: value for name, value in tags.items() if run.data.tags.get(name) != value}
    set_tags(client, run_id, {**changed, **description.note(run.data.tags, text)})


def _experiment(client: MlflowClient, header: Header) -> str:
    """The experiment that was chosen when the step began; the one that is chosen now may be another."""
    if header.experiment_id:
        return header.experiment_id
    found = client.get_experiment_by_name(header.experiment_name) if header.experiment_name else None
    if found is not None and found.lifecycle_stage == "active":
        return str(found.experiment_id)
    return store.experiment_id(client)


def _source(header: Header, name: str) -> dict[str, str]:
    """What MLflow shows as the source of a run: a command and a commit, no path."""
    return {
        "mlflow.source.name": name,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": header.tags.get("sa2net.revision", ""),
    }


def _moment(header: Header) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(header.start / 1000))


def _dvc_note(key: str) -> Path:
    return spool_folder() / f"execution-{key}.json"
