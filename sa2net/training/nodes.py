"""A training on several nodes, as Kubernetes is told of it: settings, and the Kubeflow Trainer `TrainJob` made of them.

The runtime that the cluster's administrators installed starts one pod a node and gives torchrun its `PET_*` variables.
What a training needs beyond that (volume, shared memory, GPU nodes, a safe container) goes into `runtimePatches`; the
variables of the training container go through `spec.trainer.env`, the only place where the Trainer takes them from.
`sa2net.training.trainjob` starts the job and waits for it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from sa2net.config import Section
from sa2net.errors import ConfigError

API_VERSION = "trainer.kubeflow.org/v1alpha1"
KIND = "TrainJob"
NODE = "node"
"""Name of the pods' group and of their container, in every runtime of the Trainer."""

MANAGER = "sa2net/pipeline"
RESERVED = frozenset({"PET_NNODES", "PET_NPROC_PER_NODE", "PET_NODE_RANK", "PET_MASTER_ADDR", "PET_MASTER_PORT"})
"""Variables that the torch runtime sets; it refuses a job that names them."""


class NodesConfig(Section):
    """Where and with what a training on several nodes runs. Names of secrets, never their values."""

    nodes: int = Field(ge=1, description="pods that train together")
    processes: int = Field(ge=1, description="processes in each pod, one a GPU")
    image: str = Field(min_length=1, description="image of the pods; holds this package and torch")
    runtime: str = Field("torch-distributed", min_length=1, description="training runtime of the cluster")
    namespace: str = Field("", description="namespace of the job; empty = the one of this pod or of the kubeconfig")
    requests: dict[str, str] = Field({}, description="resources that each pod asks for")
    limits: dict[str, str] = Field({}, description="resources that each pod gets at most; GPUs among them")
    variables: dict[str, str] = Field({}, description="plain variables of the pods")
    secrets: dict[str, dict[str, str]] = Field({}, description="secret -> its key -> variable")
    claim: str = Field(min_length=1, description="PersistentVolumeClaim that all pods can mount (ReadWriteMany)")
    mount: str = Field(pattern=r"^/[^:]+$", description="where it is mounted, here and in the pods")
    shared_memory: str = Field("", description="size of /dev/shm; empty = the default 64 MB")
    scratch: str = Field("20Gi", description="size of /tmp")
    node_selector: dict[str, str] = Field({}, description="labels of the nodes with GPUs")
    tolerations: tuple[dict[str, str], ...] = Field((), description="taints of these nodes, as Kubernetes writes them")
    run_as_user: int = Field(10001, ge=1, description="user and group of the containers; never root")
    service_account: str = Field("", description="Kubernetes account of the pods; empty = the namespace's default")
    image_pull_secrets: tuple[str, ...] = Field((), description="names of the registry's secrets")
    labels: dict[str, str] = Field({}, description="labels of the job and its pods")
    deadline_seconds: int = Field(48 * 3600, ge=1, description="the job is ended after so long")

    @model_validator(mode="after")
    def _variables_are_free(self) -> Self:
        given = [*self.variables, *(name for keys in self.secrets.values() for name in keys.values())]
        if taken := sorted(RESERVED.intersection(given)):
            raise ValueError(f"{', '.join(taken)}: the runtime sets these itself")
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)}: set twice, among variables and secrets")
        return self


