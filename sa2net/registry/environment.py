"""What a run was made with: code, packages, machine. No host name, path or user is in it.

The revision is that of the checkout which this package lies in, whatever the working directory; an image has no
checkout and carries the revision in `SA2NET_REVISION` (with `-dirty` behind it if it was built from changed files).
"""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import psutil

import sa2net
from sa2net.artifacts import RUN_JSON, file_sha256, write_json

LARGEST_DIFF = 1_000_000
_PACKAGES = ("torch", "timm", "accelerate", "numpy", "mlflow", "mlflow-skinny", "dvc", "great-expectations")
IMAGE_VARIABLE = "SA2NET_IMAGE"
"""Names the image that a step runs in, with its digest; set by the pipeline."""
_IGNORED = ":(exclude)dvc.lock"
_PROJECT = Path(sa2net.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Revision:
    """The state of the code.

    Attributes:
        commit: Git commit; empty where it is not known.
        branch: Branch; empty for a detached head.
        dirty: Whether files differ from that commit; `dvc.lock`, which every run rewrites, does not count.
        diff: The difference as text, new files by name only.
    """

    commit: str = ""
    branch: str = ""
    dirty: bool = False
    diff: str = ""


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
            "sa2net.version": self.version,
            "sa2net.lock_sha256": self.lock_sha256,
            "sa2net.constraints_sha256": self.constraints_sha256,
            "sa2net.python": self.python,
            **{f"sa2net.package.{name}": version for name, version in self.packages.items()},
            "sa2net.system": self.system,
            "sa2net.cpu": self.cpu,
            "sa2net.cores": str(self.cores),
            "sa2net.memory_gb": str(self.memory_gb),
            "sa2net.gpus": ", ".join(self.gpus),
            "sa2net.image": self.image,
        }


class RunLike(Protocol):
    """What `run.json` needs to know of a run."""

    started: float

    @property
    def step(self) -> str: ...  # noqa: D102
    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def run_id(self) -> str: ...  # noqa: D102
    @property
    def parent_id(self) -> str: ...  # noqa: D102


@cache
def describe() -> Environment:
    """Look at the code, the packages and the machine; once a process."""
    constraints = _PROJECT / "constraints.txt"
    return Environment(
        revision=revision(),
        version=sa2net.__version__,
        lock_sha256=hashlib.sha256("\n".join(installed_packages()).encode()).hexdigest(),
        constraints_sha256=file_sha256(constraints) if constraints.is_file() else "",
        python=platform.python_version(),
        packages={name: version for name in _PACKAGES if (version := _version(name))},
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_model(),
        cores=psutil.cpu_count() or 0,
        memory_gb=round(psutil.virtual_memory().total / 1e9, 1),
        gpus=_gpu_names(),
        image=os.environ.get(IMAGE_VARIABLE, ""),
    )


def installed_packages() -> list[str]:
    """`name==version` of every installed distribution, sorted: the environment as it really is."""
    found = {
        f"{name.lower().replace('_', '-')}=={item.version}"
        for item in importlib.metadata.distributions()
        if (name := item.metadata["Name"])
    }
    return sorted(found)


def revision(project: Path = _PROJECT) -> Revision:
    """The state of the code in a checkout, or what an image says of itself."""
    given = os.environ.get("SA2NET_REVISION", "").strip()
    if given:
        return Revision(commit=given.removesuffix("-dirty"), dirty=given.endswith("-dirty"))
    commit = _git(project, "rev-parse", "HEAD")
    # An installed copy inside somebody else's checkout is not part of it.
    if not commit or not _git(project, "ls-files", "--", "sa2net/__init__.py"):
        return Revision()
    changes = _git(project, "status", "--porcelain", "--untracked-files=normal", "--", ".", _IGNORED)
    diff = ""
    if changes:
        fresh = [line[3:] for line in changes.splitlines() if line.startswith("??")]
        diff = _git(project, "diff", "HEAD", "--no-color", "--no-ext-diff", "--", ".", _IGNORED)[:LARGEST_DIFF]
        diff += "".join(f"\nnew file, not tracked: {name}" for name in fresh)
    return Revision(commit, _git(project, "branch", "--show-current"), bool(changes), diff)


def write_run_json(out: Path, tracker: RunLike, **more: Any) -> dict[str, Any]:
    """Write `run.json`: which run made a folder, from which code, and when. No later stage depends on it.

    Args:
        out: Folder, or the file itself if it ends in `.json`.
        tracker: The run; its `key` finds it even if it has no id yet because the server was away.
        more: Further entries.

    Returns:
        What was written.
    """
    code = describe().revision
    content = {
        "schema_version": 1,
        "step": tracker.step,
        "run_id": tracker.run_id,
        "parent_run_id": tracker.parent_id,
        "run_key": tracker.key,
        "revision": code.commit,
        "branch": code.branch,
        "dirty": code.dirty,
        "sa2net_version": sa2net.__version__,
        "lock_sha256": describe().lock_sha256,
        "image": describe().image,
        "started": _utc(tracker.started),
        "written": _utc(datetime.now(UTC).timestamp()),
        **more,
    }
    write_json(out if out.suffix == ".json" else out / RUN_JSON, content)
    return content


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _git(project: Path, *arguments: str) -> str:
    """Output of a git command; empty where there is no git or no checkout."""
    program = shutil.which("git")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [program, "-C", str(project), *arguments],
            capture_output=True,
            check=False,
            timeout=30,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", errors="replace").rstrip("\n") if done.returncode == 0 else ""


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
