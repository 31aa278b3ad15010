"""The Swin transformer as the released configurations run it; timm's does not compute the same.

Three things differ, and each changes the numbers, so that released weights need this module: here odd blocks always
shift, also where the map is not larger than one window (timm switches the shift off there); the map is padded to whole
windows before it is shifted, with zeros that take part in the attention (timm shifts first, then pads); every level
has a layer norm of its own on the way out, and patches are merged in another channel order.

Source: Liu et al., Swin Transformer, ICCV 2021.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

PATCH = 4
MLP_RATIO = 4
OTHER_REGION = -100.0
"""Added to the energies between tokens that only the cyclic shift made neighbours."""


class SwinSizes(NamedTuple):
    """The sizes of one Swin transformer."""

    embed_dim: int
    """Width of the first stage; doubles with each stage."""
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window: int
    """Side of the attention windows, tokens."""
    drop_path: float = 0.3
    """Stochastic depth of the last block; grows linearly from 0."""


class WindowAttention(nn.Module):
    """Self-attention inside windows of w x w tokens, with a learned bias for each relative position."""

    relative_index: Tensor

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.relative_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_bias, std=0.02)
        rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        rows, columns = rows.flatten(), columns.flatten()
        down = rows[:, None] - rows[None, :] + window - 1  # (w w, w w), query minus key
        right = columns[:, None] - columns[None, :] + window - 1
        self.register_buffer("relative_index", down * (2 * window - 1) + right, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend inside each window.

        Args:
            x: (B, windows, w w, C).
            mask: Added to the energies, (windows, 1, w w, w w).

        Returns:
            The shape of `x`.
        """
        split = self.query_key_value(x).reshape(*x.shape[:3], 3, self.num_heads, -1)
        query, key, value = split.permute(3, 0, 1, 4, 2, 5)  # (B, windows, heads, w w, C / heads) each
        bias = self.relative_bias[self.relative_index].permute(2, 0, 1)  # (heads, w w, w w)
        bias = bias.unsqueeze(0) if mask is None else bias + mask
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        projected: Tensor = self.projection(mixed.transpose(2, 3).flatten(3))
        return projected


class SwinBlock(nn.Module):
    """Window attention, shifted or not, then an MLP; both pre-norm with a skip."""

    def __init__(self, width: int, num_heads: int, window: int, *, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.attention_norm = nn.LayerNorm(width)
        self.attention = WindowAttention(width, num_heads, window)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))
        self.skip = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> the same shape."""
        x = x + self.skip(self._attend(self.attention_norm(x)))
        answer: Tensor = x + self.skip(self.mlp(self.mlp_norm(x)))
        return answer

    def _attend(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        window, shift = self.window, self.shift
        x = functional.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        rows, columns = x.shape[1], x.shape[2]
        x = torch.roll(x, (-shift, -shift), dims=(1, 2)) if shift else x
        mask = shift_mask(rows, columns, window, shift, x.device) if shift else None
        grid = (rows // window, columns // window)
        tokens = x.reshape(batch, grid[0], window, grid[1], window, channels).transpose(2, 3)
        tokens = self.attention(tokens.reshape(batch, grid[0] * grid[1], window * window, channels), mask)
        x = tokens.reshape(batch, *grid, window, window, channels).transpose(2, 3)
        x = x.reshape(batch, rows, columns, channels)
        x = torch.roll(x, (shift, shift), dims=(1, 2)) if shift else x
        return x[:, :height, :width]


def shift_mask(rows: int, columns: int, window: int, shift: int, device: torch.device) -> Tensor:
    """What is added to the energies of a shifted map: `OTHER_REGION` between tokens of different regions.

    Returns:
        (windows, 1, w w, w w).
    """
    places = [torch.arange(length, device=device) for length in (rows, columns)]
    regions = [
        (place >= length - window).long() + (place >= length - shift).long()
        for place, length in zip(places, (rows, columns), strict=True)
    ]
    region = 3 * regions[0][:, None] + regions[1][None, :]  # (rows, columns)
    grouped = region.reshape(rows // window, window, columns // window, window).transpose(1, 2)
    grouped = grouped.reshape(-1, 1, window * window)  # (windows, 1, w w)
    different = grouped.unsqueeze(-1) != grouped.unsqueeze(-2)
    return different * OTHER_REGION


class PatchMerging(nn.Module):
    """Join 2 x 2 neighbours, channel by channel, and reduce 4 C channels to 2 C."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        x = functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 5, 2, 4)  # (B, ., ., C, dy, dx)
        merged: Tensor = self.reduction(self.norm(x.flatten(3)))
        return merged


class SwinStage(nn.Module):
    """Blocks at one resolution, every second one shifted."""

    def __init__(self, width: int, num_heads: int, window: int, drop_paths: list[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                SwinBlock(width, num_heads, window, shifted=i % 2 == 1, drop_path=rate)
                for i, rate in enumerate(drop_paths)
            )
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> the same shape for the next stage, and normalised for the head."""
        x = self.blocks(x)
        return x, self.norm(x)


class SwinTransformer(nn.Module):
    """Four levels of a picture at strides 4, 8, 16, 32.

    Args:
        sizes: Widths, depths, heads, window.
        in_channels: Channels of the picture.

    Attributes:
        channels: Channels of the four maps, finest first.
        multiple: Pictures have sides that are multiples of this many px.
    """

    multiple = 32

    def __init__(self, sizes: SwinSizes, in_channels: int = 1) -> None:
        super().__init__()
        self.channels = tuple(sizes.embed_dim * 2**i for i in range(len(sizes.depths)))
        self.embedding = nn.Conv2d(in_channels, sizes.embed_dim, PATCH, stride=PATCH)
        self.embedding_norm = nn.LayerNorm(sizes.embed_dim)
        blocks = sum(sizes.depths)
        rates = [sizes.drop_path * i / max(blocks - 1, 1) for i in range(blocks)]
        starts = [sum(sizes.depths[:i]) for i in range(len(sizes.depths))]
        self.stages = nn.ModuleList(
            SwinStage(width, heads, sizes.window, rates[start : start + depth])
            for width, heads, start, depth in zip(self.channels, sizes.num_heads, starts, sizes.depths, strict=True)
        )
        self.merges = nn.ModuleList(PatchMerging(width) for width in self.channels[:-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> four maps (B, C_i, ceil(H / stride), ceil(W / stride)), finest first."""
        x = functional.pad(x, (0, -x.shape[-1] % PATCH, 0, -x.shape[-2] % PATCH))
        x = self.embedding_norm(self.embedding(x).permute(0, 2, 3, 1))  # (B, H / 4, W / 4, C)
        levels = []
        for i, stage in enumerate(self.stages):
            x, level = stage(self.merges[i - 1](x) if i else x)
            levels.append(level.permute(0, 3, 1, 2).contiguous())
        return levels
