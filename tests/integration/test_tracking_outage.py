"""A real MLflow server that goes away and comes back: nothing is lost, nothing arrives twice."""

import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from registry_cases import write_evaluation, write_model_folder
from servers import Fault, faulty_proxy
from stoppable_server import StoppableServer

from sa2net.artifacts import folder_sha256
from sa2net.config import RegisterConfig
from sa2net.errors import StorageError
from sa2net.registry import runs, store, tracker, tracking
from sa2net.registry.tags import EXECUTION_OF_STEP_TAG, EXECUTION_TAG, KEY_TAG, STEP_TAG
from sa2net.registry.versions import resolve
from sa2net.steps import register


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoppableServer]:
    running = StoppableServer(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def environment(server: StoppableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("SA2NET_EXECUTION", tmp_path.name)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


def spools(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "var" / "spool").glob("*/header.json"))


def steps_logged(run_id: str, name: str = "loss") -> list[int]:
    return sorted(item.step for item in store.connect().get_metric_history(run_id, name))


def test_a_server_that_hangs_costs_less_than_two_seconds(server: StoppableServer, tmp_path: Path) -> None:
    with tracking.step_run("train") as run:
        server.freeze(True)
        try:
            started = time.monotonic()
            for epoch in range(20):
                run.log_metrics({"loss": 0.5}, step=epoch)
            assert time.monotonic() - started < 2.0
            assert run.pending == 20
        finally:
            server.freeze(False)
    assert steps_logged(run.run_id) == list(range(20))


def test_a_process_that_is_killed_is_closed_by_the_next_step(server: StoppableServer, tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from sa2net.registry import tracking\n"
        "with tracking.step_run('train') as run:\n"
        "    run.log_metrics({'loss': 1.0}, step=0)\n"
        "    print(run.run_id, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_id = done.stdout.strip()
    client = store.connect()
    assert client.get_run(run_id).info.status == "RUNNING"
    with tracking.step_run("train") as again:
        assert client.get_run(run_id).info.status == "KILLED"
        assert client.get_run(again.parent_id).info.status == "RUNNING"
    assert steps_logged(run_id) == [0]
    assert not spools(tmp_path)


def test_a_run_whose_answer_was_lost_is_made_once(server: StoppableServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The parent's: MLflow's client asks again by itself. The step's: the tracker does, when it ends.
    faults = {0: Fault("lose"), 2: Fault("truncate")}
    with faulty_proxy(server.uri) as proxy:
        proxy.choose = lambda _, path, before: faults.get(before) if path.endswith("/runs/create") else None
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.endpoint)
        with tracking.step_run("train") as run:
            assert run.run_id == ""
    assert proxy.count("POST", "/runs/create") == 3
    client = MlflowClient(server.uri)
    parent = client.get_run(run.parent_id)
    experiment, execution = parent.info.experiment_id, parent.data.tags[EXECUTION_TAG]
    assert len(runs.find(client, experiment, KEY_TAG, run.key)) == 1
    assert len(runs.find(client, experiment, EXECUTION_TAG, execution)) == 1
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_registration_through_a_server(server: StoppableServer, tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "network")
    evaluation = write_evaluation(tmp_path / "evaluation", model, np.full((6, 3), 0.9))
    for created in (True, False):
        result = register.run(RegisterConfig(), model=model, evaluation=evaluation, out=tmp_path / "out")
        assert (result.version, result.created, result.aliases) == (1, created, ("champion", "candidate"))
    assert folder_sha256(resolve("models:/sa2net@champion")) == folder_sha256(model)
    assert list((server.folder / "artifacts").rglob("weights.safetensors"))


MOMENTS = {
    "the upload begins": ("POST", "/logged-models", Fault("lose"), 0.0),
    "files are uploaded": ("PUT", "/mlflow-artifacts/", Fault("reset"), 1.0),
    "the version is made": ("POST", "/model-versions/create", Fault("lose"), 0.0),
    "the version is made and the server is gone": ("POST", "/model-versions/create", Fault("truncate"), 1.0),
    "the champion is named": ("POST", "/registered-models/alias", Fault("lose"), 1.0),
}
"""When -> the first request that goes wrong, how, and the seconds for which the server is away then."""
QUICK = ("files are uploaded", "the version is made")


@pytest.mark.parametrize(
    "moment", [moment if moment in QUICK else pytest.param(moment, marks=pytest.mark.long) for moment in MOMENTS]
)
def test_a_registration_that_is_interrupted_makes_one_version(
    moment: str, server: StoppableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, part, fault, seconds = MOMENTS[moment]
    away = {"until": 0.0}

    def choose(used: str, path: str, _: int) -> Fault | None:
        if time.monotonic() < away["until"]:
            return Fault("reset")
        if away["until"] or used != method or part not in path:
            return None
        away["until"] = time.monotonic() + seconds
        return fault

    model = write_model_folder(tmp_path / "network")
    evaluation = write_evaluation(tmp_path / "evaluation", model, np.full((6, 3), 0.9))
    cfg = RegisterConfig(name=f"moment-{list(MOMENTS).index(moment)}", bootstrap_samples=100)
    with faulty_proxy(server.uri, choose) as proxy:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.endpoint)
        try:
            register.run(cfg, model=model, evaluation=evaluation, out=tmp_path / "out")
        except StorageError:  # it says so, and the command is repeated
            time.sleep(seconds)
        result = register.run(cfg, model=model, evaluation=evaluation, out=tmp_path / "out")
        assert away["until"], "the request that should go wrong was never made"
        with tracking.step_run("validate"):
            pass
    client = MlflowClient(server.uri)
    assert [int(item.version) for item in client.search_model_versions(f"name = '{cfg.name}'")] == [1]
    assert (result.version, result.verdict) == (1, "promote")
    assert client.get_model_version_by_alias(cfg.name, "champion").version == "1"
    experiment = client.get_experiment_by_name(store.DEFAULT_EXPERIMENT).experiment_id
    steps = runs.find(client, experiment, EXECUTION_OF_STEP_TAG, tmp_path.name)
    assert {step.info.status for step in steps} <= {"FINISHED", "FAILED"}
    [finished] = [step for step in steps if step.info.status == "FINISHED" and step.data.tags[STEP_TAG] == "register"]
    assert len(client.get_metric_history(finished.info.run_id, "dice_mean")) == 1


def test_nothing_is_lost_or_doubled_when_the_server_dies_and_returns(
    server: StoppableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracker, "FIRST_PAUSE", 0.0)
    note = tmp_path / "note.txt"
    note.write_text("gone before it is sent")
    with tracking.step_run("train", params={"epochs": 12}) as run:
        for epoch in range(4):
            run.log_metrics({"loss": 1.0 / (epoch + 1)}, step=epoch)
        server.stop()
        seconds = []
        for epoch in range(4, 8):
            started = time.monotonic()
            run.log_metrics({"loss": 1.0 / (epoch + 1)}, step=epoch)
            seconds.append(time.monotonic() - started)
        run.log_file(note, "notes")
        note.unlink()
        assert run.pending == 5
        assert max(seconds) < 2.0
        assert sum("cannot be reached" in record.message for record in caplog.records) == 1

        other_key, copy = _step_without_server(tmp_path)
        with pytest.raises(StorageError, match="does not answer"):
            resolve("models:/sa2net@champion")

        server.start()
        run._retry_at = 0.0
        for epoch in range(8, 12):
            run.log_metrics({"loss": 1.0 / (epoch + 1)}, step=epoch)
        assert run.pending == 0
        run_id = run.run_id
    client = store.connect()
    history = sorted(client.get_metric_history(run_id, "loss"), key=lambda item: item.step)
    assert [item.step for item in history] == list(range(12))
    assert [item.value for item in history] == pytest.approx([1.0 / (epoch + 1) for epoch in range(12)])
    times = [item.timestamp for item in history]
    assert times == sorted(times)
    assert times[8] - times[7] > 200  # the original time, not that of sending: the server's start lies between
    downloaded = Path(client.download_artifacts(run_id, "notes/note.txt", str(tmp_path)))
    assert downloaded.read_text() == "gone before it is sent"
    assert client.get_run(run_id).info.status == "FINISHED"

    with tracking.step_run("evaluate") as following:  # sends what the step without a server left behind
        pass
    experiment = store.experiment_id(client)
    [sent] = client.search_runs([experiment], f"tags.`sa2net.key` = '{other_key}'")
    assert (sent.info.status, sent.data.tags["colour"], sent.data.params["epochs"]) == ("FINISHED", "grey", "3")
    assert steps_logged(sent.info.run_id) == list(range(50))
    assert sent.data.tags["mlflow.parentRunId"] == following.parent_id
    assert not spools(tmp_path)

    # A process that died after sending and before it removed the spool: sent again, nothing is doubled.
    shutil.copytree(copy, tmp_path / "var" / "spool" / other_key)
    assert tracking.send_abandoned(client) == 1
    [same] = client.search_runs([experiment], f"tags.`sa2net.key` = '{other_key}'")
    assert same.info.run_id == sent.info.run_id
    assert steps_logged(sent.info.run_id) == list(range(50))


def _step_without_server(tmp_path: Path) -> tuple[str, Path]:
    """A whole step while the server is down: the key of its run, and a copy of what it left behind."""
    before = set(spools(tmp_path))
    started = time.monotonic()
    with tracking.step_run("train", params={"epochs": 3}, tags={"colour": "grey"}) as run:
        run._pause, run._retry_at = 30.0, time.monotonic() + 30.0
        for epoch in range(50):
            run.log_metrics({"loss": float(epoch)}, step=epoch)
        assert run.run_id == ""
    assert time.monotonic() - started < 6.0  # one probe at the start, one at the end
    [header] = set(spools(tmp_path)) - before
    copy = tmp_path / "copy"
    shutil.copytree(header.parent, copy)
    return run.key, copy


@pytest.mark.long
def test_outages_at_random_moments_cost_nothing(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "outage.py"
    spec = importlib.util.spec_from_file_location("outage_under_test", path)
    assert spec is not None and spec.loader is not None
    benchmark = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    outages = benchmark.measure(tmp_path / "outages", rounds=2, down=3.0, epochs=12, seed=1)
    assert [item.step for item in outages] == ["train", "register"] * 2
    assert all(item.good for item in outages), benchmark.table(outages)
    assert all(item.expected > 100 for item in outages if item.step == "train")
