"""The data set on disk: which file lies where, and how its lists and tables are read.

Every reader of a data set comes through here, so that one place decides what a safe name is, and what a user is told
when it is not. The pictures themselves: `pictures`.

    ROOT/train.txt  test.txt  [val.txt]          one name a line
    ROOT/dataset/SPLIT/NAME.png                  scan, 8-bit grey
    ROOT/groundtruth/SPLIT/NAME_bone_3.png       mask, 8-bit, class ids, 255 = ignored
    ROOT/[scans.csv]  [truth.json]               who, which device, pixel spacing; truth of drawn phantoms
    ROOT/[angles.csv]                            curves as people read them
"""

import csv
import io
import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sa2net.artifacts import read_json
from sa2net.errors import DataError

SPLITS = ("train", "val", "test")
OPTIONAL_SPLITS = ("val",)
MASK_SUFFIX = "_bone_3"
SCANS_TABLE = "scans.csv"
TRUTH = "truth.json"

_FORBIDDEN = frozenset('/\\:*?"<>|')
_MAX_NAME_BYTES = 200  # leaves room for suffixes below the 255 bytes of a file name


@dataclass(frozen=True)
class Case:
    """One scan with its mask.

    Attributes:
        name: File name without suffix; the scan's key everywhere.
        split: One of `SPLITS`.
        subject: Person scanned; the name itself where nothing says more.
        scan: Path of the scan.
        mask: Path of the mask.
        device: Scanner, empty where unknown.
        spacing_mm: Size of a pixel (x, y), mm; None where unknown.
    """

    name: str
    split: str
    subject: str
    scan: Path
    mask: Path
    device: str = ""
    spacing_mm: tuple[float, float] | None = None


@dataclass(frozen=True)
class ScanList:
    """A list file as it was found; `problem` is empty where it could be read."""

    split: str
    path: Path
    names: tuple[str, ...] = ()
    problem: str = ""
    cure: str = ""


@dataclass(frozen=True)
class ScanRow:
    """One row of `scans.csv`; `problem` says what is wrong with it, in words."""

    subject: str
    device: str = ""
    spacing_mm: tuple[float, float] | None = None
    problem: str = ""


@dataclass(frozen=True)
class ScanTable:
    """`scans.csv` as it was found; `present` is False where there is none."""

    present: bool = False
    rows: Mapping[str, ScanRow] = field(default_factory=dict)
    repeated: tuple[str, ...] = ()
    problem: str = ""
    cure: str = ""


def scan_path(root: Path, split: str, name: str) -> Path:
    """Where the scan of a name lies."""
    return root / "dataset" / split / f"{name}.png"


def mask_path(root: Path, split: str, name: str) -> Path:
    """Where the mask of a name lies."""
    return root / "groundtruth" / split / f"{name}{MASK_SUFFIX}.png"


def list_path(root: Path, split: str) -> Path:
    """Where the list of a split lies."""
    return root / f"{split}.txt"


def name_problem(name: str) -> str:
    """Why a name cannot be used, empty where it can: it must be one plain file name on every system."""
    if name in ("", ".", "..") or _FORBIDDEN & set(name):
        return "is a path or holds a character that file names cannot hold"
    if not name.isprintable():
        return "holds a control or invisible character"
    if name[0] in ".-=+@ " or name[-1] in ". ":
        return "starts or ends with a character that shells or spreadsheets act on"
    if len(name.encode()) > _MAX_NAME_BYTES:
        return f"is longer than {_MAX_NAME_BYTES} bytes"
    return ""


def data_root(folder: Path) -> Path:
    """The one folder, `folder` or below, that holds `dataset/` and `groundtruth/`.

    Raises:
        DataError: There is none, or more than one.
    """
    found = []
    for place, names, _ in os.walk(folder):
        if {"dataset", "groundtruth"} <= set(names):
            found.append(Path(place))
            names[:] = [name for name in names if name not in ("dataset", "groundtruth")]
        names.sort()
    if len(found) == 1:
        return found[0]
    shown = ", ".join(str(path.relative_to(folder)) for path in found[:3])
    raise DataError(
        f"{folder} holds {'no data set' if not found else f'{len(found)} data sets'}",
        evidence=shown or "no folder in it holds dataset/ and groundtruth/",
        action="Name a folder that holds one data set, with dataset/ and groundtruth/ in it.",
    )


