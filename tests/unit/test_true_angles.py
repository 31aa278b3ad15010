"""True curves as they are read: every fault of a table is named with its line, phantoms bring their own truth."""

import json
from pathlib import Path

import pytest

from sa2net.data.angles import TrueAngles, TrueCurve, copy_table, read_true_angles
from sa2net.errors import DataError

HEADER = "name,angle_deg,convex,upper_row,lower_row"
PHANTOM = {
    "angle_deg": 31.5,
    "drawn_angle_deg": 35.0,
    "convex": "left",
    "start": 100.5,
    "end": 640.0,
    "region": "thoracic",
}


def table(root: Path, *lines: str, header: str = HEADER) -> Path:
    (root / "angles.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return root


def test_no_file_is_no_truth(tmp_path: Path) -> None:
    assert read_true_angles(tmp_path) == {}


def test_a_row_is_a_curve(tmp_path: Path) -> None:
    found = read_true_angles(table(tmp_path, "a,31.5,right,402,1180", "", "a,12, left ,1200.5,1900", "b,8,left,1,2"))
    assert found == {
        "a": TrueAngles((TrueCurve(31.5, "right", 402.0, 1180.0), TrueCurve(12.0, "left", 1200.5, 1900.0))),
        "b": TrueAngles((TrueCurve(8.0, "left", 1.0, 2.0),)),
    }


def test_other_columns_come_after(tmp_path: Path) -> None:
    root = table(tmp_path, 'a,20,left,1,2,"Dr. Lee, second reading"', header=f"{HEADER},reader")
    assert read_true_angles(root)["a"].curves == (TrueCurve(20.0, "left", 1.0, 2.0),)


def test_a_spreadsheet_writes_a_mark_and_its_own_line_ends(tmp_path: Path) -> None:
    (tmp_path / "angles.csv").write_bytes(f"\ufeff{HEADER}\r\na,20,left,1,2\r\n".encode())
    assert list(read_true_angles(tmp_path)) == ["a"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a,20,left,1", r"line 3 does not fit the header.*4 cells, the header has 5"),
        ("a,20,left,1,2,3", r"line 3 does not fit the header"),
        ("a,steep,left,1,2", r"line 3: 'steep' is no number"),
        ("a,nan,left,1,2", r"line 3: 'nan' is no number"),
        ("a,20,left,1,inf", r"line 3: 'inf' is no number"),
        ("a,,left,1,2", r"line 3: '' is no number"),
        ("a,-3,left,1,2", r"line 3: angle_deg is -3.*0 to 180"),
        ("a,181,left,1,2", r"line 3: angle_deg is 181"),
        ("a,20,Left,1,2", r"line 3: convex is 'Left'.*left, right"),
        ("a,20,left,9,2", r"line 3: the curve ends above its start.*upper_row is 9, lower_row 2"),
        ("a,20,left,2,2", r"line 3: the curve ends above its start"),
        ("../a,20,left,1,2", r"line 3: the name '../a' is a path"),
        (",20,left,1,2", r"line 3: the name ''"),
        ("good,20,left,1,2", r"line 3 repeats a curve of good"),
        ('a,20,left,1,"2', r"line 3 cannot be read"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(DataError, match=rf"angles\.csv, {says}"):
        read_true_angles(table(tmp_path, "good,20,left,1,2", line))


@pytest.mark.parametrize(
    "header", ["", "name,angle_deg", "name,convex,angle_deg,upper_row,lower_row", "Name,angle_deg"]
)
def test_other_first_columns_are_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match=rf"other columns.*{HEADER}"):
        read_true_angles(table(tmp_path, header=header))


def test_what_is_no_text_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "angles.csv").write_bytes(HEADER.encode() + b"\n\xff,1,left,1,2\n")
    with pytest.raises(DataError, match=r"not UTF-8.*byte 42"):
        read_true_angles(tmp_path)
    (tmp_path / "angles.csv").unlink()
    (tmp_path / "angles.csv").mkdir()
    with pytest.raises(DataError, match="not a regular file"):
        read_true_angles(tmp_path)
    (tmp_path / "angles.csv").rmdir()
    (tmp_path / "angles.csv").symlink_to("nothing")
    with pytest.raises(DataError, match="not a regular file"):
        read_true_angles(tmp_path)


def write_phantoms(root: Path, **entries: object) -> None:
    (root / "truth.json").write_text(json.dumps({"schema_version": 1, **entries}), encoding="utf-8")


def test_phantoms_bring_their_truth(tmp_path: Path) -> None:
    write_phantoms(tmp_path, a={"curves": [PHANTOM], "artefacts": {"shadow": {}, "dashes": {}}}, b={}, c={"curves": []})
    curve = TrueCurve(31.5, "left", 100.5, 640.0, 35.0)
    assert read_true_angles(tmp_path) == {"a": TrueAngles((curve,), ("dashes", "shadow"), "truth.json")}


def test_a_reading_counts_before_a_phantom(tmp_path: Path) -> None:
    write_phantoms(tmp_path, a={"curves": [PHANTOM], "artefacts": {"shadow": {}}}, b={"curves": [PHANTOM]})
    found = read_true_angles(table(tmp_path, "a,20,left,1,2"))
    assert found["a"] == TrueAngles((TrueCurve(20.0, "left", 1.0, 2.0),), ("shadow",), "angles.csv")
    assert found["b"].source == "truth.json"


@pytest.mark.parametrize(
    "change", [{"angle_deg": None}, {"convex": "up"}, {"end": 3}, {"start": "x"}, {"drawn_angle_deg": "x"}]
)
def test_a_phantom_that_cannot_be_used_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    write_phantoms(tmp_path, a={"curves": [PHANTOM, PHANTOM | change]})
    with pytest.raises(DataError, match=r"truth\.json, scan a: curve 2"):
        read_true_angles(tmp_path)


@pytest.mark.parametrize("curves", [[{}], ["x"], 3])
def test_curves_of_another_form_are_named(tmp_path: Path, curves: object) -> None:
    write_phantoms(tmp_path, a={"curves": curves})
    with pytest.raises(DataError, match=r"truth\.json, scan a"):
        read_true_angles(tmp_path)


def test_a_copy_under_new_names_keeps_curves_and_no_reader(tmp_path: Path) -> None:
    source, same, new = tmp_path / "source", tmp_path / "same", tmp_path / "new"
    for folder in (source, same, new):
        folder.mkdir()
    table(source, "a,31.5,right,402,1180,Lee", "b,8,left,1,2,Lee", "a,12,left,1200,1900,Lee", header=f"{HEADER},reader")
    copy_table(source, same, {})
    assert (same / "angles.csv").read_bytes() == (source / "angles.csv").read_bytes()
    copy_table(source, new, {"a": "scan_2", "c": "scan_1"})
    assert (new / "angles.csv").read_text() == (
        f"{HEADER}\nscan_2,31.5,right,402.0,1180.0\nscan_2,12.0,left,1200.0,1900.0\n"
    )
    assert read_true_angles(new)["scan_2"] == read_true_angles(source)["a"]


def test_there_may_be_nothing_to_copy(tmp_path: Path) -> None:
    copy_table(tmp_path, tmp_path / "nowhere", {"a": "b"})
    assert list(tmp_path.iterdir()) == []
