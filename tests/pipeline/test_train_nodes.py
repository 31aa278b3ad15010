"""Training on several nodes: what is posted is a TrainJob, what it runs trains, and nothing is left behind or doubled.

The API server is a local one and the "nodes" are processes of this machine that talk through gloo. So this proves the
requests, their order and the training that they describe; not that a cluster schedules, mounts or pulls anything, not
that its network lets the pods meet, and nothing of nccl. A pod's environment comes from the job alone, the secrets too.
"""

import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import dsl
from mlflow import MlflowClient
from spec_check import faults, load
from trainer_server import TrainerServer, admission_faults

from components.train_nodes import train as component
from pipelines.compile import compile_training
from pipelines.runtime import nodes_of_train
from sa2net.artifacts import folder_sha256, read_json, write_json
from sa2net.config import Config, ModelConfig, TrainConfig, ValidateConfig, as_section
from sa2net.errors import ClusterError, ConfigError, DataError, DeviceError, StorageError
from sa2net.steps import train, train_nodes, validate
from sa2net.training import cluster
from sa2net.training.nodes import NodesConfig, checked, lost_fields, train_job
from sa2net.training.ranks import REASON, LostRankError, describe
from sa2net.training.trainjob import run_to_end

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "train.epochs=2",
    "train.validate_every=2",
    "train.warmup_epochs=1",
    "train.sweep_width=48",
    "train.crops_per_scan=1",
    "train.batch_size=4",
    "train.augment.crop_height=64",
    "train.augment.crop_width=64",
    "train.model.channels=16",
    "train.device=cpu",
    "train.threads=1",
]
QUICK = {"every": 0.02, "patience": 5.0}
SECRETS = {"mlflow": {"password": "canary-2718281828"}}
pytestmark = pytest.mark.timeout(400)


def settings(*more: str) -> TrainConfig:
    return Config.load(None, [*SETTINGS, *more]).train


