"""The folders that cross steps: their file names, and how they are read and written.

A step writes a folder, later steps read it through this module and nothing else. What is written here is
the same bytes for the same content: keys sorted, no times, no paths. Times and run ids go to `run.json` and
`timing.json`, on which no step depends.
"""

import csv
import hashlib
import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sa2net.config import ModelConfig
from sa2net.errors import DataError

if TYPE_CHECKING:
    import torch

MODEL_JSON = "model.json"
WEIGHTS = "weights.safetensors"
VALIDATION_REPORT = "report.json"
VALIDATION_PAGE = "report.html"
MANIFEST = "manifest.csv"
SCORES = "scores.json"
PER_SCAN = "per_scan.csv"
EVALUATION_REPORT = "report.html"
CONFUSION = "confusion.csv"
DICE_PER_CLASS = "dice_per_class.csv"
RELIABILITY = "reliability.csv"
OVERLAYS = "overlays"
HISTORY = "history.csv"
VALIDATION_HISTORY = "validation.csv"
DECISION = "decision.json"
RUN_JSON = "run.json"
TIMING_JSON = "timing.json"
EVALUATION_FILES = frozenset(
    (SCORES, PER_SCAN, EVALUATION_REPORT, CONFUSION, DICE_PER_CLASS, RELIABILITY, OVERLAYS, RUN_JSON, TIMING_JSON)
)
"""Everything that an evaluation folder holds."""


class Normalisation(BaseModel):
    """Grey statistics inside the sweep of the train scans, 0-255; the network sees (grey - mean) / std."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    mean: float
    std: float


class Range(BaseModel):
    """Closed interval that a value should lie in."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    low: float
    high: float


class DataBounds(BaseModel):
    """What was learnt from the train split, so that later scans can be held against it.

    Attributes:
        sweep_width: Width of the sweep, px at the scans' own scale.
        area: Class name -> share of the sweep's area.
        grey: Class name -> mean grey of its pixels, 0-255.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    sweep_width: Range
    area: dict[str, Range]
    grey: dict[str, Range]


class ModelInfo(BaseModel):
    """`model.json`: everything a later step needs to use the weights.

    Attributes:
        sweep_width: Width of the sweep at working scale, px.
        spacing_mm: Size of a working-scale pixel (x, y), mm; empty where the train scans had none.
        params: The whole configuration of the run that made the weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    schema_version: int = 1
    model: ModelConfig
    class_names: tuple[str, ...]
    normalisation: Normalisation
    sweep_width: int
    spacing_mm: tuple[float, ...] = ()
    bounds: DataBounds
    data_md5: str
    params: dict[str, Any]


class Estimate(BaseModel):
    """A mean over scans; `low` and `high` end its interval and are left out with fewer than two subjects."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    value: float
    low: float | None = None
    high: float | None = None


class MetricEstimates(BaseModel):
    """Means of the four metrics; one that no scan scores is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    dice: Estimate | None = None
    iou: Estimate | None = None
    nsd: Estimate | None = None
    hd95: Estimate | None = None


class ClassEstimates(MetricEstimates):
    """The same for one class, with its scans by where the class was found.

    Attributes:
        scored: Scans with the class in truth and prediction.
        absent: In neither; they are in no mean.
        missed: In the truth alone; overlaps count 0, HD95 the picture's diagonal.
        spurious: In the prediction alone; likewise.
    """

    scored: int
    absent: int
    missed: int
    spurious: int


class CalibrationScores(BaseModel):
    """Expected calibration error over all valid pixels, 0-1."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ece: float
    bins: int


class PooledScores(BaseModel):
    """Scores over the pixels of all scans together, as the released code has them; undefined ones are left out.

    Attributes:
        accuracy: Share of right pixels.
        mean: Score name -> mean over the classes, background included.
        per_class: Class name, background included -> score name -> score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    accuracy: float
    mean: dict[str, float]
    per_class: dict[str, dict[str, float]]


