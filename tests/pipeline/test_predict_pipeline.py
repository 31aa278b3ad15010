"""The batch pipeline: what is compiled, and the very graph run here as subprocesses."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories import draw_case
from kfp import local
from registry_cases import write_model_folder
from servers import s3_server, use_aws_environment
from spec_check import faults, load

from pipelines import environments, predict
from pipelines.compile import Compiled
from pipelines.local import on_this_machine
from pipelines.options import run_command
from sa2net.artifacts import folder_sha256, write_json
from sa2net.config import BatchConfig, Config
from sa2net.data.pictures import write_png
from sa2net.errors import ClusterError, ConfigError
from sa2net.registry import store, versions

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = ROOT / "infra" / "environments.yaml"
CFG = BatchConfig(device="cpu", flip=False, threads=1, shard_size=2)
Spec = dict[str, Any]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    folder = tmp_path_factory.mktemp("compiled")
    images = environments.load("cluster", ENVIRONMENTS).images.model_dump().values()
    write_json(folder / "lock.json", {"schema_version": 1, "images": dict.fromkeys(images, "sha256:" + "ab" * 32)})
    return predict.compile_predict(
        "cluster",
        folder / "predict.yaml",
        config=Config.load(None, ["evaluate.scales=[0.75, 1.0]"]),
        environments_file=ENVIRONMENTS,
        lock=folder / "lock.json",
    )


@pytest.fixture(scope="module")
def spec(compiled: Compiled) -> Spec:
    return load(compiled.file)[0]


def test_the_compiled_pipeline_is_sound_without_asking_kfp(compiled: Compiled) -> None:
    assert faults(*load(compiled.file)) == []
    assert compiled.unpinned == ()


def test_parts_run_side_by_side_between_plan_and_summary(compiled: Compiled, spec: Spec) -> None:
    tasks = spec["root"]["dag"]["tasks"]
    (loop,) = set(tasks) - {"predict-plan", "predict-summary"}
    assert tasks[loop]["dependentTasks"] == ["predict-plan"]
    assert tasks[loop]["iteratorPolicy"]["parallelismLimit"] == compiled.environment.shards_at_once
    assert set(tasks["predict-summary"]["dependentTasks"]) == {"predict-plan", loop}
    assert list(spec["components"]["comp-" + loop]["dag"]["tasks"]) == ["predict-shard"]


def test_each_task_has_its_image_its_gpu_and_its_retries_and_is_never_cached(compiled: Compiled, spec: Spec) -> None:
    platform = load(compiled.file)[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    tasks = dict(spec["root"]["dag"]["tasks"])
    for component in spec["components"].values():
        tasks |= component.get("dag", {}).get("tasks", {})
    picture = {}
    for name in ("predict-plan", "predict-shard", "predict-summary"):
        assert not tasks[name]["cachingOptions"].get("enableCache", False)
        container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        picture[name] = (
            container["image"].partition("@")[0].rpartition("/")[2],
            int(container["resources"].get("accelerator", {}).get("resourceCount", 0)),
            tasks[name].get("retryPolicy", {}).get("maxRetryCount", 0),
        )
        assert {item["secretName"] for item in platform[f"exec-{name}"]["secretAsEnv"]} == {
            "sa2net-s3",
            "sa2net-mlflow",
        }
        assert platform[f"exec-{name}"]["securityContext"]["runAsNonRoot"] is True
    assert picture == {
        "predict-plan": ("tools:0.1.0", 0, 0),
        "predict-shard": ("torch:0.1.0", 1, 3),
        "predict-summary": ("tools:0.1.0", 0, 0),
    }


def test_a_run_gives_scans_and_results_and_may_give_model_and_settings(spec: Spec) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    required = {name for name, definition in parameters.items() if "defaultValue" not in definition}
    assert required == {"scans", "results"}
    assert set(parameters) == {"scans", "results", "model", "predict"}
    assert parameters["model"]["defaultValue"] == "models:/sa2net@champion"
    defaults = parameters["predict"]["defaultValue"]
    assert defaults["scales"] == [0.75, 1.0]  # as `evaluate` scores
    assert defaults["device"] == "cuda"  # a demand, since the environment has a GPU
    assert BatchConfig.model_validate(defaults).scales == (0.75, 1.0)


def changed(folder: Path, **changes: Any) -> Path:
    """The environments of the project with some settings of `cluster` changed."""
    content = yaml.safe_load(ENVIRONMENTS.read_text())
    content["cluster"] |= changes
    (folder / "environments.yaml").write_text(yaml.safe_dump(content))
    return folder / "environments.yaml"


@pytest.mark.parametrize(
    ("changes", "overrides", "words"),
    [
        ({"gpu": {"count": 0}}, ["evaluate.device=cuda"], "gives it no GPU"),
        ({}, ["evaluate.device=cpu"], "gives it a GPU"),
        ({"predict": {"shardsize": 5}}, [], "did you mean shard_size"),
        ({"predict": {"spacing_mm": [0.0, 0.5]}}, [], "spacing_mm"),
        ({"shards_at_once": 0}, [], "shards_at_once"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        predict.compile_predict(
            "cluster",
            tmp_path / "predict.yaml",
            config=Config.load(None, overrides),
            environments_file=changed(tmp_path, **changes),
        )
    assert not (tmp_path / "predict.yaml").exists()


def test_the_environment_lies_over_the_settings_of_evaluate(tmp_path: Path) -> None:
    file = changed(tmp_path, predict={"endpoint_url": "http://s3:1", "spacing_mm": [0.4, 0.5], "shard_size": 7})
    cfg = predict.settings_for(environments.load("cluster", file), Config(), "cluster")
    assert (cfg.endpoint_url, cfg.spacing, cfg.shard_size, cfg.flip) == ("http://s3:1", (0.4, 0.5), 7, True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry with a champion, and a folder for the rest."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SA2NET_VAR", str(folder / "var"))
        patch.setenv("OMP_NUM_THREADS", "1")
        model, client = write_model_folder(folder / "model"), store.connect()
        run_id = client.create_run(store.experiment_id(client)).info.run_id
        versions.register_version(client, model, name="sa2net", run_id=run_id, tags={})
        client.set_registered_model_alias("sa2net", "champion", "1")
        yield folder


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder behind `s3://hospital`, with three scans."""
    use_aws_environment(monkeypatch)
    bucket = tmp_path / "served" / "hospital"
    for index in range(3):
        write_png(bucket / "scans" / f"folder {index % 2}" / f"scan {index}.png", draw_case(index, 48, 128)[0])
    return bucket


