"""DICOM scans and segmentations become a data set: the very pixels, masks and sizes, and nothing of whom they are."""

import csv
import io
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_cases import (
    PRIVATE,
    PRIVATE_CREATOR,
    SECRETS,
    ULTRASOUND,
    make_dicom,
    make_segmentation,
    region,
    with_secrets,
    write_dicom,
)
from factories import draw_case, write_data_set
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from sa2net.config import MeasureConfig, ValidateConfig
from sa2net.data.dicom import read_dicom
from sa2net.data.dicom_segmentation import decode_segmentation, read_segmentation
from sa2net.data.examination import examine
from sa2net.data.imports import import_data
from sa2net.data.layout import Case, read_cases
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.errors import ConfigError, DataError
from sa2net.scoliosis import measure
from sa2net.steps.dicom_results import write_dicom_results

OURS = [{"label": "rib"}, {"label": "thoracic process"}, {"label": "lumbar lump"}]


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def as_dicom(case: Case, **elements: Any) -> Dataset:
    """A scan of ours as an ultrasound image that holds subject, device and size in its header."""
    assert case.spacing_mm is not None
    x_mm, y_mm = case.spacing_mm
    header = {"PatientID": case.subject, "ManufacturerModelName": case.device, "PixelSpacing": [y_mm, x_mm]}
    return make_dicom(read_scan(case.scan), kind=ULTRASOUND, **{**header, **elements})


@pytest.fixture
def ours(tmp_path: Path) -> list[Case]:
    """A data set of ours; one subject has two scans, of a width that is no multiple of 8."""
    subjects = {"train_000": "P-1001", "train_001": "P-1001", "train_002": "P-1002", "test_000": "P-1003"}
    return read_cases(
        write_data_set(tmp_path / "ours", train=3, test=2, size=(97, 251), spacing_mm=(0.4, 0.5), subjects=subjects)
    )


@pytest.fixture
def export(ours: list[Case], tmp_path: Path) -> Path:
    """The same as a hospital's folder: no suffix here, another one there, masks as this project writes them, lists."""
    root = tmp_path / "export"
    for index, case in enumerate(ours):
        path = write_dicom(root / f"{case.name}{('', '.dcm', '.IMA')[index % 3]}", as_dicom(case))
        mask, scan = read_mask(case.mask), read_dicom(path)
        said = measure(mask, scan=scan.grey, cfg=MeasureConfig(), spacing_mm=case.spacing_mm)
        write_dicom_results(root / "results" / case.name, scan, mask, said)
    for split in ("train", "test"):
        shutil.copy(tmp_path / "ours" / f"{split}.txt", root)
    return root


def reason(source: Path | list[Path], out: Path, **options: Any) -> str:
    with pytest.raises(DataError) as raised:
        import_data(source, out, progress=False, **options)
    assert not out.exists()
    return str(raised.value)


def test_our_data_set_comes_back_from_dicom_as_it_was(ours: list[Case], export: Path, tmp_path: Path) -> None:
    result = import_data(export, tmp_path / "data", progress=False)
    back = read_cases(tmp_path / "data")
    assert result.scans == len(back) == 5
    for old, new in zip(ours, back, strict=True):
        assert (old.name, old.split, old.subject, old.device) == (new.name, new.split, new.subject, new.device)
        assert new.spacing_mm == old.spacing_mm == (0.4, 0.5)
        assert np.array_equal(read_scan(old.scan), read_scan(new.scan))
        assert np.array_equal(read_mask(old.mask), read_mask(new.mask))
    assert result.warnings[0] == "5 files are neither scan nor mask (reports, other pictures): left out."
    assert examine(ValidateConfig(), tmp_path / "data", progress=False).report.passed


