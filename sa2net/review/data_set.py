"""Reviewed scans as a data set in the project's layout: ready to validate, and to train on."""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sa2net.artifacts import file_sha256, read_json, write_text
from sa2net.data.angles import ANGLES_COLUMNS, ANGLES_TABLE
from sa2net.data.layout import SCANS_TABLE, ScanRow, list_path, mask_path, name_problem, read_table_file, scan_path
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.errors import DataError
from sa2net.review.masks import Picture, corrected_mask
from sa2net.review.record import Review
from sa2net.review.store import latest_review
from sa2net.scoliosis import Measurement
from sa2net.scoliosis.folder import RESULT, mask_file, scan_file

_TEST_SHARE = 0.2
_FEWEST = 3


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        names: Name of each scan in the results -> its name in the data set.
        problems: Scans that could not be written, in words.
    """

    names: dict[str, str]
    problems: tuple[str, ...]


def write_data_set(results: Path, out: Path, *, subjects: Path | None = None) -> Exported:
    """Write scans, corrected masks and angles of every scan whose latest review accepts or corrects it.

    A fifth of the subjects, drawn by the hash of their names, goes to `test` with all their scans, the others to
    `train`. Where no table names the subjects, each scan counts as a subject of its own until a person fills in
    `scans.csv` and looks at the lists. A name that a data set cannot hold is replaced by one made of its hash.

    Args:
        results: Folder that `sa2net measure` wrote.
        out: New data root; absent or empty.
        subjects: Table of the form of `scans.csv`: at least `name` and `subject` of every scan; `device` is kept too.

    Raises:
        DataError: Fewer than three scans (or subjects) are accepted or corrected, `out` is not empty, or the table
            cannot be read or lacks a scan.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not an empty folder", action="Name a new one.")
    reviews, problems = _usable(results)
    known = {name: ScanRow(subject=name) for name in reviews} if subjects is None else _rows(subjects, reviews)
    in_test = _drawn(results, known)
    names = {name: name if not name_problem(name) else f"scan_{_digest(name)[:12]}" for name in reviews}
    scans: list[Sequence[object]] = []
    angles: list[Sequence[object]] = []
    for name, review in reviews.items():
        plain, split = names[name], "test" if in_test[name] else "train"
        measured, scan, mask = _read(results, name, review)
        write_png(scan_path(out, split, plain), scan)
        write_png(mask_path(out, split, plain), corrected_mask(mask, measured, review.levels))
        person, device = (plain, "") if subjects is None else (known[name].subject, known[name].device)
        scans.append((plain, person, device, measured.spacing.x_mm or "", measured.spacing.y_mm or ""))
        angles += [
            (plain, curve.angle_deg, curve.convex, curve.upper_row, curve.lower_row, curve.ends)
            for curve in review.curves
        ]
    for split, wanted in (("train", False), ("test", True)):
        listed = [names[name] for name in reviews if in_test[name] is wanted]
        write_text(list_path(out, split), "".join(f"{name}\n" for name in listed))
    write_text(out / SCANS_TABLE, _table(("name", "subject", "device", "spacing_x_mm", "spacing_y_mm"), scans))
    write_text(out / ANGLES_TABLE, _table((*ANGLES_COLUMNS, "ends"), angles))
    return Exported(names, problems)


def _usable(results: Path) -> tuple[dict[str, Review], tuple[str, ...]]:
    """The latest review of each scan that can be written, and why others cannot.

    Raises:
        DataError: They are too few.
    """
    problems: list[str] = []
    reviews: dict[str, Review] = {}
    for path in sorted(results.glob(f"*{RESULT}")):
        name = path.name.removesuffix(RESULT)
        try:
            review = latest_review(results, name).review
            if review is not None and review.decision != "refused":
                _read(results, name, review)
                reviews[name] = review
        except DataError as error:
            problems.append(f"{name!r}: {error}")
    if len(reviews) < _FEWEST:
        raise DataError(
            f"{results} holds {len(reviews)} scan{'' if len(reviews) == 1 else 's'} accepted or corrected, a data set needs {_FEWEST}",
            evidence="; ".join(problems[:3]),
            action="Review more scans: train, val and test need one each.",
        )
    return reviews, tuple(problems)


def _drawn(results: Path, known: Mapping[str, ScanRow]) -> dict[str, bool]:
    """Whether each scan goes to `test`: all scans of a subject together.

    Raises:
        DataError: The subjects are too few.
    """
    people = sorted({row.subject for row in known.values()}, key=_digest)
    if len(people) < _FEWEST:
        raise DataError(
            f"{results} holds {len(known)} scans accepted or corrected, of {len(people)} subject{'' if len(people) == 1 else 's'}",
            evidence=f"a data set that is split by subject needs {_FEWEST}: train, val and test one each",
            action="Review scans of more subjects, or mend the table of the subjects.",
        )
    in_test = people[: max(1, round(_TEST_SHARE * len(people)))]
    return {name: row.subject in in_test for name, row in known.items()}


def _rows(path: Path, names: Iterable[str]) -> dict[str, ScanRow]:
    """What the table says of each scan.

    Raises:
        DataError: It cannot be read, or says nothing, too much or nonsense of one of the scans.
    """
    table = read_table_file(path)
    problem = table.problem if table.present else "is not there"
    if problem:
        raise DataError(f"{path} {problem}", action=table.cure or "Name the table of the subjects.")
    wanted = list(names)
    faults = [f"{name!r} has no row" for name in wanted if name not in table.rows]
    faults += [f"{name!r} has several rows" for name in wanted if name in table.repeated]
    faults += [
        f"{name!r} {table.rows[name].problem}" for name in wanted if name in table.rows and table.rows[name].problem
    ]
    if faults:
        raise DataError(
            f"{path} does not name the subject of {len(faults)} of {len(wanted)} scans",
            evidence="; ".join(faults[:3]),
            action="Give every reviewed scan one row with its name and subject.",
        )
    return {name: table.rows[name] for name in wanted}


def _read(results: Path, name: str, review: Review) -> tuple[Measurement, Picture, Picture]:
    """Measurement, scan and mask of a review.

    Raises:
        DataError: They cannot be read, do not fit each other, or are not those that were reviewed.
    """
    path = results / f"{name}{RESULT}"
    if file_sha256(path) != review.measure_sha256:
        raise DataError(
            f"{path} is not what was reviewed", evidence="it was measured again since", action="Review it again."
        )
    try:
        measured = Measurement.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(f"{path} is no measurement", evidence=str(error), action="Measure the scan again.") from error
    scan = read_scan(scan_file(results, name))
    mask = read_mask(mask_file(results, name))
    if scan.shape != mask.shape or scan.shape != (measured.height, measured.width):
        raise DataError(f"scan, mask and measurement of {name!r} differ in size", action="Measure it again.")
    return measured, scan, mask


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([columns, *rows])
    return stream.getvalue()
