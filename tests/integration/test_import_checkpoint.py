"""`sa2net import-checkpoint` as a user calls it, and what can be done with the folder then."""

import json
from pathlib import Path

import pytest
import torch
from factories import draw_case, write_data_set
from released_cases import released, save, three_colours

from sa2net.__main__ import main
from sa2net.artifacts import read_model_info, read_scores
from sa2net.data.pictures import read_mask, write_png


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def test_an_imported_checkpoint_predicts_and_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "iter_160000.pth", released(three_colours("resnet50c"), "resnet"))
    out = tmp_path / "released" / "model"
    options = ("--sweep-width", 48, "--spacing", 0.4, 0.4, "--heads", 4, "--mean", "123.675,116.28,103.53")
    assert run("import-checkpoint", path, "--out", out, *options, "--std", "58.395,57.12,57.375") == 0
    said = capsys.readouterr().out
    assert f"resnet50c written to {out}" in said
    assert "at the edge of the picture the first layer differs by up to" in said
    info = read_model_info(out)
    assert (info.sweep_width, info.spacing_mm) == (48, (0.4, 0.4))
    write_png(tmp_path / "scan.png", draw_case(1)[0])
    slide = ("--set", "evaluate.mode=sliding")  # windows of the published crops
    cpu = ("--set", "evaluate.device=cpu", "--quiet")
    assert run("predict", tmp_path / "scan.png", "--model", out, "--out", tmp_path / "masks", *cpu, *slide) == 0
    assert read_mask(tmp_path / "masks" / "scan_bone_3.png").shape == (256, 96)
    assert json.loads((tmp_path / "masks" / "scan.json").read_text())["model"]["data_md5"] == "unknown"
    data = write_data_set(tmp_path / "data", train=2, test=2)
    few = ("--set", "evaluate.bootstrap_samples=100", *cpu)
    assert run("evaluate", "--model", out, "--data", data, "--out", tmp_path / "evaluation", *few) == 0
    assert read_scores(tmp_path / "evaluation" / "scores.json").mean.dice is not None


def test_a_file_that_cannot_be_used_gives_the_exit_code_of_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {"backbone.stem.0.weight": torch.ones(1)}}, tmp_path / "a.pth")
    assert run("import-checkpoint", tmp_path / "a.pth", "--out", tmp_path / "model") == 3
    assert "the checkpoint is not one of the released code" in capsys.readouterr().err
    assert run("import-checkpoint", tmp_path / "a.pth", "--out", tmp_path / "model", "--mean", "x") == 2
    assert "--mean is 'x'" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
