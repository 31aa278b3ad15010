"""What a run was made with: code, packages, machine. No host name, path or user is in it."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import psutil

import sa2net
from sa2net.artifacts import RUN_JSON, file_sha256, write_json
from sa2net.registry.revision import PROJECT, Revision, revision

__all__ = ["Environment", "Revision", "describe", "installed_packages", "packages_sha256", "revision", "write_run_json"]

_PACKAGES = ("torch", "timm", "accelerate", "numpy", "mlflow", "mlflow-skinny", "dvc", "great-expectations")
IMAGE_VARIABLE = "SA2NET_IMAGE"
"""Names the image that a step runs in, with its digest; set by the pipeline."""


@dataclass(frozen=True)
class Environment:
    """What a run was made with.

    Attributes:
        revision: State of the code.
        version: Version of this package.
        lock_sha256: Of the installed packages with their versions.
        constraints_sha256: Of `constraints.txt`; empty where there is none.
        python: Version of Python.
        packages: Versions of the packages that results depend on.
        system: Kernel and processor architecture.
        cpu: Model of the processor.
        cpu_capability: Instructions that torch's CPU kernels use, such as AVX2; empty where torch is not loaded.
        cores: Logical processors.
        memory_gb: Main memory, GB (10^9 bytes).
        gpus: Names of the GPUs.
        image: Container image with its digest; empty outside of one.
    """

    revision: Revision
    version: str
    lock_sha256: str
    constraints_sha256: str
    python: str
    packages: dict[str, str]
    system: str
    cpu: str
    cpu_capability: str
    cores: int
    memory_gb: float
    gpus: tuple[str, ...]
    image: str

    def tags(self) -> dict[str, str]:
        """As tags of a run."""
        return {
            "sa2net.revision": self.revision.commit or "unknown",
            "sa2net.branch": self.revision.branch,
            "sa2net.dirty": str(self.revision.dirty).lower(),
            "sa2net.diff_sha256": self.revision.diff_sha256,
            "sa2net.version": self.version,
            "sa2net.lock_sha256": self.lock_sha256,
            "sa2net.constraints_sha256": self.constraints_sha256,
            "sa2net.python": self.python,
            **{f"sa2net.package.{name}": version for name, version in self.packages.items()},
            "sa2net.system": self.system,
            "sa2net.cpu": self.cpu,
            "sa2net.cpu_capability": self.cpu_capability,
            "sa2net.cores": str(self.cores),
            "sa2net.memory_gb": str(self.memory_gb),
            "sa2net.gpus": ", ".join(self.gpus),
            "sa2net.image": self.image,
        }


class RunLike(Protocol):
    """What `run.json` needs to know of a run."""

    started: float

    @property
    def step(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def run_id(self) -> str: ...
    @property
    def parent_id(self) -> str: ...


@cache
def describe() -> Environment:
    """Look at the code, the packages and the machine; once a process."""
    constraints = PROJECT / "constraints.txt"
    return Environment(
        revision=revision(),
        version=sa2net.__version__,
        lock_sha256=packages_sha256(installed_packages()),
        constraints_sha256=file_sha256(constraints) if constraints.is_file() else "",
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_model(),
        cpu_capability=_cpu_capability(),
        cores=psutil.cpu_count() or 0,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        gpus=_gpu_names(),
        image=os.environ.get(IMAGE_VARIABLE, ""),
    )


@cache
def installed_packages() -> tuple[str, ...]:
    """`name==version` of every installed distribution, sorted: the environment as it really is, read once a process."""
    found = {
        f"{name.lower().replace('_', '-')}=={item.version}"
        for item in importlib.metadata.distributions()
        if (name := item.metadata["Name"])
    }
    return tuple(sorted(found))


def packages_sha256(packages: Sequence[str]) -> str:
    """Identity of a list of `name==version`."""
    return hashlib.sha256("\n".join(packages).encode()).hexdigest()


def write_run_json(out: Path, tracker: RunLike, **more: Any) -> dict[str, Any]:
    """Write `run.json`: which run made a folder, from which code, and when. No later stage depends on it.

    Args:
        out: Folder, or the file itself if it ends in `.json`.
        tracker: The run; its `key` finds it even if it has no id yet because the server was away.
        more: Further entries.

    Returns:
        What was written.
    """
    facts = describe()
    code = facts.revision
    content = {
        "schema_version": 1,
        "step": tracker.step,
        "run_id": tracker.run_id,
        "parent_run_id": tracker.parent_id,
        "run_key": tracker.key,
        "revision": code.commit,
        "branch": code.branch,
        "dirty": code.dirty,
        "diff_sha256": code.diff_sha256,
        "sa2net_version": sa2net.__version__,
        "lock_sha256": facts.lock_sha256,
        "constraints_sha256": facts.constraints_sha256,
        "python": facts.python,
        "packages": facts.packages,
        "system": facts.system,
        "cpu": facts.cpu,
        "cpu_capability": facts.cpu_capability,
        "cores": facts.cores,
        "memory_gb": facts.memory_gb,
        "gpus": list(facts.gpus),
        "image": facts.image,
        "started": _utc(tracker.started),
        "written": _utc(datetime.now(UTC).timestamp()),
        **more,
    }
    write_json(out if out.suffix == ".json" else out / RUN_JSON, content)
    return content


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cpu_capability() -> str:
    torch = sys.modules.get("torch")
    return "" if torch is None else str(torch.backends.cpu.get_cpu_capability())


def _gpu_names() -> tuple[str, ...]:
    """Names of the GPUs, from torch where a step has loaded it, else from the driver's own tool."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [program, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return (
        tuple(line.strip() for line in done.stdout.decode(errors="replace").splitlines()) if not done.returncode else ()
    )
