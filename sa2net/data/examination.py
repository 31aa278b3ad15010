"""A data set looked at whole: survey, manifest, what train teaches, contract. Validation and import both begin here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sa2net.artifacts import CheckResult, SplitCounts, ValidationReport, ValidationSummary
from sa2net.config import ValidateConfig
from sa2net.data import store
from sa2net.data.bounds import Learnt, learn
from sa2net.data.contract import run_contract
from sa2net.data.layout import SPLITS
from sa2net.data.manifest import Row, build_rows
from sa2net.data.survey import LISTED, Survey, take_survey
from sa2net.errors import DataError, StorageError

_NAMED = 5  # offenders in a message; the report holds all

_NO_TABLE = (
    "There is no scans.csv: each scan counts as a subject of its own, so that two scans of one person may lie in two"
    " splits unseen."
)


@dataclass(frozen=True)
class Examination:
    """Everything that was found.

    Attributes:
        rows: The manifest, in list order.
        report: A `ValidationReport` where the data set passed, else a `ValidationSummary`.
    """

    data: Path
    rows: tuple[Row, ...]
    report: ValidationSummary

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should look at, as sentences."""
        cautions = (check for check in self.report.checks if check.severity == "warning" and not check.passed)
        return (*map(_sentence, cautions), *self.report.warnings)

    def require_passed(self, hint: str) -> ValidationReport:
        """The report of a data set that passed.

        Args:
            hint: Last sentence of the message where it did not: where to read more.

        Raises:
            DataError: A check failed; the message names the files and the cure of every failed check.
        """
        if isinstance(self.report, ValidationReport):
            return self.report
        failures = [check for check in self.report.checks if check.severity == "failure" and not check.passed]
        if not failures:
            raise DataError(
                f"{self.data} has no train scan to learn from", action=f"Fill train.txt with readable scans. {hint}"
            )
        lines = "".join(f"\n- {_sentence(check)}" for check in failures)
        raise DataError(
            f"{self.data} fails {len(failures)} of {len(self.report.checks)} checks", evidence=lines, action=f"\n{hint}"
        )


def examine(cfg: ValidateConfig, data: Path, *, data_docs: Path | None = None, progress: bool = True) -> Examination:
    """Read every file of a data set and hold it against the contract. Nothing is written, but for `data_docs`.

    Raises:
        DataError: `data` is not a folder.
        StorageError: The data set passed, but something beside the scans in its DVC folder cannot be read.
    """
    cache = store.dvc_cache_dir(data)
    survey = take_survey(data, links=(cache,) if cache else ())
    rows = build_rows(survey, cfg, progress=progress)
    learnt = learn(rows, cfg.bounds_margin)
    checks = run_contract(survey, rows, cfg, learnt.bounds if learnt else None, data_docs=data_docs)
    failed = any(check.severity == "failure" and not check.passed for check in checks)
    return Examination(data, tuple(rows), _report(data, survey, rows, checks, None if failed else learnt))


def _report(
    data: Path, survey: Survey, rows: Sequence[Row], checks: Sequence[CheckResult], learnt: Learnt | None
) -> ValidationSummary:
    try:
        md5 = store.data_md5(data)
    except StorageError:
        if learnt is not None:
            raise
        md5 = ""  # a failed check says it better
    changed = store.pointer_warning(data, md5) if md5 else ""
    warnings = (*(() if survey.has_table else (_NO_TABLE,)), *((changed,) if changed else ()))
    summary = ValidationSummary(
        passed=learnt is not None, data_md5=md5, counts=_counts(rows), checks=tuple(checks), warnings=warnings
    )
    if learnt is None:
        return summary
    return ValidationReport(
        **dict(summary),
        normalisation=learnt.normalisation,
        sweep_width=learnt.sweep_width,
        spacing_mm=learnt.spacing_mm,
        bounds=learnt.bounds,
    )


def _counts(rows: Sequence[Row]) -> dict[str, SplitCounts]:
    named = [row for row in rows if row.place == LISTED and not row.name_problem]
    found = {split: [row for row in named if row.split == split] for split in SPLITS}
    return {
        split: SplitCounts(scans=len(members), subjects=len({row.subject for row in members}))
        for split, members in found.items()
    }


def _sentence(check: CheckResult) -> str:
    """What must hold, who breaks it, what to do."""
    rest = len(check.offenders) - _NAMED
    names = "; ".join(check.offenders[:_NAMED]) + (f"; ... and {rest} more" if rest > 0 else "")
    return f"{check.says} Not so: {names}. {check.cure}"
