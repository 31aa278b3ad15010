"""A real MLflow server that goes away and comes back: nothing is lost, nothing arrives twice."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from registry_cases import write_evaluation, write_model_folder

from sa2net.artifacts import folder_sha256
from sa2net.config import RegisterConfig
from sa2net.errors import StorageError
from sa2net.registry import store, tracker, tracking
from sa2net.registry.versions import resolve
from sa2net.steps import register


class Server:
    """An `mlflow server` on a free port, with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "server.log").open("ab")
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'server.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.folder, env=environment, start_new_session=True
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urlopen(f"{self.uri}/health", timeout=1).close()
                return
            except (URLError, OSError):
                time.sleep(0.1)
        raise AssertionError((self.folder / "server.log").read_text()[-3000:])

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def freeze(self, stop: bool) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGSTOP if stop else signal.SIGCONT)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    # The tables are made here: the server itself would start a worker first, which takes longer.
    store.client_for(f"sqlite:///{running.folder / 'server.db'}")
    running.start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("SA2NET_EXECUTION", tmp_path.name)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)


def spools(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "var" / "spool").glob("*/header.json"))


def steps_logged(run_id: str, name: str = "loss") -> list[int]:
    return sorted(item.step for item in store.connect().get_metric_history(run_id, name))


def test_a_server_that_hangs_costs_less_than_two_seconds(server: Server, tmp_path: Path) -> None:
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


def test_a_process_that_is_killed_is_closed_by_the_next_step(server: Server, tmp_path: Path) -> None:
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


def test_registration_through_a_server(server: Server, tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "network")
    evaluation = write_evaluation(tmp_path / "evaluation", model, np.full((6, 3), 0.9))
    for created in (True, False):
        result = register.run(RegisterConfig(), model=model, evaluation=evaluation, out=tmp_path / "out")
        assert (result.version, result.created, result.aliases) == (1, created, ("champion", "candidate"))
    assert folder_sha256(resolve("models:/sa2net@champion")) == folder_sha256(model)
    assert list((server.folder / "artifacts").rglob("weights.safetensors"))


def test_nothing_is_lost_or_doubled_when_the_server_dies_and_returns(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
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
