"""The backbone: any timm network that gives feature maps at strides 4, 8, 16 and 32. The only home of timm.

Beside timm's there are the Swin transformers of the released configurations, under the names of `RELEASED_SWIN`.
"""

import difflib
from collections.abc import Mapping
from typing import Any, cast

import timm
from torch import Tensor, nn

from sa2net.errors import ConfigError
from sa2net.model.layers import tolerate_single_values
from sa2net.model.swin import SwinSizes, SwinTransformer

STRIDES = (4, 8, 16, 32)

RELEASED_SWIN = {
    "released_swin_tiny": SwinSizes(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window=7),
    "released_swin_large": SwinSizes(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), window=12),
}
"""Swin transformers that compute what the released ones do; timm's `swin_*` differ (see `sa2net.model.swin`)."""


class TimmBackbone(nn.Module):
    """Feature maps of a timm network at strides 4, 8, 16 and 32, channels first.

    Args:
        name: timm's name of the network.
        pretrained: Start from timm's weights, which are fetched from the network; otherwise nothing is.
        in_channels: Channels of the input. timm adapts pretrained first layers by summing over the colours.
        options: Further arguments of timm's constructor, for example narrower stages.

    Raises:
        ConfigError: timm does not know the network, or it lacks one of the four strides.

    Attributes:
        channels: Channels of the four maps, finest first.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        in_channels: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise ConfigError(
                f"timm has no network {name}",
                evidence=f"nearest: {', '.join(near)}" if near else "",
                action="Set model.backbone to a name of `timm.list_models()`, for example resnet18.",
            )
        # A transformer with a fixed picture size would refuse every other one.
        arguments = {"strict_img_size": False} if name.startswith(("swin_", "swinv2_")) else {}
        try:
            features = timm.create_model(
                name, features_only=True, in_chans=in_channels, pretrained=pretrained, **arguments, **(options or {})
            )
        except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
            raise _unusable(name, str(error)) from error
        strides = list(features.feature_info.reduction())
        if any(strides.count(stride) != 1 for stride in STRIDES):
            raise _unusable(name, f"its maps have strides {', '.join(map(str, strides))}")
        self.features = tolerate_single_values(features)
        self.levels = tuple(strides.index(stride) for stride in STRIDES)
        self.channels = tuple(int(features.feature_info.channels()[level]) for level in self.levels)
        self.channels_last = str(getattr(features, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> four maps (B, C_i, ceil(H / stride), ceil(W / stride)), finest first."""
        maps = cast(list[Tensor], self.features(x))
        chosen = [maps[level] for level in self.levels]
        return [level.permute(0, 3, 1, 2).contiguous() for level in chosen] if self.channels_last else chosen


Backbone = TimmBackbone | SwinTransformer
"""Gives four maps, finest first, and names their channels in `channels`."""


def build_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """The backbone of that name for grey scans, with fresh weights unless `pretrained`.

    Raises:
        ConfigError: Nobody knows the name, a stride is missing, or there are no weights to start from.
    """
    if name not in RELEASED_SWIN:
        return TimmBackbone(name, pretrained=pretrained)
    if pretrained:
        raise ConfigError(
            f"{name} has no weights to fetch",
            evidence="model.pretrained is true",
            action="Set model.pretrained to false, or take timm's swin_* network.",
        )
    return SwinTransformer(RELEASED_SWIN[name])


def _unusable(name: str, evidence: str) -> ConfigError:
    return ConfigError(
        f"{name} cannot be the backbone",
        evidence=evidence,
        action="Set model.backbone to a network with feature maps at strides 4, 8, 16 and 32, for example resnet18.",
    )


def synchronised(network: nn.Module) -> nn.Module:
    """Make batch norms take their statistics over the batches of all processes; for GPUs, torch has none for a CPU.

    timm's converter knows its own norms with a built-in activation, which torch's would lose.
    """
    converted: nn.Module = timm.layers.convert_sync_batchnorm(network)
    return converted
