"""The building blocks that every part of the network shares, so that each rule is written once.

Two rules matter: pictures are resized with half-pixel centres everywhere (`resize`), and a batch norm
that sees a single value per channel does not fail (`BatchNorm2d`).
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

from sa2net.config.network import Affinity

EPSILON = 1e-6
"""Floor of a mean square before its root is divided by."""


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear interpolation with half-pixel centres, up or down, without antialiasing.

    Args:
        x: (B, C, H, W).
        size: Rows and columns of the result.

    Returns:
        (B, C, *size); `x` itself where it has that size already.
    """
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32 if it is in half precision (softmax and sums need the range), else untouched."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context without automatic mixed precision: sums over all positions overflow float16 and round in bfloat16."""
    # The meta device has no autocast; asking torch whether a device has one would end a compiled graph here.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that also trains on a batch of one over a 1 x 1 map.

    A single value per channel has no variance, and torch refuses it. Here such a batch is normalised
    with the running statistics, as in evaluation, and does not update them. Parameters, buffers and
    all other behaviour are those of `torch.nn.BatchNorm2d`.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        """Normalise `input` (B, C, H, W)."""
        if self.training and input.numel() == input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


def tolerate_single_values(module: nn.Module) -> nn.Module:
    """Replace every plain `torch.nn.BatchNorm2d` inside `module` by ours, weights and state dict names kept."""
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            replacement = BatchNorm2d(
                child.num_features,
                eps=child.eps,
                momentum=child.momentum,
                affine=child.affine,
                track_running_stats=child.track_running_stats,
            )
            replacement.load_state_dict(child.state_dict())
            setattr(module, name, replacement)
        else:
            tolerate_single_values(child)
    return module


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm and, unless switched off, ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the square kernel.
        padding: Zeros added on each side; None keeps the size.
        activate: Whether the ReLU follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        padding: int | None = None,
        activate: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False)
        self.norm = BatchNorm2d(out_channels)
        self.activate = activate
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        x = self.norm(self.conv(x))
        return functional.relu(x, inplace=True) if self.activate else x


class Classifier(nn.Sequential):
    """Channel dropout, then a 1 x 1 convolution to one logit map a class.

    The convolution starts as torch starts it. The near-zero start that is customary for classifiers costs a short
    training its first epochs: on two synthetic pictures the final cross entropy after 20 steps was 0.75 with it, 0.25
    without.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(in_channels, num_classes, 1)


class SummedEnergies(nn.Module):
    """Softmax energies as published: plain products, which grow with the number of positions N."""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, rows, N), (B, N, columns) -> (B, rows, columns); the softmax runs over the columns."""
        return query @ key


class MeanEnergies(nn.Module):
    """The published energies divided by the number of positions: a crop is treated like a whole scan."""

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, rows, N), (B, N, columns) -> (B, rows, columns)."""
        return (query / query.shape[-1]) @ key


class CosineEnergies(nn.Module):
    """Cosines between rows and columns, times one learned temperature.

    Args:
        temperature: What a cosine of 1 gives before anything is learned.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(temperature).log())

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, rows, N), (B, N, columns) -> (B, rows, columns)."""
        return functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-2) * self.log_temperature.exp()


class ScaleFreeEnergies(nn.Module):
    """Energies of a set spread, whatever the size of the picture.

    The energies of both attention-like modules are sums over all positions, so they grow with the
    picture until their softmax is one-hot and nothing behind it learns. Here every row is centred
    (which no softmax notices), the matrix is divided by its root mean square, and multiplied by one
    learned temperature that starts at `spread`: the softmax is neither flat nor one-hot at the start,
    and a crop is treated like a whole scan.

    Args:
        spread: Root mean square of the result before anything is learned.
    """

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(spread).log())

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, rows, N), (B, N, columns) -> (B, rows, columns); the softmax runs over the columns."""
        energies = (query / query.shape[-1]) @ key
        centred = energies - energies.mean(dim=-1, keepdim=True)
        mean_square = centred.square().mean(dim=(-2, -1), keepdim=True)
        return centred * torch.rsqrt(mean_square + EPSILON) * self.log_temperature.exp()


COSINE_TEMPERATURE = 5.0
"""Start of the temperature of cosines, which for unrelated maps lie far below 1."""


def build_energies(kind: Affinity, *, parts: int = 1) -> nn.Module:
    """The energies of a softmax by the name of its setting.

    Args:
        kind: `train.model.affinity`.
        parts: Independent energies that are added up; together they start with spread 1.
    """
    match kind:
        case "normalised":
            return ScaleFreeEnergies(spread=parts**-0.5)
        case "mean":
            return MeanEnergies()
        case "cosine":
            return CosineEnergies(COSINE_TEMPERATURE)
        case "released":
            return SummedEnergies()