def read_list(root: Path, split: str) -> ScanList:
    """Read a list file; what is wrong with the file as a whole is kept in `problem`. Names are not judged."""
    path = list_path(root, split)
    try:
        text = _read_small_file(path).decode("utf-8-sig")
    except FileNotFoundError:
        return ScanList(split, path, problem="is missing", cure="Write it, one scan name a line.")
    except UnicodeDecodeError as error:
        evidence = f"is not UTF-8 (byte {error.start})"
        return ScanList(split, path, problem=evidence, cure="Save it again as UTF-8 text.")
    except OSError as error:
        return ScanList(split, path, problem=f"cannot be read ({error.strerror})", cure="Make it a readable text file.")
    lines = (line.removesuffix("\r").strip(" \t") for line in text.split("\n"))
    return ScanList(split, path, tuple(line for line in lines if line))


def read_table(root: Path) -> ScanTable:
    """Read `scans.csv`; what is wrong is kept in the table or its rows."""
    return read_table_file(root / SCANS_TABLE)


def read_table_file(path: Path) -> ScanTable:
    """Read a table of the form of `scans.csv` that may lie anywhere."""
    if not os.path.lexists(path):
        return ScanTable()
    try:
        reader = csv.DictReader(io.StringIO(_read_small_file(path).decode("utf-8-sig"), newline=""), strict=True)
        missing = [key for key in ("name", "subject") if key not in (reader.fieldnames or ())]
        if missing:
            return ScanTable(True, problem=f"lacks the column {' and '.join(missing)}", cure=_TABLE_CURE)
        found = [(str(row["name"] or "").strip(), _read_row(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return ScanTable(True, problem=f"cannot be read ({error})", cure=_TABLE_CURE)
    rows: dict[str, ScanRow] = {}
    repeated = []
    for name, row in found:
        if name in rows:
            repeated.append(name)
        rows.setdefault(name, row)
    return ScanTable(True, rows, tuple(dict.fromkeys(repeated)))


_TABLE_CURE = "Save it as UTF-8 CSV with the columns name,subject,device,spacing_x_mm,spacing_y_mm."


def read_cases(root: Path, splits: Sequence[str] = SPLITS) -> list[Case]:
    """The scans that the lists name, split by split, each in list order. No picture is opened.

    Args:
        root: Folder that holds `dataset/` and `groundtruth/`.
        splits: Which lists are read; `val` may be absent.

    Raises:
        DataError: A list or `scans.csv` is missing, unreadable, or holds a name that cannot be used.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", action="Name the folder that holds dataset/ and groundtruth/.")
    table = read_table(root)
    if table.problem:
        raise DataError(f"{root / SCANS_TABLE} {table.problem}", action=table.cure)
    cases: list[Case] = []
    seen: set[str] = set()
    for split in splits:
        if split in OPTIONAL_SPLITS and not os.path.lexists(list_path(root, split)):
            continue
        listed = read_list(root, split)
        if listed.problem:
            raise DataError(f"{listed.path} {listed.problem}", action=listed.cure)
        for name in listed.names:
            problem = name_problem(name) or ("is listed twice" if name in seen else "")
            if problem:
                raise DataError(f"{listed.path}: {name!r} {problem}", action="Mend the list.")
            seen.add(name)
            cases.append(make_case(root, split, name, table))
    return cases


def make_case(root: Path, split: str, name: str, table: ScanTable) -> Case:
    """The case of one listed name, with what `scans.csv` knows of it."""
    row = table.rows.get(name, ScanRow(subject=name))
    paths = scan_path(root, split, name), mask_path(root, split, name)
    return Case(name, split, row.subject or name, *paths, row.device, row.spacing_mm)


def read_truth(root: Path) -> dict[str, Any]:
    """`truth.json` of a phantom data set, keyed by scan name; empty where there is none."""
    path = root / TRUTH
    return read_json(path) if path.exists() else {}


def _read_small_file(path: Path) -> bytes:
    """Content of a list or table; a pipe or device in its place would never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "not a regular file")
    return path.read_bytes()


def _read_row(row: Mapping[str | Any, Any]) -> ScanRow:
    subject = str(row["subject"] or "").strip()
    device = str(row.get("device") or "").strip()
    texts = [str(row.get(key) or "").strip() for key in ("spacing_x_mm", "spacing_y_mm")]
    problem = "" if subject else "has no subject"
    if not (subject + device).isprintable():
        return ScanRow(ascii(subject), ascii(device), None, "has a subject or device with a control character")
    if not any(texts):
        return ScanRow(subject, device, None, problem)
    try:
        x_mm, y_mm = (float(text) for text in texts)
    except ValueError:
        return ScanRow(subject, device, None, f"has the spacing {texts[0]!r} x {texts[1]!r} mm, not two numbers")
    if not (math.isfinite(x_mm) and math.isfinite(y_mm)):
        return ScanRow(subject, device, None, f"has the spacing {texts[0]!r} x {texts[1]!r} mm, not two numbers")
    return ScanRow(subject, device, (x_mm, y_mm), problem)
