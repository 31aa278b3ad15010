"""Reviews come out as a data set that `sa2net validate` passes."""

import csv
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from spine_cases import draw

from sa2net.__main__ import main
from sa2net.artifacts import file_sha256
from sa2net.data.pictures import read_mask, write_png
from sa2net.errors import DataError
from sa2net.review import Review, save_review
from sa2net.review.data_set import write_data_set
from sa2net.review.reading import as_hand_levels
from sa2net.review.record import ReviewedCurve
from sa2net.scoliosis import Measurement

NAMES = ("first", "=second", "third", "fourth")


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four measured scans: two accepted, one corrected, one refused."""
    root = tmp_path_factory.mktemp("review")
    for seed, name in enumerate(NAMES):
        drawn = draw(seed, 30.0)
        write_png(root / "in" / f"{name}.png", drawn.scan)
        write_png(root / "m" / f"{name}_bone_3.png", drawn.mask)
    assert run("measure", "--quiet", root / "in", "--masks", root / "m", "--spacing", 0.2, "--out", root / "out") == 0
    for name, decision in zip(NAMES, ("accepted", "accepted", "corrected", "refused"), strict=True):
        decide(root / "out", name, decision)
    return root / "out"


def decide(folder: Path, name: str, decision: str) -> None:
    path = folder / f"{name}.measure.json"
    measured = Measurement.model_validate_json(path.read_text(encoding="utf-8"))
    levels = [level for level in as_hand_levels(measured) if decision != "corrected" or level.origin != 4]
    curve = measured.curves[0]
    reviewed = ReviewedCurve(
        angle_deg=curve.angle_deg, interval_90_deg=curve.interval_90_deg, lines_deg=None, convex=curve.convex,
        upper_row=curve.upper_row, lower_row=curve.lower_row, ends="automatic",
    )  # fmt: skip
    review = Review(
        version=1, decision=decision, reader="A. Reader", saved_at=datetime.now(UTC), comment="",
        measure_sha256=file_sha256(path), mask_source=measured.mask_source, model=measured.model, based_on=0, levels=tuple(levels), chosen=(),
        curves=() if decision == "refused" else (reviewed,),
    )  # fmt: skip
    save_review(folder, name, review, opened=0)


def test_the_data_set_passes_validation(results: Path, tmp_path: Path) -> None:
    done = write_data_set(results, tmp_path / "set")
    assert done.problems == ()
    assert set(done.names) == {"first", "=second", "third"}
    assert done.names["first"] == "first"
    assert done.names["=second"].startswith("scan_")
    report = tmp_path / "report"
    assert run("validate", "--quiet", "--data", tmp_path / "set", "--out", report) == 0
    written = list((tmp_path / "set" / "groundtruth").rglob("third_bone_3.png"))
    assert len(written) == 1
    assert not np.array_equal(read_mask(written[0]), read_mask(results / "masks" / "third_bone_3.png"))
    lists = [(tmp_path / "set" / f"{split}.txt").read_text().split() for split in ("train", "test")]
    assert [len(names) for names in lists] == [2, 1]
    rows = (tmp_path / "set" / "angles.csv").read_text().splitlines()
    assert rows[0].startswith("name,angle_deg,convex,upper_row,lower_row")
    assert len(rows) == 4


def test_what_was_measured_again_is_not_written(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(results, copy)
    path = copy / "first.measure.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match=r"holds 2 scans .* measured again since"):
        write_data_set(copy, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_nothing_reviewed_and_a_full_folder_are_errors(results: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Review more scans"):
        write_data_set(tmp_path, tmp_path / "set")
    with pytest.raises(DataError, match="not an empty folder"):
        write_data_set(results, results)


def subjects_of(folder: Path, *rows: str, columns: str = "name,subject,device") -> Path:
    path = folder / "people.csv"
    path.write_text("\n".join([columns, *rows, ""]), encoding="utf-8")
    return path


def test_no_subject_is_in_train_and_test(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(results, copy)
    names = [f"scan{number}" for number in range(5)]
    for name in names:  # of the accepted scan, under new names
        for pattern in ("{}.measure.json", "scans/{}.png", "masks/{}_bone_3.png"):
            shutil.copy(copy / pattern.format("first"), copy / pattern.format(name))
        shutil.copytree(copy / "reviews" / "first", copy / "reviews" / name)
    table = subjects_of(
        tmp_path,
        "first,ada,probe",
        "=second,ada,probe",
        "third,ada,",
        *(f"{name},bob" for name in names[:3]),
        "scan3,cy",
        "scan4,dan",
    )
    assert run("review", copy, "--export", tmp_path / "set", "--subjects", table) == 0
    root = tmp_path / "set" / "scoliosis3classes"
    with (root / "scans.csv").open(encoding="utf-8", newline="") as stream:
        rows = {row["name"]: row for row in csv.DictReader(stream)}
    assert (rows["first"]["subject"], rows["first"]["device"], rows["scan0"]["subject"]) == ("ada", "probe", "bob")
    people = [
        {rows[name]["subject"] for name in (root / f"{split}.txt").read_text().split()} for split in ("train", "test")
    ]
    assert people[0].isdisjoint(people[1])
    assert people[0] | people[1] == {"ada", "bob", "cy", "dan"}
    assert all(people)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (("first,ada", "=second,bob"), "'third' has no row"),
        (("first,ada", "=second,bob", "third,cy", "third,dan"), "'third' has several rows"),
        (("first,ada", "=second,bob", "third,"), "'third' has no subject"),
        (("first,ada", "=second,bob", "third,ada"), "of 2 subjects"),
    ],
)
def test_subjects_that_are_not_known_or_too_few_are_errors(
    results: Path, tmp_path: Path, rows: tuple[str, ...], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        write_data_set(results, tmp_path / "set", subjects=subjects_of(tmp_path, *rows))
    assert not (tmp_path / "set").exists()


def test_a_table_of_subjects_that_is_none_is_an_error(results: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        write_data_set(results, tmp_path / "set", subjects=tmp_path / "people.csv")
    with pytest.raises(DataError, match="lacks the column subject"):
        write_data_set(results, tmp_path / "set", subjects=subjects_of(tmp_path, "first,ada", columns="name,person"))
