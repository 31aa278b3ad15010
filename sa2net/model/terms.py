"""The terms of a loss: each compares the logits of one map with the mask, without the ignored pixels.

`class_weights` act on the pixels of a class in the cross entropy and focal terms, on its share of the mean over classes
in Dice and Tversky.
"""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import cast

import torch
from segmentation_models_pytorch.losses import LovaszLoss
from torch import Tensor
from torch.nn import functional

from sa2net.anatomy import IGNORE_INDEX
from sa2net.config import LossConfig
from sa2net.model.layers import at_least_float32, resize

SMOOTHING = 1e-5
"""Added to both sides of a fraction of overlap: an absent and unpredicted class is a perfect match."""
SMALLEST_MISS = 1e-7
"""Floor of 1 - p in the focal term, whose power has no finite gradient at 0 for gamma below 1."""


class Truth:
    """A mask, prepared once for all maps and terms.

    Args:
        mask: (B, H, W) of class ids, 255 = ignore.
        cfg: Class weights, and what a mean over pixels is divided by.
        classes: K.
    """

    def __init__(self, mask: Tensor, cfg: LossConfig, classes: int) -> None:
        self.mask, self.cfg, self.classes = mask.long(), cfg, classes
        self.size = (mask.shape[-2], mask.shape[-1])
        self.valid = self.mask != IGNORE_INDEX  # (B, H, W)
        uniform = all(weight == 1.0 for weight in cfg.class_weights)
        self.weights = None if uniform else torch.tensor(cfg.class_weights, device=mask.device)  # (K,)

    def sampled(self, divisor: int) -> "Truth":
        """The mask at so many times fewer rows and columns, rounded up: the pixel in the middle of each square."""
        size = [-(-side // divisor) for side in self.size]
        mask = functional.interpolate(self.mask[:, None].float(), size, mode="nearest-exact")[:, 0]
        return Truth(mask, self.cfg, self.classes)

    @cached_property
    def pixels(self) -> Tensor:
        """What sums over pixels are divided by: the valid ones by their weights, or all as released."""
        if self.cfg.ignored == "released":
            return torch.tensor(self.mask.numel(), device=self.mask.device)
        if self.weights is None:
            return self.valid.sum().clamp(min=1)
        weight = self.weights[self.mask.masked_fill(~self.valid, 0)][self.valid].sum()
        return torch.where(weight > 0, weight, torch.ones_like(weight))

    @cached_property
    def one_hot(self) -> Tensor:
        """(B, K, H, W) float32, 0 where ignored."""
        ids = self.mask.masked_fill(~self.valid, 0)
        return functional.one_hot(ids, self.classes).permute(0, 3, 1, 2).float() * self.valid.unsqueeze(1)

    def mean_over_classes(self, values: Tensor) -> Tensor:
        """The mean of (K,), by the class weights."""
        return values.mean() if self.weights is None else (values * self.weights).sum() / self.weights.sum()


class Comparison:
    """One map against the mask.

    Args:
        logits: (B, K, h, w).
        truth: The mask.
    """

    def __init__(self, logits: Tensor, truth: Truth) -> None:
        self.logits, self.truth = resize(at_least_float32(logits), truth.size), truth

    @cached_property
    def log_probability(self) -> Tensor:
        """(B, K, H, W)."""
        return torch.log_softmax(self.logits, dim=1)

    @cached_property
    def probability(self) -> Tensor:
        """(B, K, H, W), 0 where ignored."""
        return self.log_probability.exp() * self.truth.valid.unsqueeze(1)


def cross_entropy(comparison: Comparison) -> Tensor:
    """Mean over the pixels, weighted by their classes; over all pixels, ignored ones too, with `ignored: released`."""
    truth = comparison.truth
    weights = None if truth.weights is None else truth.weights.to(comparison.logits)
    total = functional.cross_entropy(
        comparison.logits, truth.mask, weight=weights, ignore_index=IGNORE_INDEX, reduction="sum"
    )
    return total / truth.pixels


def focal(comparison: Comparison) -> Tensor:
    """The cross entropy times (1 - p) ** gamma, p of the true class. Source: Lin et al., ICCV 2017."""
    truth, log_probability = comparison.truth, comparison.log_probability
    missing = (-torch.expm1(log_probability)).clamp_min(SMALLEST_MISS)
    losses = -(missing**truth.cfg.focal_gamma) * log_probability * truth.one_hot
    by_class = losses.sum((0, 2, 3))
    return (by_class if truth.weights is None else by_class * truth.weights).sum() / truth.pixels


def dice(comparison: Comparison) -> Tensor:
    """1 - the mean over classes of 2 sum(p t) / (sum(p^2) + sum(t^2)), sums over the batch and all positions."""
    truth, probability = comparison.truth, comparison.probability
    axes = (0, 2, 3)
    overlap = (probability * truth.one_hot).sum(axes)
    sizes = probability.square().sum(axes) + truth.one_hot.square().sum(axes)
    return 1 - truth.mean_over_classes((2 * overlap + SMOOTHING) / (sizes + SMOOTHING))


def tversky(comparison: Comparison) -> Tensor:
    """1 - the mean over classes of TP / (TP + alpha FP + beta FN), soft counts. Source: Salehi et al., MLMI 2017."""
    truth, probability, cfg = comparison.truth, comparison.probability, comparison.truth.cfg
    axes = (0, 2, 3)
    hits = (probability * truth.one_hot).sum(axes)
    excess = probability.sum(axes) - hits
    missed = truth.one_hot.sum(axes) - hits
    mistakes = cfg.tversky_alpha * excess + cfg.tversky_beta * missed
    return 1 - truth.mean_over_classes((hits + SMOOTHING) / (hits + mistakes + SMOOTHING))


def lovasz(comparison: Comparison) -> Tensor:
    """The Lovasz extension of the Jaccard loss, mean over the classes present. Source: Berman et al., CVPR 2018."""
    if not comparison.truth.valid.any():
        return comparison.logits.sum() * 0.0  # the library knows no mean over nothing
    return cast(Tensor, LovaszLoss("multiclass", ignore_index=IGNORE_INDEX)(comparison.logits, comparison.truth.mask))


TERMS: Mapping[str, Callable[[Comparison], Tensor]] = {
    "cross_entropy": cross_entropy,
    "dice": dice,
    "focal": focal,
    "tversky": tversky,
    "lovasz": lovasz,
}
"""By the name of their weight in `train.loss`."""
