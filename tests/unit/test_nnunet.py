"""A data set in nnU-Net's raw format: its names, its labels, its split, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from factories import add_case, draw_case, write_data_set, write_list
from PIL import Image, PngImagePlugin

from sa2net.anatomy import IGNORE_INDEX
from sa2net.artifacts import read_json
from sa2net.config import ValidateConfig
from sa2net.data.layout import mask_path, read_cases, scan_path
from sa2net.data.nnunet import export_nnunet
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.errors import ConfigError, DataError
from sa2net.steps import validate


def test_every_scan_comes_back_as_it_was(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", train=3, val=1, test=2)
    result = export_nnunet(data, tmp_path / "raw", progress=False)
    assert (result.train, result.val, result.test, result.ignored) == (3, 1, 2, False)
    assert result.folder == tmp_path / "raw" / "Dataset501_Spine"
    for case in read_cases(data):
        end = "Ts" if case.split == "test" else "Tr"
        assert np.array_equal(read_scan(result.folder / f"images{end}" / f"{case.name}_0000.png"), read_scan(case.scan))
        assert np.array_equal(read_mask(result.folder / f"labels{end}" / f"{case.name}.png"), read_mask(case.mask))
    assert len(list(result.folder.rglob("*.png"))) == 12
    known = read_json(result.folder / "dataset.json")
    assert known["labels"] == {"background": 0, "rib": 1, "thoracic_process": 2, "lumbar_lump": 3}
    assert known["channel_names"] == {"0": "ultrasound"}
    assert (known["numTraining"], known["file_ending"]) == (4, ".png")
    assert known["overwrite_image_reader_writer"] == "NaturalImage2DIO"
    folds = json.loads((result.folder / "splits_final.json").read_text())
    assert folds == [{"train": ["train_000", "train_001", "train_002"], "val": ["val_000"]}]


def test_ignored_pixels_become_the_highest_label(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", train=1, val=1, test=0)
    path = mask_path(data, "train", "train_000")
    mask = read_mask(path)
    mask[10:20, 10:20] = IGNORE_INDEX
    write_png(path, mask)
    write_list(data, "test", [])
    result = export_nnunet(data, tmp_path / "raw", progress=False)
    written = read_mask(result.folder / "labelsTr" / "train_000.png")
    assert result.ignored
    assert (written[10:20, 10:20] == 4).all()
    assert np.array_equal(written == 4, mask == IGNORE_INDEX)
    assert read_json(result.folder / "dataset.json")["labels"]["ignore"] == 4


def test_the_split_of_a_validation_is_by_subject(tmp_path: Path) -> None:
    subjects = {f"train_{index:03d}": f"person_{index // 2}" for index in range(6)}
    data = write_data_set(tmp_path / "data", train=6, test=1, subjects=subjects)
    with pytest.raises(DataError, match="--split-from"):
        export_nnunet(data, tmp_path / "raw", progress=False)
    validate.run(ValidateConfig(workers=1), data=data, out=tmp_path / "validate", progress=False)
    result = export_nnunet(data, tmp_path / "raw", split_from=tmp_path / "validate", progress=False)
    [fold] = json.loads((result.folder / "splits_final.json").read_text())
    assert fold["val"]
    assert sorted(fold["train"] + fold["val"]) == sorted(subjects)
    assert not {subjects[name] for name in fold["train"]} & {subjects[name] for name in fold["val"]}
    other = write_data_set(tmp_path / "other", train=6, test=1, seed=5)
    with pytest.raises(DataError, match="other data"):
        export_nnunet(other, tmp_path / "raw", split_from=tmp_path / "validate", progress=False)


def test_hostile_names_stay_apart_and_files_lose_their_text(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", train=0, val=1, test=1, scans_csv=False)
    names = ["a", "a_0000", "a b.c", "Wirbelsäule (1)", "x_bone_3", "[ab]*"[:4]]
    for index, name in enumerate(names):
        add_case(data, "train", name, *draw_case(index + 50))
    write_list(data, "train", names)
    told = PngImagePlugin.PngInfo()
    told.add_text("Patient", "Somebody")
    place = scan_path(data, "train", "a")
    Image.fromarray(read_scan(place)).save(place, pnginfo=told)
    result = export_nnunet(data, tmp_path / "raw", progress=False)
    for case in read_cases(data, ["train"]):
        file = result.folder / "imagesTr" / f"{case.name}_0000.png"
        assert np.array_equal(read_scan(file), read_scan(case.scan))
        assert b"Somebody" not in file.read_bytes()
    assert json.loads((result.folder / "splits_final.json").read_text())[0]["train"] == names


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", train=1, val=1, test=1)
    raw = tmp_path / "raw"
    for options in ({"number": 0}, {"number": 1000}, {"name": "../x"}, {"name": ""}):
        with pytest.raises(ConfigError):
            export_nnunet(data, raw, progress=False, **options)
    (raw / "Dataset501_Other").mkdir(parents=True)
    with pytest.raises(DataError, match="Dataset501_Other"):
        export_nnunet(data, raw, progress=False)
    mask = read_mask(mask_path(data, "val", "val_000"))
    write_png(mask_path(data, "val", "val_000"), np.full_like(mask, 7))
    with pytest.raises(DataError, match="labels that no class has: 7"):
        export_nnunet(data, raw, number=502, progress=False)
    write_png(mask_path(data, "val", "val_000"), mask[1:])
    with pytest.raises(DataError, match="differ in size"):
        export_nnunet(data, raw, number=502, progress=False)
    assert [path.name for path in raw.iterdir()] == ["Dataset501_Other"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    data = write_data_set(tmp_path / "data", train=1, val=1, test=1)
    result = export_nnunet(data, tmp_path / "raw", progress=False)
    assert export_nnunet(data, tmp_path / "raw", progress=False) == result
    (result.folder / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        export_nnunet(data, tmp_path / "raw", progress=False)
