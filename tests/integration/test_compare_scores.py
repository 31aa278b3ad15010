"""Two sets of scores side by side, of which one or both come from label maps of another program."""

from pathlib import Path

import numpy as np
import pytest
from factories import write_data_set
from registry_cases import write_model_folder

from sa2net.config import EvaluateConfig
from sa2net.data.layout import read_cases
from sa2net.data.pictures import read_mask, write_png
from sa2net.errors import ConfigError
from sa2net.steps import compare, evaluate, score_masks

CFG = EvaluateConfig(bootstrap_samples=200, overlays=0, threads=1, device="cpu", flip=False)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    return write_data_set(tmp_path / "data", train=1, test=8)


def scored(data: Path, out: Path, rows: int) -> Path:
    """The scores of label maps that lie `rows` px too low."""
    masks = out.with_name(f"{out.name}-masks")
    for case in read_cases(data, ["test"]):
        write_png(masks / f"{case.name}.png", np.roll(read_mask(case.mask), rows, axis=0))
    score_masks.run(CFG, data=data, masks=masks, out=out, progress=False)
    return out


def test_label_maps_of_two_programs(data: Path, tmp_path: Path) -> None:
    first, second = scored(data, tmp_path / "first", 3), scored(data, tmp_path / "second", 1)
    result = compare.run(CFG, first=str(first), second=str(second), data=None, out=tmp_path / "out", progress=False)
    table = {row["subject"]: row for row in result.document["table"]}
    assert table["mean"]["says"] == "B better"
    assert table["mean"]["difference"]["low"] > 0
    assert result.document["inference"] == {"source": "label maps"}
    assert result.document["first"]["label"].startswith("label maps ")
    assert result.pictures == 0


def test_a_model_against_label_maps(data: Path, tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model", seed=0)
    masks = scored(data, tmp_path / "masks", 1)
    own = evaluate.score_model(CFG, data=data, model=model, out=tmp_path / "own", progress=False)
    kept = compare.run(
        CFG, first=str(own.out), second=str(masks), data=data, out=tmp_path / "kept", progress=False
    ).document
    assert kept["scored"] == "Scores that are kept of both."
    assert kept["inference"]["A"].startswith("flip False, mode whole")
    assert kept["inference"]["B"] == "source label maps"
    now = compare.run(CFG, first=str(model), second=str(masks), data=data, out=tmp_path / "now", progress=False)
    assert now.document["scored"].startswith("One was scored for this page")
    assert now.document["table"] == kept["table"]
    page = now.page.read_text(encoding="utf-8")
    assert "source label maps" in page


def test_scores_of_other_scans_are_refused(data: Path, tmp_path: Path) -> None:
    model = write_model_folder(tmp_path / "model", seed=0)
    masks = scored(data, tmp_path / "masks", 1)
    other = write_data_set(tmp_path / "other", train=1, test=5, seed=4)
    with pytest.raises(ConfigError, match="other scans than --data"):
        compare.run(CFG, first=str(model), second=str(masks), data=other, out=tmp_path / "out", progress=False)
    elsewhere = scored(other, tmp_path / "elsewhere", 1)
    with pytest.raises(ConfigError, match="not scored on the same scans"):
        compare.run(CFG, first=str(masks), second=str(elsewhere), data=None, out=tmp_path / "out", progress=False)
