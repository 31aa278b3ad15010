"""Every setting of the project (`sections`, `training`, `network`, `measuring`), and how they are read (`loading`)."""

from sa2net.config.base import Device, Precision, Section
from sa2net.config.loading import SECTIONS, Config, as_section, key_lines
from sa2net.config.measuring import MeasureConfig
from sa2net.config.network import LossConfig, ModelConfig, PredictorConfig
from sa2net.config.sections import (
    BatchConfig,
    EvaluateConfig,
    FetchConfig,
    FloorsConfig,
    RegisterConfig,
    ValidateConfig,
)
from sa2net.config.training import AugmentConfig, StreamConfig, TrainConfig

__all__ = [
    "SECTIONS",
    "AugmentConfig",
    "BatchConfig",
    "Config",
    "Device",
    "EvaluateConfig",
    "FetchConfig",
    "FloorsConfig",
    "LossConfig",
    "MeasureConfig",
    "ModelConfig",
    "Precision",
    "PredictorConfig",
    "RegisterConfig",
    "Section",
    "StreamConfig",
    "TrainConfig",
    "ValidateConfig",
    "as_section",
    "key_lines",
]
