"""Small versions of benchmarks whose tables the documentation holds: they fail where the machinery breaks."""

import argparse
import re
from pathlib import Path

import pytest
import torch
from random_model import write_random_model

from benchmarks import ready, saturation, train_step
from sa2net.config import ModelConfig


@pytest.fixture(autouse=True)
def _threads_kept():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_step_of_the_default_takes_less_work_than_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"backbone": "resnet10t", "batch": 1, "size": 64, "channels": ModelConfig().channels}
    args = argparse.Namespace(**sizes, threads=1, warm=0, steps=1, device="cpu")
    rows = {name: [train_step.measure(name, args)] for name in train_step.SETTINGS}
    work = {name: found[0]["work"] for name, found in rows.items()}
    assert work["default"] < work["default, recompute"] < 0.2 * work["released"]
    train_step.print_table(rows, args)
    printed = capsys.readouterr().out.splitlines()
    assert [line[:20].strip() for line in printed[1:]] == list(train_step.SETTINGS)
    assert re.search(r"1\.00 +\d+ +1\.00", printed[1])


def test_the_published_affinity_saturates_and_the_default_does_not() -> None:
    args = argparse.Namespace(seed=0, backbone="resnet10t", channels=16)
    published, mended = (list(saturation.training(kind, 64, 1, args)) for kind in ("released", "normalised"))
    assert len(published) == len(mended) == 2  # fresh weights, and after one step
    assert published[0].affinity < 0.5 * mended[0].affinity
    assert published[0].affinity_one_hot > mended[0].affinity_one_hot
    assert 0 < published[0].gradient_norm < mended[0].gradient_norm


def test_weights_are_scored_on_seen_and_held_out_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "CACHE", tmp_path / "arms")
    monkeypatch.setattr(ready, "SCANS", 2)
    model = tmp_path / "model"
    write_random_model(model)
    head, _, seen, held_out = ready.scored(model).splitlines()
    assert "| rib | thoracic process | lumbar lump | mean |" in head
    assert seen.startswith("| families of the pretraining | 2 | 0.")
    assert re.match(r"\| held-out families \(shadow, sweep_gap\) \| [12] \| 0\.", held_out)
