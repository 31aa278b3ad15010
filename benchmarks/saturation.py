"""How far the softmaxes of structure affinity and channel attention are from one-hot, by the kind of affinity.

A network whose affinity is one-hot does not train its transformer predictor: the gradient vanishes. Prints entropies of
the softmax rows and the gradient of the predictor at fresh weights, for scans of two sizes; with `--steps`, over the
first steps of a training on crops of phantoms, released beside the others.

    python -m benchmarks.saturation [--backbone resnet18] [--channels 64]
    python -m benchmarks.saturation --steps 50 --size 256
"""

import argparse
import math
import statistics
from collections.abc import Iterator
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sa2net.config import LossConfig, ModelConfig, TrainConfig
from sa2net.config.network import Affinity
from sa2net.data.phantom import Phantom, draw_phantom
from sa2net.model.losses import build_loss
from sa2net.model.network import SA2Net, build
from sa2net.training.schedule import make_optimiser

ONE_HOT = 0.99
"""A row whose largest entry is above this counts as one-hot."""
WIDTH = 640
"""Of the phantoms, px."""
WINDOW = 10
"""Steps that a row of a training is the median of: from crop to crop the published gradient differs by powers of ten."""
MEAN, STD = 125.0, 73.0
"""Grey of the phantoms, near enough."""
AFFINITIES: tuple[Affinity, ...] = get_args(Affinity)


class Seen(NamedTuple):
    """One step: entropies (1 = flat, 0 = one-hot) and shares of one-hot rows, and the predictor's gradient."""

    affinity: float
    affinity_one_hot: float
    channel: float
    channel_one_hot: float
    gradient_rms: float
    """Root mean square over the predictor's parameters."""
    gradient_norm: float


def rows_of(softmax: Tensor) -> tuple[float, float]:
    """Entropy of the rows over that of a flat row, and the share of one-hot rows; softmax over the last axis."""
    softmax = softmax.detach()
    entropy = -(softmax * softmax.clamp_min(1e-30).log()).sum(-1).mean() / math.log(softmax.shape[-1])
    return float(entropy), float((softmax.amax(-1) > ONE_HOT).float().mean())


def crops(phantoms: list[Phantom], size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One square crop around the middle of each phantom: pictures (B, 1, size, size), masks (B, size, size)."""
    pictures, masks = [], []
    for phantom in phantoms:
        top = int(rng.integers(0, phantom.scan.shape[0] - size + 1))
        window = slice(top, top + size), slice((WIDTH - size) // 2, (WIDTH + size) // 2)
        pictures.append(torch.from_numpy((phantom.scan[window].astype(np.float32) - MEAN) / STD)[None])
        masks.append(torch.from_numpy(phantom.mask[window].astype(np.uint8)))
    return torch.stack(pictures), torch.stack(masks)


def training(affinity: Affinity, size: int, steps: int, args: argparse.Namespace) -> Iterator[Seen]:
    """What is seen in each step from fresh weights, the first one included."""
    torch.manual_seed(args.seed)
    network = build(ModelConfig(backbone=args.backbone, channels=args.channels, affinity=affinity))
    assert isinstance(network, SA2Net)
    head, rng = network.head, np.random.default_rng(args.seed)
    phantoms = [draw_phantom(rng, width=WIDTH) for _ in range(2)]
    optimiser, loss = make_optimiser(network, TrainConfig(init_from="")), build_loss(LossConfig(kind="released"))
    seen: dict[str, tuple[float, float]] = {}

    def watch_affinity(_: object, inputs: tuple[Tensor, ...]) -> None:
        probabilities = head.structure_affinity.coarse(inputs[0]).flatten(2).softmax(1)
        seen["affinity"] = rows_of(head.structure_affinity.affinity(inputs[0], probabilities))

    def watch_channels(_: object, inputs: tuple[Tensor, ...]) -> None:
        seen["channel"] = rows_of(head.channel_attention.attention(inputs[0]))

    head.structure_affinity.register_forward_pre_hook(watch_affinity)
    head.channel_attention.register_forward_pre_hook(watch_channels)
    for _ in range(steps + 1):
        picture, mask = crops(phantoms, size, rng)
        optimiser.zero_grad()
        loss(network(picture), mask)["total"].backward()
        gradients = [p.grad for p in head.structure_affinity.predictor.parameters() if p.grad is not None]
        squares = torch.cat([gradient.flatten() for gradient in gradients]).double().square()
        yield Seen(*seen["affinity"], *seen["channel"], float(squares.mean().sqrt()), float(squares.sum().sqrt()))
        torch.nn.utils.clip_grad_norm_(network.parameters(), TrainConfig().clip_norm)
        optimiser.step()


def fresh_table(args: argparse.Namespace) -> None:
    print(
        f"{'setting':12}{'size':>6}{'affinity':>10}{'one-hot':>9}{'channel':>10}{'one-hot':>9}{'predictor gradient RMS':>24}"
    )
    for affinity in AFFINITIES:
        for size in (256, 512):
            row = next(training(affinity, size, 0, args))
            print(
                f"{affinity:12}{size:6}{row.affinity:10.3f}{row.affinity_one_hot:9.0%}"
                f"{row.channel:10.3f}{row.channel_one_hot:9.0%}{row.gradient_rms:24.1e}"
            )


def training_table(args: argparse.Namespace) -> None:
    # Released first: the others are set against it.
    order = sorted(AFFINITIES, key=lambda affinity: affinity != "released")
    curves = {affinity: list(training(affinity, args.size, args.steps, args)) for affinity in tqdm(order)}
    print(f"medians over {WINDOW} steps that end at the one named; crops of {args.size} px")
    print(
        f"{'setting':12}{'step':>6}{'affinity':>10}{'channel':>10}{'predictor gradient norm':>25}{'over released':>15}"
    )
    for affinity, rows in curves.items():
        for step in range(WINDOW, args.steps + 1, WINDOW):
            seen, base = (_medians(some[step - WINDOW + 1 : step + 1]) for some in (rows, curves["released"]))
            print(
                f"{affinity:12}{step:6}{seen.affinity:10.3f}{seen.channel:10.3f}"
                f"{seen.gradient_norm:25.1e}{seen.gradient_norm / max(base.gradient_norm, 1e-300):15.1e}"
            )


def _medians(rows: list[Seen]) -> Seen:
    return Seen(*(statistics.median(values) for values in zip(*rows, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=ModelConfig().backbone)
    parser.add_argument("--channels", type=int, default=ModelConfig().channels)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps", type=int, default=0, help="follow so many steps of a training; 0 = fresh weights alone"
    )
    parser.add_argument("--size", type=int, default=256, help="side of the crops of that training, px")
    args = parser.parse_args()
    print(f"{args.backbone}, {args.channels} channels, seed {args.seed}; entropy 1 = flat, 0 = one-hot; phantoms")
    training_table(args) if args.steps else fresh_table(args)


if __name__ == "__main__":
    main()
