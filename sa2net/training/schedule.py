"""The learning rate over a training, and which parameters decay."""

import math

import torch
from torch import nn

from sa2net.config import TrainConfig
from sa2net.errors import ConfigError

POLY_POWER = 0.9


def learning_rate(cfg: TrainConfig, progress: float) -> float:
    """Learning rate after `progress` epochs (a fraction is a step within an epoch).

    A linear warm-up, then the chosen decay to zero at the end of the last epoch.
    """
    if progress < cfg.warmup_epochs:
        # Never exactly zero, so that the first step learns something.
        return cfg.peak_rate * max(progress / cfg.warmup_epochs, 1e-2)
    share = min((progress - cfg.warmup_epochs) / max(cfg.epochs - cfg.warmup_epochs, 1e-9), 1.0)
    match cfg.schedule:
        case "cosine":
            factor = 0.5 * (1.0 + math.cos(math.pi * share))
        case "poly":
            factor = (1.0 - share) ** POLY_POWER
        case "constant":
            factor = 1.0
    return cfg.peak_rate * factor


def with_epochs(cfg: TrainConfig, crops: int) -> TrainConfig:
    """The settings with the epochs that hold `iterations` updates of the weights, where those are set.

    Args:
        cfg: With a batch size.
        crops: Crops of an epoch.

    Raises:
        ConfigError: The warm-up would take all of them.
    """
    if not cfg.iterations:
        return cfg
    updates = math.ceil(math.ceil(crops / cfg.batch_size) / cfg.accumulate)
    epochs = math.ceil(cfg.iterations / updates)
    if cfg.warmup_epochs >= epochs > 1:
        raise ConfigError(
            f"train.warmup_epochs {cfg.warmup_epochs:g} leaves nothing of the training",
            evidence=f"{cfg.iterations} iterations are {epochs} epochs of {crops} crops",
            action="Lower train.warmup_epochs, or raise train.iterations.",
        )
    return cfg.model_copy(update={"epochs": epochs, "iterations": 0})


def make_optimiser(network: nn.Module, cfg: TrainConfig) -> torch.optim.AdamW:
    """AdamW; norms, biases and single scalars do not decay, unless `decayed: released` makes all decay."""
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    smallest = 0 if cfg.decayed == "released" else 2
    decaying = [parameter for parameter in learning if parameter.ndim >= smallest]
    steady = [parameter for parameter in learning if parameter.ndim < smallest]
    groups = [{"params": decaying, "weight_decay": cfg.weight_decay}, {"params": steady, "weight_decay": 0.0}]
    # Not `fused`: on a CPU it pairs a weight with its gradient and moments by their place in memory, and goes wrong where
    # their layouts differ (channels last beside contiguous: after a resume, or between processes).
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=cfg.peak_rate)