class Scores(BaseModel):
    """`scores.json`: how a model does on a split; the same bytes for equal runs.

    Attributes:
        split: The split that was scored.
        data_md5: Identity of the data set.
        model_sha256: `folder_sha256` of the model folder.
        scans: Scans scored.
        subjects: Their subjects, the unit of the bootstrap.
        unit: Of HD95 and of the tolerance: mm where every scan has a spacing, else px.
        tolerance: Of the NSD, in that unit.
        confidence: Level of the intervals.
        inference: How the scans were predicted: mode, scales, flip.
        phantom: Whether any of the scans is synthetic.
        mean: Mean over the foreground classes scored on a scan, then over scans.
        per_class: Class name -> means over scans.
        pooled: Scores over the pixels of all scans together, as the released code has them.
        calibration: Whether the confidence means what it says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    schema_version: int = 1
    split: str
    data_md5: str
    model_sha256: str
    scans: int
    subjects: int
    unit: str
    tolerance: float
    confidence: float
    inference: dict[str, Any]
    phantom: bool
    mean: MetricEstimates
    per_class: dict[str, ClassEstimates]
    pooled: PooledScores
    calibration: CalibrationScores


def write_scores(path: Path, scores: Scores) -> None:
    """Write `scores.json`; what was not scored has no key."""
    write_json(path, scores.model_dump(mode="json", exclude_none=True))


def read_scores(path: Path) -> Scores:
    """Read `scores.json`.

    Raises:
        DataError: No such file, or written by another version.
    """
    try:
        return Scores.model_validate(read_json(path))
    except ValidationError as error:
        raise DataError(
            f"{path} cannot be used", evidence=str(error), action="Run `sa2net evaluate` again with this version."
        ) from error


class ScanClassScore(BaseModel):
    """One row of `per_scan.csv`: one class on one scan; None = not scored (blank in the file)."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    subject: str
    device: str
    class_name: str
    dice: float | None
    iou: float | None
    nsd: float | None
    hd95: float | None
    unit: str
    truth_px: int
    prediction_px: int


PER_SCAN_COLUMNS = (
    "name",
    "subject",
    "device",
    "class",
    "dice",
    "iou",
    "nsd",
    "hd95",
    "unit",
    "truth_px",
    "prediction_px",
)


def read_per_scan(path: Path) -> list[ScanClassScore]:
    """Read `per_scan.csv`, in file order.

    Raises:
        DataError: No such file, or not such a table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        for row in rows:
            row["class_name"] = row.pop("class")
        return [
            ScanClassScore.model_validate(
                {
                    key: None if value == "" and key in ("dice", "iou", "nsd", "hd95") else value
                    for key, value in row.items()
                }
            )
            for row in rows
        ]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValidationError) as error:
        raise DataError(
            f"{path} cannot be read", evidence=str(error), action="Run `sa2net evaluate` again with this version."
        ) from error


class SplitCounts(BaseModel):
    """How much of a data set lies in one split."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    scans: int
    subjects: int


class CheckResult(BaseModel):
    """What came of one check of the data set.

    Attributes:
        name: Key of the check.
        says: What must hold, as a sentence for people.
        severity: A failed `failure` stops the line, a failed `warning` is listed.
        passed: Whether it holds.
        offenders: Who breaks it, each with the evidence; all of them.
        cure: What to do about it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    says: str
    severity: Literal["failure", "warning"]
    passed: bool
    offenders: tuple[str, ...] = ()
    cure: str = ""


class ValidationSummary(BaseModel):
    """`report.json` of a validation that failed: what was found, and nothing a later step could use.

    Attributes:
        counts: Split -> its size.
        checks: Every check in the order of the page.
        warnings: Sentences; what a person should know although nothing stops.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = 1
    passed: bool
    data_md5: str
    counts: dict[str, SplitCounts]
    checks: tuple[CheckResult, ...]
    warnings: tuple[str, ...]


