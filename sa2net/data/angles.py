"""True curves of a data set: read by people (`angles.csv`), or known since the scans were drawn (`truth.json`).

`angles.csv` lies beside `dataset/` and has one row a curve::

    name,angle_deg,convex,upper_row,lower_row[,any others]
    patient_07,31.5,right,402,1180

`convex` is the side of the picture to which the curve bulges, the rows are those of its ends in px of the scan. A scan
without a row there has no truth, unless it is a phantom. Where both files name a scan, the table counts.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sa2net.data.layout import TRUTH, name_problem, read_truth
from sa2net.errors import DataError

ANGLES_TABLE = "angles.csv"
ANGLES_COLUMNS = ("name", "angle_deg", "convex", "upper_row", "lower_row")
"""The first columns of `angles.csv`, in this order."""

_MOST_BYTES = 50_000_000
_AGAIN = "Draw the phantoms again, or take the file away."
_FORM = f"Write it as UTF-8 CSV, one row a curve, that begins with the columns {','.join(ANGLES_COLUMNS)}."


@dataclass(frozen=True)
class TrueCurve:
    """One curve as it is.

    Attributes:
        angle_deg: Its angle, degrees.
        convex: Side of the picture to which it bulges.
        upper_row: Row of its upper end, px.
        lower_row: Row of its lower end, px.
        drawn_angle_deg: Of a phantom: the angle between its drawn lines, degrees; None where there are none.
    """

    angle_deg: float
    convex: Literal["left", "right"]
    upper_row: float
    lower_row: float
    drawn_angle_deg: float | None = None


@dataclass(frozen=True)
class TrueAngles:
    """What is true of one scan.

    Attributes:
        curves: Its curves, at least one.
        artefacts: Of a phantom: the families of artefacts that it shows.
        source: The file that says so.
    """

    curves: tuple[TrueCurve, ...]
    artefacts: tuple[str, ...] = ()
    source: str = ANGLES_TABLE


def read_true_angles(root: Path) -> dict[str, TrueAngles]:
    """True curves by scan name; empty where nothing is known.

    Args:
        root: Folder that holds `dataset/` and `groundtruth/`.

    Raises:
        DataError: A file that cannot be used; the message says which line.
    """
    known: dict[str, TrueAngles] = {}
    for name, drawn in read_truth(root).items():
        if isinstance(drawn, Mapping) and drawn.get("curves"):
            artefacts = drawn.get("artefacts")
            families = tuple(sorted(map(str, artefacts))) if isinstance(artefacts, Mapping) else ()
            known[name] = TrueAngles(drawn_curves(drawn, f"{root / TRUTH}, scan {name}"), families, TRUTH)
    for name, curves in _read_table(root / ANGLES_TABLE).items():
        families = known[name].artefacts if name in known else ()
        known[name] = TrueAngles(tuple(curves), families)
    return known


def copy_table(source: Path, folder: Path, names: Mapping[str, str]) -> None:
    """Copy `angles.csv` from one data set to another; nothing where there is none.

    Args:
        source: Folder that holds it.
        folder: Folder that takes it.
        names: Name -> new name. Empty copies the file as it is; else scans without a new name and columns that are not
            ours, which may name a reader, are left out, and the rows are put in the order of the new names.

    Raises:
        DataError: The table cannot be used.
    """
    curves = _read_table(source / ANGLES_TABLE)
    if not curves:
        return
    if not names:
        (folder / ANGLES_TABLE).write_bytes((source / ANGLES_TABLE).read_bytes())
        return
    with (folder / ANGLES_TABLE).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(ANGLES_COLUMNS)
        for new, name in sorted((names[name], name) for name in curves if name in names):
            for curve in curves[name]:
                cells = (curve.angle_deg, curve.convex, curve.upper_row, curve.lower_row)
                writer.writerow((new, *cells))


def drawn_curves(drawn: Mapping[str, Any], place: str = TRUTH) -> tuple[TrueCurve, ...]:
    """The curves of one scan as `truth.json` has them.

    Args:
        drawn: The scan's entry.
        place: Where it stands, for the message.

    Raises:
        DataError: A curve lacks something, or says what cannot be.
    """
    if not isinstance(drawn["curves"], list):
        raise DataError(f"{place} has curves that are no list", action=_AGAIN)
    curves = []
    for number, item in enumerate(drawn["curves"], start=1):
        try:
            cells = [item[key] for key in ("angle_deg", "convex", "start", "end")]
            drawn_angle = None if (value := item.get("drawn_angle_deg")) is None else float(value)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}: curve {number} cannot be used", evidence=repr(error), action=_AGAIN) from error
        curves.append(_curve(cells, f"{place}: curve {number}", _AGAIN, drawn_angle))
    return tuple(curves)


def _read_table(path: Path) -> dict[str, list[TrueCurve]]:
    """The rows of `angles.csv` by scan; empty where there is no such file."""
    if not path.exists() and not path.is_symlink():
        return {}
    lines = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    curves: dict[str, list[TrueCurve]] = {}
    try:
        header = next(lines, [])
        if tuple(header[: len(ANGLES_COLUMNS)]) != ANGLES_COLUMNS:
            raise DataError(
                f"{path} has other columns", evidence=f"it begins with {','.join(header[:8])}", action=_FORM
            )
        for cells in lines:
            if any(cell.strip() for cell in cells):
                _add_row(curves, cells, len(header), f"{path}, line {lines.line_num}")
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num} cannot be read", evidence=str(error), action=_FORM) from error
    return curves


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise DataError(f"{path} is not a regular file", action="Put the table itself there.")
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path} is too large for a table of curves", action=_FORM)
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8", evidence=f"byte {error.start}", action=_FORM) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read", evidence=str(error.strerror), action="Make it readable.") from error


def _add_row(curves: dict[str, list[TrueCurve]], cells: list[str], columns: int, place: str) -> None:
    if len(cells) != columns:
        raise DataError(
            f"{place} does not fit the header",
            evidence=f"{len(cells)} cells, the header has {columns}",
            action="Mend the line.",
        )
    name = cells[0].strip()
    if problem := name_problem(name):
        raise DataError(f"{place}: the name {name!r} {problem}", action="Write the scan's name without path or .png.")
    curve = _curve(cells[1 : len(ANGLES_COLUMNS)], place, "Mend the line.")
    known = curves.setdefault(name, [])
    if curve in known:
        raise DataError(f"{place} repeats a curve of {name}", action="Take one of the two lines out.")
    known.append(curve)


def _curve(cells: Iterable[Any], place: str, cure: str, drawn_angle: float | None = None) -> TrueCurve:
    """One curve from angle, side, upper and lower row, as text or numbers."""
    angle_text, side, *row_texts = cells
    angle, upper, lower = (_number(text, place, cure) for text in (angle_text, *row_texts))
    convex = str(side).strip()
    if convex not in ("left", "right"):
        raise DataError(f"{place}: convex is {convex!r}", evidence="allowed: left, right", action=cure)
    if not 0.0 <= angle <= 180.0:
        raise DataError(f"{place}: angle_deg is {angle:g}", evidence="allowed: 0 to 180", action=cure)
    if not upper < lower:
        evidence = f"upper_row is {upper:g}, lower_row {lower:g}; rows count from the top"
        raise DataError(f"{place}: the curve ends above its start", evidence=evidence, action=cure)
    return TrueCurve(angle, "left" if convex == "left" else "right", upper, lower, drawn_angle)


def _number(text: Any, place: str, cure: str) -> float:
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{place}: {text!r} is no number", action=cure)
    return value
