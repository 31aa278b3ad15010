"""How far the softmaxes of structure affinity and channel attention are from one-hot, released and normalised.

A network whose affinity is one-hot does not train its transformer predictor: the gradient vanishes. Prints one table
at fresh weights, for scans of two sizes.

    python -m benchmarks.saturation [--backbone resnet18] [--channels 64]
"""

import argparse
import math

import numpy as np
import torch
from torch import Tensor

from sa2net.config import LossConfig, ModelConfig
from sa2net.config.network import Affinity
from sa2net.data.phantom import draw_phantom
from sa2net.model.losses import build_loss
from sa2net.model.network import SA2Net, build

ONE_HOT = 0.99
"""A row whose largest entry is above this counts as one-hot."""


def rows_of(softmax: Tensor) -> tuple[float, float]:
    """Entropy of the rows over that of a flat row, and the share of one-hot rows; softmax over the last axis."""
    softmax = softmax.detach()
    entropy = -(softmax * softmax.clamp_min(1e-30).log()).sum(-1).mean() / math.log(softmax.shape[-1])
    return float(entropy), float((softmax.amax(-1) > ONE_HOT).float().mean())


def measure(affinity: Affinity, size: int, args: argparse.Namespace) -> tuple[float, ...]:
    """One row: affinity entropy and one-hot share, the same of channel attention, predictor gradient RMS."""
    torch.manual_seed(args.seed)
    network = build(ModelConfig(backbone=args.backbone, channels=args.channels, affinity=affinity))
    phantom = draw_phantom(np.random.default_rng(args.seed), width=640)
    top = (phantom.scan.shape[0] - size) // 2
    left = (640 - size) // 2
    window = (slice(top, top + size), slice(left, left + size))
    scan = torch.from_numpy((phantom.scan[window].astype(np.float32) - 125) / 73)[None, None].repeat(2, 1, 1, 1)
    mask = torch.from_numpy(phantom.mask[window])[None].repeat(2, 1, 1)
    seen: dict[str, tuple[float, float]] = {}
    assert isinstance(network, SA2Net)
    head = network.head

    def watch_affinity(_: object, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        seen["affinity"] = rows_of(
            head.structure_affinity.affinity(x, head.structure_affinity.coarse(x).flatten(2).softmax(1))
        )

    def watch_channels(_: object, inputs: tuple[Tensor, ...]) -> None:
        seen["channel"] = rows_of(head.channel_attention.attention(inputs[0]))

    head.structure_affinity.register_forward_pre_hook(watch_affinity)
    head.channel_attention.register_forward_pre_hook(watch_channels)
    build_loss(LossConfig())(network(scan), mask)["total"].backward()
    gradients = [p.grad for p in head.structure_affinity.predictor.parameters() if p.grad is not None]
    squares = torch.cat([gradient.flatten() for gradient in gradients]).double().square()
    return (*seen["affinity"], *seen["channel"], float(squares.mean().sqrt()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=ModelConfig().backbone)
    parser.add_argument("--channels", type=int, default=ModelConfig().channels)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print(f"fresh weights, {args.backbone}, {args.channels} channels, seed {args.seed}; entropy 1 = flat, 0 = one-hot")
    print(
        f"{'setting':12}{'size':>6}{'affinity':>10}{'one-hot':>9}{'channel':>10}{'one-hot':>9}{'predictor gradient RMS':>24}"
    )
    affinities: tuple[Affinity, ...] = ("released", "normalised", "mean", "cosine")
    for affinity in affinities:
        for size in (256, 512):
            a, a_hot, c, c_hot, gradient = measure(affinity, size, args)
            print(f"{affinity:12}{size:6}{a:10.3f}{a_hot:9.0%}{c:10.3f}{c_hot:9.0%}{gradient:24.1e}")


if __name__ == "__main__":
    main()
