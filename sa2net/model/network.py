"""SA2Net as a whole: backbone, decode head with four outputs, auxiliary head.

Source: Xie et al., SA2Net: Scale-adaptive structure-affinity transformation for spine segmentation from ultrasound
volume projection imaging, Computerized Medical Imaging and Graphics 125 (2025) 102649.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from sa2net.config import ModelConfig
from sa2net.model.affinity import StructureAffinity
from sa2net.model.attention import ChannelAttention, CrissCrossAttention
from sa2net.model.backbone import STRIDES, Backbone, build_backbone
from sa2net.model.layers import Classifier, ConvNormAct, resize
from sa2net.model.pyramid import FeaturePyramid

RECURRENCE = 2
"""Passes of the criss-cross attention: after two, every position has seen every other."""


class TrainingLogits(NamedTuple):
    """What the network returns in training mode: every map (B, K, rows, columns) at stride 4."""

    final: Tensor
    coarse: Tensor
    """Of the structure-affinity module."""
    channel: Tensor
    """Of the channel-attention branch."""
    position: Tensor
    """Of the criss-cross branch."""
    auxiliary: Tensor | None = None
    """Of the auxiliary head, at stride 16; None where it is switched off."""


class DecodeHead(nn.Module):
    """From four backbone maps to four logit maps.

    Args:
        in_channels: Channels of the four maps, finest first.
        cfg: Width, classes, affinity, logits, dropout and predictor.
    """

    def __init__(self, in_channels: Sequence[int], cfg: ModelConfig) -> None:
        super().__init__()
        channels, classes = cfg.channels, cfg.num_classes
        self.pyramid = FeaturePyramid(in_channels, channels)
        self.channel_attention = ChannelAttention(channels, cfg.affinity)
        self.channel_smooth = ConvNormAct(channels, channels, 3)
        self.channel_classifier = Classifier(channels, classes, cfg.dropout)
        self.criss_cross = CrissCrossAttention(channels)
        self.position_smooth = ConvNormAct(channels, channels, 3)
        self.position_classifier = Classifier(channels, classes, cfg.dropout)
        self.structure_affinity = StructureAffinity(
            channels,
            classes,
            cfg.predictor,
            affinity=cfg.affinity,
            padding=2 if cfg.logits == "released" else 1,
        )
        self.classifier = Classifier(channels, classes, cfg.dropout)

    def forward(self, levels: Sequence[Tensor]) -> TrainingLogits:
        """Four maps (B, C_i, H_i, W_i), finest first -> four logit maps (B, K, H_0, W_0).

        With `logits: released` the final map is (B, K, H_0 + 2, W_0 + 2).
        """
        maps = self._features(levels)
        return TrainingLogits(
            final=self.classifier(maps.final),
            coarse=maps.coarse,
            channel=self.channel_classifier(maps.channel),
            position=self.position_classifier(maps.position),
        )

    def final(self, levels: Sequence[Tensor]) -> Tensor:
        """The final logits alone, without the classifiers that only train."""
        logits: Tensor = self.classifier(self._features(levels).final)
        return logits

    def _features(self, levels: Sequence[Tensor]) -> TrainingLogits:
        """What each classifier reads, (B, C, H_0, W_0) each; the coarse logits are there already."""
        fused = self.pyramid(levels)
        by_channel = self.channel_smooth(self.channel_attention(fused))
        crossed = fused
        for _ in range(RECURRENCE):
            crossed = self.criss_cross(crossed)
        by_position = self.position_smooth(crossed)
        features, coarse = self.structure_affinity(by_position + by_channel)
        return TrainingLogits(features, coarse, by_channel, by_position)


class AuxiliaryHead(nn.Module):
    """A small convolutional head on one backbone map, which keeps the gradient of the early stages alive."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.reduce = ConvNormAct(in_channels, channels, 3)
        self.classifier = Classifier(channels, num_classes, dropout)

    def forward(self, level: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, K, H, W)."""
        logits: Tensor = self.classifier(self.reduce(level))
        return logits


class SA2Net(nn.Module):
    """Segments a scan of any size into classes.

    Args:
        backbone: Gives four maps at strides 4, 8, 16, 32 and names their channels in `channels`.
        cfg: The rest.
    """

    def __init__(self, backbone: Backbone, cfg: ModelConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = DecodeHead(backbone.channels, cfg)
        self.auxiliary = (
            AuxiliaryHead(backbone.channels[2], cfg.channels, cfg.num_classes, cfg.dropout) if cfg.auxiliary else None
        )

    def forward(self, x: Tensor) -> TrainingLogits | Tensor:
        """Segment normalised scans.

        Args:
            x: (B, 1, H, W). A size that is no multiple of 32 is continued to the right and bottom by repeating its
                edge; logits of the added part are cut off.

        Returns:
            Training: the logit maps at stride 4. Evaluation: the final logits (B, K, H, W).
        """
        height, width = x.shape[-2:]
        levels = self.backbone(_pad(x))
        if not self.training:
            logits = resize(self.head.final(levels), _padded_size(height, width))
            return logits[..., :height, :width]
        maps = self.head(levels)
        if self.auxiliary is not None:
            maps = maps._replace(auxiliary=self.auxiliary(levels[2]))
        return maps if _padded_size(height, width) == (height, width) else _crop(maps, height, width)


def build(cfg: ModelConfig) -> SA2Net:
    """The network of a configuration, in training mode, with fresh weights (or a pretrained backbone).

    Raises:
        ConfigError: The backbone is unknown or lacks a stride.
    """
    return SA2Net(build_backbone(cfg.backbone, pretrained=cfg.pretrained), cfg)


def _padded_size(height: int, width: int) -> tuple[int, int]:
    stride = STRIDES[-1]
    return -(-height // stride) * stride, -(-width // stride) * stride


def _pad(x: Tensor) -> Tensor:
    """Continue (B, C, H, W) to the right and bottom to multiples of the coarsest stride."""
    height, width = x.shape[-2:]
    rows, columns = _padded_size(height, width)
    if (rows, columns) == (height, width):
        return x
    # The edge of a scan is black; zeros would be mean grey, an artefact that no scan has.
    return functional.pad(x, (0, columns - width, 0, rows - height), mode="replicate")


def _crop(maps: TrainingLogits, height: int, width: int) -> TrainingLogits:
    """Cut the logits of the padding off, to whole cells."""
    rows, columns = _padded_size(height, width)

    def cut(logits: Tensor, stride: int) -> Tensor:
        # A released final map is 2 px larger than its level, and stays so.
        more_rows, more_columns = logits.shape[-2] - rows // stride, logits.shape[-1] - columns // stride
        return logits[..., : -(-height // stride) + more_rows, : -(-width // stride) + more_columns]

    fine, middle = STRIDES[0], STRIDES[2]
    return TrainingLogits(
        final=cut(maps.final, fine),
        coarse=cut(maps.coarse, fine),
        channel=cut(maps.channel, fine),
        position=cut(maps.position, fine),
        auxiliary=None if maps.auxiliary is None else cut(maps.auxiliary, middle),
    )
