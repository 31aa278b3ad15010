"""Which execution of the pipeline a step belongs to, so that all its steps share one parent run.

Three sources, in this order: a run that a pipeline back end hands in (`MLFLOW_RUN_ID`), a name that whoever starts the
steps gives (`SA2NET_EXECUTION`), the `dvc` process that this step runs under. A step that has none of them is a run
of its own.
"""

import hashlib
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""The id of a run in Kubeflow; people call it by the time."""
DVC_COMMANDS = (("repro",), ("exp", "run"), ("experiments", "run"), ("exp", "exec-run"), ("experiments", "exec-run"))


@dataclass(frozen=True)
class Execution:
    """One execution of the pipeline.

    Attributes:
        key: Identity, equal for all its steps; empty if the step stands alone or the run was handed in.
        run_id: MLflow run handed in by a back end, else empty.
        name: What people call it, else empty.
        pid: The `dvc` process, 0 if there is none.
        started: When that process was created, seconds since 1970.
    """

    key: str = ""
    run_id: str = ""
    name: str = ""
    pid: int = 0
    started: float = 0.0

    def is_over(self) -> bool:
        """Whether the `dvc` process of this execution is known to be gone (on this machine)."""
        if not self.pid:
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) > 1.0
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def current() -> Execution:
    """The execution that this process belongs to."""
    handed_in = os.environ.get("MLFLOW_RUN_ID", "").strip()
    if handed_in:
        return Execution(run_id=handed_in)
    given = os.environ.get("SA2NET_EXECUTION", "").strip()
    if given:
        key = given.replace("'", "")[:200]
        return Execution(key=key, name="" if UUID.fullmatch(key) else key)
    process = _dvc_ancestor()
    if process is None:
        return Execution()
    started = process.create_time()
    identity = f"{platform.node()}\0{process.pid}\0{started:.2f}"
    return Execution(
        key=hashlib.sha256(identity.encode()).hexdigest()[:16],
        name=os.environ.get("DVC_EXP_NAME", ""),
        pid=process.pid,
        started=started,
    )


def _dvc_ancestor() -> psutil.Process | None:
    """The nearest process above this one that runs `dvc repro` or an experiment."""
    try:
        ancestors = psutil.Process().parents()
    except psutil.Error:
        return None
    for process in ancestors:
        try:
            if is_dvc(process.cmdline()):
                return process
        except psutil.Error:
            continue
    return None


def is_dvc(command: Sequence[str]) -> bool:
    """Whether a command line is `dvc repro`, `dvc exp run` or the worker of a queued experiment."""
    for position, word in enumerate(command[:4]):
        if Path(word).name == "dvc":
            rest = [argument for argument in command[position + 1 :] if not argument.startswith("-")]
            return any(tuple(rest[: len(verb)]) == verb for verb in DVC_COMMANDS)
    return False
