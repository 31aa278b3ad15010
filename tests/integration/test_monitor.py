"""`sa2net monitor` as a user calls it: alike scans, other gain, no reference, too few, bad files, devices."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from dicom_cases import make_dicom, write_dicom
from factories import draw_case, write_data_set
from random_model import write_random_model

from sa2net.__main__ import main
from sa2net.artifacts import read_model_info, read_weights, write_model
from sa2net.data.layout import read_cases
from sa2net.data.pictures import write_png
from sa2net.evaluation.reference import describe_training
from sa2net.inference.device import set_threads

COUNT = 8


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with and one without a reference, scans of the same kind, and the same with another gain."""
    place = tmp_path_factory.mktemp("monitor")
    set_threads(1)  # quicker, for a network so small
    write_random_model(place / "bare")
    cases = read_cases(write_data_set(place / "data", train=4, val=COUNT, test=0), ("train", "val"))
    info, weights = read_model_info(place / "bare"), read_weights(place / "bare")
    reference = describe_training(info, [(weights, cases[4:])], cases[:4], device="cpu", progress=False)
    write_model(place / "model", info, weights, reference)
    for index in range(COUNT):
        scan = draw_case(100 + index)[0]
        write_png(place / "same" / f"same_{index}.png", scan)
        gained = np.where(scan > 0, np.clip(scan * 0.5, 12, 255), 0).astype(np.uint8)
        write_png(place / "gain" / f"gain_{index}.png", gained)
    (place / "same" / "scans.csv").write_text(
        "name,subject,device,spacing_x_mm,spacing_y_mm\n"
        + "".join(f"same_{index},s{index},factory,0.4,0.4\n" for index in range(COUNT))
    )
    return place


def run(root: Path, scans: Path, out: Path, *more: object, model: str = "model") -> int:
    given = ["--reference", root / model, "--scans", scans, "--out", out, "--device", "factory", "--min-scans", COUNT]
    cheap = ["--set", "evaluate.device=cpu", "--set", "evaluate.threads=1"]
    with pytest.raises(SystemExit) as ended:
        main(["monitor", "--quiet", *map(str, given), *cheap, *map(str, more)])
    return int(ended.value.code or 0)


def said(out: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((out / "monitor.json").read_text(encoding="utf-8"))
    return content


def test_scans_of_the_same_kind_show_no_drift_and_the_same_bytes(root: Path, tmp_path: Path) -> None:
    for place in ("a", "b"):
        assert run(root, root / "same", tmp_path / place) == 0
    answer = said(tmp_path / "a")
    assert (answer["verdict"], answer["reference"], answer["reference_scans"]) == ("no drift found", "model folder", 12)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["monitor.csv", "monitor.html", "monitor.json"]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    with (tmp_path / "a" / "monitor.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["side"] for row in csv.DictReader(stream)] == ["new"] * COUNT


def test_another_gain_is_drift(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, root / "gain", tmp_path) == 1
    assert "grey_mean" in capsys.readouterr().err
    assert said(tmp_path)["verdict"] == "drift"


def test_named_scans_stand_for_the_reference(root: Path, tmp_path: Path) -> None:
    """The validation scans by name: signals of the network are held against the same values as with the model's own."""
    named = ("--reference-scans", root / "data" / "dataset" / "val")
    assert run(root, root / "same", tmp_path / "own") == 0
    assert run(root, root / "same", tmp_path / "named", *named, model="bare") == 0
    own, given = ({(row["signal"]): row for row in said(tmp_path / name)["signals"]} for name in ("own", "named"))  # type: ignore[attr-defined]
    for signal in ("entropy", "pairs", "refused", "area_rib"):
        assert own[signal]["reference"] == given[signal]["reference"]
    assert (len(own["grey_mean"]["reference"]), len(given["grey_mean"]["reference"])) == (12, COUNT)
    assert said(tmp_path / "named")["reference"] == "given scans"
    with (tmp_path / "named" / "monitor.csv").open(encoding="utf-8", newline="") as stream:
        assert [row["side"] for row in csv.DictReader(stream)] == ["reference"] * COUNT + ["new"] * COUNT


def test_a_model_without_a_reference_says_what_to_do(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, root / "same", tmp_path / "out", model="bare") == 3
    error = capsys.readouterr().err
    assert "holds no reference" in error
    assert "--reference-scans" in error
    assert not (tmp_path / "out").exists()


def test_settings_other_than_those_of_the_reference_are_refused(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, root / "same", tmp_path / "out", "--set", "evaluate.flip=false") == 2
    assert "flip True there, False here" in capsys.readouterr().err


def test_dicom_scans_are_read(root: Path, tmp_path: Path) -> None:
    for index in range(2):
        scan = draw_case(200 + index)[0]
        write_dicom(tmp_path / "dicom" / f"scan_{index}.dcm", make_dicom(scan))
        write_png(tmp_path / "png" / f"scan_{index}.png", scan)
    for place in ("png", "dicom"):
        assert run(root, tmp_path / place, tmp_path / "out" / place) == 0
    tables = [(tmp_path / "out" / place / "monitor.csv").read_bytes() for place in ("png", "dicom")]
    assert tables[0] == tables[1]


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
    assert run(root, folder, tmp_path / "out") == 0
    devices = said(tmp_path / "out")["devices"]
    assert isinstance(devices, list)
    assert [(item["device"], item["known"]) for item in devices] == [("alpha", False), ("factory", True)]


@pytest.mark.parametrize("given", [("--alpha", "0"), ("--alpha", "1.5"), ("--min-scans", "1")])
def test_a_test_that_cannot_be_is_refused(root: Path, tmp_path: Path, given: tuple[str, str]) -> None:
    assert run(root, root / "same", tmp_path / "out", *given) == 2
    assert not (tmp_path / "out").exists()


def test_scans_are_not_held_against_themselves(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, root / "same", tmp_path, "--reference-scans", root / "same" / "same_1.png") == 3
    assert "new and reference at once" in capsys.readouterr().err
