"""`sa2net predict` as a user calls it: files, folders, globs, and bad files among good ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from factories import draw_case
from PIL import Image
from random_model import write_random_model

from sa2net.__main__ import main
from sa2net.data.pictures import write_png
from sa2net.registry import store
from sa2net.registry.versions import register_version


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    write_random_model(folder)
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    for seed in (1, 2):
        write_png(folder / f"scan {seed}.png", draw_case(seed, 96 + seed, 256)[0])
    return folder


def predict(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "--quiet", "--set", "evaluate.device=cpu", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_a_folder_gives_a_mask_an_overlay_and_a_json_each(model: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert predict(scans, "--model", model, "--out", out, "--spacing", 0.4, 0.5) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        f"scan {seed}{suffix}" for seed in (1, 2) for suffix in (".json", "_bone_3.png", "_overlay.png")
    ]
    mask = np.array(Image.open(out / "scan 2_bone_3.png"))
    assert mask.shape == (256, 98)
    described = json.loads((out / "scan 2.json").read_text())
    assert described["schema_version"] == 1
    assert described["intended_use"] == "research only"
    assert sum(entry["pixels"] for entry in described["classes"].values()) == mask.size
    for entry in described["classes"].values():
        assert entry["pixels"] == int((mask == entry["id"]).sum())
        assert entry["area_mm2"] == pytest.approx(entry["pixels"] * 0.2)


def test_results_in_the_same_folder_are_not_predicted_again(model: Path, scans: Path) -> None:
    assert predict(scans, "--model", model, "--out", scans) == 0
    assert predict(scans, "--model", model, "--out", scans) == 0
    assert len(list(scans.iterdir())) == 8


def test_a_mask_that_somebody_drew_is_never_replaced(
    model: Path, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = scans / "scan 2_bone_3.png"
    write_png(drawn, np.full((256, 98), 2, np.uint8))
    before = drawn.read_bytes()
    assert predict(scans, "--model", model, "--out", scans) == 3
    assert "no earlier prediction wrote" in (said := capsys.readouterr().err) and drawn.name in said
    assert drawn.read_bytes() == before
    assert len(list(scans.iterdir())) == 3
    write_png(
        scans / "scan 2_overlay.png", np.zeros((256, 98), np.uint8)
    )  # a prediction that was killed before its JSON
    assert predict(scans, "--model", model, "--out", scans) == 0
    assert drawn.read_bytes() != before


def test_a_bad_file_is_named_and_the_others_are_done(
    model: Path, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (scans / "broken.png").write_bytes((scans / "scan 1.png").read_bytes()[:500])
    (scans / "empty.png").touch()
    assert predict(f"{scans}/*.png", "--model", model, "--out", tmp_path / "out") == 3
    message = capsys.readouterr().err
    assert "2 of 4 scans could not be segmented" in message
    assert "broken.png" in message
    assert "empty.png" in message
    assert (tmp_path / "out" / "scan 1_bone_3.png").exists()
    assert (tmp_path / "out" / "scan 2_bone_3.png").exists()
    assert not list((tmp_path / "out").glob("broken*"))


def test_equal_names_from_two_folders_do_not_overwrite_each_other(model: Path, scans: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_png(other / "scan 1.png", draw_case(9)[0])
    assert predict(scans / "scan 1.png", other / "scan 1.png", "--model", model, "--out", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"scans_scan 1.json", "other_scan 1.json"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere.png"], 3, "names no scan"),
        ([".", "--spacing", "nan", "1"], 2, "spacing cannot be right"),
        ([".", "--spacing", "0", "1"], 2, "spacing cannot be right"),
        ([], 2, "Missing argument"),
    ],
)
def test_what_cannot_be_done_says_why(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert predict(*arguments, "--model", model, "--out", tmp_path / "out") == code
    assert words in capsys.readouterr().err


def test_a_registry_without_champion_says_what_to_do(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SA2NET_VAR", str(tmp_path / "var"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_random_model(tmp_path / "refused")
    client = store.connect()
    run = client.create_run(store.experiment_id(client))
    register_version(client, tmp_path / "refused", name="sa2net", run_id=run.info.run_id, tags={})
    assert predict(scans, "--out", tmp_path / "out") == 5
    assert "make run" in capsys.readouterr().err
