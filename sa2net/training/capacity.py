"""How many crops one GPU holds in a step: found by trying, before a training whose `batch_size` is 0."""

import logging
from collections.abc import Callable

import torch

from sa2net.config import TrainConfig
from sa2net.errors import ConfigError
from sa2net.inference.device import resolve_device, resolve_precision
from sa2net.model.losses import build_loss
from sa2net.training.failures import out_of_memory
from sa2net.training.loop import fresh_network
from sa2net.training.ranks import ALONE, Ranks
from sa2net.training.schedule import make_optimiser

logger = logging.getLogger(__name__)
SHARE = 0.85
"""Of the GPU's memory that a step may use: validation, fragmentation and other programs take the rest."""


def with_batch_size(cfg: TrainConfig, ranks: Ranks, crops: int) -> TrainConfig:
    """The settings with the batch size that the GPUs can hold, the same on every rank.

    Args:
        cfg: With any batch size; only 0 is replaced.
        ranks: The processes that share a batch.
        crops: Crops of an epoch: a batch is not larger.

    Raises:
        ConfigError: There is no GPU.
        DeviceError: Not even one crop fits.
    """
    if cfg.batch_size:
        return cfg
    device = resolve_device(cfg.device)
    if device.type != "cuda":
        raise ConfigError(
            "train.batch_size is 0, which asks what a GPU can hold",
            evidence="this machine has no GPU that torch can use",
            action="Set train.batch_size, for example to 2.",
        )
    mine = largest_batch(lambda size: _one_step(cfg, size, device), cfg, limit=max(1, crops // ranks.count))
    found = int(ranks.numbers_of_main({"batch_size": float(mine)})["batch_size"]) * ranks.count
    logger.info("train.batch_size 0: the GPU holds %d crops a step", found)
    return cfg.model_copy(update={"batch_size": found})


def largest_batch(attempt: Callable[[int], None], cfg: TrainConfig, *, limit: int) -> int:
    """The largest power of two up to `limit` that can be trained.

    Powers of two alone, so that a little more or less free memory does not make another training of it.

    Args:
        attempt: Trains one step of that many crops; raises `torch.OutOfMemoryError` where it does not fit.
        cfg: For the message.
        limit: Largest size.

    Raises:
        DeviceError: Not even one crop fits.
    """
    found, size = 0, 1
    while size <= limit:
        try:
            attempt(size)
        except torch.OutOfMemoryError as error:
            if not found:
                raise out_of_memory(cfg.model_copy(update={"batch_size": 1}), error) from error
            break
        found, size = size, 2 * size
    return found


def _one_step(cfg: TrainConfig, size: int, device: torch.device) -> None:
    """A whole step as the loop makes it, on random crops.

    Raises:
        torch.OutOfMemoryError: It takes more than its share of the memory.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    untrained = cfg.model_copy(update={"model": cfg.model.model_copy(update={"pretrained": False})})
    network = fresh_network(untrained, ALONE, device).to(device)
    network = network.to(memory_format=torch.channels_last)
    optimiser = make_optimiser(network, cfg)
    shape = (size, cfg.augment.crop_height, cfg.augment.crop_width)
    picture = torch.randn(size, 1, *shape[1:], device=device).to(memory_format=torch.channels_last)
    mask = torch.zeros(shape, dtype=torch.uint8, device=device)
    precision = resolve_precision(cfg.precision, device)
    with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
        logits = network(picture)
    build_loss(cfg.loss)(logits, mask)["total"].backward()
    optimiser.step()
    used, total = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    if used > SHARE * total:
        raise torch.OutOfMemoryError(f"{size} crops take {used / 2**30:.1f} of {total / 2**30:.1f} GiB")
