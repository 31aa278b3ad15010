"""How the network's logit maps are compared with the mask: deep supervision, as released or by chosen terms, or mixing."""

from itertools import combinations

import torch
from torch import Tensor, nn

from sa2net.config import LossConfig
from sa2net.model.logits import TrainingLogits
from sa2net.model.terms import TERMS, Comparison, Truth, cross_entropy

MAPS = ("main", "coarse", "channel", "position", "auxiliary")
"""What `train.loss` calls the maps of `TrainingLogits`."""

SIDE_STRIDE = 4
"""The maps beside the final one only train: `sum` compares them on every fourth row and column, where they lie."""

LossParts = dict[str, Tensor]
"""Scalars by name: `total` is what is minimised, the others are its parts before their weights, for the log."""


class SupervisionLoss(nn.Module):
    """Weighted sum of what each map costs: its cross entropy (`released`), or the chosen terms (`sum`).

    Args:
        cfg: The weights of the maps and of the terms.
    """

    def __init__(self, cfg: LossConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.terms = {"cross_entropy": 1.0} if cfg.kind == "released" else _chosen(cfg)

    def forward(self, logits: TrainingLogits, mask: Tensor) -> LossParts:
        """Logit maps, mask (B, H, W) of class ids with 255 = ignore -> `total`, one part a map, and one a term.

        The part of a map is the weighted sum of its terms; terms are told of the final map alone (`main_dice`, ...),
        and only where there are several.
        """
        truth = Truth(mask, self.cfg, logits.final.shape[1])
        side_truth = truth if self.cfg.kind == "released" else truth.sampled(SIDE_STRIDE)
        maps: LossParts = {}
        terms: LossParts = {}
        for name, map_ in zip(MAPS, logits, strict=True):
            if map_ is None:
                continue
            comparison = Comparison(map_, truth if name == "main" else side_truth)
            costs = {term: TERMS[term](comparison) for term in self.terms}
            maps[name] = torch.stack([self.terms[term] * cost for term, cost in costs.items()]).sum()
            if name == "main" and len(costs) > 1:
                terms = {f"main_{term}": cost for term, cost in costs.items()}
        total = torch.stack([getattr(self.cfg, name) * part for name, part in maps.items()]).sum()
        return {"total": total, **maps, **terms}


class MixingLoss(nn.Module):
    """The chosen terms of the sum of the maps in every non-empty subset, added up: 15 sums for four maps.

    Source: MERIT (Rahman and Marculescu, MIDL 2023), multi-stage feature mixing loss aggregation.

    Args:
        cfg: The weights of the terms and of the auxiliary map.
    """

    def __init__(self, cfg: LossConfig) -> None:
        super().__init__()
        self.cfg, self.terms = cfg, _chosen(cfg)

    def forward(self, logits: TrainingLogits, mask: Tensor) -> LossParts:
        """Logit maps, mask (B, H, W) of class ids with 255 = ignore -> `total`, one part a term, `auxiliary`."""
        truth = Truth(mask, self.cfg, logits.final.shape[1])
        maps = [Comparison(map_, truth).logits for map_ in logits[:4] if map_ is not None]
        costs: dict[str, list[Tensor]] = {term: [] for term in self.terms}
        for size_of_subset in range(1, len(maps) + 1):
            for subset in combinations(maps, size_of_subset):
                comparison = Comparison(sum(subset[1:], start=subset[0]), truth)
                for term, values in costs.items():
                    values.append(TERMS[term](comparison))
        parts = {term: torch.stack(values).sum() for term, values in costs.items()}
        total = torch.stack([self.terms[term] * part for term, part in parts.items()]).sum()
        if logits.auxiliary is not None:
            parts["auxiliary"] = cross_entropy(Comparison(logits.auxiliary, truth))
            total = total + self.cfg.auxiliary * parts["auxiliary"]
        return {"total": total, **parts}


def _chosen(cfg: LossConfig) -> dict[str, float]:
    """The terms with a weight."""
    weights = {term: float(getattr(cfg, term)) for term in TERMS}
    return {term: weight for term, weight in weights.items() if weight}


def build_loss(cfg: LossConfig) -> nn.Module:
    """The loss of a configuration: called with (`TrainingLogits`, mask) it returns `LossParts`."""
    return MixingLoss(cfg) if cfg.kind == "mixing" else SupervisionLoss(cfg)
