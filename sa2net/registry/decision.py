"""What the gate reads and what it says: scored versions in, a decision with its reasons out, as plain values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import ScanClassScore

Verdict = Literal["promote", "refuse", "cannot tell", "same weights", "score the champion again"]
Floats = npt.NDArray[np.float64]

MEAN = "mean"


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
    """

    name: str
    model_sha256: str
    data_md5: str
    split: str
    scans: tuple[str, ...]
    subjects: tuple[str, ...]
    dice: Floats
    settings: str = ""

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
    ) -> "ScoredVersion":
        """Put the rows of `per_scan.csv` into a table, scans in alphabetical order."""
        subjects = {row.name: row.subject for row in rows}
        scans = tuple(sorted(subjects))
        dice = np.full((len(scans), len(FOREGROUND)), math.nan)
        position = {scan: index for index, scan in enumerate(scans)}
        column = {item.name: index for index, item in enumerate(FOREGROUND)}
        for row in rows:
            if row.dice is not None and row.class_name in column:
                dice[position[row.name], column[row.class_name]] = row.dice
        return cls(name, model_sha256, data_md5, split, scans, tuple(subjects[scan] for scan in scans), dice, settings)

    def column(self, name: str) -> Floats:
        """Dice of a class, or for `mean` the mean over the classes scored on each scan. # (N,)."""
        if name == MEAN:
            scored = ~np.isnan(self.dice)
            counts = scored.sum(axis=1)
            sums = np.where(scored, self.dice, 0.0).sum(axis=1)
            return np.where(counts > 0, sums / np.maximum(counts, 1), math.nan)
        return self.dice[:, [item.name for item in FOREGROUND].index(name)]


@dataclass(frozen=True)
class Reason:
    """One thing that was looked at.

    Attributes:
        check: floor, non-inferior, superior, identity or data.
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
    """Candidate against champion for one class or the mean.

    Attributes:
        subject: Class name or `mean`.
        candidate: Mean Dice of the candidate; None where nothing is scored.
        champion: The same of the champion; None too where there is no champion.
        floor: What the candidate has to reach.
        difference: Mean difference on the scans that both scored.
        lower: One-sided lower bound of the difference.
        upper: One-sided upper bound of the difference.
        p_value: Of the test that decides (non-inferiority for a class, superiority for the mean), with Holm's
            correction over the classes.
    """

    subject: str
    candidate: float | None
    champion: float | None
    floor: float
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
        subjects: Subjects behind the comparison.
        subjects_needed: How many would settle an undecided comparison; None where it is settled or no number would do.
    """

    verdict: Verdict
    reasons: tuple[Reason, ...]
    table: tuple[Comparison, ...]
    candidate: str
    champion: str = ""
    subjects: int = 0
    subjects_needed: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON document: what holds nothing has no key."""
        return {
            "schema_version": 1,
            "verdict": self.verdict,
            "candidate": self.candidate,
            "champion": self.champion,
            "subjects": self.subjects,
            **({} if self.subjects_needed is None else {"subjects_needed": self.subjects_needed}),
            "reasons": [vars(reason) for reason in self.reasons],
            "table": [_without_none(vars(row)) for row in self.table],
        }


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value is not None}
