"""The pipeline in the project's own images: no root, a read-only root file system, credentials from outside, a kill.

Real are the images, the engine, the S3 server that holds the data set, the MLflow server with a login, and kfp's runner.
What this does not show: a cluster's scheduler, volumes and network.
"""

import json
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from engine import Engine
from project_copy import Project
from servers import KEY, SECRET, mlflow_server, s3_server

from pipelines.local import find_outputs

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
USER = 10001
LOGIN, PASSWORD = "trainer", "a-password-in-no-file-2718"


@dataclass
class Watcher:
    """Looks at every container that runs, and kills the first that trains, once it has a checkpoint."""

    engine: Engine
    var: Path
    root: Path
    seen: dict[str, dict] = field(default_factory=dict)
    killed_after: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self.stop.wait(0.2):
            listed = self.engine("ps", "--quiet", "--no-trunc", check=False).stdout.split()
            for name in listed:
                if name not in self.seen:
                    told = self.engine("inspect", name, check=False)
                    if not told.returncode:
                        self.seen[name] = json.loads(told.stdout)[0]
            if not self.killed_after:
                self._kill_the_trainer(listed)

    def _kill_the_trainer(self, listed: list[str]) -> None:
        epochs = [int(path.stem.rpartition("-")[2]) for path in self.var.glob("checkpoints/*/epoch-*.safetensors")]
        if max(epochs, default=0) < 2:
            return
        for name in listed:
            if "sa2net-torch" in self.seen.get(name, {}).get("Config", {}).get("Image", ""):
                self.engine("kill", name, check=False)
                self.killed_after = max(epochs)
                # A pod that is retried starts empty; kfp's local runner uses the folder again.
                for folder in self.root.glob("*/train"):
                    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Ran:
    """One run of the pipeline in containers."""

    said: str
    root: Path
    watcher: Watcher
    processes: int


@pytest.fixture(scope="module")
def ran(engine: Engine, images: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """The pipeline, started as a user would; a second time if kfp took the killed container for a success."""
    folder = tmp_path_factory.mktemp("containers")
    bucket, var = folder / "s3" / "spine", folder / "var"
    bucket.mkdir(parents=True)
    project = Project(tmp_path_factory.mktemp("project"))
    project.copy()
    project.call("dvc", "remote", "add", "-q", "team", str(bucket / "dvc"))
    project.call("dvc", "push", "-q", "-r", "team", "data")
    shutil.copy(project.folder / "data.dvc", bucket)
    with s3_server(folder / "s3") as s3, _mlflow(folder / "mlflow") as mlflow:
        _write_environment(project, s3, images)
        root = project.folder / "build/local/run"
        watcher = Watcher(engine, var, root)
        thread = threading.Thread(target=watcher.watch, daemon=True)
        thread.start()
        secrets = {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
            "MLFLOW_TRACKING_URI": mlflow,
            "MLFLOW_TRACKING_USERNAME": LOGIN,
            "MLFLOW_TRACKING_PASSWORD": PASSWORD,
        }
        said, processes = "", 0
        try:
            for _ in range(2):
                processes += 1
                shutil.rmtree(root, ignore_errors=True)
                done = subprocess.run(
                    [sys.executable, "-m", "pipelines.local", "--docker", "--out", str(root), "--data", "s3://spine/data.dvc"],
                    cwd=project.folder,
                    env={**engine.environment, **secrets, "SA2NET_VAR": str(var), "PYTHONPATH": ""},
                    capture_output=True, text=True, check=False, timeout=900,
                )  # fmt: skip
                said += done.stdout + done.stderr
                if not done.returncode:
                    break
                assert watcher.killed_after, said[-6000:]
        finally:
            watcher.stop.set()
            thread.join()
        assert not done.returncode, said[-6000:]
        yield Ran(said, root, watcher, processes)


def _mlflow(folder: Path) -> AbstractContextManager[str]:
    """An MLflow server that wants a login and stores artifacts itself."""
    folder.mkdir()
    settings = folder / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{folder / 'users.db'}\nadmin_username = {LOGIN}\nadmin_password = {PASSWORD}\n"
    )
    words = ("--app-name", "basic-auth", "--artifacts-destination", str(folder / "artifacts"))
    secrets = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of this test", "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD}
    return mlflow_server(folder, *words, MLFLOW_AUTH_CONFIG_PATH=str(settings), **secrets)


