"""One row per scan: every file read once, to the last byte, over all cores.

The rows are what the contract checks, what bounds and normalisation are aggregated from, and - written as
`manifest.csv` - the split that training reads. A broken file becomes a row that says so, never an exception.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import math
import multiprocessing
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tqdm import tqdm

from sa2net.anatomy import FOREGROUND, IGNORE_INDEX
from sa2net.artifacts import write_text
from sa2net.config import ValidateConfig
from sa2net.data.layout import Case
from sa2net.data.pictures import PictureError, decode, read_bytes
from sa2net.data.survey import Entry, Survey
from sa2net.data.sweep import sweep_mask, width_of
from sa2net.errors import DataError

HASH_SIZE = 16
"""Side of the perceptual hash: 16 x 16 = 256 bits."""

Picture = npt.NDArray[np.uint8]

_SCANS_PER_PROCESS = 24  # below that, starting a process costs more than it saves
_MARGIN_MASS = 0.02  # share of the brightness left out on each side of the picture that is hashed


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one scan. Numbers are None where a file could not be read; text is then empty.

    Attributes:
        place: Listed, or how it came to lie there otherwise (`survey`).
        scan: Path relative to the data root, as `mask`.
        scan_state: `ok`, a key of `pictures.PICTURE_FAULTS`, or `closed` where the file must not be opened.
        scan_problem: What is wrong, in words.
        phash: Perceptual hash of the brightness-cropped scan, 64 hex digits.
        sweep_width: Median width of the sweep, px.
        sweep_pixels: Area of the sweep, px.
        grey_sum: Sum of the grey values inside the sweep; with `grey_squares` the data set's normalisation.
        pixels: Foreground class -> pixels of the mask, in the order of `anatomy.FOREGROUND`.
        ignored: Pixels of the mask that hold `IGNORE_INDEX`.
        areas: Foreground class -> pixels over `sweep_pixels`.
        greys: Foreground class -> mean grey of its pixels; None where it has none.
        unexpected: Labels of the mask that are not allowed.
    """

    name: str
    subject: str
    split: str
    scan: str
    mask: str
    device: str = ""
    spacing_x_mm: float | None = None
    spacing_y_mm: float | None = None
    place: str = ""
    name_problem: str = ""
    table_problem: str = ""
    link_problem: str = ""
    scan_state: str = "closed"
    scan_problem: str = ""
    mask_state: str = "closed"
    mask_problem: str = ""
    width: int | None = None
    height: int | None = None
    mask_width: int | None = None
    mask_height: int | None = None
    scan_sha256: str = ""
    mask_sha256: str = ""
    phash: str = ""
    sweep_width: float | None = None
    sweep_pixels: int | None = None
    grey_sum: int | None = None
    grey_squares: int | None = None
    pixels: tuple[int, ...] = ()
    ignored: int | None = None
    areas: tuple[float, ...] = ()
    greys: tuple[float | None, ...] = ()
    unexpected: tuple[int, ...] = ()


def build_rows(survey: Survey, cfg: ValidateConfig, *, progress: bool = True) -> list[Row]:
    """Read every file of a surveyed data set and describe it; `val` is split off train where it has no list.

    Rows come in the order of the survey. Small sets are read in this process, others by `cfg.workers` processes.
    """
    entries = split_off_validation(survey.entries, cfg.val_fraction, cfg.split_seed)
    describe = functools.partial(_describe, survey.root, cfg)
    wanted = cfg.workers or len(os.sched_getaffinity(0))
    processes = min(wanted, math.ceil(len(entries) / _SCANS_PER_PROCESS))
    bar = functools.partial(tqdm, total=len(entries), desc="reading scans", unit="scan", disable=not progress)
    if processes <= 1:
        return list(bar(map(describe, entries)))
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(bar(pool.map(describe, entries, chunksize=8)))


def split_off_validation(entries: Sequence[Entry], fraction: float, seed: int) -> list[Entry]:
    """Move a seeded share of the train subjects to `val`, whole subjects only; nothing moves where val has a list.

    At least one subject moves, at least one stays.
    """
    listed = [entry for entry in entries if entry.is_safe]
    subjects = {entry.subject for entry in listed if entry.split == "train"}
    if len(subjects) < 2 or any(entry.split == "val" for entry in listed):
        return list(entries)
    held_out = hold_out(subjects, fraction, seed)
    return [
        dataclasses.replace(entry, split="val") if entry.split == "train" and entry.subject in held_out else entry
        for entry in entries
    ]


