"""What the gate reads and what it says: scored versions in, a decision with its reasons out, as plain values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import ScanClassScore

Verdict = Literal["promote", "refuse", "cannot tell", "score the champion again"]
Floats = npt.NDArray[np.float64]

DECIMALS = 6
MEAN = "mean"
CALIBRATION = "calibration"
SPEED = "speed"
ANGLE_MAD = "angle_mad"
ANGLE_ICC = "angle_icc"
ANGLE_REFUSED = "angle_refused"
ANGLES = (ANGLE_MAD, ANGLE_ICC, ANGLE_REFUSED)
CLASSES = tuple(item.name for item in FOREGROUND)
SUBJECTS = (MEAN, *CLASSES)
"""What Dice is compared by: the mean, then each class."""


@dataclass(frozen=True)
class AngleAgreement:
    """How well the angles of a model agree with true ones; NaN = not known.

    Attributes:
        mad: Mean absolute difference, degrees.
        icc: ICC(2,1).
        refused: Share of the scans with a curve that were refused an angle.
    """

    mad: float = math.nan
    icc: float = math.nan
    refused: float = math.nan


@dataclass(frozen=True)
class ScoredVersion:
    """A model with its Dice on every scan.

    Attributes:
        name: What the decision calls it, such as `version 3`.
        model_sha256: Identity of its model folder.
        data_md5: Identity of the data set that it was scored on.
        split: The split that it was scored on.
        scans: Scan names. # (N,)
        subjects: Whose scans they are. # (N,)
        dice: One column per foreground class in the order of `FOREGROUND`; NaN = not scored. # (N, C)
        settings: How it was scored (mode, scales, ...), as text.
        calibration_error: Expected calibration error, 0-1; NaN = not known.
        seconds_per_scan: Median time of a prediction on the machine that scored it, s; NaN = not known.
        phantom: Whether any of the scans is synthetic.
        angles: How well its angles agree with true ones.
    """

    name: str
    model_sha256: str
    data_md5: str
    split: str
    scans: tuple[str, ...]
    subjects: tuple[str, ...]
    dice: Floats
    settings: str = ""
    calibration_error: float = math.nan
    seconds_per_scan: float = math.nan
    phantom: bool = False
    angles: AngleAgreement = AngleAgreement()

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[ScanClassScore],
        *,
        name: str,
        model_sha256: str,
        data_md5: str,
        split: str,
        settings: str = "",
        calibration_error: float = math.nan,
        seconds_per_scan: float = math.nan,
        phantom: bool = False,
        angles: AngleAgreement = AngleAgreement(),
    ) -> "ScoredVersion":
        """Put the rows of `per_scan.csv` into a table, scans in alphabetical order."""
        subjects = {row.name: row.subject for row in rows}
        scans = tuple(sorted(subjects))
        dice = np.full((len(scans), len(CLASSES)), math.nan)
        position = {scan: index for index, scan in enumerate(scans)}
        column = {name: index for index, name in enumerate(CLASSES)}
        for row in rows:
            if row.dice is not None and row.class_name in column:
                dice[position[row.name], column[row.class_name]] = row.dice
        return cls(
            name=name,
            model_sha256=model_sha256,
            data_md5=data_md5,
            split=split,
            scans=scans,
            subjects=tuple(subjects[scan] for scan in scans),
            dice=dice,
            settings=settings,
            calibration_error=calibration_error,
            seconds_per_scan=seconds_per_scan,
            phantom=phantom,
            angles=angles,
        )

    def column(self, name: str) -> Floats:
        """Dice of a class, or for `mean` the mean over the classes scored on each scan. # (N,)."""
        return mean_over_classes(self.dice) if name == MEAN else self.dice[:, CLASSES.index(name)]


@dataclass(frozen=True)
class Reason:
    """One thing that was looked at.

    Attributes:
        check: floor, calibration, speed, angle_mad, angle_icc, angle_refused, champion, identity, data, subjects,
            resamples, non-inferior, superior, undecided, withdrawn, or note: something that a person should know and
            that decides nothing.
        subject: Class name or `mean`; empty where it is about the whole.
        holds: Whether it speaks for the candidate.
        text: The sentence for people, with the numbers.
    """

    check: str
    subject: str
    holds: bool
    text: str


@dataclass(frozen=True)
class Comparison:
    """Candidate against champion in one line of the table: the mean, a class, calibration, speed or angles.

    Attributes:
        subject: Class name, `mean`, `calibration`, `speed`, or one of ANGLES.
        candidate: Mean Dice of the candidate (or its calibration error, its seconds per scan, its agreement of angles);
            None where nothing is known.
        champion: The same of the champion; None too where there is no champion.
        verdict: What this line says, in a word or three.
        floor: What the candidate has to reach; None where there is a limit.
        limit: What it may not exceed; None where there is a floor.
        difference: Mean difference, candidate - champion. A class that only one of the two found on a scan, and
            wrongly, counts 1 for the other.
        lower: One-sided lower bound of the difference.
        upper: One-sided upper bound of the difference.
        p_value: Of the test that decides (non-inferiority for a class, superiority for the mean), with Holm's
            correction over the classes.
    """

    subject: str
    candidate: float | None
    champion: float | None
    verdict: str
    floor: float | None = None
    limit: float | None = None
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class Decision:
    """What the gate says, and why.

    Attributes:
        verdict: `promote` alone moves the champion.
        reasons: Everything that was looked at, in order.
        table: The numbers behind them.
        candidate: Name of the candidate.
        champion: Name of the champion, empty if there is none.
        champion_sha256: Identity of its model folder, likewise.
        subjects: Subjects behind the comparison; without one, those of the candidate.
        subjects_needed: How many would settle an undecided comparison; None where it is settled or no number would do.
        confidence: Level of the one-sided bounds.
        margin: Largest loss of Dice per class that counts as no loss.
        phantom: Whether any of the scans is synthetic.
    """

    verdict: Verdict
    reasons: tuple[Reason, ...]
    table: tuple[Comparison, ...]
    candidate: str
    champion: str
    champion_sha256: str
    subjects: int
    subjects_needed: int | None
    confidence: float
    margin: float
    phantom: bool

    def to_dict(self) -> dict[str, Any]:
        """The JSON document: what holds nothing has no key."""
        return {
            "schema_version": 2,
            "verdict": self.verdict,
            "candidate": self.candidate,
            "champion": self.champion,
            **({"champion_sha256": self.champion_sha256} if self.champion else {}),
            "subjects": self.subjects,
            **({} if self.subjects_needed is None else {"subjects_needed": self.subjects_needed}),
            "confidence": self.confidence,
            "margin": self.margin,
            "phantom": self.phantom,
            "reasons": [vars(reason) for reason in self.reasons],
            "table": [_without_none(vars(row)) for row in self.table],
        }


def label_of(subject: str) -> str:
    """Words for people for a class name or `mean`."""
    return {item.name: item.label for item in FOREGROUND}.get(subject, "mean over the classes")


def mean_over_classes(dice: Floats) -> Floats:
    """Mean over the classes scored on each scan; NaN where none is. (N, C) -> (N,)."""
    scored = ~np.isnan(dice)
    sums = np.where(scored, dice, 0.0).sum(axis=1)
    return np.where(scored.any(axis=1), sums / np.maximum(scored.sum(axis=1), 1), math.nan)


def mean_of(values: Floats) -> float:
    """Mean of the scored values; NaN where there is none."""
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if len(scored) else math.nan


def rounded(value: float) -> float | None:
    """A number for the document; None where there is none."""
    return round(value, DECIMALS) if math.isfinite(value) else None


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value is not None}
