"""The step that comes before everything else: is this data set fit to train on, and what does train look like?"""

import logging
from dataclasses import dataclass
from pathlib import Path

from sa2net.artifacts import MANIFEST, RUN_JSON, VALIDATION_PAGE, VALIDATION_REPORT, file_sha256, write_json, write_text
from sa2net.config import ValidateConfig
from sa2net.data.examination import Examination, examine
from sa2net.data.manifest import write_manifest
from sa2net.data.page import render
from sa2net.registry import tracking
from sa2net.registry.environment import write_run_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidateResult:
    """What the step wrote.

    Attributes:
        report: `report.json`.
        page: `report.html`.
        manifest: `manifest.csv`, with the splits that training reads.
        data_md5: Identity of the data set.
        scans: Number of scans.
        warnings: What a person should look at, as sentences.
    """

    report: Path
    page: Path
    manifest: Path
    data_md5: str
    scans: int
    warnings: tuple[str, ...]


def run(
    cfg: ValidateConfig, *, data: Path, out: Path, data_docs: Path | None = None, progress: bool = True
) -> ValidateResult:
    """Read every file of a data set, hold it against the contract, and write what was found.

    Where the data set fails, `report.json` and `report.html` say why and there is no manifest, so that no later step
    can start; nothing is written outside of `out` (and of `data_docs`). DVC keeps no output of a stage that fails.

    Args:
        cfg: The section `validate`.
        data: Folder that holds `dataset/` and `groundtruth/`.
        out: Folder for report, page and manifest.
        data_docs: Folder for the Data Docs of Great Expectations, whose pages load scripts from outside.
        progress: Show a progress bar.

    Raises:
        DataError: A check failed; the message names the files and the cure of every failed check.
        StorageError: The tracking server refuses us.
    """
    params = {"validate": cfg.model_dump(mode="json")}
    with tracking.step_run("validate", params=params) as tracker:
        found = examine(cfg, data, data_docs=data_docs, progress=progress)
        _write(found, out)
        for name in (VALIDATION_REPORT, VALIDATION_PAGE):  # of a data set that fails too: a pod takes its folder along
            tracker.log_file(out / name)
        result = _result(found, out)
        known = {"data_md5": result.data_md5, "manifest_sha256": file_sha256(result.manifest)}
        tracker.set_tags(known)
        tracker.log_metrics({"scans": result.scans, "warnings": len(result.warnings)})
        write_run_json(out, tracker, params=params, **known)
    return result


def check(cfg: ValidateConfig, *, data: Path, out: Path, data_docs: Path | None, progress: bool) -> ValidateResult:
    """Check a data set and write the folder; nothing is tracked."""
    found = examine(cfg, data, data_docs=data_docs, progress=progress)
    _write(found, out)
    return _result(found, out)


def _write(found: Examination, out: Path) -> None:
    report, page, manifest = out / VALIDATION_REPORT, out / VALIDATION_PAGE, out / MANIFEST
    for earlier in (report, manifest, out / RUN_JSON):
        earlier.unlink(missing_ok=True)
    if found.report.passed:
        write_manifest(manifest, found.rows)
    write_text(page, render(found.report, found.rows))
    write_json(report, found.report.model_dump(mode="json"))  # last: whoever finds it finds the rest


def _result(found: Examination, out: Path) -> ValidateResult:
    page = out / VALIDATION_PAGE
    passed = found.require_passed(hint=f"{page} names every file.")
    for warning in found.warnings:
        log.warning(warning)
    scans = sum(count.scans for count in passed.counts.values())
    return ValidateResult(out / VALIDATION_REPORT, page, out / MANIFEST, passed.data_md5, scans, found.warnings)