def hold_out(subjects: Collection[str], fraction: float, seed: int) -> set[str]:
    """A seeded share of at least two subjects, at least one and not all.

    Their order is that of a hash of seed and subject, so that a subject that is added later hardly changes who else is
    held out.
    """
    ranked = sorted(subjects, key=lambda subject: hashlib.sha256(f"{seed}\0{subject}".encode()).digest())
    return set(ranked[: min(len(subjects) - 1, max(1, round(fraction * len(subjects))))])


def near_duplicates(hashes: Sequence[str], distance: int) -> list[tuple[int, int]]:
    """Pairs of hashes that differ in at most `distance` bits, as indices; empty hashes match nothing.

    All pairs are compared, in blocks of rows that keep memory at a few MB (10,000 hashes: some seconds).
    """
    index = np.array([position for position, text in enumerate(hashes) if text], dtype=np.intp)
    if len(index) < 2:
        return []
    packed = np.frombuffer(bytes.fromhex("".join(hashes[position] for position in index)), dtype=np.uint64)
    packed = packed.reshape(len(index), -1)  # (N, 4)
    found: list[tuple[int, int]] = []
    for start in range(0, len(index), _BLOCK):
        block = packed[start : start + _BLOCK]
        bits = np.bitwise_count(block[:, None] ^ packed[None, start:]).sum(axis=2, dtype=np.uint16)  # (B, N - start)
        rows, columns = np.nonzero(np.triu(bits <= distance, k=1))
        found += zip(index[start + rows].tolist(), index[start + columns].tolist(), strict=True)
    return found


_BLOCK = 64


def perceptual_hash(scan: Picture) -> str:
    """A 256-bit hash that survives re-encoding, slight changes of brightness and shifts. # (H, W).

    The picture is first cropped to the box that holds all but 2 % of its brightness on each side, which moves with a
    shift and does not depend on a threshold. Of the hashes that imagehash offers, pHash on this crop keeps copies
    (JPEG at quality 85, brightness +-10 %, gamma 0.9, shift by 2 px) within 20 bits and different spines above 55.
    """
    import imagehash  # not where scans are only trained on or predicted

    x_low, x_high = _mass_range(scan, axis=0)
    y_low, y_high = _mass_range(scan, axis=1)
    side = 4 * HASH_SIZE  # what pHash works at
    box = (x_low, y_low, x_high, y_high)
    picture = Image.fromarray(scan).resize((side, side), Image.Resampling.LANCZOS, box=box)
    return str(imagehash.phash(picture, hash_size=HASH_SIZE))


def _mass_range(scan: Picture, axis: int) -> tuple[float, float]:
    mass = np.concatenate([[0.0], np.cumsum(scan.sum(axis=axis, dtype=np.float64))])
    length = len(mass) - 1
    if mass[-1] == 0:
        return 0.0, float(length)
    edges = np.interp([_MARGIN_MASS, 1 - _MARGIN_MASS], mass / mass[-1], np.arange(length + 1))
    return (float(edges[0]), float(edges[1])) if edges[1] - edges[0] >= 1 else (0.0, float(length))


def write_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write the rows as CSV: the same bytes for the same data, no absolute path, no time."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(flat_columns())
    writer.writerows(flat(row) for row in rows)
    write_text(path, stream.getvalue())


