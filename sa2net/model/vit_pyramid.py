"""Four maps from the one map of a plain vision transformer.

Source: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection, ECCV 2022 (simple feature pyramid).
"""

from torch import Tensor, nn

from sa2net.model.layers import BatchNorm2d


class SimpleFeaturePyramid(nn.Module):
    """Enlarge and shrink a map of stride 16 to strides 4, 8, 16 and 32.

    Args:
        width: Channels of the map; a multiple of 4.

    Attributes:
        channels: Channels of the four maps, finest first.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels: tuple[int, ...] = (width // 4, width // 2, width, width)
        self.quadrupled = nn.Sequential(
            _doubled(width, width // 2), BatchNorm2d(width // 2), nn.GELU(), _doubled(width // 2, width // 4)
        )
        self.doubled = _doubled(width, width // 2)
        self.halved = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> (B, C/4, 4 H, 4 W), (B, C/2, 2 H, 2 W), (B, C, H, W), (B, C, H/2, W/2)."""
        return [self.quadrupled(x), self.doubled(x), x, self.halved(x)]


def _doubled(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
