"""From a scored model folder to a version, a decision and aliases, in a real registry."""

import base64
import io
import json
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from factories import draw_case, write_data_set
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image
from registry_cases import write_evaluation, write_model_folder

from sa2net.artifacts import PER_SCAN, folder_sha256, read_json, read_per_scan
from sa2net.config import EvaluateConfig, RegisterConfig
from sa2net.data.pictures import write_png
from sa2net.data.store import data_md5
from sa2net.errors import ConfigError, DataError, StorageError
from sa2net.inference.predictor import Predictor
from sa2net.registry import promotion, store, versions
from sa2net.registry.versions import resolve
from sa2net.steps import evaluate, register

BASE = np.clip(np.random.default_rng(0).normal(0.85, 0.03, (30, 3)), 0.0, 1.0)
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x93NUMPY")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One store for all tests: its tables take seconds to make. Each test uses a model name of its own."""
    folder = tmp_path_factory.mktemp("register")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
            patch.delenv(name, raising=False)
        patch.setenv("SA2NET_VAR", str(folder / "var"))
        yield folder


@pytest.fixture(scope="module")
def models(place: Path) -> list[Path]:
    return [write_model_folder(place / f"network-{seed}", seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def client(place: Path) -> MlflowClient:
    return store.connect()


@pytest.fixture
def cfg(request: pytest.FixtureRequest) -> RegisterConfig:
    return RegisterConfig(name=request.node.originalname.removeprefix("test_")[:60])


def numbers(client: MlflowClient, cfg: RegisterConfig) -> dict[str, int]:
    return {alias: int(number) for alias, number in client.get_registered_model(cfg.name).aliases.items()}


def count_versions(client: MlflowClient, cfg: RegisterConfig) -> int:
    return len(client.search_model_versions(f"name = '{cfg.name}'"))


def count_runs(client: MlflowClient) -> int:
    return len(client.search_runs([store.experiment_id(client)]))


def test_the_first_version_passes_on_the_floors_and_repeating_changes_nothing(
    place: Path, models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path
):
    scored = write_evaluation(tmp_path / "evaluation", models[0], BASE)
    result = register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out")
    assert (result.version, result.created, result.decided, result.verdict) == (1, True, True, "promote")
    assert result.aliases == ("champion", "candidate")
    version = client.get_model_version(cfg.name, "1")
    assert version.tags["model_sha256"] == folder_sha256(models[0])
    assert version.tags["dice_mean"] == f"{BASE.mean():.4f}"
    assert version.tags["data_md5"] == "0" * 32
    assert "| rib |" in version.description and "promote" in version.description
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(written) == {"decision.json", "run.json"}
    assert read_json(tmp_path / "out" / "run.json")["run_id"] == result.run_id

    runs, started = count_runs(client), time.monotonic()
    again = register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out")
    assert time.monotonic() - started < 6.0
    assert (again.version, again.created, again.decided, again.run_id) == (1, False, False, result.run_id)
    assert again.decision == result.decision
    assert (tmp_path / "out" / "decision.json").read_bytes() == written["decision.json"]
    assert count_runs(client) == runs
    assert count_versions(client, cfg) == 1


def test_nothing_in_a_version_is_pickled_or_names_this_machine(
    place: Path, models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path
):
    scored = write_evaluation(tmp_path / "evaluation", models[0], BASE)
    register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out")
    version = client.get_model_version(cfg.name, "1")
    with store.as_default(client.tracking_uri):
        package = Path(client.get_model_version_download_uri(cfg.name, version.version).removeprefix("file://"))
    files = [path for path in package.rglob("*") if path.is_file()]
    assert {"MLmodel", "pyfunc.py", "weights.safetensors", "requirements.txt"} <= {path.name for path in files}
    for path in files:
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".npy", ".npz", ".pyc", ".joblib"), path
        content = path.read_bytes()
        assert not content.startswith(PICKLES), path
        if path.suffix != ".safetensors" and "code" not in path.relative_to(package).parts[:1]:
            for secret in (str(place), str(Path(__file__).parents[2]), str(Path.home()) + "/", platform.node()):
                assert secret.encode() not in content, (path, secret)
    pins = (package / "requirements.txt").read_text().split()
    assert all("==" in pin and "+" not in pin for pin in pins)
    assert {pin.partition("==")[0] for pin in pins} >= {"torch", "timm", "safetensors", "mlflow", "pydantic"}


def test_the_champion_moves_only_when_the_gate_says_so(
    models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path
):
    def run(model: Path, dice: np.ndarray, name: str, cfg: RegisterConfig = cfg) -> register.RegisterResult:
        scored = write_evaluation(tmp_path / name, model, dice)
        return register.run(cfg, model=model, evaluation=scored, out=tmp_path / f"out-{name}")

    assert run(models[0], BASE, "first").verdict == "promote"
    assert numbers(client, cfg) == {"champion": 1, "candidate": 1}
    worse = run(models[1], BASE - 0.05, "worse")
    assert (worse.verdict, worse.version, worse.aliases) == ("refuse", 2, ("candidate",))
    assert numbers(client, cfg) == {"champion": 1, "candidate": 2}
    better = run(models[2], BASE + 0.03, "better")
    assert (better.verdict, better.version) == ("promote", 3)
    assert numbers(client, cfg) == {"champion": 3, "previous": 1, "candidate": 3}

    # The same weights with other scores: a run and a decision, never a version.
    runs = count_runs(client)
    again = run(models[2], BASE + 0.031, "again")
    assert (again.verdict, again.version, again.created, again.decided) == ("cannot tell", 3, False, True)
    assert count_runs(client) == runs + 1
    assert count_versions(client, cfg) == 3
    assert numbers(client, cfg) == {"champion": 3, "previous": 1, "candidate": 3}

    # Somebody goes back by hand; an old decision is not carried out a second time.
    client.set_registered_model_alias(cfg.name, "champion", "1")
    run(models[2], BASE + 0.031, "again")
    assert numbers(client, cfg)["champion"] == 1


def test_promotion_can_be_switched_off(models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path):
    scored = write_evaluation(tmp_path / "evaluation", models[0], BASE)
    off = cfg.model_copy(update={"promote": False})
    result = register.run(off, model=models[0], evaluation=scored, out=tmp_path / "out")
    assert (result.verdict, result.aliases) == ("promote", ("challenger", "candidate"))
    with pytest.raises(StorageError, match="make run"):
        resolve(f"models:/{cfg.name}@champion")
    assert register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out").aliases == (
        "champion",
        "candidate",
    )


