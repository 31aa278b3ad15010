"""What a task needs around it: image, processors, memory, GPU, shared memory, secrets, retries, cache, safety.

The one place that knows which image a step runs in and which steps may be cached. The graph names its tasks, this
module places them; everything else comes from the environment's settings.
"""

from typing import Any

from kfp import dsl, kubernetes
from kfp.dsl import PipelineTask

from pipelines.environments import Environment
from sa2net.config import as_section
from sa2net.registry.environment import IMAGE_VARIABLE
from sa2net.training.nodes import NodesConfig

IMAGE_OF = {
    "pointer": "tools",
    "fetch": "tools",
    "validate": "tools",
    "train": "torch",
    "evaluate": "torch",
    "register": "torch",
    "predict_plan": "tools",
    "predict_shard": "torch",
    "predict_summary": "tools",
}
"""Step -> image; a test holds each step's imports inside its image."""

NEVER_CACHED = ("pointer", "register", "predict_plan", "predict_shard", "predict_summary")
"""What may change although no input did: the data set behind an address, the registry, scans and their results."""

QUEUE_SECONDS = 7 * 24 * 3600
"""Pods may wait so long for a free node before retries stop."""

ON_GPU = ("train", "evaluate")
SCRATCH = "/tmp"  # noqa: S108 - inside the container, a volume of its own
WAITER = {"cpu_request": "500m", "cpu_limit": "2", "memory_request": "1Gi", "memory_limit": "4Gi"}
"""What the train task asks for where other pods train: it copies, waits and checks."""

OURS = {"app.kubernetes.io/part-of": "sa2net", "app.kubernetes.io/component": "pipeline"}
RUN_ID_LABEL = "metadata.labels['pipeline/runid']"
"""Label that Kubeflow Pipelines puts on every pod of a run. Read from the pod, since a parameter would bust the cache."""


def place(task: PipelineTask, step: str, environment: Environment) -> PipelineTask:
    """Give a task everything that its environment says about its step.

    Args:
        task: The task; its inputs and outputs are the graph's business.
        step: Name of the step.
        environment: Where the pipeline runs.

    Returns:
        The same task.
    """
    image = environment.images.model_dump()[IMAGE_OF[step]]
    task.set_container_image(image)
    task.set_caching_options(step not in NEVER_CACHED)
    _set_resources(task, step, environment)
    _set_variables(task, step, environment, image)
    _set_volumes(task, step, environment)
    _set_pod(task, environment)
    return task


def pipeline_config(environment: Environment) -> dsl.PipelineConfig:
    """Settings of the whole pipeline."""
    config = dsl.PipelineConfig()
    if environment.ttl_seconds:
        config.ttl_seconds_after_finished = environment.ttl_seconds
    return config


def gpus_of(step: str, environment: Environment) -> int:
    """How many GPUs the pod of a step gets."""
    if step == "train":
        return environment.gpu.count if environment.gpu.nodes == 1 else 0  # the pods of the TrainJob have them
    return int(step in ("evaluate", "predict_shard") and environment.gpu.evaluate and environment.gpu.count > 0)


def nodes_of_train(environment: Environment) -> dict[str, Any]:
    """Settings of the TrainJob that trains on several nodes (`NodesConfig`); empty where one pod trains.

    Raises:
        ConfigError: A variable that the Trainer sets itself, or that is set twice.
    """
    gpu, asked = environment.gpu, environment.resources["train"]
    if gpu.nodes == 1:
        return {}
    gpus, image = {gpu.type: str(gpu.count)}, environment.images.torch
    tree = {
        "nodes": gpu.nodes,
        "processes": gpu.count,
        "image": image,
        "runtime": gpu.runtime,
        "namespace": environment.namespace,
        "requests": {"cpu": asked.cpu_request, "memory": asked.memory_request, **gpus},
        "limits": {"cpu": asked.cpu_limit, "memory": asked.memory_limit, **gpus},
        "variables": {**environment.variables, IMAGE_VARIABLE: image, "SA2NET_VAR": environment.volume.mount},
        "secrets": environment.secrets,
        "claim": environment.volume.claim,
        "mount": environment.volume.mount,
        "shared_memory": environment.shared_memory,
        "scratch": environment.scratch,
        "node_selector": gpu.node_selector,
        "tolerations": tuple(_filled(toleration.model_dump()) for toleration in gpu.tolerations),
        "run_as_user": environment.run_as_user,
        "service_account": environment.service_account,
        "image_pull_secrets": environment.image_pull_secrets,
        "labels": {**environment.labels, **OURS},
        "deadline_seconds": asked.timeout_seconds,
    }
    return as_section(NodesConfig, tree, source="a training on several nodes in this environment").model_dump(
        mode="json"
    )


