"""Training crops: drawn so that sample `i` of epoch `e` depends on (seed, e, i) alone.

That is what makes a resumed training bit-equal to an uninterrupted one, with any number of worker processes.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors

from sa2net.artifacts import Normalisation
from sa2net.config import AugmentConfig
from sa2net.data.framing import WorkingScale, find_frame, mask_to_working_scale, to_working_scale
from sa2net.data.layout import Case
from sa2net.data.pictures import read_mask, read_scan
from sa2net.data.transforms import training_transforms


@dataclass(frozen=True)
class FramedScan:
    """A scan and its mask at working scale: uint8 (1, H, W) and uint8 (H, W)."""

    picture: torch.Tensor
    mask: torch.Tensor


def frame_case(case: Case, working: WorkingScale) -> FramedScan:
    """Read a case and bring it to working scale.

    Raises:
        DataError: The scan or its mask cannot be read, or shows no sweep.
    """
    scan = read_scan(case.scan)
    frame = find_frame(scan, working, case.spacing_mm)
    picture = to_working_scale(scan, frame).round().clamp(0, 255).to(torch.uint8)
    return FramedScan(picture, mask_to_working_scale(read_mask(case.mask), frame))


class CropDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Augmented crops of framed scans.

    Item `i` shows scan `i % len(scans)`: a normalised picture, float32 (1, h, w), and its mask, uint8 (h, w).

    Args:
        scans: Framed scans; kept in memory.
        normalisation: Grey statistics of the train split, 0-255.
        cfg: Crop size and augmentation.
        crops_per_scan: Crops of each scan in an epoch.
        seed: Seed of all draws.
    """

    def __init__(
        self,
        scans: Sequence[FramedScan],
        normalisation: Normalisation,
        cfg: AugmentConfig,
        *,
        crops_per_scan: int,
        seed: int,
    ) -> None:
        self.scans, self.normalisation = scans, normalisation
        self.crops_per_scan, self.seed, self.epoch = crops_per_scan, seed, 0
        self.transforms = training_transforms(cfg, normalisation.mean / 255)

    def __len__(self) -> int:
        return len(self.scans) * self.crops_per_scan

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        scan = self.scans[index % len(self.scans)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, "crop", self.epoch, index))
            picture, mask = self.transforms(tv_tensors.Image(scan.picture.float() / 255), tv_tensors.Mask(scan.mask))
        normalised = (picture.as_subclass(torch.Tensor) * 255 - self.normalisation.mean) / self.normalisation.std
        return normalised, mask.as_subclass(torch.Tensor)


class EpochSampler(Sampler[int]):
    """A new order each epoch, from (seed, epoch) alone."""

    def __init__(self, dataset: CropDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derived_seed(self.dataset.seed, "order", self.dataset.epoch))
        yield from torch.randperm(len(self.dataset), generator=generator).tolist()


class EpochBatches(Sampler[list[int]]):
    """The batches of an epoch, or one process's part of each.

    Args:
        dataset: What is drawn from.
        batch_size: Crops of a whole batch; the last one of an epoch may be smaller.
        share: Crops of a whole batch -> first and end index of the part; what lies behind the batch repeats its last
            crop.
    """

    def __init__(self, dataset: CropDataset, batch_size: int, share: Callable[[int], tuple[int, int]]) -> None:
        self.order, self.batch_size, self.share = EpochSampler(dataset), batch_size, share

    def __len__(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self.order)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield [batch[min(place, len(batch) - 1)] for place in range(*self.share(len(batch)))]


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed that differs for every combination of parts."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