INTERRUPTED_AT = (
    "create_logged_model",
    "log_model_artifacts",
    "finalize_logged_model",
    "create_model_version",
    "log_dict",
    "update_model_version",
    "set_model_version_tag",
    "set_registered_model_alias",
)


@pytest.mark.parametrize("method", INTERRUPTED_AT)
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_interrupted(
    method: str,
    before: bool,
    models: list[Path],
    client: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    cfg = RegisterConfig(name=f"interrupted-{method}-{before}")
    scored = write_evaluation(tmp_path / "evaluation", models[0], BASE)
    real = getattr(MlflowClient, method)

    def interrupted(self, *arguments, **named):
        if not before:
            real(self, *arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, interrupted)
        with pytest.raises(KeyboardInterrupt):
            register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out")
    result = register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out")
    assert (result.version, result.aliases) == (1, ("champion", "candidate"))
    assert count_versions(client, cfg) == 1
    assert numbers(client, cfg) == {"champion": 1, "candidate": 1}
    assert register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out").decided is False


def test_a_champion_scored_on_other_data_is_scored_again(
    place: Path, models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path
):
    free = cfg.model_copy(
        update={"floors": cfg.floors.model_copy(update=dict.fromkeys(type(cfg.floors).model_fields, 0.0))}
    )
    old = write_evaluation(tmp_path / "old", models[0], BASE, data_md5="1" * 32)
    assert register.run(free, model=models[0], evaluation=old, out=tmp_path / "out").verdict == "promote"
    data = write_data_set(tmp_path / "data", test=6)
    today = tmp_path / "today"
    evaluate.run(EvaluateConfig(overlays=0), data=data, model=models[1], out=today, progress=False)
    with pytest.raises(ConfigError, match="--data"):
        register.run(free, model=models[1], evaluation=today, out=tmp_path / "out")
    result = register.run(free, model=models[1], evaluation=today, out=tmp_path / "out", data=data)
    assert (result.version, result.decided) == (2, True)
    assert result.verdict in ("promote", "refuse", "cannot tell")
    expected = evaluate.run(
        EvaluateConfig(overlays=0), data=data, model=models[0], out=tmp_path / "own", progress=False
    )
    mean = next(row for row in result.decision["table"] if row["subject"] == "mean")
    assert mean["champion"] == pytest.approx(expected.scores.mean.dice.value, abs=1e-5)
    # The new scores stay with the champion: nobody has to score it on this data again.
    champion = client.get_model_version(cfg.name, "1")
    kept = client.download_artifacts(champion.tags["scored_run"], champion.tags["scored_path"], str(tmp_path))
    assert read_per_scan(Path(kept) / PER_SCAN) == read_per_scan(tmp_path / "own" / PER_SCAN)
    assert data_md5(data) == expected.scores.data_md5


def test_an_evaluation_of_another_model_is_refused_before_anything_is_written(
    models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path
):
    scored = write_evaluation(tmp_path / "evaluation", models[0], BASE)
    with pytest.raises(DataError, match="not an evaluation of this model"):
        register.run(cfg, model=models[1], evaluation=scored, out=tmp_path / "out")
    with pytest.raises(DataError, match="not a model folder"):
        register.run(cfg, model=tmp_path / "nothing", evaluation=scored, out=tmp_path / "out")
    with pytest.raises(MlflowException):
        client.get_registered_model(cfg.name)
    assert not (tmp_path / "out").exists()


def test_runs_named_beside_the_folders_are_tags_of_the_version(
    models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path
):
    scored = write_evaluation(tmp_path / "evaluation", models[0], BASE)
    (tmp_path / "evaluation" / "run.json").write_text(json.dumps({"step": "evaluate", "run_id": "e" * 32}))
    register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out")
    tags = client.get_model_version(cfg.name, "1").tags
    assert (tags["evaluation_run"], tags["training_run"]) == ("e" * 32, "")


@pytest.mark.parametrize(
    ("evaluators", "notes"), [(("1" * 64, "2" * 64), 1), (("1" * 64, "1" * 64), 0), (("", "2" * 64), 0)]
)
def test_scores_by_other_code_are_noted(
    evaluators: tuple[str, str],
    notes: int,
    models: list[Path],
    client: MlflowClient,
    cfg: RegisterConfig,
    tmp_path: Path,
):
    cfg = cfg.model_copy(update={"name": f"other-code-{notes}-{len(evaluators[0])}"})
    for model, dice, evaluator in zip(models, (BASE, BASE + 0.03), evaluators, strict=False):
        scored = write_evaluation(tmp_path / model.name, model, dice)
        said = {"step": "evaluate", "evaluator_sha256": evaluator}
        (scored / "run.json").write_text(json.dumps(said))
        result = register.run(cfg, model=model, evaluation=scored, out=tmp_path / "out")
    found = [reason["text"] for reason in result.decision["reasons"] if reason["check"] == "note"]
    assert result.verdict == "promote"
    assert len(found) == notes
    assert all("version 1 was scored by other code (111111111111) than version 2" in text for text in found)


def test_addresses_become_folders(models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path):
    scored = write_evaluation(tmp_path / "evaluation", models[0], BASE)
    register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out")
    for address in (f"models:/{cfg.name}@champion", f"models:/{cfg.name}/1"):
        folder = resolve(address)
        assert folder_sha256(folder) == folder_sha256(models[0])
        assert folder.is_relative_to(store.var_folder() / "models")
    assert resolve(str(models[0])) == models[0]
    for absent in (f"models:/{cfg.name}@nobody", f"models:/{cfg.name}/7", "models:/nobody@champion"):
        with pytest.raises(StorageError, match="there is no"):
            resolve(absent)
    for wrong in ("models:/", f"models:/{cfg.name}", f"models:/{cfg.name}/x", str(tmp_path)):
        with pytest.raises(ConfigError):
            resolve(wrong)


def test_a_version_that_was_tampered_with_is_not_used(
    models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path
):
    other = write_model_folder(tmp_path / "network", seed=11)
    scored = write_evaluation(tmp_path / "evaluation", other, BASE)
    register.run(cfg, model=other, evaluation=scored, out=tmp_path / "out")
    with store.as_default(client.tracking_uri):
        package = Path(client.get_model_version_download_uri(cfg.name, "1").removeprefix("file://"))
    weights = package / "artifacts" / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StorageError, match="not what was registered"):
        resolve(f"models:/{cfg.name}@champion")


