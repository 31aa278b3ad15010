"""The backbone: any timm network that gives feature maps at strides 4, 8, 16 and 32. The only home of timm.

Plain vision transformers, whose maps all have one stride, get the four from a simple feature pyramid. Beside timm's
networks there are the Swin transformers of the released configurations, under the names of `RELEASED_SWIN`.
"""

import difflib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sa2net.errors import ConfigError
from sa2net.model.layers import tolerate_single_values
from sa2net.model.logits import STRIDES
from sa2net.model.swin import SwinSizes, SwinTransformer
from sa2net.model.vit_pyramid import SimpleFeaturePyramid

logger = logging.getLogger(__name__)

RELEASED_SWIN = {
    "released_swin_tiny": SwinSizes(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window=7),
    "released_swin_large": SwinSizes(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), window=12),
}
"""Swin transformers that compute what the released ones do; timm's `swin_*` differ (see `sa2net.model.swin`)."""

PATCH = 16
"""Side of the patches of a plain vision transformer, px; timm resamples pretrained patch embeddings of other sides."""
PROBE = (3 * STRIDES[-1], 5 * STRIDES[-1])
"""Rows and columns of a picture that a network must take to count as free of a picture size."""


class TimmBackbone(nn.Module):
    """Feature maps of a timm network at strides 4, 8, 16 and 32, channels first.

    Args:
        name: timm's name of the network.
        pretrained: Start from timm's weights, which are fetched from the network; otherwise nothing is.
        weights: Those weights as a `.safetensors` file, instead of fetching them.
        in_channels: Channels of the input. timm adapts pretrained first layers by summing over the colours.
        options: Further arguments of timm's constructor, for example narrower stages.

    Raises:
        ConfigError: timm does not know the network, it lacks one of the four strides, it takes pictures of one size
            only, or its weights cannot be had.

    Attributes:
        channels: Channels of the four maps, finest first.
        multiple: Pictures have sides that are multiples of this many px.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: Path | None = None,
        in_channels: int = 1,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        known(name)
        arguments = {"in_chans": in_channels, **size_arguments(name), **(options or {})}
        self.multiple = _multiple(name, arguments)
        features = create_timm(name, arguments, pretrained=pretrained, weights=weights)
        strides = list(features.feature_info.reduction())
        widths = [int(width) for width in features.feature_info.channels()]
        self.features = tolerate_single_values(features)
        self.channels_last = str(getattr(features, "output_fmt", "NCHW")).endswith("NHWC")
        self.pyramid = SimpleFeaturePyramid(widths[-1]) if set(strides) == {PATCH} else None
        self.levels = [] if self.pyramid else [strides.index(stride) for stride in STRIDES]
        self.channels = self.pyramid.channels if self.pyramid else tuple(widths[level] for level in self.levels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> four maps (B, C_i, ceil(H / stride), ceil(W / stride)), finest first."""
        maps = cast(list[Tensor], self.features(x))
        if self.pyramid is not None:
            four: list[Tensor] = self.pyramid(maps[-1])
            return four
        chosen = [maps[level] for level in self.levels]
        return [level.permute(0, 3, 1, 2).contiguous() for level in chosen] if self.channels_last else chosen


Backbone = TimmBackbone | SwinTransformer
"""Gives four maps, finest first; names their channels in `channels`, and what sizes must be multiples of."""


def build_backbone(name: str, *, pretrained: bool = False, weights: Path | None = None) -> Backbone:
    """The backbone of that name for grey scans, with fresh weights unless `pretrained`.

    Raises:
        ConfigError: Nobody knows the name, a stride is missing, or there are no weights to start from.
    """
    if name not in RELEASED_SWIN:
        return TimmBackbone(name, pretrained=pretrained, weights=weights)
    if pretrained:
        raise ConfigError(
            f"{name} has no weights to fetch",
            evidence="model.pretrained is true",
            action="Set model.pretrained to false, or take timm's swin_* network.",
        )
    return SwinTransformer(RELEASED_SWIN[name])


