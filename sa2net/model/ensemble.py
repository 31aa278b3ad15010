"""Several networks of one configuration as one: the mean of their probabilities."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from sa2net.config import ModelConfig
from sa2net.model.layers import at_least_float32
from sa2net.model.network import Network, build

SMALLEST = 1e-20
"""Floor of a probability before its logarithm."""


class Ensemble(nn.Module):
    """Evaluates all members and averages their probabilities; it is not trained as a whole.

    Args:
        members: Networks of one configuration.
    """

    def __init__(self, members: Sequence[Network]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Scans (B, 1, H, W) -> logits (B, K, H, W) whose softmax is the mean of the members' probabilities."""
        shares = torch.stack([torch.softmax(at_least_float32(member(x)), dim=1) for member in self.members])
        return torch.log(shares.mean(dim=0).clamp_min(SMALLEST))

    def drop_training_heads(self) -> None:
        """Remove what only trains from every member."""
        for member in self.members:
            cast(Network, member).drop_training_heads()


def build_model(cfg: ModelConfig, members: int) -> Network | Ensemble:
    """The network that a model folder describes, without pretrained weights.

    Args:
        cfg: Of the network, or of each member.
        members: 1 = no ensemble.
    """
    fresh = cfg.model_copy(update={"pretrained": False})
    return build(fresh) if members == 1 else Ensemble([build(fresh) for _ in range(members)])


def join_weights(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The weights of members as those of one model: their own where there is one, else of an `Ensemble`."""
    if len(weights) == 1:
        return dict(weights[0])
    return {f"members.{number}.{name}": value for number, own in enumerate(weights) for name, value in own.items()}
