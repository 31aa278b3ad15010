"""The compiled training pipeline: sound by a check that does not use kfp, and what a reviewer reads of it at a glance."""

import ast
import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from spec_check import faults, load

from pipelines import compile as compiling
from pipelines import environments
from pipelines.compile import Compiled, compile_training
from sa2net.artifacts import write_json
from sa2net.cli import cli
from sa2net.config import SECTIONS
from sa2net.errors import ConfigError

ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "ab" * 32
Spec = dict[str, Any]


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lock file that knows the images of the cluster."""
    images = environments.load("cluster", ROOT / "infra" / "environments.yaml").images.model_dump().values()
    file = tmp_path_factory.mktemp("lock") / "images.lock.json"
    write_json(file, {"schema_version": 1, "images": dict.fromkeys(images, DIGEST)})
    return file


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory, lock: Path) -> Compiled:
    return _compile(tmp_path_factory.mktemp("compiled"), lock=lock)


def _compile(folder: Path, env: str = "cluster", **changes: Any) -> Compiled:
    places = {"data": str(ROOT / "data.dvc"), "environments_file": ROOT / "infra" / "environments.yaml"}
    return compile_training(env, folder / "training.yaml", **{**places, **changes})


def _environment(folder: Path, change: Callable[[Spec], None]) -> Path:
    """The environments of the project with one change to `cluster`."""
    content = yaml.safe_load((ROOT / "infra" / "environments.yaml").read_text())
    change(content["cluster"])
    file = folder / "environments.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_the_compiled_pipeline_is_sound_without_asking_kfp(compiled: Compiled) -> None:
    assert faults(*load(compiled.file)) == []
    assert compiled.unpinned == ()


def _dangling_component(spec: Spec, _: Spec) -> None:
    spec["root"]["dag"]["tasks"]["train"]["componentRef"]["name"] = "comp-nobody"


def _dangling_output(spec: Spec, _: Spec) -> None:
    source = spec["root"]["dag"]["tasks"]["train"]["inputs"]["artifacts"]["validation"]["taskOutputArtifact"]
    source["outputArtifactKey"] = "nothing"


def _dangling_input(spec: Spec, _: Spec) -> None:
    del spec["root"]["inputDefinitions"]["parameters"]["train"]


def _cycle(spec: Spec, _: Spec) -> None:
    spec["root"]["dag"]["tasks"]["fetch"]["dependentTasks"].append("register")


def _unknown_field(spec: Spec, _: Spec) -> None:
    spec["root"]["dag"]["tasks"]["train"]["cachingOption"] = {}


def _unpinned(spec: Spec, _: Spec) -> None:
    spec["deploymentSpec"]["executors"]["exec-train"]["container"]["image"] = "sa2net-torch:1"


def _foreign_platform(_: Spec, platform: Spec) -> None:
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors["exec-trian"] = executors.pop("exec-train")


def _misspelt_platform(_: Spec, platform: Spec) -> None:
    platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]["pvcMounts"] = []


def _no_executor(spec: Spec, _: Spec) -> None:
    del spec["deploymentSpec"]["executors"]["exec-fetch"]


def _not_waited_for(spec: Spec, _: Spec) -> None:
    spec["root"]["dag"]["tasks"]["train"]["dependentTasks"].remove("validate")


def _missing_argument(spec: Spec, _: Spec) -> None:
    del spec["root"]["dag"]["tasks"]["train"]["inputs"]["parameters"]["checkpoints"]


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (_dangling_component, "comp-nobody"),
        (_dangling_output, "nothing"),
        (_dangling_input, "graph's input train"),
        (_cycle, "wait for each other"),
        (_unknown_field, "cachingOption"),
        (_unpinned, "not pinned"),
        (_foreign_platform, "exec-trian"),
        (_misspelt_platform, "pvcMounts"),
        (_no_executor, "exec-fetch"),
        (_not_waited_for, "does not wait"),
        (_missing_argument, "not given checkpoints"),
    ],
)
def test_the_check_finds_what_is_broken(compiled: Compiled, break_it: Callable[[Spec, Spec], None], said: str) -> None:
    spec, platform = copy.deepcopy(load(compiled.file))
    break_it(spec, platform)
    assert any(said in fault for fault in faults(spec, platform)), faults(spec, platform)


def _picture(compiled: Compiled) -> Spec:
    """Task -> what a reviewer wants to know of it."""
    spec, platform = load(compiled.file)
    executors = spec["deploymentSpec"]["executors"]
    kubernetes = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    picture = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        container, pod = executors[label]["container"], kubernetes[label]
        resources = container["resources"]
        inputs = task["inputs"].get("artifacts", {})
        picture[name] = {
            "image": container["image"].partition("@")[0].rpartition("/")[2],
            "after": sorted(task.get("dependentTasks", [])),
            "artifacts": {key: value["taskOutputArtifact"]["producerTask"] for key, value in inputs.items()},
            "cpu": f"{resources['resourceCpuRequest']}-{resources['resourceCpuLimit']}",
            "memory": f"{resources['resourceMemoryRequest']}-{resources['resourceMemoryLimit']}",
            "gpus": int(resources.get("accelerator", {}).get("resourceCount", 0)),
            "secrets": sorted(item["secretName"] for item in pod["secretAsEnv"]),
            "volumes": sorted(
                [item["mountPath"] for item in pod.get("emptyDirMounts", [])]
                + [f"{item['constant']}:{item['mountPath']}" for item in pod.get("pvcMount", [])]
            ),
            "cached": bool(task["cachingOptions"].get("enableCache", False)),
            "retries": task.get("retryPolicy", {}).get("maxRetryCount", 0),
            "hours": int(pod["activeDeadlineSeconds"]) / 3600,
        }
        assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": "10001", "runAsGroup": "10001"}
        assert pod["podMetadata"]["labels"]["app.kubernetes.io/part-of"] == "sa2net"
        variables = {item["name"]: item["value"] for item in container["env"]}
        assert variables["SA2NET_IMAGE"] == container["image"]
        assert pod["fieldPathAsEnv"] == [{"name": "SA2NET_EXECUTION", "fieldPath": "metadata.labels['pipeline/runid']"}]
    return picture


def test_each_task_has_what_the_snapshot_says(compiled: Compiled) -> None:
    expected = yaml.safe_load((Path(__file__).parent / "training_snapshot.yaml").read_text())
    assert _picture(compiled) == expected


def test_parameters_are_one_dict_a_step_with_the_defaults_of_the_settings(compiled: Compiled) -> None:
    parameters = load(compiled.file)[0]["root"]["inputDefinitions"]["parameters"]
    dicts = {name for name, item in parameters.items() if item["parameterType"] == "STRUCT"}
    assert dicts == {"fetch", "validate", "train", "evaluate", "register"}
    assert set(parameters) - dicts == {"data", "experiment", "registered_model"}
    assert parameters["train"]["defaultValue"]["epochs"] == compiled.config.train.epochs
    assert parameters["registered_model"]["defaultValue"] == compiled.config.register.name
    assert "name" not in parameters["register"]["defaultValue"]


def test_one_name_for_section_verb_component_and_task(compiled: Compiled) -> None:
    # Module, stage and section are held equal in tests/unit/test_dvc_stages.py.
    tasks = set(load(compiled.file)[0]["root"]["dag"]["tasks"])
    assert tasks == {"pointer", "fetch", *SECTIONS}
    assert all((ROOT / "components" / f"{task}.py").is_file() for task in tasks)
    assert {"fetch", *SECTIONS} <= set(cli.commands)


def test_the_pointer_is_in_the_file_and_the_file_is_yaml(compiled: Compiled) -> None:
    default = load(compiled.file)[0]["root"]["inputDefinitions"]["parameters"]["data"]["defaultValue"]
    assert yaml.safe_load(default) == yaml.safe_load((ROOT / "data.dvc").read_text())


def test_an_address_is_left_for_the_run_to_resolve(tmp_path: Path, lock: Path) -> None:
    compiled = _compile(tmp_path, lock=lock, data="s3://bucket/data.dvc")
    default = load(compiled.file)[0]["root"]["inputDefinitions"]["parameters"]["data"]["defaultValue"]
    assert default == "s3://bucket/data.dvc"


def test_no_secret_no_latest_no_host_path(
    compiled: Compiled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lock: Path
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_PASSWORD", "KF_PIPELINES_TOKEN"):
        monkeypatch.setenv(name, "canary-3141592653")
    text = _compile(tmp_path, lock=lock).file.read_text()
    assert "canary" not in text
    assert ":latest" not in text
    assert "hostPath" not in text
    assert str(ROOT) not in text and str(Path.home()) not in text
    assert not re.search(
        r"(?i)(password|secret_access_key|token)['\"]?:\s*['\"]?[^\s'\"{}]+", text.replace("secretKey: ", "")
    )


def test_unpinned_images_are_named(tmp_path: Path) -> None:
    compiled = _compile(tmp_path, lock=tmp_path / "none.json")
    assert len(compiled.unpinned) == 2
    assert any("not pinned" in fault for fault in faults(*load(compiled.file)))


@pytest.mark.parametrize(
    ("overrides", "change", "said"),
    [
        (["train.epoch=3"], None, "did you mean epochs"),
        (["train.epochs=3.5"], None, "train.epochs = 3.5"),
        (["train.device=cpu"], None, "reserves a GPU"),
        (["train.device=cuda"], lambda env: env["gpu"].update(count=0), "gives train no GPU"),
        (["train.batch_size=3"], lambda env: env["gpu"].update(count=2), "does not divide among 2 GPUs"),
        ([], lambda env: env["images"].update(torch="r/torch:latest"), "moves"),
        ([], lambda env: env["images"].update(torch="r/torch"), "moves"),
        ([], lambda env: env["variables"].update(MLFLOW_TRACKING_PASSWORD="x"), "looks like a secret"),
        ([], lambda env: env.update(gpus=1), "gpus is unknown (did you mean gpu?)"),
        ([], lambda env: env.update(shared_memory="8 GB"), "shared_memory"),
        ([], lambda env: env["gpu"].update(nodes=2, count=0), "several nodes need GPUs"),
        ([], lambda env: env.update(fetch={"remot": "s3://x"}), "no DVC remote is known"),
        ([], lambda env: env.update(fetch={"remote": "s3://x", "job": 3}), "job is unknown (did you mean jobs?)"),
        ([], lambda env: env.update(resources={"trian": {}}), "trian"),
        ([], lambda env: env.update(resources={"train": {"memory_limit": "8Gi"}}), "memory_request 16Gi"),
        ([], lambda env: env.update(resources={"train": {"cpu_limit": "500m"}}), "cpu_request 4"),
        ([], lambda env: env.update(volume={"claim": "c", "mount": "/tmp"}), "is taken"),
        ([], lambda env: env.update(volume={"claim": "c", "mount": "/a/../etc"}), "is taken"),
        ([], lambda env: env["variables"].update(AWS_ACCESS_KEY_ID="x"), "looks like a secret"),
        ([], lambda env: env["variables"].update(PGPASS="x"), "looks like a secret"),
        ([], lambda env: env["variables"].update(HTTPS_PROXY="http://u:pw@p"), "holds a login"),
        ([], lambda env: env["secrets"].update(other={"K": "MLFLOW_TRACKING_USERNAME"}), "is given twice"),
        ([], lambda env: env.pop("images"), "images is missing"),
        (["train.init_from=models:/sa2net@champion"], None, "an alias moves"),
        (["train.init_from=build/train/model"], None, "an alias moves"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, lock: Path, overrides: list[str], change: Callable[[Spec], None] | None, said: str
) -> None:
    file = _environment(tmp_path, change or (lambda _: None))
    with pytest.raises(ConfigError) as error:
        _compile(tmp_path, lock=lock, overrides=overrides, environments_file=file, data="s3://bucket/data.dvc")
    assert said in str(error.value)
    assert not (tmp_path / "training.yaml").exists()


@pytest.mark.parametrize("text", ["", "a\nevil: 1", "\x00"])
def test_a_name_that_would_break_the_file_is_refused(tmp_path: Path, lock: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="on one line"):
        _compile(tmp_path, lock=lock, experiment=text)
    with pytest.raises(ConfigError, match="data pointer"):
        _compile(tmp_path, lock=lock, data=f"s3://bucket/{text}\n/data.dvc")


@pytest.mark.parametrize(
    "content", ["", "outs: []\n", "outs:\n- path: data\n", "a: [", "outs:\n- {path: x, md5: 0123}\n"]
)
def test_a_pointer_that_fetch_would_refuse_is_refused_now(tmp_path: Path, lock: Path, content: str) -> None:
    (tmp_path / "data.dvc").write_text(content)
    with pytest.raises(ConfigError, match="data pointer"):
        _compile(tmp_path, lock=lock, data=str(tmp_path / "data.dvc"))


@pytest.mark.parametrize("address", ["s3://", "http://host/data.dvc", "foo://bar"])
def test_an_address_that_no_step_can_read_is_refused(tmp_path: Path, lock: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="data pointer"):
        _compile(tmp_path, lock=lock, data=address)


def test_a_file_that_is_no_pipeline_is_never_replaced(tmp_path: Path, lock: Path) -> None:
    (tmp_path / "training.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="stays"):
        _compile(tmp_path, lock=lock)
    assert (tmp_path / "training.yaml").read_text() == "mine"
    (tmp_path / "training.yaml").unlink()
    first = _compile(tmp_path, lock=lock).file.read_bytes()
    assert _compile(tmp_path, lock=lock).file.read_bytes() == first


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "[]",
        '{"images": null}',
        '{"schema_version": 99, "images": {}}',
        '{"schema_version": 1, "images": {"a:1": "sha256:beef"}}',
    ],
)
def test_rubbish_in_the_lock_is_said(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock.json").write_text(content)
    with pytest.raises(ConfigError, match="make pin"):
        _compile(tmp_path, lock=tmp_path / "lock.json")


@pytest.mark.parametrize("content", ["cluster: hello", "cluster: []", "1: {}\ntrue: {}", "[" * 5000, "a:\tb", ""])
def test_rubbish_in_the_environments_is_said(tmp_path: Path, lock: Path, content: str) -> None:
    (tmp_path / "environments.yaml").write_text(content)
    with pytest.raises(ConfigError):
        _compile(tmp_path, lock=lock, environments_file=tmp_path / "environments.yaml")


def test_a_fault_of_an_environment_names_its_line(tmp_path: Path, lock: Path) -> None:
    text = (ROOT / "infra/environments.yaml").read_text().replace("    count: 1\n", "    count: 1\n    cuont: 2\n")
    (tmp_path / "environments.yaml").write_text(text)
    line = text.splitlines().index("    cuont: 2") + 1
    with pytest.raises(ConfigError, match=rf"line {line}: gpu.cuont is unknown \(did you mean count\?\)"):
        _compile(tmp_path, lock=lock, environments_file=tmp_path / "environments.yaml")


def test_one_environment_does_not_change_another() -> None:
    file, before = ROOT / "infra/environments.yaml", copy.deepcopy(environments.DEFAULT_RESOURCES)
    cluster = environments.load("cluster", file)
    environments.load("laptop", file)
    assert environments.load("cluster", file) == cluster
    assert before == environments.DEFAULT_RESOURCES


def test_retries_last_as_long_as_the_attempts_may(compiled: Compiled) -> None:
    # Argo counts the longest duration from the start of the first attempt.
    spec, platform = load(compiled.file)
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    retried = 0
    for name, task in spec["root"]["dag"]["tasks"].items():
        policy = task.get("retryPolicy")
        if policy:
            retried += 1
            attempts = (policy["maxRetryCount"] + 1) * int(pods[f"exec-{name}"]["activeDeadlineSeconds"])
            assert float(policy["backoffMaxDuration"].removesuffix("s")) > attempts
    assert retried == 4


def test_the_pointer_is_read_from_the_store_that_fetch_pulls_from(compiled: Compiled) -> None:
    inputs = load(compiled.file)[0]["root"]["dag"]["tasks"]["pointer"]["inputs"]["parameters"]
    assert inputs["settings"] == {"componentInputParameter": "fetch"}
    assert inputs["defaults"]["runtimeValue"]["constant"]["endpoint_url"] == "http://s3.sa2net.svc:8333"


def test_an_impossible_combination_names_its_line(tmp_path: Path, lock: Path) -> None:
    params, recipe = tmp_path / "params.yaml", tmp_path / "recipe.yaml"
    params.write_text("train:\n  epochs: 3\n  device: cpu\n")
    recipe.write_text("evaluate:\n  scalse: [1.0]\n")
    with pytest.raises(ConfigError, match=r"train\.device is cpu \(.*params\.yaml line 3\)"):
        _compile(tmp_path, lock=lock, params=params)
    with pytest.raises(ConfigError, match=r"train\.device is cpu \(--set train\.device=cpu\)"):
        _compile(tmp_path, lock=lock, overrides=["train.device=cpu"])
    with pytest.raises(ConfigError, match=r"recipe\.yaml line 2: evaluate\.scalse is unknown"):
        _compile(tmp_path, lock=lock, params=params, recipe=recipe)


def test_a_gpu_environment_demands_the_gpu(compiled: Compiled) -> None:
    assert compiled.config.train.device == compiled.config.evaluate.device == "cuda"


def test_resources_are_merged_over_the_defaults_of_the_step(tmp_path: Path) -> None:
    file = _environment(tmp_path, lambda env: env.update(resources={"train": {"memory_limit": "64Gi"}}))
    train = environments.load("cluster", file).resources["train"]
    assert (train.memory_limit, train.retries, train.cpu_request) == ("64Gi", 3, "4")


def test_the_command_says_what_is_wrong_with_its_line(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text("train:\n  epochs: 3\n  epocs: 4\n")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.compile", "--params", str(params), "--out", str(tmp_path / "t.yaml")],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "line 3: train.epocs is unknown (did you mean epochs?)" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "components").glob("*.py")), ids=lambda file: file.stem)
def test_a_component_imports_the_standard_library_and_kfp_and_is_short(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names]
            roots = {name.partition(".")[0] for name in names}
            assert roots <= {"kfp", *sys.stdlib_module_names}, f"{file.name} imports {roots} at its top"
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(functions) == (file.stem != "__init__")
    for function in functions:
        first = function.body[1] if isinstance(function.body[0], ast.Expr) else function.body[0]
        assert (function.body[-1].end_lineno or 0) - first.lineno + 1 <= 25, f"the body of {file.name} is long"
        assert not [node for node in ast.walk(function) if isinstance(node, ast.Try)], "a component never catches"


def test_the_remote_of_this_checkout_is_used_where_the_environment_names_none() -> None:
    environment = environments.load("laptop", ROOT / "infra" / "environments.yaml")
    section = compiling.fetch_section(environment, str(ROOT / "data.dvc"))
    assert Path(section.remote) == ROOT / "starter"
