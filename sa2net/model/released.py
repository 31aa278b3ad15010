"""What network a checkpoint of the published code holds, and its weights as ours: for one grey channel, not three colours.

The published code says its sizes in a Python program, which is never run here: nearly all of them are visible in the
shapes of the weights.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from sa2net.artifacts import Normalisation
from sa2net.config import ModelConfig, PredictorConfig
from sa2net.errors import ConfigError, DataError
from sa2net.model.backbone import RELEASED_SWIN
from sa2net.model.migrate import Part, from_released, released_name
from sa2net.model.network import build

MEAN, STD = (75.99,), (84.15,)
"""Normalisation of the published configurations, grey levels 0-255, the same for each colour."""
HEADS = 8
"""Attention heads of the published transformer predictor; no shape shows them."""

_PREFIXES = {"backbone": "backbone.", "decode_head": "head.", "auxiliary_head": "auxiliary."}
_RESNETS = {(3, 4, 6, 3): "resnet50c", (3, 4, 23, 3): "resnet101c"}
_FIRST = {"resnet": "features.conv1.0", "swin": "embedding", "unet": "encoder.0.0.conv"}
_NEXT = {"resnet": ("features.conv1.1", 2), "unet": ("encoder.0.0.norm", 1)}
"""Norm behind the first layer, and the stride of that layer; both pad by 1. A Swin's does not pad."""
_UNET = "encoder.0.0.convs.0.conv.weight"
_NAMED = 8
_CURE = "Take a checkpoint of SA2Net with a ResNet-50 v1c or Swin (tiny, large) backbone, or of the U-Net baseline."


