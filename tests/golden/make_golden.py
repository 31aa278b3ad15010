"""Golden numbers of our own network, so that it stays what it is where the reference fixtures are not at hand.

Weights and inputs are dyadic numbers from a frozen generator, everything runs in float64, and only results are stored.
`python tests/golden/make_golden.py` writes the files anew: do that only after `benchmarks/parity.py` has passed, and
only for a change of numbers that is meant.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sa2net.config import LossConfig, ModelConfig, PredictorConfig
from sa2net.model.logits import TrainingLogits
from sa2net.model.losses import build_loss
from sa2net.model.network import DecodeHead

FOLDER = Path(__file__).parent
IN_CHANNELS = (6, 8, 10, 12)
SIZES = ((13, 10), (7, 5), (4, 3), (2, 2))
CLASSES = 3


def dyadic(generator: np.random.RandomState, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """Multiples of scale / 8 between -scale and scale. `RandomState` is frozen: the same stream in every numpy."""
    return torch.from_numpy(np.asarray(generator.randint(-8, 9, size=shape), dtype=np.float64) * scale / 8)


def head(settings: str) -> DecodeHead:
    """A small head in float64 with dyadic weights, without dropout. `settings`: `default` or `released`."""
    affinity, logits = ("released", "released") if settings == "released" else ("normalised", "aligned")
    cfg = ModelConfig(
        channels=24,
        num_classes=CLASSES,
        affinity=affinity,
        logits=logits,
        dropout=0.0,
        predictor=PredictorConfig(embed_dim=16, depth=2, num_heads=2, mask_dim=6, dropout=0.0),
    )
    network = DecodeHead(IN_CHANNELS, cfg).double()
    generator = np.random.RandomState(7)
    with torch.no_grad():
        for name, tensor in sorted(network.state_dict().items()):
            if "num_batches" in name:
                continue
            if tensor.ndim == 0:  # the scales of both attentions, and the temperatures
                tensor.fill_(0.75)
            elif name.endswith("running_var"):
                tensor.copy_(1 + dyadic(generator, tuple(tensor.shape), 0.5))
            elif name.endswith("norm.weight"):
                tensor.copy_(1 + dyadic(generator, tuple(tensor.shape), 0.25))
            else:
                fan_in = max(tensor[0].numel(), 1) if tensor.ndim > 1 else 1
                scale = 2.0 ** -np.ceil(0.5 * np.log2(fan_in)) if tensor.ndim > 1 else 0.5
                if "channel_attention.query" in name:
                    scale /= 64  # keeps the released softmax, which sums over positions, from saturating
                elif "position_query" in name:
                    scale /= 8
                tensor.copy_(dyadic(generator, tuple(tensor.shape), scale))
    return network


def levels(batch: int = 2) -> list[Tensor]:
    """Four input maps, finest first."""
    generator = np.random.RandomState(11)
    return [dyadic(generator, (batch, width, *size)) for width, size in zip(IN_CHANNELS, SIZES, strict=True)]


def mask(rows: int, columns: int) -> Tensor:
    """A mask (2, rows, columns) with ignored pixels."""
    generator = np.random.RandomState(13)
    labels = torch.from_numpy(generator.randint(0, CLASSES, size=(2, rows, columns)).astype(np.uint8))
    labels[1, : rows // 3] = 255
    return labels


def head_results(settings: str) -> dict[str, Tensor]:
    """The four maps in evaluation, and the two softmaxes that may saturate."""
    network = head(settings).eval()
    seen: dict[str, Tensor] = {}
    network.structure_affinity.register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0]))
    network.channel_attention.register_forward_pre_hook(lambda _, inputs: seen.update(fused=inputs[0]))
    with torch.no_grad():
        results = dict(network(levels())._asdict())
        module = network.structure_affinity
        probabilities = module.coarse(seen["features"]).flatten(2).softmax(1)
        results["structure_affinity"] = module.affinity(seen["features"], probabilities)
        results["channel_attention"] = network.channel_attention.attention(seen["fused"])
    return {name: value for name, value in results.items() if value is not None}


def train_results(settings: str) -> dict[str, Tensor]:
    """One training step: loss, gradients of the inputs, norm of every gradient, batch-norm statistics."""
    network = head(settings).train()
    inputs = [level.requires_grad_() for level in levels()]
    ignored = "released" if settings == "released" else "valid"
    loss = build_loss(LossConfig(kind="released", ignored=ignored))(network(inputs), mask(52, 40))["total"]
    loss.backward()
    results = {"loss": loss.detach()}
    results |= {f"gradient_in{i}": level.grad for i, level in enumerate(inputs) if level.grad is not None}
    named = sorted(network.named_parameters())
    results["gradient_norms"] = torch.stack([parameter.grad.norm() for _, parameter in named])
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    results["running_means"] = torch.cat([norm.running_mean for norm in norms])
    results["running_variances"] = torch.cat([norm.running_var for norm in norms])
    return results


def loss_results() -> dict[str, Tensor]:
    """Both kinds of loss with both kinds of mean, with all gradients."""
    generator = np.random.RandomState(17)
    sizes = ((8, 7), (6, 5), (6, 5), (6, 5), (2, 2))
    results: dict[str, Tensor] = {}
    for kind in ("released", "mixing"):
        for ignored in ("valid", "released"):
            maps = [dyadic(generator, (2, CLASSES, *size), 4.0).requires_grad_() for size in sizes]
            parts = build_loss(LossConfig(kind=kind, ignored=ignored))(TrainingLogits(*maps), mask(24, 20))
            parts["total"].backward()
            results |= {f"{kind}_{ignored}_{name}": part.detach() for name, part in parts.items()}
            results |= {f"{kind}_{ignored}_gradient{i}": map_.grad for i, map_ in enumerate(maps)}
    return results


GOLDEN = {
    "head_default": lambda: head_results("default"),
    "head_released": lambda: head_results("released"),
    "train_default": lambda: train_results("default"),
    "train_released": lambda: train_results("released"),
    "losses": loss_results,
}


def main() -> None:
    """Write every file."""
    for name, compute in GOLDEN.items():
        np.savez_compressed(FOLDER / f"{name}.npz", **{key: value.numpy() for key, value in compute().items()})


if __name__ == "__main__":
    main()
