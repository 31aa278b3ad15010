"""The report of a validation: what was checked, and what was learnt from the train split."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sa2net.artifacts.files import read_json
from sa2net.artifacts.model import DataBounds, Normalisation
from sa2net.errors import DataError


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
