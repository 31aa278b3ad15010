"""What came of a batch, from the results themselves: nobody's word is taken for it.

Everything is written before anything is said to be wrong: a batch with faults leaves its whole summary, and then ends
with an error, so that nobody takes it for complete.
"""

import csv
import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from sa2net import __version__
from sa2net.anatomy import CLASSES
from sa2net.artifacts import write_json, write_text
from sa2net.data.store.objects import ObjectStore
from sa2net.errors import ClusterError, DataError, StorageError
from sa2net.inference.description import INTENDED_USE
from sa2net.steps.batch.results import (
    READERS,
    BatchPlan,
    PlannedScan,
    ResultFiles,
    origin,
    read_result,
)

logger = logging.getLogger(__name__)
SUMMARY_JSON = "summary.json"
SUMMARY_TABLE = "summary.csv"
SUMMARY_PAGE = "summary.html"
SHOWN = 500
"""Rows of a table on the page; all are in the CSV."""

_DESCRIBED = ("height", "width", "spacing_mm", "scaled_by", "classes", "warnings")


@dataclass(frozen=True)
class Outcome:
    """What the results say of one scan; `description` is empty unless it is done, `reason` unless it is not."""

    scan: str
    status: Literal["done", "faulty", "missing"]
    reason: str = ""
    description: dict[str, Any] | None = None


@dataclass(frozen=True)
class BatchSummary:
    """A batch in numbers.

    Attributes:
        scans: Scans found.
        done: Scans with results, those of an earlier run too.
        before: How many of these were there when the batch was planned.
        faulty: Scans that could not be segmented.
        missing: Scans without result and without fault.
        left_out: Files that were taken for results of an earlier run.
        warnings: Scans with a warning.
        results: Address of the results.
        page: The page, here.
    """

    scans: int
    done: int
    before: int
    faulty: int
    missing: int
    left_out: int
    warnings: int
    results: str
    page: Path

    def counts(self) -> dict[str, int]:
        """The numbers alone."""
        names = ("scans", "done", "before", "faulty", "missing", "left_out", "warnings")
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """End a batch that is not complete with an error.

        Raises:
            StorageError: Scans have neither result nor fault.
            DataError: Scans could not be segmented.
        """
        where = f"{self.results.rstrip('/')}/{SUMMARY_PAGE}"
        if self.missing:
            raise StorageError(
                f"{self.missing} of {self.scans} scans have no result",
                evidence=f"see {where}",
                action="Start the batch again: it goes on with them. Let no other batch write to the same address.",
            )
        if self.faulty:
            done = "none is done" if not self.done else f"the other {self.done} are done"
            raise DataError(
                f"{self.faulty} of {self.scans} scans could not be segmented, {done}",
                evidence=f"reasons in {where}",
                action="Mend or take away these files and start the batch again: it does only what is missing.",
            )


def run(plan: BatchPlan, out: Path, *, ended: Sequence[str] | None = None) -> BatchSummary:
    """Write the summary into `out` and to the results address: JSON, CSV and a page.

    Args:
        plan: The batch.
        out: Folder to write; made where absent.
        ended: Parts that are said to have ended; None = not known. A back end may skip one and call it a success.

    Raises:
        ClusterError: Some part did not run.
        StorageError: The results cannot be read or written.
    """
    if ended is not None and sorted(ended) != sorted(plan.parts):
        raise ClusterError(
            "not every part of the batch ran",
            evidence=f"{len(plan.parts)} planned, {len(ended)} ended",
            action="Look at the log of the others, and start the batch again: it goes on with what is missing.",
        )
    store = plan.open_results()
    with ThreadPoolExecutor(READERS) as pool:
        outcomes = list(pool.map(lambda scan: _outcome(plan, store, scan), plan.planned))
    outcomes += [Outcome(item.name, "faulty", item.reason) for item in plan.refused]
    summary = _count(plan, outcomes, out / SUMMARY_PAGE)
    write_text(out / SUMMARY_PAGE, render(plan, summary, outcomes))
    write_text(out / SUMMARY_TABLE, table(outcomes))
    write_json(out / SUMMARY_JSON, _as_json(plan, summary, outcomes))
    for name in (SUMMARY_PAGE, SUMMARY_TABLE, SUMMARY_JSON):
        store.put(out / name, name)
    logger.info("batch: %s", ", ".join(f"{number} {name}" for name, number in summary.counts().items()))
    return summary


def table(outcomes: Sequence[Outcome]) -> str:
    """One row a scan, as CSV. No cell starts with a character that a spreadsheet takes for a formula."""
    stream = io.StringIO(newline="")
    areas = [f"{item.name}_{unit}" for unit in ("pixels", "area_mm2") for item in CLASSES]
    writer = csv.DictWriter(
        stream, ["scan", "status", "reason", "height", "width", *areas, "warnings"], restval="", lineterminator="\n"
    )
    writer.writeheader()
    for outcome in outcomes:
        row: dict[str, Any] = {"scan": outcome.scan, "status": outcome.status, "reason": outcome.reason}
        if outcome.description is not None:
            row |= {"height": outcome.description["height"], "width": outcome.description["width"]}
            row["warnings"] = "; ".join(outcome.description["warnings"])
            for name, values in outcome.description["classes"].items():
                row |= {f"{name}_{unit}": values[unit] for unit in ("pixels", "area_mm2") if unit in values}
        writer.writerow(row)
    return stream.getvalue()


def render(plan: BatchPlan, summary: BatchSummary, outcomes: Sequence[Outcome]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("sa2net.steps.batch"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("summary.html.j2").render(
        plan=plan,
        summary=summary,
        failed=[outcome for outcome in outcomes if outcome.status != "done"],
        done=[outcome for outcome in outcomes if outcome.status == "done"],
        classes=CLASSES[1:],
        measured=plan.settings.spacing is not None,
        shown=SHOWN,
        version=__version__,
    )


def _outcome(plan: BatchPlan, store: ObjectStore, scan: PlannedScan) -> Outcome:
    files, expected = ResultFiles(scan.name), origin(plan.model, plan.settings, scan)
    description = read_result(store, files.description, expected)
    if description is not None:
        return Outcome(scan.name, "done", description={name: description[name] for name in _DESCRIBED})
    fault = read_result(store, files.fault, expected)
    if fault is not None:
        return Outcome(scan.name, "faulty", str(fault["reason"]))
    return Outcome(scan.name, "missing", "neither a result nor a fault was found")


def _count(plan: BatchPlan, outcomes: Sequence[Outcome], page: Path) -> BatchSummary:
    by_status = [outcome.status for outcome in outcomes]
    return BatchSummary(
        scans=len(outcomes),
        done=by_status.count("done"),
        before=len(plan.done),
        faulty=by_status.count("faulty"),
        missing=by_status.count("missing"),
        left_out=plan.left_out,
        warnings=sum(bool(outcome.description and outcome.description["warnings"]) for outcome in outcomes),
        results=plan.results,
        page=page,
    )


def _as_json(plan: BatchPlan, summary: BatchSummary, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "intended_use": INTENDED_USE,
        "software": f"sa2net {__version__}",
        "scans_address": plan.scans,
        "results_address": plan.results,
        "model": plan.model.model_dump(mode="json"),
        "settings": plan.settings.model_dump(mode="json"),
        "counts": summary.counts(),
        "scans": [{"scan": item.scan, **item.description} for item in outcomes if item.description is not None],
        "faults": [{"scan": item.scan, "reason": item.reason} for item in outcomes if item.status == "faulty"],
        "missing": [item.scan for item in outcomes if item.status == "missing"],
    }
