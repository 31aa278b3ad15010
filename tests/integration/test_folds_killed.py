"""Cross-validation as a user runs it: killed with SIGKILL in its second fold it goes on there; its model is used as any."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sa2net.artifacts import folder_sha256

SETTINGS = [
    "train.validate_every=1",
    "train.epochs=4",
    "train.sweep_width=48",
    "train.crops_per_scan=2",
    "train.augment.crop_height=64",
    "train.augment.crop_width=64",
    "train.model.channels=16",
    "train.device=cpu",
    "train.threads=1",
]


def command(*words: object, settings: bool = True) -> list[str]:
    chosen = [word for setting in SETTINGS for word in ("--set", setting)] if settings else []
    return [sys.executable, "-m", "sa2net", *map(str, words), *chosen]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "SA2NET"))}
    return kept | {"SA2NET_VAR": str(tmp_path / "var"), "OMP_NUM_THREADS": "1"}


@pytest.mark.long
def test_killed_folds_end_as_if_nothing_had_happened(
    shared_data_root: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    def call(*words: object, settings: bool = False) -> str:
        done = subprocess.run(
            command(*words, settings=settings),
            cwd=tmp_path,
            env=environment,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return done.stdout

    checked = tmp_path / "validate"
    call("validate", "--data", shared_data_root, "--out", checked)
    where = ["--data", shared_data_root, "--validation", checked, "--folds", 2]
    call("train", *where, "--out", tmp_path / "whole", "--checkpoints", tmp_path / "a", settings=True)

    again = ["train", *where, "--out", tmp_path / "cut", "--checkpoints", tmp_path / "b"]
    killed = subprocess.Popen(command(*again), cwd=tmp_path, env=environment, start_new_session=True)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "b").glob("*/fold-2/epoch-*.safetensors")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "model").exists()
    said = call(*again, settings=True)
    assert "going on after epoch" in said, said
    for name in ("model", "history.csv", "out_of_fold.csv"):
        whole, cut = tmp_path / "whole" / name, tmp_path / "cut" / name
        if whole.is_dir():
            assert folder_sha256(cut) == folder_sha256(whole)
        else:
            assert cut.read_bytes() == whole.read_bytes()

    model = tmp_path / "cut" / "model"
    call("evaluate", "--data", shared_data_root, "--model", model, "--out", tmp_path / "scores")
    floors = [f"register.floors.{name}=0" for name in ("mean", "rib", "thoracic_process", "lumbar_lump")]
    options = [word for setting in (*floors, "register.max_calibration_error=1") for word in ("--set", setting)]
    said = call("register", "--model", model, "--evaluation", tmp_path / "scores", *options)
    assert "models:/sa2net/1" in said
    scans = shared_data_root / "dataset" / "test"
    call("predict", scans, "--model", "models:/sa2net@champion", "--out", tmp_path / "masks")
    assert len(list((tmp_path / "masks").glob("*_bone_3.png"))) == 3
