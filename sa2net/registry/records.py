"""What is known of the run of a step, from `run.json` beside its folder and from MLflow.

Which run made a folder is told by the folder's content: `run.json` counts only where it names the same content, since
DVC restores outputs and leaves `run.json` as it was. Where it is gone, MLflow is asked for the run that made this content.
"""

import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from pydantic import BaseModel, ConfigDict

from sa2net.artifacts import RUN_JSON, read_json
from sa2net.config import Config
from sa2net.errors import ConfigError
from sa2net.registry import environment, store
from sa2net.registry.tags import KEY_TAG, STEP_TAG

PACKAGES = "packages.txt"
"""The file of a run that names its packages."""
_PREFIX = "sa2net."
_CODE = ("revision", "dirty", "diff_sha256", "sa2net_version", "evaluator_sha256", "checkpoint_key")
_ENVIRONMENT = ("lock_sha256", "constraints_sha256", "python", "image")
_MACHINE = ("system", "cpu", "cpu_capability", "cores", "memory_gb", "gpus", "device", "threads", "processes")
_DATA = ("data_md5", "manifest_sha256", "train_scans", "train_subjects", "val_scans", "val_subjects")
_STARTED = ("parent_model", "pretrained_weights", "pretrained_sha256")
_MADE = ("model_sha256", "weights_sha256", "scores_sha256", "epochs", "resumed_after_epoch")
_VALIDATION = ("validation_run", "validation_params")
_FACTS = frozenset(_CODE + _ENVIRONMENT + _MACHINE + _DATA + _STARTED + _MADE + _VALIDATION)
_PACKAGE = "package."


class Record(BaseModel):
    """What is known of the run of one step.

    Attributes:
        run_id: Its MLflow run; empty where it is not known.
        facts: Name -> text: code (`revision`, `dirty`, `diff_sha256`), environment (`python`, `lock_sha256`,
            `package.torch`, `image`, ...), machine (`cpu`, `gpus`, `device`, `threads`, ...), times. What is not known has
            no name here.
    """

    model_config = ConfigDict(frozen=True)
    run_id: str = ""
    facts: dict[str, str] = {}

    def get(self, name: str) -> str:
        """A fact; empty where it is not known."""
        return self.facts.get(name, "")

    def without_params(self) -> "Record":
        """The same without settings, which a document has a place of its own for."""
        kept = {name: text for name, text in self.facts.items() if "params" not in name}
        return Record(run_id=self.run_id, facts=kept)


def find_record(client: MlflowClient, folder: Path, step: str, made: Mapping[str, str], *, run_id: str = "") -> Record:
    """What is known of the run that made a folder, from `run.json` in it or beside it, and from MLflow.

    Args:
        client: The store.
        folder: What the step wrote.
        step: Name of the step.
        made: What identifies the folder's content, by the names that the run has for it.
        run_id: The run, where it is known already.
    """
    said = _run_json(folder, step, made)
    run = _get_run(client, run_id or str(said.get("run_id", ""))) or _search(client, step, said, made)
    facts = {name: _text(value) for name, value in said.items() if name in _FACTS}
    facts |= {"started": str(said.get("started", "")), "ended": str(said.get("written", ""))}
    facts |= {f"{_PACKAGE}{name}": _text(version) for name, version in dict(said.get("packages", {})).items()}
    facts |= {f"params.{name}": json.dumps(section) for name, section in dict(said.get("params", {})).items()}
    if run is not None:
        facts |= _facts_of(run)
    known = run.info.run_id if run is not None else run_id or str(said.get("run_id", ""))
    return Record(run_id=known, facts={name: text for name, text in sorted(facts.items()) if text})


def packages_of(client: MlflowClient, record: Record) -> list[str]:
    """`name==version` of every package that a run had; empty where that is not known any more."""
    lock = record.get("lock_sha256")
    listed = (kept_text(client, record.run_id, PACKAGES) or "").splitlines()
    if listed and environment.packages_sha256(listed) == lock:
        return listed
    here = list(environment.installed_packages())
    return here if lock and environment.packages_sha256(here) == lock else []


def diff_of(client: MlflowClient, record: Record) -> str:
    """How the code of a run differed from its commit; empty where it did not, or where that is not known any more."""
    wanted = record.get("diff_sha256")
    if not wanted:
        return ""
    here = environment.describe().revision
    return f"{here.diff}\n" if here.diff_sha256 == wanted else kept_text(client, record.run_id, "code.diff") or ""


def diff_name(record: Record) -> str:
    """Name of the file that keeps the difference of a run."""
    return f"code-{record.get('diff_sha256')[:16]}.diff"


def kept_text(client: MlflowClient, run_id: str, path: str) -> str | None:
    """A text that is stored with a run; None where there is none, or no such run."""
    if not run_id:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
            return Path(client.download_artifacts(run_id, path, scratch)).read_bytes().decode("utf-8")
    except Exception as error:
        if store.is_gone(error) or isinstance(error, (OSError, UnicodeDecodeError)):
            return None
        raise


def section_of(client: MlflowClient, record: Record, section: str) -> dict[str, Any]:
    """A section as a run was given it; empty where that is not known."""
    if f"params.{section}" in record.facts:
        return dict(json.loads(record.get(f"params.{section}")))
    run = _get_run(client, record.run_id)
    given = {} if run is None else run.data.params
    overrides = [f"{name}={value}" for name, value in given.items() if name.startswith(f"{section}.")]
    try:
        whole = Config.load(None, overrides).to_dict()[section]
    except ConfigError:  # another version of the code, or a value that was too long for MLflow
        return {}
    return dict(whole) if overrides else {}


def _run_json(folder: Path, step: str, made: Mapping[str, str]) -> dict[str, Any]:
    """`run.json` of a folder, unless it is of another step or names another content."""
    for place in (folder, folder.parent):
        if (place / RUN_JSON).is_file():
            said = read_json(place / RUN_JSON)
            if said.get("step") == step and all(said.get(name, value) == value for name, value in made.items()):
                return said
    return {}


def _get_run(client: MlflowClient, run_id: str) -> Run | None:
    try:
        return client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if store.is_gone(error):
            return None
        raise


def _search(client: MlflowClient, step: str, said: Mapping[str, Any], made: Mapping[str, str]) -> Run | None:
    """The newest run that says it made this content; or the one whose key `run.json` names."""
    key = str(said.get("run_key", "")).replace("'", "")
    wanted = {KEY_TAG: key} if key else {STEP_TAG: step, **made}
    clauses = [f"tags.`{name}` = '{value}'" for name, value in wanted.items()]
    experiment = store.experiment_id(client)
    found = client.search_runs([experiment], " and ".join(clauses), max_results=1, order_by=["start_time DESC"])
    return found[0] if found else None


def _facts_of(run: Run) -> dict[str, str]:
    tags = run.data.tags
    ours = {name.removeprefix(_PREFIX): value for name, value in tags.items() if name.startswith(_PREFIX)}
    known = {**tags, **ours, "sa2net_version": ours.get("version", "")}
    facts = {name: value for name, value in known.items() if name in _FACTS or name.startswith(_PACKAGE)}
    times = {"started": run.info.start_time, "ended": run.info.end_time}
    facts |= {name: utc(time) for name, time in times.items() if time}
    return {name: value for name, value in facts.items() if value}


def utc(milliseconds: int) -> str:
    """MLflow's times for people and for comparison."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
