"""The weights that come with the project: found, verified, the default while nothing was trained, a start for trainings."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from random_model import write_random_model
from ruamel.yaml import YAML
from serving_cases import register_champion

from sa2net.__main__ import main
from sa2net.artifacts import folder_sha256, read_model_info
from sa2net.config import Config, ModelConfig, TrainConfig
from sa2net.data.phantom import draw_phantom
from sa2net.data.pictures import read_mask, write_png
from sa2net.data.store.pull import parse_pointer, read_pointer
from sa2net.errors import ConfigError, StorageError
from sa2net.registry import ready, store
from sa2net.registry.starting import settled, starting_weights
from sa2net.registry.versions import default_model, resolve

MEBIBYTE = 2**20


@pytest.fixture(autouse=True)
def own_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was trained here."""
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "SA2NET_READY"):
        monkeypatch.delenv(name, raising=False)


def test_they_are_small_of_the_default_network_and_say_what_they_are() -> None:
    folder = resolve("ready")
    info = read_model_info(folder)
    assert ready.are_of(info.model)
    assert info.sweep_width == TrainConfig().sweep_width
    assert sum(file.stat().st_size for file in folder.iterdir()) < 40 * MEBIBYTE
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "phantoms" in card
    assert "Research use only" in card
    made = Config.load(Path(__file__).parents[2] / "recipes" / "pretrain.yaml").train
    # How many processes drew does not show in what was drawn.
    drawn = info.params["train"]["stream"] | {"workers": made.stream.workers}
    assert drawn == json.loads(made.stream.model_dump_json())
    for name in ("epochs", "crops_per_scan", "batch_size", "average_decay", "seed"):
        assert info.params["train"][name] == getattr(made, name)


def test_new_weights_make_new_trainings() -> None:
    """Their identity is code of the stage that starts from them."""
    root = Path(__file__).parents[2]
    assert parse_pointer(read_pointer(str(root / ready.POINTER))).md5 == ready.IDENTITY
    stage = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["train"]
    assert "sa2net/registry/ready.py" in stage["deps"]


def test_a_fresh_clone_segments_a_scan_it_has_never_seen(tmp_path: Path) -> None:
    phantom = draw_phantom(np.random.default_rng(77))
    write_png(tmp_path / "scan.png", phantom.scan)
    with pytest.raises(SystemExit) as ended:
        main(["predict", str(tmp_path / "scan.png"), "--out", str(tmp_path / "out"), "--set", "evaluate.device=cpu"])
    assert not ended.value.code
    said = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert said["model"]["name"] == "ready"
    mask = read_mask(tmp_path / "out" / "scan_bone_3.png")
    for class_id in (1, 2, 3):
        drawn, true = mask == class_id, phantom.mask == class_id
        assert 2 * (drawn & true).sum() / (drawn.sum() + true.sum()) > 0.75
    assert not (tmp_path / "var" / "mlflow.db").exists()


def test_what_was_registered_comes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert default_model() == "ready"
    assert "phantoms alone" in caplog.text
    write_random_model(tmp_path / "model")
    register_champion(store.connect(), tmp_path / "model", "sa2net")
    assert default_model() == "models:/sa2net@champion"


def test_damaged_copies_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the project whose remote gives other bytes."""
    shutil.copy(Path(__file__).parents[2] / ready.POINTER, tmp_path / ready.POINTER)
    shutil.copytree(Path(__file__).parents[2] / ready.REMOTE, tmp_path / ready.REMOTE)
    monkeypatch.setattr(ready.sa2net, "__file__", str(tmp_path / "sa2net" / "__init__.py"))
    resolve("ready")
    shutil.rmtree(tmp_path / "var")
    for file in (tmp_path / ready.REMOTE).rglob("*"):
        if file.is_file() and file.stat().st_size > MEBIBYTE:
            file.chmod(0o644)
            file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(StorageError):
        resolve("ready")


def test_elsewhere_they_are_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready.sa2net, "__file__", str(tmp_path / "sa2net" / "__init__.py"))
    with pytest.raises(ConfigError, match="not here"):
        resolve("ready")
    monkeypatch.setenv("SA2NET_READY", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="no model folder"):
        resolve("ready")
    write_random_model(tmp_path / "ready")
    monkeypatch.setenv("SA2NET_READY", str(tmp_path / "ready"))
    assert resolve("ready") == tmp_path / "ready"


def test_a_training_of_the_default_network_starts_from_them_and_no_other_does() -> None:
    cfg = settled(TrainConfig())
    weights, sha256 = starting_weights(cfg)
    assert weights is not None
    assert sha256 == folder_sha256(resolve("ready"))
    assert cfg.learning_rate == 5e-4
    for other in (ModelConfig(channels=16), ModelConfig(pretrained=True), ModelConfig(affinity="mean")):
        cfg = settled(TrainConfig(model=other))
        assert cfg.init_from == ""
        assert cfg.learning_rate == 2e-3
        assert starting_weights(cfg) == (None, "")
