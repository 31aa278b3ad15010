"""How well one predicted mask fits the truth, class by class, on one scan.

Definitions, since distance metrics differ between tools:

- A surface pixel is a pixel of the class with one of its four neighbours outside the class, or at the picture's
  edge. Distances are Euclidean, between pixel centres.
- NSD: the share of the surface pixels of both masks that have a surface pixel of the other within the tolerance.
- HD95: the larger of the two 95th percentiles, prediction to truth and truth to prediction.
- Pixels whose truth is 255 belong to nothing. The border of a class along them is not known, so that it is no surface.

Absent classes (after Metrics Reloaded, arXiv 2206.01653: an undefined value must not vanish, and must not flatter):

- absent in truth and prediction: nothing to score. The values are NaN, left out of means and counted as *absent*;
- in the truth alone (*missed*) or in the prediction alone (*spurious*): Dice, IoU and NSD are 0, HD95 is the picture's
  diagonal, which no distance exceeds; each is counted;
- in both, but one has no surface, since ignored pixels enclose it: NSD and HD95 are NaN and left out.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

from sa2net.anatomy import FOREGROUND, IGNORE_INDEX

Mask = npt.NDArray[np.uint8]
Unit = Literal["mm", "px"]
METRICS = ("dice", "iou", "nsd", "hd95")

_PERCENTILE = 95


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class on one scan; NaN = not scored.

    Attributes:
        name: Key of the class in `sa2net.anatomy`.
        dice: 2 |P and T| / (|P| + |T|), 0-1.
        iou: |P and T| / |P or T|, 0-1.
        nsd: Normalised surface distance at the tolerance, 0-1.
        hd95: 95th percentile of the Hausdorff distance, in `unit`.
        unit: Of `hd95` and of the tolerance.
        truth_px: Pixels of the class in the truth.
        prediction_px: Pixels of the class in the prediction, ignored ones left out.
    """

    name: str
    dice: float
    iou: float
    nsd: float
    hd95: float
    unit: Unit
    truth_px: int
    prediction_px: int

    @property
    def state(self) -> Literal["scored", "absent", "missed", "spurious"]:
        """Whether the class is in both masks, in none, in the truth alone or in the prediction alone."""
        if self.truth_px and self.prediction_px:
            return "scored"
        if self.truth_px:
            return "missed"
        return "spurious" if self.prediction_px else "absent"


def score_scan(
    prediction: Mask,
    truth: Mask,
    *,
    spacing_mm: tuple[float, float] | None,
    tolerance_mm: float,
    tolerance_px: float,
) -> list[ClassScore]:
    """Score every foreground class of one scan.

    Args:
        prediction: Class ids. # (H, W)
        truth: Class ids, 255 = ignored. # (H, W)
        spacing_mm: Size of a pixel (x, y), mm; None = lengths are in pixels.
        tolerance_mm: Tolerance of the NSD where the spacing is known.
        tolerance_px: The same where it is not.

    Returns:
        One score a foreground class, in the order of `sa2net.anatomy`.

    Raises:
        ValueError: The two are not pictures of one size.
    """
    if prediction.ndim != 2 or prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} are not pictures of one size")
    valid = truth != IGNORE_INDEX
    # Lengths follow array order from here on: rows (y) first.
    step = (1.0, 1.0) if spacing_mm is None else (spacing_mm[1], spacing_mm[0])
    unit: Unit = "px" if spacing_mm is None else "mm"
    tolerance = tolerance_px if spacing_mm is None else tolerance_mm
    scores = []
    for item in FOREGROUND:
        predicted_class, true_class = (prediction == item.id) & valid, truth == item.id
        dice, iou = _overlap(predicted_class, true_class)
        nsd, hd95 = _surface(predicted_class, true_class, valid, step, tolerance)
        counts = int(true_class.sum()), int(predicted_class.sum())
        scores.append(ClassScore(item.name, dice, iou, nsd, hd95, unit, *counts))
    return scores


def mean_over_classes(scores: list[ClassScore], metric: str) -> float:
    """Mean of one metric over the classes that are scored on a scan; NaN where none is."""
    values = [value for score in scores if not math.isnan(value := float(getattr(score, metric)))]
    return math.fsum(values) / len(values) if values else math.nan


def _overlap(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Dice and IoU of two binary masks."""
    both, total = int((prediction & truth).sum()), int(prediction.sum()) + int(truth.sum())
    return (2 * both / total, both / (total - both)) if total else (math.nan, math.nan)


def _surface(
    prediction: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.bool_],
    valid: npt.NDArray[np.bool_],
    step: tuple[float, float],
    tolerance: float,
) -> tuple[float, float]:
    """NSD and HD95 of two binary masks; `step` is the size of a pixel (y, x)."""
    if not prediction.any() and not truth.any():
        return math.nan, math.nan
    if not prediction.any() or not truth.any():
        return 0.0, math.hypot(prediction.shape[0] * step[0], prediction.shape[1] * step[1])
    # With the ignored pixels filled in on both sides, a class has no edge along them.
    predicted_edge, true_edge = _edge(prediction | ~valid) & valid, _edge(truth | ~valid) & valid
    if not predicted_edge.any() or not true_edge.any():
        return math.nan, math.nan
    to_truth = _distances(predicted_edge, true_edge, step)
    to_prediction = _distances(true_edge, predicted_edge, step)
    within = int((to_truth <= tolerance).sum()) + int((to_prediction <= tolerance).sum())
    nsd = within / (len(to_truth) + len(to_prediction))
    hd95 = max(float(np.percentile(distances, _PERCENTILE)) for distances in (to_truth, to_prediction))
    return nsd, hd95


def _edge(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels of a mask with one of four neighbours outside it, or at the picture's edge."""
    edge: npt.NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask)
    return edge


def _distances(
    start: npt.NDArray[np.bool_], goal: npt.NDArray[np.bool_], step: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """From each pixel of `start` to the nearest of `goal`; in single precision three steps of 0.1 are 0.3."""
    # Edges are sparse: a tree of their pixels takes a third of the time of a distance transform of the picture.
    tree = KDTree(np.argwhere(goal) * step, leafsize=32)
    return np.asarray(tree.query(np.argwhere(start) * step)[0], dtype=np.float32)
