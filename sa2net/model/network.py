"""SA2Net as a whole: backbone, decode head with four outputs, auxiliary head.

Source: Xie et al., SA2Net: Scale-adaptive structure-affinity transformation for spine segmentation from ultrasound
volume projection imaging, Computerized Medical Imaging and Graphics 125 (2025) 102649.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from sa2net.config import ModelConfig
from sa2net.model.affinity import StructureAffinity, StructureAffinityOutput
from sa2net.model.attention import ChannelAttention, CrissCrossAttention
from sa2net.model.backbone import Backbone, build_backbone
from sa2net.model.layers import Classifier, ConvNormAct, resize
from sa2net.model.logits import STRIDES, AuxiliaryHead, TrainingLogits, crop, pad, padded_size
from sa2net.model.pyramid import FeaturePyramid
from sa2net.model.rivals import Rival, build_rival
from sa2net.model.unet import UNetSegmenter

RECURRENCE = 2
"""Passes of the criss-cross attention: after two, every position has seen every other."""


class BranchFeatures(NamedTuple):
    """What the classifiers read, (B, C, H, W) each, and the coarse logits; None where a part is switched off."""

    final: Tensor
    coarse: Tensor | None
    channel: Tensor | None
    position: Tensor | None


class DecodeHead(nn.Module):
    """From four backbone maps to four logit maps.

    Args:
        in_channels: Channels of the four maps, finest first.
        cfg: Width, classes, affinity, logits, dropout, predictor, and which parts are there.
    """

    def __init__(self, in_channels: Sequence[int], cfg: ModelConfig) -> None:
        super().__init__()
        channels, classes = cfg.channels, cfg.num_classes
        padding = 2 if cfg.logits == "released" else 1
        self.pyramid = FeaturePyramid(in_channels, channels)
        if cfg.channel_branch:
            self.channel_attention = ChannelAttention(channels, cfg.affinity)
            self.channel_smooth = ConvNormAct(channels, channels, 3)
            self.channel_classifier = Classifier(channels, classes, cfg.dropout)
        if cfg.position_branch:
            self.criss_cross = CrissCrossAttention(channels)
            self.position_smooth = ConvNormAct(channels, channels, 3)
            self.position_classifier = Classifier(channels, classes, cfg.dropout)
        if cfg.structure:
            self.structure_affinity = StructureAffinity(
                channels, classes, cfg.predictor, affinity=cfg.affinity, padding=padding
            )
        else:
            self.merge = ConvNormAct(channels, channels, 3, padding=padding)
        self.classifier = Classifier(channels, classes, cfg.dropout)
        self.cfg = cfg

    def forward(self, levels: Sequence[Tensor]) -> TrainingLogits:
        """Four maps (B, C_i, H_i, W_i), finest first -> logit maps (B, K, H_0, W_0).

        With `logits: released` the final map is (B, K, H_0 + 2, W_0 + 2).
        """
        features = self._features(levels)
        return TrainingLogits(
            final=self.classifier(features.final),
            coarse=features.coarse,
            channel=None if features.channel is None else self.channel_classifier(features.channel),
            position=None if features.position is None else self.position_classifier(features.position),
        )

    def final(self, levels: Sequence[Tensor]) -> Tensor:
        """The final logits alone, without the classifiers that only train."""
        logits: Tensor = self.classifier(self._features(levels).final)
        return logits

    def _features(self, levels: Sequence[Tensor]) -> BranchFeatures:
        fused = self.pyramid(levels)
        by_channel = self.channel_smooth(self.channel_attention(fused)) if self.cfg.channel_branch else None
        by_position = self.position_smooth(self._crossed(fused)) if self.cfg.position_branch else None
        branches = [branch for branch in (by_position, by_channel) if branch is not None] or [fused]
        merged = sum(branches[1:], start=branches[0])
        if self.cfg.structure:
            affine: StructureAffinityOutput = self.structure_affinity(merged)
            return BranchFeatures(affine.features, affine.coarse, by_channel, by_position)
        return BranchFeatures(self.merge(merged), None, by_channel, by_position)

    def _crossed(self, fused: Tensor) -> Tensor:
        for _ in range(RECURRENCE):
            fused = self.criss_cross(fused)
        return fused


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
        self.stretches = cfg.sizes == "released"

    def forward(self, x: Tensor) -> TrainingLogits | Tensor:
        """Segment normalised scans.

        Args:
            x: (B, 1, H, W). A size that is no multiple of 32 (of the windows of some transformers: more) is continued
                to the right and bottom by repeating its edge; logits of the added part are cut off. With
                `sizes: released` the scan is stretched to the next multiples, and its logits back.

        Returns:
            Training: the logit maps at stride 4. Evaluation: the final logits (B, K, H, W).
        """
        size = (x.shape[-2], x.shape[-1])
        padded = padded_size(*size, self.backbone.multiple)
        levels = self.backbone(resize(x, padded) if self.stretches else pad(x, self.backbone.multiple))
        if not self.training:
            logits = self.head.final(levels)
            return resize(logits, size) if self.stretches else resize(logits, padded)[..., : size[0], : size[1]]
        maps = self.head(levels)
        if self.auxiliary is not None:
            # Not `_replace`, which the compiler of torch 2.11 cannot follow.
            maps = TrainingLogits(maps.final, maps.coarse, maps.channel, maps.position, self.auxiliary(levels[2]))
        return maps if padded == size or self.stretches else crop(maps, padded, size, middle=STRIDES[2])

    def drop_training_heads(self) -> None:
        """Remove what only trains: the auxiliary head and the classifiers of both branches. Evaluation stays equal."""
        self.auxiliary = None
        for name in ("channel_classifier", "position_classifier"):
            if hasattr(self.head, name):
                delattr(self.head, name)


Network = SA2Net | Rival | UNetSegmenter


def build(cfg: ModelConfig) -> Network:
    """The network of a configuration, in training mode, with fresh weights (or a pretrained backbone).

    It takes scans (B, 1, H, W); it gives `TrainingLogits` in training, logits (B, K, H, W) in evaluation.

    Raises:
        ConfigError: The backbone is unknown, lacks a stride, does not fit the architecture, or its pretrained weights
            cannot be had.
    """
    if cfg.architecture == "unet":
        return UNetSegmenter(cfg)
    if cfg.architecture.startswith("smp/"):
        return build_rival(cfg)
    weights = Path(cfg.pretrained_file) if cfg.pretrained_file else None
    return SA2Net(build_backbone(cfg.backbone, pretrained=cfg.pretrained, weights=weights), cfg)
