"""What a data set claims and what lies there, before any picture is opened.

Lists, table and folders are held against each other; every name that is listed or lies around becomes an entry, and
what speaks against opening its files is kept beside it. Nothing raises: a person wants all faults at once.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sa2net.artifacts import read_json
from sa2net.data.angles import ANGLES_TABLE, read_true_angles
from sa2net.data.layout import (
    MASK_SUFFIX,
    OPTIONAL_SPLITS,
    SCANS_TABLE,
    SPLITS,
    TRUTH,
    Case,
    ScanList,
    ScanTable,
    list_path,
    make_case,
    name_problem,
    read_list,
    read_table,
)
from sa2net.errors import DataError

LISTED, UNLISTED, ORPHAN_MASK, FOREIGN = "listed", "not in the list", "mask without scan", "foreign file"


@dataclass(frozen=True, slots=True)
class Entry:
    """A listed scan, or something in the folders that no list names.

    Attributes:
        place: `LISTED`, `UNLISTED`, `ORPHAN_MASK` or `FOREIGN`.
        scan: Path of the scan relative to the root, or of the foreign file.
        mask: Path of the mask relative to the root.
        name_problem: Why the name cannot be used; its files are then never touched.
        table_problem: What is wrong with its row of `scans.csv`.
        link_problem: Where a link leads out of the data set; its files are then never opened.
    """

    name: str
    split: str
    place: str = LISTED
    subject: str = ""
    device: str = ""
    spacing_mm: tuple[float, float] | None = None
    scan: str = ""
    mask: str = ""
    name_problem: str = ""
    table_problem: str = ""
    link_problem: str = ""

    @property
    def is_safe(self) -> bool:
        """Whether its files may be opened."""
        return self.place == LISTED and not self.name_problem and not self.link_problem


@dataclass(frozen=True, slots=True)
class Support:
    """A list, table or folder; `scans` counts the names of a list, and is None for all else."""

    file: str
    problem: str = ""
    cure: str = ""
    scans: int | None = None


@dataclass(frozen=True)
class Survey:
    """All that a data set claims and holds."""

    root: Path
    entries: tuple[Entry, ...]
    supports: tuple[Support, ...]
    has_table: bool


def take_survey(root: Path, links: Sequence[Path] = ()) -> Survey:
    """Hold lists, table and folders against each other.

    Args:
        root: Folder that holds `dataset/` and `groundtruth/`.
        links: Folders outside of it that links may lead to (a DVC cache).

    Raises:
        DataError: `root` is not a folder.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", action="Name the folder that holds dataset/ and groundtruth/.")
    homes = tuple(folder.resolve() for folder in (root, *links))
    supports = [Support(name, problem, cure) for name, problem, cure in _side_files(root, homes)]
    table = read_table(root) if not _leads_out(root / SCANS_TABLE, homes) else ScanTable()
    if table.problem:
        supports.append(Support(SCANS_TABLE, table.problem, table.cure))
    entries: list[Entry] = []
    for split in SPLITS:
        listed = _list_of(root, split, homes)
        if listed is not None:
            supports.append(Support(listed.path.name, listed.problem, listed.cure, len(listed.names)))
            entries += [_listed_entry(root, split, name, table, homes) for name in listed.names]
        folders = [root / part / split for part in ("dataset", "groundtruth")]
        held = [_files_in(folder, root, supports, needed=listed is not None) for folder in folders]
        entries += _unlisted(split, set(listed.names) if listed else set(), *held)
    entries += _foreign_folders(root)
    return Survey(root, tuple(entries), tuple(supports), table.present)


def _list_of(root: Path, split: str, homes: Iterable[Path]) -> ScanList | None:
    """The list of a split; None where an optional one is absent."""
    path = list_path(root, split)
    if split in OPTIONAL_SPLITS and not os.path.lexists(path):
        return None
    if outside := _leads_out(path, homes):
        return ScanList(split, path, problem=outside, cure="Copy the list itself into the data set.")
    return read_list(root, split)


