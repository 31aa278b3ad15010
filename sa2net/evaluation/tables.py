"""The tables of an evaluation, as CSV files that a spreadsheet, pandas and `dvc plots` read.

Numbers are rounded and cells of what was not scored are blank, so that equal runs write equal bytes.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sa2net.anatomy import CLASS_NAMES, FOREGROUND
from sa2net.artifacts import (
    ANGLES,
    CONFUSION,
    DICE_PER_CLASS,
    PER_SCAN,
    PER_SCAN_COLUMNS,
    RELIABILITY,
    SUBGROUPS,
    Estimate,
    Scores,
    write_text,
)
from sa2net.config import EvaluateConfig
from sa2net.evaluation.angle_scores import difference, size_of
from sa2net.evaluation.angles import ScanAngles
from sa2net.evaluation.metrics import METRICS
from sa2net.evaluation.scoring import DECIMALS, Evaluation, ScanResult, class_estimate, mean_estimate

SUBGROUP_COLUMNS = ("device", "severity")
"""Columns of `scans.csv` whose groups are a table of their own; others are in the report alone, which stays here."""

ANGLES_HEADER = (
    "name",
    "subject",
    "status",
    "true_deg",
    "convex",
    "size",
    "measured_deg",
    "difference_deg",
    "interval_low_deg",
    "interval_high_deg",
    "refusals",
    "missed",
    "extra",
    "artefacts",
)


def write_tables(folder: Path, evaluation: Evaluation, scores: Scores) -> None:
    """Write `per_scan.csv`, `confusion.csv`, `dice_per_class.csv` and `reliability.csv`."""
    write_text(folder / PER_SCAN, _csv(PER_SCAN_COLUMNS, _per_scan(evaluation.results)))
    write_text(folder / CONFUSION, _csv(("actual", "predicted", "share", "pixels"), _confusion(evaluation)))
    write_text(folder / DICE_PER_CLASS, _csv(("class", "dice", "low", "high"), _dice(scores)))
    header = ("low", "high", "confidence", "accuracy", "pixels")
    write_text(folder / RELIABILITY, _csv(header, _reliability(evaluation)))


def write_subgroups(
    folder: Path, evaluation: Evaluation, cfg: EvaluateConfig, groups: Mapping[str, Mapping[str, str]]
) -> None:
    """Write `subgroups.csv`: Dice by device and severity; the header alone where `scans.csv` names no such groups.

    Args:
        folder: Evaluation folder.
        evaluation: What was scored.
        cfg: Of the intervals.
        groups: Column of `scans.csv` -> scan name -> group.
    """
    header = ("column", "group", "scans", "subjects", "class", "dice", "low", "high")
    chosen = {column: groups[column] for column in SUBGROUP_COLUMNS if column in groups}
    write_text(folder / SUBGROUPS, _csv(header, _subgroups(evaluation.results, cfg, chosen)))


def write_angles(folder: Path, evaluation: Evaluation) -> None:
    """Write `angles.csv`: one row a scan whose true curves are known; the header alone where none are."""
    rows = (
        [result.case.name, result.case.subject, *_angles(result.angles)]
        for result in evaluation.results
        if result.angles
    )
    write_text(folder / ANGLES, _csv(ANGLES_HEADER, rows))


def row_shares(evaluation: Evaluation) -> list[list[float]]:
    """The confusion matrix with rows (truth) that sum to 1; a class that no truth holds has zeros. # (K, K)."""
    totals = np.maximum(evaluation.confusion.sum(axis=1, keepdims=True), 1)
    shares: list[list[float]] = (evaluation.confusion / totals).tolist()
    return shares


def _per_scan(results: Sequence[ScanResult]) -> Iterable[list[str]]:
    for result in results:
        for score in result.scores:
            values = [_number(float(getattr(score, metric))) for metric in METRICS]
            counts = [str(score.truth_px), str(score.prediction_px)]
            case = result.case
            yield [case.name, case.subject, case.device, score.name, *values, score.unit, *counts]


def _confusion(evaluation: Evaluation) -> Iterable[list[str]]:
    shares = row_shares(evaluation)
    for actual, name in enumerate(CLASS_NAMES):
        for predicted, other in enumerate(CLASS_NAMES):
            yield [name, other, _number(shares[actual][predicted]), str(evaluation.confusion[actual, predicted])]


def _dice(scores: Scores) -> Iterable[list[str]]:
    rows = [("mean", scores.mean.dice), *((item.name, scores.per_class[item.name].dice) for item in FOREGROUND)]
    for name, estimate in rows:
        if estimate is not None:
            yield [name, *_ends(estimate)]


def _subgroups(
    results: Sequence[ScanResult], cfg: EvaluateConfig, groups: Mapping[str, Mapping[str, str]]
) -> Iterable[list[str]]:
    for column, values in groups.items():
        for group in sorted(set(values.values())):
            chosen = [result for result in results if values.get(result.case.name) == group]
            counts = [str(len(chosen)), str(len({result.case.subject for result in chosen}))]
            rows = [("mean", mean_estimate(chosen, "dice", cfg))]
            rows += [(item.name, class_estimate(chosen, index, "dice", cfg)) for index, item in enumerate(FOREGROUND)]
            yield from ([column, group, *counts, name, *_ends(estimate)] for name, estimate in rows if estimate)


def _ends(estimate: Estimate) -> list[str]:
    return ["" if value is None else _number(value) for value in (estimate.value, estimate.low, estimate.high)]


def _reliability(evaluation: Evaluation) -> Iterable[list[str]]:
    for item in evaluation.reliability:
        if item.pixels:
            numbers = (item.low, item.high, item.confidence, item.accuracy)
            yield [*(_number(value) for value in numbers), str(item.pixels)]


def _angles(angles: ScanAngles) -> list[str]:
    compared = angles.compared
    said = ["", "", "", ""]
    if angles.status == "found" and compared.found is not None:
        values = (compared.found.angle_deg, difference(angles), *compared.found.interval_90_deg)
        said = [_number(value) for value in values]
    return [
        angles.status,
        _number(compared.truth),
        compared.convex,
        size_of(angles),
        *said,
        " ".join(angles.refusals),
        str(compared.missed),
        str(compared.extra),
        " ".join(angles.artefacts),
    ]


def _number(value: float) -> str:
    return "" if math.isnan(value) else repr(round(value, DECIMALS))


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
