"""The scores of a model: `scores.json` and the table of scans behind it."""

import csv
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from sa2net.artifacts.files import read_json, write_json
from sa2net.errors import DataError


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


class AngleScores(BaseModel):
    """How well the angles measured in the predictions agree with the true ones; what cannot be computed is left out.

    Attributes:
        scans: Scans with a truth.
        compared: Of these, scans whose largest true curve reaches the smallest angle that is compared.
        pairs: Of these, scans whose largest true curve was found: every number from `mad` on is over them.
        refused: Compared scans of which no angle was given.
        refused_share: The same as a share of the compared.
        missed: True curves that were not found, in scans that were not refused.
        extra: Measured curves that are none.
        mad: Mean absolute difference of measured and true angle, degrees, with its interval by subject.
        bias: Mean of measured - true, degrees.
        limit_low: Lower limit of agreement, degrees.
        limit_high: Upper limit of agreement, degrees.
        icc: ICC(2,1) with its interval.
        within_5: Share of differences of at most 5 degrees.
        coverage: Share of the measured 90 % intervals that hold the true angle.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    scans: int
    compared: int
    pairs: int
    refused: int
    missed: int
    extra: int
    refused_share: float | None = None
    mad: Estimate | None = None
    bias: float | None = None
    limit_low: float | None = None
    limit_high: float | None = None
    icc: Estimate | None = None
    within_5: float | None = None
    coverage: float | None = None

    def metrics(self, split: str) -> dict[str, float]:
        """What is known as flat names, such as `test_angle_mad`."""
        known = {name: getattr(self, name) for name in type(self).model_fields}
        values = {name: value.value if isinstance(value, Estimate) else value for name, value in known.items()}
        return {f"{split}_angle_{name}": float(value) for name, value in values.items() if value is not None}


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
        angles: Agreement of angles; None where no scan has a truth, or before angles were scored.
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
    angles: AngleScores | None = None


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
