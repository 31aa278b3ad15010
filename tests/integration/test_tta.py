"""The benchmark of test-time averaging: its grid, its table, and numbers that are those of the predictor."""

import math
from pathlib import Path

import numpy as np
import pytest
from factories import write_data_set
from random_model import write_random_model

from benchmarks import tta
from sa2net.config import EvaluateConfig
from sa2net.data.layout import read_cases
from sa2net.data.pictures import read_mask, read_scan
from sa2net.evaluation.metrics import mean_over_classes, score_scan
from sa2net.inference.predictor import Predictor


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tta")
    write_random_model(folder / "model")
    write_data_set(folder / "data", train=0, test=3)
    return folder


def test_the_grid_holds_the_default_and_every_combination_once() -> None:
    assert tta.DEFAULT in tta.GRID
    assert len(set(tta.GRID)) == len(tta.GRID) == 12
    assert {setting.passes for setting in tta.GRID} == {1, 2, 3, 6, 12}
    assert tta.DEFAULT.flip == EvaluateConfig().flip


def test_the_numbers_are_those_of_the_predictor(place: Path) -> None:
    setting = tta.Setting("whole", (1.0, 1.5), True)
    found = tta.measure(setting, place / "model", place / "data", "test", 1, 2)
    predictor = Predictor.load(place / "model", scales=(1.0, 1.5), flip=True, device="cpu", threads=1)
    case = read_cases(place / "data", ["test"])[1]
    scores = score_scan(
        predictor(read_scan(case.scan), case.spacing_mm),
        read_mask(case.mask),
        spacing_mm=None,
        tolerance_mm=1,
        tolerance_px=3,
    )
    assert len(found.dice) == len(found.seconds) == 2
    assert found.dice[1] == mean_over_classes(scores, "dice")
    assert min(*found.seconds, *found.cpu_seconds) > 0
    assert found.peak_mb > 50


def test_a_row_shows_the_gain_and_the_cost() -> None:
    default = tta.Measured((0.5, 0.6, math.nan), (1.0, 2.0, 3.0), (2.0, 4.0, 6.0), 300.0)
    better = tta.Measured((0.6, 0.7, math.nan), (4.0, 4.0, 5.0), (6.0, 8.0, 12.0), 450.4)
    line = tta.row(tta.Setting("sliding", tta.RELEASED_SCALES, False), better, default, ["a", "b", "c"])
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["sliding", "six", "no", "6", "0.6500", "+0.1000 (+0.1000 to +0.1000)", "4.00", "2.00", "450"]
    assert "| - |" in tta.row(tta.DEFAULT, default, default, ["a", "b", "c"])


def test_the_table_has_a_row_a_setting(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tta, "GRID", (tta.DEFAULT, tta.Setting("sliding", (1.0,), False)))
    tta.main(["--model", str(place / "model"), "--data", str(place / "data"), "--threads", "1", "--limit", "2"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 scans of test, 2 subjects")
    rows = [line.split("|") for line in said[4:]]
    assert [line[1].strip() for line in rows] == ["whole", "sliding"]
    assert all(0 <= float(line[5]) <= 1 for line in rows)
    assert np.isfinite([float(line[7]) for line in rows]).all()
