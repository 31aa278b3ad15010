"""From four backbone levels to one map at stride 4: pyramid pooling, top-down path, fusion.

Source: UPerNet (Xiao et al., ECCV 2018), as the SA2Net decode head uses it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from sa2net.model.layers import ConvNormAct, resize

POOL_GRIDS = (1, 2, 3, 6)


class PyramidPooling(nn.Module):
    """The coarsest level averaged over grids of several sizes, each reduced and brought back to its size.

    Args:
        in_channels: Channels of the level.
        channels: Channels of each pooled map.
        grids: Cells along each side of each grid; a grid finer than the map enlarges it.
    """

    def __init__(self, in_channels: int, channels: int, grids: Sequence[int] = POOL_GRIDS) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.stages = nn.ModuleList(ConvNormAct(in_channels, channels, 1) for _ in self.grids)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> one (B, channels, H, W) a grid."""
        size = (x.shape[-2], x.shape[-1])
        return [
            resize(stage(functional.adaptive_avg_pool2d(x, grid)), size)
            for grid, stage in zip(self.grids, self.stages, strict=True)
        ]


class FeaturePyramid(nn.Module):
    """Fuse four levels, finest first, into one map of the finest level's size.

    Args:
        in_channels: Channels of the four levels, finest first.
        channels: Channels of every map inside and of the result.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        *finer, coarsest = in_channels
        self.pyramid_pooling = PyramidPooling(coarsest, channels)
        self.bottleneck = ConvNormAct(coarsest + len(POOL_GRIDS) * channels, channels, 3)
        self.lateral = nn.ModuleList(ConvNormAct(width, channels, 1) for width in finer)
        self.smooth = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in finer)
        self.fusion = ConvNormAct(len(in_channels) * channels, channels, 3)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Four maps (B, C_i, H_i, W_i), finest first -> (B, channels, H_0, W_0)."""
        *finer, coarsest = levels
        top = self.bottleneck(torch.cat([coarsest, *self.pyramid_pooling(coarsest)], dim=1))
        merged = [lateral(level) for lateral, level in zip(self.lateral, finer, strict=True)] + [top]
        for i in range(len(merged) - 1, 0, -1):  # each finer level receives the sum of all coarser ones
            merged[i - 1] = merged[i - 1] + resize(merged[i], (merged[i - 1].shape[-2], merged[i - 1].shape[-1]))
        smoothed = [smooth(level) for smooth, level in zip(self.smooth, merged, strict=False)] + [top]
        size = (smoothed[0].shape[-2], smoothed[0].shape[-1])
        fused: Tensor = self.fusion(torch.cat([resize(level, size) for level in smoothed], dim=1))  # (B, 4C, H_0, W_0)
        return fused
