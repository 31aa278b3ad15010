"""Checks a compiled pipeline without the SDK that wrote it: strict protobuf parsing, then every reference by hand.

The parser alone takes a pipeline whose tasks point nowhere. What a cluster would find at run time is found here.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_pb
from kfp.pipeline_spec import pipeline_spec_pb2 as pb

DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


def load(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two documents of a compiled file; the second is empty where there is none."""
    documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    return documents[0], documents[1] if len(documents) > 1 else {}


def faults(spec: Mapping[str, Any], platform: Mapping[str, Any], *, pinned: bool = True) -> list[str]:
    """Everything that is wrong with a compiled pipeline; empty where nothing is.

    Args:
        spec: First document.
        platform: Second document.
        pinned: Images must be named by digest.
    """
    found = [*_parse(spec, platform)]
    if found:
        return found
    executors = spec["deploymentSpec"]["executors"]
    for name, component in spec["components"].items():
        if ("executorLabel" in component) == ("dag" in component):
            found.append(f"{name} has not just one of executorLabel and dag")
        if "executorLabel" in component and component["executorLabel"] not in executors:
            found.append(f"{name} names the executor {component['executorLabel']}, which is not there")
        if "dag" in component:
            found += _dag(name, component, spec)
    found += _dag("root", spec["root"], spec)
    used = {component.get("executorLabel") for component in spec["components"].values()}
    found += [f"executor {name} is used by nobody" for name in executors if name not in used]
    for name in platform.get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {}):
        if name not in executors:
            found.append(f"the platform document names the executor {name}, which is not there")
    for name, executor in executors.items():
        image = executor["container"]["image"]
        if pinned and not DIGEST.search(image):
            found.append(f"{name} runs in {image}, which is not pinned")
    return found


def _parse(spec: Mapping[str, Any], platform: Mapping[str, Any]) -> Iterator[str]:
    """Faults of form: unknown fields, wrong types."""
    parts: list[tuple[str, Any, Any]] = [("pipeline", spec, pb.PipelineSpec())]
    for name, executor in spec.get("deploymentSpec", {}).get("executors", {}).items():
        parts.append((name, executor, pb.PipelineDeploymentConfig.ExecutorSpec()))
    if platform:
        parts.append(("platform", platform, pb.PlatformSpec()))
        kubernetes = platform.get("platforms", {}).get("kubernetes", {})
        for name, executor in kubernetes.get("deploymentSpec", {}).get("executors", {}).items():
            parts.append((f"kubernetes of {name}", executor, kubernetes_pb.KubernetesExecutorConfig()))
    for name, content, message in parts:
        try:
            json_format.ParseDict(content, message)
        except json_format.ParseError as error:
            yield f"{name}: {error}"


def _dag(name: str, component: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    """Faults of reference inside one graph."""
    tasks = component["dag"]["tasks"]
    inputs = component.get("inputDefinitions", {})
    for label, task in tasks.items():
        place = f"{name}/{label}"
        target = spec["components"].get(task["componentRef"]["name"])
        if target is None:
            yield f"{place} is of the component {task['componentRef']['name']}, which is not there"
            continue
        yield from _task_inputs(place, task, target, tasks, inputs, spec)
        for other in task.get("dependentTasks", ()):
            if other not in tasks:
                yield f"{place} waits for {other}, which is not there"
    yield from _cycles(name, tasks)


def _task_inputs(
    place: str,
    task: Mapping[str, Any],
    target: Mapping[str, Any],
    tasks: Mapping[str, Any],
    inputs: Mapping[str, Any],
    spec: Mapping[str, Any],
) -> Iterator[str]:
    for kind in ("parameters", "artifacts"):
        defined = target.get("inputDefinitions", {}).get(kind, {})
        given = task.get("inputs", {}).get(kind, {})
        for key in given:
            if key not in defined and not _is_iterator_item(key, task):
                yield f"{place} is given {key}, which its component does not take"
        for key, definition in defined.items():
            wanted = not definition.get("isOptional") and "defaultValue" not in definition
            if key not in given and wanted and not _is_iterator_item(key, task):
                yield f"{place} is not given {key}"
        for key, value in given.items():
            yield from _source(f"{place}.{key}", value, kind, task, tasks, inputs, spec)


def _is_iterator_item(key: str, task: Mapping[str, Any]) -> bool:
    return task.get("parameterIterator", {}).get("itemInput") == key


def _source(
    place: str,
    value: Mapping[str, Any],
    kind: str,
    task: Mapping[str, Any],
    tasks: Mapping[str, Any],
    inputs: Mapping[str, Any],
    spec: Mapping[str, Any],
) -> Iterator[str]:
    """Whether the value of an input exists."""
    from_task = value.get("taskOutputParameter" if kind == "parameters" else "taskOutputArtifact")
    if from_task is not None:
        producer = tasks.get(from_task["producerTask"])
        output = from_task["outputParameterKey" if kind == "parameters" else "outputArtifactKey"]
        if producer is None:
            yield f"{place} comes from {from_task['producerTask']}, which is not there"
        elif output not in (
            spec["components"].get(producer["componentRef"]["name"], {}).get("outputDefinitions", {}).get(kind, {})
        ):
            yield f"{place} comes from the output {output} of {from_task['producerTask']}, which has none of that name"
        elif from_task["producerTask"] not in task.get("dependentTasks", ()):
            yield f"{place} comes from {from_task['producerTask']}, and the task does not wait for it"
    name = value.get("componentInputParameter" if kind == "parameters" else "componentInputArtifact")
    if name is not None and name not in inputs.get(kind, {}):
        yield f"{place} comes from the graph's input {name}, which is not there"


def _cycles(name: str, tasks: Mapping[str, Any]) -> Iterator[str]:
    """Tasks that can never start."""
    done: set[str] = set()
    while True:
        ready = {
            label
            for label, task in tasks.items()
            if label not in done and done.issuperset(set(task.get("dependentTasks", ())) & set(tasks))
        }
        if not ready:
            break
        done |= ready
    stuck = sorted(set(tasks) - done)
    if stuck:
        yield f"{name}: {', '.join(stuck)} wait for each other"