def test_pseudonyms_leave_nothing_of_header_and_file_name(
    ours: list[Case], tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "export"
    for index, case in enumerate(ours):
        made = with_secrets(as_dicom(case, PixelSpacing=None))
        made.PatientID, made.SOPInstanceUID = f"{SECRETS['PatientID']}-{index}", f"{made.SOPInstanceUID}{index}"
        write_dicom(root / f"Quackenbush_{index}.dcm", made)
        write_png(root / f"Quackenbush_{index}_bone_3.png", read_mask(case.mask))
    caplog.set_level(logging.DEBUG)
    key = tmp_path / "vault" / "key.csv"
    result = import_data(root, tmp_path / "data", pseudonymise=True, key=key, test_fraction=0.4)
    kept = b"".join(name.encode() + content for name, content in files(tmp_path / "data").items()).decode("latin-1")
    shown = capfd.readouterr()
    said = result.message + caplog.text + shown.out + shown.err
    for secret in (*SECRETS.values(), "Quackenbush", "person of", PRIVATE, PRIVATE_CREATOR):
        assert secret not in kept
        assert secret not in said
    with key.open(newline="") as stream:
        back = {row["pseudonym"]: row for row in csv.DictReader(stream)}
    old = {f"Quackenbush_{index}": (index, case) for index, case in enumerate(ours)}
    for case in read_cases(tmp_path / "data"):
        index, original = old[back[case.name]["name"]]
        assert back[case.name]["subject"] == f"{SECRETS['PatientID']}-{index}"
        assert back[case.name]["subject_pseudonym"] == case.subject
        assert (case.device, case.spacing_mm) == ("factory", (0.18, 0.2))
        assert np.array_equal(read_scan(case.scan), read_scan(original.scan))
        assert np.array_equal(read_mask(case.mask), read_mask(original.mask))


def test_a_share_of_the_subjects_is_the_test_split(ours: list[Case], export: Path, tmp_path: Path) -> None:
    for split in ("train", "test"):
        (export / f"{split}.txt").unlink()
    with pytest.raises(ConfigError, match=r"--test-fraction 0\.3"):
        import_data(export, tmp_path / "data", progress=False)
    for turn in ("one", "two"):
        import_data(export, tmp_path / turn, test_fraction=0.5, progress=False)
    one, two = (read_cases(tmp_path / turn) for turn in ("one", "two"))
    assert [(case.name, case.split) for case in one] == [(case.name, case.split) for case in two]
    split_of = {case.subject: {other.split for other in one if other.subject == case.subject} for case in one}
    assert all(len(splits) == 1 for splits in split_of.values())
    assert sorted(splits.pop() for splits in split_of.values()) == ["test", "test", "train", "train"]


def test_lists_and_a_share_together_are_refused(export: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lists of scans already"):
        import_data(export, tmp_path / "data", test_fraction=0.5, progress=False)


def test_masks_in_the_layout_and_scans_of_one_name_in_two_folders(ours: list[Case], tmp_path: Path) -> None:
    """As on a CD: each folder has its own IM1. The mask is that of the folder called alike."""
    root = tmp_path / "cd"
    for index, case in enumerate(ours[1:]):
        write_dicom(root / "dataset" / f"p{index}" / "IM1", as_dicom(case))
        write_png(root / "groundtruth" / f"p{index}" / "IM1_bone_3.png", read_mask(case.mask))
    import_data(root, tmp_path / "data", test_fraction=0.5, progress=False)
    found = {case.name: case for case in read_cases(tmp_path / "data")}
    assert sorted(found) == [f"dataset-p{index}-IM1" for index in range(4)]
    for index, case in enumerate(ours[1:]):
        assert np.array_equal(read_mask(found[f"dataset-p{index}-IM1"].mask), read_mask(case.mask))


def test_files_may_be_named_one_by_one(export: Path, ours: list[Case], tmp_path: Path) -> None:
    sources = [export / "train_000", export / "train_002.IMA", export / "test_000"]
    sources += [export / "results" / f"{path.stem}.seg.dcm" for path in sources]
    import_data(sources, tmp_path / "data", test_fraction=0.5, progress=False)
    assert {case.name for case in read_cases(tmp_path / "data")} == {"train_000", "train_002", "test_000"}


def test_an_absent_source_is_named(export: Path, tmp_path: Path) -> None:
    said = reason([export, tmp_path / "none"], tmp_path / "data")
    assert f"there are no such files or folders: {tmp_path / 'none'}" in said


def test_a_table_beside_the_scans_wins_over_headers(export: Path, tmp_path: Path) -> None:
    (export / "scans.csv").write_text("name,subject,device,spacing_x_mm,spacing_y_mm\ntrain_002,other,,0.3,0.3\n")
    import_data(export, tmp_path / "data", progress=False)
    found = {case.name: case for case in read_cases(tmp_path / "data")}
    assert (found["train_002"].subject, found["train_002"].spacing_mm) == ("other", (0.3, 0.3))
    assert found["train_002"].device == "factory"
    assert (found["train_001"].subject, found["train_001"].spacing_mm) == ("P-1001", (0.4, 0.5))


def test_a_subject_in_two_splits_is_told_without_the_number(export: Path, tmp_path: Path) -> None:
    (export / "train.txt").write_text("train_000\ntrain_002\n")
    (export / "test.txt").write_text("train_001\ntest_000\ntest_001\n")
    said = reason(export, tmp_path / "data")
    assert "Every subject is in one split alone" in said
    assert "train_000 (subject person of train_000, in test and" in said
    assert "P-1001" not in said


def test_what_is_missing_is_told_and_nothing_guessed(ours: list[Case], export: Path, tmp_path: Path) -> None:
    made = as_dicom(ours[0], PixelSpacing=None, PatientID="")
    old = dcmread(export / "train_000", specific_tags=["SOPInstanceUID"])
    made.SOPInstanceUID = old.SOPInstanceUID
    write_dicom(export / "train_000", made)
    result = import_data(export, tmp_path / "data", progress=False)
    first = read_cases(tmp_path / "data")[0]
    assert (first.subject, first.spacing_mm) == ("train_000", None)
    assert "train_000: no number of a patient: each counts as a person of its own." in result.warnings


def test_a_number_that_is_the_name_is_never_a_subject(ours: list[Case], export: Path, tmp_path: Path) -> None:
    made = as_dicom(ours[0], PatientName="Quackenbush^Xanthippe", PatientID="QUACKENBUSH7")
    made.SOPInstanceUID = dcmread(export / "train_000", specific_tags=["SOPInstanceUID"]).SOPInstanceUID
    write_dicom(export / "train_000", made)
    said = reason(export, tmp_path / "data")
    assert "the number of the patient holds the patient's name" in said
    assert "quackenbush" not in said.casefold()
    import_data(export, tmp_path / "data", pseudonymise=True, key=tmp_path / "key.csv", progress=False)
    assert b"QUACK" not in b"".join(files(tmp_path / "data").values()).upper()


def test_pictures_that_show_of_whom_they_are(ours: list[Case], export: Path, tmp_path: Path) -> None:
    made = as_dicom(ours[0], BurnedInAnnotation="YES")
    made.SOPInstanceUID = dcmread(export / "train_000", specific_tags=["SOPInstanceUID"]).SOPInstanceUID
    write_dicom(export / "train_000", made)
    said = reason(export, tmp_path / "data", pseudonymise=True, key=tmp_path / "key.csv")
    assert "the picture shows of whom it is (BurnedInAnnotation)" in said
    assert not (tmp_path / "key.csv").exists()
    result = import_data(export, tmp_path / "data", progress=False)
    assert "train_000: its header says that the picture shows of whom it is." in result.warnings


def test_every_fault_is_named_at_once(ours: list[Case], export: Path, tmp_path: Path) -> None:
    colour = np.stack([read_scan(ours[0].scan)] * 3, axis=2)
    colour[0, 0] = (250, 10, 10)
    write_dicom(export / "colour.dcm", colour)
    write_dicom(export / "frames.dcm", make_dicom(read_scan(ours[0].scan), kind=ULTRASOUND, NumberOfFrames=2))
    write_dicom(export / "bare.dcm", as_dicom(ours[0]))
    write_dicom(export / "flat.dcm", as_dicom(ours[0], PixelSpacing=None, PixelAspectRatio=[4, 3]))
    (export / "text.dcm").write_text("no scan" * 40)
    (export / "train.txt").write_text("train_000\ntrain_001\ntrain_002\nabsent\n")
    said = reason(export, tmp_path / "data")
    for words in (
        "colour picture",
        "it holds 2 frames",
        "bare.dcm cannot be used: it has no mask",
        "Give their size in a scans.csv",
        "text.dcm cannot be used: not a DICOM file",
        "absent is listed, and there is no scan of that name",
        "bare is in no list",
    ):
        assert words in said, words


def test_a_png_mask_and_a_segmentation_must_agree(ours: list[Case], export: Path, tmp_path: Path) -> None:
    """`measure --dicom` writes both."""
    mask = read_mask(ours[0].mask)
    write_png(export / "masks" / "train_000_bone_3.png", mask)
    import_data(export, tmp_path / "both", progress=False)
    assert np.array_equal(read_mask(read_cases(tmp_path / "both")[0].mask), mask)
    mask[5, 5] = 3 - mask[5, 5]
    write_png(export / "masks" / "train_000_bone_3.png", mask)
    assert "its PNG mask and its segmentation differ" in reason(export, tmp_path / "data")


def test_two_masks_of_a_kind_are_refused(ours: list[Case], export: Path, tmp_path: Path) -> None:
    shutil.copy(export / "results" / "train_000.seg.dcm", export / "copy.dcm")
    assert "two segmentations hold the same class" in reason(export, tmp_path / "data")
    (export / "copy.dcm").unlink()
    for folder in ("one", "two"):
        write_png(export / folder / "train_000_bone_3.png", read_mask(ours[0].mask))
    said = reason(export, tmp_path / "data")
    assert "there are 2 PNG masks of its name, and 0 in a folder called as its own" in said


def test_without_the_packages_it_says_what_to_install(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pydicom", "pydicom.config"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"pip install 'sa2net\[dicom\]'"):
        import_data(export, tmp_path / "data", progress=False)


def test_several_folders_without_dicom_scans_are_refused(ours: list[Case], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="here are none"):
        import_data([tmp_path / "ours", tmp_path / "ours"], tmp_path / "data", progress=False)
    with pytest.raises(ConfigError, match="here are none"):
        import_data(tmp_path / "ours", tmp_path / "data", test_fraction=0.3, progress=False)


def test_a_stray_dicom_file_in_a_data_set_of_png_scans_stays_a_foreign_file(ours: list[Case], tmp_path: Path) -> None:
    write_dicom(tmp_path / "ours" / "dataset" / "train" / "stray.dcm", as_dicom(ours[0]))
    result = import_data(tmp_path / "ours", tmp_path / "data", progress=False)
    assert result.scans == 5
    assert any("stray.dcm" in warning for warning in result.warnings)


# Segmentations of other tools

SCAN, MASK = draw_case(3, 61, 83)
CODED = [
    {"label": "left and right", "kind": codes.SCT.Rib},
    {
        "label": "spots",
        "kind": Code("73400003", "SCT", "Transverse process of vertebra"),
        "region": codes.SCT.ThoracicSpine,
    },
    {"label": "blurs", "kind": codes.SCT.Vertebra, "region": codes.SCT.LumbarSpine},
]


def brought(tmp_path: Path, *segmentations: Dataset, made: Dataset) -> Any:
    """The mask that comes of segmentations of one scan."""
    root = tmp_path / "in"
    made.PatientID = "1"
    write_dicom(root / "a.dcm", made)
    for index, drawn in enumerate(segmentations):
        write_dicom(root / f"seg{index}.dcm", drawn)
    other = draw_case(4, 61, 83)
    write_dicom(root / "b.dcm", make_dicom(other[0], PatientID="2"))
    write_png(root / "b_bone_3.png", other[1])
    (root / "train.txt").write_text("a\n")
    (root / "test.txt").write_text("b\n")
    cfg = ValidateConfig(min_side=32)
    import_data(root, tmp_path / "data", cfg=cfg, progress=False)
    return read_mask(tmp_path / "data" / "groundtruth" / "train" / "a_bone_3.png")


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize(
    "segments", [OURS, CODED, [{"label": name} for name in ("RIBS", "thoracic_processes", "Lumbar-lumps")]]
)
def test_segments_are_known_by_label_or_codes(tmp_path: Path, kind: str, segments: list[dict[str, Any]]) -> None:
    made = make_dicom(SCAN)
    assert np.array_equal(brought(tmp_path, make_segmentation([made], MASK[None], segments, kind), made=made), MASK)


def test_order_numbers_and_more_segments_do_not_matter(tmp_path: Path) -> None:
    """Each rib a segment of its own, an ignored one, background drawn, numbers in another order."""
    made = make_dicom(SCAN)
    values = np.choose(MASK, [1, 3, 2, 5]).astype(np.uint8)
    values[:40][MASK[:40] == 1] = 4
    values[0] = 6
    segments = [
        {"label": label} for label in ("background", "thoracic process", "rib", "ribs", "lumbar lump", "ignored")
    ]
    expected = MASK.copy()
    expected[0] = 255
    assert np.array_equal(brought(tmp_path, make_segmentation([made], values[None], segments), made=made), expected)


def test_one_file_a_class(tmp_path: Path) -> None:
    made = make_dicom(SCAN)
    parts = [
        make_segmentation([made], np.equal(MASK, label + 1)[None].astype(np.uint8), [OURS[label]]) for label in range(3)
    ]
    assert np.array_equal(brought(tmp_path, *parts, made=made), MASK)


def test_one_file_for_several_scans(tmp_path: Path) -> None:
    """A segmentation of a series: each frame says which scan it is of. Two files are joined into one here."""
    series = [make_dicom(draw_case(seed, 61, 83)[0]) for seed in range(2)]
    masks = [draw_case(seed, 61, 83)[1] for seed in range(2)]
    one, two = (make_segmentation([made], mask[None], OURS) for made, mask in zip(series, masks, strict=True))
    planes = [mask == label for mask in masks for label in (1, 2, 3)]
    one.PixelData = np.packbits(np.stack(planes).ravel(), bitorder="little").tobytes() + b"\0"
    one.NumberOfFrames = 6
    one.PerFrameFunctionalGroupsSequence.extend(two.PerFrameFunctionalGroupsSequence)
    one.ReferencedSeriesSequence.extend(two.ReferencedSeriesSequence)
    assert np.array_equal(brought(tmp_path, one, made=series[1]), masks[1])


def changed(change: str) -> tuple[Dataset, Dataset]:
    """A scan, and a segmentation with something wrong with it."""
    made = make_dicom(SCAN)
    if change == "fractional":
        return made, make_segmentation([made], MASK[None], OURS, "FRACTIONAL")
    segments = {
        "unknown": [*OURS[:2], {"label": "secret-narwhal"}],
        "vertebra": [*OURS[:2], {"label": "L1", "kind": codes.SCT.Vertebra}],
        "two minds": [*OURS[:2], {"label": "lumbar lump", "kind": codes.SCT.Rib}],
    }.get(change, OURS)
    drawn = make_segmentation([made], MASK[None], segments)
    if change == "short":
        drawn.PixelData = drawn.PixelData[:100]
    if change == "frames":
        del drawn.PerFrameFunctionalGroupsSequence[0]
    if change == "overlap":
        drawn.PixelData = b"\xff" * len(drawn.PixelData)
    return made, drawn


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("fractional", "a fractional segmentation"),
        ("unknown", "segment 3 is no class by its label, nor by its codes"),
        ("vertebra", "segment 3 is no class by its label, nor by its codes"),
        ("two minds", "segment 3 has the label of one class and the codes of another"),
        ("short", "truncated: 100 bytes of pixels, 1899 are needed"),
        ("frames", "3 frames, and 2 of them described"),
        ("overlap", "pixels of its mask are of two classes"),
    ],
)
def test_a_segmentation_that_cannot_be_used_says_why(tmp_path: Path, change: str, words: str) -> None:
    made, drawn = changed(change)
    with pytest.raises(DataError) as raised:
        brought(tmp_path, drawn, made=made)
    assert words in str(raised.value)
    assert "narwhal" not in str(raised.value)


def test_a_segmentation_of_another_size_than_its_scan_is_refused(tmp_path: Path) -> None:
    made, cropped = make_dicom(SCAN), make_dicom(SCAN[:-4])
    cropped.SOPInstanceUID = made.SOPInstanceUID
    with pytest.raises(DataError, match="Scan and mask have the same height"):
        brought(tmp_path, make_segmentation([cropped], MASK[None, :-4], OURS), made=made)


def test_a_segmentation_of_no_scan_here_is_told(ours: list[Case], export: Path, tmp_path: Path) -> None:
    write_dicom(export / "other.dcm", make_segmentation([make_dicom(SCAN)], MASK[None], OURS))
    result = import_data(export, tmp_path / "data", progress=False)
    assert "1 segmentations refer to no scan of this import." in result.warnings


def test_a_size_in_centimetres_of_ultrasound_regions(ours: list[Case], export: Path, tmp_path: Path) -> None:
    made = as_dicom(ours[0], PixelSpacing=None, SequenceOfUltrasoundRegions=[region(0.041, 0.052)])
    made.SOPInstanceUID = dcmread(export / "train_000", specific_tags=["SOPInstanceUID"]).SOPInstanceUID
    write_dicom(export / "train_000", made)
    import_data(export, tmp_path / "data", progress=False)
    assert read_cases(tmp_path / "data")[0].spacing_mm == (0.41, 0.52)


def whole() -> tuple[str, bytes]:
    """A segmentation that holds secrets in labels and private elements, and the UID of its scan."""
    made = make_dicom(SCAN)
    drawn = make_segmentation([made], MASK[None], [*OURS[:2], {"label": "lumbar lump"}])
    drawn.SegmentSequence[0].SegmentDescription = PRIVATE
    drawn.private_block(0x0011, PRIVATE_CREATOR, create=True).add_new(0x01, "LO", PRIVATE)
    stream = io.BytesIO()
    drawn.save_as(stream, enforce_file_format=True)
    return str(made.SOPInstanceUID), stream.getvalue()


UID, CONTENT = whole()


@settings(deadline=None, max_examples=150)
@given(
    end=st.one_of(st.just(len(CONTENT)), st.integers(0, len(CONTENT))),
    changes=st.lists(st.tuples(st.integers(132, len(CONTENT) - 1), st.integers(0, 255)), max_size=6),
)
def test_a_spoilt_segmentation_is_a_mask_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, end: int, changes: list[tuple[int, int]]
) -> None:
    spoilt = bytearray(CONTENT)
    for place, value in changes:
        spoilt[place] = value
    path = tmp_path_factory.mktemp("spoilt") / "a.dcm"
    path.write_bytes(spoilt[:end])
    try:
        found = read_segmentation(path, max_pixels=100_000)
        for scan in found.frames:
            planes = decode_segmentation(found, scan, max_pixels=100_000)
            assert all(plane.size <= 100_000 for plane in planes.values())
        said = repr(found.classes)
    except DataError as error:
        said = str(error)
    assert PRIVATE not in said
    assert PRIVATE_CREATOR not in said


def test_a_whole_segmentation_holds_each_class_of_its_scan(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").write_bytes(CONTENT)
    found = read_segmentation(tmp_path / "a.dcm")
    assert (found.classes, set(found.frames)) == ({1: 1, 2: 2, 3: 3}, {UID})
    planes = decode_segmentation(found, UID)
    assert set(planes) == {1, 2, 3}
    assert all(np.array_equal(plane, np.equal(MASK, label)) for label, plane in planes.items())
