"""The data set in the raw format of nnU-Net v2, so that anyone can train it on the same scans and splits.

    OUT/DatasetNNN_NAME/dataset.json  splits_final.json
    OUT/DatasetNNN_NAME/imagesTr  labelsTr        train and val scans
    OUT/DatasetNNN_NAME/imagesTs  labelsTs        test scans; nnU-Net reads neither by itself

Format: documentation/dataset_format.md, ignore_label.md and manual_data_splits.md of MIC-DKFZ/nnUNet. A PNG holds no
pixel size there: nnU-Net takes every pixel of every scan for 1 x 1.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sa2net.anatomy import CLASSES, IGNORE_INDEX, NUM_CLASSES
from sa2net.artifacts import MANIFEST, VALIDATION_REPORT, read_validation, replaced_folder, write_json, write_text
from sa2net.data.layout import Case, list_path, read_cases
from sa2net.data.manifest import read_manifest
from sa2net.data.pairs import read_pair
from sa2net.data.pictures import write_png
from sa2net.data.store import data_md5
from sa2net.errors import ConfigError, DataError

DATASET_JSON = "dataset.json"
SPLITS_JSON = "splits_final.json"
FOLDERS = {"train": ("imagesTr", "labelsTr"), "val": ("imagesTr", "labelsTr"), "test": ("imagesTs", "labelsTs")}
IGNORE = NUM_CLASSES
"""nnU-Net wants the ignored pixels to be the highest of consecutive labels."""
_OURS = frozenset((DATASET_JSON, SPLITS_JSON, "imagesTr", "labelsTr", "imagesTs", "labelsTs"))


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes:
        folder: OUT/DatasetNNN_NAME.
        train: Scans in the train part of the only fold.
        val: Scans in its val part.
        test: Scans in `imagesTs`.
        ignored: Whether any mask holds ignored pixels.
    """

    folder: Path
    train: int
    val: int
    test: int
    ignored: bool


def export_nnunet(
    data: Path,
    out: Path,
    *,
    number: int = 501,
    name: str = "Spine",
    split_from: Path | None = None,
    progress: bool = True,
) -> ExportResult:
    """Write the data set in nnU-Net's raw format; the folder is replaced whole once everything is done.

    Scans are written anew, so that what a PNG holds besides its pixels stays behind.

    Args:
        data: Folder that holds `dataset/` and `groundtruth/`.
        out: The folder that nnU-Net knows as `nnUNet_raw`.
        number: Number of the data set there, 1-999; nnU-Net's own take 1-10.
        name: Its name there, letters and digits.
        split_from: Folder of a validation of these data, whose split into train and val is taken; None = the lists.
        progress: Show a progress bar.

    Raises:
        ConfigError: A number or name that nnU-Net cannot take.
        DataError: No val scans, a validation of other data, a scan or mask that cannot be used, or a number that is
            taken in `out`.
    """
    folder = out / _folder_name(out, number, name)
    cases = _cases(data, split_from)
    ignored = False
    with replaced_folder(folder, _OURS) as fresh:
        for case in tqdm(cases, desc="export", unit="scan", disable=not progress):
            ignored |= _write_case(fresh, case)
        names = {split: [case.name for case in cases if case.split == split] for split in FOLDERS}
        labels = {item.name: item.id for item in CLASSES} | ({"ignore": IGNORE} if ignored else {})
        description = {
            "name": name,
            "description": "Ultrasound volume projection images of the spine; pixel sizes are not kept",
            "channel_names": {"0": "ultrasound"},
            "labels": labels,
            "numTraining": len(names["train"]) + len(names["val"]),
            "file_ending": ".png",
            "overwrite_image_reader_writer": "NaturalImage2DIO",
        }
        write_json(fresh / DATASET_JSON, description)
        folds = [{"train": names["train"], "val": names["val"]}]
        write_text(fresh / SPLITS_JSON, json.dumps(folds, indent=2, ensure_ascii=False) + "\n")
    return ExportResult(folder, len(names["train"]), len(names["val"]), len(names["test"]), ignored)


def _folder_name(out: Path, number: int, name: str) -> str:
    if not 1 <= number <= 999:
        raise ConfigError(f"{number} is no number of a data set", action="Name one from 1 to 999 with --number.")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,60}", name):
        raise ConfigError(f"{name!r} is no name of a data set", action="Name it with letters and digits: --name Spine.")
    wanted = f"Dataset{number:03d}_{name}"
    others = sorted(path.name for path in out.glob(f"Dataset{number:03d}_*") if path.name != wanted)
    if others:
        raise DataError(
            f"the number {number} is taken in {out}", evidence=others[0], action="Name another one with --number."
        )
    return wanted


def _cases(data: Path, split_from: Path | None) -> Sequence[Case]:
    """The scans with their splits; train and val hold some each."""
    if split_from is None:
        cases = read_cases(data)
    else:
        report = read_validation(split_from / VALIDATION_REPORT)
        if report.data_md5 != data_md5(data):
            raise DataError(
                f"{split_from} is the validation of other data than {data}",
                evidence=f"it is of {report.data_md5}",
                action="Run `sa2net validate` with these data.",
            )
        cases = read_manifest(split_from / MANIFEST, data)
    lacking = [split for split in ("train", "val") if not any(case.split == split for case in cases)]
    if lacking:
        raise DataError(
            f"there are no {' and no '.join(lacking)} scans, and nnU-Net would split by scan, not by subject",
            evidence=f"{list_path(data, lacking[-1])} names none",
            action="Name a validation whose split is taken, as with --split-from build/validate.",
        )
    return cases


def _write_case(folder: Path, case: Case) -> bool:
    """Write a scan and its labels; whether any pixel is ignored."""
    scan, mask = read_pair(case)
    images, labels = FOLDERS[case.split]
    write_png(folder / images / f"{case.name}_0000.png", scan)
    ignored = mask == IGNORE_INDEX
    write_png(folder / labels / f"{case.name}.png", np.where(ignored, np.uint8(IGNORE), mask))
    return bool(ignored.any())
