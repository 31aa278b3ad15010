"""What every network of the project has in common: the logit maps it returns, its auxiliary head, sizes that do not fit."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from sa2net.model.layers import Classifier, ConvNormAct

STRIDES = (4, 8, 16, 32)
"""Of the maps that a backbone gives."""


class TrainingLogits(NamedTuple):
    """What a network returns in training mode: maps (B, K, rows, columns), None where it has no such head."""

    final: Tensor
    """SA2Net: at stride 4."""
    coarse: Tensor | None = None
    """Of the structure-affinity module, at stride 4."""
    channel: Tensor | None = None
    """Of the channel-attention branch, at stride 4."""
    position: Tensor | None = None
    """Of the criss-cross branch, at stride 4."""
    auxiliary: Tensor | None = None
    """Of the auxiliary head; SA2Net: at stride 16."""


class AuxiliaryHead(nn.Module):
    """A small convolutional head on one backbone map, which keeps the gradient of the early stages alive."""

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.reduce = ConvNormAct(in_channels, channels, 3)
        self.classifier = Classifier(channels, num_classes, dropout)

    def forward(self, level: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, K, H, W)."""
        logits: Tensor = self.classifier(self.reduce(level))
        return logits


def padded_size(height: int, width: int, multiple: int) -> tuple[int, int]:
    """The next rows and columns that are multiples."""
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad(x: Tensor, multiple: int) -> Tensor:
    """Continue (B, C, H, W) to the right and bottom to multiples, by repeating its edge."""
    height, width = x.shape[-2:]
    rows, columns = padded_size(height, width, multiple)
    if (rows, columns) == (height, width):
        return x
    # The edge of a scan is black; zeros would be mean grey, an artefact that no scan has.
    return functional.pad(x, (0, columns - width, 0, rows - height), mode="replicate")


def crop(
    maps: TrainingLogits, padded: tuple[int, int], size: tuple[int, int], *, fine: int = STRIDES[0], middle: int
) -> TrainingLogits:
    """Cut the logits of the padding off, to whole cells.

    Args:
        maps: Of a padded picture.
        padded: Its rows and columns.
        size: Rows and columns of the picture before.
        fine: Stride of all maps but the auxiliary one, px.
        middle: Stride of the auxiliary map, px.
    """

    def cut(logits: Tensor, stride: int) -> Tensor:
        # A released final map is 2 px larger than its level, and stays so.
        more_rows, more_columns = logits.shape[-2] - padded[0] // stride, logits.shape[-1] - padded[1] // stride
        return logits[..., : -(-size[0] // stride) + more_rows, : -(-size[1] // stride) + more_columns]

    def cut_if_any(logits: Tensor | None, stride: int) -> Tensor | None:
        return None if logits is None else cut(logits, stride)

    return TrainingLogits(
        final=cut(maps.final, fine),
        coarse=cut_if_any(maps.coarse, fine),
        channel=cut_if_any(maps.channel, fine),
        position=cut_if_any(maps.position, fine),
        auxiliary=cut_if_any(maps.auxiliary, middle),
    )