def _side_files(root: Path, homes: Iterable[Path]) -> Iterable[tuple[str, str, str]]:
    for name in (SCANS_TABLE, TRUTH, ANGLES_TABLE):
        path = root / name
        if os.path.lexists(path) and (outside := _leads_out(path, homes)):
            yield name, outside, "Copy the file itself into the data set."
        elif name == TRUTH and os.path.lexists(path):
            try:
                read_json(path)
            except DataError as error:
                yield name, f"cannot be read ({error.evidence or error.what})", "Write it again or take it away."
        elif name == ANGLES_TABLE and os.path.lexists(path):
            try:
                read_true_angles(root)
            except DataError as error:
                yield name, error.what if not error.evidence else f"{error.what} ({error.evidence})", error.action


def _listed_entry(root: Path, split: str, name: str, table: ScanTable, homes: Iterable[Path]) -> Entry:
    if problem := name_problem(name):
        return Entry(name, split, name_problem=problem)
    case = make_case(root, split, name, table)
    links = [outside for path in (case.scan, case.mask) if (outside := _leads_out(path, homes))]
    return Entry(
        name,
        split,
        LISTED,
        case.subject,
        case.device,
        case.spacing_mm,
        *_relative(root, case),
        table_problem=_table_problem(name, table),
        link_problem=links[0] if links else "",
    )


def _relative(root: Path, case: Case) -> tuple[str, str]:
    return case.scan.relative_to(root).as_posix(), case.mask.relative_to(root).as_posix()


def _table_problem(name: str, table: ScanTable) -> str:
    if not table.present or table.problem:
        return ""
    if name not in table.rows:
        return f"has no row in {SCANS_TABLE}"
    return f"has several rows in {SCANS_TABLE}" if name in table.repeated else table.rows[name].problem


def _leads_out(path: Path, homes: Iterable[Path]) -> str:
    """Where a path leads if that is outside of all `homes`, in words."""
    real = Path(os.path.realpath(path))
    return (
        ""
        if any(real.is_relative_to(home) for home in homes)
        else f"is a link that leads out to {_printable(str(real))}"
    )


def _files_in(folder: Path, root: Path, supports: list[Support], *, needed: bool) -> set[str]:
    try:
        return set(map(_printable, os.listdir(folder)))  # noqa: PTH208 - names alone, of up to 100,000 files
    except OSError as error:
        if needed or not isinstance(error, FileNotFoundError):
            where = folder.relative_to(root).as_posix()
            problem = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            supports.append(Support(where, problem, "Make it a readable folder."))
        return set()


def _unlisted(split: str, listed: set[str], scans: set[str], masks: set[str]) -> list[Entry]:
    """What lies in the two folders of a split and belongs to no listed name."""
    scan_names = {name.removesuffix(".png"): name for name in scans if name.endswith(".png")}
    ending = f"{MASK_SUFFIX}.png"
    mask_names = {name.removesuffix(ending): name for name in masks if name.endswith(ending)}
    unlisted = [
        Entry(name, split, UNLISTED, scan=f"dataset/{split}/{scan_names[name]}")
        for name in sorted(scan_names.keys() - listed)
    ]
    orphans = [
        Entry(name, split, ORPHAN_MASK, mask=f"groundtruth/{split}/{mask_names[name]}")
        for name in sorted(mask_names.keys() - listed - scan_names.keys())
    ]
    strays = [f"dataset/{split}/{name}" for name in scans - set(scan_names.values())]
    strays += [f"groundtruth/{split}/{name}" for name in masks - set(mask_names.values())]
    return unlisted + orphans + [Entry(Path(stray).name, split, FOREIGN, scan=stray) for stray in sorted(strays)]


def _foreign_folders(root: Path) -> list[Entry]:
    """What lies beside the folders of the splits."""
    found = []
    for part in ("dataset", "groundtruth"):
        folder = root / part
        try:
            names = sorted(map(_printable, os.listdir(folder)))  # noqa: PTH208
        except OSError:
            continue  # its missing split folders are reported already
        found += [Entry(name, "", FOREIGN, scan=f"{part}/{name}") for name in names if name not in SPLITS]
    return found


def _printable(name: str) -> str:
    """A file name as text: control characters, line breaks and bytes that are no UTF-8 are escaped."""
    return name if name.isprintable() else ascii(name)[1:-1]
