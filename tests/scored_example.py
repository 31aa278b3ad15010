"""A scored split without a network: predictions are the truth, moved and damaged by a known amount."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from factories import write_data_set

from sa2net.artifacts import Scores
from sa2net.config import EvaluateConfig
from sa2net.data.layout import Case, read_cases
from sa2net.data.pictures import read_mask, read_scan
from sa2net.evaluation.scoring import Evaluation, score, summarise

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class KnownPrediction:
    """A mask with probabilities that agree with it."""

    mask: Picture
    probabilities: npt.NDArray[np.float32]


class MovedTruth:
    """A predictor that knows the truth and moves it `step` px down for the first scan, 2 `step` for the next ...

    Args:
        cases: What it will be asked about.
        step: px.
        forgets: Class id that the scan of this position lacks in the prediction: position -> class id.
    """

    def __init__(self, cases: list[Case], *, step: int = 1, forgets: dict[int, int] | None = None) -> None:
        self.step, self.forgets = step, forgets or {}
        self.truth = {read_scan(case.scan).tobytes(): (index, read_mask(case.mask)) for index, case in enumerate(cases)}
        self.spacings: list[tuple[float, float] | None] = []

    def __call__(self, scan: Picture, spacing_mm: tuple[float, float] | None) -> KnownPrediction:
        """Predict one of the known scans."""
        self.spacings.append(spacing_mm)
        index, truth = self.truth[scan.tobytes()]
        mask = np.roll(truth, index * self.step, axis=0)
        mask = np.where(mask == self.forgets.get(index, 255), 0, mask).astype(np.uint8)
        sure = np.float32(0.91)
        one_hot = (np.arange(4)[:, None, None] == mask).astype(np.float32)
        return KnownPrediction(mask, one_hot * sure + (1 - one_hot) * (1 - sure) / 3)


def scored_example(
    folder: Path, *, test: int = 12, forgets: dict[int, int] | None = None, cfg: EvaluateConfig | None = None
) -> tuple[Path, Path, Evaluation, Scores, EvaluateConfig]:
    """Score a fresh tiny data set.

    Returns:
        Data root, folder of predicted masks, evaluation, scores, settings.
    """
    cfg = cfg or EvaluateConfig(bootstrap_samples=200)
    root = write_data_set(folder / "data", train=1, test=test)
    cases = read_cases(root, [cfg.split])
    masks = folder / "masks"
    masks.mkdir()
    evaluation = score(cases, MovedTruth(cases, forgets=forgets), cfg, masks=masks, progress=False)
    scores = summarise(evaluation, cfg, data_md5="0" * 32 + ".dir", model_sha256="f" * 64, phantom=False)
    return root, masks, evaluation, scores, cfg
