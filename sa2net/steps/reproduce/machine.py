"""Environment and machine of a version beside those here: every difference that may change a result, and every other one."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sa2net.artifacts import file_sha256
from sa2net.errors import ConfigError
from sa2net.registry import environment
from sa2net.registry.records import Record

UNKNOWN = "unknown"
_PROBE = """
import importlib.metadata, json, platform, torch
names = {
    f"{name.lower().replace('_', '-')}=={item.version}"
    for item in importlib.metadata.distributions() if (name := item.metadata["Name"])
}
gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
print(json.dumps({
    "python": platform.python_version(), "packages": sorted(names), "gpus": gpus,
    "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    "device": "cuda" if torch.cuda.is_available() else "cpu",
}))
"""
_DECISIVE = (
    "python",
    "torch",
    "lock_sha256",
    "constraints_sha256",
    "image",
    "cpu",
    "cpu_capability",
    "gpus",
    "device",
    "threads",
    "system",
)


@dataclass(frozen=True)
class Fact:
    """One thing then and here.

    Attributes:
        name: What.
        stored: With the version; `unknown` where it is not kept.
        here: Now.
    """

    name: str
    stored: str
    here: str

    @property
    def equal(self) -> bool:
        """Whether they are known to be the same."""
        return self.stored == self.here

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {**asdict(self), "equal": self.equal}


@dataclass(frozen=True)
class Machine:
    """What is here.

    Attributes:
        facts: By the names that a run has for them.
        packages: `name==version`, sorted.
    """

    facts: Mapping[str, str]
    packages: tuple[str, ...]

    @property
    def device(self) -> str:
        """The device that `auto` takes here: cuda or cpu."""
        return self.facts["device"]


def look(python: str, constraints: Path) -> Machine:
    """Look at the interpreter that will run the steps, and at this machine.

    Args:
        python: The interpreter.
        constraints: The tested versions, as the version's revision has them.

    Raises:
        ConfigError: It cannot be run, or has no torch.
    """
    try:
        done = subprocess.run(  # noqa: S603 - fixed code
            [python, "-c", _PROBE], capture_output=True, check=False, cwd="/"
        )
    except OSError as error:
        raise ConfigError(
            f"{python} cannot be run", evidence=str(error), action="Name a Python with --python."
        ) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigError(
            f"{python} cannot run the steps",
            evidence=said[-1] if said else "",
            action="Install the project's packages there.",
        )
    found = json.loads(done.stdout)
    here = environment.describe()
    return Machine(
        facts={
            "python": found["python"],
            "torch": dict(line.split("==", 1) for line in found["packages"]).get("torch", ""),
            "lock_sha256": environment.packages_sha256(found["packages"]),
            "constraints_sha256": file_sha256(constraints) if constraints.is_file() else "",
            "image": here.image,
            "cpu": here.cpu,
            "cpu_capability": found["cpu_capability"],
            "gpus": ", ".join(found["gpus"]),
            "device": found["device"],
            "system": here.system,
        },
        packages=tuple(found["packages"]),
    )


def compare(record: Record, machine: Machine, *, threads: int) -> list[Fact]:
    """Environment and machine of a run beside those here; what a run had none of (GPU, image) is empty on both sides.

    A run on a CPU is made again on a CPU, also where there is a GPU.

    Args:
        record: The run.
        machine: What is here.
        threads: CPU threads that the settings of the run ask for.
    """
    known = bool(record.facts)
    facts = {**record.facts, "torch": record.get("package.torch")}
    stored = {name: facts.get(name) or ("" if known and name in ("gpus", "image") else UNKNOWN) for name in _DECISIVE}
    device = "cpu" if stored["device"] == "cpu" else machine.device
    here = {**machine.facts, "device": device, "threads": str(threads)}
    return [Fact(name, stored[name], here[name]) for name in _DECISIVE]


def compare_packages(stored: Sequence[str], here: Sequence[str]) -> list[Fact]:
    """Packages that differ; an absent one has an empty version."""
    then, now = (dict(line.split("==", 1) for line in lines) for lines in (stored, here))
    names = sorted(then.keys() | now.keys()) if stored else []
    facts = [Fact(name, then.get(name, ""), now.get(name, "")) for name in names]
    return [fact for fact in facts if not fact.equal]


def default_python() -> str:
    """The interpreter that runs this."""
    return sys.executable
