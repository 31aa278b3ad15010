"""The two attentions that SA2Net runs side by side on the fused map: over channels, and over rows and columns.

Both add their answer to their input times a learned scalar that starts at 0, so that a fresh network is
a plain feature pyramid and each branch fades in as it becomes useful (the gradient reaches the scalar from the first
step and the branch's own weights from the second). That is the published start and it stays the default: short
trainings are the rule here, and random attention in front of every classifier only costs them their first epochs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sa2net.config.network import Affinity
from sa2net.model.layers import at_least_float32, build_energies, full_precision

REDUCTION = 8
"""Queries and keys are so many times narrower than the map."""


class ChannelAttention(nn.Module):
    """Mix reduced channels by how unlike they are.

    Args:
        channels: Channels of the map, at least 8.
        affinity: `released` sums the energies over positions, so that they grow with the picture;
            `normalised` brings them to a set spread, `mean` and `cosine` are alternatives (see `sa2net.model.layers`).
    """

    def __init__(self, channels: int, affinity: Affinity) -> None:
        super().__init__()
        reduced = channels // REDUCTION
        self.query = nn.Conv2d(channels, reduced, 1)
        self.key = nn.Conv2d(channels, reduced, 1)
        self.value = nn.Conv2d(channels, reduced, 1)
        self.projection = nn.Conv2d(reduced, channels, 3, padding=1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))
        self.energies = build_energies(affinity)

    def attention(self, x: Tensor) -> Tensor:
        """The mixing weights of `x` (B, C, H, W): (B, C/8, C/8), each row sums to 1."""
        query, key = (at_least_float32(conv(x).flatten(2)) for conv in (self.query, self.key))  # (B, C/8, N)
        with full_precision(x):
            energies = self.energies(query, key.transpose(1, 2))
        return torch.softmax(-energies, dim=-1)  # the least similar channel weighs most

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        value = self.value(x)
        mixed = (self.attention(x).to(value.dtype) @ value.flatten(2)).view_as(value)  # (B, C/8, H, W)
        return self.gamma * functional.gelu(self.projection(mixed)) + x


class CrissCrossAttention(nn.Module):
    """Let every position attend to its own row and column in one joint softmax.

    Memory is H W (H + W) weights, not (H W)^2. Applied twice with the same weights, every position sees every other.
    Source: CCNet (Huang et al., ICCV 2019).

    Args:
        channels: Channels of the map, at least 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.key = nn.Conv2d(channels, channels // REDUCTION, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def attention(self, x: Tensor) -> Tensor:
        """The weights of `x` (B, C, H, W): (B, H, W, H + W), the column first; each position's sum to 1."""
        query, key = self.query(x), self.key(x)
        rows = x.shape[-2]
        column = at_least_float32(torch.einsum("bchw,bcgw->bhwg", query, key))
        row = at_least_float32(torch.einsum("bchw,bchv->bhwv", query, key))
        # The position itself lies in its row and in its column; it counts once.
        itself = torch.eye(rows, dtype=torch.bool, device=x.device).unsqueeze(1)  # (H, 1, H)
        return torch.softmax(torch.cat([column.masked_fill(itself, -torch.inf), row], dim=-1), dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        value = self.value(x)
        column, row = torch.split(self.attention(x).to(value.dtype), [x.shape[-2], x.shape[-1]], dim=-1)
        gathered = torch.einsum("bhwg,bcgw->bchw", column, value) + torch.einsum("bhwv,bchv->bchw", row, value)
        return self.gamma * gathered + x
