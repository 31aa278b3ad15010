"""DICOM scans with masks beside them, laid out as a data set of this project, so that import can check and copy it.

What headers say of persons goes into no message, and into no file until the data set is known to be good: until then a
subject is called after one of its scans.
"""

import csv
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sa2net.config import ValidateConfig
from sa2net.data.angles import ANGLES_TABLE
from sa2net.data.dicom import DicomScan, Spacing, read_dicom
from sa2net.data.dicom_header import NAME_NOTE, fault, number_holds_name
from sa2net.data.dicom_segmentation import decode_segmentation, join_planes
from sa2net.data.dicom_sources import SourceFiles, find_files, masks_of
from sa2net.data.layout import (
    SCANS_TABLE,
    SPLITS,
    TRUTH,
    ScanRow,
    list_path,
    mask_path,
    name_problem,
    read_list,
    read_table,
    scan_path,
)
from sa2net.data.manifest import hold_out
from sa2net.data.pictures import read_bytes, read_mask, write_png
from sa2net.errors import ConfigError, DataError

COLUMNS = ("name", "subject", "device", "spacing_x_mm", "spacing_y_mm")

_NAMED = 20  # faults in a message


@dataclass(frozen=True)
class Brought:
    """One scan as it was read; its picture lies in the new folder already.

    Attributes:
        name: Its name in the data set.
        path: The file it came from.
        uid: By which segmentations refer to it.
        subject: The patient's number, or what the table says; empty where nobody says.
        device: Scanner.
        spacing_mm: Size of a pixel (x, y), mm.
        notes: What a person should know.
    """

    name: str
    path: Path
    uid: str
    subject: str
    device: str
    spacing_mm: Spacing | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class LaidOut:
    """A data set made of DICOM scans.

    Attributes:
        folder: Its root. `scans.csv` names subjects after their first scans.
        warnings: What a person should look at; they name scans, and hold nothing of a header.
        subjects: Subject in `scans.csv` -> the patient's number. Never shown.
    """

    folder: Path
    warnings: tuple[str, ...]
    subjects: Mapping[str, str] = field(repr=False)

    def reveal(self) -> None:
        """Write the patients' numbers into `scans.csv`."""
        path = self.folder / SCANS_TABLE
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        _write_table(path, ({**row, "subject": self.subjects[row["subject"]]} for row in rows))


def lay_out(
    sources: Sequence[Path],
    folder: Path,
    cfg: ValidateConfig,
    *,
    test_fraction: float | None,
    nameless: bool,
    progress: bool = True,
) -> LaidOut:
    """Read DICOM scans and their masks, and write them as a data set.

    Args:
        sources: Folders, looked through whole, and files. Lists and tables are looked for in the one folder among them.
        folder: Where to write; empty.
        cfg: Limits of size, and the seed of the split.
        test_fraction: Share of the subjects whose scans become the test split, where there are no lists.
        nameless: The data set will be pseudonymised: refuse pictures that show of whom they are.
        progress: Show a progress bar.

    Raises:
        DataError: A file cannot be used, or a scan has no mask; all of them are named at once.
        ConfigError: Neither lists nor a share, or both; pydicom is not installed.
    """
    root = _only_folder(sources)
    lists = _read_lists(root, test_fraction)
    rows = _read_rows(root)
    files = find_files(sources, max_pixels=cfg.max_pixels)
    faults = list(files.faults)
    scans: list[Brought] = []
    for path, name in tqdm(files.scans.items(), desc="reading DICOM", unit="scan", disable=not progress):
        try:
            scan = _bring(path, name, rows.get(name), folder, cfg, nameless=nameless)
            _bring_mask(scan, files, folder, cfg)
            scans.append(scan)
        except DataError as error:
            faults.append(str(error))
    _require([*faults, *_list_faults(lists, set(files.scans.values()))])
    splits = lists or _split(scans, test_fraction or 0.0, cfg.split_seed)
    subjects = _write(scans, splits, folder)
    if root is not None:
        for name in (ANGLES_TABLE, TRUTH):
            if (root / name).is_file():
                (folder / name).write_bytes(read_bytes(root / name))
    return LaidOut(folder, _warnings(scans, files, nameless=nameless), subjects)


