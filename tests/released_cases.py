"""Checkpoints as the published code saves them, made of networks of ours with random weights."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sa2net.config import ModelConfig, PredictorConfig
from sa2net.model.backbone import RELEASED_SWIN, TimmBackbone
from sa2net.model.migrate import Part, to_released
from sa2net.model.network import SA2Net
from sa2net.model.swin import SwinTransformer
from sa2net.model.unet import UNet, UNetSegmenter

SIZES = {
    "channels": 16,
    "affinity": "released",
    "logits": "released",
    "sizes": "released",
    "predictor": PredictorConfig(embed_dim=32, depth=2, num_heads=4, mask_dim=24),
}


def three_colours(name: str) -> SA2Net | UNetSegmenter:
    """The network as published, on three colours, with running statistics that a scan leaves behind."""
    torch.manual_seed(1)
    network: SA2Net | UNetSegmenter
    if name == "unet":
        network = UNetSegmenter(ModelConfig(architecture="unet", channels=16))
        network.backbone = UNet(in_channels=3, base_channels=16)
    elif name.startswith("resnet"):
        network = SA2Net(TimmBackbone(name, in_channels=3), ModelConfig(backbone=name, **SIZES))
    else:
        swin = SwinTransformer(RELEASED_SWIN[name], in_channels=3)
        network = SA2Net(swin, ModelConfig(backbone=name, **SIZES))
    with torch.no_grad():
        for _ in range(3):
            network(0.8 * torch.randn(2, 3, 64, 64) + 0.3)
        for name, gamma in network.named_parameters():
            if name.endswith("gamma"):
                gamma.fill_(0.7)  # freshly made, the attentions are switched off
    return network.eval()


def released(network: SA2Net | UNetSegmenter, part: Part) -> OrderedDict[str, Tensor]:
    """The state dict as the published code saves it, with the tensors that nothing reads."""
    parts: dict[str, tuple[Any, Part]] = {
        "backbone": (network.backbone, part),
        "decode_head": (network.head, "auxiliary" if part == "unet" else "head"),
        "auxiliary_head": (network.auxiliary, "auxiliary"),
    }
    state = OrderedDict()
    for prefix, (module, kind) in parts.items():
        for name, tensor in to_released(module.state_dict(), kind).items():
            state[f"{prefix}.{name}"] = tensor.clone()
    if part != "unet":
        state["decode_head.semantic_aug.gamma.scale"] = torch.zeros(1)
    if part == "swin":
        state["backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    return state


def save(path: Path, state: Mapping[str, Any], **options: Any) -> Path:
    """A checkpoint of mmcv: what its hooks note beside the weights is plain, or a number of numpy."""
    meta = {
        "epoch": 3,
        "iter": 160000,
        "config": "model = dict(type='EncoderDecoder')",
        "CLASSES": ("background", "rib", "thoracic process", "lumbar lump"),
        "hook_msgs": {"best_score": np.float64(0.75), "count": np.int64(3)},
    }
    optimizer = {"state": {0: {"step": 5, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    torch.save({"meta": meta, "state_dict": state, "optimizer": optimizer}, path, **options)
    return path