def train_job(
    settings: NodesConfig,
    name: str,
    command: Sequence[str],
    *,
    variables: Mapping[str, str] | None = None,
    owner: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """The `TrainJob` that runs a command under torchrun in every pod.

    Args:
        settings: Where and with what.
        name: Name of the job: small letters, digits and hyphens, 40 at most, since those of its pods are longer.
        command: Program and arguments.
        variables: Further plain variables; they win over those of the settings.
        owner: Name and uid of the pod that waits for the job: with its object the cluster removes the job too, should
            that pod be killed before it can.

    Raises:
        ConfigError: The installed model of the API would lose a part of the job.
    """
    labels = {"labels": settings.labels} if settings.labels else {}
    metadata: dict[str, Any] = {"name": name, **labels}
    if owner:
        metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": owner[0], "uid": owner[1]}]
    trainer = {
        "image": settings.image,
        "command": list(command[:1]),
        "args": list(command[1:]),
        "env": _env(settings, variables or {}),
        "numNodes": settings.nodes,
        "numProcPerNode": settings.processes,
        "resourcesPerNode": {"requests": settings.requests, "limits": settings.limits},
    }
    pod = {**({"metadata": labels} if labels else {}), "spec": _pod(settings)}
    node = {"name": NODE, "template": {"spec": {"template": pod}}}
    patch = {"manager": MANAGER, "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}}}
    spec = {
        "runtimeRef": {"name": settings.runtime},
        "activeDeadlineSeconds": settings.deadline_seconds,
        "trainer": trainer,
        "runtimePatches": [patch],
    }
    return checked({"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec})


def checked(job: dict[str, Any]) -> dict[str, Any]:
    """The same job, if the typed model of the API holds every field of it: it drops unknown ones without a word.

    Raises:
        ConfigError: It holds another job, or there is no such model.
    """
    try:
        from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
    except ImportError as error:
        raise ConfigError(
            "training on several nodes needs the model of the Kubeflow Trainer's API",
            evidence=str(error),
            action="Install it with `pip install 'sa2net[nodes]'`, or build the image with that extra.",
        ) from error
    try:
        kept = TrainerV1alpha1TrainJob.from_dict(job).to_dict()
    except ValueError as error:
        raise ConfigError("the TrainJob is not one", evidence=str(error), action="Report this.") from error
    if kept != job:
        raise ConfigError(
            "the installed model of the Kubeflow Trainer's API loses a part of the TrainJob",
            evidence=", ".join(lost_fields(job, kept)) or "values differ",
            action="Install kubeflow-trainer-api 2.3 or newer.",
        )
    return job


def lost_fields(sent: Any, kept: Any, place: str = "") -> list[str]:
    """Where `kept` lacks or changes something of `sent`, as dotted places."""
    if isinstance(sent, dict) and isinstance(kept, dict):
        return [
            lost
            for key, value in sent.items()
            for lost in lost_fields(value, kept.get(key), f"{place}.{key}".strip("."))
        ]
    if isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        return [
            lost
            for index, pair in enumerate(zip(sent, kept, strict=True))
            for lost in lost_fields(*pair, f"{place}[{index}]")
        ]
    return [] if sent == kept else [place]


def _env(settings: NodesConfig, variables: Mapping[str, str]) -> list[dict[str, Any]]:
    from_secrets = [
        {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}
        for secret, keys in settings.secrets.items()
        for key, variable in keys.items()
    ]
    secret_names = {item["name"] for item in from_secrets}
    plain = {**settings.variables, **variables}
    return [{"name": name, "value": value} for name, value in plain.items() if name not in secret_names] + from_secrets


def _pod(settings: NodesConfig) -> dict[str, Any]:
    """What the pods of the runtime get, over what it says itself."""
    volumes: list[dict[str, Any]] = [
        {"name": "sa2net-var", "persistentVolumeClaim": {"claimName": settings.claim}},
        {"name": "sa2net-scratch", "emptyDir": {"sizeLimit": settings.scratch}},
    ]
    mounts = [
        {"name": "sa2net-var", "mountPath": settings.mount},
        {"name": "sa2net-scratch", "mountPath": "/tmp"},  # noqa: S108 - inside the container, a volume of its own
    ]
    if settings.shared_memory:
        volumes.append({"name": "sa2net-shm", "emptyDir": {"medium": "Memory", "sizeLimit": settings.shared_memory}})
        mounts.append({"name": "sa2net-shm", "mountPath": "/dev/shm"})  # noqa: S108 - likewise
    user = {"runAsNonRoot": True, "runAsUser": settings.run_as_user, "runAsGroup": settings.run_as_user}
    container = {
        "name": NODE,
        "volumeMounts": mounts,
        "securityContext": {
            **user,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    optional = {
        "nodeSelector": settings.node_selector,
        "tolerations": list(settings.tolerations),
        "serviceAccountName": settings.service_account,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
    }
    return {
        "volumes": volumes,
        "containers": [container],
        "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
        **{key: value for key, value in optional.items() if value},
    }