def _only_folder(sources: Sequence[Path]) -> Path | None:
    folders = [source for source in sources if source.is_dir()]
    return folders[0] if len(folders) == 1 else None


def _read_lists(root: Path | None, test_fraction: float | None) -> dict[str, tuple[str, ...]]:
    """Split -> names, by the lists; empty where there are none and a share was given."""
    present = [split for split in SPLITS if root is not None and os.path.lexists(list_path(root, split))]
    if present and test_fraction is not None:
        raise ConfigError("there are lists of scans already", action="Leave --test-fraction out, or take them away.")
    if root is None or not present:
        if test_fraction is None:
            raise ConfigError(
                "nothing says which scans train and which test",
                action="Write train.txt and test.txt, one scan name a line, into the folder, or give --test-fraction 0.3.",
            )
        return {}
    found = {split: read_list(root, split) for split in present}
    for listed in found.values():
        if listed.problem:
            raise DataError(f"{listed.path} {listed.problem}", action=listed.cure)
    return {split: listed.names for split, listed in found.items()}


def _read_rows(root: Path | None) -> Mapping[str, ScanRow]:
    """Rows of a `scans.csv` beside the scans; what it says wins over headers."""
    if root is None:
        return {}
    table = read_table(root)
    problems = [f"{name} {row.problem}" for name, row in table.rows.items() if row.problem]
    problems += [f"{name} has several rows" for name in table.repeated]
    if table.problem or problems:
        raise DataError(
            f"{root / SCANS_TABLE} {table.problem or 'has rows that cannot be used'}",
            evidence="; ".join(problems[:_NAMED]),
            action=table.cure or "Mend the rows, or take them out.",
        )
    return table.rows


def _bring(path: Path, name: str, row: ScanRow | None, folder: Path, cfg: ValidateConfig, *, nameless: bool) -> Brought:
    """Read one scan, write its picture, and say what is known of it."""
    if problem := name_problem(name):
        raise fault(path, f"the name {name!r} {problem}", "Rename the file.")
    found = read_dicom(path, max_pixels=cfg.max_pixels)
    if found.annotated and nameless:
        reason = "its header says that the picture shows of whom it is (BurnedInAnnotation)"
        raise fault(path, reason, "Cover what is burnt in, and export it again.")
    spacing = row.spacing_mm if row and row.spacing_mm else found.spacing_mm
    if spacing is None and not found.square:
        said = "; ".join((*found.notes, "it says that its pixels are not square, and not how large they are"))
        raise fault(path, said, f"Give their size in a {SCANS_TABLE} beside the scans.")
    place = _picture(folder, name)
    if place.exists():
        raise fault(path, "another scan has the same name", "Rename one of them.")
    write_png(place, found.grey)
    subject = row.subject if row else _patient(path, found, nameless=nameless)
    device = row.device if row and row.device else found.device
    notes = (*found.notes, *(("its header says that the picture shows of whom it is",) if found.annotated else ()))
    return Brought(name, path, str(found.header.get("SOPInstanceUID", "")), subject, device, spacing, notes)


def _patient(path: Path, found: DicomScan, *, nameless: bool) -> str:
    """The patient's number; never one that is a name, unless it will be replaced."""
    number = str(found.header.get("PatientID", "")).strip()
    if not nameless and number_holds_name(found.header):
        raise fault(
            path,
            "the number of the patient holds the patient's name",
            f"Import with --pseudonymise, or give the subject in a {SCANS_TABLE} beside the scans.",
        )
    if not number.isprintable():
        raise fault(
            path, "the number of the patient holds a control character", f"Give the subject in a {SCANS_TABLE}."
        )
    return number


def _picture(folder: Path, name: str) -> Path:
    """Where a scan waits until its split is known."""
    return folder / "waiting" / "scans" / f"{name}.png"


def _mask(folder: Path, name: str) -> Path:
    return folder / "waiting" / "masks" / f"{name}.png"


