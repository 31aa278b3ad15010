"""The steps of a version run again in a scratch folder, which is gone afterwards however this ends.

Nothing of the user's is written to: the code is a clone that borrows objects, the data are read or pulled into the scratch
folder, and the steps get an MLflow store, checkpoints and a working directory there. The registry is only read.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from sa2net.artifacts import (
    MANIFEST,
    MODEL_JSON,
    RUN_JSON,
    WEIGHTS,
    check_replaceable,
    file_sha256,
    folder_sha256,
    read_json,
    replaced_folder,
    write_json,
    write_text,
)
from sa2net.errors import Sa2NetError, StorageError
from sa2net.registry import lineage, store
from sa2net.registry.lineage import Lineage
from sa2net.registry.ready import READY
from sa2net.registry.records import Record
from sa2net.steps.reproduce import machine
from sa2net.steps.reproduce.checkout import Checkout, Code, check_out
from sa2net.steps.reproduce.comparison import Number, compare_evaluations
from sa2net.steps.reproduce.data import Found, obtain
from sa2net.steps.reproduce.outcome import DOCUMENT, Outcome
from sa2net.steps.reproduce.process import run_to_end
from sa2net.termination import terminable

log = logging.getLogger(__name__)

What = Literal["evaluate", "train"]
_OURS = frozenset((DOCUMENT, "evaluate", "train", "validate"))


def run(
    model: str,
    *,
    what: What = "evaluate",
    out: Path | None = None,
    data: Sequence[Path] = (),
    repository: Path | None = None,
    python: str = "",
    tolerance: float = 0.0,
    progress: bool = True,
) -> Outcome:
    """Make a version again, and compare.

    Args:
        model: Address or identity of the version; see `sa2net.registry.lineage.find`.
        what: `evaluate` scores the registered model again; `train` trains it again first.
        out: Folder for `reproduce.json` and what the steps wrote; None keeps nothing.
        data: Folders of the data sets (it may have been trained on one and scored on another); none = found here, or
            pulled.
        repository: A checkout of the project; None = the one around the working directory.
        python: Interpreter that runs the steps; empty = this one.
        tolerance: Largest difference that counts as none, for numbers between 0 and 1; 0 = to the bit.
        progress: Show the progress of the steps.

    Raises:
        StorageError: The registry, the revision or the data set cannot be had.
        DataError: The data set here is another one, or a step refused it.
        ConfigError: An argument cannot be used.
    """
    started = time.monotonic()
    if out is not None:
        check_replaceable(out, _OURS)
    with terminable(), tempfile.TemporaryDirectory(prefix="sa2net-reproduce-") as folder:
        scratch = Path(folder).resolve()
        client = lineage.connect()
        with store.storage_errors(f"give {model}"):
            version = lineage.find(client, model)
            found = lineage.read(client, version, scratch / "registry")
            registered = lineage.download(client, version, scratch / "registered")
        attempt = _Attempt(
            found,
            registered,
            scratch,
            project=(repository or store.project_root()).resolve(),
            python=python or machine.default_python(),
            given=tuple(data),
            progress=progress,
        )
        numbers = attempt.train(tolerance) if what == "train" else []
        numbers += attempt.evaluate(tolerance)
        outcome = attempt.outcome(what, numbers, tolerance, time.monotonic() - started)
        if out is not None:
            _keep(out, outcome, attempt.results)
    return outcome


@dataclass
class _Attempt:
    """One attempt, with what it has found and made so far."""

    found: Lineage
    registered: Path
    scratch: Path
    project: Path
    python: str
    given: tuple[Path, ...]
    progress: bool
    code: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    results: dict[str, Path] = field(default_factory=dict)
    here: machine.Machine | None = None
    _checkouts: dict[Code, Checkout] = field(default_factory=dict)
    _data: dict[str, Found] = field(default_factory=dict)

    def train(self, tolerance: float) -> list[Number]:
        """Validate and train again; the numbers of the model folder."""
        origin, record = self.found.provenance, self.found.provenance.training
        home = self._checkout("train", record, origin.evaluation)
        root = self._obtain(origin.data_md5, home)
        train = self._runnable("train", record)
        init_from = self._starting_weights()
        if init_from:
            train["init_from"] = init_from
        params = self._params({"train": train, "validate": origin.params.get("validate", {})}, home, "train")
        validation, out = self.scratch / "validate", self.scratch / "train"
        where = ["--data", str(root), "--params", str(params)]
        self._step("validate", home, [*where, "--out", str(validation)], record)
        numbers = []
        if origin.manifest_sha256:
            now = file_sha256(validation / MANIFEST)
            numbers.append(Number("manifest_sha256", origin.manifest_sha256, now, tolerance))
        processes = record.get("processes") or "1"
        several = ["--processes", processes] if processes != "1" else []
        own = ["--validation", str(validation), "--checkpoints", str(self.scratch / "checkpoints")]
        self._step("train", home, [*where, *own, *several, "--out", str(out)], record)
        model = out / "model"
        _put_back(model, origin.params.get("train", {}))
        return [
            *numbers,
            Number("weights_sha256", origin.weights_sha256, file_sha256(model / WEIGHTS), tolerance),
            Number("model_sha256", origin.model_sha256, folder_sha256(model), tolerance),
        ]

    def evaluate(self, tolerance: float) -> list[Number]:
        """Score again: what was just trained, else the registered model; the numbers of the evaluation folder."""
        origin, record = self.found.provenance, self.found.provenance.evaluation
        if self.found.evaluation is None:
            raise StorageError(
                f"the scores of {self.found.version.uri} are lost",
                evidence="the runs that kept scores.json and per_scan.csv are gone from the registry",
                action="There is nothing to compare with; register the model again with its evaluation.",
            )
        home = self._checkout("evaluate", record, origin.training)
        root = self._obtain(origin.scored_data_md5, home)
        settings = self._runnable("evaluate", record)
        params = self._params({"evaluate": settings}, home, "evaluate")
        model = self.results["train"] / "model" if "train" in self.results else self.registered
        out = self.scratch / "evaluate"
        words = ["--data", str(root), "--model", str(model), "--out", str(out), "--params", str(params)]
        self._step("evaluate", home, words, record)
        return compare_evaluations(self.found.evaluation.folder, out, tolerance=tolerance)

    def outcome(self, what: What, numbers: Sequence[Number], tolerance: float, seconds: float) -> Outcome:
        """Everything that was found, in one value."""
        origin, here = self.found.provenance, self.here
        record = origin.training if what == "train" else origin.evaluation
        threads = int(origin.params.get(what, {}).get("threads", 0))
        packages = self.found.packages
        if record.get("lock_sha256") != origin.training.get("lock_sha256"):
            packages = ()  # the list that is kept is the training's
        return Outcome(
            model=self.found.version.uri,
            model_sha256=origin.model_sha256,
            what=what,
            code=self.code,
            data=self.data,
            environment=tuple(machine.compare(record, here, threads=threads)) if here else (),
            packages=tuple(machine.compare_packages(packages, here.packages)) if here else (),
            notes=tuple(dict.fromkeys(self.notes)),
            numbers=tuple(numbers),
            tolerance=tolerance,
            phantom=self.found.phantom,
            seconds=seconds,
        )

    def _checkout(self, step: str, *records: Record) -> Path:
        """The project at the revision of a run; of another one where that does not know it."""
        code = Code.of(*records)
        if records[0].get("revision") != code.commit:
            self.notes.append(f"the run of {step} does not know its revision; that of the version's other run is taken")
        if code not in self._checkouts:
            log.info("checking out %s", code)
            folder = self.scratch / f"code-{len(self._checkouts)}"
            self._checkouts[code] = check_out(code, self.project, folder, self.found.diffs)
        made = self._checkouts[code]
        if made.missing:
            self.notes.append(f"new files whose content was not kept are missing: {', '.join(made.missing)}")
        self.code[step] = str(code)
        if self.here is None:
            self.here = machine.look(self.python, made.project / "constraints.txt")
        return made.project

    def _obtain(self, md5: str, home: Path) -> Path:
        if md5 not in self._data:
            log.info("looking for the data set %s", md5)
            place = self.scratch / f"data-{len(self._data)}"
            self._data[md5] = obtain(
                md5, checkout=home, project=self.project, given=self.given, scratch=place, progress=self.progress
            )
            self.data[md5] = self._data[md5].source
        return self._data[md5].root

    def _runnable(self, section: str, record: Record) -> dict[str, Any]:
        """The stored settings of a section, on a device that is here."""
        settings = dict(self.found.provenance.params.get(section, {}))
        then, now = record.get("device"), self.here.device if self.here else "cpu"
        if then == "cuda" and now == "cpu":
            self.notes.append(f"{section} ran on a GPU then and runs on the CPU here: it cannot be equal to the bit")
            settings |= {"device": "cpu"} if settings.get("device") == "cuda" else {}
            settings |= {"precision": "float32"} if settings.get("precision") == "float16" else {}
        elif then == "cuda":
            self.notes.append(f"{section} runs on a GPU, where equality to the bit is not promised")
        return settings

    def _params(self, sections: Mapping[str, dict[str, Any]], home: Path, name: str) -> Path:
        """A settings file: stored sections; one that is not kept as the revision's own file has it."""
        own = (
            yaml.safe_load((home / "params.yaml").read_text(encoding="utf-8"))
            if (home / "params.yaml").is_file()
            else {}
        )
        chosen = {}
        for section, settings in sections.items():
            chosen[section] = settings or own.get(section, {})
            if not settings:
                self.notes.append(
                    f"the settings of {section} are not kept; those of the revision's params.yaml are taken"
                )
        file = self.scratch / f"params-{name}.yaml"
        write_text(file, yaml.safe_dump(chosen, sort_keys=False))
        return file

    def _starting_weights(self) -> str:
        """A folder with the weights that the training started from; empty where the revision knows them."""
        origin = self.found.provenance
        if origin.init_from in ("", READY):  # the ready weights are part of the revision that is checked out
            return ""
        client = lineage.connect()
        try:
            parent = lineage.find(client, origin.parent_model or origin.init_from)
        except Sa2NetError as error:
            raise StorageError(
                "the weights that the training started from are not in the registry",
                evidence=f"{origin.started_from()}, sha256 {origin.parent_model[:12] or 'unknown'}",
                action="Register that model too, or compare the evaluation alone (--what evaluate).",
            ) from error
        return str(lineage.download(client, parent, self.scratch / "parent"))

    def _step(self, step: str, home: Path, words: Sequence[str], record: Record) -> None:
        """Run a step of the checked-out code; its folder is `SCRATCH/STEP`."""
        log.info("running %s", step)
        quiet = [] if self.progress else ["--quiet"]
        run_to_end([self.python, "-m", "sa2net", step, *words, *quiet], home, self._variables(home, record))
        made = self.scratch / step
        ran = str(read_json(made / RUN_JSON).get("revision", ""))
        if not any(ran == code.commit for code, checkout in self._checkouts.items() if checkout.project == home):
            raise StorageError(
                f"{step} ran other code than was checked out",
                evidence=f"its run.json names {ran[:12] or 'no revision'}",
                action=f"Check that nothing puts another sa2net before the working directory of {self.python}.",
            )
        self.results[step] = made

    def _variables(self, home: Path, record: Record) -> dict[str, str]:
        """Surroundings of a step: none of the project's stores, and no GPU where there was none."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "SA2NET_"))}
        path = [str(home), *filter(None, [os.environ.get("PYTHONPATH", "")])]
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if record.get("device") == "cpu" else {}
        return {**kept, "SA2NET_VAR": str(self.scratch / "var"), "PYTHONPATH": os.pathsep.join(path), **hidden}


def _put_back(model: Path, train: Mapping[str, Any]) -> None:
    """Write the stored settings into a model folder, where a device or a place was replaced to run at all."""
    info = read_json(model / MODEL_JSON)
    if train and info["params"]["train"] != dict(train):
        info["params"]["train"] = dict(train)
        write_json(model / MODEL_JSON, info)


def _keep(out: Path, outcome: Outcome, results: Mapping[str, Path]) -> None:
    with replaced_folder(out, _OURS) as fresh:
        for step, folder in results.items():
            shutil.copytree(folder, fresh / step)
        write_json(fresh / DOCUMENT, outcome.to_dict())