def _write_environment(project: Project, endpoint: str, images: Any) -> None:
    file = project.folder / "infra/environments.yaml"
    content = yaml.safe_load(file.read_text())
    content["laptop"] = {
        "images": images.names,
        "fetch": {"remote": "s3://spine/dvc", "endpoint_url": endpoint, "region": "us-east-1"},
        "resources": {"train": {"backoff_seconds": 5}, "evaluate": {"retries": 0}},
    }
    file.write_text(yaml.safe_dump(content))


def test_the_line_runs_to_a_registered_champion(ran: Ran) -> None:
    found = find_outputs(ran.root / "pipeline.yaml", ran.root)
    assert found["register"].parameters["verdict"] == "promote"
    assert found["register"].parameters["uri"] == "models:/sa2net/1"
    scores = json.loads((found["evaluate"].artifacts["evaluation"] / "scores.json").read_text())
    assert scores["scans"] == 3
    assert "decision: promote" in ran.said


def test_a_killed_training_goes_on_from_its_checkpoint_in_an_emptied_folder(ran: Ran) -> None:
    assert ran.watcher.killed_after >= 2
    resumed = [
        int(line.rpartition("after epoch ")[2].split()[0])
        for line in ran.said.splitlines()
        if "going on after epoch" in line
    ]
    assert resumed, ran.said[-6000:]
    assert resumed[0] >= ran.watcher.killed_after
    trainers = [item for item in ran.watcher.seen.values() if "/train/executor_output.json" in json.dumps(item)]
    assert len(trainers) >= 2
    if ran.processes == 2:  # kfp's runner took the killed container for a success: the user's second start resumed
        warnings.warn(
            "kfp lost the exit code of the killed container; the training went on in a second start", stacklevel=1
        )
    history = (next(ran.root.glob("*/train")) / "model" / "history.csv").read_text().splitlines()
    assert len(history) == 1 + 6


def test_every_container_ran_without_root_and_could_not_write_its_root(ran: Ran, images: Any) -> None:
    ours = [item for item in ran.watcher.seen.values() if item["Config"]["Image"] in images.names.values()]
    assert {item["Config"]["Image"] for item in ours} == set(images.names.values())
    assert len(ours) >= 6
    for item in ours:
        host = item["HostConfig"]
        assert item["Config"]["User"] == f"{USER}:{USER}"
        assert host["ReadonlyRootfs"] is True
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges" in host["SecurityOpt"]
        assert host["Privileged"] is False
    made = [path for path in ran.root.rglob("*") if path.is_file() and path.name != "pipeline.yaml"]
    assert {path.stat().st_uid for path in made} == {USER}


def test_all_steps_lie_under_one_mlflow_run(ran: Ran) -> None:
    records = [json.loads(path.read_text()) for path in ran.root.glob("*/*/*/run.json")]
    assert {record["step"] for record in records} == {"fetch", "validate", "train", "evaluate", "register"}
    assert len({record["parent_run_id"] for record in records}) == 1
    assert all(record["parent_run_id"] for record in records)


def test_no_credential_is_in_a_file_or_a_log(ran: Ran) -> None:
    for path in [*ran.root.rglob("*"), *ran.watcher.var.rglob("*")]:
        if path.is_file() and path.stat().st_size < 5_000_000:
            content = path.read_bytes()
            assert SECRET.encode() not in content, path
            assert PASSWORD.encode() not in content, path
    assert SECRET not in ran.said
    assert PASSWORD not in ran.said


def test_the_outputs_say_which_image_made_them(ran: Ran, images: Any) -> None:
    record = json.loads((next(ran.root.glob("*/train")) / "executor_output.json").read_text())
    metadata = record["artifacts"]["model"]["artifacts"][0]["metadata"]
    assert metadata["image"] == images.names["torch"]
    assert metadata["run_id"]
    assert metadata["sha256"]