def nodes(mount: Path, **changes: Any) -> dict[str, Any]:
    """Settings of two pods as they come out of a pipeline: every number is a float there."""
    tree = {
        "nodes": 2.0,
        "processes": 1.0,
        "image": "registry.example.org/sa2net/torch@sha256:" + "ab" * 32,
        "requests": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"},
        "limits": {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "1"},
        "variables": {"SA2NET_VAR": str(mount), "OMP_NUM_THREADS": "1"},
        "secrets": {"mlflow": {"password": "MLFLOW_TRACKING_PASSWORD"}},
        "claim": "sa2net-checkpoints",
        "mount": str(mount),
        "shared_memory": "8Gi",
        "node_selector": {"accelerator": "a100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "service_account": "sa2net-pipeline",
        "image_pull_secrets": ["registry"],
        "labels": {"app.kubernetes.io/part-of": "sa2net"},
        "deadline_seconds": 3600.0,
    }
    return {**tree, **changes}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerServer]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    made = TrainerServer(folder, SECRETS)
    monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig()))
    monkeypatch.setenv("SA2NET_EXECUTION", "run-1")
    monkeypatch.delenv("HTTP_PROXY", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    yield made
    made.close()


@pytest.fixture(scope="module")
def places(shared_data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set below a pointer, as `fetch` leaves it, and its validation."""
    folder = tmp_path_factory.mktemp("fetched")
    root = folder / "data" / "scoliosis3classes"
    shutil.copytree(shared_data_root, root)
    (folder / "data.dvc").write_text("outs:\n- path: data\n")
    checked_ = tmp_path_factory.mktemp("validated")
    validate.check(ValidateConfig(workers=1), data=root, out=checked_, data_docs=None, progress=False)
    return {"data": root, "validation": checked_}


@pytest.fixture(scope="module")
def two_processes(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of one machine train."""
    out = tmp_path_factory.mktemp("two") / "out"
    train.run(settings(), **places, out=out, checkpoints=out.parent / "ck", progress=False, processes=2)
    return out


def start(mount: Path, places: dict[str, Path], out: Path, *more: str, **changes: Any) -> train.TrainResult:
    how = as_section(NodesConfig, nodes(mount, **changes.pop("nodes", {})))
    here = {**places, "out": out, "checkpoints": mount / "checkpoints"}
    return train_nodes.run(settings(*more), nodes=how, **here, **{**QUICK, **changes})


def completing(server: TrainerServer, result: Path, mount: Path) -> None:
    """Let the living job complete with a result that was made elsewhere."""
    (job,) = server.jobs.values()
    shutil.copytree(result, mount / "train-jobs" / job.body["metadata"]["name"] / "out")
    job.script, job.looks = ["running", "complete"], 0


def test_two_nodes_train_what_two_processes_train(
    server: TrainerServer,
    places: dict[str, Path],
    two_processes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mount = tmp_path / "volume"
    monkeypatch.setenv("SA2NET_POD_NAME", "waiter")
    monkeypatch.setenv("SA2NET_POD_UID", "1-2-3")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")  # the component sets it; taken back at the end
    caplog.set_level(logging.INFO, logger="sa2net")
    folder = places["data"].parents[1]
    data, checked_ = dsl.Dataset(uri=str(folder)), dsl.Artifact(uri=str(places["validation"]))
    model, metrics = (
        dsl.Model(uri=str(tmp_path / "model"), metadata={}),
        dsl.Metrics(uri=str(tmp_path / "m"), metadata={}),
    )
    section = settings().model_dump(mode="json")

    component.python_func(
        data, checked_, {}, section, "several nodes", str(mount / "checkpoints"), nodes(mount), model, metrics
    )

    out = Path(model.path)
    assert folder_sha256(out / "model") == folder_sha256(two_processes / "model")  # to the last bit
    assert (out / "history.csv").read_bytes() == (two_processes / "history.csv").read_bytes()
    assert (out / "validation.csv").read_bytes() == (two_processes / "validation.csv").read_bytes()
    assert read_json(out / "timing.json")["processes"] == 2
    assert metrics.metadata["best_val_dice"] == read_json(two_processes / "timing.json")["best_val_dice"]
    assert metrics.metadata["best_epoch"] == 2

    # One run of MLflow, that of rank 0 in the job, below the run of this execution.
    client = MlflowClient(f"sqlite:///{mount / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("several nodes")
    runs = client.search_runs([experiment.experiment_id])
    (mine,) = [run for run in runs if run.data.tags.get("sa2net.step") == "train"]
    assert mine.info.status == "FINISHED"
    (parent,) = [run for run in runs if run.info.run_id == mine.data.tags["mlflow.parentRunId"]]
    assert "run-1" in {parent.info.run_name, *parent.data.tags.values()}
    assert read_json(out / "run.json")["run_id"] == mine.info.run_id == model.metadata["run_id"]

    (posted,) = server.posted
    name = posted["metadata"]["name"]
    assert server.deleted == [name]
    assert not server.jobs
    assert not list((mount / "train-jobs").iterdir())  # the copy is gone, the checkpoints are not
    assert list((mount / "checkpoints").glob("*/epoch-000002.safetensors"))
    assert posted["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Pod", "name": "waiter", "uid": "1-2-3"}
    ]
    assert "canary" not in json.dumps(posted)
    told = [line for line in caplog.messages if line.startswith(f"TrainJob {name} after 00:")]
    assert "pods: none yet" in told[0]
    assert "2 Pending (0/3 nodes are available: 3 Insufficient nvidia.com/gpu.)" in told[1]
    assert "2 Running" in told[2]
    assert told[-1].endswith("Complete")


def test_what_is_posted_says_where_the_pods_run_and_how_safely(tmp_path: Path) -> None:
    job = train_job(as_section(NodesConfig, nodes(tmp_path)), "name", ["python3", "-m", "x"], variables={"A": "b"})
    assert admission_faults(job) == []
    spec = job["spec"]
    assert (spec["runtimeRef"], spec["activeDeadlineSeconds"]) == ({"name": "torch-distributed"}, 3600)
    trainer = spec["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (2, 1)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "A", "value": "b"} in trainer["env"]
    reference = {"secretKeyRef": {"name": "mlflow", "key": "password"}}
    assert {"name": "MLFLOW_TRACKING_PASSWORD", "valueFrom": reference} in trainer["env"]
    (patch,) = spec["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]
    assert pod["metadata"]["labels"] == job["metadata"]["labels"] == {"app.kubernetes.io/part-of": "sa2net"}
    (container,) = pod["spec"]["containers"]
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {str(tmp_path), "/tmp", "/dev/shm"}
    assert container["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "sa2net-checkpoints"}
    assert pod["spec"]["nodeSelector"] == {"accelerator": "a100"}
    assert pod["spec"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert pod["spec"]["serviceAccountName"] == "sa2net-pipeline"
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]


def test_a_field_that_the_api_would_drop_is_refused(tmp_path: Path) -> None:
    job = train_job(as_section(NodesConfig, nodes(tmp_path)), "name", ["true"])
    job["spec"]["podSpecOverrides"] = [{"targetJobs": [{"name": "node"}]}]
    assert admission_faults(job) == ["strict decoding error: unknown field"]
    with pytest.raises(ConfigError, match=r"loses a part of the TrainJob: spec\.podSpecOverrides"):
        checked(job)
    assert lost_fields({"a": [{"b": 1}, {"c": 2}]}, {"a": [{"b": 1}, {"c": 3}]}) == ["a[1].c"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variables": {"PET_NNODES": "3"}}, "PET_NNODES: the runtime sets these itself"),
        ({"variables": {"MLFLOW_TRACKING_PASSWORD": "x"}}, "MLFLOW_TRACKING_PASSWORD: set twice"),
        ({"claim": ""}, "claim"),
        ({"nodes": 1.5}, "nodes"),
        ({"node": 2}, "node is unknown (did you mean nodes?)"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        as_section(NodesConfig, nodes(tmp_path, **changes))
    assert said in str(error.value)


def test_a_training_that_fails_in_the_pods_fails_here_with_its_reason(
    server: TrainerServer, places: dict[str, Path], tmp_path: Path
) -> None:
    mount = tmp_path / "volume"
    more = ["train.learning_rate=1e30", "train.clip_norm=0"]
    with pytest.raises(ClusterError) as error:
        start(mount, places, tmp_path / "out", *more, every=0.1, nodes={"nodes": 1, "processes": 2})
    said = str(error.value)
    assert "failed: the cluster says FailedJobs: jobset failed due to one or more job failures" in said
    assert "a process of the training said: the loss is not a number any more: epoch" in said
    assert "first the pod" in said and "exit code" in said
    assert not server.jobs  # nothing goes on
    (folder,) = (mount / "train-jobs").iterdir()
    assert str(folder / "in") in said
    assert (folder / "in" / "data" / "data" / "scoliosis3classes" / "dataset").is_dir()  # kept, for whoever looks
    assert not (tmp_path / "out" / "model").exists()


def test_the_last_error_of_restarted_pods_counts_and_a_lost_peer_is_none(tmp_path: Path) -> None:
    errors = [
        (100, DataError("what an earlier attempt met", action="-")),
        (200, DeviceError("what ended the last one", action="-")),
        (201, LostRankError("another process is gone", action="-")),
    ]
    for number, (when, error) in enumerate(errors):
        content = {"message": {"message": "-", "extraInfo": {"timestamp": str(when)}}, REASON: describe(error)}
        write_json(tmp_path / f"none_{number}" / "attempt_0" / "0" / "error.json", content)
    (tmp_path / "none_0" / "error.json").write_text('{"message": "torchrun\'s own"}')
    (tmp_path / "none_1" / "error.json").write_text('{"half')
    assert "what ended the last one" in train_nodes._last_reason(tmp_path.rglob("error.json"))
    assert train_nodes._last_reason([]) == ""


def test_the_first_pod_that_failed_and_its_last_lines_are_named(
    server: TrainerServer, places: dict[str, Path], tmp_path: Path
) -> None:
    server.script = ["created", "suspended", "running", "failed"]
    with pytest.raises(ClusterError) as error:
        log = "\n".join(f"line {number}" for number in range(100))

        def know_pods() -> None:
            while not server.jobs:
                time.sleep(0.005)
            (name,) = server.jobs
            server.logs |= {f"{name}-node-0-1": log, f"{name}-node-0-0": "connection closed by peer"}

        threading.Thread(target=know_pods, daemon=True).start()
        start(tmp_path / "volume", places, tmp_path / "out")
    said = str(error.value)
    assert "-node-0-1 ended with exit code 137, OOMKilled" in said
    assert "line 99" in said and "line 75" in said and "line 74" not in said
    assert "connection closed" not in said


REFUSALS = {
    "403": (403, {"message": "trainjobs is forbidden"}, "may not get a TrainJob in the namespace team"),
    "no CRD": (404, "404 page not found\n", "this cluster knows no TrainJob"),
    "401": (401, {"message": "Unauthorized"}, "does not know this account"),
}


@pytest.mark.parametrize(("code", "body", "said"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_what_to_do(
    server: TrainerServer, places: dict[str, Path], tmp_path: Path, code: int, body: Any, said: str
) -> None:
    server.refusal = (code, body)
    with pytest.raises(ClusterError) as error:
        start(tmp_path / "volume", places, tmp_path / "out")
    assert said in str(error.value)
    assert error.value.exit_code == 6
    assert not server.posted


def test_an_older_trainer_is_named(server: TrainerServer, tmp_path: Path) -> None:
    jobs = cluster.TrainJobs()
    job = train_job(as_section(NodesConfig, nodes(tmp_path)), "name", ["true"])
    job["spec"]["podSpecOverrides"] = [{}]
    with pytest.raises(ClusterError, match="Kubeflow Trainer is too old: 400 strict decoding error: unknown field"):
        jobs.create(job)
    del job["spec"]["podSpecOverrides"]
    job["spec"]["trainer"]["env"].append({"name": "PET_NNODES", "value": "2"})
    with pytest.raises(
        ClusterError, match=r"refuses to create the TrainJob: 400 spec\.trainer\.env: reserved or twice"
    ):
        jobs.create(job)


def test_a_server_that_is_away_for_a_while_is_waited_for(
    server: TrainerServer,
    places: dict[str, Path],
    two_processes: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="sa2net")
    mount = tmp_path / "volume"
    server.script = ["running"]

    def go_away_and_come_back() -> None:
        while not server.jobs:
            time.sleep(0.01)
        server.away = True
        time.sleep(0.5)
        completing(server, two_processes, mount)
        server.away = False

    threading.Thread(target=go_away_and_come_back, daemon=True).start()
    result = start(mount, places, tmp_path / "out")
    assert folder_sha256(result.model) == folder_sha256(two_processes / "model")
    assert sum("does not answer" in line for line in caplog.messages) == 1
    assert any("answers again" in line for line in caplog.messages)


def test_a_retried_pod_takes_over_the_job_of_the_one_before(
    server: TrainerServer, places: dict[str, Path], two_processes: Path, tmp_path: Path
) -> None:
    mount = tmp_path / "volume"
    server.script = ["running"]
    threading.Thread(target=lambda: _away_once_it_runs(server), daemon=True).start()
    with pytest.raises(cluster.AwayError, match="does not answer"):
        start(mount, places, tmp_path / "out", patience=0.3)
    assert list(server.jobs) and not server.deleted  # it may live, and is left to the next attempt
    server.away = False
    completing(server, two_processes, mount)
    copied = next((mount / "train-jobs").glob("*/in/data/data/scoliosis3classes/train.txt"))
    before = copied.stat().st_mtime_ns

    def look(*_: Any, **__: Any) -> None:
        assert copied.stat().st_mtime_ns == before  # what is there is not copied again

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_nodes, "_emptied", lambda folder: pytest.fail("the living job's result would be removed"))
        patch.setattr(train_nodes, "read_weights", look)
        result = start(mount, places, tmp_path / "out")
    assert len(server.posted) == 1
    assert folder_sha256(result.model) == folder_sha256(two_processes / "model")

    # Another execution of the pipeline is another job.
    server.refusal = (403, {"message": "enough"})
    names = set()
    for execution in ("run-1", "run-2", "run-2"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SA2NET_EXECUTION", execution)
            patch.setattr(cluster.TrainJobs, "get", lambda self, name: names.add(name))
            with pytest.raises(ClusterError):
                start(mount, places, tmp_path / "out")
    assert len(names) == 2 and server.posted[0]["metadata"]["name"] in names


def _away_once_it_runs(server: TrainerServer) -> None:
    while not any(job.looks for job in server.jobs.values()):
        time.sleep(0.01)
    server.away = True


def test_sigterm_deletes_the_job(server: TrainerServer, places: dict[str, Path], tmp_path: Path) -> None:
    server.script = ["running"]
    before = signal.getsignal(signal.SIGTERM)

    def terminate() -> None:
        while not any(job.looks for job in server.jobs.values()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(SystemExit) as ended:
        start(tmp_path / "volume", places, tmp_path / "out")
    assert ended.value.code == 128 + signal.SIGTERM
    # Where the signal met this thread inside a call of logging, logging's lock is still held: a process that ends does
    # not care, the other tests of this one would wait for it for ever.
    while logging._lock._is_owned():  # type: ignore[attr-defined]
        logging._lock.release()  # type: ignore[attr-defined]
    assert signal.getsignal(signal.SIGTERM) is before
    assert server.deleted and not server.jobs


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Any]:
    return train_job(as_section(NodesConfig, nodes(tmp_path)), "small", ["true"])


def test_a_failed_job_before_it_is_replaced_once_its_pods_are_gone(
    server: TrainerServer, small: dict[str, Any]
) -> None:
    jobs, prepared = cluster.TrainJobs(), []
    server.script = ["failed"]
    assert jobs.create(small)
    assert not jobs.create(small)  # there is one
    server.script, server.lingers = ["running", "complete"], 3
    ended = run_to_end(jobs, small, prepare=lambda: prepared.append(len(server.jobs)), limit=10, **QUICK)
    assert ended.state == "Complete"
    assert prepared == [0]
    assert (len(server.posted), server.deleted) == (2, ["small"])


def test_a_job_that_somebody_deletes_or_that_never_ends_is_an_error(
    server: TrainerServer, small: dict[str, Any]
) -> None:
    jobs = cluster.TrainJobs()
    server.script = ["pending"]
    with pytest.raises(ClusterError, match=r"has not ended: after 00:00:00 .* Insufficient nvidia"):
        run_to_end(jobs, small, prepare=lambda: None, limit=0.3, **QUICK)
    threading.Timer(0.3, server.jobs.clear).start()
    with pytest.raises(ClusterError, match="was deleted while it was waited for"):
        run_to_end(jobs, small, prepare=lambda: None, limit=10, **QUICK)


def test_a_result_that_is_not_whole_is_no_success(
    server: TrainerServer, places: dict[str, Path], tmp_path: Path
) -> None:
    server.script = ["running", "complete"]
    with pytest.raises(StorageError, match="completed, and its result is not whole"):
        start(tmp_path / "volume", places, tmp_path / "out")
    assert not server.jobs


def test_the_copy_on_the_volume_is_held_against_its_source(
    server: TrainerServer, places: dict[str, Path], tmp_path: Path
) -> None:
    mount = tmp_path / "volume"
    server.script = ["failed"]
    with pytest.raises(ClusterError, match="failed"):
        start(mount, places, tmp_path / "out")
    (folder,) = (mount / "train-jobs").iterdir()
    scan = next((folder / "in").rglob("train_000.png"))
    rotten = bytearray(scan.read_bytes())
    rotten[-20] ^= 1
    scan.write_bytes(rotten)
    with pytest.raises(StorageError, match="differs from the data set"):
        start(mount, places, tmp_path / "out")
    assert len(server.posted) == 1
    with pytest.raises(ClusterError, match="failed"):  # and the next attempt copies anew
        start(mount, places, tmp_path / "out")
    assert scan.is_file() and scan.read_bytes() != rotten


def test_what_cannot_train_is_refused_before_anything_is_copied(
    server: TrainerServer, places: dict[str, Path], data_root: Path, tmp_path: Path
) -> None:
    mount = tmp_path / "volume"
    with pytest.raises(ConfigError, match=r"train\.batch_size is 4, for 6 processes"):
        start(mount, places, tmp_path / "out", nodes={"processes": 3})
    with pytest.raises(DataError, match="is not the data set that was validated"):
        start(mount, {**places, "data": data_root}, tmp_path / "out")
    assert not mount.exists()


def test_no_cluster_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(ClusterError, match="no Kubernetes cluster is known here"):
        cluster.TrainJobs()


def test_a_pipeline_for_two_nodes_waits_without_a_gpu(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "infra" / "environments.yaml").read_text())
    content["cluster"]["gpu"] = {"count": 2, "nodes": 2, "node_selector": {"accelerator": "a100"}}
    file = tmp_path / "environments.yaml"
    file.write_text(yaml.safe_dump(content))
    compiled = compile_training(
        "cluster", tmp_path / "training.yaml", data="s3://bucket/data.dvc", environments_file=file,
        lock=tmp_path / "none.json", overrides=["train.batch_size=8"],
    )  # fmt: skip
    spec, platform = load(compiled.file)
    assert faults(spec, platform, pinned=False) == []
    task = spec["root"]["dag"]["tasks"]["train"]
    label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
    container = spec["deploymentSpec"]["executors"][label]["container"]
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][label]
    assert "accelerator" not in container["resources"]
    assert container["resources"]["resourceMemoryLimit"] == "4Gi"
    assert "nodeSelector" not in pod and "tolerations" not in pod
    assert [item["mountPath"] for item in pod["emptyDirMounts"]] == ["/tmp"]
    assert pod["pvcMount"][0]["constant"] == "sa2net-checkpoints"
    paths = {item["name"]: item["fieldPath"] for item in pod["fieldPathAsEnv"]}
    assert (paths["SA2NET_POD_NAME"], paths["SA2NET_POD_UID"]) == ("metadata.name", "metadata.uid")
    given = task["inputs"]["parameters"]["nodes"]["runtimeValue"]["constant"]
    assert given == nodes_of_train(compiled.environment)
    told = as_section(NodesConfig, given)
    assert (told.nodes, told.processes, told.limits["nvidia.com/gpu"]) == (2, 2, "2")
    assert told.secrets == content["cluster"]["secrets"]
    assert told.node_selector == {"accelerator": "a100"}
    assert admission_faults(train_job(told, "name", ["true"])) == []
    outputs = spec["components"][task["componentRef"]["name"]]["outputDefinitions"]["artifacts"]
    assert set(outputs) == {"model", "metrics"}
    evaluate = spec["root"]["dag"]["tasks"]["evaluate"]["inputs"]["artifacts"]["model"]["taskOutputArtifact"]
    assert evaluate == {"producerTask": "train", "outputArtifactKey": "model"}


def test_what_a_training_works_out_for_itself_does_not_make_it_another() -> None:
    asked = TrainConfig(iterations=10, batch_size=0, model=ModelConfig(channels=16))
    done = asked.model_copy(update={"epochs": 3, "batch_size": 8, "init_from": "", "learning_rate": 2e-3})
    assert train_nodes._is_of({"train": done.model_dump(mode="json")}, asked)
    other = done.model_copy(update={"learning_rate": 0.5})
    assert not train_nodes._is_of({"train": other.model_dump(mode="json")}, asked)
    assert not train_nodes._is_of({"train": done.model_dump(mode="json")}, asked.model_copy(update={"iterations": 0}))
    assert not train_nodes._is_of({}, asked)