def _waits(step: str, environment: Environment) -> bool:
    """Whether a task starts other pods and waits for them."""
    return step == "train" and environment.gpu.nodes > 1


def _set_resources(task: PipelineTask, step: str, environment: Environment) -> None:
    asked = environment.resources[step]  # type: ignore[index]
    if _waits(step, environment):
        asked = asked.model_copy(update=WAITER)
    task.set_cpu_request(asked.cpu_request).set_cpu_limit(asked.cpu_limit)
    task.set_memory_request(asked.memory_request).set_memory_limit(asked.memory_limit)
    if asked.retries:
        # Argo counts the longest duration from the start of the first attempt and ends a running one with it: it is no
        # cap of a pause, and has to hold all attempts, their pauses, and the time that pods wait for a node.
        pauses = asked.backoff_seconds * (2**asked.retries - 1)
        whole = (asked.retries + 1) * asked.timeout_seconds + pauses + QUEUE_SECONDS
        backoff = f"{asked.backoff_seconds}s"
        task.set_retry(asked.retries, backoff_duration=backoff, backoff_factor=2.0, backoff_max_duration=f"{whole}s")
    kubernetes.set_timeout(task, asked.timeout_seconds)
    gpus = gpus_of(step, environment)
    if not gpus:
        return
    task.set_accelerator_type(environment.gpu.type).set_accelerator_limit(gpus)
    if environment.gpu.node_selector:
        for key, value in environment.gpu.node_selector.items():
            kubernetes.add_node_selector(task, key, value)
    for toleration in environment.gpu.tolerations:
        kubernetes.add_toleration(task, **_filled(toleration.model_dump()))


def _set_variables(task: PipelineTask, step: str, environment: Environment, image: str) -> None:
    for name, value in {**environment.variables, IMAGE_VARIABLE: image}.items():
        task.set_env_variable(name, value)
    for secret, keys in environment.secrets.items():
        kubernetes.use_secret_as_env(task, secret_name=secret, secret_key_to_env=keys)
    kubernetes.use_field_path_as_env(task, env_name="SA2NET_EXECUTION", field_path=RUN_ID_LABEL)
    if _waits(step, environment):
        for part in ("name", "uid"):
            kubernetes.use_field_path_as_env(task, env_name=f"SA2NET_POD_{part.upper()}", field_path=f"metadata.{part}")


def _set_volumes(task: PipelineTask, step: str, environment: Environment) -> None:
    kubernetes.empty_dir_mount(task, "scratch", SCRATCH, size_limit=environment.scratch)
    volume = environment.volume
    task.set_env_variable("SA2NET_VAR", volume.mount)
    if volume.claim:
        kubernetes.mount_pvc(task, pvc_name=volume.claim, mount_path=volume.mount)
    else:
        kubernetes.empty_dir_mount(task, "var", volume.mount, size_limit=environment.scratch)
    if step in ON_GPU and environment.shared_memory and not _waits(step, environment):
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit=environment.shared_memory)  # noqa: S108


def _set_pod(task: PipelineTask, environment: Environment) -> None:
    user = environment.run_as_user
    kubernetes.set_security_context(task, run_as_user=user, run_as_group=user, run_as_non_root=True)
    kubernetes.set_image_pull_policy(task, environment.image_pull_policy)
    if environment.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(environment.image_pull_secrets))
    for key, value in {**environment.labels, **OURS}.items():
        kubernetes.add_pod_label(task, key, value)


def _filled(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value != ""}
