"""An endless stream of phantoms to learn from: drawn anew for every epoch, by worker processes, ahead of the trainer."""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sa2net.config import StreamConfig
from sa2net.data.dataset import FramedScan, derived_seed
from sa2net.data.framing import WorkingScale, find_frame, mask_to_working_scale, to_working_scale
from sa2net.data.phantom import ARTEFACT_FAMILIES, draw_phantom
from sa2net.data.phantom_artefacts import check_families
from sa2net.data.phantom_texture import draw_look


class PhantomStream(Dataset[torch.Tensor]):
    """Phantoms at working scale, uint8 (2, H, W): picture and mask.

    Every one is of a device of its own, shows any of the families that are not held out, and depends on the seed and
    its index alone, so that a resumed training sees what an uninterrupted one would have seen.

    Args:
        cfg: What may be drawn.
        working: Scale at which the network sees it.
        seed: Of the training.

    Raises:
        ConfigError: A held-out family does not exist.
    """

    def __init__(self, cfg: StreamConfig, working: WorkingScale, *, seed: int) -> None:
        check_families(cfg.held_out)
        self.cfg, self.working, self.seed = cfg, working, seed
        self.shown = tuple(family for family in ARTEFACT_FAMILIES if family not in cfg.held_out)

    def __getitem__(self, index: int) -> torch.Tensor:
        rng = np.random.default_rng(derived_seed(self.seed, "phantom", index))
        phantom = draw_phantom(rng, artefacts=self.shown, max_angle=self.cfg.max_angle, look=draw_look(rng))
        frame = find_frame(phantom.scan, self.working, phantom.spacing_mm)
        picture = to_working_scale(phantom.scan, frame).round().clamp(0, 255).to(torch.uint8)
        return torch.cat([picture, mask_to_working_scale(phantom.mask, frame)[None]])

    def epochs(self, first: int) -> Iterator[list[FramedScan]]:
        """The phantoms of one epoch after the other, without end, from epoch `first` (from 0); drawn an epoch ahead."""
        scans, workers = self.cfg.scans, self.cfg.workers
        drawn = DataLoader(
            self,
            batch_size=None,
            sampler=itertools.count(first * scans),
            num_workers=workers,
            prefetch_factor=-(-scans // workers) if workers else None,
        )
        pairs = iter(drawn)
        while True:
            # A tensor from a worker lies in shared memory and keeps a file open: copied, it is let go.
            copies = [pair.clone() for pair in itertools.islice(pairs, scans)]
            yield [FramedScan(pair[:1], pair[1]) for pair in copies]
