"""Export and import of a registered model through real stores and servers: all of it, the same, or nothing to be seen."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from database import postgres_server, what_is_missing
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient
from registry_cases import write_evaluation, write_model_folder
from servers import Fault, faulty_proxy, mlflow_server

from sa2net.artifacts import file_sha256, folder_sha256, read_json, write_json
from sa2net.cli import cli
from sa2net.config import RegisterConfig
from sa2net.errors import StorageError
from sa2net.registry import audit, backup, keys, ledger, release, store, tracking, versions
from sa2net.registry.backup.documents import FIRST_TAG, FROM_TAG, IMPORT_TAG
from sa2net.registry.ledger import Ledger, Proposal
from sa2net.registry.lineage import trace
from sa2net.steps import register

NAME = "sa2net"
BASE = np.clip(np.random.default_rng(0).normal(0.85, 0.03, (30, 3)), 0.0, 1.0)
NEWER = (IMPORT_TAG, FROM_TAG, FIRST_TAG)
"""Tags that an import adds."""


@contextmanager
def using(var: Path, uri: str = "") -> Iterator[MlflowClient]:
    """The store of a folder, or a server with that folder beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_VAR", str(var))
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        yield store.connect()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without anything in it: its tables take seconds to make."""
    folder = tmp_path_factory.mktemp("empty")
    with using(folder):
        return folder / "mlflow.db"


@pytest.fixture
def target(empty: Path, tmp_path: Path) -> Iterator[MlflowClient]:
    """A client of an empty store of its own."""
    (tmp_path / "target").mkdir()
    shutil.copy(empty, tmp_path / "target" / "mlflow.db")
    with using(tmp_path / "target") as client:
        yield client


@pytest.fixture(scope="module")
def origin(empty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a registry in `var`: versions 1 and 3 (2 and 4 deleted), a rollback, an alias by hand, a void entry."""
    folder = tmp_path_factory.mktemp("origin")
    (folder / "var").mkdir()
    shutil.copy(empty, folder / "var" / "mlflow.db")
    with using(folder / "var") as client, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_EXECUTION", "study 7")
        cfg = RegisterConfig(name=NAME)
        for number, dice in enumerate((BASE, BASE - 0.05, BASE + 0.03), start=1):
            model = write_model_folder(folder / f"train-{number}" / "model", seed=number)
            train(model)
            scored = write_evaluation(folder / f"evaluation-{number}", model, np.clip(dice, 0.0, 1.0))
            register.run(cfg, model=model, evaluation=scored, out=folder / f"out-{number}")
        patch.delenv("SA2NET_EXECUTION")
        release.rollback(cfg, reason="misses ribs")
        stray(client)
        client.delete_model_version(NAME, "2")
        client.create_model_version(NAME, "sa2net:/nothing", await_creation_for=0)
        Ledger(client, NAME).append(lambda found: Proposal("decide", 4, found.state, {"verdict": "refuse"}))
        client.delete_model_version(NAME, "4")
        client.set_registered_model_alias(NAME, "shadow", "3")
        backup.export(client, NAME, folder / "backup.zip")
    return folder


def train(model: Path) -> None:
    """A run that made a model folder, with curves, numbers that are none, a file and a long setting."""
    with tracking.step_run(
        "train", params={"train": {"epochs": 3, "note": "x" * 600}}, tags={"data_md5": "0" * 32}
    ) as run:
        for epoch in range(5):
            run.log_metrics({"loss": 1.0 / (epoch + 1), "broken": float("nan"), "huge": float("inf")}, epoch)
        run.log_file(model / "weights.safetensors", "model")
        write_json(model.parent / "run.json", {"schema_version": 1, "step": "train", "run_id": run.run_id})


def stray(client: MlflowClient) -> None:
    """An entry that lost a race: it follows one that has a successor already."""
    first, *_, last = audit.read_log(client, NAME).chain
    entry = audit.Entry(**{**vars(last.entry), "previous": first.hash, "count": 2, "nonce": "0"})
    audit.place(client, NAME, entry, keys.sign(keys.audit_key(), entry.text()), applied=True)