FRESH = """
import json, sys
import mlflow, pandas as pd
from mlflow.exceptions import MlflowException
name, store, scan, out = sys.argv[1:]
mlflow.set_tracking_uri(store)
model = mlflow.pyfunc.load_model(f"models:/{name}@champion")
text = open(scan).read()
found = {"table": model.predict(pd.DataFrame({"image": [text, text]})).to_dict("records")}
found["spacing"] = model.predict(
    pd.DataFrame({"image": [text], "spacing_x_mm": [0.4], "spacing_y_mm": [0.4]})
).to_dict("records")
served = model.unwrap_python_model()
found["list"] = served.predict(None, [text]).to_dict("records")
found["faults"] = []
for image in ("", "no base64!", "aGVsbG8=", text[: len(text) // 2 // 4 * 4]):
    try:
        model.predict(pd.DataFrame({"image": [text, image]}))
        found["faults"].append("none")
    except MlflowException as error:
        found["faults"].append(f"{error.error_code} {error}")
try:
    model.predict(pd.DataFrame({"image": [text], "spacing_x_mm": [-1.0], "spacing_y_mm": [1.0]}))
except MlflowException as error:
    found["faults"].append(f"{error.error_code} {error}")
json.dump(found, open(out, "w"))
"""


def test_a_fresh_process_predicts_the_same_mask(
    models: list[Path], client: MlflowClient, cfg: RegisterConfig, tmp_path: Path
):
    scored = write_evaluation(tmp_path / "evaluation", models[0], BASE)
    register.run(cfg, model=models[0], evaluation=scored, out=tmp_path / "out")
    scan, _ = draw_case(3)
    write_png(tmp_path / "scan.png", scan)
    (tmp_path / "scan.txt").write_text(base64.b64encode((tmp_path / "scan.png").read_bytes()).decode())
    arguments = [cfg.name, client.tracking_uri, str(tmp_path / "scan.txt"), str(tmp_path / "found.json")]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = read_json(tmp_path / "found.json")
    expected = Predictor.for_settings(models[0], EvaluateConfig())(scan)
    rows = [*found["table"], *found["list"]]
    assert len(rows) == 3
    for row in rows:
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(row["mask"]))))
        np.testing.assert_array_equal(mask, expected)
        assert (row["height"], row["width"]) == scan.shape
        assert row["rib_px"] == int((expected == 1).sum())
        assert row["model_sha256"] == folder_sha256(models[0])
        assert len(row["warnings"]) == sum(not (expected == label).any() for label in (1, 2, 3))
    [spaced] = found["spacing"]
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(spaced["mask"]))))
    np.testing.assert_array_equal(mask, Predictor.for_settings(models[0], EvaluateConfig())(scan, (0.4, 0.4)))
    assert len(found["faults"]) == 5
    for fault in found["faults"]:
        assert fault.startswith("INVALID_PARAMETER_VALUE row "), fault


RACE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from sa2net.config import RegisterConfig
from sa2net.steps import register
model, evaluation, out = map(Path, sys.argv[2:])
print(register.run(RegisterConfig(), model=model, evaluation=evaluation, out=out).version)
"""


def test_two_processes_and_an_empty_registry_make_one_version(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    scored = write_evaluation(tmp_path / "evaluation", models[0], BASE)
    command = [sys.executable, "-c", RACE, str(Path(__file__).parents[1]), str(models[0]), str(scored)]
    racing = [
        subprocess.Popen(
            [*command, str(tmp_path / f"out-{index}")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for index in range(2)
    ]
    for process in racing:
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert output.strip() == "1"
    first, second = ((tmp_path / f"out-{index}" / "decision.json").read_bytes() for index in range(2))
    assert first == second
    assert len(store.connect().search_model_versions("name = 'sa2net'")) == 1
    client = store.connect()
    assert versions.find_version(client, "sa2net", folder_sha256(models[0])).number == 1
    assert promotion.with_alias(client, "sa2net", "champion").number == 1
