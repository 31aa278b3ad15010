"""Where a pipeline runs: one typed section per environment in `infra/environments.yaml`, so that no code is edited to move.

Defaults are those of a small cluster with one GPU. A section holds names of secrets, never their values.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, StringConstraints, model_validator

from sa2net.artifacts import read_json
from sa2net.config import Section, as_section, key_lines
from sa2net.errors import ConfigError, DataError

ENVIRONMENTS = Path("infra/environments.yaml")
IMAGE_LOCK = Path("infra/images.lock.json")
LOCK_VERSION = 1
_PIN_AGAIN = "Delete it and run `make pin`."
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_TAKEN = ("/tmp", "/dev/shm", "/dev", "/etc", "/opt", "/usr", "/proc", "/sys", "/work")  # noqa: S108 - in the container
_SECRET_NAME = re.compile(r"PASS|PWD|SECRET|TOKEN|ACCESS_?KEY|API_?KEY|CREDENTIAL|PRIVATE", re.IGNORECASE)
_LOGIN = re.compile(r"://[^/\s]*@")

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(E|P|T|G|M|K|Ei|Pi|Ti|Gi|Mi|Ki)?$")]
Cpu = Annotated[str, StringConstraints(pattern=r"^([0-9]+m|[0-9]+(\.[0-9]+)?)$")]
KubernetesName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Label = Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")]
LabelKey = Annotated[
    str,
    StringConstraints(pattern=r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"),
]
Image = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][A-Za-z0-9._/:-]*[A-Za-z0-9](:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?$")
]


class Images(Section):
    """The two images of the project, by tag or digest."""

    tools: Image = Field(description="fetch, validate: no torch")
    torch: Image = Field(description="train, evaluate, register, predict")

    @model_validator(mode="after")
    def _versions_stand_still(self) -> Self:
        for image in (self.tools, self.torch):
            name, _, digest = image.partition("@")
            tag = name.rpartition(":")[2] if ":" in name.rpartition("/")[2] else ""
            if not digest and tag in ("", "latest"):
                raise ValueError(f"{image} moves: the cache would take another image for this one; name a version")
        return self


class Resources(Section):
    """What the pod of a step asks for, and how it is retried. Memory in bytes with a suffix, as Kubernetes writes it."""

    cpu_request: Cpu = Field("1", description="processors asked for")
    cpu_limit: Cpu = Field("2", description="processors at most")
    memory_request: Quantity = Field("2Gi", description="memory asked for")
    memory_limit: Quantity = Field("4Gi", description="memory at most; beyond it the pod is killed")
    retries: int = Field(0, ge=0, le=8, description="further attempts after a failed one")
    backoff_seconds: int = Field(30, ge=0, le=3600, description="wait before the second attempt; doubles")
    timeout_seconds: int = Field(3600, ge=1, le=10_000_000, description="the pod is ended after so long")

    @model_validator(mode="after")
    def _limits_hold_requests(self) -> Self:
        for what in ("cpu", "memory"):
            asked, most = getattr(self, f"{what}_request"), getattr(self, f"{what}_limit")
            if quantity(asked) <= 0 or quantity(asked) > quantity(most):
                raise ValueError(f"{what}_request {asked} is not above 0 and at most {what}_limit {most}")
        return self


Task = Literal[
    "pointer", "fetch", "validate", "train", "evaluate", "register", "predict_plan", "predict_shard", "predict_summary"
]
# Pulling, training and scoring go on where they were. A broken data set does not get better by repeating, and a
# decision is made once.
DEFAULT_RESOURCES: dict[str, dict[str, str | int]] = {
    "pointer": {
        "cpu_request": "100m",
        "cpu_limit": "1",
        "memory_request": "256Mi",
        "memory_limit": "1Gi",
        "retries": 3,
        "timeout_seconds": 600,
    },
    "fetch": {"retries": 5, "timeout_seconds": 6 * 3600},
    "validate": {"cpu_limit": "4", "memory_limit": "8Gi", "timeout_seconds": 2 * 3600},
    "train": {
        "cpu_request": "4",
        "cpu_limit": "8",
        "memory_request": "16Gi",
        "memory_limit": "32Gi",
        "retries": 3,
        "timeout_seconds": 48 * 3600,
    },
    "evaluate": {
        "cpu_request": "2",
        "cpu_limit": "8",
        "memory_request": "8Gi",
        "memory_limit": "16Gi",
        "retries": 2,
        "timeout_seconds": 6 * 3600,
    },
    "register": {"memory_limit": "8Gi"},
    "predict_plan": {},
    # Goes on with the scans that are missing.
    "predict_shard": {
        "cpu_request": "2",
        "cpu_limit": "8",
        "memory_request": "4Gi",
        "memory_limit": "8Gi",
        "retries": 3,
        "timeout_seconds": 12 * 3600,
    },
    "predict_summary": {},
}


class Toleration(Section):
    """Lets a pod onto nodes with a taint."""

    key: str = Field(min_length=1, description="key of the taint")
    operator: Literal["Exists", "Equal"] = Field("Exists", description="Equal compares the value too")
    value: str = Field("", description="value of the taint, with Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute", ""] = Field("NoSchedule", description="empty = all")


class Gpu(Section):
    """The GPUs of training and evaluation."""

    type: str = Field("nvidia.com/gpu", min_length=1, description="resource name of the device plugin")
    count: int = Field(0, ge=0, le=64, description="GPUs of the training pod; 0 = train on processors")
    nodes: int = Field(1, ge=1, le=64, description="pods that train together; more than 1 makes a TrainJob")
    runtime: KubernetesName = Field(
        "torch-distributed", description="training runtime of Kubeflow Trainer, for nodes > 1"
    )
    evaluate: bool = Field(True, description="give evaluate and each part of a batch one GPU too, where train has some")
    node_selector: dict[LabelKey, Label] = Field({}, description="labels of the nodes with GPUs")
    tolerations: tuple[Toleration, ...] = Field(
        (Toleration(key="nvidia.com/gpu"),), description="taints of these nodes"
    )


class Volume(Section):
    """A volume that outlives pods: a retried pod starts empty and goes on from what lies here."""

    claim: KubernetesName | Literal[""] = Field(
        "", description="PersistentVolumeClaim; empty = scratch of the pod alone"
    )
    mount: str = Field("/var/lib/sa2net", pattern=r"^(/[A-Za-z0-9_.-]+)+$", description="where it is mounted")

    @model_validator(mode="after")
    def _mount_is_its_own(self) -> Self:
        if ".." in self.mount.split("/") or self.mount in _TAKEN:
            raise ValueError(f"mount {self.mount} is taken: name a folder of its own, such as /var/lib/sa2net")
        return self


class Environment(Section):
    """One place where pipelines run."""

    endpoint: str = Field("", description="address of the Kubeflow Pipelines API; empty = $KF_PIPELINES_ENDPOINT")
    namespace: KubernetesName | Literal[""] = Field("", description="Kubernetes namespace of the runs")
    service_account: KubernetesName | Literal[""] = Field("", description="Kubernetes account of the runs")
    pipeline_root: str = Field(
        "", description="where artifacts are kept, such as s3://BUCKET/PREFIX; empty = the back end's"
    )
    images: Images
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = Field("IfNotPresent", description="when to pull")
    image_pull_secrets: tuple[KubernetesName, ...] = Field((), description="names of the registry's secrets")
    fetch: dict[str, str | int | float] = Field({}, description="settings of the fetch step; see FetchConfig")
    predict: dict[str, str | bool | int | float | tuple[float, ...]] = Field(
        {}, description="settings of batch prediction; see BatchConfig"
    )
    shards_at_once: int = Field(4, ge=1, le=1000, description="parts of a batch that run side by side")
    variables: dict[Variable, str] = Field({}, description="plain settings of every step")
    secrets: dict[KubernetesName, dict[str, Variable]] = Field({}, description="secret -> its key -> variable")
    volume: Volume = Volume()
    gpu: Gpu = Gpu()
    shared_memory: Quantity | Literal[""] = Field(
        "2Gi", description="shared memory of train and evaluate; empty = the default 64 MB"
    )
    scratch: Quantity = Field("20Gi", description="scratch space of every step")
    run_as_user: int = Field(10001, ge=1, le=2**31 - 1, description="user and group of the containers; never root")
    resources: dict[Task, Resources] = Field({}, description="per task, over the defaults of DEFAULT_RESOURCES")
    labels: dict[LabelKey, Label] = Field({}, description="further labels of the pods")
    ttl_seconds: int = Field(7 * 24 * 3600, ge=0, description="finished pods are removed after so long; 0 = never")

    @model_validator(mode="after")
    def _no_secret_in_plain_sight(self) -> Self:
        for name in self.variables:
            if _SECRET_NAME.search(name):
                raise ValueError(
                    f"variables.{name} looks like a secret: put it into a Kubernetes secret, and name that"
                )
            if _LOGIN.search(self.variables[name]):
                raise ValueError(f"variables.{name} holds a login: put it into a Kubernetes secret, and name that")
        if any(_LOGIN.search(address) for address in (self.endpoint, self.pipeline_root)):
            raise ValueError("endpoint or pipeline_root holds a login: it comes from the environment alone")
        given = [*self.variables, *(name for keys in self.secrets.values() for name in keys.values())]
        twice = sorted({name for name in given if given.count(name) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is given twice in variables and secrets")
        if self.gpu.nodes > 1 and not self.gpu.count:
            raise ValueError(f"gpu.nodes is {self.gpu.nodes} and gpu.count 0: several nodes need GPUs on each")
        if self.gpu.nodes > 1 and not self.volume.claim:
            raise ValueError("gpu.nodes > 1 needs a volume.claim that all its pods can mount (ReadWriteMany)")
        return self


def load(name: str, file: Path = ENVIRONMENTS) -> Environment:
    """One environment.

    Args:
        name: Its section.
        file: The file of all.

    Raises:
        ConfigError: No such file or section, or a setting that cannot be used.
    """
    try:
        text = file.read_text(encoding="utf-8")
        sections = yaml.safe_load(text)
        lines = key_lines(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        action = "Call this in the project's folder, or name another file with --environments."
        raise ConfigError(f"{file} cannot be read", evidence=said, action=action) from error
    known = ", ".join(map(str, sections)) if isinstance(sections, dict) else "no sections"
    if not isinstance(sections, dict) or not isinstance(sections.get(name), dict):
        raise ConfigError(
            f"there is no environment {name!r}",
            evidence=f"{file} holds {known}" + (", and that is no group of settings" if name in known else ""),
            action="Name one of them with --env, or add a section.",
        )
    return as_section(
        Environment,
        {"resources": DEFAULT_RESOURCES},
        sections[name],
        source=f"{file}, section {name}",
        action="pipelines/environments.py says what each setting means.",
        lines={path[1:]: f"line {line}" for path, line in lines.items() if path[0] == name},
    )


def read_lock(lock: Path) -> dict[str, str]:
    """Image -> digest; empty where there is no lock file.

    Raises:
        ConfigError: The file is no lock.
    """
    if not lock.exists():
        return {}
    try:
        content = read_json(lock)
    except DataError as error:
        raise ConfigError(f"{lock} cannot be read", evidence=error.evidence, action=_PIN_AGAIN) from error
    known = content.get("images")
    fits = isinstance(known, dict) and all(_DIGEST.match(str(digest)) for digest in known.values())
    if not isinstance(known, dict) or not fits or content.get("schema_version") != LOCK_VERSION:
        wanted = f'schema_version {LOCK_VERSION} and "images", each with a digest sha256:...'
        raise ConfigError(f"{lock} is no lock of images", evidence=f"wanted are {wanted}", action=_PIN_AGAIN)
    return known


def quantity(text: str) -> float:
    """A quantity of Kubernetes as a number, such as 500m or 8Gi."""
    if text.endswith("m"):
        return float(text[:-1]) / 1000
    for power, prefix in enumerate("KMGTPE", start=1):
        if text.endswith(f"{prefix}i"):
            return float(text[:-2]) * 1024.0**power
        if text.endswith(prefix):
            return float(text[:-1]) * 1000.0**power
    return float(text)


def pinned(environment: Environment, lock: Path = IMAGE_LOCK) -> tuple[Environment, tuple[str, ...]]:
    """The environment with its images by digest, as far as the lock file knows them.

    Returns:
        The environment, and the images that are still known by their tag alone.
    """
    known = read_lock(lock)
    images, unpinned = {}, []
    for role, image in environment.images.model_dump().items():
        if "@sha256:" not in image and image in known:
            image = f"{image}@{known[image]}"
        if "@sha256:" not in image:
            unpinned.append(image)
        images[role] = image
    return environment.model_copy(update={"images": as_section(Images, images, source=str(lock))}), tuple(unpinned)