@dataclass(frozen=True)
class Converted:
    """A released network as ours.

    Attributes:
        cfg: Settings with which `build` makes a network that fits the weights.
        weights: Its state dict.
        normalisation: What a scan goes through before the network.
        notes: What a person should know, as sentences.
    """

    cfg: ModelConfig
    weights: dict[str, Tensor]
    normalisation: Normalisation
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the network is called: its backbone, or `unet`."""
        return _called(self.cfg)


def convert(
    state: Mapping[str, Tensor],
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    heads: int = HEADS,
) -> Converted:
    """Make a network of ours of a released state dict.

    Args:
        state: Released names, with `backbone.`, `decode_head.` and, where it is there, `auxiliary_head.`.
        mean: What was subtracted from each colour, or from all alike, grey levels 0-255.
        std: What each colour, or all alike, was then divided by.
        heads: Attention heads of the transformer predictor.

    Raises:
        DataError: Not a network that this project builds; tensors are missing, too many, or of other shapes.
        ConfigError: `heads`, `mean` or `std` cannot be.
    """
    released = _split(state)
    backbone, part = _backbone(released["backbone"])
    cfg, notes = _settings(released, backbone, heads)
    parts: dict[str, Part] = {"backbone": part, "decode_head": "auxiliary" if part == "unet" else "head"}
    if cfg.auxiliary:
        parts["auxiliary_head"] = "auxiliary"
    translated = {name: from_released(released[name], kind) for name, kind in parts.items()}
    _compare(_joined(translated), cfg, parts)
    normalisation, said = to_grey(translated["backbone"], part, mean, std)
    return Converted(cfg, _joined(translated), normalisation, (*notes, *said))


def _joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """One state dict, our names."""
    return {_PREFIXES[part] + name: tensor for part, held in parts.items() for name, tensor in held.items()}


def _split(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The released parts, without their prefixes; numbers as float32."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in _PREFIXES}
    unknown = []
    for name, tensor in state.items():
        part, _, rest = name.removeprefix("module.").partition(".")
        if part not in parts:
            unknown.append(name)
        elif tensor.is_floating_point():
            if not torch.isfinite(tensor).all():
                raise DataError(
                    f"{name} holds numbers that are not finite", action="Take a checkpoint of an earlier time."
                )
            parts[part][rest] = tensor.float()
        else:
            parts[part][rest] = tensor
    if unknown or not (parts["backbone"] and parts["decode_head"]):
        raise DataError(
            "the checkpoint is not one of the released code",
            evidence=f"unknown: {_shown(unknown)}" if unknown else "it has no backbone and decode_head",
            action=_CURE,
        )
    is_head = any(name.startswith("semantic_aug.") for name in parts["decode_head"])
    if not is_head and _UNET not in parts["backbone"]:
        raise DataError("the decode head is not that of SA2Net", evidence=_shown(parts["decode_head"]), action=_CURE)
    return parts


def _backbone(state: Mapping[str, Tensor]) -> tuple[str, Part]:
    """Our name of the backbone and the kind of its names."""
    if "stem.0.weight" in state:
        depths = tuple(_count(state, rf"layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
        if depths in _RESNETS:
            return _RESNETS[depths], "resnet"
        raise _unknown_backbone(f"a ResNet v1c of {_numbers(depths)} blocks")
    if "patch_embed.projection.weight" in state:
        depths = tuple(_count(state, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(4))
        width = state["patch_embed.projection.weight"].shape[0]
        tables = [state.get(f"stages.{stage}.blocks.0.attn.w_msa.relative_position_bias_table") for stage in range(4)]
        heads = tuple(table.shape[-1] for table in tables if table is not None)
        window = (round(tables[0].shape[0] ** 0.5) + 1) // 2 if tables[0] is not None else 0
        for name, sizes in RELEASED_SWIN.items():
            if (sizes.embed_dim, sizes.depths, sizes.num_heads, sizes.window) == (width, depths, heads, window):
                return name, "swin"
        raise _unknown_backbone(f"a Swin of width {width}, {_numbers(depths)} blocks, windows of {window}")
    if _UNET in state:
        return "unet", "unet"
    raise _unknown_backbone(f"tensors {_shown(state)}")


def _unknown_backbone(evidence: str) -> DataError:
    return DataError("the backbone is none that is imported", evidence=evidence, action=_CURE)


def _settings(
    released: Mapping[str, Mapping[str, Tensor]], backbone: str, heads: int
) -> tuple[ModelConfig, tuple[str, ...]]:
    """The sizes of the heads by the shapes of their weights; published behaviour throughout."""
    if backbone == "unet":
        return _unet_settings(released)
    queries = _shape(released, "decode_head.semantic_aug.maskformer.query_embed.weight", 2)
    if queries[1] % heads:
        raise ConfigError(f"{heads} heads do not divide a width of {queries[1]}", action="Name the right --heads.")
    channels = _shape(released, "decode_head.bottleneck.conv.weight", 4)[0]
    fits, notes = _auxiliary_fits(released["auxiliary_head"], channels)
    try:
        cfg = ModelConfig(
            backbone=backbone,
            channels=channels,
            num_classes=_shape(released, "decode_head.conv_seg.weight", 4)[0],
            affinity="released",
            logits="released",
            sizes="released",
            auxiliary=fits,
            predictor=PredictorConfig(
                embed_dim=queries[1],
                depth=_count(released["decode_head"], r"semantic_aug\.maskformer\.dec_2d\.decoder\.(\d+)\."),
                num_heads=heads,
                mask_dim=_shape(released, "decode_head.semantic_aug.maskformer.mask_embed.layers.2.weight", 2)[0],
            ),
        )
    except ValidationError as error:
        raise _unbuildable(error) from error
    return cfg, notes


def _unet_settings(released: Mapping[str, Mapping[str, Tensor]]) -> tuple[ModelConfig, tuple[str, ...]]:
    """The U-Net baseline: its heads are as wide as its first stage."""
    channels = _shape(released, f"backbone.{_UNET}", 4)[0]
    fits, notes = _auxiliary_fits(released["auxiliary_head"], channels)
    classes = _shape(released, "decode_head.conv_seg.weight", 4)[0]
    try:
        cfg = ModelConfig(architecture="unet", channels=channels, num_classes=classes, auxiliary=fits)
    except ValidationError as error:
        raise _unbuildable(error) from error
    return cfg, notes


def _unbuildable(error: ValidationError) -> DataError:
    evidence = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return DataError("the sizes of the checkpoint cannot be built", evidence=evidence, action=_CURE)


def _called(cfg: ModelConfig) -> str:
    return cfg.backbone if cfg.architecture == "sa2net" else cfg.architecture


def _auxiliary_fits(auxiliary: Mapping[str, Tensor], channels: int) -> tuple[bool, tuple[str, ...]]:
    """Whether it is the head that we build - one convolution, as wide as the decode head - and what to say if not."""
    if not auxiliary:
        return False, ()
    weight = auxiliary.get("convs.0.conv.weight")
    if weight is not None and weight.shape[0] == channels and "convs.1.conv.weight" not in auxiliary:
        return True, ()
    return False, ("The auxiliary head, which only trains, is of another width: left out.",)


def _shape(released: Mapping[str, Mapping[str, Tensor]], name: str, axes: int) -> tuple[int, ...]:
    """Shape of a weight by its name in the checkpoint."""
    part, _, rest = name.partition(".")
    shape = tuple(released[part][rest].shape) if rest in released[part] else ()
    if len(shape) != axes:
        said = f"{name} is {'absent' if rest not in released[part] else _numbers(shape)}"
        raise DataError("the checkpoint lacks what shows its sizes", evidence=said, action=_CURE)
    return shape


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers stand in a place of the names."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


LARGEST = 1e6
"""Means and deviations of grey levels are far below this, and deviations far above one part of it."""


def to_grey(
    weights: dict[str, Tensor], part: Part, mean: Sequence[float] = MEAN, std: Sequence[float] = STD
) -> tuple[Normalisation, tuple[str, ...]]:
    """Replace the first layer of a backbone by one that takes a normalised grey value; changes `weights`.

    The published network sees x_c = (g - m_c) / s_c in each colour c of a grey value g, ours y = (g - M) / S; so
    x_c = (S / s_c) y + (M - m_c) / s_c. The factors go into the weights; the constants add up to a constant output,
    which goes into the running mean of the norm that follows (ResNet, U-Net) or the bias (Swin). Where all m_c are equal, so
    are the constants: zero, and all is exact. Otherwise it is exact but where the layer sees its zero padding, the
    edge of a ResNet or U-Net; M is chosen so that the padding changes as little as possible (least squares).

    Args:
        weights: State dict of the backbone, our names.
        part: `resnet`, `swin` or `unet`.
        mean: What was subtracted from each colour, or from all alike.
        std: What each colour, or all alike, was then divided by.

    Returns:
        How a grey value is normalised, and what a person should know.

    Raises:
        ConfigError: Numbers that do not fit the colours, cannot be of grey levels, or a deviation that is not positive.
    """
    name = f"{_FIRST[part]}.weight"
    first = weights[name].double()  # (O, C, k, k)
    colours = first.shape[1]
    means, stds = (_per_colour(values, colours) for values in (mean, std))
    if not bool((stds > 0).all()):
        raise ConfigError("a standard deviation is not positive", action="Give --std as the released configuration.")
    if not bool((means.abs() <= LARGEST).all()) or not bool(((stds >= 1 / LARGEST) & (stds <= LARGEST)).all()):
        raise ConfigError(
            "these are no means and standard deviations of grey levels from 0 to 255",
            evidence=f"mean {', '.join(f'{value:g}' for value in mean)}; std {', '.join(f'{value:g}' for value in std)}",
            action="Give --mean and --std as the released configuration.",
        )
    scaled = first / stds[:, None, None]
    slope, offset = scaled.sum(1), (scaled * means[:, None, None]).sum(1)  # (O, k, k)
    equal = bool((means == means[0]).all())
    square = float((slope * slope).sum())
    grey_mean = float(means[0]) if equal or square == 0.0 else float((slope * offset).sum()) / square
    grey_std = float(stds[0]) if bool((stds == stds[0]).all()) else float(stds.mean())
    weights[name] = (grey_std * slope)[:, None].float()
    normalisation = Normalisation(mean=grey_mean, std=grey_std)
    if equal:
        return normalisation, ()
    constant = grey_mean * slope - offset  # (O, k, k)
    total = constant.sum((1, 2))
    if part == "swin":
        weights["embedding.bias"] = (weights["embedding.bias"].double() + total).float()
        return normalisation, ()
    norm, stride = _NEXT[part]
    weights[f"{norm}.running_mean"] = (weights[f"{norm}.running_mean"].double() - total).float()
    spread = weights[f"{norm}.running_var"].double().sqrt()
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    padded = functional.conv2d(ones, constant[:, None], stride=stride, padding=1)[0]
    lost = (padded - total[:, None, None]).abs().amax((1, 2)) / spread
    return normalisation, (
        "The colours were normalised differently: at the edge of the picture the first layer differs by up to "
        f"{float(lost.max()):.2g} standard deviations, all else is exact.",
    )


def _per_colour(values: Sequence[float], colours: int) -> Tensor:
    if len(values) not in (1, colours):
        raise ConfigError(
            f"{len(values)} numbers for {colours} colours", action="Give --mean and --std one number, or one a colour."
        )
    return torch.tensor(list(values) * (colours if len(values) == 1 else 1), dtype=torch.float64)


def _compare(weights: Mapping[str, Tensor], cfg: ModelConfig, parts: Mapping[str, Part]) -> None:
    """Hold names and shapes against the network that `build` makes; what differs is named as in the checkpoint.

    The first layer may have any number of colours.
    """
    with torch.device("meta"):
        wanted = {name: tuple(tensor.shape) for name, tensor in build(cfg).state_dict().items()}
    first = f"{_PREFIXES['backbone']}{_FIRST[parts['backbone']]}.weight"
    if first in weights and weights[first].ndim == 4:
        outputs, _, *kernel = wanted[first]
        wanted[first] = (outputs, weights[first].shape[1], *kernel)
    missing = [_released(name, parts) for name in wanted if name not in weights]
    spare = [_released(name, parts) for name in weights if name not in wanted]
    wrong = [
        f"{_released(name, parts)} is {_numbers(weights[name].shape)}, not {_numbers(shape)}"
        for name, shape in wanted.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    found = {"missing": missing, "not used": spare, "of another shape": wrong}
    if any(found.values()):
        evidence = "; ".join(f"{len(names)} {how}: {_shown(names)}" for how, names in found.items() if names)
        raise DataError(f"the checkpoint does not fit {_called(cfg)}", evidence=evidence, action=_CURE)


def _released(name: str, parts: Mapping[str, Part]) -> str:
    """The name of one of our weights in the checkpoint."""
    for part, kind in parts.items():
        if name.startswith(_PREFIXES[part]):
            return f"{part}.{released_name(name.removeprefix(_PREFIXES[part]), kind) or name}"
    return name


def _numbers(values: Sequence[int]) -> str:
    return " x ".join(map(str, values)) or "one number"


def _shown(names: "Sequence[str] | Mapping[str, Tensor]") -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:_NAMED]) + (", ..." if len(ordered) > _NAMED else "")
