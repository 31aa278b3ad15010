"""Angles measured on phantoms that training never saw, against the truth: the table of docs/reference/angles.md.

The grid is fixed here: five groups of scans at full size (640 px wide), each with the default artefacts and one family
that the starter set never shows (low_contrast, shadow, sweep_gap, motion_kink), the fifth with all four. Seeds differ
from the starter set's; within a group the largest angles are spread evenly over 0-60 degrees. The truth is the angle
between the tangents of the drawn spine curve at its inflections, for the largest curve of at least 10 degrees.

    python -m benchmarks.angle --masks perfect
    python -m benchmarks.angle --masks network --model build/train/model

Scans and predictions are kept below build/angle, so that an interrupted run goes on where it was. `--calibrate` draws
other scans and says which factor on the standard errors would make 90 % intervals hold 90 % of the truths: the constant
in sa2net/scoliosis/uncertainty.py was set so.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sa2net.artifacts import folder_sha256, read_json, write_json
from sa2net.config import MeasureConfig
from sa2net.data.angles import drawn_curves
from sa2net.data.phantom import DEFAULT_ARTEFACTS, draw_phantom
from sa2net.data.pictures import read_mask, read_scan, write_png
from sa2net.evaluation.angles import SMALLEST_TRUE, Agreement, Compared, agree, compare, match
from sa2net.inference.description import find_warnings
from sa2net.inference.predictor import Predictor
from sa2net.scoliosis import Measurement, Source, measure
from sa2net.scoliosis.column import column_curves

Picture = npt.NDArray[np.uint8]

SEED, CALIBRATION_SEED = 20260, 77000
GROUPS: tuple[tuple[str, ...], ...] = (
    ("low_contrast",),
    ("shadow",),
    ("sweep_gap",),
    ("motion_kink",),
    ("low_contrast", "shadow", "sweep_gap", "motion_kink"),
)
GOLDEN = 0.6180339887498949
SEVERITIES = ("mild", "moderate", "severe")
CACHE = Path("build/angle")
_NINETY = 1.6448536269514722


@dataclass(frozen=True)
class Case:
    """One phantom as it is read back."""

    name: str
    group: str
    scan: Picture
    mask: Picture
    truth: dict[str, Any]

    @property
    def spacing(self) -> tuple[float, float]:
        """Size of a pixel (x, y), mm."""
        return self.truth["spacing_mm"][0], self.truth["spacing_mm"][1]


@dataclass(frozen=True)
class Row:
    """One scan with everything that the tables need; angles in degrees."""

    name: str
    group: str
    severity: str
    compared: Compared
    measurement: Measurement
    column: float
    seconds: float


@dataclass(frozen=True)
class ColumnCurve:
    """A curve of the spinous column; rows in px."""

    convex: str
    upper_row: float
    lower_row: float
    angle: float


def cases(seed: int, count: int) -> Iterator[Case]:
    """The phantoms of the grid, drawn or read back."""
    for index in range(count):
        group, place = index % len(GROUPS), index // len(GROUPS)
        name = f"{seed}-{group}-{place:03d}"
        folder = CACHE / "phantoms"
        if not (folder / f"{name}.json").exists():
            begin = float(np.random.default_rng([seed, group]).random())
            phantom = draw_phantom(
                np.random.default_rng([seed, group, place]),
                artefacts=(*DEFAULT_ARTEFACTS, *GROUPS[group]),
                angle=60.0 * ((begin + place * GOLDEN) % 1.0),
            )
            write_png(folder / f"{name}.png", phantom.scan)
            write_png(folder / f"{name}_mask.png", phantom.mask)
            write_json(folder / f"{name}.json", phantom.truth)
        yield Case(
            name,
            GROUPS[group][0] if len(GROUPS[group]) == 1 else "all four",
            read_scan(folder / f"{name}.png"),
            read_mask(folder / f"{name}_mask.png"),
            read_json(folder / f"{name}.json"),
        )


def perfect(case: Case) -> dict[str, Any]:
    """What `measure` needs of a drawn mask."""
    return {"mask": case.mask}


def by_network(model: Path, threads: int) -> Callable[[Case], dict[str, Any]]:
    """What `measure` needs of a predicted mask; predictions are kept."""
    predictor = Predictor.load(model, flip=True, device="cpu", threads=threads)
    folder = CACHE / f"predictions-{folder_sha256(model)[:12]}"

    def predict(case: Case) -> dict[str, Any]:
        files = folder / f"{case.name}_mask.png", folder / f"{case.name}_sure.png", folder / f"{case.name}.json"
        if not files[2].exists():
            prediction = predictor.probabilities(case.scan, case.spacing)
            write_png(files[0], prediction.mask)
            write_png(files[1], np.rint(255.0 * prediction.probabilities.max(axis=0)).astype(np.uint8))
            unlike = find_warnings(
                case.scan, prediction.mask, predictor.info, scale=prediction.scale, scaled_by=prediction.scaled_by
            )
            write_json(files[2], {"unlike": unlike})
        mask, sure = read_mask(files[0]), read_scan(files[1]).astype(np.float32) / 255.0
        # Only the probability of the class that a pixel has is looked at.
        probabilities = np.stack([np.where(mask == index, sure, 0.0).astype(np.float32) for index in range(4)])
        source = Source(scan=case.name, mask="network", unlike=tuple(read_json(files[2])["unlike"]))
        return {"mask": mask, "probabilities": probabilities, "source": source}

    return predict


def run(seed: int, count: int, segment: Callable[[Case], dict[str, Any]]) -> list[Row]:
    """Measure every scan of the grid."""
    rows = []
    for case in cases(seed, count):
        given = segment(case)
        start = time.perf_counter()
        measurement = measure(scan=case.scan, cfg=MeasureConfig(), spacing_mm=case.spacing, **given)
        seconds = time.perf_counter() - start
        compared = compare(measurement, drawn_curves(case.truth))
        column = _by_column(case)
        rows.append(Row(case.name, case.group, case.truth["severity"], compared, measurement, column, seconds))
        print(f"\r{len(rows)}/{count}", end="", flush=True)
    print()
    return rows


def _by_column(case: Case) -> float:
    """The angle of the largest true curve along the spinous column; NaN where there is no such curve."""
    step = case.spacing[1]
    curves = [
        ColumnCurve(curve.convex, curve.upper / step, curve.lower / step, curve.angle)
        for curve in column_curves(case.scan, case.spacing, 5.0)
    ]
    found = match(max(drawn_curves(case.truth), key=lambda curve: curve.angle_deg), curves)
    return found.angle if found is not None else float("nan")


def table(title: str, lines: Sequence[tuple[str, Sequence[Row]]]) -> None:
    """Agreement of the combined estimator in subsets of the scans."""
    print(f"\n{title}\n")
    print(
        "| | scans | refused | missed | extra | MAD | bias | limits of agreement | ICC(2,1) | within 5 | 90 % covers |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, rows in lines:
        counted = [row for row in rows if row.compared.counts]
        found = [row.compared for row in counted if row.compared.found is not None]
        agreement = agree([c.found.angle_deg for c in found if c.found], [c.truth for c in found])
        covered = sum(c.covered for c in found) / max(len(found), 1)
        print(
            f"| {name} | {len(counted)} | {sum(row.compared.refused for row in counted)} "
            f"| {sum(row.compared.missed for row in rows)} | {sum(row.compared.extra for row in rows)} "
            f"| {_cells(agreement)} | {covered:.0%} |"
        )


def estimators(rows: Sequence[Row]) -> None:
    """Every estimator beside the combination, on the same scans."""
    print("\nEach estimator\n\n| estimator | angles | MAD | bias | limits of agreement | ICC(2,1) | within 5 |")
    print("|---|---|---|---|---|---|---|")
    pairs = [(row, row.compared.found) for row in rows if row.compared.counts and row.compared.found is not None]
    truths = [row.compared.truth for row, _ in pairs]
    nan = float("nan")
    columns: tuple[tuple[str, list[float], list[float]], ...] = (
        ("combined", [found.estimates.combined for _, found in pairs], truths),
        ("lines, smoothed (tilts)", [found.estimates.tilts for _, found in pairs], truths),
        ("midline tangent", [found.estimates.midline for _, found in pairs], truths),
        ("two most opposed lines", [_or_nan(found.estimates.lines) for _, found in pairs], truths),
        (
            "two most opposed lines, against the drawn lines",
            [_or_nan(found.estimates.lines) for _, found in pairs],
            [row.compared.drawn for row, _ in pairs],
        ),
        (
            "spinous column, no network",
            [row.column for row in rows if row.compared.counts],
            [row.compared.truth for row in rows if row.compared.counts],
        ),
    )
    for name, values, against in columns:
        agreement = agree([value if value is not None else nan for value in values], against)
        print(f"| {name} | {agreement.pairs} | {_cells(agreement)} |")


def calibration(rows: Sequence[Row]) -> None:
    """The factor on the standard errors that would make 90 % intervals hold 90 % of the truths."""
    ratios = sorted(
        abs(row.compared.found.angle_deg - row.compared.truth) / row.compared.found.standard_error_deg
        for row in rows
        if row.compared.counts and row.compared.found is not None
    )
    print(f"\nfactor for 90 %: {np.quantile(ratios, 0.9) / _NINETY:.3f} on {len(ratios)} curves")


def _cells(agreement: Agreement) -> str:
    limits = f"{agreement.low:+.1f} to {agreement.high:+.1f}"
    icc = f"{agreement.icc:.3f} ({agreement.icc_low:.3f}-{agreement.icc_high:.3f})"
    return f"{agreement.mad:.2f} | {agreement.bias:+.2f} | {limits} | {icc} | {agreement.close:.0%}"


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", choices=("perfect", "network"), default="perfect")
    parser.add_argument("--model", type=Path, default=Path("build/train/model"))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calibrate", action="store_true", help="Other seeds; print the factor for the intervals.")
    args = parser.parse_args()
    segment = perfect if args.masks == "perfect" else by_network(args.model, args.threads)
    rows = run(CALIBRATION_SEED if args.calibrate else SEED, args.count, segment)
    print(f"\n{args.masks} masks, phantoms, largest true curve of at least {SMALLEST_TRUE:g} degrees")
    table("All", [("all", rows)])
    table("By severity (of the drawn curve)", [(name, [r for r in rows if r.severity == name]) for name in SEVERITIES])
    groups = dict.fromkeys(row.group for row in rows)
    table("By artefacts", [(name, [row for row in rows if row.group == name]) for name in groups])
    estimators(rows)
    for row in rows:
        if row.compared.refused:
            print(f"refused {row.name}: {'; '.join(refusal.reason for refusal in row.measurement.refusals)}")
    seconds = [row.seconds for row in rows]
    print(f"\nlevels and angles: median {statistics.median(seconds):.3f} s, largest {max(seconds):.3f} s a scan")
    if args.calibrate:
        calibration(rows)


if __name__ == "__main__":
    main()
