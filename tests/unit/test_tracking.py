"""Runs in MLflow on SQLite: where they go, whose children they are, how they end."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY

from sa2net.artifacts import read_json
from sa2net.errors import ConfigError, DataError, StorageError
from sa2net.registry import alive, execution, runs, store, tracking
from sa2net.registry.execution import Execution, is_dvc
from sa2net.registry.runs import Header
from sa2net.registry.spool import Call, Spool
from sa2net.registry.tags import ENDED_TAG, ERROR_TAG, EXECUTION_TAG, NOTE_TAG, PARENT_TAG, REGISTERED_TAG, VERDICT_TAG
from sa2net.registry.tracker import flatten


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tracking") / "var"


@pytest.fixture(autouse=True)
def settings(var: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("SA2NET_EXECUTION", raising=False)
    monkeypatch.setenv("SA2NET_VAR", str(var))


@pytest.fixture
def client() -> Iterator[MlflowClient]:
    return store.connect()


def spools(var: Path) -> list[Path]:
    return sorted((var / "spool").glob("*/header.json"))


# Where runs go


def test_project_is_the_nearest_folder_with_a_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SA2NET_VAR")
    (tmp_path / "project" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "project" / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path / "project" / "deep" / "er")
    assert store.project_root() == tmp_path / "project"
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/project/var/mlflow.db"
    assert store.artifact_folder(store.tracking_uri()) == tmp_path / "project" / "var" / "artifacts"


def test_a_temporary_checkout_of_dvc_writes_to_the_project_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SA2NET_VAR")
    checkout = tmp_path / "project" / ".dvc" / "tmp" / "exps" / "tmpabc"
    checkout.mkdir(parents=True)
    (checkout / "dvc.yaml").touch()
    monkeypatch.chdir(checkout)
    assert store.var_folder() == tmp_path / "project" / "var"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/mine.db")
    assert store.tracking_uri() == f"sqlite:///{tmp_path}/project/runs/mine.db"


def test_address_of_the_store(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example/")
    assert store.tracking_uri() == "https://mlflow.example"
    for folder in ("mlruns", "file:///somewhere/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", folder)
        with pytest.raises(ConfigError, match="no longer serves"):
            store.tracking_uri()


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("sqlite:////var/mlflow.db", True),
        ("file:///var/artifacts", True),
        ("http://127.0.0.1:5000", True),
        ("http://localhost:5000/path", True),
        ("http://[::1]:5000", True),
        ("https://mlflow.example", False),
        ("http://127.0.0.1.example", False),
        ("http://localhost@evil.example", False),
        ("s3://bucket/artifacts", False),
        ("postgresql://user@db/mlflow", False),
    ],
)
def test_what_counts_as_this_machine(uri: str, local: bool):
    assert store.is_local(uri) is local


def test_passwords_are_not_shown():
    assert store.public_uri("https://me:secret@host:1/p") == "https://host:1/p"
    assert store.public_uri("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_client_settings_are_made_before_mlflow_is_imported_and_leave_the_users_alone():
    code = (
        "import os, sys; os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT'] = '77'; import sa2net.registry; "
        "import sa2net.registry.execution; import sa2net.registry.environment; assert 'mlflow' not in sys.modules; "
        "print(os.environ['MLFLOW_DISABLE_TELEMETRY'], os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT'])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.split() == ["true", "77"]
    assert MLFLOW_DISABLE_TELEMETRY.get() is True


def test_a_server_that_is_not_there_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch):
    started = time.monotonic()
    assert store.reachable("http://127.0.0.1:9") is False
    assert time.monotonic() - started < 2.0
    assert store.reachable("sqlite:///anything") is True


# Which execution a step belongs to


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/usr/bin/dvc repro", True),
        ("/venv/bin/python /venv/bin/dvc repro train", True),
        ("python -m dvc exp run -S train.epochs=1", True),
        ("dvc -q repro", True),
        ("dvc exp exec-run --infofile x", True),
        ("dvc experiments run", True),
        ("dvc exp show", False),
        ("dvc pull", False),
        ("bash -c 'dvc repro'", False),
        ("vim dvc.yaml repro", False),
        ("", False),
    ],
)
def test_which_commands_are_an_execution(command: str, expected: bool):
    assert is_dvc(command.split()) is expected


def test_what_is_handed_in_comes_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SA2NET_EXECUTION", "nightly")
    assert execution.current() == Execution(key="nightly", name="nightly")
    monkeypatch.setenv("SA2NET_EXECUTION", "it's mine")  # MLflow's queries know no way to write a quote
    assert execution.current().key == "its mine"
    monkeypatch.setenv("SA2NET_EXECUTION", "0b2c7a52-3f0e-4a63-9a3c-6a1de07b6a55")  # Kubeflow's: no name for people
    assert execution.current() == Execution(key="0b2c7a52-3f0e-4a63-9a3c-6a1de07b6a55")
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    assert execution.current() == Execution(run_id="abc")


def test_all_steps_below_one_dvc_process_share_an_execution(tmp_path: Path):
    dvc = tmp_path / "dvc"
    dvc.write_text(
        "import subprocess, sys\n"
        "code = 'from sa2net.registry import execution; item = execution.current(); print(item.key, item.pid, item.name)'\n"
        "for _ in range(2):\n"
        "    subprocess.run(['sh', '-c', '\"$0\" -c \"$1\"; true', sys.executable, code], check=True)\n"
    )
    environment = {**os.environ, "DVC_EXP_NAME": "brave-bat"}
    done = subprocess.run(
        [sys.executable, str(dvc), "repro"], capture_output=True, text=True, check=True, env=environment
    )
    first, second = done.stdout.splitlines()
    assert first == second
    key, pid, name = first.split()
    assert len(key) == 16 and int(pid) > 0 and name == "brave-bat"


# How runs begin and end


def test_a_step_alone_is_a_run_of_its_own(var: Path, client: MlflowClient):
    with tracking.step_run("train", params={"model": {"depth": 2}, "scales": [1.0, 0.5]}, tags={"colour": 3}) as run:
        run.log_metrics({"loss": 0.5, "dice/mean": 0.1}, step=1)
        run.log_metrics({"loss": 0.25}, step=2)
        run.log_text("a b", "notes/note.txt")
        assert client.get_run(run.run_id).info.status == "RUNNING"
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FINISHED"
    assert stored.data.params == {"model.depth": "2", "scales": "[1.0, 0.5]"}
    assert (stored.data.tags["colour"], stored.data.tags["sa2net.step"]) == ("3", "train")
    assert stored.data.tags[ENDED_TAG] == "FINISHED"
    assert stored.info.run_name.startswith("train 20")
    assert len(stored.data.tags["sa2net.lock_sha256"]) == 64
    assert PARENT_TAG not in stored.data.tags
    assert [(item.step, item.value) for item in client.get_metric_history(run.run_id, "loss")] == [(1, 0.5), (2, 0.25)]
    assert run.uri == f"runs:/{run.run_id}"
    names = {item.path for item in client.list_artifacts(run.run_id)} | {
        item.path for item in client.list_artifacts(run.run_id, "notes")
    }
    assert {"packages.txt", "notes/note.txt"} <= names
    assert stored.info.artifact_uri.startswith((var / "artifacts").as_uri())
    assert not spools(var)


def test_tags_name_no_host_no_user_and_no_path(client: MlflowClient):
    with tracking.step_run("validate") as run:
        pass
    tags = {name: value for name, value in client.get_run(run.run_id).data.tags.items() if name != "sa2net.branch"}
    for secret in (platform.node(), str(Path.cwd()), str(Path.home())):
        assert all(secret not in value for value in tags.values() if len(secret) > 3)
    assert "mlflow.user" not in tags


def test_a_failing_step_ends_as_failed_with_its_message(client: MlflowClient):
    with pytest.raises(DataError), tracking.step_run("train") as run:
        raise DataError("2 masks hold label 7", action="Fix them.")
    stored = client.get_run(run.run_id)
    assert stored.info.status == "FAILED"
    assert stored.data.tags["sa2net.error"] == "2 masks hold label 7. Fix them."
    assert "2 masks hold label 7" in stored.data.tags["mlflow.note.content"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(143)])
def test_an_interrupted_step_ends_as_killed(error: BaseException, client: MlflowClient):
    with pytest.raises(type(error)), tracking.step_run("train") as run:
        raise error
    assert client.get_run(run.run_id).info.status == "KILLED"


def test_sigterm_ends_the_run_as_killed(client: MlflowClient):
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals reach the main thread alone")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, tracking.step_run("train") as run:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert caught.value.code == 143
    assert client.get_run(run.run_id).info.status == "KILLED"
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_parent_lives_as_long_as_the_execution(client: MlflowClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SA2NET_EXECUTION", "life")
    with tracking.step_run("train") as train:
        pass
    with tracking.step_run("evaluate") as evaluate:
        evaluate.log_headline({"dice_mean": 0.87})
    parent = train.parent_id
    assert parent and evaluate.parent_id == parent
    assert client.get_run(train.run_id).data.tags[PARENT_TAG] == parent
    stored = client.get_run(parent)
    assert (stored.info.status, stored.info.run_name) == ("RUNNING", "life")
    assert stored.data.metrics["dice_mean"] == client.get_run(evaluate.run_id).data.metrics["dice_mean"] == 0.87
    with pytest.raises(ValueError), tracking.step_run("register"):
        raise ValueError("no")
    assert client.get_run(parent).info.status == "FAILED"
    assert client.get_run(parent).data.tags["sa2net.error"] == "register: ValueError: no"
    with tracking.step_run("register"):
        assert client.get_run(parent).info.status == "RUNNING"
    assert client.get_run(parent).info.status == "FINISHED"
    found = client.search_runs([store.experiment_id(client)], f"tags.`{EXECUTION_TAG}` = 'life'")
    assert len(found) == 1


def test_a_pipelines_run_is_the_parent_and_is_left_to_its_owner(client: MlflowClient, monkeypatch: pytest.MonkeyPatch):
    outer = client.create_run(store.experiment_id(client)).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", outer)
    with tracking.step_run("register") as run:
        pass
    assert run.parent_id == outer != run.run_id
    assert client.get_run(outer).info.status == "RUNNING"


def test_a_run_made_for_the_step_is_used_as_it_is(client: MlflowClient, monkeypatch: pytest.MonkeyPatch):
    experiment = store.experiment_id(client)
    outer = client.create_run(experiment).info.run_id
    own = client.create_run(experiment, tags={PARENT_TAG: outer}).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", own)
    with tracking.step_run("train", params={"a": 1}) as run:
        assert (run.run_id, run.parent_id) == (own, outer)
    assert client.get_run(own).info.status == "FINISHED"
    assert client.get_run(own).data.params == {"a": "1"}


def test_the_parent_of_an_execution_that_never_came_to_its_last_step_is_ended(
    var: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
):
    gone = Execution(key="gone", name="gone", pid=2**22 - 7, started=1.0)
    monkeypatch.setattr(execution, "current", lambda: gone)
    with tracking.step_run("train") as run:
        pass
    assert client.get_run(run.parent_id).info.status == "RUNNING"
    monkeypatch.undo()
    monkeypatch.setenv("SA2NET_VAR", str(var))
    with tracking.step_run("train"):
        pass
    assert client.get_run(run.parent_id).info.status == "FINISHED"
    assert not list((var / "spool").glob("execution-*.json"))


def test_a_run_that_was_killed_while_it_ended_ends_as_it_said(client: MlflowClient, monkeypatch: pytest.MonkeyPatch):
    with tracking.step_run("train") as run:
        pass
    client.update_run(run.run_id, status="RUNNING")  # as it is between the tag and the status
    monkeypatch.setattr(alive, "SILENT_STEP", -1.0)
    alive.close_silent_runs(client, store.experiment_id(client))
    stored = client.get_run(run.run_id)
    assert (stored.info.status, stored.data.tags.get(ERROR_TAG)) == ("FINISHED", None)


def test_the_late_end_of_a_first_attempt_leaves_the_second_alone(client: MlflowClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SA2NET_EXECUTION", "twice")
    with tracking.step_run("train") as first:
        pass
    time.sleep(0.01)
    with tracking.step_run("register") as second:
        pass
    header = Header("train", "", int(first.started * 1000), execution.current(), key=first.key)
    header.run_id, header.parent_id = first.run_id, first.parent_id
    runs.end(client, header, "KILLED", int(time.time() * 1000), "found dead later")
    assert client.get_run(first.run_id).info.status == "KILLED"
    parent = client.get_run(second.parent_id)
    assert (parent.info.status, parent.data.tags.get(ERROR_TAG)) == ("FINISHED", None)
    assert "train](#" in parent.data.tags[NOTE_TAG] and "killed" in parent.data.tags[NOTE_TAG]


def test_a_step_is_sent_to_the_experiment_that_it_was_started_for(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
):
    number = client.create_experiment("where it began")
    begun = Header("train", store.tracking_uri(), 1, Execution(), experiment_name="where it began")
    Spool.create(begun).release()
    assert store.experiment_id(client) != number
    tracking.send_abandoned(client)
    assert len(runs.find(client, number, "sa2net.key", begun.key)) == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_refuses_us_ends_the_step_before_it_starts(
    status: int, var: Path, monkeypatch: pytest.MonkeyPatch
):
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else status)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - the name that http.server looks for

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{server.server_port}")
        with pytest.raises(StorageError) as caught, tracking.step_run("train"):
            pytest.fail("the step was started")
        server.shutdown()
    assert "secret" not in str(caught.value)
    assert not spools(var)


# What people see of it


def test_parents_compare_in_one_table(client: MlflowClient, monkeypatch: pytest.MonkeyPatch):
    parents = {}
    for name, rate in (("calm-cat", 0.1), ("brave-bat", 0.2)):
        monkeypatch.setenv("SA2NET_EXECUTION", name)
        settings = {"train": {"learning_rate": rate, "model": {"channels": 48}}}
        with tracking.step_run("train", params=settings, tags={"data_md5": f"{name}.dir"}) as train:
            train.log_headline({"val_dice_mean": 0.5}, step=1)
            train.log_headline({"val_dice_mean": 0.6}, step=2)
        with tracking.step_run("register", params={"register": {"margin": 0.02}}) as last:
            last.set_tags({REGISTERED_TAG: "sa2net/7", VERDICT_TAG: "promote", "phantom": True, "colour": "grey"})
        parents[name] = client.get_run(train.parent_id)
        assert client.get_run(train.run_id).info.run_name == f"train {name}"
    first, second = (parent.data for parent in parents.values())
    assert (
        first.params.keys()
        == second.params.keys()
        == {"train.learning_rate", "train.model.channels", "register.margin"}
    )
    assert {name for name in first.params if first.params[name] != second.params[name]} == {"train.learning_rate"}
    assert first.metrics == second.metrics == {"val_dice_mean": 0.6}
    for name, parent in parents.items():
        assert parent.data.tags["data_md5"] == f"{name}.dir"
        assert (parent.data.tags[REGISTERED_TAG], parent.data.tags["phantom"]) == ("sa2net/7", "True")
        assert "colour" not in parent.data.tags
        [dataset] = parent.inputs.dataset_inputs
        assert (dataset.dataset.name, dataset.dataset.digest) == ("data", f"{name}.dir"[:12])


def test_a_parent_keeps_the_first_values_where_a_step_is_tried_with_others(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, var: Path
):
    monkeypatch.setenv("SA2NET_EXECUTION", "changed")
    refused = var / "spool" / "refused.jsonl"
    before = refused.read_text() if refused.exists() else ""
    for rate in (0.1, 0.2):
        with tracking.step_run("train", params={"learning_rate": rate}) as run:
            pass
        assert client.get_run(run.run_id).data.params["learning_rate"] == str(rate)
    assert client.get_run(run.parent_id).data.params["learning_rate"] == "0.1"
    assert (refused.read_text() if refused.exists() else "") == before


def test_descriptions_link_what_belongs_together(client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SA2NET_EXECUTION", "linked")
    page = tmp_path / "report.html"
    page.write_text("<p>scores</p>")
    with tracking.step_run("evaluate", tags={"data_md5": "0123456789abcdef"}) as evaluate:
        evaluate.log_file(page)
        evaluate.log_headline({"test_dice_mean": 0.8431})
        running = client.get_run(evaluate.run_id).data.tags[NOTE_TAG]
    with tracking.step_run("register") as last:
        last.set_tags({REGISTERED_TAG: "sa2net/7", VERDICT_TAG: "promote", "phantom": "True"})
    experiment = store.experiment_id(client)
    here = f"#/experiments/{experiment}/runs"
    assert running.startswith(f"Step evaluate, part of [linked]({here}/{evaluate.parent_id})")
    step, parent = (client.get_run(run_id).data.tags[NOTE_TAG] for run_id in (evaluate.run_id, last.parent_id))
    assert f"[report.html]({here}/{evaluate.run_id}/artifacts/report.html)" in step
    assert "data `0123456789ab`" in step
    first, second, third = parent.split("\n\n")
    assert first == "version [sa2net/7](#/models/sa2net/versions/7): **promote** · test Dice 0.843 on phantoms"
    assert second == (
        f"Steps: [evaluate]({here}/{evaluate.run_id}) ([report.html]({here}/{evaluate.run_id}/artifacts/report.html)), "
        f"[register]({here}/{last.run_id})"
    )
    assert third.startswith("data `0123456789ab` · code `") and third.endswith("research use only")


def test_a_description_that_a_person_edited_stays(client: MlflowClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SA2NET_EXECUTION", "edited")
    with tracking.step_run("train") as train:
        client.set_tag(train.parent_id, NOTE_TAG, "my own words")
    with tracking.step_run("register") as last:
        pass
    assert client.get_run(last.parent_id).data.tags[NOTE_TAG] == "my own words"
    assert client.get_run(last.run_id).data.tags[NOTE_TAG].startswith("Step register, part of [edited]")


# What is told


def test_settings_become_dotted_names():
    assert flatten({"a": {"b": {"c": 1}}, "d": (1, "x"), "e": True, "f": ""}) == {
        "a.b.c": "1",
        "d": '[1, "x"]',
        "e": "True",
        "f": "",
    }


def test_many_and_long_settings_respect_mlflows_limits(client: MlflowClient, tmp_path: Path):
    params = {f"key{index:03d}": index for index in range(250)} | {"long": "x" * 900}
    with tracking.step_run("train", params=params) as run:
        pass
    stored = client.get_run(run.run_id).data.params
    assert len(stored) == 251
    assert len(stored["long"]) == 500 and stored["long"].endswith("…")
    whole = read_json(Path(client.download_artifacts(run.run_id, "params.json", str(tmp_path))))
    assert whole["long"] == "x" * 900


def test_what_mlflow_refuses_for_good_is_set_aside_and_the_step_goes_on(var: Path, client: MlflowClient):
    with tracking.step_run("train", params={"a": 1}) as run:
        run.log_params({"a": 2})
        run.log_metrics({"loss": 1.0})
    assert client.get_run(run.run_id).data.params["a"] == "1"
    assert client.get_run(run.run_id).data.metrics["loss"] == 1.0
    assert client.get_run(run.run_id).info.status == "FINISHED"
    refused = [json.loads(line) for line in (var / "spool" / "refused.jsonl").read_text().splitlines()]
    assert refused[-1]["content"] == {"a": "2"}


def test_files_that_are_not_there_are_a_fault_of_the_caller(tmp_path: Path):
    with tracking.step_run("train") as run:
        with pytest.raises(FileNotFoundError):
            run.log_file(tmp_path / "nothing")
        with pytest.raises(NotADirectoryError):
            run.log_folder(tmp_path / "nothing")


def test_pictures_go_where_the_policy_lets_them(client: MlflowClient, tmp_path: Path):
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"png")
    away = client.create_experiment("away", artifact_location="s3://bucket/artifacts")
    with tracking.step_run("train") as run:
        assert run.log_picture(picture, "local") is True
        assert run.log_picture(picture, "never") is False
    assert [item.path for item in client.list_artifacts(run.run_id, "pictures")] == ["pictures/picture.png"]
    os.environ["MLFLOW_EXPERIMENT_ID"] = away
    try:
        header = Header(step="train", uri=store.tracking_uri(), start=1, execution=Execution(), tags={})
        remote = tracking._open(header)
        assert remote.log_picture(picture, "local") is False
        remote._spool.delete()
    finally:
        del os.environ["MLFLOW_EXPERIMENT_ID"]


def test_system_metrics_are_sampled(client: MlflowClient):
    with tracking.step_run("train", system_metrics=True) as run:
        time.sleep(0.1)
    names = client.get_run(run.run_id).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(names)


def test_run_json_finds_the_run_and_names_no_place(client: MlflowClient, tmp_path: Path):
    with tracking.step_run("train") as run:
        run.write_run_json(tmp_path, scans=3)
    content = read_json(tmp_path / "run.json")
    assert (content["run_id"], content["run_key"], content["step"], content["scans"]) == (
        run.run_id,
        run.key,
        "train",
        3,
    )
    assert content["started"] <= content["written"]
    assert str(tmp_path) not in json.dumps(content)


# The spool


def test_a_line_cut_off_by_a_crash_costs_that_line_alone(client: MlflowClient, var: Path):
    header = Header(
        step="train", uri=store.public_uri(store.tracking_uri()), start=1_700_000_000_000, execution=Execution()
    )
    journal = Spool.create(header)
    for step in range(3):
        journal.append(Call("metrics", 1_700_000_000_000 + step, {"values": {"loss": 1.0}, "step": step}))
    with (journal.folder / "calls.jsonl").open("a") as stream:
        stream.write('{"kind": "metrics", "ti')
    journal.release()
    assert tracking.send_abandoned(client) == 1
    [run] = client.search_runs([store.experiment_id(client)], f"tags.`sa2net.key` = '{header.key}'")
    assert [item.step for item in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2]
    assert (run.info.status, run.info.start_time) == ("KILLED", 1_700_000_000_000)
    assert not spools(var)


def test_the_spool_of_a_living_process_and_of_another_store_are_left_alone(client: MlflowClient, var: Path):
    living = Spool.create(Header(step="train", uri=store.tracking_uri(), start=1, execution=Execution()))
    foreign = Spool.create(Header(step="train", uri="https://elsewhere", start=1, execution=Execution()))
    foreign.release()
    code = "from sa2net.registry import store, tracking; print('sent', tracking.send_abandoned(store.connect()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sent", "0"]
    assert len(spools(var)) == 2
    living.delete()
    foreign.delete()