class ValidationReport(ValidationSummary):
    """`report.json` of a validation that passed, with what was learnt from the train split.

    Attributes:
        normalisation: Grey statistics inside the sweep of the train scans.
        sweep_width: Median width of the sweep of the train scans, px at their own scale.
        spacing_mm: Median pixel spacing (x, y) of the train scans, mm; empty unless every train scan has one.
        bounds: Ranges seen in train, widened.
    """

    normalisation: Normalisation
    sweep_width: float
    spacing_mm: tuple[float, ...] = ()
    bounds: DataBounds


def read_validation(path: Path) -> ValidationReport:
    """Read the report of a validation that passed.

    Raises:
        DataError: No report, one of another version, or one that says that the data set failed.
    """
    content = read_json(path)
    if content.get("passed") is not True:
        raise DataError(f"{path} says that the data set failed", action="Run `sa2net validate` and mend what it names.")
    try:
        return ValidationReport.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path} cannot be used", evidence=str(error), action="Run `sa2net validate` again.") from error


def write_model(folder: Path, info: ModelInfo, weights: "Mapping[str, torch.Tensor]") -> None:
    """Write a model folder, atomically: it is there whole or not at all."""
    from safetensors.torch import save_file

    with replaced_folder(folder, (MODEL_JSON, WEIGHTS)) as fresh:
        save_file({name: value.detach().cpu().contiguous() for name, value in sorted(weights.items())}, fresh / WEIGHTS)
        write_json(fresh / MODEL_JSON, info.model_dump(mode="json"))


def read_model_info(folder: Path) -> ModelInfo:
    """Read `model.json` of a model folder.

    Raises:
        DataError: The folder is not a model folder, or was written by another version.
    """
    try:
        return ModelInfo.model_validate(read_json(folder / MODEL_JSON))
    except ValidationError as error:
        raise DataError(
            f"{folder / MODEL_JSON} cannot be used",
            evidence=str(error),
            action="Train again with this version, or use the version that wrote it.",
        ) from error


def read_weights(folder: Path) -> "dict[str, torch.Tensor]":
    """Read the weights of a model folder; nothing is unpickled."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{folder / WEIGHTS} cannot be read",
            evidence=str(error),
            action="Restore the model folder from the registry or train again.",
        ) from error


def folder_sha256(folder: Path) -> str:
    """Identity of a folder's content: sha256 over the sorted relative names and contents of its files."""
    digest = hashlib.sha256()
    for path in sorted(item for item in folder.rglob("*") if item.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically: sorted keys, no NaN, a last newline."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DataError: No such file, or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read",
            evidence=str(error),
            action="Run the step that writes it, or name the right folder.",
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object", action="Run the step that writes it again.")
    return content


def check_replaceable(folder: Path, ours: Collection[str]) -> None:
    """Refuse to replace a folder that holds anything but what we write there.

    Args:
        folder: Where a step is about to write.
        ours: Names that the step may find and replace.

    Raises:
        DataError: A file, or a folder with something else in it.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise DataError(f"{folder} is a file", action="Name a folder with --out.")
    foreign = sorted(item.name for item in folder.iterdir() if item.name not in ours)
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise DataError(
            f"{folder} would be replaced, and holds files that are not from this step",
            evidence=", ".join(foreign[:3]) + more,
            action="Name a new folder with --out, or move these files away.",
        )


@contextmanager
def replaced_folder(folder: Path, ours: Collection[str]) -> Iterator[Path]:
    """Fill a fresh folder beside `folder`, then put it in its place; on an error the old one stays.

    Args:
        folder: The folder to write.
        ours: See `check_replaceable`.
    """
    import shutil

    check_replaceable(folder, ours)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    old = fresh.with_name(fresh.name + ".old")
    fresh.chmod(0o755)
    try:
        yield fresh
        check_replaceable(folder, ours)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