def read_manifest(path: Path, root: Path) -> list[Case]:
    """The scans of a manifest, with the splits that validation gave them.

    Args:
        path: `manifest.csv` of a validation that passed.
        root: Data root that its paths are relative to.

    Raises:
        DataError: It cannot be read, or its paths leave the root.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            if reader.fieldnames != flat_columns():
                raise ValueError("its columns are not those of this version")
            return [_case(row, root) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as a manifest", evidence=str(error), action="Run `sa2net validate` again."
        ) from error


def _case(row: dict[str, str], root: Path) -> Case:
    for key in ("scan", "mask"):
        relative = PurePosixPath(row[key])
        if relative.is_absolute() or ".." in relative.parts:
            raise ValueError(f"{row[key]} leaves the data folder")
    known = row["spacing_x_mm"] and row["spacing_y_mm"]
    spacing = (float(row["spacing_x_mm"]), float(row["spacing_y_mm"])) if known else None
    return Case(
        row["name"], row["split"], row["subject"], root / row["scan"], root / row["mask"], row["device"], spacing
    )


def flat_columns() -> list[str]:
    """Column names of `flat`."""
    return list(_flat_columns())


def flat(row: Row) -> list[str | int | float | None]:
    """A row with one value a column: class by class, labels as text."""
    values: list[str | int | float | None] = []
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        if field.name in _PER_CLASS:
            values += value or [None] * len(FOREGROUND)
        else:
            values.append(" ".join(map(str, value)) if isinstance(value, tuple) else value)
    return values


_PER_CLASS = {"pixels": "pixels", "areas": "area", "greys": "grey"}


def _flat_columns() -> Iterator[str]:
    for field in dataclasses.fields(Row):
        if field.name in _PER_CLASS:
            yield from (f"{_PER_CLASS[field.name]}_{item.name}" for item in FOREGROUND)
        else:
            yield field.name


def _describe(root: Path, cfg: ValidateConfig, entry: Entry) -> Row:
    x_mm, y_mm = entry.spacing_mm or (None, None)
    values: dict[str, Any] = {"spacing_x_mm": x_mm, "spacing_y_mm": y_mm}
    values |= {key: getattr(entry, key) for key in _COPIED}
    if not entry.is_safe:
        return Row(**values)
    scan = _read(root / entry.scan, cfg, "scan", values)
    mask = _read(root / entry.mask, cfg, "mask", values)
    if scan is not None:
        values |= _scan_values(scan)
    if mask is not None:
        values |= _mask_values(mask, cfg.labels)
    if scan is not None and mask is not None and scan.shape == mask.shape:
        values |= _class_values(scan, mask, values["pixels"], values["sweep_pixels"])
    return Row(**values)


_COPIED = (
    "name",
    "subject",
    "split",
    "scan",
    "mask",
    "device",
    "place",
    "name_problem",
    "table_problem",
    "link_problem",
)


def _read(path: Path, cfg: ValidateConfig, role: str, values: dict[str, Any]) -> Picture | None:
    """Read and decode one file; its checksum, state and problem go into `values`."""
    try:
        content = read_bytes(path, max_pixels=cfg.max_pixels)
        values[f"{role}_sha256"] = hashlib.sha256(content).hexdigest()
        pixels = decode(path, content, max_pixels=cfg.max_pixels)
    except PictureError as error:
        values |= {f"{role}_state": error.kind, f"{role}_problem": error.reason}
        return None
    values[f"{role}_state"] = "ok"
    return pixels


def _scan_values(scan: Picture) -> dict[str, Any]:
    sweep = sweep_mask(scan)
    histogram = np.bincount(scan[sweep], minlength=256)  # whole numbers: the sums are the same on every machine
    greys = np.arange(256)
    width = width_of(sweep)
    return {
        "width": scan.shape[1],
        "height": scan.shape[0],
        "phash": perceptual_hash(scan) if width else "",
        "sweep_width": width,
        "sweep_pixels": int(histogram.sum()),
        "grey_sum": int(histogram @ greys),
        "grey_squares": int(histogram @ greys**2),
    }


def _mask_values(mask: Picture, labels: Sequence[int]) -> dict[str, Any]:
    counts = np.bincount(mask.ravel(), minlength=256)
    return {
        "mask_width": mask.shape[1],
        "mask_height": mask.shape[0],
        "pixels": tuple(int(counts[item.id]) for item in FOREGROUND),
        "ignored": int(counts[IGNORE_INDEX]),
        "unexpected": tuple(label for label in np.flatnonzero(counts).tolist() if label not in labels),
    }


def _class_values(scan: Picture, mask: Picture, pixels: tuple[int, ...], area: int) -> dict[str, Any]:
    sums = np.bincount(mask.ravel(), weights=scan.ravel(), minlength=256)
    pairs = zip(FOREGROUND, pixels, strict=True)
    return {
        "greys": tuple(float(sums[item.id]) / count if count else None for item, count in pairs),
        "areas": tuple(count / area for count in pixels) if area else (),
    }