def known(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        ConfigError: With the nearest names.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise ConfigError(
            f"timm has no network {name}",
            evidence=f"nearest: {', '.join(near)}" if near else "",
            action="Set model.backbone to a name of `timm.list_models()`, for example resnet18.",
        )


def size_arguments(name: str) -> dict[str, Any]:
    """Arguments of timm's constructor that free a transformer of its fixed picture size.

    Raises:
        ConfigError: The network gives no feature maps.
    """
    if name.startswith(("swin_", "swinv2_")):
        return {"strict_img_size": False}
    strides = _asked(name, {}).feature_info.reduction()
    if len(set(strides)) > 1:
        return {}
    # A plain transformer: only its last map is read, so that no parameter behind it is left without a gradient.
    plain = {"dynamic_img_size": True, "patch_size": PATCH, "out_indices": (-1,)}
    return {key: value for key, value in plain.items() if key != "dynamic_img_size" or _takes(name, key)}


def create_timm(name: str, arguments: Mapping[str, Any], *, pretrained: bool, weights: Path | None) -> Any:
    """A timm network as a giver of feature maps.

    Raises:
        ConfigError: Its weights cannot be had.
    """
    if not pretrained:
        return timm.create_model(name, features_only=True, pretrained=False, **arguments)
    overlay = weights_overlay(name, weights)
    try:
        network = timm.create_model(
            name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay, **arguments
        )
    except Exception as error:  # timm and its hub raise whatever their network layer raises
        raise no_weights(name, weights, error) from error
    check_loaded(network, name, weights)
    return network


def check_loaded(network: nn.Module, name: str, weights: Path | None) -> None:
    """Refuse a file of another network, of which timm takes what fits, even nothing, with a warning.

    Args:
        network: After loading.
        name: What a message calls it.
        weights: The file; None = timm fetched its own.

    Raises:
        ConfigError: Less than half of the network's tensors are those of the file.
    """
    if weights is None:
        return
    in_file = {(tuple(value.shape), float(value.double().sum())) for value in load_file(weights).values()}
    parameters = list(network.parameters())
    found = sum((tuple(value.shape), float(value.detach().double().sum())) in in_file for value in parameters)
    if 2 * found < len(parameters):
        raise no_weights(name, weights, ValueError(f"{weights} holds {found} of its {len(parameters)} tensors"))


def licensed(name: str) -> str:
    """Which pretrained weights a name stands for, and under which licence timm knows them."""
    known_weights = timm.get_pretrained_cfg(name)
    if known_weights is None:
        return f"{name}, licence not stated"
    full = f"{known_weights.architecture}.{known_weights.tag}" if known_weights.tag else name
    return f"{full}, licence {known_weights.license or 'not stated'}"


def weights_overlay(name: str, weights: Path | None) -> dict[str, Any]:
    """What timm is told about the origin of its weights; the log says it, with their licence.

    Raises:
        ConfigError: The network has no weights, or the file is missing or of another kind.
    """
    known_weights = timm.get_pretrained_cfg(name)
    if known_weights is None or (not known_weights.has_weights and weights is None):
        raise no_weights(name, weights, None)
    if weights is not None and (weights.suffix != ".safetensors" or not weights.is_file()):
        raise ConfigError(
            f"model.pretrained_file: {weights} cannot be read",
            evidence="it is no .safetensors file" if weights.is_file() else "there is no such file",
            action=f"Download model.safetensors of {known_weights.hf_hub_id or name}; files of other kinds are not read, since they may hold code.",
        )
    logger.info(
        "backbone weights: %s, from %s", licensed(name), weights or known_weights.hf_hub_id or known_weights.url
    )
    return {"file": str(weights)} if weights is not None else {}


def _multiple(name: str, arguments: Mapping[str, Any]) -> int:
    """What the sides of a picture must be multiples of for this network, px.

    Most take every multiple of the coarsest stride; transformers with fixed windows take multiples of the size that
    they were made for.
    """
    probe = _asked(name, arguments)
    strides = list(probe.feature_info.reduction())
    if set(strides) != {PATCH} and any(strides.count(stride) != 1 for stride in STRIDES):
        raise _unusable(name, f"its maps have strides {', '.join(map(str, strides))}")
    own = max(timm.get_pretrained_cfg(name).input_size[1:]) if timm.get_pretrained_cfg(name) else STRIDES[-1]
    evidence = ""
    for sides, multiple in ((PROBE, STRIDES[-1]), ((own, 2 * own), own)):
        if multiple % STRIDES[-1]:
            continue
        try:
            probe(torch.zeros(2, arguments["in_chans"], *sides, device="meta"))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            evidence = f"it takes pictures of one size only: {first_line(error)}"
        else:
            return multiple
    raise _unusable(name, evidence)


def _probed(name: str, arguments: Mapping[str, Any]) -> Any:
    """The network without memory for its weights, to ask it about its maps."""
    with torch.device("meta"):
        return timm.create_model(name, features_only=True, pretrained=False, **arguments)


def _asked(name: str, arguments: Mapping[str, Any]) -> Any:
    """The same, where what timm cannot build is an error of the settings."""
    try:
        return _probed(name, arguments)
    except (RuntimeError, AttributeError, TypeError, AssertionError, ValueError) as error:
        raise _unusable(name, first_line(error)) from error


def _takes(name: str, argument: str) -> bool:
    """Whether timm's constructor of the network knows the argument."""
    try:
        _probed(name, {argument: True})
    except TypeError:
        return False
    return True


def first_line(error: Exception) -> str:
    """What an error says first; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _unusable(name: str, evidence: str) -> ConfigError:
    return ConfigError(
        f"{name} cannot be the backbone",
        evidence=evidence,
        action="Set model.backbone to a network with feature maps at strides 4, 8, 16 and 32, for example resnet18.",
    )


def no_weights(name: str, weights: Path | None, error: Exception | None) -> ConfigError:
    """What is said where pretrained weights cannot be had."""
    said = str(error).strip().splitlines()[0] if error is not None and str(error).strip() else ""
    evidence = f"{type(error).__name__}: {said}" if error is not None else "timm lists none"
    if weights is not None:
        action = "Take the file that belongs to this network, or set model.pretrained to false."
    else:
        action = "Without a network: set model.pretrained_file to its model.safetensors, or model.pretrained to false."
    return ConfigError(f"no pretrained weights for {name}", evidence=evidence, action=action)


def synchronised(network: nn.Module) -> nn.Module:
    """Make batch norms take their statistics over the batches of all processes; for GPUs, torch has none for a CPU.

    timm's converter knows its own norms with a built-in activation, which torch's would lose.
    """
    converted: nn.Module = timm.layers.convert_sync_batchnorm(network)
    return converted