def run(endpoint: str, root: Path) -> dict[str, int]:
    """The champion over the bucket, as subprocesses."""
    environment = on_this_machine(environments.load("laptop", ENVIRONMENTS), containers=False)
    return predict.run_predict(
        CFG.model_copy(update={"endpoint_url": endpoint}),
        environment,
        scans="s3://hospital/scans",
        results="s3://hospital/results",
        root=root,
        runner=local.SubprocessRunner(use_venv=False),
    )


def test_the_champion_over_a_bucket_and_again_what_is_missing(place: Path, bucket: Path, tmp_path: Path) -> None:
    results = bucket / "results"
    with s3_server(bucket.parent) as endpoint:
        counts = run(endpoint, tmp_path / "first")
        assert (counts["scans"], counts["done"], counts["before"]) == (3, 3, 0)
        # Not by kfp's word: the results themselves, and that both parts ran, each on its own.
        described = {path: json.loads(path.read_text()) for path in (results / "scans").rglob("*.json")}
        names = {f"folder {index % 2}/scan {index}.png" for index in range(3)}
        assert {item["scan"] for item in described.values()} == names
        assert {item["model"]["name"] for item in described.values()} == {"models:/sa2net/1"}
        assert {item["model"]["sha256"] for item in described.values()} == {folder_sha256(place / "model")}
        assert len(list((tmp_path / "first").glob("*/*-iteration-*/predict-shard/executor_output.json"))) == 2
        (page,) = (tmp_path / "first").glob("*/predict-summary/page")
        assert page.read_bytes() == (results / "summary.html").read_bytes()

        # A file that is no scan: the rest stays done, everything is written, and the run fails.
        (bucket / "scans" / "broken.png").write_bytes(b"no picture")
        before = {path: path.stat().st_mtime_ns for path in described}
        with pytest.raises(ClusterError, match="predict-summary"):
            run(endpoint, tmp_path / "second")
        assert {path: path.stat().st_mtime_ns for path in described} == before
        summary = json.loads((results / "summary.json").read_text())
        assert (summary["counts"]["done"], summary["counts"]["before"], summary["counts"]["faulty"]) == (3, 3, 1)
        assert [item["scan"] for item in summary["faults"]] == ["broken.png"]


def test_no_name_of_a_scan_is_a_parameter(place: Path, bucket: Path, tmp_path: Path) -> None:
    planned = predict.predict_plan.python_func
    plan = type("Plan", (), {"path": str(tmp_path / "plan"), "metadata": {}})()
    places = {"scans": str(bucket / "scans"), "results": str(tmp_path / "results"), "model": str(place / "model")}
    assert planned(**places, settings={"shard_size": 1.0}, defaults=CFG.model_dump(mode="json"), plan=plan) == [
        "0",
        "1",
        "2",
    ]
    assert "scan 0" not in json.dumps(plan.metadata)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--scans", "a", "--results", "b"], 2, "go with --local"),
        (["--local", "--scans", "a"], 2, "needs --scans and --results"),
        (["--env", "nowhere"], 2, "there is no environment 'nowhere'"),
        (["--set", "evaluate.flipp=true"], 2, "did you mean flip"),
        (["--help"], 0, "python -m pipelines.predict --local"),
    ],
)
def test_the_command_says_what_is_wrong(
    arguments: list[str],
    code: int,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["predict", *arguments, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        run_command(predict.main)
    assert ended.value.code == code
    said = capsys.readouterr()
    assert words in said.out + said.err
    assert not (tmp_path / "out").exists()
