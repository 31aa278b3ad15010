"""The checks of the data contract, as data: what must hold, how it is expressed, and what to do where it does not.

A `failure` makes training wrong or impossible and stops the line. A `warning` may be right for a given patient or
site - outside the ranges seen in train, a near copy inside one split - and is listed for a person to judge.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sa2net.anatomy import CLASSES, FOREGROUND
from sa2net.artifacts import DataBounds, Range
from sa2net.config import ValidateConfig
from sa2net.data.pictures import PICTURE_FAULTS
from sa2net.data.survey import FOREIGN, ORPHAN_MASK, UNLISTED
from sa2net.errors import ConfigError

SPACING_MM = (0.01, 5.0)
"""Pixel spacings outside of this are a slip of the unit, not a scanner."""


def check_spacing(spacing_mm: tuple[float, float] | None) -> None:
    """Refuse a pixel size (x, y), mm, that somebody gave and that cannot be.

    Raises:
        ConfigError: A side outside of `SPACING_MM`, or no number.
    """
    if spacing_mm is not None and not all(SPACING_MM[0] <= size <= SPACING_MM[1] for size in spacing_mm):
        raise ConfigError(
            "the pixel spacing cannot be right",
            evidence=f"{spacing_mm[0]:g} x {spacing_mm[1]:g} mm",
            action=f"Give the size of a pixel in mm, x and y each within {SPACING_MM[0]:g}-{SPACING_MM[1]:g}.",
        )


@dataclass(frozen=True)
class Check:
    """One expectation over one table.

    Attributes:
        name: Key of the check.
        table: `supports` (lists, tables, folders), `scans` (the manifest) or `held_out` (its val and test rows).
        says: What must hold.
        cure: What to do where it does not.
        detail: How an offending row is named: a format string over its columns.
        expectation: Class of `great_expectations.expectations`.
        settings: Its arguments.
    """

    name: str
    table: str
    says: str
    cure: str
    detail: str
    expectation: str
    settings: Mapping[str, Any]
    severity: Literal["failure", "warning"] = "failure"


def all_checks(cfg: ValidateConfig, bounds: DataBounds | None) -> list[Check]:
    """Every check, in the order of the page; those against ranges only where train taught some."""
    return [
        *_file_checks(),
        *_name_checks(),
        *_picture_checks(),
        *_mask_checks(cfg),
        *_scan_checks(cfg),
        *_leak_checks(),
        *(_bound_checks(bounds) if bounds else ()),
    ]


def _empty(column: str) -> tuple[str, dict[str, Any]]:
    """A column that explains a fault must be empty."""
    return "ExpectColumnValuesToBeInSet", {"column": column, "value_set": [""]}


def _never(column: str, value: str) -> tuple[str, dict[str, Any]]:
    return "ExpectColumnValuesToNotBeInSet", {"column": column, "value_set": [value]}


def _between(column: str, low: float | None, high: float | None = None) -> tuple[str, dict[str, Any]]:
    return "ExpectColumnValuesToBeBetween", {"column": column, "min_value": low, "max_value": high}


def _file_checks() -> list[Check]:
    return [
        Check(
            "files_readable",
            "supports",
            "Lists, tables and folders are there and can be read.",
            "Mend the files named here.",
            "{file} {problem}. {cure}",
            *_empty("problem"),
        ),
        Check(
            "splits_filled",
            "supports",
            "Every list names at least one scan.",
            "Write scan names into the list, one a line (an empty val.txt may be taken away).",
            "{file} is empty",
            *_between("filled", 1),
        ),
        Check(
            "scans_listed",
            "scans",
            "Every scan in the folders is named by its list.",
            "Add the names to the list, or move the files away.",
            "{scan}",
            *_never("place", UNLISTED),
        ),
        Check(
            "masks_have_scans",
            "scans",
            "Every mask in the folders belongs to a scan.",
            "Add the scan and its name in the list, or move the mask away.",
            "{mask}",
            *_never("place", ORPHAN_MASK),
        ),
        Check(
            "folders_clean",
            "scans",
            "The folders hold scans and masks alone.",
            "Move the other files away: they travel with the data set and may hold what should not.",
            "{scan}",
            *_never("place", FOREIGN),
            severity="warning",
        ),
        Check(
            "links_inside",
            "scans",
            "No file is a link that leads out of the data set (the DVC cache is fine).",
            "Copy the files themselves into the data set.",
            "{scan}: {link_problem}",
            *_empty("link_problem"),
        ),
    ]


def _name_checks() -> list[Check]:
    return [
        Check(
            "names_safe",
            "scans",
            "Every name is one plain file name.",
            "Rename the scan, its mask and the line in the list.",
            "{split}.txt: {name!r} {name_problem}",
            *_empty("name_problem"),
        ),
        Check(
            "names_unique",
            "scans",
            "Every name is used once, upper and lower case counted as the same.",
            "Take the second line out of the list, or rename one scan.",
            "{name!r} in {split}.txt",
            "ExpectColumnValuesToBeUnique",
            {"column": "key"},
        ),
        Check(
            "table_complete",
            "scans",
            "Where there is a scans.csv, every scan has one row there with a subject and two numbers or none as spacing.",
            "Mend the rows of scans.csv.",
            "{name} {table_problem}",
            *_empty("table_problem"),
        ),
    ]


def _picture_checks() -> list[Check]:
    """For scans and masks alike, one check for each kind of fault."""
    says = {
        "missing": "Every listed name has its {role}.",
        "unreadable": "Every {role} is a regular file that may be read.",
        "damaged": "Every {role} can be decoded to its last byte.",
        "format": "Every {role} is an 8-bit single-channel grey PNG.",
        "size": "No {role} is larger than validate.max_pixels.",
    }
    return [
        Check(
            f"{role}_{kind}",
            "scans",
            sentence.format(role=role),
            PICTURE_FAULTS[kind],
            f"{{{role}}} ({{{role}_problem}})",
            *_never(f"{role}_state", kind),
        )
        for kind, sentence in says.items()
        for role in ("scan", "mask")
    ]


def _mask_checks(cfg: ValidateConfig) -> list[Check]:
    sides = [
        Check(
            f"{side}s_equal",
            "scans",
            f"Scan and mask have the same {side}.",
            "Export the mask at the scan's own size.",
            "{mask} is {mask_width:.0f} x {mask_height:.0f} px, its scan {width:.0f} x {height:.0f} px",
            "ExpectColumnPairValuesToBeEqual",
            {"column_A": side, "column_B": f"mask_{side}", "ignore_row_if": "either_value_is_missing"},
        )
        for side in ("width", "height")
    ]
    required = [
        Check(
            f"class_{item.name}_present",
            "scans",
            f"Every mask holds the class {item.label}.",
            f"Complete the mask, or take {item.id} out of validate.required_classes.",
            "{mask}",
            *_between(f"required_{item.name}", 1),
        )
        for item in CLASSES
        if item.id in cfg.required_classes and item in FOREGROUND
    ]
    return [
        *sides,
        Check(
            "labels_allowed",
            "scans",
            f"Masks hold only the labels {', '.join(map(str, cfg.labels))}.",
            "Fix the masks: write a class id, or 255 where nobody can tell.",
            "{mask} (label {unexpected})",
            *_empty("unexpected"),
        ),
        Check(
            "masks_not_empty",
            "scans",
            "No mask is background alone.",
            "Draw the mask, or take the scan out of the data set.",
            "{mask}",
            *_between("foreground", 1),
        ),
        *required,
        Check(
            "masks_distinct",
            "scans",
            "No two different scans share one mask.",
            "Look whether a mask was exported under the wrong name.",
            "{mask} equals that of {shared_mask}",
            *_empty("shared_mask"),
            severity="warning",
        ),
    ]


def _scan_checks(cfg: ValidateConfig) -> list[Check]:
    low, high = SPACING_MM
    spacing = [
        Check(
            f"spacing_{axis}_plausible",
            "scans",
            f"A pixel spacing in {axis}, where there is one, lies between {low} and {high} mm.",
            "Give mm per pixel in scans.csv, or leave both columns empty.",
            f"{{name}} has {{spacing_{axis}_mm:g}} mm",
            *_between(f"spacing_{axis}_mm", low, high),
        )
        for axis in ("x", "y")
    ]
    known = Check(
        "spacing_known",
        "scans",
        "Every scan has a pixel spacing in scans.csv.",
        "Fill spacing_x_mm and spacing_y_mm in scans.csv; without them lengths are in pixels.",
        "{name}",
        *_empty("spacing_missing"),
        severity="failure" if cfg.require_spacing else "warning",
    )
    sides = [
        Check(
            f"{side}_sufficient",
            "scans",
            f"The {side} of every scan is at least {cfg.min_side} px.",
            "Export the scan at its full size, or lower validate.min_side.",
            "{scan} is {width:.0f} x {height:.0f} px",
            *_between(side, cfg.min_side),
        )
        for side in ("width", "height")
    ]
    sweep = Check(
        "sweep_found",
        "scans",
        "Every scan shows a sweep: it is not black.",
        "Export the scan again, or take it out of the data set.",
        "{scan}",
        *_between("sweep_width", 1),
    )
    return [*sides, sweep, *spacing, known]


def _leak_checks() -> list[Check]:
    copies = (
        ("copies_across", "is the same file as", "No scan lies in two splits under two names.", "failure"),
        ("copies_inside", "is the same file as", "No scan lies twice in one split.", "failure"),
        ("near_across", "looks like", "No scan looks like one of another split.", "failure"),
        ("near_inside", "looks like", "No scan looks like another one of its split.", "warning"),
    )
    cure = "Keep one of them; two recordings of one person belong into one split, under one subject in scans.csv."
    return [
        Check(
            "subjects_in_one_split",
            "scans",
            "Every subject is in one split alone.",
            "Move all scans of the subject into one list, or mend the subject in scans.csv.",
            "{split}/{name} (subject {subject}, in {subject_splits})",
            *_empty("subject_leak"),
        ),
        *(
            Check(column, "scans", says, cure, f"{{scan}} {verb} {{{column}}}", *_empty(column), severity)  # type: ignore[arg-type]
            for column, verb, says, severity in copies
        ),
    ]


def _bound_checks(bounds: DataBounds) -> list[Check]:
    found = [_bound_check("sweep_width", "width of the sweep, px,", bounds.sweep_width)]
    for item in FOREGROUND:
        if item.name in bounds.area:
            found.append(_bound_check(f"area_{item.name}", f"share of {item.label}", bounds.area[item.name]))
        if item.name in bounds.grey:
            found.append(_bound_check(f"grey_{item.name}", f"mean grey of {item.label}", bounds.grey[item.name]))
    return found


def _bound_check(column: str, words: str, bound: Range) -> Check:
    return Check(
        f"{column}_like_train",
        "held_out",
        f"In val and test the {words} lies in the widened range of train, {bound.low:.4g} to {bound.high:.4g}.",
        "Look at the scan and its mask: another scanner, another scale, or a slip of the mask?",
        f"{{scan}} ({{{column}:.4g}})",
        *_between(column, bound.low, bound.high),
        severity="warning",
    )
