"""Random changes of training crops: scan and mask move together, through torchvision's v2 transforms."""

from collections.abc import Mapping
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from sa2net.anatomy import IGNORE_INDEX
from sa2net.config import AugmentConfig

CROP_ATTEMPTS = 10
"""Places that are drawn at most for one crop."""


class RandomGamma(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """Bend the grey curve: grey ** exponent, the exponent drawn in 1 +- `change`. Input 0-1."""

    def __init__(self, change: float) -> None:
        super().__init__()
        self.change = change

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:  # noqa: ARG002 - torchvision's signature
        """Draw the exponent."""
        return {"gamma": 1.0 + self.change * float(torch.empty(1).uniform_(-1, 1))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Bend pictures, leave masks."""
        return functional.adjust_gamma(inpt, params["gamma"]) if isinstance(inpt, tv_tensors.Image) else inpt


class RandomNoise(v2.Transform):  # type: ignore[misc]  # torchvision is untyped
    """Add Gaussian noise whose standard deviation is drawn in 0..`sigma`. Input 0-1."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:  # noqa: ARG002 - torchvision's signature
        """Draw the standard deviation."""
        return {"sigma": self.sigma * float(torch.rand(1))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Disturb pictures, leave masks."""
        return functional.gaussian_noise(inpt, sigma=params["sigma"]) if isinstance(inpt, tv_tensors.Image) else inpt


class BalancedCrop(v2.RandomCrop):  # type: ignore[misc]  # torchvision is untyped
    """A random crop that is drawn again while one class fills more than a share of its valid pixels.

    Args:
        size: Rows and columns.
        fill: Of what is padded in, by kind.
        max_class_share: 1 = the first crop is taken.
    """

    def __init__(self, size: tuple[int, int], fill: Mapping[type, float], max_class_share: float) -> None:
        super().__init__(size, pad_if_needed=True, fill=fill)
        self.max_class_share = max_class_share

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the place."""
        params: dict[str, Any] = super().make_params(flat_inputs)
        masks = [item for item in flat_inputs if isinstance(item, tv_tensors.Mask)]
        if self.max_class_share < 1.0 and masks:
            for _ in range(CROP_ATTEMPTS - 1):
                if self._balanced(self.transform(masks[0], params)):
                    break
                params = super().make_params(flat_inputs)
        return params

    def _balanced(self, mask: torch.Tensor) -> bool:
        counts = torch.bincount(mask[mask != IGNORE_INDEX].flatten())
        return bool(counts.numel()) and float(counts.max()) <= self.max_class_share * float(counts.sum())


def training_transforms(cfg: AugmentConfig, mean_grey: float) -> v2.Compose:
    """Crop and augmentation of one training sample.

    Takes and gives an `Image` (1, H, W), float 0-1, and a `Mask` (H, W); the crop has the size of `cfg`. What is
    turned or padded in from outside the frame is black, and ignored by the loss: nobody has looked at it.

    Args:
        cfg: Crop and augmentation.
        mean_grey: Of the train split, 0-1; fills instead of black with `fill: released`.
    """
    grey = mean_grey if cfg.fill == "released" else 0.0
    fill: Mapping[type, float] = {tv_tensors.Image: grey, tv_tensors.Mask: IGNORE_INDEX}
    return v2.Compose(
        [
            v2.RandomAffine(
                degrees=cfg.rotation,
                scale=(cfg.scale_low, cfg.scale_high),
                fill=fill,
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            BalancedCrop((cfg.crop_height, cfg.crop_width), fill, cfg.max_class_share),
            v2.RandomHorizontalFlip(cfg.flip),
            v2.ColorJitter(brightness=cfg.brightness, contrast=cfg.contrast),
            RandomGamma(cfg.gamma),
            v2.RandomApply([v2.GaussianBlur(kernel_size=5, sigma=(0.1, 1.2))], p=cfg.blur),
            RandomNoise(cfg.noise),
        ]
    )
