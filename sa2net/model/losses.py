"""How the network's logit maps are compared with the mask: deep supervision as released, or feature mixing."""

from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sa2net.anatomy import IGNORE_INDEX
from sa2net.config import LossConfig
from sa2net.model.layers import at_least_float32, resize
from sa2net.model.network import TrainingLogits

SMOOTHING = 1e-5
"""Added to both sides of the Dice fraction: an absent and unpredicted class is a perfect match."""

LossParts = dict[str, Tensor]
"""Scalars by name: `total` is what is minimised, the others are its parts before their weights, for the log."""


class CrossEntropy(nn.Module):
    """Mean cross entropy of a logit map, resized to the mask, without the ignored pixels.

    Args:
        over_all_pixels: Divide by all pixels, ignored ones too (as released), instead of the valid ones.
    """

    def __init__(self, *, over_all_pixels: bool) -> None:
        super().__init__()
        self.over_all_pixels = over_all_pixels

    def forward(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, K, h, w), mask (B, H, W) int64 -> scalar; 0 where nothing is valid."""
        logits = resize(at_least_float32(logits), (mask.shape[-2], mask.shape[-1]))
        total = functional.cross_entropy(logits, mask, ignore_index=IGNORE_INDEX, reduction="sum")
        count = mask.numel() if self.over_all_pixels else (mask != IGNORE_INDEX).sum().clamp(min=1)
        return total / count


class ReleasedLoss(nn.Module):
    """Weighted sum of the cross entropies of the four maps and the auxiliary map.

    Args:
        cfg: The weights, and what the mean of the cross entropy runs over.
    """

    def __init__(self, cfg: LossConfig) -> None:
        super().__init__()
        self.weights = {
            "main": cfg.main,
            "coarse": cfg.coarse,
            "channel": cfg.channel,
            "position": cfg.position,
            "auxiliary": cfg.auxiliary,
        }
        self.cross_entropy = CrossEntropy(over_all_pixels=cfg.ignored == "released")

    def forward(self, logits: TrainingLogits, mask: Tensor) -> LossParts:
        """Logit maps, mask (B, H, W) of class ids with 255 = ignore -> `total`, `main`, `coarse`, `channel`, ..."""
        mask = mask.long()
        parts = {
            name: self.cross_entropy(map_, mask)
            for name, map_ in zip(self.weights, logits, strict=True)
            if map_ is not None
        }
        total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return {"total": total, **parts}


class MixingLoss(nn.Module):
    """Cross entropy and Dice of the sum of the maps in every non-empty subset, added up: 15 terms for four maps.

    Source: MERIT (Rahman and Marculescu, MIDL 2023), multi-stage feature mixing loss aggregation.

    Args:
        cfg: The weights inside a term and of the auxiliary map, and what the mean of the cross entropy runs over.
    """

    def __init__(self, cfg: LossConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.auxiliary = CrossEntropy(over_all_pixels=cfg.ignored == "released")

    def forward(self, logits: TrainingLogits, mask: Tensor) -> LossParts:
        """Logit maps, mask (B, H, W) of class ids with 255 = ignore -> `total`, `cross_entropy`, `dice`, `auxiliary`."""
        mask = mask.long()
        size = (mask.shape[-2], mask.shape[-1])
        maps = [resize(at_least_float32(map_), size) for map_ in logits[:4] if map_ is not None]
        valid = (mask != IGNORE_INDEX).unsqueeze(1)  # (B, 1, H, W)
        classes = mask.masked_fill(mask == IGNORE_INDEX, 0)
        truth = functional.one_hot(classes, maps[0].shape[1]).permute(0, 3, 1, 2).to(maps[0].dtype) * valid
        count = mask.numel() if self.cfg.ignored == "released" else valid.sum().clamp(min=1)
        cross_entropies, dices = [], []
        for size_of_subset in range(1, len(maps) + 1):
            for subset in combinations(maps, size_of_subset):
                log_probabilities = torch.log_softmax(sum(subset[1:], start=subset[0]), dim=1)
                cross_entropies.append(-(log_probabilities * truth).sum() / count)
                dices.append(soft_dice_loss(log_probabilities.exp() * valid, truth))
        parts = {"cross_entropy": torch.stack(cross_entropies).sum(), "dice": torch.stack(dices).sum()}
        total = self.cfg.cross_entropy * parts["cross_entropy"] + self.cfg.dice * parts["dice"]
        if logits.auxiliary is not None:
            parts["auxiliary"] = self.auxiliary(logits.auxiliary, mask)
            total = total + self.cfg.auxiliary * parts["auxiliary"]
        return {"total": total, **parts}


def soft_dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 - the mean over classes of 2 sum(p t) / (sum(p^2) + sum(t^2)), sums over the batch and all positions.

    Args:
        probabilities: (B, K, H, W), 0 where ignored.
        truth: One-hot (B, K, H, W), 0 where ignored.
    """
    axes = (0, 2, 3)
    overlap = (probabilities * truth).sum(axes)
    sizes = probabilities.square().sum(axes) + truth.square().sum(axes)
    return 1 - ((2 * overlap + SMOOTHING) / (sizes + SMOOTHING)).mean()


def build_loss(cfg: LossConfig) -> nn.Module:
    """The loss of a configuration: called with (`TrainingLogits`, mask) it returns `LossParts`."""
    return ReleasedLoss(cfg) if cfg.kind == "released" else MixingLoss(cfg)
