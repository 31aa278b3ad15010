"""Names of the released checkpoints against ours, so that weights trained with the published code can be read.

Each part of the network has one table of name pairs, a released name and ours; `*` stands for a number. The tables
are read in both directions.
"""

import re
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from sa2net.errors import DataError

Part = Literal[
    "head",
    "pyramid_pooling",
    "channel_attention",
    "criss_cross",
    "predictor",
    "structure_affinity",
    "auxiliary",
    "resnet",
    "swin",
    "unet",
]
"""What a state dict holds: the decode head or one of its parts, the auxiliary head, or a backbone."""

Pairs = tuple[tuple[str, str], ...]

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _prefixed(released: str, ours: str, pairs: Pairs) -> Pairs:
    return tuple((f"{released}.{theirs}", f"{ours}.{own}") for theirs, own in pairs)


def _layer(released: str, ours: str) -> Pairs:
    return tuple((f"{released}.{kind}", f"{ours}.{kind}") for kind in ("weight", "bias"))


def _norm(released: str, ours: str) -> Pairs:
    return tuple((f"{released}.{kind}", f"{ours}.{kind}") for kind in NORM)


def _conv_norm(released: str, ours: str) -> Pairs:
    return ((f"{released}.conv.weight", f"{ours}.conv.weight"), *_norm(f"{released}.bn", f"{ours}.norm"))


PYRAMID_POOLING = _conv_norm("*.1", "stages.*")
ATTENTION = (
    *_layer("query_conv", "query"),
    *_layer("key_conv", "key"),
    *_layer("value_conv", "value"),
    ("gamma.scale", "gamma"),
)
CHANNEL_ATTENTION = (*ATTENTION, ("proj.0.weight", "projection.weight"))
DECODER_LAYER = (
    *_layer("norm1", "self_norm"),
    ("self_attn.qkv.weight", "self_attention.query_key_value.weight"),
    *_layer("self_attn.proj", "self_attention.projection"),
    *_layer("norm_q", "query_norm"),
    *_layer("norm_v", "memory_norm"),
    ("attn.q_map.weight", "cross_attention.query.weight"),
    ("attn.k_map.weight", "cross_attention.key.weight"),
    ("attn.v_map.weight", "cross_attention.value.weight"),
    *_layer("attn.proj", "cross_attention.projection"),
    *_layer("norm2", "mlp_norm"),
    *_layer("mlp.fc1", "mlp.0"),
    *_layer("mlp.fc2", "mlp.3"),
)
PREDICTOR = (
    *_layer("proj_2d", "memory"),
    ("query_embed.weight", "queries"),
    *_prefixed("dec_2d.decoder.*", "layers.*", DECODER_LAYER),
    *_layer("mask_embed.layers.0", "mask_embedding.0"),
    *_layer("mask_embed.layers.1", "mask_embedding.2"),
    *_layer("mask_embed.layers.2", "mask_embedding.4"),
)
STRUCTURE_AFFINITY = (
    *_prefixed("maskformer", "predictor", PREDICTOR),
    *_layer("theta.conv", "coarse"),
    *_layer("phi.conv", "position_query"),
    *_layer("proj", "mask_query"),
    *_conv_norm("delta", "spread"),
    *_conv_norm("ro", "merge"),
)
HEAD = (
    *_prefixed("psp_modules", "pyramid.pyramid_pooling", PYRAMID_POOLING),
    *_conv_norm("bottleneck", "pyramid.bottleneck"),
    *_conv_norm("lateral_convs.*", "pyramid.lateral.*"),
    *_conv_norm("fpn_convs.*", "pyramid.smooth.*"),
    *_conv_norm("fpn_bottleneck", "pyramid.fusion"),
    *_prefixed("cam", "channel_attention", CHANNEL_ATTENTION),
    *_conv_norm("cam_out_conv", "channel_smooth"),
    *_layer("cam_conv_seg", "channel_classifier.conv"),
    *_prefixed("pam", "criss_cross", ATTENTION),
    *_conv_norm("pam_out_conv", "position_smooth"),
    *_layer("pam_conv_seg", "position_classifier.conv"),
    *_prefixed("semantic_aug", "structure_affinity", STRUCTURE_AFFINITY),
    *_layer("conv_seg", "classifier.conv"),
)
AUXILIARY = (*_conv_norm("convs.0", "reduce"), *_layer("conv_seg", "classifier.conv"))
RESNET = (
    *((f"stem.{i}.weight", f"features.conv1.{i}.weight") for i in (0, 3, 6)),
    *_norm("stem.1", "features.conv1.1"),
    *_norm("stem.4", "features.conv1.4"),
    *_norm("stem.7", "features.bn1"),
    *((f"layer*.*.conv{i}.weight", f"features.layer*.*.conv{i}.weight") for i in (1, 2, 3)),
    *(pair for i in (1, 2, 3) for pair in _norm(f"layer*.*.bn{i}", f"features.layer*.*.bn{i}")),
    ("layer*.*.downsample.0.weight", "features.layer*.*.downsample.0.weight"),
    *_norm("layer*.*.downsample.1", "features.layer*.*.downsample.1"),
)
SWIN_BLOCK = (
    *_layer("norm1", "attention_norm"),
    ("attn.w_msa.relative_position_bias_table", "attention.relative_bias"),
    *_layer("attn.w_msa.qkv", "attention.query_key_value"),
    *_layer("attn.w_msa.proj", "attention.projection"),
    *_layer("norm2", "mlp_norm"),
    *_layer("ffn.layers.0.0", "mlp.0"),
    *_layer("ffn.layers.1", "mlp.2"),
)
SWIN = (
    *_layer("patch_embed.projection", "embedding"),
    *_layer("patch_embed.norm", "embedding_norm"),
    *_prefixed("stages.*.blocks.*", "stages.*.blocks.*", SWIN_BLOCK),
    *_layer("stages.*.downsample.norm", "merges.*.norm"),
    ("stages.*.downsample.reduction.weight", "merges.*.reduction.weight"),
    *_layer("norm*", "stages.*.norm"),
)
UNET = (
    *_conv_norm("encoder.0.0.convs.*", "encoder.0.*"),
    *_conv_norm("encoder.*.1.convs.*", "encoder.*.*"),
    *_conv_norm("decoder.*.upsample.interp_upsample.1", "decoder.*.reduce"),
    *_conv_norm("decoder.*.conv_block.convs.*", "decoder.*.convolutions.*"),
)

