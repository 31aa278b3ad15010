"""A version is made again in a fresh clone, to the bit; what was changed afterwards is found and named.

Everything here is long: it trains for real, on a small data set, through `make run`.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from project_copy import SETTINGS, Project

from sa2net.artifacts import folder_sha256
from sa2net.config import Config

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
VERSION = "models:/sa2net/1"


class Made:
    """A project with a registered version, a remote that holds its data set, and a fresh clone without either."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.remote, self.scratch = folder, folder / "remote", folder / "tmp"
        self.scratch.mkdir()
        self.project = Project(folder / "project")
        self.project.folder.mkdir()
        self.project.copy()
        self._push()
        self.project.make_run()
        self.clone = Project(folder / "clone")
        self.project.call("git", "clone", "-q", str(self.project.folder), str(self.clone.folder))
        shutil.rmtree(self.clone.folder / ".venv", ignore_errors=True)
        if not (self.clone.folder / ".venv").exists():
            (self.clone.folder / ".venv").symlink_to((self.project.folder / ".venv").resolve())

    def _push(self) -> None:
        project = self.project
        settings = Config.load(None, [*SETTINGS, "train.epochs=2", "train.validate_every=1"]).render()
        (project.folder / "params.yaml").write_text(settings, encoding="utf-8")
        project.call("dvc", "remote", "add", "-q", "far", str(self.remote))
        pointer = project.folder / "data.dvc"
        pointer.write_text(pointer.read_text() + "  remote: far\n")
        project.call("dvc", "push", "-q", "data.dvc")
        project.call("git", "add", "-A")
        project.call("git", "commit", "-qm", "remote")

    @property
    def variables(self) -> dict[str, str]:
        """The registry of the project, seen from elsewhere, and a place for scratch folders."""
        return {
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.project.folder / 'var' / 'mlflow.db'}",
            "TMPDIR": str(self.scratch),
            "SA2NET_VAR": str(self.folder / "var-of-nobody"),
        }

    def reproduce(self, *words: str, code: int = 0) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
        """Run the verb in the clone; its exit code is checked, its document read."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        command = ("python", "-m", "sa2net", "reproduce", VERSION, "--out", str(out), *words)
        done = self.clone.call(*command, check=False, **self.variables)
        assert done.returncode == code, f"{done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert not list(self.scratch.glob("sa2net-*")), "the scratch folder is gone however it ends"
        return done, json.loads((out / "reproduce.json").read_text()) if code < 2 else {}

    def artifact(self, name: str) -> Path:
        """A file that the registering run keeps."""
        [file] = (self.project.folder / "var" / "artifacts").rglob(name)
        return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("reproduce"))


def test_evaluate_is_equal_to_the_bit_and_nothing_of_the_users_is_written(made: Made) -> None:
    kept = made.project.folder / "var" / "artifacts"
    before = folder_sha256(kept), folder_sha256(made.clone.folder), folder_sha256(made.remote)
    done, document = made.reproduce()
    assert "equal to the bit" in done.stdout
    assert document["equal"] is True and set(document["counts"]) == {"equal"}
    assert {item["name"] for item in document["numbers"]} >= {"scores.mean.dice.value", "scores.per_class.rib.dice.low"}
    assert all(fact["equal"] for fact in document["environment"]) and document["packages"] == []
    assert "pulled from" in done.stdout
    assert (folder_sha256(kept), folder_sha256(made.clone.folder), folder_sha256(made.remote)) == before
    assert not (made.clone.folder / "var").exists() and not (made.folder / "var-of-nobody" / "mlflow.db").exists()
    fresh = (made.folder / "out" / "evaluate" / "scores.json").read_bytes()
    assert fresh == (made.project.folder / "build" / "evaluate" / "scores.json").read_bytes()


def test_train_is_equal_to_the_bit(made: Made) -> None:
    _, document = made.reproduce("--what", "train", "--quiet")
    assert document["equal"] is True
    numbers = {item["name"]: item for item in document["numbers"]}
    for name in ("manifest_sha256", "weights_sha256", "model_sha256"):
        assert numbers[name]["verdict"] == "equal"
    assert folder_sha256(made.folder / "out" / "train" / "model") == made.project.model


def test_a_stored_number_that_was_changed_is_named(made: Made) -> None:
    file = made.artifact("evaluation/scores.json")
    before = file.read_text()
    content = json.loads(before)
    content["per_class"]["rib"]["dice"]["value"] += 0.001
    file.write_text(json.dumps(content))
    try:
        done, document = made.reproduce("--quiet", code=1)
        assert "scores.per_class.rib.dice.value" in done.stderr and "1 of " in done.stderr
        differing = [item["name"] for item in document["numbers"] if item["verdict"] == "differs"]
        assert differing == ["scores.per_class.rib.dice.value"]
    finally:
        file.write_text(before)


def test_another_seed_gives_other_weights(made: Made) -> None:
    file = made.artifact("provenance/provenance.json")
    before = file.read_text()
    content = json.loads(before)
    content["params"]["train"]["seed"] += 1
    file.write_text(json.dumps(content))
    try:
        done, document = made.reproduce("--what", "train", "--quiet", code=1)
        assert "weights_sha256" in done.stderr
        verdicts = {item["name"]: item["verdict"] for item in document["numbers"]}
        assert verdicts["manifest_sha256"] == "equal"
        assert verdicts["weights_sha256"] == verdicts["scores.mean.dice.value"] == "differs"
    finally:
        file.write_text(before)


def test_ended_in_the_middle_it_leaves_nothing(made: Made) -> None:
    command = ["python", "-m", "sa2net", "reproduce", VERSION, "--what", "train", "--quiet"]
    path = f"{made.clone.folder / '.venv' / 'bin'}:{made.clone.environment['PATH']}"
    environment = made.clone.environment | made.variables | {"PATH": path}
    running = subprocess.Popen(command, cwd=made.clone.folder, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    step: list[psutil.Process] = []
    while not step:
        assert time.monotonic() < deadline and running.poll() is None
        with contextlib.suppress(psutil.Error):  # a process that ends while it is looked at
            children = psutil.Process(running.pid).children(recursive=True)
            step = [child for child in children if "train" in child.cmdline()[3:4]]
        time.sleep(0.2)
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait(timeout=120) == 128 + signal.SIGTERM
    assert not psutil.wait_procs(step, timeout=10)[1]
    assert not list(made.scratch.glob("sa2net-*"))


def test_uncommitted_changes_and_starting_weights_come_back(made: Made) -> None:
    """A version that was fine-tuned from the first, by code that was never committed."""
    project = made.project
    module = project.folder / "sa2net" / "evaluation" / "metrics.py"
    module.write_text(module.read_text() + "\n# changed by hand\n")
    (project.folder / "sa2net" / "evaluation" / "fresh.py").write_text("# new, not tracked\n")
    tuned = ["--set", f"train.init_from={VERSION}", "--set", "train.learning_rate=0.0005"]
    python = ("python", "-m", "sa2net")
    project.call(*python, "train", "--out", "tuned/train", "--quiet", *tuned)
    project.call(*python, "evaluate", "--model", "tuned/train/model", "--out", "tuned/evaluate", "--quiet")
    folders = ("--model", "tuned/train/model", "--evaluation", "tuned/evaluate", "--out", "tuned/register")
    project.call(*python, "register", *folders, "--quiet")
    shown = made.clone.call(*python, "lineage", "models:/sa2net/2", **made.variables).stdout
    assert "with uncommitted changes, difference" in shown and f"fine-tuned from {VERSION}" in shown
    command = (*python, "reproduce", "models:/sa2net/2", "--what", "train", "--quiet")
    done = made.clone.call(*command, check=False, **made.variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    shutil.rmtree(project.folder / "tuned")
    project.call("git", "checkout", "-q", "--", "sa2net")


def test_a_revision_that_is_not_here_is_said(made: Made, tmp_path: Path) -> None:
    other = Project(tmp_path)
    other.call("git", "init", "-q")
    other.call("git", "commit", "-q", "--allow-empty", "-m", "nothing")
    command = ("python", "-m", "sa2net", "reproduce", VERSION, "--repository", str(tmp_path))
    done = made.clone.call(*command, check=False, **made.variables)
    assert done.returncode == 5 and "not in this repository" in done.stderr and "git fetch" in done.stderr
