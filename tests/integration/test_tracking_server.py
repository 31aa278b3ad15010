"""Runs on a real MLflow server with passwords: who may enter, and how runs end whose processes were killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from kfp_server import Stage, running
from mlflow.entities import Run
from mlflow.server.auth.client import AuthServiceClient
from registry_cases import write_evaluation, write_model_folder
from servers import mlflow_server

from pipelines.submit import main as submit
from sa2net.artifacts import folder_sha256
from sa2net.config import RegisterConfig, ValidateConfig
from sa2net.errors import ClusterError, StorageError
from sa2net.registry import alive, store, tracking
from sa2net.registry.tags import ALIVE_TAG, ERROR_TAG, NOTE_TAG
from sa2net.registry.versions import resolve
from sa2net.steps import register, validate

ADMIN, PASSWORD = "keeper", "a long password of this test"
GUEST = "guest-user"
SILENT = 3.0
STEP = """
import subprocess, sys, time
from sa2net.registry import alive, tracking
alive.BEAT = float(sys.argv[2])
helper = subprocess.Popen(["sleep", "600"])
with tracking.step_run(sys.argv[1]) as run:
    run.log_metrics({"loss": 1.0})
    print(run.run_id, run.parent_id, flush=True)
    sys.stdin.readline()
helper.kill()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants a login; what others made may be read and not changed."""
    folder = tmp_path_factory.mktemp("server")
    settings = folder / "auth.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder / 'users.db'}\n"
        f"admin_username = {ADMIN}\nadmin_password = {PASSWORD}\nauth_cache_ttl_seconds = 60\n"
    )
    store.client_for(f"sqlite:///{folder / 'server.db'}")  # the tables, which the server makes more slowly
    words = ("--app-name", "basic-auth", "--artifacts-destination", str(folder / "artifacts"))
    secrets = {"MLFLOW_FLASK_SERVER_SECRET_KEY": "a key of this test", "MLFLOW_AUTH_CONFIG_PATH": str(settings)}
    with mlflow_server(folder, *words, **secrets) as address:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
            patch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
            AuthServiceClient(address).create_user(GUEST, PASSWORD)
        yield address


@pytest.fixture(autouse=True)
def environment(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_TOKEN", "SA2NET_EXECUTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    log_in(monkeypatch, ADMIN)


def log_in(monkeypatch: pytest.MonkeyPatch, user: str, password: str = PASSWORD) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)


def run(run_id: str) -> Run:
    return store.connect().get_run(run_id)


def status(run_id: str) -> str:
    return str(run(run_id).info.status)


# Who may enter


def test_a_wrong_password_ends_the_step_before_anything_is_trained(
    shared_data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = tmp_path / "validate"
    validate.check(ValidateConfig(workers=1), data=shared_data_root, out=checked, data_docs=None, progress=False)
    log_in(monkeypatch, ADMIN, "not-the-password")
    places = ["--data", shared_data_root, "--validation", checked, "--out", tmp_path / "train"]
    command = [sys.executable, "-m", "sa2net", "train", *places, "--checkpoints", tmp_path / "checkpoints"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 5, done.stderr
    assert "MLFLOW_TRACKING_PASSWORD" in done.stderr
    assert "not-the-password" not in done.stdout + done.stderr
    assert not (tmp_path / "train").exists()
    assert not list((tmp_path / "checkpoints").rglob("*.safetensors"))
    assert not list((tmp_path / "var").rglob("header.json"))


def test_the_right_one_works_from_a_step_to_a_registered_version(tmp_path: Path) -> None:
    with tracking.step_run("train", params={"train": {"epochs": 2}}) as tracked:
        tracked.log_metrics({"loss": 0.5}, step=1)
        tracked.log_text("kept", "notes/note.txt")
    assert status(tracked.run_id) == "FINISHED"
    assert store.connect().download_artifacts(tracked.run_id, "notes/note.txt", str(tmp_path))
    model = write_model_folder(tmp_path / "network")
    evaluation = write_evaluation(tmp_path / "evaluation", model, np.full((6, 3), 0.9))
    cfg = RegisterConfig(name="behind-a-login")
    result = register.run(cfg, model=model, evaluation=evaluation, out=tmp_path / "out")
    assert (result.version, result.created) == (1, True)
    assert folder_sha256(resolve(result.uri)) == folder_sha256(model)
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert PASSWORD.encode() not in file.read_bytes()


def test_who_may_only_read_is_told_so_before_the_step_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.step_run("validate"):
        pass
    log_in(monkeypatch, GUEST)
    with pytest.raises(StorageError, match="MLFLOW_TRACKING_USERNAME"), tracking.step_run("validate"):
        pytest.fail("the step was started")


# How runs end whose processes were killed


@dataclass
class Process:
    """A step in a process group of its own, which goes on until it is told to end."""

    popen: subprocess.Popen[str]
    run_id: str
    parent_id: str

    def signal(self, number: int) -> None:
        os.killpg(self.popen.pid, number)


@contextmanager
def step(name: str, var: Path, execution: str, beat: float) -> Iterator[Process]:
    settings = {**os.environ, "SA2NET_VAR": str(var), "SA2NET_EXECUTION": execution}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", STEP, name, str(beat)]
    popen = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=settings, start_new_session=True)
    try:
        assert popen.stdout is not None
        run_id, parent_id = popen.stdout.readline().split()
        yield Process(popen, run_id, parent_id)
    finally:
        for number in (signal.SIGCONT, signal.SIGKILL):
            try:
                os.killpg(popen.pid, number)
            except ProcessLookupError:
                break
        popen.communicate()


def wait_for(condition: str, *run_ids: str) -> None:
    end = time.monotonic() + 30
    while [status(run_id) for run_id in run_ids] != [condition] * len(run_ids):
        assert time.monotonic() < end, f"not {condition}: {[status(run_id) for run_id in run_ids]}"
        time.sleep(0.1)


def test_a_run_whose_machine_is_gone_is_closed_by_the_next_step_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = str(uuid.uuid4())
    with step("train", tmp_path / "pod", execution, 600.0) as dead, step("train", tmp_path / "b", "b", 0.2) as living:
        dead.signal(signal.SIGKILL)
        dead.popen.wait()
        shutil.rmtree(tmp_path / "pod")  # the disk of a pod goes with it
        last = run(dead.run_id).data.tags[ALIVE_TAG].partition(".")[0].replace("T", " ")
        with tracking.step_run("validate"):
            assert status(dead.run_id) == status(dead.parent_id) == "RUNNING"  # not silent for long yet
        time.sleep(SILENT)
        monkeypatch.setattr(alive, "SILENT_STEP", SILENT)
        with tracking.step_run("validate"):
            pass
        assert [status(dead.run_id), status(dead.parent_id)] == ["KILLED", "KILLED"]
        assert [status(living.run_id), status(living.parent_id)] == ["RUNNING", "RUNNING"]
    closed, parent = run(dead.run_id), run(dead.parent_id)
    assert closed.data.tags[ERROR_TAG].startswith(f"no sign of life since {last}")
    assert parent.data.tags[ERROR_TAG] == f"train: {closed.data.tags[ERROR_TAG]}"
    assert "KILLED" in closed.data.tags[NOTE_TAG] and "train" in parent.data.tags[NOTE_TAG]
    assert closed.info.end_time == pytest.approx(time.time() * 1000, abs=60_000)

    # The pod is started again: the same parent, open again, and nothing is left of the message.
    monkeypatch.setenv("SA2NET_EXECUTION", execution)
    for name in ("train", "register"):
        with tracking.step_run(name) as again:
            assert again.parent_id == dead.parent_id
            assert status(dead.parent_id) == "RUNNING"
    assert status(dead.parent_id) == "FINISHED"
    assert ERROR_TAG not in run(dead.parent_id).data.tags
    assert status(dead.run_id) == "KILLED"


def test_a_run_that_was_taken_for_dead_opens_itself_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "SILENT_STEP", SILENT)
    with step("train", tmp_path / "slow", "slow", 0.5) as slow:
        slow.signal(signal.SIGSTOP)
        time.sleep(SILENT + 0.5)
        with tracking.step_run("validate"):
            pass
        assert [status(slow.run_id), status(slow.parent_id)] == ["KILLED", "KILLED"]
        slow.signal(signal.SIGCONT)
        wait_for("RUNNING", slow.run_id, slow.parent_id)
        slow.popen.communicate("\n", timeout=60)
    assert status(slow.run_id) == "FINISHED"
    for run_id in (slow.run_id, slow.parent_id):
        assert ERROR_TAG not in run(run_id).data.tags
        assert "KILLED" not in run(run_id).data.tags[NOTE_TAG]


def test_an_execution_without_steps_waits_a_day_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SA2NET_EXECUTION", "queued")
    with tracking.step_run("train") as first:
        pass
    monkeypatch.setattr(alive, "SILENT_STEP", 0.0)
    monkeypatch.delenv("SA2NET_EXECUTION")
    client = store.connect()
    experiment = run(first.run_id).info.experiment_id
    assert alive.close_silent_runs(client, experiment) == 0
    assert status(first.parent_id) == "RUNNING"
    monkeypatch.setattr(alive, "SILENT_EXECUTION", 0.0)
    assert alive.close_silent_runs(client, experiment) == 1
    assert status(first.parent_id) == "KILLED"


def test_a_run_of_somebody_else_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alive, "SILENT_STEP", 0.0)
    monkeypatch.setattr(alive, "SILENT_EXECUTION", 0.0)
    client = store.connect()
    experiment = store.experiment_id(client)
    foreign = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", foreign)
    with tracking.step_run("train"):
        pass
    alive.close_silent_runs(client, experiment)
    assert status(foreign) == "RUNNING"
    assert not any(name.startswith("sa2net.") for name in run(foreign).data.tags)


# What Kubeflow ends

PIPELINE = {"pipeline_spec": {"root": {"dag": {"tasks": {"train": {}}}}}}


def test_cancelling_a_pipeline_closes_its_runs_and_no_sign_of_life_opens_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(alive, "SILENT_STEP", SILENT)
    with running() as kubeflow:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.url)
        kubeflow.script, run_id = [Stage("RUNNING", {"train": "RUNNING"})], kubeflow.begin(PIPELINE)
        with step("train", tmp_path / "pod", run_id, 0.3) as pod:
            submit(["--cancel", run_id], standalone_mode=False)
            assert "MLflow: 2 runs that were still open are closed as KILLED" in capsys.readouterr().out
            time.sleep(1.5)
            assert [status(pod.run_id), status(pod.parent_id)] == ["KILLED", "KILLED"]
    assert run(pod.parent_id).data.tags[ERROR_TAG] == "the pipeline was cancelled"


def test_watching_a_pipeline_to_its_failure_closes_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as kubeflow:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.url)
        kubeflow.script, run_id = (
            [Stage("FAILED", {"train": "FAILED"}, {"train": "OOMKilled"})],
            kubeflow.begin(PIPELINE),
        )
        with step("train", tmp_path / "pod", run_id, 600.0) as pod:
            pod.signal(signal.SIGKILL)
            pod.popen.wait()
            with pytest.raises(ClusterError, match="failed in train"):
                submit(["--watch", run_id], standalone_mode=False)
    assert "MLflow: 2 runs that were still open are closed as FAILED" in capsys.readouterr().out
    assert [status(pod.run_id), status(pod.parent_id)] == ["FAILED", "FAILED"]
    assert run(pod.parent_id).data.tags[ERROR_TAG] == f"run {run_id} failed in train: OOMKilled"


def test_a_server_that_is_away_does_not_hide_how_the_pipeline_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with running() as kubeflow:
        monkeypatch.setenv("KF_PIPELINES_ENDPOINT", kubeflow.url)
        kubeflow.script, run_id = [Stage("CANCELED", {"train": "CANCELED"})], kubeflow.begin(PIPELINE)
        with pytest.raises(ClusterError, match="was cancelled"):
            submit(["--watch", run_id], standalone_mode=False)
    assert "MLflow: open runs stay open for now" in capsys.readouterr().out
