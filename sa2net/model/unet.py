"""The U-Net of the released configurations, there the backbone of the baseline networks, and that baseline.

Its maps lie at strides 16, 8, 4, 2, 1, so it is no backbone of the SA2Net head.

Source: Ronneberger et al., U-Net, MICCAI 2015; with batch norm and bilinear upsampling.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from sa2net.config import ModelConfig
from sa2net.model.layers import ConvNormAct, resize
from sa2net.model.logits import AuxiliaryHead, TrainingLogits, crop, pad, padded_size

STAGES = 5


class DecoderStage(nn.Module):
    """Double the size, join the encoder's map, convolve twice."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(2 * channels, channels, 1)
        self.convolutions = _double_convolution(2 * channels, channels)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        """Skip (B, C, H, W), x (B, 2 C, H / 2, W / 2) -> (B, C, H, W)."""
        x = self.reduce(resize(x, (2 * x.shape[-2], 2 * x.shape[-1])))
        answer: Tensor = self.convolutions(torch.cat([skip, x], dim=1))
        return answer


class UNet(nn.Module):
    """Five encoder stages and four decoder stages with skip connections.

    Args:
        in_channels: Channels of the picture.
        base_channels: Width of the first stage; doubles with each.
    """

    def __init__(self, in_channels: int = 1, base_channels: int = 64) -> None:
        super().__init__()
        widths = [base_channels * 2**i for i in range(STAGES)]
        self.encoder = nn.ModuleList(
            _double_convolution(before, width) for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.decoder = nn.ModuleList(DecoderStage(width) for width in widths[:-1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute all decoder maps.

        Args:
            x: (B, in_channels, H, W), both sides multiples of 16.

        Returns:
            Five maps, coarsest first: strides 16, 8, 4, 2, 1.

        Raises:
            ValueError: A side is no multiple of 16.
        """
        if x.shape[-2] % 2 ** (STAGES - 1) or x.shape[-1] % 2 ** (STAGES - 1):
            raise ValueError(f"U-Net needs sides that are multiples of 16, not {x.shape[-2]} x {x.shape[-1]}")
        skips: list[Tensor] = []
        for i, stage in enumerate(self.encoder):
            x = stage(functional.max_pool2d(x, 2) if i else x)
            skips.append(x)
        maps = [skips.pop()]
        for stage, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            maps.append(stage(skip, maps[-1]))
        return maps


class UNetSegmenter(nn.Module):
    """The U-Net with a convolutional head on its finest map, and an auxiliary one on the map before.

    Args:
        cfg: `channels` is the width of the first stage (64 as released, and then of both heads).
    """

    MULTIPLE = 2 ** (STAGES - 1)

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        channels, classes, dropout = cfg.channels, cfg.num_classes, cfg.dropout
        self.backbone = UNet(base_channels=channels)
        self.head = AuxiliaryHead(channels, channels, classes, dropout)
        self.auxiliary = AuxiliaryHead(2 * channels, channels, classes, dropout) if cfg.auxiliary else None

    def forward(self, x: Tensor) -> TrainingLogits | Tensor:
        """Scans (B, 1, H, W) -> training: final logits at the input's size, auxiliary ones at stride 2.

        Evaluation: the final logits (B, K, H, W). Sizes that are no multiples of 16 are continued as in `SA2Net`.
        """
        size = (x.shape[-2], x.shape[-1])
        maps = self.backbone(pad(x, self.MULTIPLE))
        final = self.head(maps[-1])
        if not self.training:
            evaluated: Tensor = final[..., : size[0], : size[1]]
            return evaluated
        auxiliary = None if self.auxiliary is None else self.auxiliary(maps[-2])
        padded = padded_size(*size, self.MULTIPLE)
        return crop(TrainingLogits(final, auxiliary=auxiliary), padded, size, fine=1, middle=2)

    def drop_training_heads(self) -> None:
        """Remove the auxiliary head, which only trains."""
        self.auxiliary = None


def _double_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(in_channels, out_channels, 3), ConvNormAct(out_channels, out_channels, 3))
