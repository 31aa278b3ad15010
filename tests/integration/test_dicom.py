"""`sa2net predict` and `sa2net measure` on DICOM scans, the DICOM files that come out, and that nothing tells of whom."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from dicom_cases import (
    BYTE_CAPTURE,
    PRIVATE,
    PRIVATE_CREATOR,
    SECONDARY_CAPTURE,
    SECRETS,
    ULTRASOUND,
    ULTRASOUND_FRAMES,
    make_dicom,
    region,
    with_secrets,
    write_dicom,
)
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes
from random_model import write_random_model
from spine_cases import draw, without_side

from sa2net.__main__ import main
from sa2net.config import MeasureConfig
from sa2net.data.dicom import read_dicom
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.scoliosis import Measurement, measure
from sa2net.steps.dicom_results import ANGLE, CONVEX, ENDS, HIGH, LOW, STANDARD_ERROR, write_dicom_results

DRAWN = draw(0, 30.0)
REPEATED = ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "ReferringPhysicianName")
REPEATED_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def run(verb: str, *arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--quiet", *map(str, arguments)])
    return int(ended.value.code or 0)


def result(folder: Path, name: str) -> Measurement:
    return Measurement.model_validate_json((folder / f"{name}.measure.json").read_text(encoding="utf-8"))


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    """Label maps of scans called a and b."""
    for name in ("a", "b"):
        write_png(tmp_path / "masks" / f"{name}_bone_3.png", DRAWN.mask)
    return tmp_path / "masks"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    write_random_model(folder)
    return folder


def scan(path: Path, **elements: Any) -> Path:
    return write_dicom(path, DRAWN.scan, **elements)


def test_a_dicom_scan_is_measured_as_its_png_with_the_pixel_size_of_its_header(masks: Path, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "a.DCM", kind=ULTRASOUND, SequenceOfUltrasoundRegions=[region(0.018, 0.02)])
    assert run("measure", tmp_path / "in", "--masks", masks, "--out", tmp_path / "dicom") == 0
    write_png(tmp_path / "a.png", DRAWN.scan)
    png = tmp_path / "png"
    assert run("measure", tmp_path / "a.png", "--masks", masks, "--spacing", 0.18, 0.2, "--out", png) == 0
    found, same = result(tmp_path / "dicom", "a"), result(png, "a")
    assert (found.scan, found.spacing.source, same.spacing.source) == ("a.DCM", "header", "given")
    assert (found.spacing.x_mm, found.spacing.y_mm) == (0.18, 0.2)
    assert (found.curves, found.levels) == (same.curves, same.levels)
    assert np.array_equal(read_scan(tmp_path / "dicom" / "scans" / "a.png"), DRAWN.scan)
    assert sorted(path.name for path in (tmp_path / "dicom").iterdir()) == sorted(
        ["masks", "scans", "measure.csv", "a.measure.json", "a.measure.png"]
    )


def test_the_given_pixel_size_wins_and_the_result_says_so(masks: Path, tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm", PixelSpacing=[0.2, 0.2])
    assert run("measure", path, "--masks", masks, "--spacing", 0.3, "--out", tmp_path / "out") == 0
    said = result(tmp_path / "out", "a")
    assert (said.spacing.x_mm, said.spacing.source) == (0.3, "given")
    assert "that was given is used, 0.3 x 0.3 mm; the header of the file says 0.2 x 0.2 mm" in said.warnings[-1]


def test_predict_takes_files_and_folders_of_both_kinds(model: Path, tmp_path: Path) -> None:
    small = DRAWN.scan[::8, ::8].copy()
    write_png(tmp_path / "in" / "p.png", small)
    write_dicom(tmp_path / "in" / "d.dcm", small, PixelSpacing=[1.6, 1.5])
    bare = write_dicom(tmp_path / "in" / "bare", small)  # no suffix: only where it is named
    (tmp_path / "in" / "notes").write_text("no scan")
    given = ("--model", model, "--set", "evaluate.device=cpu")
    assert run("predict", tmp_path / "in", *given, "--out", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.json")) == ["d.json", "p.json"]
    said = json.loads((tmp_path / "out" / "d.json").read_text())
    assert said["spacing_mm"] == [1.5, 1.6]
    mask = read_mask(tmp_path / "out" / "d_bone_3.png")
    assert said["classes"]["rib"]["area_mm2"] == pytest.approx(int((mask == 1).sum()) * 1.5 * 1.6)
    assert json.loads((tmp_path / "out" / "p.json").read_text())["spacing_mm"] == []
    assert run("predict", bare, *given, "--out", tmp_path / "named") == 0
    assert np.array_equal(
        read_mask(tmp_path / "named" / "bare_bone_3.png"), read_mask(tmp_path / "out" / "p_bone_3.png")
    )


def test_a_bad_dicom_file_is_named_and_the_others_are_done(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = scan(tmp_path / "in" / "a.dcm")
    (tmp_path / "in" / "b.dcm").write_bytes(good.read_bytes()[:700])
    assert run("measure", tmp_path / "in", "--masks", masks, "--out", tmp_path / "out") == 3
    assert "1 of 2 scans could not be measured" in capsys.readouterr().err
    assert result(tmp_path / "out", "a").status == "measured"


def test_dicom_files_are_written_about_dicom_files_only(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan(tmp_path / "in" / "a.dcm")
    write_png(tmp_path / "in" / "b.png", DRAWN.scan)
    assert run("measure", tmp_path / "in", "--masks", masks, "--dicom", "--out", tmp_path / "out") == 2
    assert "not all scans are such: b.png" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [SECONDARY_CAPTURE, BYTE_CAPTURE, ULTRASOUND, ULTRASOUND_FRAMES])
def test_the_segmentation_holds_the_very_mask(masks: Path, tmp_path: Path, kind: str) -> None:
    """The elements of a real scan that are apt to mislead: a frame of reference, and a code for names."""
    elements: dict[str, Any] = {"FrameOfReferenceUID": "1.2.3", "SpecificCharacterSet": "ISO_IR 100"}
    made = make_dicom(DRAWN.scan, kind=kind, PatientName="Größe^Zoë", PixelSpacing=[0.2, 0.18], **elements)
    if kind in (BYTE_CAPTURE, ULTRASOUND_FRAMES):
        made.NumberOfFrames = 1
    path = write_dicom(tmp_path / "a.dcm", made)
    assert run("measure", path, "--masks", masks, "--dicom", "--out", tmp_path / "out") == 0
    found = hd.seg.segread(tmp_path / "out" / "a.seg.dcm")
    pixels = found.get_pixels_by_source_instance([made.SOPInstanceUID], combine_segments=True)
    assert np.array_equal(pixels[0], DRAWN.mask)
    described = [found.get_segment_description(number) for number in found.segment_numbers]
    assert [(item.segment_label, item.segmented_property_type.value) for item in described] == [
        ("rib", codes.SCT.Rib.value),
        ("thoracic process", "73400003"),
        ("lumbar lump", codes.SCT.Vertebra.value),
    ]
    assert {item.algorithm_type.value for item in described} == {"MANUAL"}  # the label map was given
    assert str(found.PatientName) == "Größe^Zoë"
    (series,) = found.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == made.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == made.SOPInstanceUID
    again = dcmread(tmp_path / "out" / "a.seg.dcm").pixel_array  # by pydicom alone: a frame a class
    assert np.array_equal(again, np.stack([DRAWN.mask == label for label in (1, 2, 3)]))


def test_the_report_holds_the_very_angles(masks: Path, tmp_path: Path) -> None:
    made = make_dicom(DRAWN.scan)
    path = write_dicom(tmp_path / "a.dcm", made)
    assert run("measure", path, "--masks", masks, "--dicom", "--out", tmp_path / "out") == 0
    said = result(tmp_path / "out", "a")
    report = hd.sr.srread(tmp_path / "out" / "a.sr.dcm")
    groups = report.content.get_image_measurement_groups(referenced_sop_instance_uid=made.SOPInstanceUID)
    assert len(groups) == len(said.curves) == 2
    for group, curve in zip(groups, said.curves, strict=True):
        values = {code: group.get_measurements(name=code)[0] for code in (ANGLE, STANDARD_ERROR, LOW, HIGH)}
        assert {item.unit for item in values.values()} == {codes.UCUM.Degree}
        assert [values[code].value for code in (ANGLE, STANDARD_ERROR, LOW, HIGH)] == [
            curve.angle_deg,
            curve.standard_error_deg,
            *curve.interval_90_deg,
        ]
        (side,) = group.get_qualitative_evaluations(name=CONVEX)
        assert side.value.meaning == f"{curve.convex} of the picture"
        for key, code in ENDS.items():
            (level,) = group.get_qualitative_evaluations(name=code)
            assert level.value.meaning == f"{getattr(curve, key)} vertebra"
        assert group.finding_sites[0].value.meaning.lower().replace("-", "") == f"{curve.region} spine"
    spoken = texts(report)
    assert "Research use only: ultrasound curve angle, not a radiographic Cobb angle." in spoken
    assert codes.SCT.CobbAngle.value not in str(report)
    assert f"Note: {said.warnings[0]}" in spoken
    assert report.VerificationFlag == "UNVERIFIED"


def texts(report: Dataset) -> list[str]:
    """Every sentence in a report."""
    found = [report.TextValue] if "TextValue" in report else []
    return found + [text for item in report.get("ContentSequence", ()) for text in texts(item)]


def test_the_report_of_a_refused_scan_holds_the_reasons_and_no_number(masks: Path, tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm")
    write_png(masks / "a_bone_3.png", without_side(DRAWN, "left"))
    assert run("measure", path, "--masks", masks, "--dicom", "--out", tmp_path / "out") == 1
    said = result(tmp_path / "out", "a")
    report = hd.sr.srread(tmp_path / "out" / "a.sr.dcm")
    (group,) = report.content.get_image_measurement_groups()
    assert group.get_measurements() == []
    for refusal in said.refusals:
        assert f"Refused ({refusal.code}): {refusal.reason}" in texts(report)


def test_levels_without_names_and_words_in_any_script_are_written(tmp_path: Path) -> None:
    drawn = read_dicom(scan(tmp_path / "a.dcm"))
    said = measure(
        DRAWN.mask,
        scan=DRAWN.scan,
        cfg=MeasureConfig(severity=("180:größer",), severity_source="Δ 4"),
        spacing_mm=(0.18, 0.18),
    )
    changes = {"upper_end": "3", "open_above": True, "open_below": True, "region_certain": False}
    said = said.model_copy(update={"curves": (said.curves[0].model_copy(update=changes),)})
    _, path = write_dicom_results(tmp_path / "a", drawn, DRAWN.mask, said)
    assert path.stat().st_mode & 0o777 == 0o600
    report = hd.sr.srread(path)
    (group,) = report.content.get_image_measurement_groups()
    (upper,) = group.get_qualitative_evaluations(name=ENDS["upper_end"])
    assert (upper.value.value, upper.value.scheme_designator) == ("level_3", "99SA2NET")
    spoken = texts(report)
    assert "The region is not certain." in spoken
    assert "The curve may go on above and below: it ends where the visible spine ends, and may be larger." in spoken
    assert [text for text in spoken if "(Δ 4): größer" in text]


def test_the_network_is_named_and_an_absent_class_is_an_empty_segment(model: Path, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", DRAWN.scan[::8, ::8].copy())
    device = ("--set", "evaluate.device=cpu")
    assert run("measure", path, "--model", model, "--dicom", "--out", tmp_path / "out", *device) == 1
    found = hd.seg.segread(tmp_path / "out" / "a.seg.dcm")
    assert found.NumberOfFrames == 3
    for number in found.segment_numbers:
        item = found.get_segment_description(number)
        assert item.algorithm_type.value == "AUTOMATIC"
        assert item.algorithm_identification.name == "SA2Net"
    assert found.DeviceSerialNumber == result(tmp_path / "out", "a").model.sha256[:16]


def test_a_header_with_gaps_is_no_hindrance_and_one_without_uids_is_told(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gaps = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "PatientSex", "PatientBirthDate", "PatientName")
    path = scan(tmp_path / "a.dcm", **dict.fromkeys(gaps))
    assert run("measure", path, "--masks", masks, "--dicom", "--out", tmp_path / "out") == 0
    assert hd.sr.srread(tmp_path / "out" / "a.sr.dcm").StudyDate == ""
    wrong = scan(tmp_path / "wrong" / "b.dcm", StudyInstanceUID=None)
    assert run("measure", wrong, "--masks", masks, "--dicom", "--out", tmp_path / "out") == 3
    assert "has no StudyInstanceUID" in capsys.readouterr().err
    assert not (tmp_path / "out" / "b.seg.dcm").exists()


def test_the_same_scan_gives_files_that_differ_in_uids_and_times_only(masks: Path, tmp_path: Path) -> None:
    path = scan(tmp_path / "a.dcm")
    for place in ("one", "two"):
        assert run("measure", path, "--masks", masks, "--dicom", "--out", tmp_path / place) == 0
    for name in ("a.seg.dcm", "a.sr.dcm"):
        one, two = (dcmread(tmp_path / place / name) for place in ("one", "two"))
        assert one.SOPInstanceUID != two.SOPInstanceUID
        changing = [level(dataset) for dataset in (one, two)]
        assert changing[0] == changing[1]


def level(dataset: Dataset) -> list[tuple[str, str]]:
    """Every element of a data set but UIDs, dates and times."""
    found: list[tuple[str, str]] = []
    for element in dataset:
        if element.VR == "SQ":
            found += [pair for item in element.value for pair in level(item)]
        elif element.VR not in ("UI", "DA", "TM", "DT"):
            found.append((str(element.tag), str(element.value)))
    return found


def test_results_in_the_same_folder_are_not_measured_again(masks: Path, tmp_path: Path) -> None:
    scan(tmp_path / "in" / "a.dcm")
    for _ in range(2):
        assert run("measure", tmp_path / "in", "--masks", masks, "--dicom", "--out", tmp_path / "in") == 0
    assert sorted(path.name for path in (tmp_path / "in").glob("*.dcm")) == ["a.dcm", "a.seg.dcm", "a.sr.dcm"]


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian package dicom3tools) is not installed")
@pytest.mark.parametrize("kind", [SECONDARY_CAPTURE, ULTRASOUND_FRAMES])
def test_dciodvfy_finds_no_error(masks: Path, tmp_path: Path, kind: str) -> None:
    frames = {"NumberOfFrames": 1} if kind == ULTRASOUND_FRAMES else {}
    path = scan(tmp_path / "a.dcm", kind=kind, **frames)
    assert run("measure", path, "--masks", masks, "--dicom", "--out", tmp_path / "out") == 0
    for name, title in (("a.seg.dcm", "Segmentation"), ("a.sr.dcm", "ComprehensiveSR")):
        checked = subprocess.run(
            ["dciodvfy", str(tmp_path / "out" / name)], capture_output=True, text=True, check=False, timeout=60
        )
        said = (checked.stdout + checked.stderr).splitlines()
        assert title in said
        assert not [line for line in said if line.startswith(("Error", "Abort"))], said


def test_nothing_tells_of_whom_a_scan_is_but_the_dicom_files_that_were_asked_for(
    masks: Path, model: Path, tmp_path: Path
) -> None:
    """The real command line, in processes of their own, as loud as they can be, on good and on damaged files."""
    for verb, pixels in (("predict", DRAWN.scan[::8, ::8].copy()), ("measure", DRAWN.scan)):
        folder = tmp_path / "in" / verb
        good = write_dicom(folder / "a.dcm", with_secrets(make_dicom(pixels, kind=ULTRASOUND))).read_bytes()
        (folder / "b.dcm").write_bytes(good[: len(good) // 2])
        colour = np.stack([pixels] * 3, axis=2)
        colour[-9:, -9:] = (9, 200, 30)
        write_dicom(folder / "c.dcm", with_secrets(make_dicom(colour)))
    spoken = ""
    for verb, options in (
        ("predict", ["--model", str(model), "--set", "evaluate.device=cpu"]),
        ("measure", ["--masks", str(masks), "--dicom"]),
    ):
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "always",
                "-m",
                "sa2net",
                "-v",
                verb,
                *options,
                "--out",
                f"out/{verb}",
                f"in/{verb}",
            ],
            cwd=tmp_path,
            env=os.environ | {"SA2NET_VAR": str(tmp_path / "var"), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 3, done.stderr  # two of three files are at fault
        assert "b.dcm" in done.stderr
        assert "colour picture" in done.stderr
        spoken += done.stdout + done.stderr
    written = [path for folder in ("out", "var") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert {
        "a.json",
        "a_bone_3.png",
        "a_overlay.png",
        "a.measure.json",
        "a.seg.dcm",
        "a.sr.dcm",
        "measure.csv",
    } <= names
    everywhere = (*SECRETS.values(), PRIVATE, PRIVATE_CREATOR)
    for path in written:
        content = path.read_bytes()
        allowed = [SECRETS[key] for key in (*REPEATED, *REPEATED_UIDS)] if path.suffix == ".dcm" else []
        told = [text for text in everywhere if text not in allowed and text.encode() in content]
        assert not told, f"{path.name} holds {told}"
        assert not [text for text in everywhere if text in path.name]
    assert not [text for text in everywhere if text in spoken]
    for name in ("a.seg.dcm", "a.sr.dcm"):
        header = dcmread(tmp_path / "out" / "measure" / name)
        assert all(str(header[key].value) == SECRETS[key] for key in REPEATED)
        assert header.StudyInstanceUID == SECRETS["StudyInstanceUID"]
        assert not [element for element in header.iterall() if element.tag.is_private]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_header_against_every_rule_is_repeated_and_quoted_nowhere(
    masks: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an element must not hold is written as it is, or left out; nothing is logged of it."""
    made = with_secrets(make_dicom(DRAWN.scan, PatientSex="unmistakable", StudyDate="neverday", StudyTime="noon"))
    made.PatientName = "Quackenbush" * 20 + "^^^^^^^^"
    made.SpecificCharacterSet = "unmistakable charset"
    path = write_dicom(tmp_path / "a.dcm", made)
    caplog.clear()  # pydicom warned of what this test made
    with caplog.at_level(logging.DEBUG):
        code = run("measure", path, "--masks", masks, "--dicom", "--out", tmp_path / "out")
    said = caplog.text + capsys.readouterr().err
    assert code == 0, said
    found = dcmread(tmp_path / "out" / "a.sr.dcm")
    assert (found.PatientSex, found.StudyDate, found.StudyTime) == ("", "", "")
    for text in ("Quackenbush", "unmistakable", "neverday", *SECRETS.values()):
        assert text not in said
