"""Two versions on the same scans: differences scan by scan, resampled by subject, and what they say beyond chance."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from sa2net.config import RegisterConfig
from sa2net.evaluation.statistics import PairedBootstrap, holm, paired_bootstrap
from sa2net.registry.decision import CLASSES, MEAN, Floats, ScoredVersion, mean_over_classes

BETTER, NOT_WORSE, WORSE, OPEN = "better", "not worse", "worse", "cannot tell"


@dataclass(frozen=True)
class Paired:
    """Candidate and champion on the same scans.

    Attributes:
        pairs: Resampled differences of the mean and of each class that is scored on any scan.
        differences: The same scan by scan, candidate - champion. # (N,) each
        not_worse: Class -> Holm's p-value of "worse by the margin or more"; small = not worse.
        worse: Class -> Holm's p-value of "worse by at most the margin"; small = worse.
        confidence: Level of the one-sided tests.
        margin: Largest loss of Dice per class that counts as no loss.
    """

    pairs: Mapping[str, PairedBootstrap]
    differences: Mapping[str, Floats]
    not_worse: Mapping[str, float]
    worse: Mapping[str, float]
    confidence: float
    margin: float

    @classmethod
    def of(cls, candidate: ScoredVersion, champion: ScoredVersion, cfg: RegisterConfig) -> Self:
        """Compare two versions with the same scans in the same order."""
        columns = paired_columns(candidate, champion)
        differences = {
            name: ours - theirs
            for name, (ours, theirs) in columns.items()
            if name == MEAN or not np.isnan(ours - theirs).all()
        }
        pairs = {
            name: paired_bootstrap(*columns[name], candidate.subjects, samples=cfg.bootstrap_samples, seed=cfg.seed)
            for name in differences
        }
        classes = [name for name in pairs if name != MEAN]
        not_worse = holm([pairs[name].p_value(-cfg.margin) for name in classes])
        worse = holm([pairs[name].reversed().p_value(cfg.margin) for name in classes])
        return cls(
            pairs=pairs,
            differences=differences,
            not_worse=dict(zip(classes, not_worse, strict=True)),
            worse=dict(zip(classes, worse, strict=True)),
            confidence=cfg.confidence,
            margin=cfg.margin,
        )

    @property
    def mean(self) -> PairedBootstrap:
        """The difference of the mean over the classes."""
        return self.pairs[MEAN]

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that are scored on any scan."""
        return tuple(self.not_worse)

    def word(self, name: str) -> str:
        """What the scans say of the mean (better, worse) or of a class (not worse, worse by more than the margin)."""
        allowed = 1.0 - self.confidence
        if name == MEAN:
            if self.mean.lower_bound(self.confidence) > 0.0:
                return BETTER
            return WORSE if self.mean.upper_bound(self.confidence) < 0.0 else OPEN
        if self.worse.get(name, math.inf) <= allowed:
            return WORSE
        return NOT_WORSE if self.not_worse.get(name, math.inf) <= allowed else OPEN


def paired_columns(candidate: ScoredVersion, champion: ScoredVersion) -> dict[str, tuple[Floats, Floats]]:
    """Dice of both, scan by scan, for the mean and each class, as they are compared.

    A class that is in neither truth nor prediction of a scan has no score there. If the other model invents it, that
    scan would be left out and the invention would count against nobody; so the model that rightly found nothing
    counts 1 there.

    Returns:
        `mean` or class -> candidate, champion. # (N,) each
    """
    ours = np.where(np.isnan(candidate.dice) & ~np.isnan(champion.dice), 1.0, candidate.dice)
    theirs = np.where(np.isnan(champion.dice) & ~np.isnan(candidate.dice), 1.0, champion.dice)
    columns = {MEAN: (mean_over_classes(ours), mean_over_classes(theirs))}
    return columns | {name: (ours[:, index], theirs[:, index]) for index, name in enumerate(CLASSES)}


def other_scans(candidate: ScoredVersion, champion: ScoredVersion) -> str:
    """Why the two cannot be compared scan by scan; empty if they can."""
    if candidate.data_md5 != champion.data_md5:
        was, now = champion.data_md5[:8] or "unknown", candidate.data_md5[:8]
        return f"{champion.name} was scored on the data set {was}, {candidate.name} on {now}."
    if candidate.split != champion.split:
        return f"{champion.name} was scored on the {champion.split} split, {candidate.name} on {candidate.split}."
    if candidate.settings != champion.settings:
        return f"{champion.name} was scored with other settings ({champion.settings}) than {candidate.name}."
    if (candidate.scans, candidate.subjects) != (champion.scans, champion.subjects):
        odd = len(set(candidate.scans) ^ set(champion.scans))
        return (
            f"{odd} scans were scored for one of {champion.name} and {candidate.name} only, or changed their subject."
        )
    return ""