def _bring_mask(scan: Brought, files: SourceFiles, folder: Path, cfg: ValidateConfig) -> None:
    """Write the mask of a scan. A PNG is copied; where there is a segmentation too, both must hold the same."""
    picture, drawn = masks_of(scan.path, scan.uid, files)
    target = _mask(folder, scan.name)
    if drawn:
        parts = [decode_segmentation(part, scan.uid, max_pixels=cfg.max_pixels) for part in drawn]
        mask = join_planes(scan.path, parts)
        if picture is not None and not np.array_equal(read_mask(picture, max_pixels=cfg.max_pixels), mask):
            raise fault(scan.path, "its PNG mask and its segmentation differ", "Keep the one that is right.")
        write_png(target, mask)
    elif picture is not None:
        content = read_bytes(picture, max_pixels=cfg.max_pixels)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)


def _list_faults(lists: Mapping[str, Sequence[str]], names: set[str]) -> list[str]:
    """Names without a scan, scans without a line."""
    if not lists:
        return []
    listed = {name for members in lists.values() for name in members}
    faults = [f"{name} is listed, and there is no scan of that name." for name in sorted(listed - names)]
    return faults + [f"{name} is in no list. Add it, or move the file away." for name in sorted(names - listed)]


def _require(faults: Sequence[str]) -> None:
    if faults:
        rest = len(faults) - _NAMED
        more = f"\n- ... and {rest} more" if rest > 0 else ""
        lines = "".join(f"\n- {text}" for text in faults[:_NAMED])
        raise DataError(
            f"the DICOM files cannot be brought in, faults: {len(faults)}",
            evidence=lines + more,
            action="\nNothing was copied.",
        )


def _split(scans: Sequence[Brought], fraction: float, seed: int) -> dict[str, tuple[str, ...]]:
    """A seeded share of the subjects as test split, all others as train split."""
    subjects = {scan.subject or scan.name for scan in scans}
    if len(subjects) < 2:
        raise DataError(
            f"{len(scans)} scans of {len(subjects)} subjects cannot be split",
            action=f"Bring scans of at least two persons; subjects may be given in a {SCANS_TABLE} beside the scans.",
        )
    test = hold_out(subjects, fraction, seed)
    parts: dict[str, tuple[str, ...]] = {"train": (), "test": ()}
    for scan in scans:
        split = "test" if (scan.subject or scan.name) in test else "train"
        parts[split] = (*parts[split], scan.name)
    return parts


def _write(scans: Sequence[Brought], splits: Mapping[str, Sequence[str]], folder: Path) -> dict[str, str]:
    """Put pictures into their places and write lists and table; return what the subjects in it stand for."""
    for split, names in splits.items():
        list_path(folder, split).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        for waiting, place in ((_picture, scan_path), (_mask, mask_path)):
            for name in dict.fromkeys(names):
                target = place(folder, split, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                if (path := waiting(folder, name)).exists():  # gone where two lists name it, which the checks tell
                    path.rename(target)
    shutil.rmtree(folder / "waiting")
    called: dict[str, str] = {}
    for scan in scans:
        called.setdefault(scan.subject or scan.name, f"person of {scan.name}")
    rows = []
    for scan in scans:
        x_mm, y_mm = scan.spacing_mm or ("", "")
        row = dict(zip(COLUMNS, (scan.name, called[scan.subject or scan.name], scan.device, x_mm, y_mm), strict=True))
        rows.append(row)
    _write_table(folder / SCANS_TABLE, rows)
    return {word: subject for subject, word in called.items()}


def _write_table(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _warnings(scans: Sequence[Brought], files: SourceFiles, *, nameless: bool) -> tuple[str, ...]:
    said: dict[str, list[str]] = {}
    for scan in scans:
        for note in scan.notes:
            if not (nameless and note == NAME_NOTE):  # pseudonyms replace these names
                said.setdefault(note, []).append(scan.name)
        if not scan.subject:
            said.setdefault("no number of a patient: each counts as a person of its own", []).append(scan.name)
    warnings = [f"{_shown(names)}: {note}." for note, names in said.items()]
    uids = {scan.uid for scan in scans}
    if idle := sum(not uids & found.frames.keys() for found in files.segmentations):
        warnings.append(f"{idle} segmentations refer to no scan of this import.")
    if files.passed_over:
        warnings.append(f"{files.passed_over} files are neither scan nor mask (reports, other pictures): left out.")
    return tuple(warnings)


def _shown(names: Sequence[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")