TABLES: dict[Part, Pairs] = {
    "head": HEAD,
    "pyramid_pooling": PYRAMID_POOLING,
    "channel_attention": CHANNEL_ATTENTION,
    "criss_cross": ATTENTION,
    "predictor": PREDICTOR,
    "structure_affinity": STRUCTURE_AFFINITY,
    "auxiliary": AUXILIARY,
    "resnet": RESNET,
    "swin": SWIN,
    "unet": UNET,
}

UNUSED: dict[Part, tuple[str, ...]] = {
    # A scalar that nothing in the released network reads.
    "head": ("semantic_aug.gamma.scale",),
    "structure_affinity": ("gamma.scale",),
    # Computed from the window's size.
    "swin": ("stages.*.blocks.*.attn.w_msa.relative_position_index",),
}

LINEAR = ("memory.weight", "mask_query.weight")
"""Ours that are linear layers where the released ones are convolutions of kernel 1, which have one more axis."""


def from_released(state: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    """Our state dict of `part` from a released one.

    Args:
        state: Released names and tensors, without the prefix of the part (such as `decode_head.`).
        part: What `state` holds.

    Returns:
        Our names; tensors are shared with `state`. Released tensors that nothing uses are left out.

    Raises:
        DataError: A name that the released part does not have.
    """
    renamed, unknown = {}, []
    for name, tensor in state.items():
        ours = _translate(name, TABLES[part])
        if ours is None:
            if not any(_pattern(unused).fullmatch(name) for unused in UNUSED.get(part, ())):
                unknown.append(name)
            continue
        renamed[ours] = tensor.squeeze(-1) if _is_linear(ours) else tensor
    _refuse(unknown, f"the released {part}", "Check that the file is an SA2Net checkpoint and that the prefix is off.")
    return renamed


def to_released(state: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    """The released names of our state dict of `part`: the inverse of `from_released`.

    Raises:
        DataError: A name that our part does not have, or that a network with `affinity: normalised` alone has.
    """
    pairs: Pairs = tuple((ours, theirs) for theirs, ours in TABLES[part])
    renamed, unknown = {}, []
    for name, tensor in state.items():
        theirs = _translate(name, pairs)
        if theirs is None:
            unknown.append(name)
        else:
            renamed[theirs] = tensor.unsqueeze(-1) if _is_linear(name) else tensor
    _refuse(unknown, f"our {part}", "Only a network with `affinity: released` can be written in released names.")
    return renamed


def released_name(ours: str, part: Part) -> str | None:
    """The released name of one of our parameters; None where there is none."""
    return _translate(ours, tuple((own, theirs) for theirs, own in TABLES[part]))


def _is_linear(ours: str) -> bool:
    return any(ours == name or ours.endswith(f".{name}") for name in LINEAR)


def _translate(name: str, pairs: Pairs) -> str | None:
    for source, target in pairs:
        match = _pattern(source).fullmatch(name)
        if match:
            pieces = target.split("*")
            return pieces[0] + "".join(number + piece for number, piece in zip(match.groups(), pieces[1:], strict=True))
    return None


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\*", r"(\d+)"))


def _refuse(unknown: list[str], where: str, action: str) -> None:
    if unknown:
        shown = ", ".join(sorted(unknown)[:8]) + (", ..." if len(unknown) > 8 else "")
        raise DataError(f"{len(unknown)} tensors are unknown to {where}", evidence=shown, action=action)
