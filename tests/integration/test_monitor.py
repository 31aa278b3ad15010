"""`sa2net monitor` as a user calls it: alike scans, other gain, too few, bad files, devices of `scans.csv`."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from dicom_cases import make_dicom, write_dicom
from factories import draw_case
from random_model import write_random_model

from sa2net.__main__ import main
from sa2net.data.layout import write_png

COUNT = 10
FEW = ("in", "gain_1.png")  # scans that need no more than a few to be held against


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, reference scans, scans of the same kind, and the same with another gain."""
    place = tmp_path_factory.mktemp("monitor")
    write_random_model(place / "model")
    for index in range(COUNT):
        write_png(place / "old" / f"old_{index}.png", draw_case(index)[0])
        scan = draw_case(100 + index)[0]
        write_png(place / "same" / f"same_{index}.png", scan)
        gained = np.where(scan > 0, np.clip(scan * 0.5, 12, 255), 0).astype(np.uint8)
        write_png(place / "gain" / f"gain_{index}.png", gained)
    return place


def run(root: Path, scans: Path, out: Path, *more: object) -> int:
    few = (
        ["--reference-scans", root / "old" / "old_[0-3].png"]
        if scans.name in FEW
        else ["--reference-scans", root / "old"]
    )
    given = ["--reference", root / "model", *few, "--scans", scans, "--out", out, *more]
    with pytest.raises(SystemExit) as ended:
        main(["monitor", "--quiet", *map(str, given), "--set", "evaluate.device=cpu", "--set", "evaluate.flip=false"])
    return int(ended.value.code or 0)


def said(out: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((out / "monitor.json").read_text(encoding="utf-8"))
    return content


def test_scans_of_the_same_kind_show_no_drift_and_the_same_bytes(root: Path, tmp_path: Path) -> None:
    for place in ("a", "b"):
        assert run(root, root / "same", tmp_path / place) == 0
    assert said(tmp_path / "a")["verdict"] == "no drift found"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["monitor.csv", "monitor.html", "monitor.json"]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    with (tmp_path / "a" / "monitor.csv").open(encoding="utf-8", newline="") as stream:
        sides = [row["side"] for row in csv.DictReader(stream)]
    assert sides == ["reference"] * COUNT + ["new"] * COUNT


def test_another_gain_is_drift(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, root / "gain", tmp_path) == 1
    assert "grey_mean" in capsys.readouterr().err
    assert said(tmp_path)["verdict"] == "drift"


def test_dicom_scans_are_read(root: Path, tmp_path: Path) -> None:
    for index in range(COUNT):
        write_dicom(tmp_path / "dicom" / f"same_{index}.dcm", make_dicom(draw_case(100 + index)[0]))
    for place, scans in (("a", root / "same"), ("b", tmp_path / "dicom")):
        assert run(root, scans, tmp_path / place) == 0
    assert (tmp_path / "a" / "monitor.csv").read_bytes() == (tmp_path / "b" / "monitor.csv").read_bytes()


def test_few_scans_cannot_tell(root: Path, tmp_path: Path) -> None:
    assert run(root, root / "gain" / "gain_1.png", tmp_path) == 0
    assert said(tmp_path)["verdict"] == "cannot tell"


def test_a_bad_scan_is_named_and_the_others_are_compared(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    write_png(tmp_path / "black.png", np.zeros((60, 40), np.uint8))
    assert run(root, root / "gain", tmp_path / "out", "--scans", tmp_path / "*.png") == 3
    error = capsys.readouterr().err
    assert "2 scans could not be used; of the others: drift" in error
    assert "not a PNG" in error
    assert said(tmp_path / "out")["failed"] == 2


def test_devices_come_from_scans_csv_or_from_the_option(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_png(folder / "one.png", draw_case(300)[0])
    write_png(folder / "two.png", draw_case(301)[0])
    (folder / "scans.csv").write_text("name,subject,device,spacing_x_mm,spacing_y_mm\none,s,alpha,,\n")
    assert run(root, folder, tmp_path / "out", "--device", "beta") == 0
    devices = said(tmp_path / "out")["devices"]
    assert isinstance(devices, list)
    assert [(item["device"], item["known"]) for item in devices] == [("alpha", False), ("beta", False)]


@pytest.mark.parametrize("given", [("--alpha", "0"), ("--alpha", "1.5"), ("--min-scans", "1")])
def test_a_test_that_cannot_be_is_refused(root: Path, tmp_path: Path, given: tuple[str, str]) -> None:
    assert run(root, root / "same", tmp_path / "out", *given) == 2
    assert not (tmp_path / "out").exists()


def test_scans_are_not_held_against_themselves(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, root / "old", tmp_path) == 3
    assert "new and reference at once" in capsys.readouterr().err
