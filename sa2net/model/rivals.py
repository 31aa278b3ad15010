"""The usual rivals of SA2Net, from `segmentation-models-pytorch`: same data, same loop, same evaluator. Its only home.

Every rival has the backbone of the settings, the width of `channels` at stride 4, the same channel dropout before its
classifier, and the same auxiliary head, so that a comparison compares decoders.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from sa2net.config import ModelConfig
from sa2net.errors import ConfigError
from sa2net.model.backbone import PROBE, check_loaded, first_line, known, no_weights, size_arguments, weights_overlay
from sa2net.model.layers import tolerate_single_values
from sa2net.model.logits import STRIDES, AuxiliaryHead, TrainingLogits, pad

MIDDLE = STRIDES.index(16) + 2
"""Place of the map that the auxiliary head reads among the encoder's: the picture itself and stride 2 come first."""
FPN_GROUPS = 32
"""FPN normalises in so many groups: its width is rounded up to a multiple."""


def _decoder(name: str, width: int) -> tuple[Any, Mapping[str, Any]]:
    """The library's class of a rival and the arguments that give its decoder that width at stride 4."""
    stages = {"decoder_channels": tuple(max(width * 4 // 2**i, 1) for i in range(5))}  # strides 16, 8, 4, 2, 1
    grouped = -(-width // FPN_GROUPS) * FPN_GROUPS
    pyramid = {"decoder_pyramid_channels": grouped, "decoder_segmentation_channels": grouped, "decoder_dropout": 0.0}
    decoders: dict[str, tuple[Any, Mapping[str, Any]]] = {
        "smp/unet": (smp.Unet, stages),
        "smp/unetplusplus": (smp.UnetPlusPlus, stages),
        "smp/fpn": (smp.FPN, pyramid),
        "smp/upernet": (smp.UPerNet, {"decoder_channels": width}),
        "smp/pspnet": (smp.PSPNet, {"psp_out_channels": width, "psp_dropout": 0.0}),
        "smp/deeplabv3": (smp.DeepLabV3, {"decoder_channels": width}),
        "smp/deeplabv3plus": (smp.DeepLabV3Plus, {"decoder_channels": width}),
        "smp/segformer": (smp.Segformer, {"decoder_segmentation_channels": width}),
    }
    return decoders[name]


class Rival(nn.Module):
    """A network of the library behind the interface of ours.

    Args:
        network: With `encoder`, `decoder` and `segmentation_head`; the latter begins with its convolution.
        cfg: Classes, dropout, auxiliary head.
    """

    def __init__(self, network: Any, cfg: ModelConfig) -> None:
        super().__init__()
        self.network: Any = tolerate_single_values(network)
        self.dropout = nn.Dropout2d(cfg.dropout)
        widths = network.encoder.out_channels
        self.middle = min(MIDDLE, len(widths) - 1)  # PSPNet reads no map coarser than stride 8
        width = widths[self.middle]
        self.auxiliary = AuxiliaryHead(width, cfg.channels, cfg.num_classes, cfg.dropout) if cfg.auxiliary else None

    def forward(self, x: Tensor) -> TrainingLogits | Tensor:
        """Scans (B, 1, H, W) -> training: final and auxiliary logits; evaluation: final logits (B, K, H, W).

        Sizes that are no multiples of 32 are continued as in `SA2Net`; final logits have the size of the scan.
        """
        height, width = x.shape[-2:]
        levels = self.network.encoder(pad(x, STRIDES[-1]))
        logits: Tensor = self.network.segmentation_head(self.dropout(self.network.decoder(levels)))
        logits = logits[..., :height, :width]
        if not self.training:
            return logits
        return TrainingLogits(logits, auxiliary=None if self.auxiliary is None else self.auxiliary(levels[self.middle]))

    def drop_training_heads(self) -> None:
        """Remove the auxiliary head, which only trains."""
        self.auxiliary = None


def build_rival(cfg: ModelConfig) -> Rival:
    """The rival of a configuration, with fresh weights or a pretrained backbone.

    Raises:
        ConfigError: The backbone is unknown or does not go with this decoder, or its weights cannot be had.
    """
    known(cfg.backbone)
    kind, arguments = _decoder(cfg.architecture, cfg.channels)
    arguments = {"in_channels": 1, "classes": cfg.num_classes, **arguments, **size_arguments(cfg.backbone)}
    try:
        network = kind(encoder_name=f"tu-{cfg.backbone}", encoder_weights=None, **arguments)
        with torch.device("meta"):  # shapes alone: windows of a fixed size do not fit every picture
            Rival(kind(encoder_name=f"tu-{cfg.backbone}", encoder_weights=None, **arguments), cfg)(
                torch.zeros(2, 1, *PROBE)
            )
    except (
        RuntimeError,
        AttributeError,
        TypeError,
        AssertionError,
        ValueError,
        LookupError,
        NotImplementedError,
    ) as error:
        raise ConfigError(
            f"{cfg.backbone} cannot be the backbone of {cfg.architecture}",
            evidence=first_line(error),
            action="Set model.backbone to a convolutional network, for example resnet18, or model.architecture to sa2net.",
        ) from error
    if cfg.pretrained:
        network = _pretrained(kind, arguments, cfg.backbone, Path(cfg.pretrained_file) if cfg.pretrained_file else None)
    return Rival(network, cfg)


def _pretrained(kind: Any, arguments: Mapping[str, Any], backbone: str, weights: Path | None) -> Any:
    """A network that is known to fit, with its encoder's pretrained weights."""
    overlay = weights_overlay(backbone, weights)
    try:
        network = kind(encoder_name=f"tu-{backbone}", encoder_weights=True, pretrained_cfg_overlay=overlay, **arguments)
    except Exception as error:  # timm and its hub raise whatever their network layer raises
        raise no_weights(backbone, weights, error) from error
    check_loaded(network.encoder, backbone, weights)
    return network
