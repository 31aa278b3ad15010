"""Angles of a whole split: measured in each prediction, summed up over scans, and by the size of the true angle.

What is measured is what `sa2net measure` says of the scan. Definitions of agreement are in `evaluation.angles`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sa2net.artifacts import AngleScores, ModelInfo
from sa2net.config import EvaluateConfig, MeasureConfig
from sa2net.data.angles import TrueAngles
from sa2net.data.layout import Case
from sa2net.errors import DataError
from sa2net.evaluation.angles import ScanAngles, agree, compare
from sa2net.evaluation.scoring import DECIMALS, PredictionLike, ScanResult, estimate, rounded
from sa2net.evaluation.statistics import Interval
from sa2net.inference.description import find_warnings
from sa2net.scoliosis import Source, measure

SIZES = ((10.0, "under 10"), (25.0, "10 to 25"), (45.0, "25 to 45"), (float("inf"), "45 and more"))
"""Upper limit of the true angle and the group's name, degrees: a way to look at small and large curves apart, without
words for severity, which are made for radiographic angles."""


class ScaledPrediction(PredictionLike, Protocol):
    """A prediction that says at which scale the network saw the scan."""

    @property
    def scale(self) -> float:
        """Working-scale pixels per scan pixel."""

    @property
    def scaled_by(self) -> str:
        """How that was found."""


@dataclass(frozen=True)
class AngleMeasurer:
    """Measures the angles in a prediction and compares them with the true ones.

    Attributes:
        truths: True angles by scan name.
        cfg: Limits of refusal.
        info: The `model.json` of the network: what it learnt from.
    """

    truths: Mapping[str, TrueAngles]
    cfg: MeasureConfig
    info: ModelInfo

    def __call__(self, case: Case, scan: npt.NDArray[np.uint8], prediction: ScaledPrediction) -> ScanAngles | None:
        """Measure one scan; None where its truth is not known.

        Raises:
            DataError: A true curve that lies outside of the picture.
        """
        truth = self.truths.get(case.name)
        if truth is None:
            return None
        _check_rows(truth, case, scan.shape[0])
        unlike = find_warnings(scan, prediction.mask, self.info, scale=prediction.scale, scaled_by=prediction.scaled_by)
        measurement = measure(
            prediction.mask,
            scan=scan,
            probabilities=prediction.probabilities,
            cfg=self.cfg,
            spacing_mm=case.spacing_mm,
            source=Source(scan=case.scan.name, mask="network", unlike=tuple(unlike)),
        )
        codes = tuple(refusal.code for refusal in measurement.refusals)
        return ScanAngles(compare(measurement, truth.curves), codes, truth.artefacts)


@dataclass(frozen=True)
class AngleGroup:
    """Some scans of a split and how well their angles agree."""

    name: str
    scores: AngleScores


def summarise_angles(results: Sequence[ScanResult], cfg: EvaluateConfig) -> AngleScores | None:
    """Agreement over scans; None where the truth of none of them is known.

    Args:
        results: Scored scans.
        cfg: Of the intervals.
    """
    known = [result for result in results if result.angles is not None]
    if not known:
        return None
    angles = [result.angles for result in known if result.angles is not None]
    counted = [item for item in angles if item.compared.counts]
    refused = sum(item.status == "refused" for item in counted)
    found = [item.compared for item in counted if item.status == "found"]
    agreement = agree(
        [item.found.angle_deg for item in found if item.found is not None],
        [item.truth for item in found],
        confidence=cfg.confidence,
    )
    return AngleScores(
        scans=len(angles),
        compared=len(counted),
        pairs=len(found),
        refused=refused,
        refused_share=_number(refused / len(counted)) if counted else None,
        missed=sum(item.compared.missed for item in angles),
        extra=sum(item.compared.extra for item in angles),
        mad=estimate([abs(difference(item.angles)) for item in known], known, cfg),
        bias=_number(agreement.bias),
        limit_low=_number(agreement.low),
        limit_high=_number(agreement.high),
        icc=rounded(Interval(agreement.icc, agreement.icc_low, agreement.icc_high)),
        within_5=_number(agreement.close),
        coverage=_number(sum(item.covered for item in found) / len(found)) if found else None,
    )


def difference(angles: ScanAngles | None) -> float:
    """Measured - true angle of the largest true curve, degrees; NaN where it was not found or is not compared."""
    if angles is None or angles.status != "found" or angles.compared.found is None:
        return float("nan")
    return angles.compared.found.angle_deg - angles.compared.truth


def size_of(angles: ScanAngles) -> str:
    """The group of SIZES that the largest true angle belongs to."""
    return next(name for limit, name in SIZES if angles.compared.truth < limit)


def by_size(results: Sequence[ScanResult], cfg: EvaluateConfig) -> list[AngleGroup]:
    """Agreement by the size of the true angle; groups without a scan are left out."""
    groups: dict[str, list[ScanResult]] = {name: [] for _, name in SIZES}
    for result in results:
        if result.angles is not None:
            groups[size_of(result.angles)].append(result)
    return _summaries(groups, cfg)


def by_artefact(results: Sequence[ScanResult], cfg: EvaluateConfig) -> list[AngleGroup]:
    """Agreement by family of artefacts, a scan in the group of each family that it shows; empty without any."""
    groups: dict[str, list[ScanResult]] = {}
    without: list[ScanResult] = []
    for result in results:
        if result.angles is not None:
            for family in result.angles.artefacts:
                groups.setdefault(family, []).append(result)
            if not result.angles.artefacts:
                without.append(result)
    return _summaries({**dict(sorted(groups.items())), "none of them": without}, cfg) if groups else []


def _summaries(groups: Mapping[str, Sequence[ScanResult]], cfg: EvaluateConfig) -> list[AngleGroup]:
    pairs = ((name, summarise_angles(results, cfg)) for name, results in groups.items())
    return [AngleGroup(name, scores) for name, scores in pairs if scores is not None]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), DECIMALS)


def _check_rows(truth: TrueAngles, case: Case, height: int) -> None:
    """A curve below the picture's last row was given in other units, or belongs to another scan."""
    lowest = max(curve.lower_row for curve in truth.curves)
    if lowest > height:
        raise DataError(
            f"{truth.source}: a curve of {case.name} ends below its scan",
            evidence=f"row {lowest:g}, the scan has {height}",
            action="Give rows in px of the scan.",
        )