def everything(client: MlflowClient, name: str, old: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a registry holds of a model, read with MLflow's client alone.

    Args:
        client: The store.
        name: Registered model.
        old: Run id -> the id that it had in the beginning.
    """
    ids = dict(old or {})

    def plain(tags: Mapping[str, str]) -> dict[str, str]:
        return {key: linked(ids.get(value, value), ids) for key, value in tags.items() if key not in NEWER}

    found: dict[str, Any] = {"runs": {}}
    for part in (name, audit.log_name(name)):
        model = client.get_registered_model(part)
        aliases = {alias: int(number) for alias, number in model.aliases.items()}
        found[part] = [model.description, plain(model.tags), aliases]
        for item in client.search_model_versions(f"name = '{part}'"):
            run = ids.get(item.run_id or "", item.run_id or "")
            files = {} if part != name else files_of(client, part, item.version)
            found[f"{part} {item.version}"] = [item.description, plain(item.tags), run, files]
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            run_id = run.info.run_id
            history = {
                key: [
                    (point.step, point.timestamp, str(point.value)) for point in client.get_metric_history(run_id, key)
                ]
                for key in run.data.metrics
            }
            times = (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
            inputs = [
                (item.dataset.name, item.dataset.source, {tag.key: tag.value for tag in item.tags})
                for item in run.inputs.dataset_inputs
            ]
            files = folder_files(Path(client.download_artifacts(run_id, ""))) if client.list_artifacts(run_id) else {}
            everything_of = [experiment.name, times, run.data.params, plain(run.data.tags), history, inputs, files]
            found["runs"][ids.get(run_id, run_id)] = everything_of
    return found


def linked(text: str, ids: Mapping[str, str]) -> str:
    """A text with the old ids of runs in its links."""
    for new, old in ids.items():
        text = text.replace(f"/runs/{new}", f"/runs/{old}")
    return text


def files_of(client: MlflowClient, name: str, number: str) -> dict[str, str]:
    import mlflow.artifacts

    with store.as_default(client.tracking_uri):
        address = client.get_model_version_download_uri(name, str(number))
        return folder_files(Path(mlflow.artifacts.download_artifacts(artifact_uri=address)))


def kept(origin: Path) -> dict[str, Any]:
    """What must come back: everything but the training of version 2, which was deleted and which nothing names."""
    with using(origin / "var") as client:
        found = everything(client, NAME)
    del found["runs"][read_json(origin / "train-2" / "run.json")["run_id"]]
    return found


def folder_files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_sha256(path) for path in folder.rglob("*") if path.is_file()}


def command(*words: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)
    code = 0 if done.exception is None else getattr(done.exception, "exit_code", 70)
    return code, done.output + str(done.exception or "")


def test_into_an_empty_server_and_back(origin: Path, target: MlflowClient, tmp_path: Path):
    before = kept(origin)
    with using(origin / "var") as client:
        head = audit.read_log(client, NAME)
    assert (len(head.chain), head.void, head.faults) == (5, 1, ())
    assert [number for number in (1, 2, 3, 4) if f"{NAME} {number}" in before] == [1, 3]
    assert before[NAME][2] == {"champion": 1, "candidate": 3, "shadow": 3}
    assert len(before["runs"]) == 2 + 3 + 1  # train, register, the execution

    with (
        mlflow_server(tmp_path / "server") as address,
        using(tmp_path / "elsewhere", address) as server,
    ):
        there = backup.restore(server, origin / "backup.zip")
        assert everything(server, NAME, {new: old for old, new in there.runs.items()}) == before
        log = audit.read_log(server, NAME)
        assert (log.head_hash, log.void, log.faults, there.faults) == (head.head_hash, 1, (), ())
        decision = log.chain[1].entry.facts["decision_run"]
        assert backup.current_run(server, decision) == there.runs[decision] != decision
        assert backup.current_run(server, "0" * 32) == ""
        links = [json.loads(model.tags["mlflow.modelVersions"]) for model in server.search_logged_models(["1"])]
        assert sorted((link[0]["name"], int(link[0]["version"])) for link in links) == [(NAME, 1), (NAME, 3)]

        code, said = command("audit", NAME)
        assert (code, f"whole: 5 entries, 1 lost a race; head {head.head_hash[:12]}" in said) == (0, True), said
        folder = versions.resolve(f"models:/{NAME}@champion")
        assert folder_sha256(folder) == before[f"{NAME} 1"][1]["model_sha256"]
        backup.export(server, NAME, tmp_path / "again.zip")

    back = backup.restore(target, tmp_path / "again.zip")
    first = {back.runs[now]: old for old, now in there.runs.items()}
    assert everything(target, NAME, first) == before
    assert first[backup.current_run(target, decision)] == decision  # through two imports


def test_what_was_imported_goes_on(origin: Path, target: MlflowClient, tmp_path: Path):
    backup.restore(target, origin / "backup.zip")
    cfg = RegisterConfig(name=NAME)
    model = write_model_folder(tmp_path / "model", seed=9)
    scored = write_evaluation(tmp_path / "evaluation", model, np.clip(BASE + 0.04, 0.0, 1.0))
    result = register.run(cfg, model=model, evaluation=scored, out=tmp_path / "out")
    assert (result.version, result.verdict) == (5, "promote")  # 4 was given once, and is not given again
    done = release.rollback(cfg, reason="back")
    assert (done.version.number, done.entry.count) == (1, 7)
    again = write_evaluation(tmp_path / "again", origin / "train-3" / "model", np.clip(BASE + 0.03, 0.0, 1.0))
    repeated = register.run(cfg, model=origin / "train-3" / "model", evaluation=again, out=tmp_path / "out")
    assert (repeated.version, repeated.created) == (3, False)
    assert audit.read_log(target, NAME).faults == ()


def test_lineage_outlives_an_import(origin: Path, target: MlflowClient, tmp_path: Path):
    def read(client: MlflowClient, scratch: Path) -> trace.Lineage:
        scratch.mkdir()
        version = versions.find_number(client, NAME, 3)
        assert version is not None
        return trace.read(client, version, scratch)

    with using(origin / "var") as client:
        before = read(client, tmp_path / "before")
    imported = backup.restore(target, origin / "backup.zip")
    after = read(target, tmp_path / "after")
    assert after.registered == before.registered
    assert after.history == before.history != ()
    assert after.provenance.training.facts == before.provenance.training.facts
    assert after.provenance.training.run_id == imported.runs[before.provenance.training.run_id]
    assert after.evaluation is not None and before.evaluation is not None
    assert after.evaluation.scores == before.evaluation.scores


def test_on_the_same_machine_after_an_accident(origin: Path, target: MlflowClient, tmp_path: Path):
    backup.restore(target, origin / "backup.zip")
    Ledger(target, NAME).append(lambda found: Proposal("decide", 3, found.state, {"verdict": "refuse"}))
    backup.export(target, NAME, tmp_path / "newer.zip")
    for part in (NAME, audit.log_name(NAME)):
        target.delete_registered_model(part)
    assert backup.restore(target, tmp_path / "newer.zip").faults == ()
    assert len(Ledger(target, NAME).read().chain) == 6

    for part in (NAME, audit.log_name(NAME)):
        target.delete_registered_model(part)
    older = backup.restore(target, origin / "backup.zip")
    assert older.faults == ("the log was cut: this machine has seen 6 entries, 5 are left",)
    with pytest.raises(StorageError, match="the log was cut"):
        Ledger(target, NAME).read()
    Ledger(target, NAME).accept("restored from the backup of Monday")
    assert Ledger(target, NAME).read().faults == ()


def test_a_registry_that_is_not_empty_is_refused(origin: Path, target: MlflowClient):
    backup.restore(target, origin / "backup.zip", name="drill")
    assert audit.read_log(target, "drill").head_hash
    state = everything(target, "drill")
    with pytest.raises(StorageError, match="drill was imported from this backup already: drill has 2 versions"):
        backup.restore(target, origin / "backup.zip", name="drill")
    target.create_registered_model(audit.log_name(NAME))
    with pytest.raises(StorageError, match=r"not empty under sa2net: sa2net\.audit has 0 entries"):
        backup.restore(target, origin / "backup.zip")
    assert everything(target, "drill") == state
    tags = target.get_model_version("drill", "3").tags
    run = target.get_run(tags["register_run"])
    assert "drill/3" in run.data.tags.values()


class Died(BaseException):
    """What a killed process looks like from within."""


QUICK = (
    ("log_artifacts", 1, "before"), ("log_model_artifacts", 2, "after"), ("create_model_version", 4, "after"),
    ("rename_registered_model", 2, "before"), ("rename_registered_model", 2, "after"),
)  # fmt: skip
MORE = (
    ("create_run", 2, "after"), ("log_batch", 3, "after"), ("log_inputs", 1, "after"), ("set_terminated", 4, "before"),
    ("create_logged_model", 1, "after"), ("log_outputs", 1, "after"), ("finalize_logged_model", 1, "before"),
    ("create_registered_model", 2, "after"), ("delete_model_version", 1, "before"),
    ("set_registered_model_alias", 1, "after"), ("rename_registered_model", 1, "before"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("method", "call", "when"), [*QUICK, *(pytest.param(*stop, marks=pytest.mark.long) for stop in MORE)]
)
def test_interrupted(
    method: str, call: int, when: str, origin: Path, target: MlflowClient, monkeypatch: pytest.MonkeyPatch
):
    """Before or after a call of MLflow; the repetition completes it, and leaves nothing else behind."""
    real, calls = getattr(MlflowClient, method), []

    def dies(*arguments: Any, **named: Any) -> Any:
        calls.append(method)
        if len(calls) == call and when == "before":
            raise Died
        answer = real(*arguments, **named)
        if len(calls) == call:
            raise Died
        return answer

    monkeypatch.setattr(MlflowClient, method, dies)
    with pytest.raises(Died):
        backup.restore(target, origin / "backup.zip")
    if (method, call, when) != ("rename_registered_model", 2, "after"):
        assert_nothing_is_seen(target)
        done = backup.restore(target, origin / "backup.zip")
        assert_whole(target, origin, done.runs)
    else:  # it was the last thing
        with pytest.raises(StorageError, match="imported from this backup already"):
            backup.restore(target, origin / "backup.zip")


def assert_nothing_is_seen(client: MlflowClient) -> None:
    with pytest.raises(MlflowException, match="not found"):
        client.get_registered_model(NAME)
    with pytest.raises(StorageError, match="there is no models:/"):
        versions.resolve(f"models:/{NAME}@champion")


def assert_whole(client: MlflowClient, origin: Path, runs: Mapping[str, str]) -> None:
    assert everything(client, NAME, {new: old for old, new in runs.items()}) == kept(origin)
    assert sorted(model.name for model in client.search_registered_models()) == [NAME, audit.log_name(NAME)]
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert len(client.search_logged_models(experiments)) == 2


@pytest.mark.long
def test_a_server_that_dies_in_the_middle(origin: Path, tmp_path: Path):
    left = 1 << 30

    def choose(method: str, path: str, before: int) -> Fault | None:
        nonlocal left
        left -= 1
        return Fault("reset") if left < 0 else None

    with (
        mlflow_server(tmp_path / "server") as address,
        faulty_proxy(address, choose) as proxy,
        using(tmp_path / "var", proxy.endpoint) as client,
    ):
        left = 150
        with pytest.raises(StorageError, match="it goes on where it was"):
            backup.restore(client, origin / "backup.zip")
        left = 1 << 30
        assert_nothing_is_seen(client)
        done = backup.restore(client, origin / "backup.zip")
        assert_whole(client, origin, done.runs)


def test_a_registry_that_is_not_whole_is_kept_and_said(origin: Path, target: MlflowClient, tmp_path: Path):
    backup.restore(target, origin / "backup.zip")
    spoil(target, "1", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"))
    spoil(target, "3", lambda path: shutil.rmtree(path.parents[2]))
    target.delete_model_version(audit.log_name(NAME), "3")
    code, said = command("registry", "export", tmp_path / "spoilt.zip", "--quiet")
    assert code == 1
    assert "! the audit log: entry 3 was deleted" in said
    assert "! the files of version 1 are not what was registered" in said
    assert "! the files of version 3 are gone" in said

    for part in (NAME, audit.log_name(NAME)):
        target.rename_registered_model(part, f"before-{part}")
    code, said = command("registry", "import", tmp_path / "spoilt.zip")
    assert code == 1
    assert "! entry 3 was deleted" in said and "when it was exported: the files of version 3 are gone" in said
    assert target.get_model_version(NAME, "3").tags["model_sha256"]
    for number in (1, 3):
        with pytest.raises(StorageError):
            versions.resolve(f"models:/{NAME}/{number}")


def spoil(client: MlflowClient, number: str, change: Callable[[Path], object]) -> None:
    address = client.get_model_version_download_uri(NAME, number).removeprefix("file://")
    change(Path(address) / "artifacts" / "model" / "weights.safetensors")


def test_a_writer_who_is_at_work_or_died(origin: Path, target: MlflowClient, tmp_path: Path):
    backup.restore(target, origin / "backup.zip")
    target.set_model_version_tag(audit.log_name(NAME), "6", audit.APPLIED_TAG, "false")
    started = time.monotonic()
    done = backup.export(target, NAME, tmp_path / "unfinished.zip", seconds=0.5)
    assert time.monotonic() - started > 0.5
    assert done.notes == ("the last entry of the audit log is not carried out; the next command finishes it",)
    backup.restore(target, tmp_path / "unfinished.zip", name="drill")
    assert Ledger(target, "drill", lease=0.2).settled().entries[-1].action == "finish"


def test_a_run_that_was_deleted_does_not_come_back(origin: Path, target: MlflowClient, tmp_path: Path):
    """Who takes a subject out of MLflow must not find it in the next backup."""
    backup.restore(target, origin / "backup.zip")
    training = target.get_model_version(NAME, "3").tags["training_run"]
    target.delete_run(training)
    done = backup.export(target, NAME, tmp_path / "less.zip")
    assert training not in done.runs
    assert f"run {training} is named, and gone" in done.notes
    assert done.faults == ()


def test_no_secret_and_no_place_of_this_machine_is_in_it(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    secrets = {"MLFLOW_TRACKING_PASSWORD": "secret-of-mlflow", "AWS_SECRET_ACCESS_KEY": "secret-of-s3"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    with using(origin / "var") as client:
        backup.export(client, NAME, tmp_path / "backup.zip")
    with using(origin / "var"), zipfile.ZipFile(tmp_path / "backup.zip") as archive:
        private = (origin / "var" / "keys" / "audit.pem").read_text().splitlines()[1]
        words = [*secrets.values(), private, str(origin)]
        for name in archive.namelist():
            if not name.endswith(("code.diff", ".py")):
                content = archive.read(name)
                assert not [word for word in words if word.encode() in content], name
    assert (tmp_path / "backup.zip").read_bytes() == (origin / "backup.zip").read_bytes()  # read twice, the same


def test_the_command_line(origin: Path, target: MlflowClient, tmp_path: Path):
    file = tmp_path / "backup.zip"
    assert command("registry", "export", file)[0] == 5
    code, said = command("registry", "import", origin / "backup.zip")
    assert code == 0
    assert (
        "versions 1, 3 of sa2net, 6 runs (with new ids)" in said
        and "aliases: candidate 3, champion 1, shadow 3" in said
    )
    code, said = command("registry", "export", file)
    assert code == 0
    assert "1, 3" in said and "5" in said and "1 void" in said
    assert (command("registry", "export", file)[0], command("registry", "export", file, "--force")[0]) == (2, 0)
    assert command("registry", "export", file, "--name", "../x")[0] == 2
    assert command("registry", "import", file, "--name", "a/b")[0] == 2
    assert command("registry", "import", tmp_path / "nothing.zip")[0] == 2
    assert command("registry", "import", file)[0] == 5
    file.write_bytes(file.read_bytes()[:-50])
    code, said = command("registry", "import", file, "--name", "other")
    assert (code, "no whole backup" in said) == (5, True)


@pytest.mark.long
def test_importers_that_are_killed(origin: Path, empty: Path, tmp_path: Path):
    (tmp_path / "var").mkdir()
    shutil.copy(empty, tmp_path / "var" / "mlflow.db")
    words = [sys.executable, "-m", "sa2net", "registry", "import", str(origin / "backup.zip")]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "SA2NET_"))}
    place = clean | {"SA2NET_VAR": str(tmp_path / "var")}
    (tmp_path / "calm").mkdir()
    shutil.copy(empty, tmp_path / "calm" / "mlflow.db")
    started = time.monotonic()
    subprocess.run(words, env=clean | {"SA2NET_VAR": str(tmp_path / "calm")}, capture_output=True, check=True)
    whole = time.monotonic() - started
    killed = 0
    for share in (0.5, *np.random.default_rng(0).uniform(0.3, 0.95, 8)):
        process = subprocess.Popen(words, env=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            process.communicate(timeout=share * whole)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    assert killed
    last = subprocess.run(words, env=place, capture_output=True, text=True, timeout=120, check=False)
    assert last.returncode in (0, 5), last.stderr
    assert last.returncode == 0 or "imported from this backup already" in last.stderr
    with using(tmp_path / "var") as client:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments)
        assert len(runs) == 6 and not any(run.data.tags[IMPORT_TAG].endswith("unfinished") for run in runs)
        assert_whole(client, origin, {run.data.tags[FROM_TAG]: run.info.run_id for run in runs})


@pytest.mark.long
def test_a_server_with_users(target: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Such a server says of a run that is gone that it may not be read; imported runs are named by ids that are gone."""
    run = target.create_run(target.create_experiment("small")).info.run_id
    target.create_registered_model(NAME)
    target.create_model_version(NAME, "sa2net:/nothing", tags={"training_run": run}, await_creation_for=0)
    Ledger(target, NAME).append(lambda found: Proposal("decide", 1, found.state, {"decision_run": run}))
    backup.export(target, NAME, tmp_path / "small.zip")  # small, since such a server hashes a password at every request
    settings = tmp_path / "auth.ini"
    lines = ["default_permission = READ", f"database_uri = sqlite:///{tmp_path / 'auth.db'}", "admin_username = admin"]
    settings.write_text("\n".join(["[mlflow]", *lines, "admin_password = admin-password"]) + "\n")
    words = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "only-here"}
    with mlflow_server(tmp_path / "server", "--app-name", "basic-auth", **words) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "admin-password")
        AuthServiceClient(address).create_user("ada", "password-of-ada")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password-of-ada")
        with using(tmp_path / "var", address) as client:
            done = backup.restore(client, tmp_path / "small.zip")
            again = backup.export(client, NAME, tmp_path / "again.zip")
            assert set(again.runs) == {done.runs[run]} != {run}
            assert again.faults == ("the files of version 1 are gone",)


@pytest.mark.long
def test_into_postgres(origin: Path, tmp_path: Path):
    if missing := what_is_missing():
        pytest.skip(missing)
    with postgres_server(tmp_path / "postgres", user="mlflow", password="only-here") as server:
        address = f"postgresql+psycopg://mlflow:only-here@127.0.0.1:{server.port}/mlflow"
        with using(tmp_path / "var", address) as client:
            done = backup.restore(client, origin / "backup.zip")
            assert_whole(client, origin, done.runs)
            assert ledger.Ledger(client, NAME).read().void == 1
