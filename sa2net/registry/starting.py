"""What a training starts from: the weights of another model, the ready ones, or none."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sa2net.artifacts import file_sha256, folder_sha256, read_model_info, read_weights
from sa2net.config import TrainConfig
from sa2net.errors import ConfigError
from sa2net.registry.ready import READY, are_of
from sa2net.registry.versions import resolve

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


def settled(cfg: TrainConfig) -> TrainConfig:
    """The settings as they take effect.

    The ready weights serve the network that they are of, and no other; weights of a whole network leave nothing to those
    of a backbone; the learning rate is the one that goes with the start.
    """
    if cfg.init_from == READY and not are_of(cfg.model):
        logger.info("train.init_from: the ready weights are of another network; starting from scratch")
        cfg = cfg.model_copy(update={"init_from": ""})
    if cfg.init_from and cfg.model.pretrained:
        logger.info(
            "train.model.pretrained: every weight comes from %s; none of the backbone's own is read", cfg.init_from
        )
        own = cfg.model.model_copy(update={"pretrained": False, "pretrained_file": ""})
        cfg = cfg.model_copy(update={"model": own})
    return cfg.model_copy(update={"learning_rate": cfg.peak_rate})


def starting_weights(cfg: TrainConfig) -> "tuple[dict[str, torch.Tensor] | None, str]":
    """Weights to start from and the sha256 of their folder; (None, "") from scratch.

    Raises:
        ConfigError: `init_from` names no model, several networks, or another network.
        StorageError: It cannot be fetched.
    """
    if not cfg.init_from:
        return None, ""
    folder = resolve(cfg.init_from)
    known = read_model_info(folder)
    theirs = known.model
    if known.members > 1:
        raise ConfigError(
            f"train.init_from: {cfg.init_from} is the mean of {known.members} networks",
            evidence="a training starts from one network",
            action="Name a model that was trained with train.folds=1.",
        )
    # Where its weights came from and what only trains does not make it another network.
    ours = cfg.model.model_copy(
        update={name: getattr(theirs, name) for name in ("pretrained", "pretrained_file", "dropout")}
    )
    if theirs != ours:
        differing = [
            f"{key} {value!r} there, {getattr(ours, key)!r} here"
            for key, value in dict(theirs).items()
            if value != getattr(ours, key)
        ]
        raise ConfigError(
            f"train.init_from: {cfg.init_from} is another network",
            evidence="; ".join(differing),
            action="Set train.model to the same values.",
        )
    return read_weights(folder), folder_sha256(folder)


def pretrained_sha256(cfg: TrainConfig) -> str:
    """The content of `model.pretrained_file`; empty without one."""
    file = Path(cfg.model.pretrained_file)
    if not cfg.model.pretrained_file or not file.is_file():
        return ""  # the backbone says what is wrong with a missing file
    return file_sha256(file)
